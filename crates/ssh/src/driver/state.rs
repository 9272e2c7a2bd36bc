//! What the driver and the handles of one session share.
//!
//! One plain mutex: everything under it is short and computes only (sealing, opening, bookkeeping), no await
//! and no system call; a task that finds it taken waits less than handing the work to another would take.
//! Writers seal straight into the output, readers take straight from the channel's queue; wakers are called
//! when the lock is free again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Waker;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::channel::{Incoming, PendingChannel};
use super::session::Handle;
use super::wake::{Wakes, remember};
use crate::connection::{ChannelId, Connection, Event, Reply, RequestId};
use crate::error::{Error, Party};
use crate::transport::{self, HostKeyOffer, Negotiated, Transport};

/// Writers wait when as much is sealed and not written.
pub(crate) const OUT_HIGH: usize = 256 * 1024;
/// What small writes may go beyond it.
pub(crate) const OUT_SLACK: usize = 32 * 1024;
/// What a turn of a writer is worth.
pub(crate) const TURN: usize = 32 * 1024;
/// A server that provokes more than this without reading it is ended.
const OUT_LIMIT: usize = 4 * 1024 * 1024;
/// As many messages wait for a login that does not look, and as many bytes of them.
const LOGIN_QUEUE: usize = 64;
const LOGIN_BYTES: usize = 512 * 1024;

/// What was refused: RFC 4254 §5.1's code, and the server's text.
pub(crate) type Refusal = (u32, String);

/// What waits at one channel.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) reader: Option<Waker>,
    pub(crate) writer: Option<Waker>,
    pub(crate) closers: Vec<Waker>,
    pub(crate) opener: Option<oneshot::Sender<Result<(), Refusal>>>,
    /// Its writer waits for a turn.
    pub(crate) queued: bool,
    /// Its writer's turn has come.
    pub(crate) turn: bool,
}

/// What the driver found for whoever makes the session.
#[derive(Debug, Default)]
pub(crate) struct Login {
    pub(crate) ident: String,
    pub(crate) host_key: Option<Box<HostKeyOffer>>,
    pub(crate) ready: Option<Box<Negotiated>>,
    pub(crate) inbox: VecDeque<Bytes>,
    pub(crate) waker: Option<Waker>,
}

impl Login {
    fn is_full(&self) -> bool {
        let bytes: usize = self.inbox.iter().map(Bytes::len).sum();
        self.inbox.len() == LOGIN_QUEUE || bytes > LOGIN_BYTES
    }
}

/// How far the session is.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Before the login has succeeded.
    Login(Login),
    /// Channels may be opened.
    Standing {
        incoming: mpsc::Sender<Incoming>,
        handle: Weak<Handle>,
    },
}

/// Everything of one session but its socket.
pub(crate) struct State {
    pub(crate) transport: Transport,
    pub(crate) connection: Connection,
    pub(crate) stage: Stage,
    pub(crate) slots: Vec<Slot>,
    pub(crate) queue: VecDeque<ChannelId>,
    /// Turns that were given last and not used yet.
    pub(crate) granted: usize,
    pub(crate) requests: HashMap<RequestId, oneshot::Sender<Reply>>,
    pub(crate) host_keys: watch::Sender<Vec<Bytes>>,
    /// The end was asked for: it comes when everything is written.
    pub(crate) closing: bool,
    /// The end has come, written or not.
    pub(crate) cut: bool,
    pub(crate) ended: Option<Error>,
    /// What was read before goes on now.
    pub(crate) again: bool,
    /// The driver waits for the socket to take more.
    pub(crate) blocked: bool,
    driver: Option<Waker>,
    wakes: Wakes,
}

/// The state behind its lock.
pub(crate) struct Shared {
    state: Mutex<State>,
    pub(crate) ended: watch::Sender<Option<Error>>,
}

impl Shared {
    pub(crate) fn new(transport: Transport, connection: Connection) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                transport,
                connection,
                stage: Stage::Login(Login::default()),
                slots: Vec::new(),
                queue: VecDeque::new(),
                granted: 0,
                requests: HashMap::new(),
                host_keys: watch::Sender::new(Vec::new()),
                closing: false,
                cut: false,
                ended: None,
                again: false,
                blocked: false,
                driver: None,
                wakes: Wakes::default(),
            }),
            ended: watch::Sender::new(None),
        })
    }

    /// Works on the state, for the driver.
    pub(crate) fn drive<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        // A panic under the lock ends the driver, which ends the session: what it left is only read.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut state);
        let wakes = std::mem::take(&mut state.wakes);
        drop(state);
        wakes.wake();
        result
    }

    /// Works on the state, for a handle: what it sends, the driver writes.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        self.drive(|state| {
            let result = work(state);
            if state.again
                || !state.blocked && (state.closing || !state.transport.output().is_empty())
            {
                state.kick();
            }
            result
        })
    }
}

impl State {
    /// Wakes the driver.
    pub(crate) fn kick(&mut self) {
        self.wakes.push(self.driver.take());
    }

    /// Remembers whom to wake for the driver.
    pub(crate) fn driven_by(&mut self, waker: &Waker) {
        remember(&mut self.driver, waker);
    }

    pub(crate) fn slot(&mut self, id: ChannelId) -> Option<&mut Slot> {
        self.slots.get_mut(id.0 as usize)
    }

    /// A fresh slot for a channel.
    pub(crate) fn make_slot(&mut self, id: ChannelId) -> Option<&mut Slot> {
        let at = id.0 as usize;
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, Slot::default);
        }
        let slot = self.slots.get_mut(at)?;
        *slot = Slot::default();
        Some(slot)
    }

    /// The server closed the connection: what it said instead of an identification tells why.
    pub(crate) fn eof(&self) -> Error {
        let said = self.transport.pre_banner();
        match &self.stage {
            Stage::Login(login) if login.ident.is_empty() && !said.is_empty() => {
                Error::Ident(format!("it closed the connection after saying: {said}"))
            }
            _ => Error::Eof,
        }
    }

    /// Takes in all that was read.
    pub(crate) fn read(&mut self, now: Instant) -> Result<(), Error> {
        while let Some(event) = self.transport.poll(now)? {
            self.heed(now, event)?;
        }
        if self.transport.backlog() > OUT_LIMIT {
            return Err(Error::Protocol(
                "it asks for answers and does not read them".to_owned(),
            ));
        }
        Ok(())
    }

    fn heed(&mut self, now: Instant, event: transport::Event) -> Result<(), Error> {
        if let transport::Event::Disconnected { code, text } = event {
            let by = Party::Them;
            return Err(Error::Disconnected { code, text, by });
        }
        match &mut self.stage {
            Stage::Login(login) => {
                match event {
                    transport::Event::Ident(ident) => login.ident = ident,
                    transport::Event::HostKey(offer) => login.host_key = Some(offer),
                    transport::Event::Ready(negotiated) => login.ready = Some(negotiated),
                    transport::Event::Packet(_) if login.is_full() => {
                        let what = "too many messages before the login";
                        return Err(Error::Protocol(what.to_owned()));
                    }
                    transport::Event::Packet(payload) => login.inbox.push_back(payload),
                    _ => return Ok(()),
                }
                self.wakes.push(login.waker.take());
                Ok(())
            }
            Stage::Standing { .. } => {
                match event {
                    transport::Event::Packet(payload) => self.packet(now, payload)?,
                    transport::Event::Unimplemented(number) => {
                        self.connection.unknown(now, number, &mut self.transport);
                        self.tell_all();
                    }
                    _ => {}
                }
                Ok(())
            }
        }
    }

    /// Takes in one packet of the standing session.
    pub(crate) fn packet(&mut self, now: Instant, payload: Bytes) -> Result<(), Error> {
        let handled = self.connection.handle(now, payload, &mut self.transport);
        self.tell_all();
        handled
    }

    /// Does what is due.
    pub(crate) fn on_time(&mut self, now: Instant) -> Result<(), Error> {
        self.connection.handle_timeout(now);
        self.tell_all();
        match self.transport.poll_timeout() {
            Some(due) if due <= now => self.transport.handle_timeout(now),
            _ => Ok(()),
        }
    }

    fn tell_all(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            self.tell(event);
        }
    }

    fn tell(&mut self, event: Event) {
        match event {
            Event::Readable(id) => {
                let waker = self.slot(id).and_then(|slot| slot.reader.take());
                self.wakes.push(waker);
            }
            Event::Writable(id) => {
                let closed = self.connection.is_closed(id);
                let Some(slot) = self.slots.get_mut(id.0 as usize) else {
                    return;
                };
                self.wakes.push(slot.writer.take());
                if closed {
                    self.wakes.extend(&mut slot.closers);
                }
            }
            Event::Opened(id) => self.opened(id, Ok(())),
            Event::Refused {
                channel,
                code,
                text,
            } => self.opened(channel, Err((code, text))),
            Event::Incoming(incoming) => self.offer(incoming),
            Event::Reply(id, reply) => {
                if let Some(asker) = self.requests.remove(&id) {
                    let _ = asker.send(reply);
                }
            }
            Event::HostKeys(keys) => {
                self.host_keys.send_replace(keys);
            }
        }
    }

    fn opened(&mut self, id: ChannelId, result: Result<(), Refusal>) {
        if let Some(opener) = self.slot(id).and_then(|slot| slot.opener.take()) {
            let _ = opener.send(result);
        }
    }

    /// Hands a channel of the server's on, and never waits for whoever takes it.
    fn offer(&mut self, incoming: crate::connection::Incoming) {
        self.make_slot(incoming.channel);
        let Stage::Standing {
            incoming: queue,
            handle,
        } = &self.stage
        else {
            return;
        };
        let room = queue.try_reserve().ok().zip(handle.upgrade());
        let Some((permit, handle)) = room else {
            let id = incoming.channel;
            self.connection
                .refuse(id, 4, "too many at once", &mut self.transport);
            return;
        };
        permit.send(Incoming {
            listen: incoming.listen,
            port: incoming.port,
            originator: incoming.originator,
            channel: PendingChannel::new(handle, incoming.channel),
        });
    }

    /// Gives the next writers their turns, as many as there is room for.
    pub(crate) fn grant(&mut self) {
        if self.queue.is_empty() || self.transport.is_rekeying() {
            return;
        }
        // Whoever has not used the last turn yet keeps it; whoever has gone holds up nobody.
        self.granted = 0;
        let mut room = OUT_HIGH.saturating_sub(self.transport.output().len());
        while room > 0
            && let Some(id) = self.queue.pop_front()
        {
            room = room.saturating_sub(TURN);
            if let Some(slot) = self.slots.get_mut(id.0 as usize) {
                slot.queued = false;
                slot.turn = true;
                self.granted += 1;
                self.wakes.push(slot.writer.take());
            }
        }
    }

    /// Ends the session: everyone who waits is told.
    pub(crate) fn end(&mut self, error: &Error) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(error.clone());
        self.requests.clear();
        self.queue = VecDeque::new();
        for slot in &mut self.slots {
            slot.opener = None;
            self.wakes.push(slot.reader.take());
            self.wakes.push(slot.writer.take());
            self.wakes.extend(&mut slot.closers);
        }
        match &mut self.stage {
            Stage::Login(login) => self.wakes.push(login.waker.take()),
            // Whoever takes the server's channels sees that none will come.
            Stage::Standing { incoming, .. } => *incoming = mpsc::channel(1).0,
        }
    }

    /// Lets go of memory that a burst left behind.
    pub(crate) fn shrink(&mut self) {
        if self.transport.output().is_empty() {
            *self.transport.output() = bytes::BytesMut::new();
        }
        if self.connection.channels() == 0 {
            self.slots = Vec::new();
            self.queue = VecDeque::new();
            self.requests.shrink_to_fit();
        }
    }
}
