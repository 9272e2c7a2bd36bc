//! Speaks with the client of a dynamic forward until it has said where it wants to go: `ssh -D`, and either side of
//! a remote one without a target. The words themselves are `proxy`'s.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::admission::AdmissionQueue;
use super::carry::{pump, tell};
use super::context::ForwardContext;
use super::forward_state::ForwardCell;
use super::hold::{self, NotOpened};
use super::local_socket::LocalSocket;
use super::ssh_session::{SshSession, Stream, Target};
use crate::dynamic::{ConnectReply, ConnectRequest, Handshake, HandshakeStep};
use crate::session::OpenError;

/// How long a client may take to say where it wants to go.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a client wants, and what it sent behind that already.
pub(super) struct ClientRequest {
    /// What it wants.
    pub(super) request: ConnectRequest,
    /// The first bytes of what it wants carried.
    pub(super) payload: Vec<u8>,
}

/// Hears a client out; none for one that said nothing sensible, too late, or has to give way to newer ones.
pub(super) async fn handshake<S: Stream>(
    room: &AdmissionQueue,
    stream: &mut S,
) -> Option<ClientRequest> {
    let ticket = room.enter();
    tokio::select! {
        client_request = timeout(HANDSHAKE_TIMEOUT, run_handshake(stream)) => client_request.ok()?.ok()?,
        () = ticket.evicted() => None,
    }
}

async fn run_handshake<S: Stream>(stream: &mut S) -> io::Result<Option<ClientRequest>> {
    let mut handshake = Handshake::new();
    let mut buffer = [0; 600];
    loop {
        match handshake.step() {
            HandshakeStep::ReadMore => {
                let room = handshake.capacity().min(buffer.len());
                let read = stream
                    .read(buffer.get_mut(..room).unwrap_or_default())
                    .await?;
                if read == 0 {
                    return Ok(None);
                }
                handshake.push(buffer.get(..read).unwrap_or_default());
            }
            HandshakeStep::Send(bytes) => stream.write_all(&bytes).await?,
            HandshakeStep::Connect(request) => {
                let payload = handshake.into_payload();
                return Ok(Some(ClientRequest { request, payload }));
            }
            HandshakeStep::Refuse(bytes) => {
                stream.write_all(&bytes).await?;
                stream.shutdown().await?;
                return Ok(None);
            }
            HandshakeStep::Close => return Ok(None),
        }
    }
}

/// Serves one client of a dynamic forward on this side.
pub(super) async fn serve<L: SshSession>(
    context: &ForwardContext<L>,
    cell: &ForwardCell,
    cancel: &CancellationToken,
    mut near: LocalSocket,
) {
    let at_once = context.options.borrow().hold.is_zero();
    if at_once && context.live_session().is_none() {
        return tell(context, cell, &NotOpened::HoldTimedOut);
    }
    let client_request = cancel.run_until_cancelled(handshake(&context.handshaking, &mut near));
    let Some(client_request) = client_request.await else {
        return;
    };
    let Some(ClientRequest { request, payload }) = client_request else {
        return near.close();
    };
    let target = Target::Tcp {
        host: request.host.to_bytes(),
        port: request.port,
    };
    let opened = cancel.run_until_cancelled(hold::open_channel(context, cell, &near, &target));
    match opened.await {
        Some(Ok(opened)) => {
            let granted = request.encode_reply(ConnectReply::Granted);
            match near.write_all(&granted).await {
                Ok(()) => pump(cell, near, opened, payload).await,
                Err(_) => tell(context, cell, &NotOpened::ClientGone),
            }
        }
        Some(Err(why)) => {
            tell(context, cell, &why);
            let reply = match &why {
                NotOpened::Refused(error) => reply_to_open_error(error),
                NotOpened::HoldTimedOut => ConnectReply::HostUnreachable,
                NotOpened::ClientGone | NotOpened::Evicted => return,
            };
            if near.write_all(&request.encode_reply(reply)).await.is_ok() {
                near.close();
            }
        }
        None => {}
    }
}

/// Returns the reply to a client whose channel the server did not open.
///
/// RFC 4254 §5.1 has one reason code for every failed connect, so the cause is taken from the server's text; the words
/// are those of OpenSSH, Dropbear and the C library's `strerror` and `gai_strerror`.
fn reply_to_open_error(error: &OpenError) -> ConnectReply {
    match error {
        // SSH_OPEN_ADMINISTRATIVELY_PROHIBITED
        OpenError::Refused { code: 1, .. } => ConnectReply::NotAllowed,
        // SSH_OPEN_CONNECT_FAILED
        OpenError::Refused { code: 2, text } => reply_to_connect_error(text),
        OpenError::Refused { .. } => ConnectReply::GeneralFailure,
        OpenError::Timeout(_) | OpenError::SessionLost(_) => ConnectReply::HostUnreachable,
    }
}

fn reply_to_connect_error(text: &str) -> ConnectReply {
    let text = text.to_ascii_lowercase();
    let contains_any = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    if contains_any(&["network is unreachable", "network unreachable"]) {
        ConnectReply::NetworkUnreachable
    } else if contains_any(&[
        "timed out",
        "timeout",
        "no route",
        "unreachable",
        "unknown host",
        "not known",
        "resol",
    ]) {
        ConnectReply::HostUnreachable
    } else {
        ConnectReply::ConnectionRefused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_failure_is_answered_with_the_matching_code() {
        let refused = |code, text: &str| OpenError::Refused {
            code,
            text: text.to_owned(),
        };
        for (error, code) in [
            (refused(2, "Connection refused"), 5),
            (refused(2, "connect failed"), 5),
            (refused(2, "No route to host"), 4),
            (refused(2, "Connection timed out"), 4),
            (refused(2, "unknown host (Name or service not known)"), 4),
            (refused(2, "Network is unreachable"), 3),
            (refused(1, "open failed"), 2),
            (refused(3, "unknown channel type"), 1),
            (refused(4, "no resources"), 1),
            (OpenError::Timeout(Duration::from_secs(1)), 4),
            (OpenError::SessionLost("reset".to_owned()), 4),
        ] {
            assert_eq!(reply_to_open_error(&error).code(), code, "{error}");
        }
    }
}
