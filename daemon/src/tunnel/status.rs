//! Computes a tunnel's wire status from what its task knows. Pure: the caller passes both clocks.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tunneld_proto::status::{
    ForwardState, ForwardStatus, LastError, Phase, Prompt, SessionStatus, State, TunnelStatus,
};

use super::machine;
use crate::failure::Failure;
use crate::forward::TunnelSummary;
use tunneld_config::addr::HostPort;
use tunneld_config::model::{Route, Tunnel, Via};

/// What a tunnel's task knows at one moment.
#[derive(Debug, Clone)]
pub struct TunnelSnapshot {
    /// The configuration that the task uses now.
    pub config: Arc<Tunnel>,
    /// The machine's state, which also implies what the user wants.
    pub state: machine::State,
    /// When the tunnel entered this state.
    pub since: Timestamp,
    /// The host that the live session reached, which `host_command` may have chosen. `None` without a session.
    pub reached_host: Option<String>,
    /// The last failure and its time. `None` once the tunnel is up again.
    pub last_error: Option<(Failure, Timestamp)>,
    /// The prompt that the tunnel waits for: its own or another tunnel's. `None` if it waits for none.
    pub prompt: Option<Prompt>,
    /// The live session. `None` without a session. Round-trip time and violations are read later, when the status is
    /// computed.
    pub session: Option<SessionStatus>,
    /// Number of sessions that replaced a lost one.
    pub reconnects: u64,
    /// What the user should know about how the sessions end. `None` for nothing.
    pub note: Option<String>,
}

/// The time on both clocks at one moment.
pub type Now = (Timestamp, Instant);

/// Returns the status of the tunnel with these forwards.
pub fn status(snapshot: &TunnelSnapshot, forwards: Vec<ForwardStatus>, now: Now) -> TunnelStatus {
    let progress = progress(&snapshot.state, &forwards, now);
    let route = &snapshot.config.route;
    TunnelStatus {
        name: snapshot.config.name.clone(),
        state: progress.state,
        phase: progress.phase,
        since: snapshot.since,
        host: match &snapshot.reached_host {
            Some(host) => destination_at(route, host),
            None => destination(route),
        },
        via: via(route),
        tags: snapshot.config.tags.clone(),
        description: snapshot.config.description.clone(),
        desired: snapshot.state.desired(),
        attempt: progress.attempt,
        retry_at: progress.retry_at,
        last_error: snapshot
            .last_error
            .as_ref()
            .map(|(failure, at)| last_error(failure, *at)),
        prompt: snapshot.prompt.clone(),
        session: snapshot.session.clone(),
        reconnects: snapshot.reconnects,
        forwards,
        proxy_for: snapshot
            .config
            .proxy_for
            .iter()
            .map(ToString::to_string)
            .collect(),
        proxy_user: snapshot
            .config
            .forwarding
            .proxy_login
            .as_ref()
            .map(|login| login.user.clone()),
        notes: snapshot
            .config
            .status_notes()
            .into_iter()
            .chain(snapshot.note.clone())
            .collect(),
    }
}

/// Returns what the pages of the tunnel's HTTP proxy say.
pub fn summary(snapshot: &TunnelSnapshot, now: Now) -> TunnelSummary {
    let progress = progress(&snapshot.state, &[], now);
    let failure = snapshot.last_error.as_ref().map(|(failure, _)| failure);
    let (reason, hint) = match &snapshot.prompt {
        Some(prompt) => (
            Some(format!("waiting for an answer: {}", prompt.text)),
            Some(format!("tunnelctl answer {}", snapshot.config.name)),
        ),
        None => (
            failure.map(|failure| failure.message.clone()),
            failure.and_then(|failure| failure.hint.clone()),
        ),
    };
    TunnelSummary {
        name: snapshot.config.name.clone(),
        state: progress.state.as_str().to_owned(),
        reason,
        hint,
        next_attempt: progress.retry_at.map(|at| {
            let local = at.to_zoned(jiff::tz::TimeZone::system());
            local.strftime("%H:%M:%S").to_string()
        }),
    }
}

/// The part of the status that depends on the machine's state alone.
struct Progress {
    state: State,
    phase: Option<Phase>,
    /// The number of the attempt that is under way, or of the last failed one; 0 if none.
    attempt: u32,
    retry_at: Option<Timestamp>,
}

fn progress(state: &machine::State, forwards: &[ForwardStatus], now: Now) -> Progress {
    let at = |state, phase, attempt| Progress {
        state,
        phase,
        attempt,
        retry_at: None,
    };
    let current = |attempts: &machine::Attempts| attempts.failures.saturating_add(1);
    match state {
        // What is closing shows what follows, as the user asked for it.
        machine::State::Stopped
        | machine::State::Closing {
            then: machine::AfterClose::Stop,
            ..
        } => at(State::Stopped, None, 0),
        machine::State::Closing {
            then: machine::AfterClose::Connect,
            ..
        } => at(State::Connecting, None, 1),
        machine::State::Connecting {
            attempts, phase, ..
        } => at(State::Connecting, Some(*phase), current(attempts)),
        machine::State::NeedsInput {
            attempts, phase, ..
        } => at(State::NeedsInput, Some(*phase), current(attempts)),
        // Clients see no difference between a prompt with a live connection and one without.
        machine::State::AwaitingAnswer { attempts, .. } => {
            at(State::NeedsInput, Some(Phase::Auth), current(attempts))
        }
        machine::State::Up { attempts, .. } => {
            // A forward that listens on some of its addresses only has an error too.
            let failed = |forward: &ForwardStatus| {
                forward.state == ForwardState::Failed || forward.error.is_some()
            };
            let degraded = forwards.iter().any(failed);
            let state = if degraded { State::Degraded } else { State::Up };
            at(state, None, current(attempts))
        }
        machine::State::Waiting {
            attempts, until, ..
        } => Progress {
            retry_at: Some(wall_clock(*until, now)),
            ..at(State::Waiting, None, attempts.failures)
        },
        machine::State::Failed { .. } => at(State::Failed, None, 0),
    }
}

/// The wire form of a failure that happened `at` this time.
pub fn last_error(failure: &Failure, at: Timestamp) -> LastError {
    LastError::new(
        failure.kind.clone(),
        &failure.message,
        failure.hint.clone(),
        at,
    )
}

/// The destination as `user@host:port`, or `host:port` without a user.
pub fn destination(route: &Route) -> String {
    destination_at(route, &route.host)
}

fn destination_at(route: &Route, host: &str) -> String {
    let host_port = HostPort {
        host: host.to_owned(),
        port: route.port,
    };
    if route.user.is_empty() {
        host_port.to_string()
    } else {
        format!("{}@{host_port}", route.user)
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

/// Converts a time of the monotonic clock, which timers use, to the wall clock.
fn wall_clock(until: Instant, (wall, monotonic): Now) -> Timestamp {
    let left = SignedDuration::try_from(until.saturating_duration_since(monotonic))
        .unwrap_or(SignedDuration::MAX);
    wall.checked_add(left).unwrap_or(Timestamp::MAX)
}
