//! Drives the transport with blocking reads.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Buf;
use russh::keys::ssh_key::PrivateKey;
use tunneld_ssh::transport::{HostKey, Negotiated, Transport, TransportEvent};
use tunneld_ssh::wire::Writer;
use tunneld_ssh::{Config, Error};

/// A transport over a socket pair, without the client on tokio.
pub(crate) struct Client {
    stream: UnixStream,
    transport: Transport,
    host_key: Option<HostKey>,
    accept: bool,
    now: Instant,
}

impl Client {
    /// A client of the server at the other end of the socket pair.
    pub(crate) fn new(stream: &UnixStream, config: Config) -> Self {
        let now = tokio::time::Instant::now().into_std();
        let entropy = Box::new(|bytes: &mut [u8]| aws_lc_rs::rand::fill(bytes).unwrap());
        Self {
            stream: stream.try_clone().unwrap(),
            transport: Transport::new(Arc::new(config), now, entropy),
            host_key: None,
            accept: true,
            now,
        }
    }

    pub(crate) fn transport(&mut self) -> &mut Transport {
        &mut self.transport
    }

    pub(crate) fn host_key(&self) -> Option<&HostKey> {
        self.host_key.as_ref()
    }

    pub(crate) fn reject_host_key(&mut self) {
        self.accept = false;
    }

    pub(crate) fn start_rekey(&mut self) {
        self.transport.start_rekey(self.now);
    }

    pub(crate) fn advance_clock(&mut self, by: Duration) {
        self.now += by;
        self.transport.handle_timeout(self.now).unwrap();
    }

    /// Writes and reads until there is an event.
    pub(crate) fn event(&mut self) -> Result<TransportEvent, Error> {
        loop {
            let event = self.transport.poll_event(self.now);
            let output = self.transport.output();
            self.stream.write_all(output)?;
            output.advance(output.len());
            if let Some(event) = event? {
                return Ok(event);
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Error::Eof),
                Ok(count) => self
                    .transport
                    .read_buffer()
                    .extend_from_slice(&chunk[..count]),
                // A socket with a read timeout is not restarted after a signal (signal(7)), and other tests of this
                // process have children that end.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Runs the first key exchange.
    pub(crate) fn handshake(&mut self) -> Result<Negotiated, Error> {
        loop {
            match self.event()? {
                TransportEvent::Ident(ident) => assert!(ident.starts_with("SSH-2.0-")),
                TransportEvent::HostKey(offer) => {
                    self.host_key = Some(offer.key);
                    if self.accept {
                        self.transport.accept_host_key(self.now);
                    } else {
                        self.transport.reject_host_key();
                        assert!(!self.transport.output().is_empty(), "a disconnect");
                    }
                }
                TransportEvent::Ready(negotiated) => return Ok(*negotiated),
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) fn request_userauth(&mut self) {
        let mut payload = vec![5];
        payload.string("ssh-userauth");
        self.transport.send(&payload);
        match self.event().unwrap() {
            TransportEvent::Packet(payload) => assert_eq!(payload[0], 6),
            other => panic!("{other:?}"),
        }
    }

    /// Authenticates with the user's key.
    pub(crate) fn authenticate(&mut self, key: &Path) {
        let user = Command::new("id").arg("-un").output().unwrap().stdout;
        let user = String::from_utf8(user).unwrap();
        let key = PrivateKey::read_openssh_file(key).unwrap();
        let mut request = vec![50];
        request.string(user.trim());
        request.string("ssh-connection");
        request.string("publickey");
        request.bool(true);
        request.string("ssh-ed25519");
        request.string(key.public_key().to_bytes().unwrap());
        let mut signed = Vec::new();
        signed.string(self.transport.session_id());
        signed.raw(&request);
        let bytes = key.key_data().ed25519().unwrap();
        let pair =
            aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(bytes.private.as_ref());
        let mut signature = Vec::new();
        signature.string("ssh-ed25519");
        signature.string(pair.unwrap().sign(&signed));
        request.string(&signature);
        self.transport.send(&request);
        match self.event().unwrap() {
            TransportEvent::Packet(payload) => assert_eq!(payload[0], 52, "{payload:?}"),
            other => panic!("{other:?}"),
        }
    }

    /// Sends a request that the server refuses, with `round` bytes of payload.
    pub(crate) fn global_request(&mut self, round: usize) {
        let mut payload = vec![80];
        payload.string("keepalive@openssh.com");
        payload.bool(true);
        payload.raw(&vec![u8::try_from(round % 256).unwrap(); round]);
        self.transport.send(&payload);
    }
}
