//! Lays out a table: each column is as wide as its widest cell; on a narrow terminal columns are narrowed, then dropped.

use super::line::{Line, Style};

const GAP: usize = 2;

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    /// Width in terminal columns below which it is of no use.
    pub(crate) min_width: usize,
    /// Order in which columns are dropped, the highest first; 0 is never dropped.
    pub(crate) drop_order: u8,
}

/// Returns the heading and the rows as lines of at most `width` terminal columns; `None` for no limit.
pub(crate) fn layout(columns: &[Column], rows: &[Vec<Line>], width: Option<usize>) -> Vec<Line> {
    let natural_width = |at: usize, column: &Column| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(Line::width);
        cells.chain([column.title.len()]).max().unwrap_or(0)
    };
    let natural: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| natural_width(at, column))
        .collect();
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    // Each round drops one column, until the rest fits at its minimum widths or only fixed columns are left.
    let widths = loop {
        let mut widths: Vec<(usize, usize)> = shown
            .iter()
            .filter_map(|at| Some((*at, *natural.get(*at)?)))
            .collect();
        let Some(width) = width else { break widths };
        if narrow(columns, &mut widths, width) {
            break widths;
        }
        let drop_order = |at: &usize| columns.get(*at).map_or(0, |column| column.drop_order);
        match shown
            .iter()
            .copied()
            .max_by_key(drop_order)
            .filter(|at| drop_order(at) > 0)
        {
            Some(most) => shown.retain(|at| *at != most),
            None => {
                truncate(&mut widths, width);
                break widths;
            }
        }
    };
    let heading: Vec<Line> = columns
        .iter()
        .map(|column| Line::of(Style::Dim, column.title))
        .collect();
    std::iter::once(&heading)
        .chain(rows)
        .map(|row| layout_row(row, &widths))
        .collect()
}

fn layout_row(row: &[Line], widths: &[(usize, usize)]) -> Line {
    let mut line = Line::new();
    for (number, (at, width)) in widths.iter().enumerate() {
        let cell = row.get(*at).cloned().unwrap_or_default().cut(*width);
        // The last column needs no padding.
        let cell = if number + 1 == widths.len() {
            cell
        } else {
            cell.pad(width + GAP)
        };
        line = line.join(cell);
    }
    line
}

/// Narrows columns, the widest first, and those that are dropped before any other first; none below its minimum; returns whether the table now fits.
fn narrow(columns: &[Column], widths: &mut [(usize, usize)], width: usize) -> bool {
    let min_width = |at: usize| columns.get(at).map_or(0, |column| column.min_width);
    let gaps = GAP * widths.len().saturating_sub(1);
    while widths.iter().map(|(_, wide)| wide).sum::<usize>() + gaps > width {
        // Columns that would be dropped early first: names often differ only in their last letters.
        let is_minor = |at: usize| columns.get(at).is_some_and(|column| column.drop_order > 1);
        let widest = widths
            .iter_mut()
            .filter(|(at, wide)| *wide > min_width(*at))
            .max_by_key(|(at, wide)| (is_minor(*at), *wide));
        match widest {
            Some((_, wide)) => *wide -= 1,
            None => return false,
        }
    }
    true
}

/// Cuts columns that cannot be dropped, from the right.
fn truncate(widths: &mut Vec<(usize, usize)>, width: usize) {
    let mut left = width;
    for (_, wide) in widths.iter_mut() {
        *wide = (*wide).min(left);
        left = left.saturating_sub(*wide + GAP);
    }
    widths.retain(|(_, wide)| *wide > 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[
        Column {
            title: "NAME",
            min_width: 8,
            drop_order: 0,
        },
        Column {
            title: "STATE",
            min_width: 5,
            drop_order: 0,
        },
        Column {
            title: "HOST",
            min_width: 8,
            drop_order: 2,
        },
        Column {
            title: "NEXT",
            min_width: 4,
            drop_order: 1,
        },
    ];

    fn table(width: Option<usize>) -> Vec<String> {
        let rows = [
            vec![
                "db".into(),
                Line::of(Style::Good, "up"),
                "someone@a.long.host.example.org:22".into(),
                "2h 13m".into(),
            ],
            vec![
                "a-rather-long-name".into(),
                "waiting".into(),
                "h".into(),
                "retry in 12s".into(),
            ],
        ];
        let lines = layout(COLUMNS, &rows, width);
        if let Some(width) = width {
            assert!(lines.iter().all(|line| line.width() <= width), "{lines:?}");
        }
        lines.iter().map(|line| line.paint(false)).collect()
    }

    #[test]
    fn without_a_limit_nothing_is_cut() {
        assert_eq!(
            table(None),
            [
                "NAME                STATE    HOST                                NEXT",
                "db                  up       someone@a.long.host.example.org:22  2h 13m",
                "a-rather-long-name  waiting  h                                   retry in 12s",
            ]
        );
    }

    #[test]
    fn at_fifty_columns_the_names_are_narrowed_last() {
        assert_eq!(
            table(Some(50)),
            [
                "NAME               STATE    HOST      NEXT",
                "db                 up       someone…  2h 13m",
                "a-rather-long-na…  waiting  h         retry in 12s",
            ]
        );
    }

    #[test]
    fn at_twenty_columns_only_the_fixed_columns_stay() {
        assert_eq!(
            table(Some(20)),
            [
                "NAME         STATE",
                "db           up",
                "a-rather-l…  waiting"
            ]
        );
    }

    #[test]
    fn no_width_is_too_small() {
        for width in 0..20 {
            table(Some(width));
        }
    }
}
