//! The far end of a pipe in memory, for tests: a server half that does what it is told.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;

use super::*;
use crate::auth::AuthResult;
use crate::config::Config;
use crate::error::Error;
use crate::transport::server::{Manners, Server};
use crate::wire::{Reader, Writer};

pub(super) const SECOND: Duration = Duration::from_secs(1);

/// The far end of the pipe.
pub(super) struct Far {
    pub(super) server: Server,
    pipe: DuplexStream,
}

impl Far {
    /// A pipe, and the server half at its end.
    pub(super) fn new(room: usize) -> (DuplexStream, Self) {
        let (near, pipe) = duplex(room);
        let server = Server::new(Manners::default());
        (near, Self { server, pipe })
    }

    pub(super) async fn flush(&mut self) {
        let output = self.server.output();
        self.pipe.write_all(&output).await.unwrap();
    }

    pub(super) async fn send(&mut self, number: u8, fill: impl FnOnce(&mut Vec<u8>)) {
        let mut payload = vec![number];
        fill(&mut payload);
        self.server.send(&payload);
        self.flush().await;
    }

    /// Reads once; whether there was anything.
    pub(super) async fn read(&mut self) -> bool {
        let mut buffer = [0; 64 * 1024];
        let count = self.pipe.read(&mut buffer).await.unwrap_or(0);
        self.server.take(&buffer[..count]);
        count > 0
    }

    /// The next message of the client's, `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            let _ = self.pipe.write_all(&self.server.output()).await;
            if let Some(payload) = self.server.received.pop_front() {
                return Some(payload);
            }
            if !self.read().await {
                return None;
            }
        }
    }

    /// The next message of that number; others are passed over.
    pub(super) async fn expect(&mut self, number: u8) -> Bytes {
        loop {
            let payload = self.next().await.expect("the client has gone");
            if payload[0] == number {
                return payload;
            }
        }
    }

    /// Lets anyone in.
    pub(super) async fn welcome(&mut self) {
        self.expect(5).await;
        self.send(6, |out| out.string("ssh-userauth")).await;
        self.expect(50).await;
        self.send(52, |_| {}).await;
    }

    /// Opens the next channel that is asked for; the client's number for it.
    pub(super) async fn open(&mut self, window: u32) -> u32 {
        let open = self.expect(90).await;
        let mut body = Reader::new(&open[1..]);
        body.string().unwrap();
        let sender = body.u32().unwrap();
        self.send(91, |out| {
            out.u32(sender);
            out.u32(sender);
            out.u32(window);
            out.u32(32768);
        })
        .await;
        sender
    }

    /// Goes on reading and answering pings, to the end.
    pub(super) async fn live(mut self) {
        while let Some(payload) = self.next().await {
            if payload[0] == 80 {
                self.send(82, |_| {}).await;
            }
        }
    }
}

pub(super) async fn connect(near: DuplexStream, options: Options) -> Result<Connected, Error> {
    let stream = Stream::other(near);
    let config = Arc::new(Config::default());
    handshake(stream, config, options, "alice", |_| async { true }).await
}

/// A standing session and its far end, with so much room in the pipe.
pub(super) async fn standing(
    options: Options,
    room: usize,
) -> (Session, mpsc::Receiver<Incoming>, Far) {
    let (near, mut far) = Far::new(room);
    let client = async {
        let mut connected = connect(near, options).await.unwrap();
        assert_eq!(connected.none().await.unwrap(), AuthResult::Success);
        connected.into_session().unwrap()
    };
    let ((session, incoming), ()) = tokio::join!(client, far.welcome());
    (session, incoming, far)
}

/// Options that ask for no sign of life.
pub(super) fn trusting() -> Options {
    Options {
        alive: None,
        ..Options::default()
    }
}

pub(super) async fn channel(session: &Session, far: &mut Far, window: u32) -> (Channel, u32) {
    let open = session.open_direct_tcpip("target", 80, ("here".into(), 1));
    let (channel, id) = tokio::join!(open, far.open(window));
    (channel.unwrap(), id)
}
