//! The machine: single transitions, and random sequences of events that must keep its invariants.

use proptest::prelude::*;
use tunneld_proto::status::Desired;

use super::*;
use crate::failure::FailureKind;

const BACKOFF: Backoff = Backoff {
    initial: Duration::from_secs(1),
    max: Duration::from_secs(60),
};

fn failure(kind: FailureKind) -> Failure {
    Failure::new(kind, "it broke")
}

fn up(now: Instant) -> Machine {
    let mut machine = Machine::new(BACKOFF);
    assert_eq!(
        machine.handle(now, 0.0, Event::WantUp),
        Some(Action::Dial { epoch: 1 })
    );
    assert_eq!(
        machine.handle(now, 0.0, Event::Established { epoch: 1 }),
        None
    );
    assert!(matches!(machine.state(), State::Up { .. }));
    machine
}

fn lost(epoch: u64, kind: FailureKind) -> Event {
    Event::Lost {
        epoch,
        why: failure(kind),
    }
}

#[test]
fn a_lost_session_is_redialled_at_once() {
    let now = Instant::now();
    let mut machine = up(now);
    let later = now + Duration::from_millis(100);
    assert_eq!(
        machine.handle(later, 0.5, lost(1, FailureKind::Disconnected)),
        Some(Action::Dial { epoch: 2 })
    );
}

#[test]
fn sessions_that_end_soon_back_off() {
    let now = Instant::now();
    let mut machine = up(now);
    machine.handle(now, 0.0, lost(1, FailureKind::Disconnected));
    machine.handle(now, 0.0, Event::Established { epoch: 2 });
    assert_eq!(
        machine.handle(now, 0.0, lost(2, FailureKind::Disconnected)),
        None
    );
    assert_eq!(machine.deadline(), Some(now + Duration::from_secs(2)));
}

#[test]
fn failed_dials_back_off_and_never_give_up() {
    let mut now = Instant::now();
    let mut machine = Machine::new(BACKOFF);
    machine.handle(now, 0.0, Event::WantUp);
    let mut delays = Vec::new();
    for epoch in 1..=9 {
        assert_eq!(
            machine.handle(now, 0.0, lost(epoch, FailureKind::ConnectRefused)),
            None
        );
        let until = machine.deadline().unwrap();
        delays.push((until - now).as_secs());
        now = until;
        assert_eq!(
            machine.handle(now, 0.0, Event::Deadline),
            Some(Action::Dial { epoch: epoch + 1 })
        );
    }
    assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
}

#[test]
fn dials_that_time_out_back_off_too() {
    let mut now = Instant::now();
    let mut machine = Machine::new(BACKOFF);
    machine.handle(now, 0.0, Event::WantUp);
    for (epoch, expected) in [(1, 1), (2, 2), (3, 4), (4, 8)] {
        machine.handle(now, 0.0, lost(epoch, FailureKind::Timeout));
        let until = machine.deadline().unwrap();
        assert_eq!((until - now).as_secs(), expected);
        now = until;
        machine.handle(now, 0.0, Event::Deadline);
    }
}

#[test]
fn refused_logins_wait_from_30_s_to_10_min_whatever_the_network_does() {
    let mut now = Instant::now();
    let mut machine = Machine::new(BACKOFF);
    machine.handle(now, 0.0, Event::WantUp);
    let mut delays = Vec::new();
    for epoch in 1..=7 {
        machine.handle(now, 0.0, lost(epoch, FailureKind::AuthRefused));
        machine.handle(now, 0.0, Event::NetworkChanged);
        let until = machine.deadline().unwrap();
        delays.push((until - now).as_secs());
        now = until;
        machine.handle(now, 0.0, Event::Deadline);
    }
    assert_eq!(delays, [30, 60, 120, 240, 480, 600, 600]);
}

#[test]
fn a_changed_host_key_fails_until_the_user_acts() {
    let now = Instant::now();
    let mut machine = up(now);
    machine.handle(now, 0.0, lost(1, FailureKind::HostKeyChanged));
    assert!(matches!(machine.state(), State::Failed { .. }));
    assert_eq!(machine.handle(now, 0.0, Event::NetworkChanged), None);
    assert_eq!(machine.handle(now, 0.0, Event::Woke), None);
    assert_eq!(machine.deadline(), None);
    assert_eq!(
        machine.handle(now, 0.0, Event::WantUp),
        Some(Action::Dial { epoch: 2 })
    );
}

#[test]
fn a_wakeup_probes_a_session_that_is_up_and_ends_a_wait() {
    let now = Instant::now();
    let mut machine = up(now);
    assert_eq!(
        machine.handle(now, 0.0, Event::Woke),
        Some(Action::Probe { epoch: 1 })
    );
    machine.handle(now, 0.0, lost(1, FailureKind::Disconnected));
    machine.handle(now, 0.0, lost(2, FailureKind::Connect));
    assert!(machine.deadline().unwrap() > now);
    machine.handle(now, 0.0, Event::NetworkChanged);
    assert_eq!(
        machine.handle(now, 0.0, Event::Deadline),
        Some(Action::Dial { epoch: 3 })
    );
}

#[test]
fn a_new_session_of_the_carrier_ends_a_retryable_wait_only() {
    let now = Instant::now();
    for (kind, then) in [
        (FailureKind::Proxy, Some(Action::Dial { epoch: 2 })),
        (FailureKind::AuthRefused, None),
    ] {
        let mut machine = Machine::new(BACKOFF);
        machine.handle(now, 0.0, Event::WantUp);
        assert_eq!(machine.handle(now, 0.0, Event::CarrierUp), None);
        machine.handle(now, 0.0, lost(1, kind));
        assert_eq!(machine.handle(now, 0.0, Event::CarrierUp), then);
    }
    let mut machine = up(now);
    assert_eq!(machine.handle(now, 0.0, Event::CarrierUp), None);
}

#[test]
fn the_last_command_wins_while_closing() {
    let now = Instant::now();
    let mut machine = up(now);
    assert_eq!(
        machine.handle(now, 0.0, Event::WantDown),
        Some(Action::Close { epoch: 1 })
    );
    assert_eq!(machine.handle(now, 0.0, Event::WantUp), None);
    assert_eq!(machine.handle(now, 0.0, Event::WantDown), None);
    assert_eq!(machine.handle(now, 0.0, Event::WantUp), None);
    assert_eq!(
        machine.handle(now, 0.0, Event::Closed { epoch: 1 }),
        Some(Action::Dial { epoch: 2 })
    );
}

#[test]
fn a_changed_route_does_not_start_a_tunnel_that_is_stopping() {
    let now = Instant::now();
    let mut machine = up(now);
    machine.handle(now, 0.0, Event::WantDown);
    machine.handle(now, 0.0, Event::RouteChanged);
    assert_eq!(machine.handle(now, 0.0, Event::Closed { epoch: 1 }), None);
    assert_eq!(machine.state(), &State::Stopped);
    assert_eq!(machine.handle(now, 0.0, Event::RouteChanged), None);
}

#[test]
fn a_prompt_and_its_answer_keep_the_dial() {
    let now = Instant::now();
    let mut machine = Machine::new(BACKOFF);
    machine.handle(now, 0.0, Event::WantUp);
    machine.handle(
        now,
        0.0,
        Event::PhaseChanged {
            epoch: 1,
            phase: Phase::Auth,
        },
    );
    machine.handle(
        now,
        0.0,
        Event::PromptOpened {
            epoch: 1,
            prompt: 7,
        },
    );
    assert!(matches!(
        machine.state(),
        State::NeedsInput {
            prompt: 7,
            phase: Phase::Auth,
            ..
        }
    ));
    machine.handle(now, 0.0, Event::PromptClosed { epoch: 1 });
    machine.handle(now, 0.0, Event::Established { epoch: 1 });
    assert!(matches!(machine.state(), State::Up { .. }));
}

#[test]
fn a_connection_that_ends_during_a_prompt_counts_as_no_failure() {
    let now = Instant::now();
    let mut machine = Machine::new(BACKOFF);
    machine.handle(now, 0.0, Event::WantUp);
    machine.handle(
        now,
        0.0,
        Event::PromptOpened {
            epoch: 1,
            prompt: 7,
        },
    );
    assert_eq!(
        machine.handle(now, 0.0, lost(1, FailureKind::Disconnected)),
        None
    );
    assert_eq!(
        machine.state(),
        &State::AwaitingAnswer {
            attempts: Attempts::default(),
            prompt: 7
        }
    );
    assert_eq!(machine.handle(now, 0.0, Event::WantUp), None);
    assert_eq!(
        machine.handle(now, 0.0, Event::AnswerReady),
        Some(Action::Dial { epoch: 2 })
    );
}

#[test]
fn a_dial_whose_prompt_another_tunnel_asks_first_waits_for_that_prompt() {
    let now = Instant::now();
    let mut machine = Machine::new(BACKOFF);
    machine.handle(now, 0.0, Event::WantUp);
    let blocked = Event::PromptBlocked {
        epoch: 1,
        prompt: 7,
    };
    assert_eq!(machine.handle(now, 0.0, blocked), None);
    assert!(matches!(
        machine.state(),
        State::AwaitingAnswer { prompt: 7, .. }
    ));
    assert_eq!(machine.live_epoch(), None);
    assert_eq!(
        machine.handle(now, 0.0, Event::AnswerReady),
        Some(Action::Dial { epoch: 2 })
    );
}

#[test]
fn a_cancelled_prompt_fails_the_tunnel() {
    let now = Instant::now();
    let mut machine = Machine::new(BACKOFF);
    machine.handle(now, 0.0, Event::WantUp);
    machine.handle(
        now,
        0.0,
        Event::PromptOpened {
            epoch: 1,
            prompt: 7,
        },
    );
    machine.handle(now, 0.0, lost(1, FailureKind::Disconnected));
    machine.handle(
        now,
        0.0,
        Event::PromptCancelled {
            why: failure(FailureKind::NotAnswered),
        },
    );
    assert!(matches!(machine.state(), State::Failed { .. }));
}

/// One random event: its kind, its failure kind, and a number that gives the time step and sometimes a stale epoch.
fn step() -> impl Strategy<Value = (u8, u8, u64)> {
    (0u8..18, 0u8..6, 0u64..100)
}

/// The event of number `what`.
fn random_event(what: u8, kind: u8, prompt: u64, epoch: u64, state: &State) -> Event {
    let kinds = [
        FailureKind::Connect,
        FailureKind::AuthRefused,
        FailureKind::HostKeyChanged,
        FailureKind::Timeout,
        FailureKind::DeadPeer,
        FailureKind::Disconnected,
    ];
    match what {
        0 | 1 => Event::WantUp,
        2 => Event::WantDown,
        3 => Event::Restart,
        4 => Event::RouteChanged,
        5 => Event::NetworkChanged,
        6 => Event::Woke,
        7 => Event::PhaseChanged {
            epoch,
            phase: Phase::Kex,
        },
        8 => Event::PromptOpened { epoch, prompt },
        9 => Event::PromptClosed { epoch },
        10 | 11 => Event::Established { epoch },
        12 => lost(epoch, kinds[usize::from(kind)].clone()),
        13 => Event::AnswerReady,
        14 => Event::PromptCancelled {
            why: failure(FailureKind::NotAnswered),
        },
        15 => Event::CarrierUp,
        16 => Event::PromptBlocked { epoch, prompt },
        // A task reports `Closed` only after `Action::Close`.
        _ => match state {
            State::Closing { epoch, .. } => Event::Closed { epoch: *epoch },
            _ => Event::Deadline,
        },
    }
}

proptest! {
    #[test]
    fn random_events_keep_the_invariants(steps in prop::collection::vec(step(), 1..300)) {
        let mut now = Instant::now();
        let mut machine = Machine::new(BACKOFF);
        // The sessions that a task would hold: dialled, and neither lost nor closed.
        let mut live: Vec<u64> = Vec::new();
        let mut wanted = false;
        for (what, kind, ms) in steps {
            now += Duration::from_millis(ms * 37);
            let epoch = if ms % 5 == 0 { ms / 5 } else { live.last().copied().unwrap_or(0) };
            match what {
                0 | 1 | 3 => wanted = true,
                2 => wanted = false,
                _ => {}
            }
            let event = random_event(what, kind, ms, epoch, machine.state());
            let connecting = matches!(machine.state(), State::Connecting { .. } | State::NeedsInput { .. });
            match &event {
                Event::Lost { epoch, .. } | Event::Closed { epoch } => live.retain(|e| e != epoch),
                Event::PromptBlocked { epoch, .. } if connecting => live.retain(|e| e != epoch),
                _ => {}
            }
            match machine.handle(now, 0.3, event) {
                Some(Action::Dial { epoch }) => {
                    prop_assert!(live.is_empty(), "two live sessions: {live:?} and {epoch}");
                    live.push(epoch);
                }
                Some(Action::Close { epoch } | Action::Probe { epoch }) => prop_assert!(live.contains(&epoch)),
                None => {}
            }
            match machine.state() {
                State::Waiting { .. } => prop_assert!(machine.deadline().is_some() && wanted),
                State::Stopped => prop_assert!(!wanted),
                State::Closing { then, .. } => prop_assert_eq!(*then == AfterClose::Connect, wanted),
                _ => prop_assert!(wanted),
            }
            prop_assert_eq!(machine.live_epoch(), live.last().copied());
            prop_assert_eq!(machine.state().desired() == Desired::Up, wanted);
        }
        // Without further failures it reaches the state that the user wants.
        for _ in 0..4 {
            if let Some(until) = machine.deadline() { now = now.max(until); }
            let event = match machine.state() {
                State::Closing { epoch, .. } => Event::Closed { epoch: *epoch },
                State::Connecting { epoch, .. } | State::NeedsInput { epoch, .. } => Event::Established { epoch: *epoch },
                State::AwaitingAnswer { .. } => Event::AnswerReady,
                _ => Event::Deadline,
            };
            machine.handle(now, 0.3, event);
        }
        match machine.state() {
            State::Up { .. } => prop_assert!(wanted),
            State::Stopped => prop_assert!(!wanted),
            State::Failed { .. } => {}
            other => prop_assert!(false, "stuck in {other:?}"),
        }
    }
}
