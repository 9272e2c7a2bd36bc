//! RFC 4252 and 4256: logging in, as a state machine over messages.
//!
//! Pure: it makes requests and reads answers. One request is under way at a time; an answer to none, or of
//! another method, ends the session. Banners are kept up to 8 KiB.

mod message;
#[cfg(test)]
mod tests;

use crate::error::{Error, bounded};
use crate::wire::Reader;
pub use message::Message;

/// As much of all banners is kept.
const BANNERS: usize = 8 * 1024;
/// As many partial successes are followed.
const STEPS: u32 = 6;
/// As many rounds of questions are answered in one attempt.
const ROUNDS: u32 = 3;
/// As many rounds without any question are.
const EMPTY_ROUNDS: u32 = 3;
/// As many questions may come in a round.
const PROMPTS: u32 = 8;
/// The longest text of a server that is shown.
const TEXT: usize = 4 * 1024;

/// How the server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthResult {
    /// The login stands.
    Success,
    /// Refused, or one step of several was passed.
    Failure {
        /// The methods that may go on.
        remaining: Vec<String>,
        /// Whether the request itself was a success, and others must follow.
        partial: bool,
    },
    /// The server would take this key: sign.
    PkOk,
    /// The server asks a person (RFC 4256).
    Prompts(Prompts),
    /// The password is right and has expired; the server's words.
    ChangeRequest(String),
    /// A message of a method that is carried on outside, its number first.
    Other(Vec<u8>),
}

/// Questions of the server, not escaped.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prompts {
    /// A title; often empty.
    pub name: String,
    /// What to say before the questions; often empty.
    pub instruction: String,
    /// The questions. There may be none: the answer is then an empty list.
    pub prompts: Vec<Prompt>,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The question.
    pub text: String,
    /// Whether what is typed may be seen.
    pub echo: bool,
}

/// What was asked and not yet answered.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    Nothing,
    None,
    Password,
    Query { algorithm: String, key: Vec<u8> },
    PublicKey,
    KeyboardInteractive { rounds: u32, empty: u32 },
    Other,
}

/// One login.
#[derive(Debug)]
pub struct Auth {
    user: String,
    asked: Asked,
    accepted: bool,
    steps: u32,
    banner: String,
}

impl Auth {
    /// A login that has not begun, and the message that asks for the service: it goes first.
    pub fn new(user: &str) -> (Self, Message) {
        let auth = Self {
            user: user.to_owned(),
            asked: Asked::Nothing,
            accepted: false,
            steps: 0,
            banner: String::new(),
        };
        (auth, message::service_request())
    }

    /// What the server said to whoever logs in, cut to 8 KiB and not escaped.
    pub fn banner(&self) -> &str {
        &self.banner
    }

    /// `none`: shows which methods there are, or that none is needed.
    pub fn none(&mut self) -> Message {
        self.asked = Asked::None;
        message::request(&self.user, "none", 0)
    }

    /// A password; with a new one where the server asked to change it.
    pub fn password(&mut self, password: &str, new: Option<&str>) -> Message {
        self.asked = Asked::Password;
        message::password(&self.user, password, new)
    }

    /// Asks whether the server would take a key.
    pub fn query(&mut self, algorithm: &str, key: &[u8]) -> Message {
        self.asked = Asked::Query {
            algorithm: algorithm.to_owned(),
            key: key.to_vec(),
        };
        message::public_key(&self.user, algorithm, key, false)
    }

    /// What is to be signed for a key.
    pub fn to_sign(&self, session_id: &[u8], algorithm: &str, key: &[u8]) -> Vec<u8> {
        message::to_sign(
            session_id,
            &message::public_key(&self.user, algorithm, key, true),
        )
    }

    /// The request with its signature, as it stands on the wire.
    pub fn public_key(&mut self, algorithm: &str, key: &[u8], signature: &[u8]) -> Message {
        use crate::wire::Writer;
        self.asked = Asked::PublicKey;
        let mut out = message::public_key(&self.user, algorithm, key, true);
        out.string(signature);
        out
    }

    /// Asks to be asked.
    pub fn keyboard_interactive(&mut self, submethods: &str) -> Message {
        self.asked = Asked::KeyboardInteractive {
            rounds: 0,
            empty: 0,
        };
        message::keyboard_interactive(&self.user, submethods)
    }

    /// Answers [`AuthResult::Prompts`], one answer a question.
    pub fn answers<S: AsRef<str>>(&self, answers: &[S]) -> Message {
        message::info_response(answers)
    }

    /// The seam for gssapi-with-mic (RFC 4462) and its like: begins a method whose own fields and further
    /// messages are made outside; its answers come as [`AuthResult::Other`].
    pub fn other(&mut self, method: &str, fields: &[u8]) -> Message {
        use crate::wire::Writer;
        self.asked = Asked::Other;
        let mut out = message::request(&self.user, method, fields.len());
        out.raw(fields);
        out
    }

    /// Reads one message; `None` where it answers nothing.
    ///
    /// # Errors
    /// What ends the session.
    pub fn handle(&mut self, payload: &[u8]) -> Result<Option<AuthResult>, Error> {
        let mut body = Reader::new(payload);
        match body.u8()? {
            message::SERVICE_ACCEPT if !self.accepted => {
                if body.string()? != b"ssh-userauth" {
                    return Err(broken("it accepted a service that was not asked for"));
                }
                self.accepted = true;
                Ok(None)
            }
            _ if !self.accepted => Err(broken("it spoke of the login before accepting it")),
            message::BANNER => {
                let text = body.string()?;
                let room = BANNERS - self.banner.len().min(BANNERS);
                self.banner.push_str(&bounded(text, room));
                Ok(None)
            }
            message::SUCCESS => match self.asked {
                Asked::Nothing => Err(broken("a login succeeded that was not asked for")),
                Asked::Query { .. } => Err(broken("a key was taken before it signed")),
                _ => {
                    self.asked = Asked::Nothing;
                    Ok(Some(AuthResult::Success))
                }
            },
            message::FAILURE => self.failure(&mut body).map(Some),
            number @ (message::METHOD_60 | message::METHOD_61) => {
                self.of_method(number, &mut body, payload)
            }
            number if self.asked == Asked::Other && (60..80).contains(&number) => {
                Ok(Some(AuthResult::Other(payload.to_vec())))
            }
            number => Err(Error::Protocol(format!(
                "message {number} before the login"
            ))),
        }
    }

    fn failure(&mut self, body: &mut Reader<'_>) -> Result<AuthResult, Error> {
        if self.asked == Asked::Nothing {
            return Err(broken("a login failed that was not asked for"));
        }
        self.asked = Asked::Nothing;
        let (remaining, partial) = message::failure(body)?;
        if partial {
            self.steps += 1;
            if self.steps > STEPS {
                return Err(broken("more than 6 steps to log in"));
            }
        }
        Ok(AuthResult::Failure { remaining, partial })
    }

    fn of_method(
        &mut self,
        number: u8,
        body: &mut Reader<'_>,
        payload: &[u8],
    ) -> Result<Option<AuthResult>, Error> {
        match &mut self.asked {
            Asked::Other => Ok(Some(AuthResult::Other(payload.to_vec()))),
            _ if number != message::METHOD_60 => Err(broken("an answer that was ours to give")),
            Asked::Query { algorithm, key } => {
                let same = body.string()? == algorithm.as_bytes() && body.string()? == key;
                if !same {
                    return Err(broken("it would take a key that was not shown"));
                }
                self.asked = Asked::Nothing;
                Ok(Some(AuthResult::PkOk))
            }
            Asked::Password => {
                let text = bounded(body.string()?, TEXT);
                self.asked = Asked::Nothing;
                Ok(Some(AuthResult::ChangeRequest(text)))
            }
            Asked::KeyboardInteractive { rounds, empty } => {
                let prompts = prompts(body)?;
                let (count, most) = if prompts.prompts.is_empty() {
                    (empty, EMPTY_ROUNDS)
                } else {
                    (rounds, ROUNDS)
                };
                *count += 1;
                if *count > most {
                    return Err(broken("more than 3 rounds of questions"));
                }
                Ok(Some(AuthResult::Prompts(prompts)))
            }
            Asked::Nothing | Asked::None | Asked::PublicKey => {
                Err(broken("an answer to a question that was not asked"))
            }
        }
    }
}

/// The algorithm of a certificate's own key; that of a plain key is itself.
pub(crate) fn plain_algorithm(name: &str) -> String {
    match name.strip_suffix("-cert-v01@openssh.com") {
        Some(plain) if plain.starts_with("sk-") => format!("{plain}@openssh.com"),
        Some(plain) => plain.to_owned(),
        None => name.to_owned(),
    }
}

fn prompts(body: &mut Reader<'_>) -> Result<Prompts, Error> {
    let name = bounded(body.string()?, TEXT);
    let instruction = bounded(body.string()?, TEXT);
    body.string()?;
    let count = body.u32()?;
    if count > PROMPTS {
        return Err(broken("more than 8 questions at once"));
    }
    let prompts = (0..count)
        .map(|_| {
            Ok(Prompt {
                text: bounded(body.string()?, TEXT),
                echo: body.bool()?,
            })
        })
        .collect::<Result<_, Error>>()?;
    Ok(Prompts {
        name,
        instruction,
        prompts,
    })
}

fn broken(what: &str) -> Error {
    Error::Protocol(what.to_owned())
}
