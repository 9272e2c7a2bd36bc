//! The ssh-agent, asked by its protocol (draft-miller-ssh-agent): which keys it holds, and to sign with one.
//! It is looked for anew at each dial, never waited for longer than a bound, and one odd key does not spoil the list.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tunneld_proto::text;
use zeroize::Zeroizing;

use tunneld_config::model::Agent as Where;
use tunneld_keys::wire::{Reader, name, put_string};
use tunneld_ssh::client::AsyncStream;

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How long a signature may take: a person may have to touch a security key, or to consent.
const TOUCH_LIMIT: Duration = Duration::from_secs(60);
/// The longest answer that is read; OpenSSH's own bound.
const MESSAGE: u32 = 256 * 1024;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const SUCCESS: u8 = 6;
const ADD_IDENTITY: u8 = 17;
const ADD_ID_CONSTRAINED: u8 = 25;
const CONSTRAIN_LIFETIME: u8 = 1;
const CONSTRAIN_CONFIRM: u8 = 2;

/// A key that the agent holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The key or certificate.
    pub(crate) blob: Vec<u8>,
    /// The comment, escaped.
    pub(crate) comment: String,
}

/// The agent's socket, whether or not there is anything at it.
pub fn socket(place: &Where) -> Option<PathBuf> {
    let path = match place {
        Where::None => None,
        Where::Socket(path) => Some(path.clone()),
        Where::Environment => std::env::var_os("SSH_AUTH_SOCK")
            .map(PathBuf::from)
            .or_else(default_place),
        Where::Variable(variable) => std::env::var_os(variable).map(PathBuf::from),
    };
    path.filter(|path| !path.as_os_str().is_empty())
}

/// A connection to the agent.
pub(crate) struct Agent {
    stream: Box<dyn AsyncStream>,
    place: String,
}

impl Agent {
    /// Finds the agent; none where there is none to be had, with the reason where that is worth telling.
    pub(crate) async fn find(place: &Where) -> (Option<Self>, Option<String>) {
        let Some(path) = socket(place) else {
            let unset = match place {
                Where::Variable(variable) if std::env::var_os(variable).is_none() => Some(variable),
                _ => None,
            };
            let note = |variable| format!("identity_agent: ${} is not set", text::escape(variable));
            return (None, unset.map(|variable| note(variable)));
        };
        let shown = text::escape(&path.to_string_lossy());
        match timeout(LIMIT, connect(&path)).await {
            Ok(Ok(stream)) => (
                Some(Self {
                    stream,
                    place: shown,
                }),
                None,
            ),
            Ok(Err(error)) => {
                let name = match place {
                    Where::Environment => "the agent of SSH_AUTH_SOCK",
                    _ => "identity_agent",
                };
                (None, Some(format!("{name} {shown} is left out: {error}")))
            }
            Err(_) => (
                None,
                Some(format!(
                    "the agent {shown} did not take the connection within {LIMIT:?}"
                )),
            ),
        }
    }

    /// An agent that nobody answers for, to stand in tests of the order of keys.
    #[cfg(test)]
    pub(crate) fn unconnected() -> Self {
        Self {
            stream: Box::new(tokio::io::duplex(1).0),
            place: String::new(),
        }
    }

    /// The keys that it holds; what is no key at all is left out.
    pub(crate) async fn identities(&mut self) -> Result<Vec<Identity>, String> {
        let answer = self.request(&[REQUEST_IDENTITIES], LIMIT).await?;
        parse_identities(&answer).ok_or_else(|| format!("the agent {} talks nonsense", self.place))
    }

    /// A signature over `data` by the key `blob`, in the algorithm that the server was told.
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
            2
        } else if algorithm.starts_with("rsa-sha2-512") {
            4
        } else {
            0
        };
        request.extend(flags.to_be_bytes());
        let answer = self.request(&request, TOUCH_LIMIT).await?;
        let signature = parse_signature(&answer)
            .ok_or_else(|| format!("the agent {} refused to sign", self.place))?;
        let wanted = algorithm.split("-cert-v01@").next().unwrap_or(algorithm);
        match name(&signature) {
            Some(given) if given == wanted || given.split('@').next() == Some(wanted) => {
                Ok(signature)
            }
            _ => Err(format!(
                "the agent {} cannot sign with {algorithm}",
                self.place
            )),
        }
    }

    /// Gives it an unlocked key, encoded as the protocol wants it, under `comment`.
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
        match self.request(&request, LIMIT).await?.first() {
            Some(&SUCCESS) => Ok(()),
            _ => Err(format!("the agent {} did not take the key", self.place)),
        }
    }

    async fn request(&mut self, message: &[u8], limit: Duration) -> Result<Vec<u8>, String> {
        match timeout(limit, exchange(&mut self.stream, message)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(format!("the agent {} broke off: {error}", self.place)),
            Err(_) => Err(format!(
                "the agent {} did not answer within {limit:?}",
                self.place
            )),
        }
    }
}

async fn exchange(stream: &mut Box<dyn AsyncStream>, message: &[u8]) -> io::Result<Vec<u8>> {
    // It may hold a key.
    let mut framed = Zeroizing::new(Vec::with_capacity(message.len() + 4));
    put_string(&mut framed, message);
    stream.write_all(&framed).await?;
    stream.flush().await?;
    let len = stream.read_u32().await?;
    if len == 0 || len > MESSAGE {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "its answer is of no sane length",
        ));
    }
    let mut answer = vec![0; usize::try_from(len).unwrap_or_default()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

fn parse_identities(answer: &[u8]) -> Option<Vec<Identity>> {
    let mut reader = Reader(answer);
    match reader.byte()? {
        IDENTITIES_ANSWER => {}
        // A locked agent.
        FAILURE => return Some(Vec::new()),
        _ => return None,
    }
    let count = reader.u32()?;
    let mut identities = Vec::new();
    for _ in 0..count {
        let (Some(blob), Some(comment)) = (reader.string(), reader.string()) else {
            break;
        };
        if name(blob).is_some() {
            identities.push(Identity {
                blob: blob.to_vec(),
                comment: text::escape_bytes(comment),
            });
        }
    }
    Some(identities)
}

fn parse_signature(answer: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader(answer);
    match reader.byte()? {
        SIGN_RESPONSE => reader.string().map(<[u8]>::to_vec),
        _ => None,
    }
}

/// Where the agent is when the environment does not say.
#[cfg(windows)]
fn default_place() -> Option<PathBuf> {
    Some(PathBuf::from(r"\\.\pipe\openssh-ssh-agent"))
}

#[cfg(not(windows))]
fn default_place() -> Option<PathBuf> {
    None
}

#[cfg(unix)]
async fn connect(path: &Path) -> io::Result<Box<dyn AsyncStream>> {
    use std::os::unix::fs::MetadataExt as _;
    let owner = tokio::fs::metadata(path).await?.uid();
    let own = rustix::process::geteuid().as_raw();
    if owner != own && owner != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("it belongs to the user {owner}"),
        ));
    }
    let stream = tokio::net::UnixStream::connect(path).await?;
    Ok(Box::new(stream))
}

#[cfg(windows)]
async fn connect(path: &Path) -> io::Result<Box<dyn AsyncStream>> {
    let pipe = tokio::net::windows::named_pipe::ClientOptions::new().open(path)?;
    tokio::task::yield_now().await;
    Ok(Box::new(pipe))
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    fn identities(list: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut answer = vec![IDENTITIES_ANSWER];
        answer.extend(u32::try_from(list.len()).unwrap().to_be_bytes());
        for (blob, comment) in list {
            put_string(&mut answer, blob);
            put_string(&mut answer, comment);
        }
        answer
    }

    #[test]
    fn one_odd_key_does_not_spoil_the_list() {
        let mut good = Vec::new();
        put_string(&mut good, b"ssh-ed25519");
        put_string(&mut good, &[1; 32]);
        let answer = identities(&[(b"\xff\xff", b"odd"), (&good, b"me\x1b")]);
        let found = parse_identities(&answer).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].comment, "me\\u{1b}");
        assert_eq!(parse_identities(&[FAILURE]), Some(Vec::new()));
        assert_eq!(parse_identities(&[99]), None);
        // A list that is cut short gives what is whole.
        assert_eq!(
            parse_identities(&answer[..answer.len() - 1]).unwrap().len(),
            0
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_agent_costs_ten_seconds() {
        let (ours, _frozen) = tokio::io::duplex(1024);
        let mut agent = Agent {
            stream: Box::new(ours),
            place: "x".into(),
        };
        let begun = tokio::time::Instant::now();
        assert!(
            agent
                .identities()
                .await
                .unwrap_err()
                .contains("did not answer")
        );
        assert_eq!(begun.elapsed(), LIMIT);
    }

    #[tokio::test]
    async fn a_missing_socket_is_told() {
        let place = Where::Socket("/nonexistent/agent".into());
        let (agent, note) = Agent::find(&place).await;
        assert!(agent.is_none() && note.unwrap().contains("/nonexistent/agent"));
    }
}
