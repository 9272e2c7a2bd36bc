//! Columns: as wide as their widest cell, cut where the terminal is narrow.

use super::line::{Ink, Line};

const GAP: usize = 2;

/// A column: its heading, how narrow it may become, and how soon it is left out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    /// The heading.
    pub(crate) title: &'static str,
    /// The least columns it is of use in.
    pub(crate) least: usize,
    /// The higher, the sooner it goes; 0 stays.
    pub(crate) spare: u8,
}

/// The lines of a table within `width` columns, or as wide as it wants.
pub(crate) fn paint(columns: &[Column], rows: &[Vec<Line>], width: Option<usize>) -> Vec<Line> {
    let wanted = |at: usize, column: &Column| {
        let cells = rows.iter().filter_map(|row| row.get(at)).map(Line::width);
        cells.chain([column.title.len()]).max().unwrap_or(0)
    };
    let wanted: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| wanted(at, column))
        .collect();
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    let widths = loop {
        let mut widths: Vec<(usize, usize)> = shown
            .iter()
            .filter_map(|at| Some((*at, *wanted.get(*at)?)))
            .collect();
        let Some(width) = width else { break widths };
        if narrow(columns, &mut widths, width) {
            break widths;
        }
        let spare = |at: &usize| columns.get(*at).map_or(0, |column| column.spare);
        match shown
            .iter()
            .copied()
            .max_by_key(spare)
            .filter(|at| spare(at) > 0)
        {
            Some(most) => shown.retain(|at| *at != most),
            None => {
                cut(&mut widths, width);
                break widths;
            }
        }
    };
    let heading: Vec<Line> = columns
        .iter()
        .map(|column| Line::of(Ink::Dim, column.title))
        .collect();
    std::iter::once(&heading)
        .chain(rows)
        .map(|row| paint_row(row, &widths))
        .collect()
}

fn paint_row(row: &[Line], widths: &[(usize, usize)]) -> Line {
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

/// Narrows the widest columns first, down to what they are of use in; whether that was enough.
fn narrow(columns: &[Column], widths: &mut [(usize, usize)], width: usize) -> bool {
    let least = |at: usize| columns.get(at).map_or(0, |column| column.least);
    let gaps = GAP * widths.len().saturating_sub(1);
    while widths.iter().map(|(_, wide)| wide).sum::<usize>() + gaps > width {
        let widest = widths
            .iter_mut()
            .filter(|(at, wide)| *wide > least(*at))
            .max_by_key(|(_, wide)| *wide);
        match widest {
            Some((_, wide)) => *wide -= 1,
            None => return false,
        }
    }
    true
}

/// What must stay is cut from the right.
fn cut(widths: &mut Vec<(usize, usize)>, width: usize) {
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
            least: 8,
            spare: 0,
        },
        Column {
            title: "STATE",
            least: 5,
            spare: 0,
        },
        Column {
            title: "HOST",
            least: 8,
            spare: 2,
        },
        Column {
            title: "NEXT",
            least: 4,
            spare: 1,
        },
    ];

    fn table(width: Option<usize>) -> Vec<String> {
        let rows = [
            vec![
                "db".into(),
                Line::of(Ink::Good, "up"),
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
        let lines = paint(COLUMNS, &rows, width);
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
    fn at_fifty_columns_the_widest_give() {
        assert_eq!(
            table(Some(50)),
            [
                "NAME           STATE    HOST          NEXT",
                "db             up       someone@a.l…  2h 13m",
                "a-rather-lon…  waiting  h             retry in 12s",
            ]
        );
    }

    #[test]
    fn at_twenty_columns_only_what_must_stay_stays() {
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
