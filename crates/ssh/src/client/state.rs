//! The state that the session's task and the handles share, behind one mutex.
//!
//! Work under the lock only computes (sealing, opening, bookkeeping): no await and no system call, so waiting for
//! the lock costs less than handing the work to another task. Writers seal straight into the transport's output,
//! readers take straight from the channel's buffer.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::wake::{WakeList, store_waker};
use crate::connection::{
    ChannelId, Connection, ConnectionEvent, GlobalReply, OpenRequest, RequestId,
};
use crate::error::{Error, Party};
use crate::transport::{HostKeyOffer, Negotiated, Transport, TransportEvent};

/// Bytes of sealed output at which bulk writers wait.
pub(super) const OUTPUT_HIGH_WATER: usize = 256 * 1024;
/// Bytes beyond [`OUTPUT_HIGH_WATER`] that small writes may still add, so that they do not wait behind bulk data.
pub(super) const OUTPUT_SMALL_WRITE_SLACK: usize = 32 * 1024;
/// Bytes one channel may queue per scheduling round before the next channel gets its turn.
pub(super) const TURN_BYTES: usize = 32 * 1024;
/// Bytes of output at which the session ends: only a server that requests replies and does not read them causes it.
const OUTPUT_LIMIT: usize = 4 * 1024 * 1024;
/// Messages, and bytes of them, that may wait while the caller does not read authentication replies.
const AUTH_QUEUE_MESSAGES: usize = 64;
const AUTH_QUEUE_BYTES: usize = 512 * 1024;
/// SSH_OPEN_RESOURCE_SHORTAGE (RFC 4254 §5.1).
const RESOURCE_SHORTAGE: u32 = 4;

/// Reason code (RFC 4254 §5.1) and text of the server's CHANNEL_OPEN_FAILURE.
pub(super) type OpenFailure = (u32, String);

/// Tasks that wait for one channel, by direction.
#[derive(Debug, Default)]
pub(super) struct ChannelWaiters {
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    /// Tasks that wait for the server's CLOSE; several may share one writer.
    pub(super) close_watchers: Vec<Waker>,
    /// Receives the answer to our CHANNEL_OPEN.
    pub(super) opener: Option<oneshot::Sender<Result<(), OpenFailure>>>,
    /// Whether the writer is in [`State::write_queue`].
    pub(super) queued: bool,
    /// Whether the writer may seal one batch of [`TURN_BYTES`] now.
    pub(super) has_turn: bool,
}

/// What the task has found for the caller that runs the handshake and the authentication.
#[derive(Debug, Default)]
pub(super) struct HandshakeState {
    pub(super) ident: String,
    pub(super) host_key: Option<Box<HostKeyOffer>>,
    pub(super) ready: Option<Box<Negotiated>>,
    /// Payloads from the server, oldest first.
    pub(super) replies: VecDeque<Bytes>,
    pub(super) waker: Option<Waker>,
}

impl HandshakeState {
    fn is_full(&self) -> bool {
        let bytes: usize = self.replies.iter().map(Bytes::len).sum();
        self.replies.len() == AUTH_QUEUE_MESSAGES || bytes > AUTH_QUEUE_BYTES
    }
}

#[derive(Debug)]
pub(super) enum SessionPhase {
    Handshake(HandshakeState),
    /// Authenticated: channels may be opened. `incoming` passes on the channels that the server opens.
    Established {
        incoming: mpsc::Sender<OpenRequest>,
    },
}

/// Everything of one session except its socket and timers.
pub(super) struct State {
    pub(super) transport: Transport,
    pub(super) connection: Connection,
    pub(super) phase: SessionPhase,
    /// Waiting tasks by [`ChannelId`].
    pub(super) waiters: Vec<ChannelWaiters>,
    /// Channels whose writers wait for a turn, in order.
    pub(super) write_queue: VecDeque<ChannelId>,
    /// Turns of the current round that were granted and not used yet.
    pub(super) unused_turns: usize,
    pub(super) pending_requests: HashMap<RequestId, oneshot::Sender<GlobalReply>>,
    pub(super) host_keys: watch::Sender<Vec<Bytes>>,
    /// Ends the session once all output is written.
    pub(super) close_when_flushed: bool,
    /// Ends the session at once.
    pub(super) abort: bool,
    pub(super) ended: Option<Error>,
    /// Set when input that was read earlier can be processed now, because the host key was accepted.
    pub(super) reprocess_input: bool,
    /// Whether the task waits for the socket to become writable. Waking it for new output is useless then.
    pub(super) socket_blocked: bool,
    task_waker: Option<Waker>,
    wake_list: WakeList,
}

/// [`State`] behind its lock, and the end of the session to wait for without the lock.
pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) ended: watch::Sender<Option<Error>>,
}

impl Shared {
    pub(super) fn new(transport: Transport, connection: Connection) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                transport,
                connection,
                phase: SessionPhase::Handshake(HandshakeState::default()),
                waiters: Vec::new(),
                write_queue: VecDeque::new(),
                unused_turns: 0,
                pending_requests: HashMap::new(),
                host_keys: watch::Sender::new(Vec::new()),
                close_when_flushed: false,
                abort: false,
                ended: None,
                reprocess_input: false,
                socket_blocked: false,
                task_waker: None,
                wake_list: WakeList::default(),
            }),
            ended: watch::Sender::new(None),
        })
    }

    /// Runs `work` under the lock and then calls the wakers that it collected. Does not wake the session's task for
    /// new output: for the task itself, and for handles that only look.
    pub(super) fn with_state<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        // A panic under the lock ends the session's task, which ends the session: the state is only read after it.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut state);
        let wake_list = std::mem::take(&mut state.wake_list);
        drop(state);
        wake_list.wake_all();
        result
    }

    /// As [`Shared::with_state`], for handles: wakes the session's task if `work` left something to write.
    pub(super) fn submit<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        self.with_state(|state| {
            let result = work(state);
            let has_output = state.close_when_flushed || !state.transport.output().is_empty();
            if state.reprocess_input || !state.socket_blocked && has_output {
                state.wake_task();
            }
            result
        })
    }
}

impl State {
    /// Wakes the session's task once the lock is released.
    pub(super) fn wake_task(&mut self) {
        self.wake_list.push(self.task_waker.take());
    }

    pub(super) fn set_task_waker(&mut self, waker: &Waker) {
        store_waker(&mut self.task_waker, waker);
    }

    pub(super) fn waiters(&mut self, id: ChannelId) -> Option<&mut ChannelWaiters> {
        self.waiters.get_mut(id.0 as usize)
    }

    /// Makes an empty entry for a new channel.
    pub(super) fn reset_waiters(&mut self, id: ChannelId) -> Option<&mut ChannelWaiters> {
        let at = id.0 as usize;
        if self.waiters.len() <= at {
            self.waiters.resize_with(at + 1, ChannelWaiters::default);
        }
        let waiters = self.waiters.get_mut(at)?;
        *waiters = ChannelWaiters::default();
        Some(waiters)
    }

    /// Adds to an end of the stream the text that the server sent instead of an identification; every other error
    /// stays as it is.
    pub(super) fn explain_end(&self, error: &Error) -> Error {
        match (&self.phase, error) {
            (SessionPhase::Handshake(handshake), Error::Eof | Error::Io(_))
                if handshake.ident.is_empty() =>
            {
                match self.transport.received_before_ident() {
                    text if text.is_empty() => error.clone(),
                    text => Error::ClosedEarly(text),
                }
            }
            _ => error.clone(),
        }
    }

    /// Processes all packets in the transport's read buffer.
    pub(super) fn process_input(&mut self, now: Instant) -> Result<(), Error> {
        while let Some(event) = self.transport.poll_event(now)? {
            self.handle_event(now, event)?;
        }
        if self.transport.unsent_bytes() > OUTPUT_LIMIT {
            return Err(Error::Protocol(
                "it requests replies and does not read them".to_owned(),
            ));
        }
        Ok(())
    }

    fn handle_event(&mut self, now: Instant, event: TransportEvent) -> Result<(), Error> {
        if let TransportEvent::Disconnected { code, text } = event {
            let by = Party::Server;
            return Err(Error::Disconnected { code, text, by });
        }
        match &mut self.phase {
            SessionPhase::Handshake(handshake) => {
                match event {
                    TransportEvent::Ident(ident) => handshake.ident = ident,
                    TransportEvent::HostKey(offer) => handshake.host_key = Some(offer),
                    TransportEvent::Ready(negotiated) => handshake.ready = Some(negotiated),
                    TransportEvent::Packet(_) if handshake.is_full() => {
                        let what = "too many messages before the login";
                        return Err(Error::Protocol(what.to_owned()));
                    }
                    TransportEvent::Packet(payload) => handshake.replies.push_back(payload),
                    _ => return Ok(()),
                }
                self.wake_list.push(handshake.waker.take());
                Ok(())
            }
            SessionPhase::Established { .. } => {
                match event {
                    TransportEvent::Packet(payload) => self.handle_packet(now, payload)?,
                    TransportEvent::Unimplemented(sequence) => {
                        self.connection
                            .handle_unimplemented(now, sequence, &mut self.transport);
                        self.dispatch_events();
                    }
                    _ => {}
                }
                Ok(())
            }
        }
    }

    /// Handles one packet of an established session.
    pub(super) fn handle_packet(&mut self, now: Instant, payload: Bytes) -> Result<(), Error> {
        let handled = self
            .connection
            .handle_packet(now, payload, &mut self.transport);
        self.dispatch_events();
        handled
    }

    /// Handles the deadlines of the connection and of the transport that have passed.
    pub(super) fn handle_timeouts(&mut self, now: Instant) -> Result<(), Error> {
        self.connection.handle_timeout(now);
        self.dispatch_events();
        match self.transport.poll_timeout() {
            Some(deadline) if deadline <= now => self.transport.handle_timeout(now),
            _ => Ok(()),
        }
    }

    fn dispatch_events(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            self.dispatch(event);
        }
    }

    /// Wakes or answers the task that waits for `event`.
    fn dispatch(&mut self, event: ConnectionEvent) {
        match event {
            ConnectionEvent::Readable(id) => {
                let waker = self.waiters(id).and_then(|waiters| waiters.reader.take());
                self.wake_list.push(waker);
            }
            ConnectionEvent::Writable(id) => {
                let closed = self.connection.is_closed(id);
                let Some(waiters) = self.waiters.get_mut(id.0 as usize) else {
                    return;
                };
                self.wake_list.push(waiters.writer.take());
                if closed {
                    self.wake_list.append(&mut waiters.close_watchers);
                }
            }
            ConnectionEvent::Opened(id) => self.finish_open(id, Ok(())),
            ConnectionEvent::OpenFailed {
                channel,
                code,
                text,
            } => self.finish_open(channel, Err((code, text))),
            ConnectionEvent::Incoming(request) => self.queue_incoming(request),
            ConnectionEvent::Reply(id, reply) => {
                if let Some(requester) = self.pending_requests.remove(&id) {
                    let _ = requester.send(reply);
                }
            }
            ConnectionEvent::HostKeys(keys) => {
                self.host_keys.send_replace(keys);
            }
        }
    }

    fn finish_open(&mut self, id: ChannelId, result: Result<(), OpenFailure>) {
        if let Some(opener) = self.waiters(id).and_then(|waiters| waiters.opener.take()) {
            let _ = opener.send(result);
        }
    }

    /// Passes on a channel that the server opened. Never waits: a full queue refuses the channel, because waiting
    /// here would hold up every other channel.
    fn queue_incoming(&mut self, request: OpenRequest) {
        let id = request.channel;
        self.reset_waiters(id);
        let SessionPhase::Established { incoming } = &self.phase else {
            return;
        };
        if incoming.try_send(request).is_err() {
            self.connection.refuse_channel(
                id,
                RESOURCE_SHORTAGE,
                "too many at once",
                &mut self.transport,
            );
        }
    }

    /// Starts a scheduling round: gives the next writers their turns, up to the room in the output.
    pub(super) fn grant_turns(&mut self) {
        if self.write_queue.is_empty() || self.transport.is_rekeying() {
            return;
        }
        // A writer that has not used its last turn keeps it, but is no longer counted: a writer that was dropped
        // with a turn would hold up the others forever.
        self.unused_turns = 0;
        let mut room = OUTPUT_HIGH_WATER.saturating_sub(self.transport.output().len());
        while room > 0
            && let Some(id) = self.write_queue.pop_front()
        {
            room = room.saturating_sub(TURN_BYTES);
            if let Some(waiters) = self.waiters.get_mut(id.0 as usize) {
                waiters.queued = false;
                waiters.has_turn = true;
                self.unused_turns += 1;
                self.wake_list.push(waiters.writer.take());
            }
        }
    }

    /// Marks the session as ended and wakes every waiting task. The first error stays.
    pub(super) fn end(&mut self, error: &Error) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(error.clone());
        self.pending_requests.clear();
        self.write_queue = VecDeque::new();
        for waiters in &mut self.waiters {
            waiters.opener = None;
            self.wake_list.push(waiters.reader.take());
            self.wake_list.push(waiters.writer.take());
            self.wake_list.append(&mut waiters.close_watchers);
        }
        match &mut self.phase {
            SessionPhase::Handshake(handshake) => self.wake_list.push(handshake.waker.take()),
            // Dropping the sender ends `IncomingChannels::recv`.
            SessionPhase::Established { incoming } => *incoming = mpsc::channel(1).0,
        }
    }

    /// Frees memory that a burst of traffic or channels has left behind.
    pub(super) fn shrink(&mut self) {
        if self.transport.output().is_empty() {
            *self.transport.output() = bytes::BytesMut::new();
        }
        if self.connection.channel_count() == 0 {
            self.waiters = Vec::new();
            self.write_queue = VecDeque::new();
            self.pending_requests.shrink_to_fit();
        }
    }
}
