//! A control client by hand: one line out, one line in, so that tests see what stands on the wire.

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
    writer: Option<OwnedWriteHalf>,
    last: u64,
    notifications: VecDeque<Value>,
}

impl Rpc {
    /// Connects, and says nothing yet.
    ///
    /// # Errors
    /// Where nobody listens.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .await
            .with_context(|| format!("cannot connect to {}", socket.display()))?;
        let (reader, writer) = stream.into_split();
        Ok(Self {
            reader: BufReader::new(reader),
            writer: Some(writer),
            last: 0,
            notifications: VecDeque::new(),
        })
    }

    /// Connects and says hello.
    ///
    /// # Errors
    /// Where nobody listens or the daemon declines.
    pub async fn hello(socket: &Path) -> Result<Self> {
        let mut rpc = Self::connect(socket).await?;
        let params = json!({"client": "lab", "protocol": [1]});
        rpc.call("hello", params).await??;
        Ok(rpc)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// Where the daemon has closed.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let writer = self.writer.as_mut().context("this side is closed")?;
        Ok(writer.write_all(bytes).await?)
    }

    /// Sends one line.
    ///
    /// # Errors
    /// Where the daemon has closed.
    pub async fn send_line(&mut self, line: &str) -> Result<()> {
        self.send(format!("{line}\n").as_bytes()).await
    }

    /// Closes this side's direction.
    ///
    /// # Errors
    /// Where the socket is broken.
    pub async fn close_write(&mut self) -> Result<()> {
        if let Some(mut writer) = self.writer.take() {
            writer.shutdown().await?;
        }
        Ok(())
    }

    /// The next line as it stands; none where the daemon closed.
    ///
    /// # Errors
    /// Where none comes in time.
    pub async fn line(&mut self, limit: Duration) -> Result<Option<String>> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line);
        match within(limit, "a line from the daemon", read).await? {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(line.trim_end().to_owned())),
            // A reset is a close to a client.
            Err(_) => Ok(None),
        }
    }

    /// The next object.
    ///
    /// # Errors
    /// Where none comes in time, the daemon closed, or the line is no JSON.
    pub async fn object(&mut self, limit: Duration) -> Result<Value> {
        let line = self.line(limit).await?.context("the daemon closed")?;
        serde_json::from_str(&line).with_context(|| format!("no JSON: {line}"))
    }

    /// Calls a method and waits for its reply; notifications that come before it are kept.
    ///
    /// # Errors
    /// Where no reply comes; the daemon's own errors are the inner ones.
    pub async fn call(&mut self, method: &str, params: Value) -> Result<Result<Value, RpcError>> {
        self.last += 1;
        let id = self.last;
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.send_line(&request.to_string()).await?;
        loop {
            let mut object = self.object(Duration::from_secs(60)).await?;
            ensure!(object["jsonrpc"] == "2.0", "no JSON-RPC: {object}");
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

    /// The next notification.
    ///
    /// # Errors
    /// Where none comes in time.
    pub async fn notification(&mut self, limit: Duration) -> Result<Value> {
        match self.notifications.pop_front() {
            Some(object) => Ok(object),
            None => self.object(limit).await,
        }
    }

    /// Waits until the daemon closes; returns what still came.
    ///
    /// # Errors
    /// Where it does not close in time.
    pub async fn closed(&mut self, limit: Duration) -> Result<Vec<u8>> {
        let mut rest = Vec::new();
        let read = self.reader.read_to_end(&mut rest);
        let _ = within(limit, "the daemon to close the connection", read).await?;
        Ok(rest)
    }
}

/// Calls one method on a fresh connection.
///
/// # Errors
/// Where there is no reply, or it is an error.
pub async fn once(socket: &Path, method: &str, params: Value) -> Result<Value> {
    let mut rpc = within(LONG, "hello", Rpc::hello(socket)).await??;
    Ok(rpc.call(method, params).await??)
}
