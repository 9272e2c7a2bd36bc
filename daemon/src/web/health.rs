//! The texts of `/healthz`, `/readyz` and `/readyz/NAME`. Pure.

use tunneld_proto::status::{Desired, State, TunnelStatus};
use tunneld_proto::text::escape_line;

/// Whether a check passes, and its line of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// 200 if true, else 503.
    pub is_ready: bool,
    /// One line for a person, with its line end.
    pub text: String,
}

/// Returns whether every tunnel that is to be up works.
pub fn all(tunnels: &[TunnelStatus]) -> Health {
    let wanted = tunnels
        .iter()
        .filter(|tunnel| tunnel.desired == Desired::Up);
    let away: Vec<String> = wanted
        .filter(|tunnel| !is_ready(tunnel))
        .map(|tunnel| format!("{} {}", tunnel.name, tunnel.state.as_str()))
        .collect();
    match away.is_empty() {
        true => Health {
            is_ready: true,
            text: "ok\n".to_owned(),
        },
        false => Health {
            is_ready: false,
            text: format!("not ready: {}\n", away.join(", ")),
        },
    }
}

/// Returns whether one tunnel works. `None` if there is no such tunnel.
pub fn one(tunnels: &[TunnelStatus], name: &str) -> Option<Health> {
    let tunnel = tunnels.iter().find(|tunnel| tunnel.name == name)?;
    let reason = tunnel.last_error.as_ref().map(|error| &error.message);
    let is_ready = is_ready(tunnel);
    let mut text = tunnel.state.as_str().to_owned();
    if let (false, Some(reason)) = (is_ready, reason) {
        text = format!("{text}: {}", escape_line(reason));
    }
    Some(Health {
        is_ready,
        text: text + "\n",
    })
}

/// A degraded tunnel is not ready: a program that is started now may need the forward that fails.
fn is_ready(tunnel: &TunnelStatus) -> bool {
    matches!(tunnel.state, State::Up | State::Idle)
}
