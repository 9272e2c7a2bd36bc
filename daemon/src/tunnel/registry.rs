//! What every tunnel tells of itself: one place, one sequence number, any number of readers.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use tokio::sync::broadcast;
use tokio::time::Instant;
use tunneld_proto::message::{Event, EventBody, ReloadReport, Snapshot};
use tunneld_proto::status::{Prompt, PromptKind, TunnelStatus};

use crate::forward::ForwardMonitor;
use crate::session::Session;
use crate::tunnel::interactive_clients::{ClientGuard, InteractiveClients};
use crate::tunnel::status::{self, TunnelSnapshot};

/// How many events a slow reader may be behind before it is told that it lags.
const BACKLOG: usize = 256;

/// A tunnel's facts and the live things whose counters are read when someone looks.
#[derive(Clone)]
pub struct Entry {
    /// What the task knows.
    pub facts: TunnelSnapshot,
    /// The forwards' states and counters.
    pub forwards: ForwardMonitor,
    /// The live session, for its round trip and the server's offences.
    pub session: Option<Session>,
}

impl Entry {
    fn status(&self) -> TunnelStatus {
        let mut status = status::status(
            &self.facts,
            self.forwards.statuses(),
            (Timestamp::now(), Instant::now()),
        );
        if let (Some(told), Some(live)) = (&mut status.session, &self.session) {
            told.rtt_ms = live.rtt().map(|rtt| rtt.as_secs_f64() * 1000.0);
            told.offences = live.offences();
        }
        status
    }
}

/// The right to put an entry under one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease(u64);

/// The board; clones are handles to the same one.
#[derive(Clone)]
pub struct StatusRegistry(Arc<Shared>);

struct Shared {
    // A std mutex, because a snapshot and the events after it must meet at one number; nothing is awaited under it.
    inner: Mutex<Inner>,
    events: broadcast::Sender<Event>,
    attendance: InteractiveClients,
}

#[derive(Default)]
struct Inner {
    seq: u64,
    /// Who may put what under a name: the task of a tunnel that is gone may not bring it back.
    tenants: BTreeMap<String, Lease>,
    last_tenant: u64,
    entries: BTreeMap<String, Entry>,
    /// A digest of what was last told of each.
    told: BTreeMap<String, u64>,
    prompts: BTreeMap<u64, Prompt>,
}

impl Default for StatusRegistry {
    fn default() -> Self {
        Self::new()
    }
}

impl StatusRegistry {
    /// An empty board.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            inner: Mutex::default(),
            events: broadcast::channel(BACKLOG).0,
            attendance: InteractiveClients::default(),
        }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, inner: &mut Inner, body: EventBody) {
        inner.seq += 1;
        // No reader is no error.
        let _ = self.0.events.send(Event {
            seq: inner.seq,
            at: Timestamp::now(),
            body,
        });
    }

    /// Gives the name to a new tunnel's task; an earlier one's word is not heard any more.
    pub fn let_name(&self, name: &str) -> Lease {
        let mut inner = self.inner();
        inner.last_tenant += 1;
        let tenant = Lease(inner.last_tenant);
        inner.tenants.insert(name.to_owned(), tenant);
        tenant
    }

    /// A tunnel is new or has changed.
    pub fn put(&self, tenant: Lease, entry: Entry) {
        let name = entry.facts.spec.name.clone();
        let mut inner = self.inner();
        if inner.tenants.get(&name) != Some(&tenant) {
            return;
        }
        let tunnel = entry.status();
        inner.entries.insert(name.clone(), entry);
        let told = digest(&tunnel);
        if inner.told.insert(name, told) == Some(told) {
            return;
        }
        let tunnel = Box::new(tunnel);
        self.tell(&mut inner, EventBody::Tunnel { tunnel });
    }

    /// A tunnel is gone, unless its name was given to another already.
    pub fn leave(&self, tenant: Lease, name: &str) {
        let mut inner = self.inner();
        if inner.tenants.get(name) != Some(&tenant) {
            return;
        }
        inner.tenants.remove(name);
        inner.told.remove(name);
        if inner.entries.remove(name).is_some() {
            self.tell(
                &mut inner,
                EventBody::Removed {
                    name: name.to_owned(),
                },
            );
        }
    }

    /// A prompt waits, unless another tunnel asks the same host's person already: then that one's prompt.
    pub fn put_prompt(&self, prompt: Prompt) -> Option<Prompt> {
        let mut inner = self.inner();
        let first = inner.prompts.values().find(|first| {
            // What a tunnel can do without holds nobody up.
            first.host == prompt.host
                && first.tunnel != prompt.tunnel
                && (first.kind == PromptKind::HostKeyUpdate)
                    == (prompt.kind == PromptKind::HostKeyUpdate)
        });
        if let Some(first) = first {
            return Some(first.clone());
        }
        inner.prompts.insert(prompt.id, prompt.clone());
        self.tell(&mut inner, EventBody::Prompt { prompt });
        None
    }

    /// A prompt waits no more.
    pub fn remove_prompt(&self, id: u64) {
        let mut inner = self.inner();
        if inner.prompts.remove(&id).is_some() {
            self.tell(&mut inner, EventBody::PromptGone { id });
        }
    }

    /// Somebody asks the prompts of these tunnels at a terminal; of all where none is named.
    pub fn attend(&self, names: Vec<String>) -> ClientGuard {
        self.0.attendance.attend(names)
    }

    /// Waits until nobody asks this prompt at a terminal: its own tunnel's, or one's that waits behind it.
    pub async fn unattended(&self, prompt: &Prompt) {
        let waits = |name: &str| {
            let inner = self.inner();
            let entry = inner.entries.get(name);
            let waiting = entry.and_then(|entry| entry.facts.prompt.as_ref());
            name == prompt.tunnel || waiting.is_some_and(|waiting| waiting.id == prompt.id)
        };
        self.0.attendance.nobody(waits).await;
    }

    /// The configuration was read again.
    pub fn reloaded(&self, report: ReloadReport) {
        self.tell(&mut self.inner(), EventBody::Config { report });
    }

    /// The daemon stops.
    pub fn bye(&self) {
        self.tell(&mut self.inner(), EventBody::Bye);
    }

    /// Every tunnel, by name.
    pub fn statuses(&self) -> Vec<TunnelStatus> {
        self.inner().entries.values().map(Entry::status).collect()
    }

    /// One tunnel.
    pub fn status(&self, name: &str) -> Option<TunnelStatus> {
        self.inner().entries.get(name).map(Entry::status)
    }

    /// The `on_needs_input` of a tunnel; empty where there is none.
    pub fn on_needs_input(&self, name: &str) -> Vec<String> {
        self.inner()
            .entries
            .get(name)
            .map(|entry| entry.facts.spec.life.on_needs_input.clone())
            .unwrap_or_default()
    }

    /// The waiting prompts, oldest first.
    pub fn prompts(&self) -> Vec<Prompt> {
        self.inner().prompts.values().cloned().collect()
    }

    /// The live session of a tunnel.
    pub fn session(&self, name: &str) -> Option<Session> {
        self.inner()
            .entries
            .get(name)
            .and_then(|entry| entry.session.clone())
    }

    /// Everything as it stands, and every event after it.
    pub fn subscribe(&self) -> (Snapshot, broadcast::Receiver<Event>) {
        let inner = self.inner();
        let events = self.0.events.subscribe();
        let snapshot = Snapshot {
            seq: inner.seq,
            tunnels: inner.entries.values().map(Entry::status).collect(),
            prompts: inner.prompts.values().cloned().collect(),
            missed: None,
        };
        (snapshot, events)
    }
}

/// Tells one status from another.
fn digest(status: &TunnelStatus) -> u64 {
    let mut hasher = DefaultHasher::new();
    // A status always has a JSON form.
    serde_json::to_vec(status)
        .unwrap_or_default()
        .hash(&mut hasher);
    hasher.finish()
}
