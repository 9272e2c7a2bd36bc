//! All details of one tunnel, for `tunnelctl status NAME`.

use jiff::Timestamp;
use tunneld_proto::status::{
    Desired, ForwardKind, ForwardState, ForwardStatus, LastError, Prompt, Refusal, SessionStatus,
    TunnelStatus,
};

use super::line::{Line, Style};
use super::status::{flag_letter, next, style_of, waiting_for};
use crate::time::{between, human};

/// Formats all details of `tunnel`: one line per property, then the forwards.
pub(crate) fn lines(tunnel: &TunnelStatus, now: Timestamp) -> Vec<Line> {
    let mut properties = Properties(vec![title(tunnel, now)]);
    properties.push("about", tunnel.description.clone().unwrap_or_default());
    properties.push("tags", tunnel.tags.join(", "));
    properties.push("host", &tunnel.host);
    properties.push("via", tunnel.via.join(", "));
    if let Some(session) = &tunnel.session {
        push_session(&mut properties, session, now);
    }
    if tunnel.attempt > 1 && tunnel.session.is_none() {
        properties.push("attempt", tunnel.attempt.to_string());
    }
    if tunnel.reconnects > 0 {
        properties.push("reconnects", tunnel.reconnects.to_string());
    }
    if let Some(error) = &tunnel.last_error {
        push_error(&mut properties, error, now);
    }
    if let Some(prompt) = &tunnel.prompt {
        push_prompt(&mut properties, prompt, &tunnel.name);
    }
    for note in &tunnel.notes {
        properties.push("note", note);
    }
    let mut lines = properties.0;
    lines.extend(
        tunnel
            .forwards
            .iter()
            .flat_map(|forward| forward_lines(forward, now)),
    );
    lines
}

fn title(tunnel: &TunnelStatus, now: Timestamp) -> Line {
    let desired = match tunnel.desired {
        Desired::Up => "  (should be up)",
        Desired::Down => "  (should be down)",
    };
    Line::of(Style::Bold, &tunnel.name)
        .and("  ")
        .with(style_of(tunnel.state), tunnel.state.as_str())
        .and(format!("  {}", next(tunnel, now)))
        .with(Style::Dim, desired)
}

/// Lines of a name and a value in two columns.
struct Properties(Vec<Line>);

impl Properties {
    /// Adds a line, unless `value` is empty.
    fn push(&mut self, name: &str, value: impl AsRef<str>) {
        if !value.as_ref().is_empty() {
            self.0
                .push(Line::of(Style::Dim, format!("  {name:<11} ")).and(value));
        }
    }
}

fn push_session(properties: &mut Properties, session: &SessionStatus, now: Timestamp) {
    let age = human(between(session.since, now));
    properties.push("session", format!("{}, since {age}", session.server));
    let mut crypto = vec![session.kex.as_str(), session.cipher.as_str()];
    crypto.extend(session.mac.as_deref());
    properties.push("crypto", crypto.join(", "));
    properties.push("host key", &session.host_key);
    properties.push("login", &session.auth);
    if let Some(rtt) = session.rtt_ms {
        properties.push("round trip", format!("{rtt:.1} ms"));
    }
    if session.offences > 0 {
        properties.push(
            "violations",
            format!(
                "{}: the server sent requests that SSH does not allow; they were refused",
                session.offences
            ),
        );
    }
}

fn push_error(properties: &mut Properties, error: &LastError, now: Timestamp) {
    let age = human(between(error.at, now));
    properties.push(
        "last error",
        format!("{} ({}, {age} ago)", error.message, error.kind),
    );
    properties.push("hint", error.hint.as_deref().unwrap_or_default());
}

fn push_prompt(properties: &mut Properties, prompt: &Prompt, tunnel: &str) {
    // The whole text may fill a screen; `tunnelctl answer` shows it.
    let text = prompt.text.lines().next().unwrap_or_default();
    let waiting = waiting_for(prompt.kind);
    properties.push(
        "prompt",
        format!("{waiting} ({text}): tunnelctl answer {tunnel}"),
    );
}

/// Formats one forward, with its error, its last refusal and hints below.
fn forward_lines(forward: &ForwardStatus, now: Timestamp) -> Vec<Line> {
    let (style, state) = match forward.state {
        ForwardState::Listening => (Style::Good, "listening"),
        ForwardState::Pending => (Style::Dim, "pending"),
        ForwardState::Failed => (Style::Bad, "failed"),
    };
    let exposed = match forward.kind {
        _ if !forward.exposed => "",
        ForwardKind::Remote => "  asked for other machines too; the server decides (GatewayPorts)",
        ForwardKind::Local | ForwardKind::Dynamic | ForwardKind::Dns | ForwardKind::Unknown => {
            "  exposed to other machines"
        }
    };
    let mut lines = vec![
        Line::of(Style::Bold, format!("  {} ", flag_letter(forward.kind)))
            .and(format!("{}{}  ", forward.listen, target(forward)))
            .with(style, state)
            .with(Style::Warn, exposed)
            .with(Style::Dim, format!("  {}", counters(forward))),
    ];
    if let Some(error) = &forward.error {
        lines.push(Line::from("    ").with(Style::Bad, &error.message));
        if let Some(hint) = &error.hint {
            lines.push(Line::of(Style::Dim, "    hint: ").and(hint));
        }
    }
    if let Some(refused) = &forward.refused {
        lines.extend(refusal(forward, refused, now));
    }
    lines
}

/// Formats the last refusal of a forward, with a hint if every connection was prohibited.
fn refusal(forward: &ForwardStatus, refused: &Refusal, now: Timestamp) -> Vec<Line> {
    let ago = human(between(refused.at, now));
    let code = match refused.code {
        Some(code) => format!(" (code {code}{})", reason(code)),
        None => String::new(),
    };
    // Connections that are open now may be waiting for the server's answer.
    let all = refused.count.saturating_add(forward.connections) >= forward.total;
    let how_many = match refused.count {
        count if all => format!("all {count}"),
        count => count.to_string(),
    };
    let text = format!(
        "refused connections: {how_many}, the last {ago} ago: {}{code}",
        refused.message
    );
    let mut lines = vec![Line::from("    ").with(Style::Warn, text)];
    if all && refused.code == Some(PROHIBITED) {
        lines.push(Line::of(Style::Dim, "    hint: ").and(
            "the server forbids this forward: see its AllowTcpForwarding, AllowStreamLocalForwarding and PermitOpen, \
             and the options of the key in authorized_keys",
        ));
    }
    lines
}

/// SSH_OPEN_ADMINISTRATIVELY_PROHIBITED (RFC 4254 §5.1).
const PROHIBITED: u32 = 1;

/// Returns what a reason code means, to follow the number (RFC 4254 §5.1).
fn reason(code: u32) -> &'static str {
    match code {
        PROHIBITED => ", prohibited",
        2 => ", connect failed",
        3 => ", unknown channel type",
        4 => ", resource shortage",
        _ => "",
    }
}

fn target(forward: &ForwardStatus) -> String {
    match (&forward.to, forward.kind) {
        (Some(to), _) => format!(" → {to}"),
        (None, ForwardKind::Dynamic) => " (proxy)".to_owned(),
        (None, ForwardKind::Remote) => " (reverse proxy)".to_owned(),
        (None, ForwardKind::Local | ForwardKind::Dns | ForwardKind::Unknown) => String::new(),
    }
}

fn counters(forward: &ForwardStatus) -> String {
    let held = if forward.held > 0 {
        format!(" ({} held)", forward.held)
    } else {
        String::new()
    };
    format!(
        "{} open{held}, {} in total, {} in, {} out",
        forward.connections,
        forward.total,
        bytes(forward.bytes_in),
        bytes(forward.bytes_out)
    )
}

/// Formats a number of bytes in the largest binary unit of which it has at least one, truncated to a tenth.
fn bytes(count: u64) -> String {
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
    use crate::tests::sample;
    use jiff::SignedDuration;

    fn text(lines: &[Line]) -> Vec<String> {
        lines.iter().map(|line| line.paint(false)).collect()
    }

    fn now() -> Timestamp {
        sample::SINCE + SignedDuration::from_secs(7980)
    }

    #[test]
    fn the_detail_has_one_line_per_forward() {
        assert_eq!(
            text(&lines(&sample::busy("db"), now())),
            [
                "db  degraded  2h 13m  (should be up)",
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
                "  L 127.0.0.1:8088 → localhost:8088  listening  2 open (1 held), 30 in total, 3.9 KiB in, 500 B out",
                "  R 0.0.0.0:9000 → localhost:8088  failed  asked for other machines too; the server decides (GatewayPorts)  2 open (1 held), 30 in total, 3.9 KiB in, 500 B out",
                "    the server refused",
                "    hint: ask its owner",
                "  D 127.0.0.1:8157 (proxy)  listening  2 open (1 held), 30 in total, 3.9 KiB in, 500 B out",
            ]
        );
    }

    #[test]
    fn the_last_refusal_of_a_forward_is_shown() {
        let mut forward = sample::busy("db").forwards.remove(0);
        forward.refused = Some(Refusal {
            code: Some(1),
            message: "open failed".into(),
            at: sample::SINCE,
            count: 7,
        });
        let some = text(&forward_lines(&forward, now()));
        assert_eq!(
            some.get(1..).unwrap(),
            ["    refused connections: 7, the last 2h 13m ago: open failed (code 1, prohibited)"]
        );
        forward.total = 9;
        let all = text(&forward_lines(&forward, now()));
        assert!(all[1].contains("all 7"), "{all:?}");
        assert!(all[2].contains("AllowTcpForwarding"), "{all:?}");
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
