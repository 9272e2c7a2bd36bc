//! The task that owns the socket: reads without waiting for consumers, writes sealed output, runs the timers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::{Instant, Sleep};

use super::options::Options;
use super::state::{SessionPhase, SessionState, SharedSession};
use super::stream::Stream;
use crate::error::{Error, Party};

/// Bounds of one read, in bytes. The size doubles under bulk traffic, so that fewer system calls are made, and
/// shrinks again, so that an idle session holds little memory.
const MIN_READ_BLOCK: usize = 4 * 1024;
const MAX_READ_BLOCK: usize = 128 * 1024;
/// Bytes read in one poll before other tasks of the runtime get their turn.
const READ_BUDGET: usize = 256 * 1024;
/// Time without bulk traffic after which buffers are freed.
const SHRINK_AFTER: Duration = Duration::from_secs(2);
/// A keepalive timer that fires later than this shows that this process was suspended or starved.
const STALL_THRESHOLD: Duration = Duration::from_millis(500);
/// SSH_DISCONNECT_PROTOCOL_ERROR (RFC 4253 §11.1).
const PROTOCOL_ERROR: u32 = 2;

/// The task of one session. Resolves when the session has ended.
pub(super) struct SessionTask {
    shared: Arc<SharedSession>,
    stream: Stream,
    options: Options,
    /// Swapped with the transport's read buffer under the lock, so that reading needs no lock.
    read_buffer: BytesMut,
    /// Size of the next read block, in bytes: from [`MIN_READ_BLOCK`] to [`MAX_READ_BLOCK`].
    read_block: usize,
    /// Swapped with the transport's output under the lock: sealing continues while it is being written.
    write_buffer: BytesMut,
    /// Whether everything written so far is flushed; a stream over a channel or pipe may buffer internally.
    flushed: bool,
    /// Whether received bytes may still be waiting for a delayed ACK (see [`Stream::poll_read`]).
    quickack_pending: bool,
    /// When the server's last byte was received: any byte shows that it is alive, not only answers to keepalive
    /// requests.
    last_received: Instant,
    /// `None` before authentication, or if keepalive is off.
    next_ping: Option<Instant>,
    /// Last time of bulk traffic. `None` once the buffers are freed.
    busy_since: Option<Instant>,
    /// One timer for all deadlines; it is reset only when the earliest one has changed.
    sleep: Pin<Box<Sleep>>,
}

impl SessionTask {
    pub(super) fn new(shared: Arc<SharedSession>, stream: Stream, options: Options) -> Self {
        stream.set_socket_options(options.dead_after());
        let now = Instant::now();
        Self {
            shared,
            stream,
            options,
            read_buffer: BytesMut::new(),
            read_block: MIN_READ_BLOCK,
            write_buffer: BytesMut::new(),
            flushed: true,
            quickack_pending: false,
            last_received: now,
            next_ping: None,
            busy_since: None,
            sleep: Box::pin(tokio::time::sleep_until(now)),
        }
    }

    /// Does all reading and writing that is possible now. An error ends the session.
    fn poll_io(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        // The waker is stored before anything is looked at: a handle that changes the state afterwards wakes the task
        // again.
        let (reprocess, abort) = self.shared.with_state(|state| {
            state.set_task_waker(cx.waker());
            (std::mem::take(&mut state.reprocess_input), state.abort)
        });
        if abort {
            return Err(closed_by_client());
        }
        if reprocess {
            self.process_input()?;
        }
        let mut budget = READ_BUDGET;
        loop {
            // Reading and writing alternate: a socket that takes no more must not stop reading, and answers leave
            // early.
            let read = self.read_once(cx)?;
            self.write_output(cx)?;
            if read == 0 {
                break;
            }
            budget = budget.saturating_sub(read);
            if budget == 0 {
                cx.waker().wake_by_ref();
                break;
            }
        }
        self.poll_timers(cx)
    }

    /// Reads once and processes it. Returns the number of bytes, 0 if none are there.
    fn read_once(&mut self, cx: &mut Context<'_>) -> Result<usize, Error> {
        let count = match self.stream.poll_read(
            cx,
            &mut self.read_buffer,
            self.read_block,
            &mut self.quickack_pending,
        ) {
            Poll::Pending => return Ok(0),
            Poll::Ready(Ok(0)) => return Err(Error::Eof),
            Poll::Ready(count) => count?,
        };
        self.last_received = Instant::now();
        // Grows at half full: a read is often cut by what the kernel has, also under bulk traffic.
        if count >= self.read_block / 2 {
            self.read_block = (self.read_block * 2).min(MAX_READ_BLOCK);
            self.busy_since = Some(self.last_received);
        } else if count < self.read_block / 16 {
            self.read_block = (self.read_block / 2).max(MIN_READ_BLOCK);
        }
        self.process_input()?;
        Ok(count)
    }

    fn process_input(&mut self) -> Result<(), Error> {
        let now = Instant::now().into_std();
        let read_buffer = &mut self.read_buffer;
        self.shared.with_state(|state| {
            std::mem::swap(state.transport.read_buffer(), read_buffer);
            let result = state.process_input(now);
            std::mem::swap(state.transport.read_buffer(), read_buffer);
            result.inspect_err(|error| send_disconnect(state, error))
        })
    }

    /// Writes until all output is written or the socket takes no more.
    fn write_output(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        loop {
            if self.write_buffer.is_empty() {
                let write_buffer = &mut self.write_buffer;
                let closing = self.shared.with_state(|state| {
                    state.socket_blocked = false;
                    std::mem::swap(state.transport.output(), write_buffer);
                    state.grant_turns();
                    state.close_when_flushed
                });
                if self.write_buffer.is_empty() {
                    if !self.flushed {
                        self.flushed = self.stream.poll_flush(cx)?.is_ready();
                    }
                    return if closing {
                        Err(closed_by_client())
                    } else {
                        Ok(())
                    };
                }
                if self.write_buffer.len() > MAX_READ_BLOCK / 2 {
                    self.busy_since = Some(Instant::now());
                }
            }
            match self.stream.poll_write(cx, &self.write_buffer) {
                Poll::Ready(Ok(count)) => {
                    self.write_buffer.advance(count);
                    self.flushed = false;
                }
                Poll::Ready(Err(error)) => {
                    return Err(self.read_after_write_error(cx, error.into()));
                }
                Poll::Pending => {
                    self.shared.with_state(|state| {
                        state.socket_blocked = true;
                        state.grant_turns();
                    });
                    return Ok(());
                }
            }
        }
    }

    /// Reads what the server sent before the write failed: a DISCONNECT among it explains more than `error`.
    fn read_after_write_error(&mut self, cx: &mut Context<'_>, error: Error) -> Error {
        // Bounded: a server that sends without end must not keep the session alive.
        for _ in 0..64 {
            match self.read_once(cx) {
                Ok(0) | Err(Error::Eof | Error::Io(_)) => break,
                Ok(_) => {}
                Err(reason) => return reason,
            }
        }
        error
    }

    /// Fires the timers that are due and arms the next one.
    fn poll_timers(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        // Each round may make another timer due. The bound only guards against a loop: the task is polled again.
        for _ in 0..8 {
            let now = Instant::now();
            let protocol_deadline = self.protocol_deadline(now);
            let keepalive = self
                .next_ping
                .and_then(|ping| Some(ping.min(self.last_received + self.options.dead_after()?)));
            let shrink_at = self.busy_since.map(|since| since + SHRINK_AFTER);
            let lateness = keepalive.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
            let next = [protocol_deadline, keepalive, shrink_at]
                .into_iter()
                .flatten()
                .min();
            let Some(next) = next else {
                return Ok(());
            };
            if next > now {
                // Most wake-ups leave the earliest deadline as it was: the timer is not touched then.
                if next != self.sleep.deadline() {
                    self.sleep.as_mut().reset(next);
                }
                if self.sleep.as_mut().poll(cx).is_pending() {
                    return Ok(());
                }
                continue;
            }
            self.fire_timers(cx, now, lateness)?;
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// The next deadline of the transport and the connection. Starts keepalive once the session is established.
    fn protocol_deadline(&mut self, now: Instant) -> Option<Instant> {
        let keepalive_is_off = self.options.dead_after().is_none();
        let (deadline, start_keepalive) = self.shared.with_state(|state| {
            let established = matches!(state.phase, SessionPhase::Established { .. });
            let deadlines = [
                state.transport.poll_timeout(),
                state.connection.poll_timeout(),
            ];
            (
                deadlines.into_iter().flatten().min(),
                established && self.next_ping.is_none() && !keepalive_is_off,
            )
        });
        if start_keepalive {
            // The first ping is sent at once: it measures the round trip before there is load on the line.
            self.last_received = now;
            self.next_ping = Some(now);
        }
        deadline.map(Instant::from_std)
    }

    fn fire_timers(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        lateness: Duration,
    ) -> Result<(), Error> {
        if lateness > STALL_THRESHOLD {
            // This process was suspended or starved: that time says nothing about the server.
            self.last_received = now.min(self.last_received + lateness);
        }
        if self
            .busy_since
            .is_some_and(|since| now >= since + SHRINK_AFTER)
        {
            self.shrink_buffers();
        }
        if let (Some(ping), Some(dead_after)) = (self.next_ping, self.options.dead_after()) {
            // Also while data is waiting to be written: a blocked socket must not hide a dead peer.
            if now >= self.last_received + dead_after {
                return Err(Error::DeadPeer(dead_after));
            }
            if now >= ping {
                // From now and not from the planned time: after a suspension, missed pings are not made up for.
                self.next_ping = self.options.ping_interval().map(|interval| now + interval);
                self.shared.with_state(|state| {
                    // One ping at a time: a dead server must not collect them. During a key exchange it would be held
                    // back, and the exchange has its own deadline.
                    if !state.connection.is_ping_pending() && !state.transport.is_rekeying() {
                        state.connection.ping(now.into_std(), &mut state.transport);
                    }
                });
            }
        }
        self.shared.with_state(|state| {
            state
                .handle_timeouts(now.into_std())
                .inspect_err(|error| send_disconnect(state, error))
        })?;
        self.write_output(cx)
    }

    fn shrink_buffers(&mut self) {
        self.busy_since = None;
        self.read_block = MIN_READ_BLOCK;
        if self.read_buffer.is_empty() {
            self.read_buffer = BytesMut::new();
        }
        if self.write_buffer.is_empty() {
            self.write_buffer = BytesMut::new();
        }
        self.shared.with_state(SessionState::shrink);
    }

    /// Ends the session. Output such as DISCONNECT is written only as far as the socket takes it at once.
    fn finish(&mut self, cx: &mut Context<'_>, error: &Error) {
        // Bounded: the output may refill while it is written, and the socket must not keep the task alive.
        for _ in 0..4 {
            if self.write_buffer.is_empty() {
                let write_buffer = &mut self.write_buffer;
                self.shared
                    .with_state(|state| std::mem::swap(state.transport.output(), write_buffer));
            }
            if self.write_buffer.is_empty() {
                break;
            }
            match self.stream.poll_write(cx, &self.write_buffer) {
                Poll::Ready(Ok(count)) => self.write_buffer.advance(count),
                _ => break,
            }
        }
        // The session ends whatever happens: the caller gets `error`, which explains more than a failed flush.
        let _ = self.stream.poll_flush(cx);
        publish_end(&self.shared, error);
    }
}

/// Tells a server that broke the protocol why the session ends. The transport sends its own errors itself.
fn send_disconnect(state: &mut SessionState, error: &Error) {
    if let Error::Protocol(text) = error {
        state.transport.disconnect(PROTOCOL_ERROR, text);
    }
}

fn closed_by_client() -> Error {
    Error::Disconnected {
        code: 11,
        text: "closed".to_owned(),
        by: Party::Client,
    }
}

fn publish_end(shared: &SharedSession, error: &Error) {
    let error = &shared.with_state(|state| state.explain_end(error));
    shared.with_state(|state| state.end(error));
    shared.ended.send_if_modified(|ended| {
        let first = ended.is_none();
        // The first reason stays: what follows is only its effect.
        if first {
            *ended = Some(error.clone());
        }
        first
    });
}

impl Future for SessionTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        match this.poll_io(cx) {
            Ok(()) => Poll::Pending,
            Err(error) => {
                this.finish(cx, &error);
                Poll::Ready(())
            }
        }
    }
}

impl Drop for SessionTask {
    fn drop(&mut self) {
        // Reached without `finish` only after a panic, or when the last handle was dropped.
        publish_end(&self.shared, &closed_by_client());
    }
}
