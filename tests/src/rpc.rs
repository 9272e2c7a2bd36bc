//! A control client that sends and receives single lines, so that tests see the exact bytes of the protocol and can
//! break its rules. `tunneld_proto::client` is the client that programs use.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tunneld_proto::error::RpcError;

use crate::wait::{LONG, within};

/// A connection to the control socket.
pub struct Rpc {
    reader: BufReader<OwnedReadHalf>,
    /// `None` after [`Self::close_write`].
    writer: Option<OwnedWriteHalf>,
    last_id: u64,
    /// Notifications that arrived while [`Self::call`] waited for its reply.
    notifications: VecDeque<Value>,
}

impl Rpc {
    /// Connects without sending anything.
    ///
    /// # Errors
    /// If nothing listens on the socket.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .await
            .with_context(|| format!("cannot connect to {}", socket.display()))?;
        let (reader, writer) = stream.into_split();
        Ok(Self {
            reader: BufReader::new(reader),
            writer: Some(writer),
            last_id: 0,
            notifications: VecDeque::new(),
        })
    }

    /// Connects and completes the hello with protocol version 1.
    ///
    /// # Errors
    /// If nothing listens on the socket, or the daemon answers with an error.
    pub async fn hello(socket: &Path) -> Result<Self> {
        let mut rpc = Self::connect(socket).await?;
        let params = json!({"client": "lab", "protocol": [1]});
        rpc.call("hello", params).await??;
        Ok(rpc)
    }

    /// Sends bytes without a newline.
    ///
    /// # Errors
    /// If the daemon has closed the connection.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let writer = self.writer.as_mut().context("close_write was called")?;
        Ok(writer.write_all(bytes).await?)
    }

    /// Sends one line, with a newline.
    ///
    /// # Errors
    /// If the daemon has closed the connection.
    pub async fn send_line(&mut self, line: &str) -> Result<()> {
        self.send(format!("{line}\n").as_bytes()).await
    }

    /// Half-closes the connection: the daemon reads an end of file and can still write.
    ///
    /// # Errors
    /// If the socket fails.
    pub async fn close_write(&mut self) -> Result<()> {
        if let Some(mut writer) = self.writer.take() {
            writer.shutdown().await?;
        }
        Ok(())
    }

    /// Waits for the next line. `None` if the daemon has closed the connection.
    ///
    /// # Errors
    /// If neither happens within `limit`.
    pub async fn next_line(&mut self, limit: Duration) -> Result<Option<String>> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line);
        match within(limit, "a line from the daemon", read).await? {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(line.trim_end().to_owned())),
            // The daemon may close with unread bytes of ours, which the kernel turns into a reset.
            Err(_) => Ok(None),
        }
    }

    /// Waits for the next line and parses it as JSON.
    ///
    /// # Errors
    /// If no line arrives within `limit`, the daemon closes the connection, or the line is not JSON.
    pub async fn next_object(&mut self, limit: Duration) -> Result<Value> {
        let line = self.next_line(limit).await?.context("the daemon closed")?;
        serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))
    }

    /// Calls a method and waits up to a minute for its reply; notifications that arrive meanwhile are kept for
    /// [`Self::next_notification`]. The inner result is the daemon's reply.
    ///
    /// # Errors
    /// If there is no reply, or it does not follow the protocol.
    pub async fn call(&mut self, method: &str, params: Value) -> Result<Result<Value, RpcError>> {
        self.last_id += 1;
        let id = self.last_id;
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.send_line(&request.to_string()).await?;
        loop {
            let mut object = self.next_object(Duration::from_secs(60)).await?;
            ensure!(object["jsonrpc"] == "2.0", "not JSON-RPC 2.0: {object}");
            if object.get("method").is_some() {
                self.notifications.push_back(object);
            } else if object["id"] == id {
                return match object.get_mut("error").map(Value::take) {
                    Some(error) => Ok(Err(serde_json::from_value(error)?)),
                    None => Ok(Ok(object["result"].take())),
                };
            } else {
                bail!("a reply to another call: {object}");
            }
        }
    }

    /// Waits for the next notification, an event or `lagged`.
    ///
    /// # Errors
    /// If none arrives within `limit`.
    pub async fn next_notification(&mut self, limit: Duration) -> Result<Value> {
        match self.notifications.pop_front() {
            Some(object) => Ok(object),
            None => self.next_object(limit).await,
        }
    }

    /// Waits until the daemon closes the connection, and returns the bytes that it sent before.
    ///
    /// # Errors
    /// If it does not close within `limit`.
    pub async fn wait_closed(&mut self, limit: Duration) -> Result<Vec<u8>> {
        let mut rest = Vec::new();
        let read = self.reader.read_to_end(&mut rest);
        let _ = within(limit, "the daemon to close the connection", read).await?;
        Ok(rest)
    }
}

/// Calls one method on a new connection and returns its result.
///
/// # Errors
/// If there is no reply, or the reply is an error.
pub async fn call_once(socket: &Path, method: &str, params: Value) -> Result<Value> {
    let mut rpc = within(LONG, "hello", Rpc::hello(socket)).await??;
    Ok(rpc.call(method, params).await??)
}
