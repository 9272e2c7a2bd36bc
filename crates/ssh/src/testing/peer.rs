//! A scripted server at the other end of an in-memory pipe, for the client's unit tests.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::server::{Server, ServerScript};
use crate::auth::AuthResult;
use crate::client::{
    Authenticator, Channel, IncomingChannels, Options, Session, Stream, handshake,
};
use crate::config::Config;
use crate::error::Error;
use crate::wire::{Reader, Writer};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// The server's end of the pipe.
pub(crate) struct ServerPeer {
    pub(crate) server: Server,
    pipe: DuplexStream,
}

impl ServerPeer {
    /// Makes a pipe that holds `capacity` bytes per direction. Returns the client's end and the server.
    pub(crate) fn new(capacity: usize) -> (DuplexStream, Self) {
        let (client_end, pipe) = duplex(capacity);
        let server = Server::new(ServerScript::default());
        (client_end, Self { server, pipe })
    }

    pub(crate) async fn flush(&mut self) {
        let output = self.server.output();
        self.pipe.write_all(&output).await.unwrap();
    }

    pub(crate) async fn send(&mut self, number: u8, fill: impl FnOnce(&mut Vec<u8>)) {
        let mut payload = vec![number];
        fill(&mut payload);
        self.server.send(&payload);
        self.flush().await;
    }

    /// Reads once. `false` at the end of the pipe.
    pub(crate) async fn read(&mut self) -> bool {
        let mut buffer = [0; 64 * 1024];
        let count = self.pipe.read(&mut buffer).await.unwrap_or(0);
        self.server.receive(&buffer[..count]);
        count > 0
    }

    /// Returns the client's next payload. `None` at the end of the pipe.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
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

    /// Returns the client's next payload with this message number and discards those before it.
    pub(crate) async fn expect(&mut self, number: u8) -> Bytes {
        loop {
            let payload = self.next().await.expect("the client disconnected");
            if payload[0] == number {
                return payload;
            }
        }
    }

    /// Accepts the first authentication request.
    pub(crate) async fn authenticate(&mut self) {
        self.expect(5).await;
        self.send(6, |out| out.string("ssh-userauth")).await;
        self.expect(50).await;
        self.send(52, |_| {}).await;
    }

    /// Confirms the client's next channel with this window. Returns the client's channel number, which is also the
    /// server's.
    pub(crate) async fn confirm_open(&mut self, window: u32) -> u32 {
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

    /// Reads and answers pings until the client disconnects.
    pub(crate) async fn answer_pings(mut self) {
        while let Some(payload) = self.next().await {
            if payload[0] == 80 {
                self.send(82, |_| {}).await;
            }
        }
    }
}

pub(crate) async fn connect(
    client_end: DuplexStream,
    options: Options,
) -> Result<Authenticator, Error> {
    let stream = Stream::other(client_end);
    let config = Arc::new(Config::default());
    handshake(stream, config, options, "alice", |_| async { true }).await
}

/// An authenticated session over a pipe that holds `capacity` bytes per direction.
pub(crate) async fn established(
    options: Options,
    capacity: usize,
) -> (Session, IncomingChannels, ServerPeer) {
    let (client_end, mut peer) = ServerPeer::new(capacity);
    let client = async {
        let mut authenticator = connect(client_end, options).await.unwrap();
        assert_eq!(authenticator.none().await.unwrap(), AuthResult::Success);
        authenticator.into_session().unwrap()
    };
    let ((session, incoming), ()) = tokio::join!(client, peer.authenticate());
    (session, incoming, peer)
}

/// Options without keepalive, so that only what the test causes is on the line.
pub(crate) fn without_keepalive() -> Options {
    Options {
        keepalive: None,
        ..Options::default()
    }
}

/// Opens a channel that may send `window` bytes. Returns it with its number.
pub(crate) async fn open_channel(
    session: &Session,
    peer: &mut ServerPeer,
    window: u32,
) -> (Channel, u32) {
    let open = session.open_direct_tcpip("target", 80, ("here".into(), 1));
    let (channel, id) = tokio::join!(open, peer.confirm_open(window));
    (channel.unwrap(), id)
}
