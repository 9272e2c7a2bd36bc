//! How tunnels stand, for people: the table of all, and every detail of one.

use jiff::Timestamp;
use tunneld_proto::message::ConfigFault;
use tunneld_proto::status::{
    Desired, ForwardKind, ForwardState, ForwardStatus, LastError, PromptKind, State, TunnelStatus,
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
        PromptKind::Unknown => "an answer",
    }
}

/// `L8088`, with ! behind where it is broken: loopback is not worth the room, anything else is.
fn short(forward: &ForwardStatus) -> Line {
    let letter = letter(forward.kind);
    let listen = ["127.0.0.1:", "localhost:", "[::1]:"]
        .iter()
        .find_map(|loopback| forward.listen.strip_prefix(loopback))
        .unwrap_or(&forward.listen);
    let listen = match listen.rsplit_once('/') {
        Some((_, file)) => file,
        None => listen,
    };
    match forward.state {
        ForwardState::Failed => Line::of(Ink::Bad, format!("{letter}{listen}!")),
        ForwardState::Pending => Line::of(Ink::Dim, format!("{letter}{listen}")),
        ForwardState::Listening => Line::from(format!("{letter}{listen}")),
    }
}

fn letter(kind: ForwardKind) -> char {
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
                &format!(" {}{}", letter(forward.kind), forward.listen),
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

/// Every detail of one tunnel.
pub(crate) fn detail(tunnel: &TunnelStatus, now: Timestamp) -> Vec<Line> {
    let ago = |at: Timestamp| format!("{} ago", human(between(at, now)));
    let wanted = match tunnel.desired {
        Desired::Up => "wanted up",
        Desired::Down => "wanted down",
    };
    let mut lines = vec![
        Line::of(Ink::Bold, &tunnel.name)
            .and("  ")
            .with(ink(tunnel.state), tunnel.state.as_str())
            .and(format!("  {}", next(tunnel, now)))
            .with(Ink::Dim, format!("  ({wanted})")),
    ];
    let mut field = |name: &str, value: String| {
        if !value.is_empty() {
            lines.push(Line::of(Ink::Dim, format!("  {name:<11} ")).and(value));
        }
    };
    field("about", tunnel.description.clone().unwrap_or_default());
    field("tags", tunnel.tags.join(", "));
    field("host", tunnel.host.clone());
    field("via", tunnel.via.join(", "));
    if let Some(session) = &tunnel.session {
        field(
            "session",
            format!(
                "{}, since {}",
                session.server,
                human(between(session.since, now))
            ),
        );
        let mac = session.mac.iter().cloned();
        let crypto: Vec<String> = [session.kex.clone(), session.cipher.clone()]
            .into_iter()
            .chain(mac)
            .collect();
        field("crypto", crypto.join(", "));
        field("host key", session.host_key.clone());
        field("login", session.auth.clone());
        field(
            "round trip",
            session
                .rtt_ms
                .map(|rtt| format!("{rtt:.1} ms"))
                .unwrap_or_default(),
        );
    }
    if tunnel.attempt > 1 && tunnel.session.is_none() {
        field("attempt", tunnel.attempt.to_string());
    }
    if tunnel.reconnects > 0 {
        field("reconnects", tunnel.reconnects.to_string());
    }
    if let Some(error) = &tunnel.last_error {
        field(
            "last error",
            format!("{} ({}, {})", error.message, error.kind, ago(error.at)),
        );
        field("hint", error.hint.clone().unwrap_or_default());
    }
    if let Some(prompt) = &tunnel.prompt {
        let text = prompt.text.lines().next().unwrap_or_default();
        field(
            "asks",
            format!(
                "{} ({}): tunnelctl answer {}",
                question(prompt.kind),
                text,
                tunnel.name
            ),
        );
    }
    for note in &tunnel.notes {
        field("note", note.clone());
    }
    lines.extend(tunnel.forwards.iter().flat_map(forward));
    lines
}

/// One forward, and why it does not listen.
fn forward(forward: &ForwardStatus) -> Vec<Line> {
    let (ink, state) = match forward.state {
        ForwardState::Listening => (Ink::Good, "listening"),
        ForwardState::Pending => (Ink::Dim, "pending"),
        ForwardState::Failed => (Ink::Bad, "failed"),
    };
    let proxy = match forward.kind {
        ForwardKind::Dynamic => " (proxy)",
        ForwardKind::Remote if forward.to.is_none() => " (reverse proxy)",
        _ => "",
    };
    let to = forward
        .to
        .as_ref()
        .map_or(proxy.to_owned(), |to| format!(" → {to}"));
    let exposed = if forward.exposed {
        "  exposed to other machines"
    } else {
        ""
    };
    let held = if forward.held > 0 {
        format!(" ({} held)", forward.held)
    } else {
        String::new()
    };
    let mut lines = vec![
        Line::of(Ink::Bold, format!("  {} ", letter(forward.kind)))
            .and(format!("{}{to}  ", forward.listen))
            .with(ink, state)
            .with(Ink::Warn, exposed)
            .with(
                Ink::Dim,
                format!(
                    "  {} open{held}, {} in all, {} in, {} out",
                    forward.connections,
                    forward.total,
                    bytes(forward.bytes_in),
                    bytes(forward.bytes_out)
                ),
            ),
    ];
    if let Some(error) = &forward.error {
        lines.push(Line::from("    ").with(Ink::Bad, &error.message));
        if let Some(hint) = &error.hint {
            lines.push(Line::of(Ink::Dim, "    hint: ").and(hint));
        }
    }
    lines
}

/// A fault of the configuration, as `tunneld check` prints it.
pub(crate) fn fault(fault: &ConfigFault) -> Vec<Line> {
    fault.rendered.lines().map(Line::from).collect()
}

/// Bytes in the unit that keeps them short.
pub(crate) fn bytes(count: u64) -> String {
    let mut unit = "B";
    let mut divisor = 1_u64;
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if count / divisor < 1024 {
            break;
        }
        (unit, divisor) = (next, divisor * 1024);
    }
    if divisor == 1 {
        return format!("{count} B");
    }
    let tenths = u128::from(count) * 10 / u128::from(divisor);
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
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
                "db R0.0.0.0:9000: the server refused",
                "  hint: ask its owner",
                "mahuika: the server refused",
                "  hint: ask its owner",
            ]
        );
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

    #[test]
    fn the_detail_has_a_line_a_forward() {
        assert_eq!(
            text(&detail(&sample::busy("db"), now())),
            [
                "db  degraded  2h 13m  (wanted up)",
                "  about       the database",
                "  tags        work",
                "  host        deploy@example.org",
                "  via         jump",
                "  session     SSH-2.0-OpenSSH_9.2p1, since 2h 13m",
                "  crypto      curve25519-sha256, aes128-ctr, hmac-sha2-256",
                "  host key    ssh-ed25519 SHA256:abc",
                "  login       publickey",
                "  round trip  12.5 ms",
                "  reconnects  3",
                "  note        ~/.ssh/config is not read",
                "  L 127.0.0.1:8088 → localhost:8088  listening  2 open (1 held), 30 in all, 3.9 KiB in, 500 B out",
                "  R 0.0.0.0:9000 → localhost:8088  failed  exposed to other machines  2 open (1 held), 30 in all, 3.9 KiB in, 500 B out",
                "    the server refused",
                "    hint: ask its owner",
                "  D 127.0.0.1:8157 (proxy)  listening  2 open (1 held), 30 in all, 3.9 KiB in, 500 B out",
            ]
        );
    }

    #[test]
    fn bytes_are_short() {
        for (count, short) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (4000, "3.9 KiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(bytes(count), short);
        }
    }
}
