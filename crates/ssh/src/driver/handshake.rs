//! From a stream to a standing session: keys, the host key's verdict, the login.
//!
//! The session's task runs from the start, so that the server is answered while a person is asked.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::channel::Incoming;
use super::io::Stream;
use super::session::{Handle, Session, SessionInfo};
use super::signer::{NotSigned, Signer};
use super::state::{Login, Shared, Stage, State};
use super::task::Driver;
use super::{Options, wake};
use crate::auth::{Auth, AuthResult, Message};
use crate::config::Config;
use crate::connection::Connection;
use crate::error::Error;
use crate::transport::{Entropy, HostKeyOffer, Transport};

/// Why a login was not carried through. A refusal is none of it: that is an [`AuthResult`].
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The session ended.
    #[error(transparent)]
    Session(#[from] Error),
    /// There is no signature; nothing was sent.
    #[error("the key did not sign")]
    NotSigned(#[source] NotSigned),
}

/// Exchanges keys over a stream. `host_key` decides whether the server's key is the right one; it is dropped where the
/// server goes meanwhile.
///
/// Cancel-safe: dropping it, or what it gave, closes the stream.
///
/// # Errors
/// What failed; [`Error::HostKeyRejected`] where `host_key` said no.
pub async fn handshake<F>(
    stream: impl Into<Stream>,
    config: Arc<Config>,
    options: Options,
    user: &str,
    host_key: impl FnOnce(HostKeyOffer) -> F,
) -> Result<Connected, Error>
where
    F: Future<Output = bool>,
{
    let now = Instant::now().into_std();
    let transport = Transport::new(config, now, entropy());
    let connection = Connection::new(options.connection);
    let shared = Shared::new(transport, connection);
    let driver = Driver::new(Arc::clone(&shared), stream.into(), options.clone());
    let handle = Handle::start(shared, driver, options);

    let offer = wait(
        &handle.shared,
        handle.options.handshake,
        "the host key",
        |login| login.host_key.take(),
    )
    .await?;
    // A person may take long: a server that goes meanwhile has no need of the verdict.
    let accepted = tokio::select! {
        accepted = host_key((*offer).clone()) => accepted,
        error = handle.closed() => return Err(error),
    };
    if !accepted {
        handle
            .shared
            .with(|state| state.transport.reject_host_key());
        handle.goodbye().await;
        return Err(Error::HostKeyRejected);
    }
    handle.shared.with(|state| {
        let now = Instant::now().into_std();
        state.transport.accept_host_key(now);
        state.again = true;
    });
    let negotiated = wait(
        &handle.shared,
        handle.options.handshake,
        "the first keys",
        |login| login.ready.take(),
    )
    .await?;
    let (ident, pre_banner) = handle.shared.drive(|state| {
        let ident = match &state.stage {
            Stage::Login(login) => login.ident.clone(),
            Stage::Standing { .. } => String::new(),
        };
        (ident, state.transport.pre_banner().to_owned())
    });
    let (auth, service) = Auth::new(user);
    Ok(Connected {
        handle,
        auth,
        service: Some(service),
        logged_in: false,
        info: SessionInfo {
            ident,
            pre_banner,
            negotiated: *negotiated,
            host_key: *offer,
        },
    })
}

/// Randomness of the cryptographic library; a system without any cannot have a session.
fn entropy() -> Entropy {
    Box::new(|bytes| while aws_lc_rs::rand::fill(bytes).is_err() {})
}

/// Waits until the driver has found something.
async fn wait<T>(
    shared: &Shared,
    deadline: Duration,
    what: &'static str,
    mut found: impl FnMut(&mut Login) -> Option<T>,
) -> Result<T, Error> {
    let look = poll_fn(|cx| {
        shared.drive(|state| {
            let State { stage, ended, .. } = state;
            if let Stage::Login(login) = stage {
                if let Some(found) = found(login) {
                    return Poll::Ready(Ok(found));
                }
                wake::remember(&mut login.waker, cx.waker());
            }
            match ended {
                Some(error) => Poll::Ready(Err(error.clone())),
                None => Poll::Pending,
            }
        })
    });
    match tokio::time::timeout(deadline, look).await {
        Ok(result) => result,
        Err(_) => Err(Error::Timeout(what)),
    }
}

/// A connection whose keys are exchanged and whose login is not done.
pub struct Connected {
    handle: Arc<Handle>,
    auth: Auth,
    service: Option<Message>,
    logged_in: bool,
    info: SessionInfo,
}

impl Connected {
    /// What was agreed on, and with whom.
    pub fn info(&self) -> &SessionInfo {
        &self.info
    }

    /// What the server has said to whoever logs in, cut to 8 KiB and not escaped.
    pub fn banner(&self) -> &str {
        self.auth.banner()
    }

    /// The signature algorithms that the server takes from users; none while it has not told.
    pub fn server_sig_algs(&self) -> Option<Vec<String>> {
        self.handle.shared.drive(|state| {
            let algorithms = state.transport.server_sig_algs();
            algorithms.map(<[String]>::to_vec)
        })
    }

    /// The best algorithm for an RSA key here: what the server takes, SHA-2 where it has not told.
    pub fn rsa_algorithm(&self) -> Option<&'static str> {
        let told = self.server_sig_algs();
        ["rsa-sha2-512", "rsa-sha2-256"].into_iter().find(|name| {
            told.as_ref()
                .is_none_or(|told| told.iter().any(|each| each == name))
        })
    }

    /// The identifier of the session (RFC 4253 §7.2), which an agent may want to be bound to.
    pub fn session_id(&self) -> Vec<u8> {
        self.handle
            .shared
            .drive(|state| state.transport.session_id().to_vec())
    }

    fn send(&mut self, message: &Message) {
        let service = self.service.take();
        self.handle.shared.with(|state| {
            // The request follows at once: the answer to the first one need not be waited for.
            if let Some(service) = service {
                state.transport.send(&service);
            }
            state.transport.send(message);
        });
    }

    async fn answer(&mut self) -> Result<AuthResult, Error> {
        let asked = Instant::now();
        let deadline = self.handle.options.login;
        loop {
            let left = deadline.saturating_sub(asked.elapsed());
            let next = |login: &mut Login| login.inbox.pop_front();
            let payload = wait(&self.handle.shared, left, "an answer to the login", next).await?;
            match self.auth.handle(&payload) {
                Ok(None) => {}
                Ok(Some(result)) => {
                    let took = asked.elapsed();
                    self.handle
                        .shared
                        .drive(|state| state.connection.took(took));
                    self.logged_in |= result == AuthResult::Success;
                    return Ok(result);
                }
                Err(error) => {
                    self.handle
                        .shared
                        .with(|state| state.transport.disconnect(2, &error.to_string()));
                    self.handle.goodbye().await;
                    return Err(error);
                }
            }
        }
    }

    /// Asks for the login without any proof: shows which methods there are.
    ///
    /// # Errors
    /// The session's end; never a refusal.
    pub async fn none(&mut self) -> Result<AuthResult, Error> {
        let message = self.auth.none();
        self.send(&message);
        self.answer().await
    }

    /// Logs in by a key or certificate: asks whether the server would take it, and signs only then.
    /// `algorithm` is the name on the wire, for a certificate that of the certificate.
    ///
    /// # Errors
    /// The session's end, or that nothing was signed.
    pub async fn publickey(
        &mut self,
        algorithm: &str,
        key: &[u8],
        signer: &mut dyn Signer,
    ) -> Result<AuthResult, LoginError> {
        let message = self.auth.query(algorithm, key);
        self.send(&message);
        match self.answer().await? {
            AuthResult::PkOk => self.signed(algorithm, key, signer).await,
            other => Ok(other),
        }
    }

    /// Logs in by a key that the server is known to take.
    ///
    /// # Errors
    /// As [`Connected::publickey`].
    pub async fn signed(
        &mut self,
        algorithm: &str,
        key: &[u8],
        signer: &mut dyn Signer,
    ) -> Result<AuthResult, LoginError> {
        let data = self.auth.to_sign(&self.session_id(), algorithm, key);
        let plain = crate::auth::plain_algorithm(algorithm);
        let signature = tokio::select! {
            biased;
            signature = signer.sign(&plain, &data) => signature.map_err(LoginError::NotSigned)?,
            error = self.handle.closed() => return Err(LoginError::Session(error)),
        };
        let message = self.auth.public_key(algorithm, key, &signature);
        self.send(&message);
        Ok(self.answer().await?)
    }

    /// Logs in by a password; with a new one after [`AuthResult::ChangeRequest`].
    ///
    /// # Errors
    /// The session's end; never a refusal.
    pub async fn password(
        &mut self,
        password: &str,
        new: Option<&str>,
    ) -> Result<AuthResult, Error> {
        let message = self.auth.password(password, new);
        self.send(&message);
        self.answer().await
    }

    /// Asks to be asked: the answer is [`AuthResult::Prompts`] or an end.
    ///
    /// # Errors
    /// The session's end; never a refusal.
    pub async fn keyboard_interactive(&mut self, submethods: &str) -> Result<AuthResult, Error> {
        let message = self.auth.keyboard_interactive(submethods);
        self.send(&message);
        self.answer().await
    }

    /// Answers [`AuthResult::Prompts`]; there may be more of them.
    ///
    /// # Errors
    /// The session's end; never a refusal.
    pub async fn answers<S: AsRef<str>>(&mut self, answers: &[S]) -> Result<AuthResult, Error> {
        let message = self.auth.answers(answers);
        self.send(&message);
        self.answer().await
    }

    /// Begins a method of the caller's own, such as gssapi-with-mic: see [`Auth::other`].
    ///
    /// # Errors
    /// The session's end; never a refusal.
    pub async fn other(&mut self, method: &str, fields: &[u8]) -> Result<AuthResult, Error> {
        let message = self.auth.other(method, fields);
        self.send(&message);
        self.answer().await
    }

    /// Goes on with a method of the caller's own; `wait` for messages that are answered.
    ///
    /// # Errors
    /// The session's end; never a refusal.
    pub async fn other_message(
        &mut self,
        payload: Vec<u8>,
        wait: bool,
    ) -> Result<Option<AuthResult>, Error> {
        self.send(&Message::new(payload));
        if wait {
            self.answer().await.map(Some)
        } else {
            Ok(None)
        }
    }

    /// Waits until the server ends the session, while nothing is asked of it.
    pub async fn closed(&self) -> Error {
        self.handle.closed().await
    }

    /// Says goodbye instead of logging in.
    pub async fn close(self) {
        self.handle.close().await;
    }

    /// The session, and the channels that the server opens for its forwards.
    ///
    /// # Errors
    /// The session's end, or that no login has succeeded.
    pub fn into_session(self) -> Result<(Session, mpsc::Receiver<Incoming>), Error> {
        if !self.logged_in {
            return Err(Error::Protocol("the login has not succeeded".to_owned()));
        }
        let (sender, incoming) = mpsc::channel(self.handle.options.incoming);
        let handle = Arc::downgrade(&self.handle);
        self.handle.shared.with(|state| {
            let standing = Stage::Standing {
                incoming: sender,
                handle,
            };
            let early = match std::mem::replace(&mut state.stage, standing) {
                Stage::Login(login) => login.inbox,
                Stage::Standing { .. } => VecDeque::new(),
            };
            // The driver sees the new stage, and with it that the time runs.
            state.kick();
            let now = Instant::now().into_std();
            match &state.ended {
                Some(error) => Err(error.clone()),
                None => early
                    .into_iter()
                    .try_for_each(|payload| state.packet(now, payload)),
            }
        })?;
        Ok((Session::new(self.handle, self.info), incoming))
    }
}
