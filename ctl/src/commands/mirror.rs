//! A local copy of the state of all tunnels and prompts, kept up to date by the event stream.

use std::collections::BTreeMap;

use tunneld_proto::client::{Client, Notification};
use tunneld_proto::message::{EventBody, Snapshot, Subscribe, Tunnels, method};
use tunneld_proto::status::{Prompt, TunnelStatus};

use crate::exit::{Exit, NO_DAEMON};

/// Copy of the daemon's state: tunnels sorted by name, prompts oldest first.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    tunnels: BTreeMap<String, TunnelStatus>,
    prompts: Vec<Prompt>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// State of the tunnel with this name.
    Tunnel(String),
    /// The tunnel with this name was removed.
    Removed(String),
    /// Possibly everything: a fresh snapshot replaced the copy.
    All,
    Nothing,
    Bye,
}

impl Mirror {
    /// Subscribes to events and fills the copy from the first snapshot.
    pub(super) async fn subscribe(client: &mut Client) -> Result<Self, Exit> {
        let snapshot: Snapshot = client
            .call(method::SUBSCRIBE, &Subscribe::default())
            .await?;
        let mut mirror = Self::default();
        mirror.reset(snapshot);
        Ok(mirror)
    }

    pub(super) fn apply(&mut self, notification: Notification) -> Change {
        match notification {
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

    /// Applies the tunnels of a reply, which is newer than the events received before it.
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

    /// Returns the open prompts, oldest first.
    pub(super) fn prompts(&self) -> &[Prompt] {
        &self.prompts
    }

    /// Returns all tunnels, sorted by name.
    pub(super) fn tunnels(&self) -> impl Iterator<Item = &TunnelStatus> {
        self.tunnels.values()
    }

    /// Returns the tunnels whose sessions carry the tunnels `names` and that are not among them, over any number of steps,
    /// the first one to come up first.
    pub(super) fn carriers(&self, names: &[String]) -> Vec<String> {
        let mut carriers: Vec<String> = Vec::new();
        for name in names {
            let mut chain: Vec<String> = Vec::new();
            let mut current = self.get(name);
            while let Some(carrier) = current.and_then(carrier_of)
                && !names.iter().any(|name| name == carrier)
                && !chain.iter().chain(&carriers).any(|known| known == carrier)
            {
                chain.push(carrier.to_owned());
                current = self.get(carrier);
            }
            carriers.extend(chain.into_iter().rev());
        }
        carriers
    }

    /// Returns a copy of all tunnels, sorted by name.
    pub(super) fn all(&self) -> Vec<TunnelStatus> {
        self.tunnels.values().cloned().collect()
    }

    /// Returns the tunnel with this name; `None` if it was removed.
    pub(super) fn get(&self, name: &str) -> Option<&TunnelStatus> {
        self.tunnels.get(name)
    }
}

/// Returns the name of the tunnel whose session carries this one (`proxy_jump = "tunnel:NAME"`).
pub(super) fn carrier_of(tunnel: &TunnelStatus) -> Option<&str> {
    tunnel
        .via
        .iter()
        .find_map(|hop| hop.strip_prefix("tunnel:"))
}

/// The error for a daemon that closed the connection without announcing that it stops.
pub(super) fn connection_lost() -> Exit {
    Exit::new(NO_DAEMON, "the daemon has closed the connection")
        .hint("check whether it is still running: tunnelctl status")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::sample;
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
    fn events_and_snapshots_keep_the_copy_up_to_date() {
        let mut mirror = Mirror::default();
        let tunnel = Box::new(sample::tunnel("db", State::Up));
        assert_eq!(
            mirror.apply(event(EventBody::Tunnel { tunnel })),
            Change::Tunnel("db".into())
        );
        assert_eq!(mirror.get("db").unwrap().state, State::Up);
        assert_eq!(mirror.apply(event(EventBody::Unknown)), Change::Nothing);
        let snapshot = Snapshot {
            seq: 9,
            tunnels: vec![sample::tunnel("web", State::Idle)],
            prompts: vec![],
            missed: Some(8),
        };
        assert_eq!(mirror.apply(Notification::Lagged(snapshot)), Change::All);
        assert!(mirror.get("db").is_none());
        assert_eq!(
            mirror.apply(event(EventBody::Removed { name: "web".into() })),
            Change::Removed("web".into())
        );
        assert!(mirror.all().is_empty());
        assert_eq!(mirror.apply(event(EventBody::Bye)), Change::Bye);
    }
}
