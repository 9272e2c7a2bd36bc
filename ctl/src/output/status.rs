//! The table of all tunnels, the words and colours of their states, and the list of problems below the table.

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

fn row(tunnel: &TunnelStatus, now: Timestamp) -> Vec<Line> {
    let forwards = tunnel.forwards.iter().enumerate();
    let forwards = forwards.fold(Line::new(), |line, (number, forward)| {
        line.and(if number == 0 { "" } else { " " })
            .join(short(forward))
    });
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

/// Returns the letter of ssh's flag for a forward.
pub(super) fn flag_letter(kind: ForwardKind) -> char {
    match kind {
        ForwardKind::Local => 'L',
        ForwardKind::Remote => 'R',
        ForwardKind::Dynamic => 'D',
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
