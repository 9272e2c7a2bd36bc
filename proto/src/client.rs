//! A client: connects, says hello, calls, hears events, and can turn into a byte stream.
//!
//! One owner and no task: whoever holds it drives it. [`Client::call`] keeps the notifications that
//! come before its reply for [`Client::notification`].

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::codec::Framed;

use crate::codec::{CodecError, LineCodec, Prefixed, to_line};
use crate::endpoint::{self, ConnectError, Endpoint, Stream};
use crate::error::{ErrorKind, RpcError};
use crate::message::{Connect, Event, Hello, LogLine, Request, Snapshot, Welcome, method};
use crate::version::{PROTOCOLS, VERSION};

/// How long a daemon may take to say hello, or to answer a call that has nothing to wait for.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(4);

/// How many notifications a call keeps while it waits; older ones give way.
const MAX_KEPT: usize = 4096;

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No daemon, or not ours.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A daemon that does not answer.
    #[error("the daemon at {endpoint} does not answer")]
    Hung {
        /// Where.
        endpoint: String,
    },
    /// The daemon ended the connection.
    #[error("the daemon has closed the connection")]
    Closed,
    /// The connection failed.
    #[error("talking to the daemon failed")]
    Io(#[from] CodecError),
    /// No common protocol version.
    #[error("the daemon speaks {}, this program {}", protocol(.daemon), list(PROTOCOLS))]
    Version {
        /// The daemon's versions.
        daemon: Vec<String>,
    },
    /// Something that is no reply.
    #[error("the daemon's answer to {method} is not understood")]
    Garbled {
        /// The call.
        method: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The daemon's own error.
    #[error(transparent)]
    Rpc(#[from] RpcError),
}

/// A daemon need not tell which it speaks.
fn protocol(versions: &[String]) -> String {
    match versions {
        [] => "another protocol".into(),
        told => format!("protocol {}", told.join(", ")),
    }
}

fn list(numbers: &[u32]) -> String {
    let words: Vec<_> = numbers.iter().map(u32::to_string).collect();
    words.join(", ")
}

/// What the daemon says unasked.
#[derive(Debug, Clone, PartialEq)]
pub enum Notification {
    /// Something happened.
    Event(Box<Event>),
    /// Events were missed; this is how things stand now.
    Lagged(Snapshot),
    /// A log line.
    Log(LogLine),
    /// A newer daemon's word.
    Unknown(String),
}

/// What the daemon says.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// The reply to a call made with [`Client::send`].
    Reply {
        /// The call's id.
        id: u64,
        /// Its result.
        result: Result<Value, RpcError>,
    },
    /// What it says unasked.
    Notification(Notification),
}

/// A reply and a notification in one, told apart by what they have.
#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    id: Value,
    #[serde(default)]
    result: Option<Value>,
    #[serde(default)]
    error: Option<RpcError>,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    params: Value,
}

/// A connection to a daemon that has said hello.
#[derive(Debug)]
pub struct Client {
    endpoint: String,
    framed: Framed<Stream, LineCodec>,
    next_id: u64,
    kept: VecDeque<Notification>,
    welcome: Welcome,
}

impl Client {
    /// Connects and says hello as `name` (such as `tunnelctl`), within [`CALL_TIMEOUT`].
    ///
    /// # Errors
    /// Where no daemon answers, it is not the user's own, or no protocol version is common.
    pub async fn connect(endpoint: &Endpoint, name: &str) -> Result<Self, ClientError> {
        let hung = |_| ClientError::Hung {
            endpoint: endpoint.to_string(),
        };
        tokio::time::timeout(CALL_TIMEOUT, Self::connect_and_greet(endpoint, name))
            .await
            .map_err(hung)?
    }

    async fn connect_and_greet(endpoint: &Endpoint, name: &str) -> Result<Self, ClientError> {
        let stream = loop {
            match endpoint::connect(endpoint).await {
                // The daemon's queue is full for the moment.
                Err(ConnectError::Io { source, .. })
                    if source.kind() == std::io::ErrorKind::WouldBlock =>
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                other => break other?,
            }
        };
        let mut client = Self {
            endpoint: endpoint.to_string(),
            framed: Framed::new(stream, LineCodec::default()),
            next_id: 1,
            kept: VecDeque::new(),
            welcome: Welcome {
                version: String::new(),
                protocol: 0,
                pid: 0,
                features: Vec::new(),
            },
        };
        let hello = Hello {
            client: format!("{name} {VERSION}"),
            protocol: PROTOCOLS.to_vec(),
        };
        client.welcome = match client.call_until(method::HELLO, &hello, None).await {
            Err(ClientError::Rpc(err)) if err.data.kind == ErrorKind::UnsupportedProtocol => {
                return Err(ClientError::Version {
                    daemon: err.data.causes,
                });
            }
            Ok(Welcome { protocol, .. }) if !PROTOCOLS.contains(&protocol) => {
                return Err(ClientError::Version {
                    daemon: vec![protocol.to_string()],
                });
            }
            other => other?,
        };
        Ok(client)
    }

    /// What the daemon said to hello.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Calls, and waits at most [`CALL_TIMEOUT`] for the reply.
    ///
    /// # Errors
    /// The daemon's own error, or that it does not answer as it should.
    pub async fn call<T: DeserializeOwned>(
        &mut self,
        method: &str,
        params: &(impl Serialize + Sync),
    ) -> Result<T, ClientError> {
        self.call_within(method, params, CALL_TIMEOUT).await
    }

    /// Calls, and waits at most `limit` for the reply.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn call_within<T: DeserializeOwned>(
        &mut self,
        method: &str,
        params: &(impl Serialize + Sync),
        limit: Duration,
    ) -> Result<T, ClientError> {
        // A limit beyond what a clock holds is no limit at all.
        let deadline = Instant::now().checked_add(limit);
        self.call_until(method, params, deadline).await
    }

    async fn call_until<T: DeserializeOwned>(
        &mut self,
        method: &str,
        params: &(impl Serialize + Sync),
        deadline: Option<Instant>,
    ) -> Result<T, ClientError> {
        let round_trip = self.round_trip(method, params);
        let value = match deadline {
            None => round_trip.await?,
            Some(deadline) => match tokio::time::timeout_at(deadline, round_trip).await {
                Ok(value) => value?,
                Err(_) => {
                    return Err(ClientError::Hung {
                        endpoint: self.endpoint.clone(),
                    });
                }
            },
        };
        serde_json::from_value(value).map_err(|source| ClientError::Garbled {
            method: method.to_owned(),
            source,
        })
    }

    async fn round_trip(
        &mut self,
        method: &str,
        params: &(impl Serialize + Sync),
    ) -> Result<Value, ClientError> {
        let sent = self.send(method, params).await?;
        loop {
            match self.read().await? {
                Some(Incoming::Reply { id, result }) if id == sent => return Ok(result?),
                // The reply to a call that was given up.
                Some(Incoming::Reply { .. }) => {}
                Some(Incoming::Notification(notification)) => {
                    if self.kept.len() == MAX_KEPT {
                        self.kept.pop_front();
                    }
                    self.kept.push_back(notification);
                }
                None => return Err(ClientError::Closed),
            }
        }
    }

    /// Sends a call whose reply [`Self::next`] brings; gives its id.
    ///
    /// # Errors
    /// Where the connection has failed, or the parameters are too long for a line.
    pub async fn send(
        &mut self,
        method: &str,
        params: &(impl Serialize + Sync),
    ) -> Result<u64, ClientError> {
        let garbled = |source| ClientError::Garbled {
            method: method.to_owned(),
            source,
        };
        let id = self.next_id;
        self.next_id += 1;
        let request = Request {
            jsonrpc: "2.0".into(),
            id: Some(id.into()),
            method: method.to_owned(),
            params: serde_json::to_value(params).map_err(garbled)?,
        };
        let line: Bytes = to_line(&request).map_err(garbled)?;
        match self.framed.send(line).await {
            Ok(()) => Ok(id),
            // What the daemon said before it closed (busy, too long) is worth more than the broken pipe.
            Err(CodecError::Io(_)) => match self.read().await {
                Err(err @ ClientError::Rpc(_)) => Err(err),
                _ => Err(ClientError::Closed),
            },
            Err(err) => Err(err.into()),
        }
    }

    /// The next reply or notification, none at the daemon's end; cancel-safe.
    ///
    /// # Errors
    /// Where the connection fails, or brings what is no message.
    pub async fn next(&mut self) -> Result<Option<Incoming>, ClientError> {
        if let Some(kept) = self.kept.pop_front() {
            return Ok(Some(Incoming::Notification(kept)));
        }
        self.read().await
    }

    /// The next notification, none at the daemon's end; replies to calls that were given up are skipped. Cancel-safe.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn notification(&mut self) -> Result<Option<Notification>, ClientError> {
        loop {
            match self.next().await? {
                Some(Incoming::Notification(notification)) => return Ok(Some(notification)),
                Some(Incoming::Reply { .. }) => {}
                None => return Ok(None),
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Incoming>, ClientError> {
        let line = match self.framed.next().await {
            None => return Ok(None),
            Some(Err(CodecError::Io(err)))
                if matches!(
                    err.kind(),
                    std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe
                ) =>
            {
                return Ok(None);
            }
            Some(line) => line?,
        };
        let line: Line = serde_json::from_slice(&line).map_err(|source| ClientError::Garbled {
            method: "a call".into(),
            source,
        })?;
        if let Some(method) = line.method {
            return Ok(Some(Incoming::Notification(notification(
                method,
                line.params,
            )?)));
        }
        let result = match line.error {
            // An error without an id is about the connection: no call will be answered.
            Some(err) if line.id.is_null() => return Err(err.into()),
            Some(err) => Err(err),
            None => Ok(line.result.unwrap_or(Value::Null)),
        };
        let id = line.id.as_u64().unwrap_or(0);
        Ok(Some(Incoming::Reply { id, result }))
    }

    /// Has the daemon open a connection through a tunnel; what remains is that connection's bytes.
    ///
    /// # Errors
    /// As [`Self::call`], the far end's refusal among them.
    pub async fn into_stream(
        mut self,
        params: &Connect,
        limit: Duration,
    ) -> Result<Prefixed<Stream>, ClientError> {
        let _: Value = self.call_within(method::CONNECT, params, limit).await?;
        let parts = self.framed.into_parts();
        Ok(Prefixed::new(parts.read_buf, parts.io))
    }
}

fn notification(method: String, params: Value) -> Result<Notification, ClientError> {
    fn of<T: DeserializeOwned>(method: &str, params: Value) -> Result<T, ClientError> {
        serde_json::from_value(params).map_err(|source| ClientError::Garbled {
            method: method.to_owned(),
            source,
        })
    }
    Ok(match method.as_str() {
        method::EVENT => Notification::Event(of(&method, params)?),
        method::LAGGED => Notification::Lagged(of(&method, params)?),
        method::LOG => Notification::Log(of(&method, params)?),
        _ => Notification::Unknown(method),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_tells_no_version_is_told_without_one() {
        let told = |daemon: &[&str]| {
            let daemon = daemon.iter().map(|version| (*version).to_owned()).collect();
            ClientError::Version { daemon }.to_string()
        };
        assert_eq!(
            told(&["2", "3"]),
            "the daemon speaks protocol 2, 3, this program 1"
        );
        assert_eq!(
            told(&[]),
            "the daemon speaks another protocol, this program 1"
        );
    }
}
