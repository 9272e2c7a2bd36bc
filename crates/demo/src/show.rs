//! Text output of the demo on standard output.

use std::fmt::Write as _;
use std::io::Write as _;

use tunneld_proto::status::{State, TunnelStatus};

/// Prints one paragraph. Errors are ignored: a closed standard output must not end the demo.
pub(crate) fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{text}");
    let _ = stdout.flush();
}

/// Indents each line by two columns.
pub(crate) fn indented(text: &str) -> String {
    text.lines()
        .fold(String::new(), |all, line| all + "  " + line + "\n")
}

/// Describes the state of a tunnel, such as `connecting (kex)` or `waiting: the server closed the connection`.
pub(crate) fn state(tunnel: &TunnelStatus) -> String {
    let mut state = tunnel.state.as_str().to_owned();
    if let Some(phase) = tunnel.phase {
        let _ = write!(state, " ({})", phase.as_str());
    }
    if let (Some(error), State::Waiting | State::Failed) = (&tunnel.last_error, tunnel.state) {
        let _ = write!(state, ": {}", error.message);
    }
    state
}

/// Describes why the session was lost between two statuses. `None` if it was not lost.
pub(crate) fn loss(before: &TunnelStatus, now: &TunnelStatus) -> Option<String> {
    let lost = before.session.is_some() && now.session.is_none();
    let error = now.last_error.as_ref().filter(|_| lost)?;
    Some(format!("lost: {}", error.message))
}

/// Returns a table with one line per forward.
pub(crate) fn table(tunnel: &TunnelStatus) -> String {
    let head = ["TUNNEL", "STATE", "KIND", "LISTENS ON", "TARGET", "FORWARD"];
    let mut rows = vec![head.map(str::to_owned)];
    for forward in &tunnel.forwards {
        rows.push([
            tunnel.name.clone(),
            tunnel.state.as_str().to_owned(),
            forward.kind.as_str().to_owned(),
            forward.listen.clone(),
            forward
                .to
                .clone()
                .unwrap_or_else(|| "anywhere (SOCKS)".to_owned()),
            forward.state.as_str().to_owned(),
        ]);
    }
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::from(" ");
        for (width, cell) in widths.iter().zip(row) {
            let _ = write!(line, " {cell:<width$} ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
