//! The published status of every tunnel, the open prompts, and the events about them.
//!
//! Tunnel tasks publish here; the control socket, the hooks and other tunnels read and subscribe. All events share one
//! sequence number, so that a snapshot and the events after it have no gap.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio::time::Instant;
use tunneld_config::model::ProxyLogin;
use tunneld_proto::message::{Event, EventBody, ReloadReport, Snapshot};
use tunneld_proto::status::{Prompt, TunnelStatus};

use super::proxy_address::pac_tunnel;
use crate::forward::ForwardMonitor;
use crate::pac;
use crate::prompt::PromptRequest;
use crate::session::Session;
use crate::tunnel::interactive_clients::{ClientGuard, InteractiveClients};
use crate::tunnel::status::{self, TunnelSnapshot};
use crate::tunnel::tally::Tally;

/// Events that a slow subscriber may be behind. After that it misses the oldest and is notified that it did.
const EVENT_BUFFER: usize = 256;

/// What a tunnel publishes: a snapshot, and handles whose counters are read when a client asks.
#[derive(Clone)]
pub struct Entry {
    /// What the task knew when it published.
    pub snapshot: TunnelSnapshot,
    /// The forwards' states and counters.
    pub forwards: ForwardMonitor,
    /// The live session, for its round-trip time and the server's protocol violations. `None` without a session.
    pub session: Option<Session>,
}

impl Entry {
    fn status(&self) -> TunnelStatus {
        let mut status = status::status(
            &self.snapshot,
            self.forwards.statuses(),
            (Timestamp::now(), Instant::now()),
        );
        if let (Some(session), Some(live)) = (&mut status.session, &self.session) {
            // To the microsecond: more digits are noise of the conversion.
            session.rtt_ms = live
                .rtt()
                .map(|rtt| (rtt.as_secs_f64() * 1e6).round() / 1e3);
            session.offences = live.offences();
        }
        status
    }
}

/// Lease on one tunnel name. Publishing through an older lease of the same name is ignored: the task of a removed
/// tunnel may still be closing when a new tunnel takes its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease(u64);

/// The registry. Clones are handles to the same one.
#[derive(Clone)]
pub struct StatusRegistry(Arc<Shared>);

struct Shared {
    // Not a tokio mutex: never held across an await. Events are sent under it, so that `subscribe` returns a snapshot
    // that matches the sequence number at which its events begin.
    inner: Mutex<Inner>,
    events: broadcast::Sender<Event>,
    interactive: InteractiveClients,
}

#[derive(Default)]
struct Inner {
    /// The sequence number of the last event.
    seq: u64,
    last_lease: u64,
    /// Tunnel name to what its task published.
    registrations: BTreeMap<String, Registration>,
    /// By prompt id, so that the oldest is first.
    prompts: BTreeMap<u64, OpenedPrompt>,
    /// By prompt id, the prompts that the user has answered and whose login is not decided yet. Clients do not see them.
    answered: BTreeMap<u64, OpenedPrompt>,
}

/// A prompt as clients see it, and the request that it shows.
struct OpenedPrompt {
    prompt: Prompt,
    request: PromptRequest,
}

struct Registration {
    lease: Lease,
    /// `None` until the tunnel publishes for the first time.
    published: Option<Published>,
    tally: Tally,
}

struct Published {
    entry: Entry,
    /// Hash of the status in the last event about this tunnel.
    digest: u64,
}

impl Inner {
    fn prompts(&self) -> Vec<Prompt> {
        let opened = self.prompts.values();
        opened.map(|opened| opened.prompt.clone()).collect()
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        let published = self.registrations.get(name)?.published.as_ref()?;
        Some(&published.entry)
    }

    fn statuses(&self) -> Vec<TunnelStatus> {
        self.registrations
            .values()
            .filter_map(|registration| registration.published.as_ref())
            .map(|published| published.entry.status())
            .collect()
    }

    /// The registration of the name, if `lease` is still the newest on it.
    fn leased(&mut self, name: &str, lease: Lease) -> Option<&mut Registration> {
        self.registrations
            .get_mut(name)
            .filter(|registration| registration.lease == lease)
    }
}

impl Default for StatusRegistry {
    fn default() -> Self {
        Self::new()
    }
}

impl StatusRegistry {
    /// Creates a registry without tunnels and prompts.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            inner: Mutex::default(),
            events: broadcast::channel(EVENT_BUFFER).0,
            interactive: InteractiveClients::default(),
        }))
    }

    fn send(&self, inner: &mut Inner, body: EventBody) {
        inner.seq += 1;
        // Fails only if nothing has subscribed.
        let _ = self.0.events.send(Event {
            seq: inner.seq,
            at: Timestamp::now(),
            body,
        });
    }

    /// Gives the name to the task of a new tunnel. Earlier leases on it end.
    pub fn register(&self, name: &str) -> Lease {
        let mut inner = self.0.inner.lock();
        inner.last_lease += 1;
        let lease = Lease(inner.last_lease);
        // The status of a predecessor stays visible until the new task publishes its own.
        inner
            .registrations
            .entry(name.to_owned())
            .and_modify(|registration| registration.lease = lease)
            .or_insert(Registration {
                lease,
                published: None,
                tally: Tally::default(),
            });
        lease
    }

    /// Publishes a tunnel's state. Sends an event only if its status differs from the last one sent.
    pub fn publish(&self, lease: Lease, entry: Entry) {
        let mut inner = self.0.inner.lock();
        let Some(registration) = inner.leased(&entry.snapshot.config.name, lease) else {
            return;
        };
        registration.tally.observe(&entry.snapshot, Instant::now());
        let tunnel = Box::new(entry.status());
        let digest = digest(&tunnel);
        let published = Published { entry, digest };
        let before = registration.published.replace(published);
        if before.is_none_or(|before| before.digest != digest) {
            self.send(&mut inner, EventBody::Tunnel { tunnel });
        }
    }

    /// Removes a tunnel, unless its name belongs to a newer one.
    pub fn unregister(&self, lease: Lease, name: &str) {
        let mut inner = self.0.inner.lock();
        if inner.leased(name, lease).is_none() {
            return;
        }
        let removed = inner.registrations.remove(name);
        if removed.is_some_and(|registration| registration.published.is_some()) {
            let name = name.to_owned();
            self.send(&mut inner, EventBody::Removed { name });
        }
    }

    /// Shows a prompt, which `request` asks for, to the clients until the guard is dropped.
    ///
    /// # Errors
    /// The prompt of another tunnel that `request` waits behind, if one is open, or is answered and its login not decided:
    /// the user should answer one at a time, and the answer may serve both tunnels.
    pub fn open_prompt(
        &self,
        prompt: Prompt,
        request: &PromptRequest,
    ) -> Result<PromptGuard, Box<Prompt>> {
        let mut inner = self.0.inner.lock();
        let first = inner.prompts.values().chain(inner.answered.values());
        let first = first.into_iter().find(|first| {
            first.prompt.tunnel != prompt.tunnel && request.waits_behind(&first.request)
        });
        if let Some(first) = first {
            return Err(Box::new(first.prompt.clone()));
        }
        let opened = OpenedPrompt {
            prompt: prompt.clone(),
            request: request.clone(),
        };
        inner.prompts.insert(prompt.id, opened);
        let event = EventBody::Prompt {
            prompt: prompt.clone(),
        };
        self.send(&mut inner, event);
        Ok(PromptGuard {
            prompt,
            registry: self.clone(),
        })
    }

    /// Registers a client that shows the prompts of these tunnels at a terminal; of all tunnels if `names` is empty.
    pub fn attend(&self, names: Vec<String>) -> ClientGuard {
        self.0.interactive.register(names)
    }

    /// Waits until no client shows this prompt at a terminal, neither for its own tunnel nor for one that waits for the
    /// same prompt.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn wait_until_unattended(&self, prompt: &Prompt) {
        let waits_for_prompt = |name: &str| {
            let inner = self.0.inner.lock();
            let awaited = inner
                .entry(name)
                .and_then(|entry| entry.snapshot.prompt.as_ref());
            name == prompt.tunnel || awaited.is_some_and(|awaited| awaited.id == prompt.id)
        };
        self.0.interactive.wait_until_none(waits_for_prompt).await;
    }

    /// Sends the event that the configuration was read again.
    pub fn announce_reload(&self, report: ReloadReport) {
        self.send(&mut self.0.inner.lock(), EventBody::Config { report });
    }

    /// Sends the event that the daemon stops.
    pub fn announce_shutdown(&self) {
        self.send(&mut self.0.inner.lock(), EventBody::Bye);
    }

    /// The status of every tunnel, sorted by name.
    pub fn statuses(&self) -> Vec<TunnelStatus> {
        self.0.inner.lock().statuses()
    }

    /// The status and the counters of every tunnel, sorted by name.
    pub fn measurements(&self) -> Vec<(TunnelStatus, Tally)> {
        let inner = self.0.inner.lock();
        let registrations = inner.registrations.values();
        registrations
            .filter_map(|registration| {
                let published = registration.published.as_ref()?;
                Some((published.entry.status(), registration.tally.clone()))
            })
            .collect()
    }

    /// The status of one tunnel. `None` if there is no such tunnel, or it has not published yet.
    pub fn status(&self, name: &str) -> Option<TunnelStatus> {
        self.0.inner.lock().entry(name).map(Entry::status)
    }

    /// The tunnel's `on_needs_input` command. Empty if it has none or does not exist.
    pub fn on_needs_input(&self, name: &str) -> Vec<String> {
        self.0
            .inner
            .lock()
            .entry(name)
            .map(|entry| entry.snapshot.config.life.on_needs_input.clone())
            .unwrap_or_default()
    }

    /// The login of the tunnel's proxy. `None` if it has none, or the tunnel does not exist.
    pub fn proxy_login(&self, name: &str) -> Option<ProxyLogin> {
        let inner = self.0.inner.lock();
        let config = &inner.entry(name)?.snapshot.config;
        config.forwarding.proxy_login.clone()
    }

    /// The proxy auto-configuration file for all tunnels that have `proxy_for`, in the order of their names.
    pub fn pac(&self) -> String {
        let inner = self.0.inner.lock();
        let entries = inner
            .registrations
            .values()
            .filter_map(|registration| registration.published.as_ref());
        let tunnels: Vec<_> = entries
            .filter_map(|published| {
                let entry = &published.entry;
                pac_tunnel(&entry.snapshot.config, &entry.forwards.statuses())
            })
            .collect();
        pac::file(&tunnels)
    }

    /// The open prompts, oldest first.
    pub fn prompts(&self) -> Vec<Prompt> {
        self.0.inner.lock().prompts()
    }

    /// How long the tunnel's listeners hold a new connection while it has no session. `None` if there is no such tunnel.
    pub fn hold(&self, name: &str) -> Option<Duration> {
        let inner = self.0.inner.lock();
        Some(inner.entry(name)?.snapshot.config.life.hold)
    }

    /// The live session of a tunnel. `None` if it has none.
    pub fn session(&self, name: &str) -> Option<Session> {
        self.0.inner.lock().entry(name)?.session.clone()
    }

    /// Returns the current state of everything, and every event after it.
    pub fn subscribe(&self) -> (Snapshot, broadcast::Receiver<Event>) {
        let inner = self.0.inner.lock();
        // Under the lock, so that no event falls between the snapshot and the subscription.
        let events = self.0.events.subscribe();
        let snapshot = Snapshot {
            seq: inner.seq,
            tunnels: inner.statuses(),
            prompts: inner.prompts(),
            missed: None,
        };
        (snapshot, events)
    }
}

/// A prompt that clients can see. Dropping the guard removes it.
pub struct PromptGuard {
    prompt: Prompt,
    registry: StatusRegistry,
}

/// A prompt that the user has answered. While it exists, tunnels that would ask the same wait for what the answer leads
/// to: many dial the same server at once, and the answer serves them once its login has succeeded.
pub struct AnsweredPrompt {
    id: u64,
    registry: StatusRegistry,
}

impl PromptGuard {
    /// The prompt as clients see it.
    pub fn prompt(&self) -> &Prompt {
        &self.prompt
    }

    /// Removes the prompt where clients see it, and lets other tunnels wait until its login is decided.
    pub fn answered(self) -> AnsweredPrompt {
        let id = self.prompt.id;
        let mut inner = self.registry.0.inner.lock();
        if let Some(opened) = inner.prompts.remove(&id) {
            inner.answered.insert(id, opened);
            self.registry.send(&mut inner, EventBody::PromptGone { id });
        }
        drop(inner);
        AnsweredPrompt {
            id,
            registry: self.registry.clone(),
        }
    }
}

impl Drop for PromptGuard {
    fn drop(&mut self) {
        let id = self.prompt.id;
        let mut inner = self.registry.0.inner.lock();
        if inner.prompts.remove(&id).is_some() {
            self.registry.send(&mut inner, EventBody::PromptGone { id });
        }
    }
}

impl Drop for AnsweredPrompt {
    fn drop(&mut self) {
        self.registry.0.inner.lock().answered.remove(&self.id);
    }
}

/// Hash of the status's JSON form, by which `publish` detects a change.
fn digest(status: &TunnelStatus) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Serialization cannot fail: the type has only string keys.
    serde_json::to_vec(status)
        .unwrap_or_default()
        .hash(&mut hasher);
    hasher.finish()
}
