//! Copies bytes between a local socket and an SSH channel. Each direction ends on its own: the EOF of one side is passed
//! on and the other direction continues (RFC 4254 §5.3: EOF is not CLOSE). A connection that broke on one side is reset
//! on the other, so that no program takes truncated data for complete data.

use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::OptionFuture;
use tokio::io::AsyncWriteExt;
use tokio::task::consume_budget;
use tokio::time::{Instant, sleep_until};

use super::buffer::Buffer;
use super::counters::Counters;
use super::local_socket::LocalSocket;
use super::ssh_session::{SshChannel, SshChannelReader, SshChannelWriter, SshSession};

/// How long data received before the session was lost may still be written to a local program that reads slowly. The
/// data is complete and valid, so it is delivered; the limit keeps a program that reads nothing from holding the
/// connection open.
const LOSS_GRACE: Duration = Duration::from_secs(1);

/// Bytes that are taken from the channel, approximately at most, for one vectored write to the local socket. Writing all
/// that a channel has queued at once saves a system call per SSH packet.
const MAX_BATCH: usize = 256 * 1024;

/// A connection whose local socket and channel are both open.
pub(super) struct Relay<'a, S: SshSession> {
    /// The socket of the client (local forward) or of the target (remote forward).
    pub(super) local: LocalSocket,
    /// The channel to the server.
    pub(super) channel: S::Channel,
    /// The session that carries the channel; needed to tell its loss from the end of the channel.
    pub(super) session: &'a S,
    /// Payload that the local side sent during its handshake; sent to the channel first.
    pub(super) first_to_channel: Vec<u8>,
    /// Payload that the server's side sent during its handshake; written to the local socket first.
    pub(super) first_to_local: Vec<u8>,
    /// The byte counters of the forward, in both directions, for its status.
    pub(super) counters: &'a Counters,
}

/// How a relayed connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RelayEnd {
    /// Both directions ended with EOF, or the server closed the channel after its EOF.
    InOrder,
    /// The local socket was reset, the server closed the channel without EOF, or the session was lost.
    Broken,
}

enum ChannelToLocalEnd {
    /// The server's EOF was passed on to the local socket.
    EofPassedOn,
    LocalBroken,
    ChannelBroken,
}

enum LocalToChannelEnd {
    /// The local EOF was passed on to the channel.
    EofPassedOn,
    /// The server accepts no more data: its CLOSE arrived, or the session ended.
    ChannelClosed,
    LocalBroken,
}

enum RelayEvent {
    ChannelToLocal(ChannelToLocalEnd),
    LocalToChannel(LocalToChannelEnd),
    LocalFailed,
    SessionLost,
    LossGraceOver,
}

impl<S: SshSession> Relay<'_, S> {
    /// Relays until both directions have ended or one side broke. Then closes the local socket if the connection ended
    /// in order, and resets it if not.
    pub(super) async fn run(self) {
        let Self {
            local,
            channel,
            session,
            first_to_channel,
            first_to_local,
            counters,
        } = self;
        let end = {
            let (mut reader, mut writer) = channel.split();
            let to_local = channel_to_local(&mut reader, &local, first_to_local, counters);
            let to_channel = local_to_channel(&local, &mut writer, first_to_channel, counters);
            relay_both(&local, session, pin!(to_local), pin!(to_channel)).await
        };
        if end == RelayEnd::InOrder {
            local.close();
        }
        // Otherwise the drop of the socket resets it.
    }
}

/// Drives both directions and decides how the connection ended.
async fn relay_both<S: SshSession>(
    local: &LocalSocket,
    session: &S,
    mut to_local: Pin<&mut impl Future<Output = ChannelToLocalEnd>>,
    mut to_channel: Pin<&mut impl Future<Output = LocalToChannelEnd>>,
) -> RelayEnd {
    let mut to_local_done = false;
    // Whether the local EOF reached the channel; `None` while that direction is open.
    let mut local_eof_passed_on = None;
    let mut loss_deadline = None;
    loop {
        if to_local_done && let Some(passed_on) = local_eof_passed_on {
            // A server may close the channel after its own EOF without reading ours, and that is an orderly end. A
            // channel that closed because the session was lost is not.
            return if passed_on || !session.is_closed() {
                RelayEnd::InOrder
            } else {
                RelayEnd::Broken
            };
        }
        // `biased`: a direction that has ended is seen before the event that may have ended it, so that data and EOF
        // which arrived before a reset or a loss count.
        let event = tokio::select! {
            biased;
            end = &mut to_local, if !to_local_done => RelayEvent::ChannelToLocal(end),
            end = &mut to_channel, if local_eof_passed_on.is_none() => RelayEvent::LocalToChannel(end),
            // Both directions may be waiting for the channel; only this arm notices a local reset then.
            () = local.wait_for_reset() => RelayEvent::LocalFailed,
            () = session.closed(), if loss_deadline.is_none() => RelayEvent::SessionLost,
            Some(()) = OptionFuture::from(loss_deadline.map(sleep_until)) => RelayEvent::LossGraceOver,
        };
        match event {
            RelayEvent::ChannelToLocal(ChannelToLocalEnd::EofPassedOn) => to_local_done = true,
            RelayEvent::LocalToChannel(LocalToChannelEnd::EofPassedOn) => {
                local_eof_passed_on = Some(true);
            }
            // The other direction continues: it may still deliver data and the server's EOF.
            RelayEvent::LocalToChannel(LocalToChannelEnd::ChannelClosed) => {
                local_eof_passed_on = Some(false);
            }
            RelayEvent::ChannelToLocal(
                ChannelToLocalEnd::ChannelBroken | ChannelToLocalEnd::LocalBroken,
            )
            | RelayEvent::LocalToChannel(LocalToChannelEnd::LocalBroken)
            | RelayEvent::LocalFailed
            | RelayEvent::LossGraceOver => return RelayEnd::Broken,
            RelayEvent::SessionLost => loss_deadline = Some(Instant::now() + LOSS_GRACE),
        }
    }
}

/// Copies from the channel to the local socket. The channel is read only when the previous batch is written: a slow
/// local program thus stops the window credit, and with it the server, for this channel alone.
async fn channel_to_local<R: SshChannelReader>(
    channel: &mut R,
    local: &LocalSocket,
    first: Vec<u8>,
    counters: &Counters,
) -> ChannelToLocalEnd {
    if local.write_all(&first).await.is_err() {
        return ChannelToLocalEnd::LocalBroken;
    }
    counters.add_in(first.len());
    // The future lives as long as the connection; without this the memory would too.
    drop(first);
    let mut pieces = Vec::new();
    loop {
        match channel.next_pieces(&mut pieces, MAX_BATCH).await {
            Ok(true) => {
                let count = pieces.iter().map(Bytes::len).sum();
                if local.write_pieces(&mut pieces).await.is_err() {
                    return ChannelToLocalEnd::LocalBroken;
                }
                counters.add_in(count);
                // A fast stream may never have to wait. All sessions share one thread, so it yields in turn.
                consume_budget().await;
            }
            Ok(false) => {
                // Fails only if the local socket is broken already, which the other direction reports.
                let _ = local.shutdown_write();
                return ChannelToLocalEnd::EofPassedOn;
            }
            Err(_) => return ChannelToLocalEnd::ChannelBroken,
        }
    }
}

/// Copies from the local socket to the channel. Writes wait for the channel's window; meanwhile the local socket is not
/// read, so that TCP flow control stops the local program.
async fn local_to_channel<W: SshChannelWriter>(
    local: &LocalSocket,
    channel: &mut W,
    first: Vec<u8>,
    counters: &Counters,
) -> LocalToChannelEnd {
    if channel.write_all(&first).await.is_err() {
        return LocalToChannelEnd::ChannelClosed;
    }
    counters.add_out(first.len());
    drop(first);
    loop {
        // Without the second arm the server's CLOSE would go unnoticed until an idle local program sends something.
        let ready = tokio::select! {
            ready = local.readable() => Some(ready),
            () = channel.closed() => None,
        };
        match ready {
            Some(Ok(())) => {}
            Some(Err(_)) => return LocalToChannelEnd::LocalBroken,
            None => return LocalToChannelEnd::ChannelClosed,
        }
        // Taken only when there is something to read: an idle connection holds no buffer.
        let mut buffer = Buffer::take();
        loop {
            match local.try_read(&mut buffer) {
                Ok(0) => {
                    return match channel.shutdown().await {
                        Ok(()) => LocalToChannelEnd::EofPassedOn,
                        Err(_) => LocalToChannelEnd::ChannelClosed,
                    };
                }
                Ok(read) => {
                    let bytes = buffer.get(..read).unwrap_or_default();
                    if channel.write_all(bytes).await.is_err() {
                        return LocalToChannelEnd::ChannelClosed;
                    }
                    counters.add_out(read);
                    consume_budget().await;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return LocalToChannelEnd::LocalBroken,
            }
        }
        // Flushed once the socket is drained, not after each read, so that a burst is sent together.
        if channel.flush().await.is_err() {
            return LocalToChannelEnd::ChannelClosed;
        }
    }
}
