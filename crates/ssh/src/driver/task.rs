//! The task that owns the socket: reads without waiting for anyone, writes what is sealed, keeps the time.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::{Instant, Sleep};

use super::Options;
use super::io::Stream;
use super::state::{Shared, Stage, State};
use crate::error::{Error, Party};

/// The largest block that is read into.
const BLOCK: usize = 128 * 1024;
/// The smallest.
const LEAST: usize = 4 * 1024;
/// After so many bytes others get their turn.
const BUDGET: usize = 256 * 1024;
/// Buffers are let go of after so long without bulk.
const REST: Duration = Duration::from_secs(2);
/// A timer later than this shows that we were the ones who stood still.
const STALL: Duration = Duration::from_millis(500);

/// One session's task.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    stream: Stream,
    options: Options,
    read: BytesMut,
    block: usize,
    written: BytesMut,
    flushed: bool,
    /// Bytes came that are not acknowledged at once yet.
    owed: bool,
    last_heard: Instant,
    next_ping: Option<Instant>,
    busy_since: Option<Instant>,
    sleep: Pin<Box<Sleep>>,
}

impl Driver {
    pub(crate) fn new(shared: Arc<Shared>, stream: Stream, options: Options) -> Self {
        stream.prepare(options.dead_after());
        let now = Instant::now();
        Self {
            shared,
            stream,
            options,
            read: BytesMut::new(),
            block: LEAST,
            written: BytesMut::new(),
            flushed: true,
            owed: false,
            last_heard: now,
            next_ping: None,
            busy_since: None,
            sleep: Box::pin(tokio::time::sleep_until(now)),
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        let (again, cut) = self.shared.drive(|state| {
            state.driven_by(cx.waker());
            (std::mem::take(&mut state.again), state.cut)
        });
        if cut {
            return Err(closed_by_us());
        }
        if again {
            self.take_in()?;
        }
        let mut budget = BUDGET;
        loop {
            let read = self.read(cx)?;
            self.write(cx)?;
            if read == 0 {
                break;
            }
            budget = budget.saturating_sub(read);
            if budget == 0 {
                cx.waker().wake_by_ref();
                break;
            }
        }
        self.keep_time(cx)
    }

    /// Reads once and takes it in; how much, 0 where there is nothing.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<usize, Error> {
        let count = match self
            .stream
            .poll_read(cx, &mut self.read, self.block, &mut self.owed)
        {
            Poll::Pending => return Ok(0),
            Poll::Ready(Ok(0)) => return Err(self.shared.drive(|state| state.eof())),
            Poll::Ready(count) => count?,
        };
        self.last_heard = Instant::now();
        if count >= self.block / 2 {
            self.block = (self.block * 2).min(BLOCK);
            self.busy_since = Some(self.last_heard);
        } else if count < self.block / 16 {
            self.block = (self.block / 2).max(LEAST);
        }
        self.take_in()?;
        Ok(count)
    }

    /// Takes in what was read.
    fn take_in(&mut self) -> Result<(), Error> {
        let now = Instant::now().into_std();
        let read = &mut self.read;
        self.shared.drive(|state| {
            std::mem::swap(state.transport.read_buffer(), read);
            let result = state.read(now);
            std::mem::swap(state.transport.read_buffer(), read);
            result.inspect_err(|error| farewell(state, error))
        })
    }

    /// Writes until everything is written or the socket takes no more.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        loop {
            if self.written.is_empty() {
                let written = &mut self.written;
                let closing = self.shared.drive(|state| {
                    state.blocked = false;
                    std::mem::swap(state.transport.output(), written);
                    state.grant();
                    state.closing
                });
                if self.written.is_empty() {
                    if !self.flushed {
                        self.flushed = self.stream.poll_flush(cx)?.is_ready();
                    }
                    return if closing { Err(closed_by_us()) } else { Ok(()) };
                }
                if self.written.len() > BLOCK / 2 {
                    self.busy_since = Some(Instant::now());
                }
            }
            match self.stream.poll_write(cx, &self.written) {
                Poll::Ready(Ok(count)) => {
                    self.written.advance(count);
                    self.flushed = false;
                }
                Poll::Ready(Err(error)) => return Err(self.last_words(cx, error.into())),
                Poll::Pending => {
                    self.shared.drive(|state| {
                        state.blocked = true;
                        state.grant();
                    });
                    return Ok(());
                }
            }
        }
    }

    /// A write failed: what the server said before it went tells more than the failure.
    fn last_words(&mut self, cx: &mut Context<'_>, error: Error) -> Error {
        for _ in 0..64 {
            match self.read(cx) {
                Ok(0) | Err(Error::Eof | Error::Io(_)) => break,
                Ok(_) => {}
                Err(told) => return told,
            }
        }
        error
    }

    fn keep_time(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        for _ in 0..8 {
            let now = Instant::now();
            let options = &self.options;
            let (due, begins) = self.shared.drive(|state| {
                let standing = matches!(state.stage, Stage::Standing { .. });
                let begins = standing && self.next_ping.is_none() && options.dead_after().is_some();
                let due = [
                    state.transport.poll_timeout(),
                    state.connection.poll_timeout(),
                ];
                (due.into_iter().flatten().min(), begins)
            });
            if begins {
                // The first one measures the line before there is any load on it.
                self.last_heard = now;
                self.next_ping = Some(now);
            }
            let alive = self
                .next_ping
                .and_then(|ping| Some(ping.min(self.last_heard + self.options.dead_after()?)));
            let rest = self.busy_since.map(|since| since + REST);
            let late = alive.map_or(Duration::ZERO, |due| now.saturating_duration_since(due));
            let due = [due.map(Instant::from_std), alive, rest]
                .into_iter()
                .flatten()
                .min();
            let Some(due) = due else {
                return Ok(());
            };
            if due > now {
                if due != self.sleep.deadline() {
                    self.sleep.as_mut().reset(due);
                }
                if self.sleep.as_mut().poll(cx).is_pending() {
                    return Ok(());
                }
                continue;
            }
            self.due(cx, now, late)?;
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn due(&mut self, cx: &mut Context<'_>, now: Instant, late: Duration) -> Result<(), Error> {
        if late > STALL {
            // We were stopped or starved: that time says nothing about the server.
            self.last_heard = now.min(self.last_heard + late);
        }
        if self.busy_since.is_some_and(|since| now >= since + REST) {
            self.rest();
        }
        if let (Some(ping), Some(dead_after)) = (self.next_ping, self.options.dead_after()) {
            if now >= self.last_heard + dead_after {
                return Err(Error::DeadPeer(dead_after));
            }
            if now >= ping {
                self.next_ping = self.options.period().map(|period| now + period);
                self.shared.drive(|state| {
                    if !state.connection.pinging() && !state.transport.is_rekeying() {
                        state.connection.ping(now.into_std(), &mut state.transport);
                    }
                });
            }
        }
        self.shared.drive(|state| {
            state
                .on_time(now.into_std())
                .inspect_err(|error| farewell(state, error))
        })?;
        self.write(cx)
    }

    /// Lets go of what a burst needed.
    fn rest(&mut self) {
        self.busy_since = None;
        self.block = LEAST;
        if self.read.is_empty() {
            self.read = BytesMut::new();
        }
        if self.written.is_empty() {
            self.written = BytesMut::new();
        }
        self.shared.drive(State::shrink);
    }

    /// Ends the session; what is still to be said is said if the socket takes it at once.
    fn end(&mut self, cx: &mut Context<'_>, error: &Error) {
        for _ in 0..4 {
            if self.written.is_empty() {
                let written = &mut self.written;
                self.shared
                    .drive(|state| std::mem::swap(state.transport.output(), written));
            }
            if self.written.is_empty() {
                break;
            }
            match self.stream.poll_write(cx, &self.written) {
                Poll::Ready(Ok(count)) => self.written.advance(count),
                _ => break,
            }
        }
        let _ = self.stream.poll_flush(cx);
        tell_end(&self.shared, error);
    }
}

/// Says why to a server that broke the rules.
fn farewell(state: &mut State, error: &Error) {
    if let Error::Protocol(text) = error {
        state.transport.disconnect(2, text);
    }
}

fn closed_by_us() -> Error {
    Error::Disconnected {
        code: 11,
        text: "closed".to_owned(),
        by: Party::Us,
    }
}

fn tell_end(shared: &Shared, error: &Error) {
    shared.drive(|state| state.end(error));
    shared.ended.send_if_modified(|ended| {
        let first = ended.is_none();
        if first {
            *ended = Some(error.clone());
        }
        first
    });
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        match this.turn(cx) {
            Ok(()) => Poll::Pending,
            Err(error) => {
                this.end(cx, &error);
                Poll::Ready(())
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Nothing but a panic, or the last handle's going, gets here first.
        tell_end(&self.shared, &closed_by_us());
    }
}
