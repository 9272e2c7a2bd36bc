//! From a byte stream to a connection with exchanged keys and a checked host key.
//!
//! The session's task runs from the start, so that the server's messages are answered while the caller asks a user.

use std::future::Future;
use std::sync::Arc;

use tokio::time::Instant;

use super::authenticator::Authenticator;
use super::handle::Handle;
use super::options::Options;
use super::session::SessionInfo;
use super::state::{SessionPhase, SharedSession};
use super::stream::Stream;
use super::task::SessionTask;
use crate::config::Config;
use crate::connection::Connection;
use crate::error::Error;
use crate::transport::{Entropy, HostKeyOffer, Transport};

/// Exchanges keys over `stream`. `verify_host_key` decides whether the server's key is accepted; its future is dropped
/// if the server disconnects while it runs, and it has no time limit.
///
/// # Errors
/// [`Error::HostKeyRejected`] if `verify_host_key` returns false; otherwise why the key exchange failed.
///
/// # Cancel safety
/// Dropping the future, or the [`Authenticator`], closes the stream.
pub async fn handshake<F>(
    stream: impl Into<Stream>,
    config: Arc<Config>,
    options: Options,
    user: &str,
    verify_host_key: impl FnOnce(HostKeyOffer) -> F,
) -> Result<Authenticator, Error>
where
    F: Future<Output = bool>,
{
    let now = Instant::now().into_std();
    let transport = Transport::new(config, now, system_entropy());
    let connection = Connection::new(options.connection);
    let shared = SharedSession::new(transport, connection);
    let session_task = SessionTask::new(Arc::clone(&shared), stream.into(), options.clone());
    // Before the first wait: dropping this future drops the handle, which ends the task and closes the stream.
    let handle = Handle::start(shared, session_task, options);
    let timeout = handle.options.handshake_timeout;

    let offer = handle
        .wait_for(timeout, "the host key", |handshake| {
            handshake.host_key.take()
        })
        .await?;
    check_host_key(&handle, verify_host_key((*offer).clone())).await?;
    let negotiated = handle
        .wait_for(timeout, "the first keys", |handshake| {
            handshake.ready.take()
        })
        .await?;
    let (ident, pre_banner) = handle.shared.with_state(|state| {
        let ident = match &state.phase {
            SessionPhase::Handshake(handshake) => handshake.ident.clone(),
            SessionPhase::Established { .. } => String::new(),
        };
        (ident, state.transport.pre_banner().to_owned())
    });
    let info = SessionInfo {
        ident,
        pre_banner,
        negotiated: *negotiated,
        host_key: *offer,
    };
    Ok(Authenticator::new(handle, user, info))
}

/// Continues the key exchange if `verification` returns true. Ends the session otherwise.
async fn check_host_key(
    handle: &Handle,
    verification: impl Future<Output = bool>,
) -> Result<(), Error> {
    // The check may ask a user and take minutes: stop it if the server disconnects meanwhile.
    let accepted = tokio::select! {
        accepted = verification => accepted,
        error = handle.closed() => return Err(error),
    };
    if !accepted {
        handle
            .shared
            .submit(|state| state.transport.reject_host_key());
        // The server gets the reason (RFC 4253 §11.1, code 9), and the caller an error that is about the key.
        handle.flush_and_end().await;
        return Err(Error::HostKeyRejected);
    }
    handle.shared.submit(|state| {
        let now = Instant::now().into_std();
        state.transport.accept_host_key(now);
        // The server may have sent its NEWKEYS long ago: no further byte would wake the task.
        state.reprocess_input = true;
    });
    Ok(())
}

/// Random bytes of the cryptographic library. Retries forever: without randomness there can be no session.
fn system_entropy() -> Entropy {
    Box::new(|bytes| while aws_lc_rs::rand::fill(bytes).is_err() {})
}
