//! A tunnel's status, computed from facts. Pure: both clocks are given.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tunneld_proto::status::{
    Desired, ForwardState, ForwardStatus, LastError, Phase, Prompt, SessionStatus, State,
    TunnelStatus,
};

use super::machine;
use crate::failure::Failure;
use tunneld_config::addr::HostPort;
use tunneld_config::model::{Route, Tunnel, Via};

/// What a tunnel's task knows.
#[derive(Debug, Clone)]
pub struct TunnelSnapshot {
    /// The configuration.
    pub spec: Arc<Tunnel>,
    /// The machine's state.
    pub state: machine::State,
    /// The host that the live session has reached.
    pub reached: Option<String>,
    /// Since when.
    pub since: Timestamp,
    /// What the user wants.
    pub desired: Desired,
    /// The last failure and its time; none once the tunnel is up again.
    pub last_error: Option<(Failure, Timestamp)>,
    /// The prompt that waits.
    pub prompt: Option<Prompt>,
    /// The live session, but for what is read of it when someone looks.
    pub session: Option<SessionStatus>,
    /// Sessions that followed a lost one.
    pub reconnects: u64,
}

/// The status that `facts` and the forwards amount to, at `now` on both clocks.
pub fn status(
    facts: &TunnelSnapshot,
    forwards: Vec<ForwardStatus>,
    now: (Timestamp, Instant),
) -> TunnelStatus {
    let failing = forwards
        .iter()
        .any(|forward| forward.state == ForwardState::Failed);
    let (state, phase, attempt, retry_at) = match &facts.state {
        machine::State::Stopped
        | machine::State::Closing {
            then: machine::AfterClose::Stop,
            ..
        } => (State::Stopped, None, 0, None),
        machine::State::Closing { .. } => (State::Connecting, None, 1, None),
        machine::State::Connecting { tries, phase, .. } => (
            State::Connecting,
            Some(*phase),
            tries.failures.saturating_add(1),
            None,
        ),
        machine::State::NeedsInput { tries, phase, .. } => (
            State::NeedsInput,
            Some(*phase),
            tries.failures.saturating_add(1),
            None,
        ),
        machine::State::Up { tries, .. } => {
            let state = if failing { State::Degraded } else { State::Up };
            (state, None, tries.failures.saturating_add(1), None)
        }
        machine::State::Waiting { tries, until, .. } => (
            State::Waiting,
            None,
            tries.failures,
            Some(wall(*until, now)),
        ),
        machine::State::AwaitingAnswer { tries, .. } => (
            State::NeedsInput,
            Some(Phase::Auth),
            tries.failures.saturating_add(1),
            None,
        ),
        machine::State::Failed { .. } => (State::Failed, None, 0, None),
    };
    TunnelStatus {
        name: facts.spec.name.clone(),
        state,
        phase,
        since: facts.since,
        host: match &facts.reached {
            Some(host) => destination_at(&facts.spec.route, host),
            None => destination(&facts.spec.route),
        },
        via: via(&facts.spec.route),
        tags: facts.spec.tags.clone(),
        description: facts.spec.description.clone(),
        desired: facts.desired,
        attempt,
        retry_at,
        last_error: facts
            .last_error
            .as_ref()
            .map(|(failure, at)| last_error(failure, *at)),
        prompt: facts.prompt.clone(),
        session: facts.session.clone(),
        reconnects: facts.reconnects,
        forwards,
        notes: facts.spec.status_notes(),
    }
}

/// A failure as the wire tells it.
pub fn last_error(failure: &Failure, at: Timestamp) -> LastError {
    LastError {
        kind: failure.kind.as_str().to_owned(),
        message: failure.message.clone(),
        hint: failure.hint.clone(),
        at,
    }
}

/// `user@host:port`.
pub fn destination(route: &Route) -> String {
    destination_at(route, &route.host)
}

fn destination_at(route: &Route, host: &str) -> String {
    let place = HostPort {
        host: host.to_owned(),
        port: route.port,
    };
    if route.user.is_empty() {
        place.to_string()
    } else {
        format!("{}@{place}", route.user)
    }
}

fn via(route: &Route) -> Vec<String> {
    match &route.via {
        Via::Direct => Vec::new(),
        Via::Jump(hops) => hops.iter().map(destination).collect(),
        Via::Tunnel(name) => vec![format!("tunnel:{name}")],
        Via::Command(_) => vec!["proxy_command".to_owned()],
    }
}

/// What the wall clock will show at `until`.
fn wall(until: Instant, (wall, now): (Timestamp, Instant)) -> Timestamp {
    let left = SignedDuration::try_from(until.saturating_duration_since(now))
        .unwrap_or(SignedDuration::MAX);
    wall.checked_add(left).unwrap_or(Timestamp::MAX)
}
