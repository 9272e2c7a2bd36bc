//! The stage: a scripted server, the real client, and how a scene ends.

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

use crate::peer::*;

pub(crate) const REQUEST: u8 = 50;
pub(crate) const FAILURE: u8 = 51;
pub(crate) const SUCCESS: u8 = 52;
pub(crate) const BANNER: u8 = 53;
pub(crate) const INFO_REQUEST: u8 = 60;
pub(crate) const GLOBAL_REQUEST: u8 = 80;
pub(crate) const REQUEST_SUCCESS: u8 = 81;
pub(crate) const REQUEST_FAILURE: u8 = 82;
pub(crate) const OPEN: u8 = 90;
pub(crate) const CONFIRMATION: u8 = 91;
pub(crate) const OPEN_FAILURE: u8 = 92;
pub(crate) const ADJUST: u8 = 93;
pub(crate) const DATA: u8 = 94;
pub(crate) const EOF: u8 = 96;
pub(crate) const CLOSE: u8 = 97;
pub(crate) const CHANNEL_REQUEST: u8 = 98;

/// No scene takes longer.
const HOURS: Duration = Duration::from_secs(6 * 3600);

/// How far the server plays along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum When {
    /// Not at all.
    Start,
    /// Its identification is sent.
    Kex,
    /// The first keys are in use, and the login is asked for.
    Auth,
    /// The login has succeeded.
    Session,
}

/// The times at which anything on the transport can go wrong.
pub(crate) const TIMES: [When; 3] = [When::Kex, When::Auth, When::Session];

/// The server: reads and writes packets as the script says.
pub(crate) struct Server {
    io: Box<dyn AsyncStream>,
    pub(crate) peer: Peer,
    /// Answers the client's keepalives.
    pub(crate) polite: bool,
    /// Knows no global requests at all, not even how to refuse them.
    pub(crate) obtuse: bool,
    /// Everything that the client has sent, by its number.
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
            polite: true,
            obtuse: false,
            seen: Vec::new(),
            backlog: VecDeque::new(),
        }
    }

    /// Writes bytes as they are; whether the client still takes them.
    pub(crate) async fn raw(&mut self, bytes: &[u8]) -> bool {
        self.io.write_all(bytes).await.is_ok()
    }

    /// Sends one packet.
    pub(crate) async fn send(&mut self, payload: &[u8]) -> bool {
        let packet = self.peer.packet(payload);
        self.raw(&packet).await
    }

    /// Sends the same packet again and again; how often the client took it.
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

    /// The next payload, of those that were put back first.
    async fn any(&mut self) -> Option<Vec<u8>> {
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

    /// The next payload that is no keepalive; none at the end.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let payload = self.any().await?;
            if self.obtuse && payload[0] == GLOBAL_REQUEST {
                self.unimplemented().await;
                continue;
            }
            if !is_keepalive(&payload) {
                return Some(payload);
            }
            if self.polite {
                self.send(&[REQUEST_FAILURE]).await;
            }
        }
    }

    /// Does not know the packet that was read last.
    pub(crate) async fn unimplemented(&mut self) {
        let number = self.peer.received - 1;
        let answer = message(UNIMPLEMENTED, |out| out.u32(number));
        self.send(&answer).await;
    }

    /// Waits until the client's session stands: it asks for a sign of life then.
    async fn standing(&mut self) {
        let mut before = Vec::new();
        loop {
            let payload = self.any().await.expect("the client has gone");
            let stands = is_keepalive(&payload);
            before.push(payload);
            if stands {
                self.backlog.extend(before);
                return;
            }
        }
    }

    /// The next payload of this number; others are passed over.
    pub(crate) async fn expect(&mut self, number: u8) -> Vec<u8> {
        while let Some(payload) = self.next().await {
            if payload[0] == number {
                return payload;
            }
            assert_ne!(
                payload[0],
                DISCONNECT,
                "waited for {number}: {}",
                said(&payload)
            );
        }
        panic!("the client went before it sent {number}");
    }

    /// Reads on until the client goes; what it said last, if it said goodbye.
    pub(crate) async fn end(&mut self) -> Option<String> {
        let mut goodbye = None;
        while let Some(payload) = self.next().await {
            if payload[0] == DISCONNECT {
                goodbye = Some(said(&payload));
            }
        }
        goodbye
    }

    /// As [`Server::expect`], and what else came is kept for later.
    pub(crate) async fn aside(&mut self, number: u8) -> Vec<u8> {
        let mut others = VecDeque::new();
        loop {
            let payload = self.any().await.expect("the client has gone");
            assert_ne!(
                payload[0],
                DISCONNECT,
                "waited for {number}: {}",
                said(&payload)
            );
            if payload[0] == number {
                others.append(&mut self.backlog);
                self.backlog = others;
                return payload;
            }
            others.push_back(payload);
        }
    }

    /// Plays along up to a time.
    pub(crate) async fn upto(&mut self, when: When, offer: &Offer) {
        if when >= When::Kex {
            self.identify().await;
        }
        if when >= When::Auth {
            self.exchange(offer).await;
        }
        if when == When::Session {
            self.log_in().await;
            self.standing().await;
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
    pub(crate) async fn init(&mut self, offer: &Offer) {
        self.peer.ours = offer.payload();
        let payload = self.peer.ours.clone();
        self.send(&payload).await;
    }

    /// The whole of a key exchange, NEWKEYS at once behind the reply as OpenSSH has it.
    pub(crate) async fn exchange(&mut self, offer: &Offer) {
        self.init(offer).await;
        self.peer.theirs = self.aside(KEXINIT).await;
        self.finish_exchange().await;
    }

    /// What follows after both KEXINITs.
    pub(crate) async fn finish_exchange(&mut self) {
        let init = self.aside(KEX_INIT).await;
        let (reply, keys) = self.peer.reply(&init);
        let both = [self.peer.packet(&reply), self.peer.packet(&[NEWKEYS])].concat();
        let later = self.peer.rekey_out(keys);
        self.raw(&both).await;
        self.aside(NEWKEYS).await;
        self.peer.rekey_in(later);
    }

    /// Takes the service request; the login's first request.
    pub(crate) async fn service(&mut self) -> Vec<u8> {
        self.expect(SERVICE_REQUEST).await;
        let accept = message(SERVICE_ACCEPT, |out| out.string("ssh-userauth"));
        self.send(&accept).await;
        self.expect(REQUEST).await
    }

    pub(crate) async fn log_in(&mut self) {
        self.service().await;
        self.send(&[SUCCESS]).await;
    }

    /// Opens what the client asks for; the number that it gave the channel.
    pub(crate) async fn confirm(&mut self, window: u32, packet: u32) -> u32 {
        let open = self.expect(OPEN).await;
        let mut body = Reader::new(&open[1..]);
        body.string().unwrap();
        let id = body.u32().unwrap();
        self.send(&confirmation(id, window, packet)).await;
        id
    }
}

/// The text of a DISCONNECT.
pub(crate) fn said(payload: &[u8]) -> String {
    let mut body = Reader::new(&payload[1..]);
    let code = body.u32().unwrap_or(0);
    let text = body.string().unwrap_or_default();
    format!("{code} {}", String::from_utf8_lossy(text))
}

pub(crate) fn confirmation(id: u32, window: u32, packet: u32) -> Vec<u8> {
    message(CONFIRMATION, |out| {
        out.u32(id);
        out.u32(7);
        out.u32(window);
        out.u32(packet);
    })
}

pub(crate) fn data(id: u32, bytes: &[u8]) -> Vec<u8> {
    message(DATA, |out| {
        out.u32(id);
        out.string(bytes);
    })
}

/// A message of a number and a channel.
pub(crate) fn of(number: u8, id: u32) -> Vec<u8> {
    message(number, |out| out.u32(id))
}

pub(crate) fn adjust(id: u32, credit: u32) -> Vec<u8> {
    message(ADJUST, |out| {
        out.u32(id);
        out.u32(credit);
    })
}

pub(crate) fn global(name: &str, wants_reply: bool, body: &[u8]) -> Vec<u8> {
    message(GLOBAL_REQUEST, |out| {
        out.string(name);
        out.bool(wants_reply);
        out.raw(body);
    })
}

/// How a session ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) error: Error,
    /// How far the client had come.
    pub(crate) reached: When,
    /// After how long.
    pub(crate) after: Duration,
    /// The numbers of all that the client had sent.
    pub(crate) seen: Vec<u8>,
    /// What it said last.
    pub(crate) goodbye: Option<String>,
}

impl End {
    /// Fails unless the error reads like this.
    pub(crate) fn says(&self, what: &str) -> &Self {
        let text = self.error.to_string();
        assert!(
            text.contains(what),
            "{text:?} does not say {what:?}: {self:?}"
        );
        self
    }

    /// Fails unless the client ended it without having asked for a login.
    pub(crate) fn before_login(&self) -> &Self {
        assert!(
            !self.seen.contains(&SERVICE_REQUEST) && !self.seen.contains(&REQUEST),
            "a login was asked for: {:?}",
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

/// A client that goes as far as it can and stays there.
async fn stay(io: DuplexStream, config: Config) -> (Error, When) {
    let options = Options::default();
    let mut connected = match connect(Stream::other(io), config, options).await {
        Ok(connected) => connected,
        Err(error) => return (error, When::Kex),
    };
    if let Err(error) = connected.none().await {
        return (error, When::Auth);
    }
    match connected.into_session() {
        Ok((session, _incoming)) => (session.closed().await, When::Session),
        Err(error) => (error, When::Auth),
    }
}

/// A server that plays along up to `when` and then does its worst; how the client ends it.
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
        let (error, reached) = stay(ours, config).await;
        (error, reached, start.elapsed())
    };
    let scene = async {
        server.upto(when, &offer).await;
        script(&mut server).await;
        server.end().await
    };
    let both = async { tokio::join!(client, scene) };
    let ((error, reached, after), goodbye) = timeout(HOURS, both)
        .await
        .unwrap_or_else(|_| panic!("{when:?}: it did not end"));
    End {
        error,
        reached,
        after,
        seen: server.seen,
        goodbye,
    }
}

/// A scene in a standing session: both sides at once. The server goes on reading when its script is over.
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
    let scene = async {
        server.upto(When::Session, &Offer::default()).await;
        script(&mut server).await;
        server.end().await;
    };
    let client = async {
        let mut connected = connect(Stream::other(ours), config, options).await.unwrap();
        connected.none().await.unwrap();
        let (session, incoming) = connected.into_session().unwrap();
        client(session, incoming).await
    };
    let both = async { tokio::join!(client, scene) };
    let (result, ()) = timeout(HOURS, both).await.unwrap();
    result
}

/// A login with any method: both sides at once.
pub(crate) async fn login<T>(
    script: impl AsyncFnOnce(&mut Server),
    client: impl AsyncFnOnce(Authenticator) -> T,
) -> (T, Option<String>) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let mut server = Server::new(theirs);
    let scene = async {
        server.upto(When::Auth, &Offer::default()).await;
        script(&mut server).await;
        server.end().await
    };
    let client = async {
        let options = Options::default();
        let connected = connect(Stream::other(ours), Config::default(), options);
        client(connected.await.unwrap()).await
    };
    let both = async { tokio::join!(client, scene) };
    timeout(HOURS, both).await.unwrap()
}

/// Opens a connection to anywhere.
pub(crate) async fn open(session: &Session) -> Result<tunneld_ssh::client::Channel, OpenError> {
    let from = ("127.0.0.1".to_owned(), 1);
    session.open_direct_tcpip("localhost", 80, from).await
}
