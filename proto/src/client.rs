//! A client of the control protocol: connects, agrees on a version, calls methods, receives notifications, and can turn
//! into a byte stream.
//!
//! The client spawns no task: it makes progress only inside its methods. [`Client::call`] buffers the
//! notifications that arrive before its reply for [`Client::notification`].
//!
//! ```no_run
//! use serde_json::Value;
//! use tunneld_proto::client::{Client, ClientError};
//! use tunneld_proto::endpoint::Endpoint;
//! use tunneld_proto::message::{StatusParams, Tunnels, method};
//! use tunneld_proto::paths::Env;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let endpoint = Endpoint::resolve(None, &Env::from_process())?;
//! let mut client = Client::connect(&endpoint, "example").await?;
//! let all: Tunnels = client.call(method::STATUS, &StatusParams::default()).await?;
//! for tunnel in all.tunnels {
//!     println!("{} is {}", tunnel.name, tunnel.state.as_str());
//! }
//! # Ok(())
//! # }
//! ```

mod error;
mod notification;

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
use crate::message::{Connect, Hello, Request, Welcome, method};
use crate::version::{PROTOCOLS, VERSION};
pub use error::ClientError;
pub use notification::{Incoming, Notification};

/// How long a daemon may take to answer `hello`, or a call that does not wait for tunnels.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(4);

/// How many notifications a call buffers while it waits for its reply; beyond it the oldest are dropped.
const MAX_BUFFERED: usize = 4096;

/// A reply or a notification; a notification has a method.
#[derive(Deserialize)]
struct WireMessage {
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

/// A connection to a daemon on which `hello` has succeeded.
#[derive(Debug)]
pub struct Client {
    endpoint: String,
    framed: Framed<Stream, LineCodec>,
    next_id: u64,
    /// Notifications that arrived while a call was waiting for its reply.
    buffered: VecDeque<Notification>,
    welcome: Welcome,
}

impl Client {
    /// Connects and sends `hello` as `name` (such as `tunnelctl`), within [`CALL_TIMEOUT`].
    ///
    /// # Errors
    /// If no daemon answers, it belongs to another user, or there is no common protocol version.
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
                // The backlog of the socket is full; on Windows, every instance of the pipe is busy.
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
            buffered: VecDeque::new(),
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
            // A daemon that picks a version which was not offered cannot be trusted to speak ours.
            Ok(Welcome { protocol, .. }) if !PROTOCOLS.contains(&protocol) => {
                return Err(ClientError::Version {
                    daemon: vec![protocol.to_string()],
                });
            }
            other => other?,
        };
        Ok(client)
    }

    /// Returns the result of `hello`.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Calls a method and waits at most [`CALL_TIMEOUT`] for the reply.
    ///
    /// # Errors
    /// If the daemon returns an error, does not answer in time, or answers with an unexpected message.
    ///
    /// # Cancel safety
    /// Not cancel-safe: a call that is dropped may have been sent. Its late reply is skipped.
    pub async fn call<T: DeserializeOwned>(
        &mut self,
        method: &str,
        params: &(impl Serialize + Sync),
    ) -> Result<T, ClientError> {
        self.call_within(method, params, CALL_TIMEOUT).await
    }

    /// Calls a method and waits at most `limit` for the reply.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn call_within<T: DeserializeOwned>(
        &mut self,
        method: &str,
        params: &(impl Serialize + Sync),
        limit: Duration,
    ) -> Result<T, ClientError> {
        // A limit that overflows the clock means no limit.
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
        // Replies carry the id: the daemon may answer calls in another order than they were sent.
        let sent = self.send(method, params).await?;
        loop {
            match self.read().await? {
                Some(Incoming::Reply { id, result }) if id == sent => return Ok(result?),
                // The late reply to a call that timed out.
                Some(Incoming::Reply { .. }) => {}
                Some(Incoming::Notification(notification)) => {
                    if self.buffered.len() == MAX_BUFFERED {
                        // Bounded, so that a long wait on a busy daemon cannot fill the memory; an event is a full
                        // status, and a later one replaces it.
                        self.buffered.pop_front();
                    }
                    self.buffered.push_back(notification);
                }
                None => return Err(ClientError::Closed),
            }
        }
    }

    /// Sends a call and returns its id; [`Self::next`] returns the reply.
    ///
    /// # Errors
    /// If the connection has failed, or the parameters are too long for one line.
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
            // A reason that the daemon sent before it closed (busy, line too long) says more than the broken pipe.
            Err(CodecError::Io(_)) => match self.read().await {
                Err(err @ ClientError::Rpc(_)) => Err(err),
                _ => Err(ClientError::Closed),
            },
            Err(err) => Err(err.into()),
        }
    }

    /// Returns the next reply or notification; `None` if the daemon has closed the connection.
    ///
    /// # Errors
    /// If the connection fails, or a line is not a valid message.
    ///
    /// # Cancel safety
    /// Cancel-safe: no message is lost.
    pub async fn next(&mut self) -> Result<Option<Incoming>, ClientError> {
        if let Some(notification) = self.buffered.pop_front() {
            return Ok(Some(Incoming::Notification(notification)));
        }
        self.read().await
    }

    /// Returns the next notification; `None` if the daemon has closed the connection. Late replies are skipped.
    ///
    /// # Errors
    /// As [`Self::next`].
    ///
    /// # Cancel safety
    /// Cancel-safe: no notification is lost.
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
            // A daemon that exits with unread requests resets the connection; for callers that is its end, too.
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
        let line: WireMessage =
            serde_json::from_slice(&line).map_err(|source| ClientError::Garbled {
                method: "a call".into(),
                source,
            })?;
        if let Some(method) = line.method {
            return Ok(Some(Incoming::Notification(notification::parse(
                method,
                line.params,
            )?)));
        }
        let result = match line.error {
            // An error without an id is about the connection: the daemon answers no further call.
            Some(err) if line.id.is_null() => return Err(err.into()),
            Some(err) => Err(err),
            None => Ok(line.result.unwrap_or(Value::Null)),
        };
        // Our ids start at 1, so that an id of another form matches no call.
        let id = line.id.as_u64().unwrap_or(0);
        Ok(Some(Incoming::Reply { id, result }))
    }

    /// Opens a connection through a tunnel and turns this connection into its byte stream; waits at most `limit`.
    ///
    /// # Errors
    /// As [`Self::call`]; also if the SSH server refuses the connection.
    pub async fn into_stream(
        mut self,
        params: &Connect,
        limit: Duration,
    ) -> Result<Prefixed<Stream>, ClientError> {
        let _: Value = self.call_within(method::CONNECT, params, limit).await?;
        // The first bytes of the stream may be in the read buffer already.
        let parts = self.framed.into_parts();
        Ok(Prefixed::new(parts.read_buf, parts.io))
    }
}
