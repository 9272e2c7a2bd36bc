//! The state that the session's task and the handles share, behind one mutex.
//!
//! Work under the lock only computes (sealing, opening, bookkeeping): no await and no system call, so waiting for
//! the lock costs less than handing the work to another task. Writers seal straight into the transport's output,
//! readers take straight from the channel's buffer.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::wake::{WakeList, store_waker};
use crate::connection::{ChannelId, Connection, GlobalReply, OpenRequest, RequestId};
use crate::error::Error;
use crate::transport::{HostKeyOffer, Negotiated, Transport};

/// Bytes of sealed output at which bulk writers wait.
pub(super) const OUTPUT_HIGH_WATER: usize = 256 * 1024;
/// Bytes beyond [`OUTPUT_HIGH_WATER`] that small writes may still add, so that they do not wait behind bulk data.
pub(super) const OUTPUT_SMALL_WRITE_SLACK: usize = 32 * 1024;
/// Bytes one channel may queue per scheduling round before the next channel gets its turn.
pub(super) const TURN_BYTES: usize = 32 * 1024;
/// Messages, and bytes of them, that may wait while the caller does not read authentication replies.
const AUTH_QUEUE_MESSAGES: usize = 64;
const AUTH_QUEUE_BYTES: usize = 512 * 1024;

/// Reason code (RFC 4254 §5.1) and text of the server's CHANNEL_OPEN_FAILURE.
pub(super) type OpenFailure = (u32, String);

/// Tasks that wait for one channel, by direction.
#[derive(Debug, Default)]
pub(super) struct ChannelWaiters {
    /// The task that waits for something to read; one at most, because the reading handle is not cloned.
    pub(super) reader: Option<Waker>,
    /// The task that waits to write: for the server's window, for room in the output, or for its turn.
    pub(super) writer: Option<Waker>,
    /// Tasks that wait for the server's CLOSE; several may share one writer.
    pub(super) close_watchers: Vec<Waker>,
    /// Receives the answer to our CHANNEL_OPEN.
    pub(super) opener: Option<oneshot::Sender<Result<(), OpenFailure>>>,
    /// Whether the writer is in [`SessionState::write_queue`].
    pub(super) queued: bool,
    /// Whether the writer may seal one batch of [`TURN_BYTES`] now.
    pub(super) has_turn: bool,
}

/// What the task has found for the caller that runs the handshake and the authentication.
#[derive(Debug, Default)]
pub(super) struct HandshakeState {
    /// The server's identification line; empty until it is received.
    pub(super) ident: String,
    pub(super) host_key: Option<Box<HostKeyOffer>>,
    pub(super) ready: Option<Box<Negotiated>>,
    /// Payloads from the server, oldest first; bounded by [`AUTH_QUEUE_MESSAGES`] and [`AUTH_QUEUE_BYTES`].
    pub(super) replies: VecDeque<Bytes>,
    pub(super) waker: Option<Waker>,
}

impl HandshakeState {
    pub(super) fn is_full(&self) -> bool {
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
pub(super) struct SessionState {
    pub(super) transport: Transport,
    pub(super) connection: Connection,
    pub(super) phase: SessionPhase,
    /// Waiting tasks, indexed by the number of their [`ChannelId`]; longer than the number of channels after a burst.
    pub(super) waiters: Vec<ChannelWaiters>,
    /// Channels whose writers wait for a turn, in order.
    pub(super) write_queue: VecDeque<ChannelId>,
    /// Turns of the current round that were granted and not used yet.
    pub(super) unused_turns: usize,
    /// Callers that wait for the reply to a global request. A caller that gave up is not in it.
    pub(super) pending_requests: HashMap<RequestId, oneshot::Sender<GlobalReply>>,
    /// The host keys that the server announced last; empty before the first announcement.
    pub(super) host_keys: watch::Sender<Vec<Bytes>>,
    /// Ends the session once all output is written.
    pub(super) close_when_flushed: bool,
    /// Ends the session at once.
    pub(super) abort: bool,
    /// Why the session has ended. `None` while it runs.
    pub(super) ended: Option<Error>,
    /// Set when input that was read earlier can be processed now, because the host key was accepted.
    pub(super) reprocess_input: bool,
    /// Whether the task waits for the socket to become writable. Waking it for new output is useless then.
    pub(super) socket_blocked: bool,
    /// Wakes the session's task. `None` once it is used: the task stores a new one each time that it runs.
    task_waker: Option<Waker>,
    /// Wakers to call when the lock is released.
    pub(super) wake_list: WakeList,
}

/// [`SessionState`] behind its lock, and the end of the session to wait for without the lock.
pub(super) struct SharedSession {
    state: Mutex<SessionState>,
    pub(super) ended: watch::Sender<Option<Error>>,
}

impl SharedSession {
    pub(super) fn new(transport: Transport, connection: Connection) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(SessionState {
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
    pub(super) fn with_state<T>(&self, work: impl FnOnce(&mut SessionState) -> T) -> T {
        // A panic under the lock ends the session's task, which ends the session: the state is only read after it.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = work(&mut state);
        let wake_list = std::mem::take(&mut state.wake_list);
        // A woken task may run at once on another thread and would wait for this lock.
        drop(state);
        wake_list.wake_all();
        result
    }

    /// As [`SharedSession::with_state`], for handles: wakes the session's task if `work` left something to write.
    pub(super) fn submit<T>(&self, work: impl FnOnce(&mut SessionState) -> T) -> T {
        self.with_state(|state| {
            let result = work(state);
            let has_output = state.close_when_flushed || !state.transport.output().is_empty();
            // A task that waits for the socket is woken by the socket: waking it for each packet would cost a switch
            // for nothing.
            if state.reprocess_input || !state.socket_blocked && has_output {
                state.wake_task();
            }
            result
        })
    }
}

impl SessionState {
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
        // Grows only: channel numbers are reused, and `shrink` frees the list when the last channel is gone.
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

    /// Starts a scheduling round: gives the next writers their turns, up to the room in the output.
    pub(super) fn grant_turns(&mut self) {
        if self.write_queue.is_empty() || self.transport.is_rekeying() {
            return;
        }
        // A writer that has not used its last turn keeps it, but is no longer counted: a writer that was dropped
        // with a turn would hold up the others forever.
        self.unused_turns = 0;
        // As many turns as there is room for: with fewer the socket would run dry, with more the output would grow
        // without bound.
        let mut room = OUTPUT_HIGH_WATER.saturating_sub(self.transport.output().len());
        while room > 0
            && let Some(id) = self.write_queue.pop_front()
        {
            // A turn is charged in full, although the writer may use less: what it will write is not known here.
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
            // Dropping the sender ends the wait of `Session::open`.
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
            // `clear` would keep the capacity of the largest burst.
            *self.transport.output() = bytes::BytesMut::new();
        }
        // With channels open, the list is in use, and its entries hold their wakers.
        if self.connection.channel_count() == 0 {
            self.waiters = Vec::new();
            self.write_queue = VecDeque::new();
            self.pending_requests.shrink_to_fit();
        }
    }
}
