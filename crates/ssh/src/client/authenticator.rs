//! User authentication over a connection with exchanged keys (RFC 4252).

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::handle::Handle;
use super::incoming::IncomingChannels;
use super::session::{Session, SessionInfo};
use super::signer::{Signer, SignerError};
use super::state::{HandshakeState, SessionPhase};
use crate::auth::{AuthResult, SecretMessage, UserAuth};
use crate::error::Error;

/// SSH_DISCONNECT_PROTOCOL_ERROR (RFC 4253 §11.1).
const PROTOCOL_ERROR: u32 = 2;

/// Why public-key authentication could not be carried out. A refusal is not an error: it is an [`AuthResult`].
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The session ended before the server answered.
    #[error(transparent)]
    Session(#[from] Error),
    /// The signer produced no signature; nothing was sent, and another method may be tried.
    #[error("the key did not sign")]
    Signer(#[source] SignerError),
}

/// A connection with exchanged keys that is not authenticated yet. Methods may be tried until one succeeds.
pub struct Authenticator {
    handle: Arc<Handle>,
    auth: UserAuth,
    /// `None` once it is sent, together with the first authentication request.
    service_request: Option<SecretMessage>,
    authenticated: bool,
    info: SessionInfo,
}

impl Authenticator {
    pub(super) fn new(handle: Arc<Handle>, user: &str, info: SessionInfo) -> Self {
        let (auth, service_request) = UserAuth::new(user);
        Self {
            handle,
            auth,
            service_request: Some(service_request),
            authenticated: false,
            info,
        }
    }

    /// Returns the algorithms, identification and host key of the connection.
    pub fn info(&self) -> &SessionInfo {
        &self.info
    }

    /// Returns the text that the server has sent to be shown before login so far, cut to 8 KiB and not escaped.
    pub fn banner(&self) -> &str {
        self.auth.banner()
    }

    /// Returns the signature algorithms that the server accepts from users (RFC 8308 `server-sig-algs`). `None` if it
    /// has not sent them.
    pub fn server_sig_algs(&self) -> Option<Vec<String>> {
        self.handle.shared.with_state(|state| {
            let algorithms = state.transport.server_sig_algs();
            algorithms.map(<[String]>::to_vec)
        })
    }

    /// Returns the best SHA-2 algorithm for an RSA key that the server accepts. `None` if it accepts none;
    /// `rsa-sha2-512` if it has not said what it accepts.
    pub fn best_rsa_algorithm(&self) -> Option<&'static str> {
        // A server before RFC 8308 sends no list; those of OpenSSH know rsa-sha2-512 since 7.2.
        let accepted = self.server_sig_algs();
        ["rsa-sha2-512", "rsa-sha2-256"].into_iter().find(|name| {
            accepted
                .as_ref()
                .is_none_or(|accepted| accepted.iter().any(|each| each == name))
        })
    }

    /// Returns the session identifier (RFC 4253 §7.2), to which an agent can be bound.
    pub fn session_id(&self) -> Vec<u8> {
        self.handle
            .shared
            .with_state(|state| state.transport.session_id().to_vec())
    }

    fn send(&mut self, message: &SecretMessage) {
        let service_request = self.service_request.take();
        self.handle.shared.submit(|state| {
            // The first authentication request follows at once: waiting for SERVICE_ACCEPT would cost a round trip.
            if let Some(service_request) = service_request {
                state.transport.send(&service_request);
            }
            state.transport.send(message);
        });
    }

    async fn receive(&mut self) -> Result<AuthResult, Error> {
        let sent_at = Instant::now();
        let timeout = self.handle.options.auth_timeout;
        loop {
            // One limit for the whole answer: banners in between must not extend it.
            let remaining = timeout.saturating_sub(sent_at.elapsed());
            let next = |handshake: &mut HandshakeState| handshake.replies.pop_front();
            let payload = self
                .handle
                .wait_for(remaining, "an answer to the login", next)
                .await?;
            match self.auth.handle(&payload) {
                Ok(None) => {}
                Ok(Some(result)) => {
                    let took = sent_at.elapsed();
                    self.handle
                        .shared
                        // The server checks the credentials meanwhile, so that the time is a bound and no measurement.
                        .with_state(|state| state.connection.add_rtt_upper_bound(took));
                    self.authenticated |= result == AuthResult::Success;
                    return Ok(result);
                }
                Err(error) => {
                    self.handle.shared.submit(|state| {
                        state
                            .transport
                            .disconnect(PROTOCOL_ERROR, &error.to_string());
                    });
                    self.handle.flush_and_end().await;
                    return Err(error);
                }
            }
        }
    }

    /// Sends a `none` request: the failure lists the methods that the server allows.
    ///
    /// # Errors
    /// The end of the session; a refusal is an [`AuthResult::Failure`].
    pub async fn none(&mut self) -> Result<AuthResult, Error> {
        let message = self.auth.none();
        self.send(&message);
        self.receive().await
    }

    /// Authenticates with a key or certificate. Asks first whether the server accepts it, and signs only then.
    /// `algorithm` is the name on the wire, for a certificate with the certificate's suffix.
    ///
    /// # Errors
    /// The end of the session, or [`AuthError::Signer`].
    pub async fn public_key(
        &mut self,
        algorithm: &str,
        key: &[u8],
        signer: &mut dyn Signer,
    ) -> Result<AuthResult, AuthError> {
        let message = self.auth.public_key_query(algorithm, key);
        self.send(&message);
        match self.receive().await? {
            AuthResult::PkOk => self.public_key_unqueried(algorithm, key, signer).await,
            other => Ok(other),
        }
    }

    /// As [`Authenticator::public_key`], without the query: for a key that the server is known to accept.
    ///
    /// # Errors
    /// As [`Authenticator::public_key`].
    pub async fn public_key_unqueried(
        &mut self,
        algorithm: &str,
        key: &[u8],
        signer: &mut dyn Signer,
    ) -> Result<AuthResult, AuthError> {
        let data = self.auth.signed_data(&self.session_id(), algorithm, key);
        // Signers know keys and not certificates: the signature is made with the plain algorithm.
        let plain = crate::auth::plain_algorithm(algorithm);
        let signature = tokio::select! {
            // The signature first: a session that ends at the same moment fails in `receive`, with its reason.
            biased;
            signature = signer.sign(&plain, &data) => signature.map_err(AuthError::Signer)?,
            error = self.handle.closed() => return Err(AuthError::Session(error)),
        };
        let message = self.auth.public_key(algorithm, key, &signature);
        self.send(&message);
        Ok(self.receive().await?)
    }

    /// Authenticates with a password; `new_password` replaces it, after [`AuthResult::PasswordChangeRequest`].
    ///
    /// # Errors
    /// As [`Authenticator::none`].
    pub async fn password(
        &mut self,
        password: &str,
        new_password: Option<&str>,
    ) -> Result<AuthResult, Error> {
        let message = self.auth.password(password, new_password);
        self.send(&message);
        self.receive().await
    }

    /// Starts keyboard-interactive authentication (RFC 4256). The server answers with
    /// [`AuthResult::InfoRequest`], or with a final result.
    ///
    /// # Errors
    /// As [`Authenticator::none`].
    pub async fn keyboard_interactive(&mut self, submethods: &str) -> Result<AuthResult, Error> {
        let message = self.auth.keyboard_interactive(submethods);
        self.send(&message);
        self.receive().await
    }

    /// Answers [`AuthResult::InfoRequest`], one response per prompt. The server may send another request.
    ///
    /// # Errors
    /// As [`Authenticator::none`].
    pub async fn info_response<S: AsRef<str>>(
        &mut self,
        responses: &[S],
    ) -> Result<AuthResult, Error> {
        let message = self.auth.info_response(responses);
        self.send(&message);
        self.receive().await
    }

    /// Starts a method that the caller implements, such as gssapi-with-mic: see [`UserAuth::custom`].
    ///
    /// # Errors
    /// As [`Authenticator::none`].
    pub async fn custom(&mut self, method: &str, fields: &[u8]) -> Result<AuthResult, Error> {
        let message = self.auth.custom(method, fields);
        self.send(&message);
        self.receive().await
    }

    /// Sends a further message of a custom method. With `wait`, returns the server's answer, otherwise `None`.
    ///
    /// # Errors
    /// As [`Authenticator::none`].
    pub async fn custom_message(
        &mut self,
        payload: Vec<u8>,
        wait: bool,
    ) -> Result<Option<AuthResult>, Error> {
        self.send(&SecretMessage::new(payload));
        if wait {
            self.receive().await.map(Some)
        } else {
            Ok(None)
        }
    }

    /// Waits until the session has ended and returns the reason, for a caller that waits for user input.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn closed(&self) -> Error {
        self.handle.closed().await
    }

    /// Sends DISCONNECT and closes the connection.
    pub async fn close(self) {
        self.handle.close().await;
    }

    /// Returns the session, and the receiver of the channels that the server opens for remote forwards.
    ///
    /// # Errors
    /// The end of the session, or [`Error::Protocol`] if no method has succeeded.
    pub fn into_session(self) -> Result<(Session, IncomingChannels), Error> {
        if !self.authenticated {
            return Err(Error::Protocol("the login has not succeeded".to_owned()));
        }
        let (incoming, requests) = mpsc::channel(self.handle.options.max_incoming);
        let channels = IncomingChannels::new(requests, &self.handle);
        self.handle.shared.submit(|state| {
            let established = SessionPhase::Established { incoming };
            let early = match std::mem::replace(&mut state.phase, established) {
                SessionPhase::Handshake(handshake) => handshake.replies,
                SessionPhase::Established { .. } => VecDeque::new(),
            };
            // The task has to see the new phase, to start keepalive.
            state.wake_task();
            let now = Instant::now().into_std();
            match &state.ended {
                Some(error) => Err(error.clone()),
                // Packets that followed USERAUTH_SUCCESS at once, such as hostkeys-00@openssh.com.
                None => early
                    .into_iter()
                    .try_for_each(|payload| state.handle_packet(now, payload)),
            }
        })?;
        Ok((Session::new(self.handle, self.info), channels))
    }
}
