//! What a client receives: replies and notifications.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ClientError;
use crate::error::RpcError;
use crate::message::{Event, LogLine, Snapshot, method};

/// A message of the daemon that is not a reply.
#[derive(Debug, Clone, PartialEq)]
pub enum Notification {
    /// Something changed, see [`EventBody`](crate::message::EventBody).
    Event(Box<Event>),
    /// Events were missed because this client was too slow; the snapshot replaces all earlier state.
    Lagged(Snapshot),
    /// A new log line, after `log.tail` with `follow`.
    Log(LogLine),
    /// A notification of a newer daemon, by its method.
    Unknown(String),
}

/// A message of the daemon.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming {
    /// The reply to a call that was sent with [`Client::send`](super::Client::send).
    Reply {
        /// Id of the call, as `send` returned it.
        id: u64,
        /// Result or error of the call.
        result: Result<Value, RpcError>,
    },
    /// A message that belongs to no call.
    Notification(Notification),
}

/// Parses the parameters of the notification `method`.
///
/// # Errors
/// [`ClientError::Garbled`] if a known method has parameters of another form.
pub(super) fn parse(method: String, params: Value) -> Result<Notification, ClientError> {
    fn params_of<T: DeserializeOwned>(method: &str, params: Value) -> Result<T, ClientError> {
        serde_json::from_value(params).map_err(|source| ClientError::Garbled {
            method: method.to_owned(),
            source,
        })
    }
    Ok(match method.as_str() {
        method::EVENT => Notification::Event(params_of(&method, params)?),
        method::LAGGED => Notification::Lagged(params_of(&method, params)?),
        method::LOG => Notification::Log(params_of(&method, params)?),
        // A newer daemon may send more than this client knows: that is no reason to disconnect.
        _ => Notification::Unknown(method),
    })
}
