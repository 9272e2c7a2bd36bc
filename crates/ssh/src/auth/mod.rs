//! User authentication (RFC 4252 and RFC 4256) as a state machine over messages.
//!
//! Pure: [`UserAuth`] makes requests and reads answers. One request is pending at a time; an answer without a
//! request, or of another method, ends the session.

mod message;

use crate::error::{Error, bounded};
use crate::wire::Reader;
pub use message::SecretMessage;

/// Banner text that is kept, in bytes; a server may send any number of banners before the login (RFC 4252 §5.4).
const MAX_BANNER: usize = 8 * 1024;
/// Partial successes in one authentication. A server that asks for more would keep the login going for ever.
const MAX_PARTIAL_SUCCESSES: u32 = 6;
/// INFO_REQUESTs of one attempt, in bytes. Their number is not limited: an expired password alone takes four, and each
/// mistyped code one more.
const MAX_INFO_BYTES: usize = 1024 * 1024;
/// What each INFO_REQUEST counts at least, in bytes, so that empty ones come to an end too.
const MIN_INFO_COST: usize = 1024;
/// One INFO_REQUEST, in bytes.
const MAX_INFO_REQUEST: usize = 64 * 1024;
/// What each prompt of an INFO_REQUEST counts besides its bytes: its cost for the user and in memory.
const PROMPT_COST: usize = 64;
/// Text of the server that is kept per field, in bytes.
const MAX_TEXT: usize = 4 * 1024;

/// The server's answer to an authentication request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthResult {
    /// The user is authenticated, and the connection protocol may start.
    Success,
    /// The request was refused, or more methods have to follow.
    Failure {
        /// Methods that may continue, 32 at most.
        remaining: Vec<String>,
        /// Whether the request itself succeeded and another method has to follow.
        partial: bool,
    },
    /// The server accepts the queried key: send a signature.
    PkOk,
    /// The server asks for input (RFC 4256). Answer with [`UserAuth::info_response`].
    InfoRequest(InfoRequest),
    /// The password has expired and must be changed. Holds the server's prompt, not escaped.
    PasswordChangeRequest(String),
    /// A message of a custom method, message number included: see [`UserAuth::custom`].
    Custom(Vec<u8>),
}

/// Input that the server asks for (RFC 4256 §3.2). Texts are cut to 4 KiB and not escaped.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InfoRequest {
    /// Title to show above the prompts; often empty.
    pub name: String,
    /// Text to show before the prompts; often empty.
    pub instruction: String,
    /// Prompts, 8 at most. If there are none, the answer is an empty list.
    pub prompts: Vec<Prompt>,
}

/// One prompt of an [`InfoRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Text to show, such as `Password: `.
    pub text: String,
    /// Whether the input may be shown while it is typed.
    pub echo: bool,
}

/// The request that waits for its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum PendingAuth {
    Idle,
    None,
    Password,
    PublicKeyQuery { algorithm: String, key: Vec<u8> },
    PublicKey,
    KeyboardInteractive { received: usize },
    Custom,
}

/// The authentication of one user.
///
/// ```
/// use tunneld_ssh::auth::{AuthResult, UserAuth};
///
/// let (mut auth, service_request) = UserAuth::new("alice");
/// let request = auth.password("secret", None);
/// // Send both, then pass each payload of the server to `handle`:
/// # assert_eq!((service_request[0], request[0]), (5, 50));
/// assert_eq!(auth.handle(b"\x06\0\0\0\x0cssh-userauth")?, None);
/// assert_eq!(auth.handle(&[52])?, Some(AuthResult::Success));
/// # Ok::<(), tunneld_ssh::Error>(())
/// ```
#[derive(Debug)]
pub struct UserAuth {
    /// The login name, which every request repeats (RFC 4252 §5).
    user: String,
    /// What the next answer belongs to. Messages 60 and 61 mean something else for each method.
    pending: PendingAuth,
    /// Whether the server has accepted the service `ssh-userauth`.
    service_accepted: bool,
    /// Methods that succeeded while the server demanded another one.
    partial_successes: u32,
    /// Banner texts of the server, joined, at most 8 KiB; not escaped.
    banner: String,
}

impl UserAuth {
    /// Returns the state machine and the SERVICE_REQUEST that has to be sent first.
    pub fn new(user: &str) -> (Self, SecretMessage) {
        let auth = Self {
            user: user.to_owned(),
            pending: PendingAuth::Idle,
            service_accepted: false,
            partial_successes: 0,
            banner: String::new(),
        };
        (auth, message::service_request())
    }

    /// Returns the banner text received so far, cut to 8 KiB and not escaped.
    pub fn banner(&self) -> &str {
        &self.banner
    }

    /// Makes a `none` request: its refusal lists the methods that the server allows.
    pub fn none(&mut self) -> SecretMessage {
        self.pending = PendingAuth::None;
        message::request(&self.user, "none", 0)
    }

    /// Makes a password request, with a new password after [`AuthResult::PasswordChangeRequest`].
    pub fn password(&mut self, password: &str, new_password: Option<&str>) -> SecretMessage {
        self.pending = PendingAuth::Password;
        message::password(&self.user, password, new_password)
    }

    /// Asks whether the server accepts a key, without a signature.
    pub fn public_key_query(&mut self, algorithm: &str, key: &[u8]) -> SecretMessage {
        self.pending = PendingAuth::PublicKeyQuery {
            algorithm: algorithm.to_owned(),
            key: key.to_vec(),
        };
        message::public_key(&self.user, algorithm, key, false)
    }

    /// Returns the data to sign with a key for [`UserAuth::public_key`].
    pub fn signed_data(&self, session_id: &[u8], algorithm: &str, key: &[u8]) -> Vec<u8> {
        message::signed_data(
            session_id,
            &message::public_key(&self.user, algorithm, key, true),
        )
    }

    /// Makes a public-key request. `signature` is a signature blob over [`UserAuth::signed_data`].
    pub fn public_key(&mut self, algorithm: &str, key: &[u8], signature: &[u8]) -> SecretMessage {
        use crate::wire::Writer;
        self.pending = PendingAuth::PublicKey;
        let mut out = message::public_key(&self.user, algorithm, key, true);
        out.string(signature);
        out
    }

    /// Makes a keyboard-interactive request; `submethods` may be empty.
    pub fn keyboard_interactive(&mut self, submethods: &str) -> SecretMessage {
        self.pending = PendingAuth::KeyboardInteractive { received: 0 };
        message::keyboard_interactive(&self.user, submethods)
    }

    /// Answers [`AuthResult::InfoRequest`], one response per prompt.
    pub fn info_response<S: AsRef<str>>(&self, responses: &[S]) -> SecretMessage {
        message::info_response(responses)
    }

    /// Makes the first request of a method that the caller implements, such as gssapi-with-mic (RFC 4462). `fields`
    /// follow the method name. Answers are returned as [`AuthResult::Custom`].
    pub fn custom(&mut self, method: &str, fields: &[u8]) -> SecretMessage {
        use crate::wire::Writer;
        self.pending = PendingAuth::Custom;
        let mut out = message::request(&self.user, method, fields.len());
        out.raw(fields);
        out
    }

    /// Handles one payload of the server. `None` if it does not answer the pending request, such as a banner.
    ///
    /// # Errors
    /// [`Error::Protocol`]: the server broke the protocol, and the session has to end.
    pub fn handle(&mut self, payload: &[u8]) -> Result<Option<AuthResult>, Error> {
        let mut body = Reader::new(payload);
        match body.u8()? {
            message::SERVICE_ACCEPT if !self.service_accepted => {
                if body.string()? != b"ssh-userauth" {
                    return Err(protocol_error(
                        "it accepted a service that was not requested",
                    ));
                }
                self.service_accepted = true;
                Ok(None)
            }
            // The first request is sent together with SERVICE_REQUEST, but the answers still come in order.
            _ if !self.service_accepted => {
                Err(protocol_error("a login message before SERVICE_ACCEPT"))
            }
            message::BANNER => {
                let text = body.string()?;
                // A long banner is cut and does not end the session.
                let room = MAX_BANNER - self.banner.len().min(MAX_BANNER);
                self.banner.push_str(&bounded(text, room));
                Ok(None)
            }
            message::SUCCESS => match self.pending {
                PendingAuth::Idle => Err(protocol_error("an unrequested login success")),
                // A query has no signature, so that success would let the server skip the proof of our key.
                PendingAuth::PublicKeyQuery { .. } => {
                    Err(protocol_error("a key was accepted before it signed"))
                }
                _ => {
                    self.pending = PendingAuth::Idle;
                    Ok(Some(AuthResult::Success))
                }
            },
            message::FAILURE => self.failure(&mut body).map(Some),
            number @ (message::METHOD_60 | message::METHOD_61) => {
                self.on_method_message(number, &mut body, payload)
            }
            // RFC 4252 §6 reserves 60 to 79 for the messages of the methods.
            number if self.pending == PendingAuth::Custom && (60..80).contains(&number) => {
                Ok(Some(AuthResult::Custom(payload.to_vec())))
            }
            number => Err(Error::Protocol(format!(
                "message {number} before the login"
            ))),
        }
    }

    fn failure(&mut self, body: &mut Reader<'_>) -> Result<AuthResult, Error> {
        // An answer to nothing would be taken for the answer to the next request.
        if self.pending == PendingAuth::Idle {
            return Err(protocol_error("an unrequested login failure"));
        }
        self.pending = PendingAuth::Idle;
        let (remaining, partial) = message::failure(body)?;
        if partial {
            self.partial_successes += 1;
            if self.partial_successes > MAX_PARTIAL_SUCCESSES {
                return Err(protocol_error("more than 6 steps to log in"));
            }
        }
        Ok(AuthResult::Failure { remaining, partial })
    }

    /// Handles message 60 or 61, whose meaning depends on the pending method.
    fn on_method_message(
        &mut self,
        number: u8,
        body: &mut Reader<'_>,
        payload: &[u8],
    ) -> Result<Option<AuthResult>, Error> {
        match &mut self.pending {
            PendingAuth::Custom => Ok(Some(AuthResult::Custom(payload.to_vec()))),
            // 61 is USERAUTH_INFO_RESPONSE, which goes to the server.
            _ if number != message::METHOD_60 => {
                Err(protocol_error("a message that only a client sends"))
            }
            PendingAuth::PublicKeyQuery { algorithm, key } => {
                // RFC 4252 §7: the server repeats what was offered. Signing for another key would be a signature that
                // we did not mean.
                let same = body.string()? == algorithm.as_bytes() && body.string()? == key;
                if !same {
                    return Err(protocol_error("it accepted a key that was not offered"));
                }
                self.pending = PendingAuth::Idle;
                Ok(Some(AuthResult::PkOk))
            }
            PendingAuth::Password => {
                let text = bounded(body.string()?, MAX_TEXT);
                self.pending = PendingAuth::Idle;
                Ok(Some(AuthResult::PasswordChangeRequest(text)))
            }
            PendingAuth::KeyboardInteractive { received } => {
                *received += payload.len().max(MIN_INFO_COST);
                if *received > MAX_INFO_BYTES {
                    return Err(protocol_error("more than 1 MiB of prompts in one login"));
                }
                read_info_request(body, payload.len())
                    .map(|request| Some(AuthResult::InfoRequest(request)))
            }
            PendingAuth::Idle | PendingAuth::None | PendingAuth::PublicKey => {
                Err(protocol_error("an answer that does not fit the request"))
            }
        }
    }
}

/// The algorithm of the key in a certificate: `rsa-sha2-512-cert-v01@openssh.com` signs with `rsa-sha2-512`. Other
/// names are returned as they are.
#[cfg(feature = "client")]
pub(crate) fn plain_algorithm(name: &str) -> String {
    match name.strip_suffix("-cert-v01@openssh.com") {
        // Security key algorithms have the vendor's suffix also without a certificate.
        Some(plain) if plain.starts_with("sk-") => format!("{plain}@openssh.com"),
        Some(plain) => plain.to_owned(),
        None => name.to_owned(),
    }
}

/// `size` is the length of the whole message in bytes.
fn read_info_request(body: &mut Reader<'_>, size: usize) -> Result<InfoRequest, Error> {
    let name = bounded(body.string()?, MAX_TEXT);
    let instruction = bounded(body.string()?, MAX_TEXT);
    let _language = body.string()?;
    let count = body.u32()?;
    let cost = usize::try_from(count)
        .unwrap_or(usize::MAX)
        .saturating_mul(PROMPT_COST)
        .saturating_add(size);
    if cost > MAX_INFO_REQUEST {
        return Err(protocol_error("more than 64 KiB of prompts at once"));
    }
    let prompts = (0..count)
        .map(|_| {
            Ok(Prompt {
                text: bounded(body.string()?, MAX_TEXT),
                echo: body.bool()?,
            })
        })
        .collect::<Result<_, Error>>()?;
    Ok(InfoRequest {
        name,
        instruction,
        prompts,
    })
}

fn protocol_error(what: &str) -> Error {
    Error::Protocol(what.to_owned())
}

#[cfg(test)]
mod tests;
