//! How every tunnel stands and what waits for an answer, kept true by events.

use std::collections::BTreeMap;

use tunneld_proto::client::{Client, Notification};
use tunneld_proto::message::{EventBody, Snapshot, Subscribe, Tunnels, method};
use tunneld_proto::status::{Prompt, TunnelStatus};

use crate::exit::{Exit, NO_DAEMON};

/// The tunnels by name, the prompts by age.
#[derive(Debug, Default)]
pub(super) struct Following {
    tunnels: BTreeMap<String, TunnelStatus>,
    prompts: Vec<Prompt>,
}

/// What a notification has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// This tunnel.
    Tunnel(String),
    /// This tunnel is gone.
    Removed(String),
    /// Any of them.
    All,
    /// None.
    Nothing,
    /// The daemon stops.
    Bye,
}

impl Following {
    /// Subscribes.
    pub(super) async fn begin(client: &mut Client) -> Result<Self, Exit> {
        let snapshot: Snapshot = client
            .call(method::SUBSCRIBE, &Subscribe::default())
            .await?;
        let mut following = Self::default();
        following.reset(snapshot);
        Ok(following)
    }

    /// Takes what the daemon said.
    pub(super) fn hear(&mut self, said: Notification) -> Change {
        match said {
            Notification::Lagged(snapshot) => {
                self.reset(snapshot);
                Change::All
            }
            Notification::Event(event) => match event.body {
                EventBody::Tunnel { tunnel } => {
                    let name = tunnel.name.clone();
                    self.tunnels.insert(name.clone(), *tunnel);
                    Change::Tunnel(name)
                }
                EventBody::Removed { name } => {
                    self.tunnels.remove(&name);
                    Change::Removed(name)
                }
                EventBody::Prompt { prompt } => {
                    self.prompts.push(prompt);
                    Change::Nothing
                }
                EventBody::PromptGone { id } => {
                    self.prompts.retain(|prompt| prompt.id != id);
                    Change::Nothing
                }
                EventBody::Bye => Change::Bye,
                _ => Change::Nothing,
            },
            Notification::Log(_) | Notification::Unknown(_) => Change::Nothing,
        }
    }

    /// Takes what a call's reply says.
    pub(super) fn update(&mut self, tunnels: Tunnels) {
        for tunnel in tunnels.tunnels {
            self.tunnels.insert(tunnel.name.clone(), tunnel);
        }
    }

    fn reset(&mut self, snapshot: Snapshot) {
        let Snapshot {
            tunnels, prompts, ..
        } = snapshot;
        self.tunnels.clear();
        self.update(Tunnels { tunnels });
        self.prompts = prompts;
    }

    /// The prompts that wait, oldest first.
    pub(super) fn prompts(&self) -> &[Prompt] {
        &self.prompts
    }

    /// Each of them, by name.
    pub(super) fn tunnels(&self) -> impl Iterator<Item = &TunnelStatus> {
        self.tunnels.values()
    }

    /// All of them, by name.
    pub(super) fn all(&self) -> Vec<TunnelStatus> {
        self.tunnels.values().cloned().collect()
    }

    /// One of them.
    pub(super) fn get(&self, name: &str) -> Option<&TunnelStatus> {
        self.tunnels.get(name)
    }
}

/// The end of a daemon that has not said goodbye.
pub(super) fn lost() -> Exit {
    Exit::new(NO_DAEMON, "the daemon has closed the connection")
        .hint("see whether it still runs: tunnelctl status")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::sample;
    use jiff::Timestamp;
    use tunneld_proto::message::Event;
    use tunneld_proto::status::State;

    fn event(body: EventBody) -> Notification {
        Notification::Event(Box::new(Event {
            seq: 1,
            at: Timestamp::UNIX_EPOCH,
            body,
        }))
    }

    #[test]
    fn events_and_snapshots_keep_it_true() {
        let mut following = Following::default();
        let tunnel = Box::new(sample::tunnel("db", State::Up));
        assert_eq!(
            following.hear(event(EventBody::Tunnel { tunnel })),
            Change::Tunnel("db".into())
        );
        assert_eq!(following.get("db").unwrap().state, State::Up);
        assert_eq!(following.hear(event(EventBody::Unknown)), Change::Nothing);
        let snapshot = Snapshot {
            seq: 9,
            tunnels: vec![sample::tunnel("web", State::Idle)],
            prompts: vec![],
            missed: Some(8),
        };
        assert_eq!(following.hear(Notification::Lagged(snapshot)), Change::All);
        assert!(following.get("db").is_none());
        assert_eq!(
            following.hear(event(EventBody::Removed { name: "web".into() })),
            Change::Removed("web".into())
        );
        assert!(following.all().is_empty());
        assert_eq!(following.hear(event(EventBody::Bye)), Change::Bye);
    }
}
