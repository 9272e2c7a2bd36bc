//! The ssh-agent protocol (draft-miller-ssh-agent): lists keys, signs, adds keys.
//!
//! Each dial connects again, because an agent may be restarted. Every request has a time limit, so that an agent that
//! hangs does not block the dial.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tunneld_proto::text;
use zeroize::Zeroizing;

use crate::session::auth::pending_signatures::PendingSignatures;
use tunneld_config::model::Agent as AgentSource;
use tunneld_keys::wire::{Reader, name, put_string};
use tunneld_ssh::client::AsyncStream;

/// Limit for one request other than a signature.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Limit for a signature: a person may have to touch a security key or to consent.
const SIGN_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest answer that is read, in bytes: OpenSSH's own limit.
const ANSWER_LIMIT: u32 = 256 * 1024;

// Message numbers of draft-miller-ssh-agent §6.1.
const FAILURE: u8 = 5;
const SUCCESS: u8 = 6;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const ADD_IDENTITY: u8 = 17;
const ADD_ID_CONSTRAINED: u8 = 25;

// Key constraints of draft-miller-ssh-agent §6.2.
const CONSTRAIN_LIFETIME: u8 = 1;
const CONSTRAIN_CONFIRM: u8 = 2;

// Signature flags of draft-miller-ssh-agent §6.3.
const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;

/// A key that the agent holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentKey {
    /// The public key or certificate, in the wire format.
    pub(crate) blob: Vec<u8>,
    /// The comment, escaped.
    pub(crate) comment: String,
}

/// The path of the agent's socket, whether or not an agent listens there. `None` if no agent is configured.
pub fn socket(source: &AgentSource) -> Option<PathBuf> {
    let path = match source {
        AgentSource::None => None,
        AgentSource::Socket(path) => Some(path.clone()),
        AgentSource::Environment => std::env::var_os("SSH_AUTH_SOCK")
            .map(PathBuf::from)
            .or_else(default_path),
        AgentSource::Variable(variable) => std::env::var_os(variable).map(PathBuf::from),
    };
    path.filter(|path| !path.as_os_str().is_empty())
}

/// A connection to the agent.
pub(crate) struct Agent {
    stream: Box<dyn AsyncStream>,
    /// The path of the socket, escaped.
    path: String,
    signatures: PendingSignatures,
}

/// Why the agent gave no answer, in words for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AgentError {
    /// A system call failed: the next dial may work.
    TryAgain(String),
    /// It is not running, does not answer or answers nonsense, until the user does something about it.
    Unavailable(String),
}

impl AgentError {
    /// Returns the words for the user.
    pub(crate) fn into_text(self) -> String {
        match self {
            Self::TryAgain(why) | Self::Unavailable(why) => why,
        }
    }
}

impl Agent {
    /// Connects to the agent. `None` if none is configured.
    ///
    /// # Errors
    /// Why the configured agent cannot be used, for the user.
    pub(crate) async fn connect(
        source: &AgentSource,
        signatures: &PendingSignatures,
    ) -> Result<Option<Self>, AgentError> {
        let Some(path) = socket(source) else {
            return match source {
                AgentSource::Variable(variable) if std::env::var_os(variable).is_none() => {
                    let why = format!("identity_agent: ${} is not set", text::escape(variable));
                    Err(AgentError::Unavailable(why))
                }
                _ => Ok(None),
            };
        };
        let shown = text::escape(&path.to_string_lossy());
        match timeout(REQUEST_TIMEOUT, open_socket(&path)).await {
            Ok(Ok(stream)) => Ok(Some(Self {
                stream,
                path: shown,
                signatures: signatures.clone(),
            })),
            Ok(Err(error)) => {
                let agent = match source {
                    AgentSource::Environment => "the agent of SSH_AUTH_SOCK",
                    _ => "identity_agent",
                };
                let why = format!("{agent} {shown} cannot be used: {error}");
                Err(match error.kind() {
                    io::ErrorKind::NotFound
                    | io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::PermissionDenied => AgentError::Unavailable(why),
                    // This process has no descriptor or memory left, or was interrupted: the agent itself may be well.
                    _ => AgentError::TryAgain(why),
                })
            }
            Err(_) => Err(AgentError::Unavailable(format!(
                "the agent {shown} did not accept the connection within {REQUEST_TIMEOUT:?}"
            ))),
        }
    }

    /// An agent that never answers, for tests of the order of keys.
    #[cfg(test)]
    pub(crate) fn unconnected() -> Self {
        Self {
            stream: Box::new(tokio::io::duplex(1).0),
            path: String::new(),
            signatures: PendingSignatures::default(),
        }
    }

    /// Lists the keys that the agent holds. Entries that are not keys are skipped.
    ///
    /// # Errors
    /// The agent does not answer, or its answer is invalid.
    pub(crate) async fn keys(&mut self) -> Result<Vec<AgentKey>, AgentError> {
        let answer = self.request(&[REQUEST_IDENTITIES], REQUEST_TIMEOUT).await?;
        parse_keys(&answer).ok_or_else(|| {
            let why = format!("the agent {} sent an invalid list of keys", self.path);
            AgentError::Unavailable(why)
        })
    }

    /// Signs `data` with the private key of `blob`, by the algorithm that was offered to the server.
    pub(crate) async fn sign(
        &mut self,
        blob: &[u8],
        data: &[u8],
        algorithm: &str,
    ) -> Result<Vec<u8>, String> {
        let mut request = vec![SIGN_REQUEST];
        put_string(&mut request, blob);
        put_string(&mut request, data);
        let flags: u32 = if algorithm.starts_with("rsa-sha2-256") {
            RSA_SHA2_256
        } else if algorithm.starts_with("rsa-sha2-512") {
            RSA_SHA2_512
        } else {
            0
        };
        request.extend(flags.to_be_bytes());
        let pending = self.signatures.begin(&self.path);
        let answer = self.request(&request, SIGN_TIMEOUT).await;
        drop(pending);
        let answer = answer.map_err(AgentError::into_text)?;
        let signature = parse_signature(&answer)
            .ok_or_else(|| format!("the agent {} refused to sign", self.path))?;
        // An agent may ignore the flags and sign with another algorithm, which the server would reject.
        let expected = algorithm.split("-cert-v01@").next().unwrap_or(algorithm);
        match name(&signature) {
            Some(used) if used == expected || used.split('@').next() == Some(expected) => {
                Ok(signature)
            }
            _ => Err(format!(
                "the agent {} cannot sign with {algorithm}",
                self.path
            )),
        }
    }

    /// Adds a private key, encoded as the protocol requires, under `comment`. The agent asks before each use if
    /// `confirm`, and drops the key after `lifetime`, in seconds; `None` keeps it.
    pub(crate) async fn add(
        &mut self,
        key: &[u8],
        comment: &str,
        confirm: bool,
        lifetime: Option<Duration>,
    ) -> Result<(), String> {
        let constrained = confirm || lifetime.is_some();
        let mut request = Zeroizing::new(vec![match constrained {
            true => ADD_ID_CONSTRAINED,
            false => ADD_IDENTITY,
        }]);
        request.extend(key);
        put_string(&mut request, comment.as_bytes());
        if let Some(lifetime) = lifetime {
            request.push(CONSTRAIN_LIFETIME);
            let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
            request.extend(seconds.to_be_bytes());
        }
        if confirm {
            request.push(CONSTRAIN_CONFIRM);
        }
        let answer = self.request(&request, REQUEST_TIMEOUT).await;
        match answer.map_err(AgentError::into_text)?.first() {
            Some(&SUCCESS) => Ok(()),
            _ => Err(format!("the agent {} rejected the key", self.path)),
        }
    }

    async fn request(&mut self, message: &[u8], limit: Duration) -> Result<Vec<u8>, AgentError> {
        let exchange = exchange(&mut self.stream, message);
        tokio::pin!(exchange);
        let mut result = timeout(limit, &mut exchange).await;
        let mut limit = limit;
        // OpenSSH's agent answers nothing else while it asks its user about a signature.
        if result.is_err() && limit < SIGN_TIMEOUT && self.signatures.contains(&self.path) {
            limit = SIGN_TIMEOUT;
            result = timeout(SIGN_TIMEOUT - REQUEST_TIMEOUT, &mut exchange).await;
        }
        match result {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let why = format!("the connection to the agent {} broke: {error}", self.path);
                Err(AgentError::TryAgain(why))
            }
            Err(_) => Err(AgentError::Unavailable(format!(
                "the agent {} did not answer within {limit:?}",
                self.path
            ))),
        }
    }
}

async fn exchange(stream: &mut Box<dyn AsyncStream>, message: &[u8]) -> io::Result<Vec<u8>> {
    // Cleared after use: the message may hold a private key.
    let mut framed = Zeroizing::new(Vec::with_capacity(message.len() + 4));
    put_string(&mut framed, message);
    stream.write_all(&framed).await?;
    stream.flush().await?;
    let len = stream.read_u32().await?;
    if len == 0 || len > ANSWER_LIMIT {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the length of its answer is invalid",
        ));
    }
    let mut answer = vec![0; usize::try_from(len).unwrap_or_default()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// `None` if the answer is not a list of keys.
fn parse_keys(answer: &[u8]) -> Option<Vec<AgentKey>> {
    let mut reader = Reader(answer);
    match reader.byte()? {
        IDENTITIES_ANSWER => {}
        // A locked agent answers like this: it has no keys for now.
        FAILURE => return Some(Vec::new()),
        _ => return None,
    }
    let count = reader.u32()?;
    let mut keys = Vec::new();
    // The count is the agent's word: the loop ends where the data ends, and nothing is allocated by it.
    for _ in 0..count {
        let (Some(blob), Some(comment)) = (reader.string(), reader.string()) else {
            break;
        };
        // One entry that is not a key must not hide the others.
        if name(blob).is_some() {
            keys.push(AgentKey {
                blob: blob.to_vec(),
                comment: text::escape_bytes(comment),
            });
        }
    }
    Some(keys)
}

fn parse_signature(answer: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader(answer);
    match reader.byte()? {
        SIGN_RESPONSE => reader.string().map(<[u8]>::to_vec),
        _ => None,
    }
}

/// The agent's address if SSH_AUTH_SOCK is not set: Windows has a fixed one.
#[cfg(windows)]
fn default_path() -> Option<PathBuf> {
    Some(PathBuf::from(r"\\.\pipe\openssh-ssh-agent"))
}

#[cfg(not(windows))]
fn default_path() -> Option<PathBuf> {
    None
}

#[cfg(unix)]
async fn open_socket(path: &Path) -> io::Result<Box<dyn AsyncStream>> {
    use std::os::unix::fs::MetadataExt as _;
    // AddKeysToAgent sends private keys to the owner of the socket.
    let owner = tokio::fs::metadata(path).await?.uid();
    let own = rustix::process::geteuid().as_raw();
    if owner != own && owner != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("it belongs to another user (uid {owner})"),
        ));
    }
    let stream = tokio::net::UnixStream::connect(path).await?;
    Ok(Box::new(stream))
}

#[cfg(windows)]
async fn open_socket(path: &Path) -> io::Result<Box<dyn AsyncStream>> {
    let pipe = tokio::net::windows::named_pipe::ClientOptions::new().open(path)?;
    tokio::task::yield_now().await;
    Ok(Box::new(pipe))
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    fn keys_answer(list: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut answer = vec![IDENTITIES_ANSWER];
        answer.extend(u32::try_from(list.len()).unwrap().to_be_bytes());
        for (blob, comment) in list {
            put_string(&mut answer, blob);
            put_string(&mut answer, comment);
        }
        answer
    }

    #[test]
    fn an_entry_that_is_not_a_key_is_skipped() {
        let mut good = Vec::new();
        put_string(&mut good, b"ssh-ed25519");
        put_string(&mut good, &[1; 32]);
        let answer = keys_answer(&[(b"\xff\xff", b"odd"), (&good, b"me\x1b")]);
        let found = parse_keys(&answer).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].comment, "me\\u{1b}");
        assert_eq!(parse_keys(&[FAILURE]), Some(Vec::new()));
        assert_eq!(parse_keys(&[99]), None);
        // A list that is cut short yields its complete entries.
        assert_eq!(parse_keys(&answer[..answer.len() - 1]).unwrap().len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_does_not_answer_fails_after_ten_seconds() {
        let (ours, _frozen) = tokio::io::duplex(1024);
        let mut agent = Agent {
            stream: Box::new(ours),
            path: "x".into(),
            signatures: PendingSignatures::default(),
        };
        let start = tokio::time::Instant::now();
        let error = agent.keys().await.unwrap_err().into_text();
        assert!(error.contains("did not answer"), "{error}");
        assert_eq!(start.elapsed(), REQUEST_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_asks_its_user_for_another_tunnel_is_waited_for() {
        let signatures = PendingSignatures::default();
        let connect = || {
            let (stream, end) = tokio::io::duplex(1024);
            let agent = Agent {
                stream: Box::new(stream),
                path: "x".into(),
                signatures: signatures.clone(),
            };
            (agent, end)
        };
        let (mut first, mut at_first) = connect();
        let (mut second, mut at_second) = connect();
        // The user takes half a minute.
        let answer = async {
            tokio::time::sleep(Duration::from_secs(30)).await;
            at_first.write_all(&[0, 0, 0, 1, FAILURE]).await.unwrap();
            at_second.write_all(&[0, 0, 0, 1, FAILURE]).await.unwrap();
        };
        let (_, keys, ()) = tokio::join!(first.sign(b"", b"", ""), second.keys(), answer);
        assert_eq!(keys, Ok(Vec::new()));
        assert!(!signatures.contains("x"));
    }

    #[tokio::test]
    async fn the_error_names_a_missing_socket() {
        let source = AgentSource::Socket("/nonexistent/agent".into());
        let signatures = PendingSignatures::default();
        let error = Agent::connect(&source, &signatures).await.err().unwrap();
        let error = error.into_text();
        assert!(error.contains("/nonexistent/agent"), "{error}");
    }
}
