//! Carries bytes between a near socket and a far channel. Each direction ends alone (RFC 4254 §5.3: EOF is not CLOSE);
//! what ended without order ends the other side without order too.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::task::consume_budget;
use tokio::time::{Instant, sleep_until};

use super::buffer::Buffer;
use super::counters::Counters;
use super::local_socket::LocalSocket;
use super::ssh_session::{SshChannel, SshChannelReader, SshChannelWriter, SshSession};

/// How long bytes that came before the session's end may still take to a near end that reads slowly.
const AFTER_LOSS: Duration = Duration::from_secs(1);

/// As much goes to a near end in one write.
const BATCH: usize = 256 * 1024;

/// One connection, ready to be carried.
pub(super) struct Relay<'a, L: SshSession> {
    /// The near end.
    pub(super) near: &'a LocalSocket,
    /// The far end.
    pub(super) far: L::Channel,
    /// The session under it.
    pub(super) session: &'a L,
    /// What goes to the far end before all else.
    pub(super) first_out: Vec<u8>,
    /// What goes to the near end before all else.
    pub(super) first_in: Vec<u8>,
    /// Where bytes are counted.
    pub(super) counters: &'a Counters,
}

/// How a connection came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Both sides ended in order: the near socket may be closed so.
    InOrder,
    /// The near end was reset.
    NearReset,
    /// The channel was closed in the middle.
    FarReset,
    /// The session ended.
    SessionLost,
}

/// Why one direction is done.
enum Outward {
    /// The near end sent its last byte, and it is passed on.
    Finished,
    /// The far end takes no more.
    NotTaken,
    /// The near end broke.
    NearBroke,
}

enum Inward {
    Finished,
    NearBroke,
    FarBroke,
}

enum Event {
    Inward(Inward),
    Outward(Outward),
    NearFailed,
    Lost,
    TooLate,
}

impl<L: SshSession> Relay<'_, L> {
    /// Carries until the end.
    pub(super) async fn run(self) -> Ending {
        let (mut reader, mut writer) = self.far.split();
        let mut inward =
            std::pin::pin!(inward(&mut reader, self.near, self.first_in, self.counters));
        let mut outward = std::pin::pin!(outward(
            self.near,
            &mut writer,
            self.first_out,
            self.counters
        ));
        let mut inward_done = false;
        let mut outward_done = None;
        let mut lost_until = None;
        loop {
            if inward_done && let Some(finished) = outward_done {
                let in_order = finished || !self.session.is_closed();
                return if in_order {
                    Ending::InOrder
                } else {
                    Ending::SessionLost
                };
            }
            let event = tokio::select! {
                biased;
                end = &mut inward, if !inward_done => Event::Inward(end),
                end = &mut outward, if outward_done.is_none() => Event::Outward(end),
                () = self.near.failed() => Event::NearFailed,
                () = self.session.closed(), if lost_until.is_none() => Event::Lost,
                () = sleep_until(lost_until.unwrap_or_else(Instant::now)), if lost_until.is_some() => Event::TooLate,
            };
            match event {
                Event::Inward(Inward::Finished) => inward_done = true,
                Event::Outward(Outward::Finished) => outward_done = Some(true),
                Event::Outward(Outward::NotTaken) => outward_done = Some(false),
                Event::Inward(Inward::FarBroke) if self.session.is_closed() => {
                    return Ending::SessionLost;
                }
                Event::Inward(Inward::FarBroke) => return Ending::FarReset,
                Event::Inward(Inward::NearBroke)
                | Event::Outward(Outward::NearBroke)
                | Event::NearFailed => return Ending::NearReset,
                Event::Lost => lost_until = Some(Instant::now() + AFTER_LOSS),
                Event::TooLate => return Ending::SessionLost,
            }
        }
    }
}

async fn inward<R: SshChannelReader>(
    far: &mut R,
    near: &LocalSocket,
    first: Vec<u8>,
    counters: &Counters,
) -> Inward {
    if near.write_all(&first).await.is_err() {
        return Inward::NearBroke;
    }
    counters.add_in(first.len());
    drop(first);
    let mut pieces = Vec::new();
    loop {
        match far.next(&mut pieces, BATCH).await {
            Ok(true) => {
                let count = pieces.iter().map(Bytes::len).sum();
                if near.write_pieces(&mut pieces).await.is_err() {
                    return Inward::NearBroke;
                }
                counters.add_in(count);
                // A stream that never waits leaves the others their turn.
                consume_budget().await;
            }
            // A near end that is gone already shows as such in the other direction.
            Ok(false) => {
                let _ = near.finish();
                return Inward::Finished;
            }
            Err(_) => return Inward::FarBroke,
        }
    }
}

async fn outward<W: SshChannelWriter>(
    near: &LocalSocket,
    far: &mut W,
    first: Vec<u8>,
    counters: &Counters,
) -> Outward {
    if far.write_all(&first).await.is_err() {
        return Outward::NotTaken;
    }
    counters.add_out(first.len());
    drop(first);
    loop {
        let ready = tokio::select! {
            ready = near.readable() => Some(ready),
            () = far.closed() => None,
        };
        match ready {
            Some(Ok(())) => {}
            Some(Err(_)) => return Outward::NearBroke,
            None => return Outward::NotTaken,
        }
        let mut buffer = Buffer::take();
        loop {
            match near.try_read(&mut buffer) {
                Ok(0) => {
                    // An end that the far side no longer takes is told by the other direction.
                    return match far.shutdown().await {
                        Ok(()) => Outward::Finished,
                        Err(_) => Outward::NotTaken,
                    };
                }
                Ok(read) => {
                    let bytes = buffer.get(..read).unwrap_or_default();
                    if far.write_all(bytes).await.is_err() {
                        return Outward::NotTaken;
                    }
                    counters.add_out(read);
                    consume_budget().await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Outward::NearBroke,
            }
        }
        if far.flush().await.is_err() {
            return Outward::NotTaken;
        }
    }
}
