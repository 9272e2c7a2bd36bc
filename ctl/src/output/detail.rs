//! Every detail of one tunnel, for people.

use jiff::Timestamp;
use tunneld_proto::status::{Desired, ForwardKind, ForwardState, ForwardStatus, TunnelStatus};

use super::line::{Ink, Line};
use super::status::{ink, letter, next, question};
use crate::time::{between, human};

/// The lines about `tunnel`.
pub(crate) fn lines(tunnel: &TunnelStatus, now: Timestamp) -> Vec<Line> {
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
        if session.offences > 0 {
            field(
                "offences",
                format!(
                    "{}: the server tried what nobody asked it for, and was refused",
                    session.offences
                ),
            );
        }
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

/// Bytes in the unit that keeps them short.
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
    use crate::output::sample;
    use jiff::SignedDuration;

    fn text(lines: &[Line]) -> Vec<String> {
        lines.iter().map(|line| line.paint(false)).collect()
    }

    fn now() -> Timestamp {
        sample::SINCE + SignedDuration::from_secs(7980)
    }

    #[test]
    fn the_detail_has_a_line_a_forward() {
        assert_eq!(
            text(&lines(&sample::busy("db"), now())),
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
