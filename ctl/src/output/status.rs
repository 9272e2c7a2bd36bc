//! The table of all tunnels, the words and colours of their states, and the list of problems below the table.

use std::cmp::Ordering;

use jiff::Timestamp;
use tunneld_proto::message::ConfigFault;
use tunneld_proto::status::{
    ForwardKind, ForwardState, ForwardStatus, LastError, PromptKind, State, TunnelStatus,
};

use super::line::{Line, Style};
use super::table::{self, Column};
use crate::time::{between, human};

/// NAME and STATE always stay; on a narrow terminal FORWARDS goes first, then HOST, then SINCE/NEXT.
const COLUMNS: &[Column] = &[
    Column {
        title: "NAME",
        min_width: 8,
        drop_order: 0,
    },
    Column {
        title: "STATE",
        min_width: 10,
        drop_order: 0,
    },
    Column {
        title: "HOST",
        min_width: 10,
        drop_order: 2,
    },
    Column {
        title: "FORWARDS",
        min_width: 10,
        drop_order: 3,
    },
    Column {
        title: "SINCE/NEXT",
        min_width: 8,
        drop_order: 1,
    },
];

/// Formats the table of `tunnels` and, below it, why some of them do not work. `width` is that of the terminal in
/// columns; `None` for no limit.
pub(crate) fn table(tunnels: &[TunnelStatus], now: Timestamp, width: Option<usize>) -> Vec<Line> {
    let rows: Vec<Vec<Line>> = tunnels.iter().map(|tunnel| row(tunnel, now)).collect();
    let mut lines = table::layout(COLUMNS, &rows, width);
    let mut problems = tunnels.iter().flat_map(problems).peekable();
    if problems.peek().is_some() {
        lines.push(Line::new());
        lines.extend(problems);
    }
    lines
}

/// Formats as [`table()`] does what fits on a screen of `height` lines: the tunnels that need attention first, and the number
/// of those that are left out.
pub(crate) fn screen(
    tunnels: &[TunnelStatus],
    now: Timestamp,
    width: Option<usize>,
    height: usize,
) -> Vec<Line> {
    let all = table(tunnels, now, width);
    if all.len() <= height {
        return all;
    }
    let mut sorted = tunnels.to_vec();
    // A stable sort: the order by name stays among equals.
    sorted.sort_by_key(|tunnel| matches!(tunnel.state, State::Up | State::Idle | State::Stopped));
    let problems: Vec<Line> = sorted.iter().flat_map(problems).collect();
    let room_for_problems = problems.len().min(height / 2);
    // The heading, and the line with the number of the others.
    let mut room = height.saturating_sub(2 + room_for_problems);
    if room_for_problems > 0 {
        room = room.saturating_sub(1);
    }
    let rows: Vec<Vec<Line>> = sorted
        .iter()
        .take(room)
        .map(|tunnel| row(tunnel, now))
        .collect();
    let hidden = sorted.len().saturating_sub(rows.len());
    let mut lines = table::layout(COLUMNS, &rows, width);
    lines.push(Line::of(Style::Dim, format!("and {hidden} more")));
    if room_for_problems > 0 {
        lines.push(Line::new());
        lines.extend(problems.into_iter().take(room_for_problems));
    }
    lines.truncate(height);
    lines
}

/// Compares names so that numbers in them count as numbers: pg2 before pg10.
pub(crate) fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        let (one, two) = (number_prefix(left), number_prefix(right));
        match (one, two) {
            (Some((x, rest_left)), Some((y, rest_right))) => {
                if x != y {
                    return x.cmp(&y);
                }
                (left, right) = (rest_left, rest_right);
            }
            _ => {
                let (mut c, mut d) = (left.chars(), right.chars());
                match (c.next(), d.next()) {
                    (Some(x), Some(y)) if x == y => (left, right) = (c.as_str(), d.as_str()),
                    // Names that differ only in leading zeros.
                    (None, None) => return a.cmp(b),
                    (x, y) => return x.cmp(&y),
                }
            }
        }
    }
}

/// Returns the number at the start of the text, and the rest; `None` without one, or if it exceeds 64 bits.
fn number_prefix(text: &str) -> Option<(u64, &str)> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = text.strip_suffix(rest)?;
    Some((digits.parse().ok()?, rest))
}

/// Forwards that a row of the table shows; of more it shows how many.
const MAX_FORWARDS: usize = 6;

fn row(tunnel: &TunnelStatus, now: Timestamp) -> Vec<Line> {
    let mut shown: Vec<&ForwardStatus> = tunnel.forwards.iter().collect();
    if shown.len() > MAX_FORWARDS {
        // Those that do not work must not be among the hidden ones.
        shown.sort_by_key(|forward| forward.state != ForwardState::Failed);
    }
    let hidden = shown.len().saturating_sub(MAX_FORWARDS);
    let forwards = shown.iter().take(MAX_FORWARDS).enumerate();
    let mut forwards = forwards.fold(Line::new(), |line, (number, forward)| {
        line.and(if number == 0 { "" } else { " " })
            .join(short(forward))
    });
    if hidden > 0 {
        forwards = forwards.with(Style::Dim, format!(" +{hidden}"));
    }
    vec![
        Line::of(Style::Bold, &tunnel.name),
        Line::of(style_of(tunnel.state), tunnel.state.as_str()),
        Line::from(&tunnel.host),
        forwards,
        Line::from(next(tunnel, now)),
    ]
}

/// Returns the style in which a state is shown.
pub(crate) fn style_of(state: State) -> Style {
    match state {
        State::Up | State::Idle => Style::Good,
        State::Connecting | State::NeedsInput | State::Degraded | State::Waiting => Style::Warn,
        State::Failed => Style::Bad,
        State::Stopped | State::Unknown => Style::Dim,
    }
}

/// Returns what happens next with a tunnel (the retry, the phase, the awaited answer), else the age of its state.
pub(crate) fn next(tunnel: &TunnelStatus, now: Timestamp) -> String {
    match (tunnel.state, tunnel.retry_at, tunnel.phase, &tunnel.prompt) {
        (State::Waiting, Some(at), ..) => format!("retry in {}", human(between(now, at))),
        (State::Connecting, _, Some(phase), _) => phase.as_str().to_owned(),
        (State::NeedsInput, .., Some(prompt)) => waiting_for(prompt.kind).to_owned(),
        _ => human(between(tunnel.since, now)),
    }
}

/// Says for which answer a tunnel is waiting; fits after "NAME is".
pub(crate) fn waiting_for(kind: PromptKind) -> &'static str {
    match kind {
        PromptKind::HostKey => "waiting for you to confirm the host key",
        PromptKind::Passphrase => "waiting for your key passphrase",
        PromptKind::Password => "waiting for your password",
        PromptKind::NewPassword => "waiting for a new password",
        PromptKind::KeyboardInteractive => "waiting for your password or code",
        PromptKind::HostKeyUpdate => "waiting for you to confirm new host keys",
        PromptKind::Unknown => "waiting for your answer",
    }
}

/// Says which answer is needed; fits before "but there is no terminal".
pub(crate) fn needed(kind: PromptKind) -> &'static str {
    match kind {
        PromptKind::HostKey => "the unknown host key must be confirmed",
        PromptKind::Passphrase => "the key passphrase is needed",
        PromptKind::Password => "the password is needed",
        PromptKind::NewPassword => "a new password is needed",
        PromptKind::KeyboardInteractive => "a password or code is needed",
        PromptKind::HostKeyUpdate => "new host keys must be confirmed",
        PromptKind::Unknown => "an answer is needed",
    }
}

/// Formats a forward for the table: `L8088`, and `L8088!` if it or one of its addresses has failed. A loopback address is left out to save
/// space; any other is shown because it is the exception.
fn short(forward: &ForwardStatus) -> Line {
    let listen = ["127.0.0.1:", "localhost:", "[::1]:"]
        .iter()
        .find_map(|loopback| forward.listen.strip_prefix(loopback))
        .unwrap_or(&forward.listen);
    let listen = match listen.rsplit_once('/') {
        Some((_, file)) => file,
        None => listen,
    };
    // "Lbox" would read as one word.
    let gap = if listen.starts_with(char::is_alphabetic) {
        " "
    } else {
        ""
    };
    let letter = format!("{}{gap}", flag_letter(forward.kind));
    match forward.state {
        ForwardState::Failed => Line::of(Style::Bad, format!("{letter}{listen}!")),
        ForwardState::Pending => Line::of(Style::Dim, format!("{letter}{listen}")),
        ForwardState::Listening if forward.error.is_some() => {
            Line::of(Style::Bad, format!("{letter}{listen}!"))
        }
        ForwardState::Listening => Line::from(format!("{letter}{listen}")),
    }
}

/// Returns the letter of ssh's flag for a forward. ssh has no DNS listener; `N` is for name server.
pub(super) fn flag_letter(kind: ForwardKind) -> char {
    match kind {
        ForwardKind::Local => 'L',
        ForwardKind::Remote => 'R',
        ForwardKind::Dynamic => 'D',
        ForwardKind::Dns => 'N',
        ForwardKind::Unknown => '?',
    }
}

/// Formats why a tunnel or some of its forwards do not work, with hints; empty if nothing is wrong.
pub(crate) fn problems(tunnel: &TunnelStatus) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut push = |what: &str, error: &LastError| {
        lines.push(
            Line::of(Style::Bold, &tunnel.name)
                .and(format!("{what}: "))
                .and(&error.message),
        );
        if let Some(hint) = &error.hint {
            lines.push(Line::of(Style::Dim, "  hint: ").and(hint));
        }
    };
    // In other states the last error is history.
    let is_down = matches!(
        tunnel.state,
        State::Waiting | State::Failed | State::Connecting
    );
    if let Some(error) = tunnel.last_error.as_ref().filter(|_| is_down) {
        push("", error);
    }
    for forward in &tunnel.forwards {
        // A listening forward has an error too if one of its addresses is not bound.
        if let Some(error) = &forward.error {
            push(
                &format!(" {} {}", flag_letter(forward.kind), forward.listen),
                error,
            );
        }
    }
    if let Some(prompt) = &tunnel.prompt {
        lines.push(
            Line::of(Style::Bold, &tunnel.name).and(format!(" is {}", waiting_for(prompt.kind))),
        );
        lines.push(
            Line::of(Style::Dim, "  hint: ").and(format!("tunnelctl answer {}", tunnel.name)),
        );
    }
    lines
}

/// Formats an error of the configuration as `tunneld check` prints it.
pub(crate) fn config_error(error: &ConfigFault) -> Vec<Line> {
    error.rendered.lines().map(Line::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::sample;
    use jiff::SignedDuration;
    use tunneld_proto::status::Phase;

    fn text(lines: &[Line]) -> Vec<String> {
        lines.iter().map(|line| line.paint(false)).collect()
    }

    fn now() -> Timestamp {
        sample::SINCE + SignedDuration::from_secs(7980)
    }

    fn tunnels() -> Vec<TunnelStatus> {
        vec![
            sample::busy("db"),
            TunnelStatus {
                phase: Some(Phase::Kex),
                ..sample::tunnel("web", State::Connecting)
            },
            TunnelStatus {
                retry_at: Some(now() + SignedDuration::from_secs(12)),
                last_error: Some(sample::error("auth_refused", now())),
                ..sample::tunnel("mahuika", State::Waiting)
            },
        ]
    }

    #[test]
    fn a_full_screen_keeps_the_trouble_and_counts_the_rest() {
        let mut many: Vec<TunnelStatus> = (1..=30)
            .map(|number| sample::tunnel(&format!("pg{number}"), State::Up))
            .collect();
        many.extend(tunnels());
        many.sort_by(|a, b| natural_order(&a.name, &b.name));
        let lines = text(&screen(&many, now(), Some(80), 12));
        assert_eq!(lines.len(), 12, "{lines:#?}");
        let names: Vec<_> = lines
            .iter()
            .map(|line| line.split(' ').next().unwrap_or_default())
            .collect();
        assert_eq!(
            names[1..6],
            ["db", "mahuika", "web", "pg1", "pg2"],
            "{lines:#?}"
        );
        assert!(lines.contains(&"and 28 more".to_owned()), "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains("the server refused")));
        for height in 0..40 {
            assert!(screen(&many, now(), Some(80), height).len() <= height.max(1) || height == 0);
        }
    }

    #[test]
    fn numbers_in_names_are_compared_as_numbers() {
        let mut names = [
            "pg10",
            "pg2",
            "pg1",
            "a",
            "pg1b",
            "pg01",
            "z9999999999999999999999",
        ];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(
            names,
            [
                "a",
                "pg01",
                "pg1",
                "pg1b",
                "pg2",
                "pg10",
                "z9999999999999999999999"
            ]
        );
    }

    #[test]
    fn many_forwards_are_counted_and_failed_ones_shown() {
        let mut tunnel = sample::busy("db");
        let failed = tunnel
            .forwards
            .iter()
            .find(|forward| forward.state == ForwardState::Failed)
            .cloned()
            .unwrap();
        let fine = ForwardStatus {
            state: ForwardState::Listening,
            error: None,
            ..failed.clone()
        };
        tunnel.forwards = vec![fine; 25];
        tunnel.forwards.push(failed);
        let line = text(&table(&[tunnel], now(), None))[1].clone();
        assert!(line.contains("9000! ") && line.contains(" +20"), "{line}");
    }

    #[test]
    fn the_table_at_eighty_columns() {
        assert_eq!(
            text(&table(&tunnels(), now(), Some(80))),
            [
                "NAME     STATE       HOST                FORWARDS                   SINCE/NEXT",
                "db       degraded    deploy@example.org  L8088 R0.0.0.0:9000! D81…  2h 13m",
                "web      connecting  deploy@example.org                             kex",
                "mahuika  waiting     deploy@example.org                             retry in 12s",
                "",
                "db R 0.0.0.0:9000: the server refused",
                "  hint: ask its owner",
                "mahuika: the server refused",
                "  hint: ask its owner",
            ]
        );
    }

    #[test]
    fn a_short_forward_is_a_letter_and_its_address() {
        let forward = sample::busy("db").forwards.remove(0);
        for (listen, text) in [
            ("127.0.0.1:8088", "L8088"),
            ("localhost:8088", "L8088"),
            ("[::]:8088", "L[::]:8088"),
            ("box.example:8088", "L box.example:8088"),
            ("/run/user/1/db.sock", "L db.sock"),
        ] {
            let forward = ForwardStatus {
                listen: listen.into(),
                ..forward.clone()
            };
            assert_eq!(short(&forward).paint(false), text);
        }
    }

    #[test]
    fn the_table_at_twenty_columns_is_names_and_states() {
        let lines = text(&table(&tunnels(), now(), Some(20)));
        assert_eq!(
            lines[..4],
            [
                "NAME     STATE",
                "db       degraded",
                "web      connecting",
                "mahuika  waiting"
            ]
        );
    }
}
