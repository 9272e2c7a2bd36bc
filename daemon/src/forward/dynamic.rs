//! Dynamic forwards (`ssh -D`): the handshake with the client, up to the destination that it asks for. Also used for
//! remote forwards without a target (reverse SOCKS, `ssh -R port`). The protocols themselves are parsed in
//! [`crate::dynamic`].

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::admission::{AdmissionQueue, Ticket};
use super::context::ForwardContext;
use super::forward_state::ForwardCell;
use super::hold::{self, NotOpened};
use super::http;
use super::local_socket::LocalSocket;
use super::proxy_login::{LoginCheck, LoginResult};
use super::relay::Relay;
use super::ssh_session::{ChannelTarget, SshSession};
use crate::dynamic::{ConnectReply, ConnectRequest, Handshake, HandshakeStep};
use crate::session::OpenError;

/// How long a client may take to send its whole request.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a client's first bytes ask for.
pub(super) enum ClientRequest {
    /// A complete SOCKS request.
    Socks {
        request: ConnectRequest,
        /// Bytes that followed the request; they belong to the connection and are sent to the destination first.
        payload: Vec<u8>,
    },
    /// The client speaks HTTP.
    Http {
        /// The first bytes of its request.
        first: Vec<u8>,
        /// Its place among the clients that have not sent a complete request: a few bytes are none.
        ticket: Ticket,
    },
}

/// What the handshake has found.
enum Found {
    Socks {
        request: ConnectRequest,
        payload: Vec<u8>,
    },
    Http(Vec<u8>),
}

/// Runs the handshake with one client, up to its SOCKS request or the first bytes of an HTTP request. SOCKS clients must
/// pass `login`, if it is set. `None` if the client speaks no supported protocol, sends an invalid request or no right
/// login, takes longer than [`HANDSHAKE_TIMEOUT`], or is evicted from `queue` by newer clients.
pub(super) async fn handshake<S: SshSession>(
    queue: &AdmissionQueue,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin + Send),
    login: Option<LoginCheck<'_, S>>,
) -> Option<ClientRequest> {
    let ticket = queue.enter();
    tokio::select! {
        finished = timeout(HANDSHAKE_TIMEOUT, run_handshake(stream, login)) => {
            Some(match finished.ok()?.ok()?? {
                Found::Socks { request, payload } => ClientRequest::Socks { request, payload },
                Found::Http(first) => ClientRequest::Http { first, ticket },
            })
        }
        // Newer clients evict the oldest handshake: clients that send nothing must not shut others out.
        () = ticket.evicted() => None,
    }
}

async fn run_handshake<S: SshSession>(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin + Send),
    login: Option<LoginCheck<'_, S>>,
) -> io::Result<Option<Found>> {
    let mut handshake = match &login {
        Some(_) => Handshake::with_login(),
        None => Handshake::new(),
    };
    let mut buffer = Zeroizing::new([0; 600]);
    let mut step = handshake.step();
    loop {
        let refusal = match step {
            HandshakeStep::ReadMore => {
                let capacity = handshake.capacity().min(buffer.len());
                let read = stream
                    .read(buffer.get_mut(..capacity).unwrap_or_default())
                    .await?;
                if read == 0 {
                    return Ok(None);
                }
                handshake.push(buffer.get(..read).unwrap_or_default());
                step = handshake.step();
                continue;
            }
            HandshakeStep::Send(bytes) => {
                stream.write_all(&bytes).await?;
                step = handshake.step();
                continue;
            }
            HandshakeStep::CheckLogin(sent) => {
                let result = match &login {
                    Some(login) => login.check(&sent).await,
                    None => LoginResult::Wrong,
                };
                step = handshake.login_checked(result == LoginResult::Accepted);
                continue;
            }
            HandshakeStep::Connect(request) => {
                let payload = handshake.into_payload();
                return Ok(Some(Found::Socks { request, payload }));
            }
            HandshakeStep::Http => {
                return Ok(Some(Found::Http(handshake.into_payload())));
            }
            HandshakeStep::LoginMissing(bytes) => {
                login.iter().for_each(LoginCheck::missing);
                bytes
            }
            HandshakeStep::Refuse(bytes) => bytes,
            HandshakeStep::Close => return Ok(None),
        };
        stream.write_all(&refusal).await?;
        stream.shutdown().await?;
        return Ok(None);
    }
}

/// Serves one client of a local dynamic forward: handshake, channel, reply, relay. HTTP has its own module.
pub(super) async fn serve<S: SshSession>(
    context: &Arc<ForwardContext<S>>,
    cell: &Arc<ForwardCell>,
    cancel: &CancellationToken,
    mut client: LocalSocket,
) {
    let login = LoginCheck::of(context, cell);
    let finished = handshake(&cell.handshaking, &mut client, login);
    let finished = cancel.run_until_cancelled(finished);
    let Some(finished) = finished.await else {
        return;
    };
    match finished {
        // Closed, not reset: a reset would discard a refusal that the client has not read yet.
        None => client.close(),
        Some(ClientRequest::Http { first, ticket }) => {
            // Boxed: an HTTP exchange has a large future, which every SOCKS connection would have to make room for.
            Box::pin(http::serve(context, cell, cancel, client, first, ticket)).await;
        }
        // No SOCKS request can succeed now, so the client is reset, as a client of a local forward is. HTTP has pages that
        // say why.
        Some(ClientRequest::Socks { .. }) if !context.may_serve() => {
            NotOpened::HoldTimedOut.log(context, cell);
        }
        Some(ClientRequest::Socks { request, payload }) => {
            serve_socks(context, cell, cancel, client, request, payload).await;
        }
    }
}

async fn serve_socks<S: SshSession>(
    context: &ForwardContext<S>,
    cell: &ForwardCell,
    cancel: &CancellationToken,
    client: LocalSocket,
    request: ConnectRequest,
    payload: Vec<u8>,
) {
    let target = ChannelTarget::Tcp {
        host: request.host.to_bytes(),
        port: request.port,
    };
    let opening = hold::open_channel(context, cell, &client, &target);
    match cancel.run_until_cancelled(opening).await {
        Some(Ok(opened)) => {
            // Sent only now: the reply says whether the destination was reached, and a client may send its payload
            // as soon as it has read the reply.
            let granted = request.encode_reply(ConnectReply::Granted);
            if client.write_all(&granted).await.is_err() {
                return NotOpened::ClientGone.log(context, cell);
            }
            let relay = Relay {
                local: client,
                channel: opened.channel,
                session: &opened.session,
                first_to_channel: payload,
                first_to_local: Vec::new(),
                counters: &cell.counters,
            };
            relay.run().await;
        }
        Some(Err(reason)) => {
            reason.log(context, cell);
            refuse(client, &request, &reason).await;
        }
        None => {}
    }
}

/// Sends the client the reason why its request failed, and closes the connection. A client that is gone or evicted gets
/// no reply; its connection is reset.
async fn refuse(client: LocalSocket, request: &ConnectRequest, reason: &NotOpened) {
    let reply = match reason {
        NotOpened::Refused(error) => reply_to_open_error(error),
        NotOpened::HoldTimedOut | NotOpened::TunnelFailed => ConnectReply::HostUnreachable,
        NotOpened::ClientGone | NotOpened::Evicted => return,
    };
    let reply = request.encode_reply(reply);
    if client.write_all(&reply).await.is_ok() {
        client.close();
    }
}

/// Returns the reply to a client whose channel the server did not open. RFC 4254 §5.1 has one reason code for every
/// failed connect, so the cause is taken from the server's text.
fn reply_to_open_error(error: &OpenError) -> ConnectReply {
    match error {
        // SSH_OPEN_ADMINISTRATIVELY_PROHIBITED
        OpenError::Refused { code: 1, .. } => ConnectReply::NotAllowed,
        // SSH_OPEN_CONNECT_FAILED
        OpenError::Refused { code: 2, text } => reply_to_connect_error(text),
        OpenError::Refused { .. } | OpenError::InvalidHost => ConnectReply::GeneralFailure,
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
