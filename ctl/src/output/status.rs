//! How tunnels stand, for people: the table of all, and what is the matter with some.

use jiff::Timestamp;
use tunneld_proto::message::ConfigFault;
use tunneld_proto::status::{
    ForwardKind, ForwardState, ForwardStatus, LastError, PromptKind, State, TunnelStatus,
};

use super::line::{Ink, Line};
use super::table::{self, Column};
use crate::time::{between, human};

const COLUMNS: &[Column] = &[
    Column {
        title: "NAME",
        least: 8,
        spare: 0,
    },
    Column {
        title: "STATE",
        least: 10,
        spare: 0,
    },
    Column {
        title: "HOST",
        least: 10,
        spare: 2,
    },
    Column {
        title: "FORWARDS",
        least: 10,
        spare: 3,
    },
    Column {
        title: "SINCE/NEXT",
        least: 8,
        spare: 1,
    },
];

/// The table, and below it why some tunnels are not up.
pub(crate) fn table(tunnels: &[TunnelStatus], now: Timestamp, width: Option<usize>) -> Vec<Line> {
    let rows: Vec<Vec<Line>> = tunnels.iter().map(|tunnel| row(tunnel, now)).collect();
    let mut lines = table::paint(COLUMNS, &rows, width);
    let mut troubles = tunnels.iter().flat_map(troubles).peekable();
    if troubles.peek().is_some() {
        lines.push(Line::new());
        lines.extend(troubles);
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
        Line::of(Ink::Bold, &tunnel.name),
        Line::of(ink(tunnel.state), tunnel.state.as_str()),
        Line::from(&tunnel.host),
        forwards,
        Line::from(next(tunnel, now)),
    ]
}

/// The colour of a state.
pub(crate) fn ink(state: State) -> Ink {
    match state {
        State::Up | State::Idle => Ink::Good,
        State::Connecting | State::NeedsInput | State::Degraded | State::Waiting => Ink::Warn,
        State::Failed => Ink::Bad,
        State::Stopped | State::Unknown => Ink::Dim,
    }
}

/// What a tunnel does next, or since when it stands.
pub(crate) fn next(tunnel: &TunnelStatus, now: Timestamp) -> String {
    match (tunnel.state, tunnel.retry_at, tunnel.phase, &tunnel.prompt) {
        (State::Waiting, Some(at), ..) => format!("retry in {}", human(between(now, at))),
        (State::Connecting, _, Some(phase), _) => phase.as_str().to_owned(),
        (State::NeedsInput, .., Some(prompt)) => format!("asks: {}", question(prompt.kind)),
        _ => human(between(tunnel.since, now)),
    }
}

/// What a prompt asks for.
pub(crate) fn question(kind: PromptKind) -> &'static str {
    match kind {
        PromptKind::HostKey => "host key",
        PromptKind::Passphrase => "passphrase",
        PromptKind::Password => "password",
        PromptKind::NewPassword => "new password",
        PromptKind::KeyboardInteractive => "login question",
        PromptKind::HostKeyUpdate => "further host keys",
        PromptKind::Unknown => "an answer",
    }
}

/// `L8088`, with ! behind where it is broken: loopback is not worth the room, anything else is.
fn short(forward: &ForwardStatus) -> Line {
    let listen = ["127.0.0.1:", "localhost:", "[::1]:"]
        .iter()
        .find_map(|loopback| forward.listen.strip_prefix(loopback))
        .unwrap_or(&forward.listen);
    let listen = match listen.rsplit_once('/') {
        Some((_, file)) => file,
        None => listen,
    };
    // A name right behind the letter reads as one word.
    let gap = if listen.starts_with(char::is_alphabetic) {
        " "
    } else {
        ""
    };
    let letter = format!("{}{gap}", letter(forward.kind));
    match forward.state {
        ForwardState::Failed => Line::of(Ink::Bad, format!("{letter}{listen}!")),
        ForwardState::Pending => Line::of(Ink::Dim, format!("{letter}{listen}")),
        ForwardState::Listening => Line::from(format!("{letter}{listen}")),
    }
}

/// The letter of ssh's flag.
pub(super) fn letter(kind: ForwardKind) -> char {
    match kind {
        ForwardKind::Local => 'L',
        ForwardKind::Remote => 'R',
        ForwardKind::Dynamic => 'D',
    }
}

/// Why a tunnel is not up, or some of its forwards are not.
pub(crate) fn troubles(tunnel: &TunnelStatus) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut tell = |what: &str, error: &LastError| {
        lines.push(
            Line::of(Ink::Bold, &tunnel.name)
                .and(format!("{what}: "))
                .and(&error.message),
        );
        if let Some(hint) = &error.hint {
            lines.push(Line::of(Ink::Dim, "  hint: ").and(hint));
        }
    };
    let troubled = matches!(
        tunnel.state,
        State::Waiting | State::Failed | State::Connecting
    );
    if let Some(error) = tunnel.last_error.as_ref().filter(|_| troubled) {
        tell("", error);
    }
    for forward in &tunnel.forwards {
        if let (ForwardState::Failed, Some(error)) = (forward.state, &forward.error) {
            tell(
                &format!(" {} {}", letter(forward.kind), forward.listen),
                error,
            );
        }
    }
    if let Some(prompt) = &tunnel.prompt {
        lines.push(
            Line::of(Ink::Bold, &tunnel.name)
                .and(format!(" waits for an answer: {}", question(prompt.kind))),
        );
        lines.push(Line::of(Ink::Dim, "  hint: ").and(format!("tunnelctl answer {}", tunnel.name)));
    }
    lines
}

/// A fault of the configuration, as `tunneld check` prints it.
pub(crate) fn fault(fault: &ConfigFault) -> Vec<Line> {
    fault.rendered.lines().map(Line::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::sample;
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
    fn a_forward_in_short_is_a_letter_and_what_it_listens_on() {
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
