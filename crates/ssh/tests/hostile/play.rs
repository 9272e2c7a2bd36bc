//! Runs a scripted server against the real client and reports how the session ends.

#![allow(
    dead_code,
    reason = "several tests share it, and each needs a part of it"
)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, timeout};
use tunneld_ssh::client::{
    AsyncStream, Authenticator, IncomingChannels, OpenError, Options, Session, Stream, handshake,
};
use tunneld_ssh::wire::{Reader, Writer};
use tunneld_ssh::{Config, Error};

pub(crate) use crate::messages::*;
use crate::peer::*;

/// Time limit of a test, on the paused clock.
const TEST_TIMEOUT: Duration = Duration::from_secs(6 * 3600);

/// How far the server follows the protocol before its script starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum When {
    /// From the first byte.
    Start,
    /// After the identification.
    Kex,
    /// After the first key exchange.
    Auth,
    /// After the login.
    Session,
}

/// The phases in which a transport message can be an attack.
pub(crate) const TIMES: [When; 3] = [When::Kex, When::Auth, When::Session];

/// The server: reads and writes packets as its script says.
pub(crate) struct Server {
    io: Box<dyn AsyncStream>,
    pub(crate) peer: Peer,
    /// Whether it answers keepalives.
    pub(crate) answers_keepalives: bool,
    /// Whether it answers global requests with UNIMPLEMENTED.
    pub(crate) without_global_requests: bool,
    /// Message numbers of everything that the client has sent.
    pub(crate) seen: Vec<u8>,
    backlog: VecDeque<Vec<u8>>,
}

fn is_keepalive(payload: &[u8]) -> bool {
    payload[0] == GLOBAL_REQUEST
        && payload
            .get(5..)
            .is_some_and(|rest| rest.starts_with(b"keepalive@openssh.com"))
}

impl Server {
    pub(crate) fn new(io: impl AsyncStream + 'static) -> Self {
        Self {
            io: Box::new(io),
            peer: Peer::default(),
            answers_keepalives: true,
            without_global_requests: false,
            seen: Vec::new(),
            backlog: VecDeque::new(),
        }
    }

    /// Writes bytes that need not be a packet. `false` once the client has disconnected.
    pub(crate) async fn raw(&mut self, bytes: &[u8]) -> bool {
        self.io.write_all(bytes).await.is_ok()
    }

    /// Sends one packet.
    pub(crate) async fn send(&mut self, payload: &[u8]) -> bool {
        let packet = self.peer.packet(payload);
        self.raw(&packet).await
    }

    /// Sends the same payload `times` times. Returns how many were written before the client disconnected.
    pub(crate) async fn flood(&mut self, payload: &[u8], times: usize) -> usize {
        for done in 0..times {
            if !self.send(payload).await {
                return done;
            }
        }
        times
    }

    async fn read(&mut self) -> bool {
        let mut block = [0; 16 * 1024];
        match self.io.read(&mut block).await {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.peer.feed(&block[..count]);
                true
            }
        }
    }

    /// Returns the next payload; those that were put back come first. `None` if the client has disconnected.
    async fn next_any(&mut self) -> Option<Vec<u8>> {
        if let Some(payload) = self.backlog.pop_front() {
            return Some(payload);
        }
        loop {
            if let Some(payload) = self.peer.next() {
                self.seen.push(payload[0]);
                return Some(payload);
            }
            if !self.read().await {
                return None;
            }
        }
    }

    /// Returns the next payload that is not a keepalive. `None` if the client has disconnected.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let payload = self.next_any().await?;
            if self.without_global_requests && payload[0] == GLOBAL_REQUEST {
                self.unimplemented().await;
                continue;
            }
            if !is_keepalive(&payload) {
                return Some(payload);
            }
            if self.answers_keepalives {
                self.send(&[REQUEST_FAILURE]).await;
            }
        }
    }

    /// Answers the packet that was read last with UNIMPLEMENTED.
    pub(crate) async fn unimplemented(&mut self) {
        let number = self.peer.received - 1;
        let answer = message(UNIMPLEMENTED, |out| out.u32(number));
        self.send(&answer).await;
    }

    /// Waits until the client's session is established: it sends its first keepalive then.
    async fn until_established(&mut self) {
        let mut before = Vec::new();
        loop {
            let payload = self.next_any().await.expect("the client disconnected");
            let is_established = is_keepalive(&payload);
            before.push(payload);
            if is_established {
                self.backlog.extend(before);
                return;
            }
        }
    }

    /// Returns the next payload with this message number and discards those before it.
    pub(crate) async fn expect(&mut self, number: u8) -> Vec<u8> {
        while let Some(payload) = self.next().await {
            if payload[0] == number {
                return payload;
            }
            assert_ne!(
                payload[0],
                DISCONNECT,
                "waited for {number}: {}",
                disconnect_text(&payload)
            );
        }
        panic!("the client disconnected before it sent {number}");
    }

    /// Reads until the client disconnects. Returns code and text of its DISCONNECT, if it sent one.
    pub(crate) async fn until_disconnect(&mut self) -> Option<String> {
        let mut disconnect = None;
        while let Some(payload) = self.next().await {
            if payload[0] == DISCONNECT {
                disconnect = Some(disconnect_text(&payload));
            }
        }
        disconnect
    }

    /// As [`Server::expect`], but keeps the other payloads for later.
    pub(crate) async fn expect_keeping_others(&mut self, number: u8) -> Vec<u8> {
        let mut others = VecDeque::new();
        loop {
            let payload = self.next_any().await.expect("the client disconnected");
            assert_ne!(
                payload[0],
                DISCONNECT,
                "waited for {number}: {}",
                disconnect_text(&payload)
            );
            if payload[0] == number {
                others.append(&mut self.backlog);
                self.backlog = others;
                return payload;
            }
            others.push_back(payload);
        }
    }

    /// Follows the protocol up to a phase.
    pub(crate) async fn advance_to(&mut self, when: When, offer: &Offer) {
        if when >= When::Kex {
            self.identify().await;
        }
        if when >= When::Auth {
            self.exchange(offer).await;
        }
        if when == When::Session {
            self.log_in().await;
            self.until_established().await;
        }
    }

    pub(crate) async fn identify(&mut self) {
        let line = format!("{}\r\n", self.peer.ident);
        self.raw(line.as_bytes()).await;
        self.client_ident().await;
    }

    pub(crate) async fn client_ident(&mut self) {
        while !self.peer.take_ident() {
            assert!(self.read().await, "the client did not identify itself");
        }
    }

    /// Sends a KEXINIT.
    pub(crate) async fn send_kexinit(&mut self, offer: &Offer) {
        self.peer.server_kexinit = offer.payload();
        let payload = self.peer.server_kexinit.clone();
        self.send(&payload).await;
    }

    /// Runs a whole key exchange. NEWKEYS follows the reply at once, as in OpenSSH.
    pub(crate) async fn exchange(&mut self, offer: &Offer) {
        self.send_kexinit(offer).await;
        self.peer.client_kexinit = self.expect_keeping_others(KEXINIT).await;
        self.finish_exchange().await;
    }

    /// Runs the part of a key exchange after both KEXINITs.
    pub(crate) async fn finish_exchange(&mut self) {
        let init = self.expect_keeping_others(KEX_INIT).await;
        let (reply, keys) = self.peer.reply(&init);
        let both = [self.peer.packet(&reply), self.peer.packet(&[NEWKEYS])].concat();
        let later = self.peer.rekey_out(keys);
        self.raw(&both).await;
        self.expect_keeping_others(NEWKEYS).await;
        self.peer.rekey_in(later);
    }

    /// Accepts the service. Returns the first authentication request.
    pub(crate) async fn accept_service(&mut self) -> Vec<u8> {
        self.expect(SERVICE_REQUEST).await;
        let accept = message(SERVICE_ACCEPT, |out| out.string("ssh-userauth"));
        self.send(&accept).await;
        self.expect(REQUEST).await
    }

    pub(crate) async fn log_in(&mut self) {
        self.accept_service().await;
        self.send(&[SUCCESS]).await;
    }

    /// Confirms the client's next channel. Returns the client's channel number.
    pub(crate) async fn confirm_open(&mut self, window: u32, packet: u32) -> u32 {
        let open = self.expect(OPEN).await;
        let mut body = Reader::new(&open[1..]);
        body.string().unwrap();
        let id = body.u32().unwrap();
        self.send(&confirmation(id, window, packet)).await;
        id
    }
}

/// How a session ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) error: Error,
    /// The phase that the client had reached.
    pub(crate) reached: When,
    /// Time from the start of the connection to its end.
    pub(crate) after: Duration,
    /// Message numbers of everything that the client had sent.
    pub(crate) seen: Vec<u8>,
    /// Code and text of the client's DISCONNECT. `None` if it sent none.
    pub(crate) disconnect: Option<String>,
}

impl End {
    /// Asserts that the text of the error contains `what`.
    pub(crate) fn says(&self, what: &str) -> &Self {
        let text = self.error.to_string();
        assert!(
            text.contains(what),
            "{text:?} does not say {what:?}: {self:?}"
        );
        self
    }

    /// Asserts that the client has sent no request for authentication.
    pub(crate) fn before_login(&self) -> &Self {
        assert!(
            !self.seen.contains(&SERVICE_REQUEST) && !self.seen.contains(&REQUEST),
            "a login was requested: {:?}",
            self.seen
        );
        self
    }
}

pub(crate) async fn connect(
    io: impl Into<Stream>,
    config: Config,
    options: Options,
) -> Result<Authenticator, Error> {
    handshake(io, Arc::new(config), options, "user", |_| {
        std::future::ready(true)
    })
    .await
}

/// Runs a client that authenticates and then waits. Returns why the session ended, and the phase that it had reached.
async fn run_client(io: DuplexStream, config: Config) -> (Error, When) {
    let options = Options::default();
    let mut authenticator = match connect(Stream::other(io), config, options).await {
        Ok(authenticator) => authenticator,
        Err(error) => return (error, When::Kex),
    };
    if let Err(error) = authenticator.none().await {
        return (error, When::Auth);
    }
    match authenticator.into_session() {
        Ok((session, _incoming)) => (session.closed().await, When::Session),
        Err(error) => (error, When::Auth),
    }
}

/// Runs a server that follows the protocol up to `when` and then its script. Returns how the client's session ended.
pub(crate) async fn attack(when: When, script: impl AsyncFnOnce(&mut Server)) -> End {
    attack_with(Config::default(), Offer::default(), when, script).await
}

pub(crate) async fn attack_with(
    config: Config,
    offer: Offer,
    when: When,
    script: impl AsyncFnOnce(&mut Server),
) -> End {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let mut server = Server::new(theirs);
    let start = Instant::now();
    let client = async {
        let (error, reached) = run_client(ours, config).await;
        (error, reached, start.elapsed())
    };
    let server_side = async {
        server.advance_to(when, &offer).await;
        script(&mut server).await;
        server.until_disconnect().await
    };
    let both = async { tokio::join!(client, server_side) };
    let ((error, reached, after), disconnect) = timeout(TEST_TIMEOUT, both)
        .await
        .unwrap_or_else(|_| panic!("{when:?}: the session did not end"));
    End {
        error,
        reached,
        after,
        seen: server.seen,
        disconnect,
    }
}

/// Runs `script` and `client` side by side in an established session. The server continues to read after its script.
pub(crate) async fn play<T>(
    script: impl AsyncFnOnce(&mut Server),
    client: impl AsyncFnOnce(Session, IncomingChannels) -> T,
) -> T {
    play_with(Config::default(), Options::default(), script, client).await
}

pub(crate) async fn play_with<T>(
    config: Config,
    options: Options,
    script: impl AsyncFnOnce(&mut Server),
    client: impl AsyncFnOnce(Session, IncomingChannels) -> T,
) -> T {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let mut server = Server::new(theirs);
    let server_side = async {
        server.advance_to(When::Session, &Offer::default()).await;
        script(&mut server).await;
        server.until_disconnect().await;
    };
    let client = async {
        let mut authenticator = connect(Stream::other(ours), config, options).await.unwrap();
        authenticator.none().await.unwrap();
        let (session, incoming) = authenticator.into_session().unwrap();
        client(session, incoming).await
    };
    let both = async { tokio::join!(client, server_side) };
    let (result, ()) = timeout(TEST_TIMEOUT, both).await.unwrap();
    result
}

/// Runs `script` and `client` side by side from the authentication on.
pub(crate) async fn login<T>(
    script: impl AsyncFnOnce(&mut Server),
    client: impl AsyncFnOnce(Authenticator) -> T,
) -> (T, Option<String>) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let mut server = Server::new(theirs);
    let server_side = async {
        server.advance_to(When::Auth, &Offer::default()).await;
        script(&mut server).await;
        server.until_disconnect().await
    };
    let client = async {
        let options = Options::default();
        let authenticator = connect(Stream::other(ours), Config::default(), options);
        client(authenticator.await.unwrap()).await
    };
    let both = async { tokio::join!(client, server_side) };
    timeout(TEST_TIMEOUT, both).await.unwrap()
}

/// Opens a channel to any target.
pub(crate) async fn open(session: &Session) -> Result<tunneld_ssh::client::Channel, OpenError> {
    let from = ("127.0.0.1".to_owned(), 1);
    session.open_direct_tcpip("localhost", 80, from).await
}
