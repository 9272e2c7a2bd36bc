//! RFC 4253: identification, key exchange, packets, new keys.
//!
//! No socket, no clock: the driver reads into [`Transport::read_buffer`], takes events out of
//! [`Transport::poll`] and writes [`Transport::output`].

mod block;
mod cipher;
mod compress;
mod exchange;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod ident;
mod limits;
mod mac;
mod machine;
mod message;
mod negotiate;
mod packet;

#[cfg(test)]
pub(crate) mod server;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use russh::keys::ssh_key;

use crate::config::Config;
use crate::error::Error;
use crate::signature::Certificate;
use exchange::Exchange;
use ident::IdentReader;
use limits::{Bucket, RekeyLimits};
use packet::{Inbound, Outbound};

/// A source of random bytes: fills what it is given.
pub type Entropy = Box<dyn FnMut(&mut [u8]) + Send>;

/// Something that the transport has to tell.
#[derive(Debug)]
pub enum Event {
    /// The server's identification.
    Ident(String),
    /// The server proved that it holds this key; the first exchange waits until
    /// [`Transport::accept_host_key`].
    HostKey(Box<HostKeyOffer>),
    /// The first keys are in use: services may be asked for.
    Ready(Box<Negotiated>),
    /// New keys are in use.
    Rekeyed,
    /// The server does not know the message of this sequence number of ours ([`Transport::sent`]).
    Unimplemented(u32),
    /// A payload for the floors above, never empty: message number 6, or 50 and up.
    Packet(Bytes),
    /// The server said goodbye; nothing comes after it.
    Disconnected {
        /// The reason code of RFC 4253 §11.1.
        code: u32,
        /// The text, cut to 1 KiB.
        text: String,
    },
}

/// The key that the server showed; its signature over the exchange is already verified.
#[derive(Debug, Clone)]
pub struct HostKeyOffer {
    /// The algorithm that was agreed on.
    pub algorithm: &'static str,
    /// The key as it stood on the wire.
    pub blob: Bytes,
    /// The key, read.
    pub key: HostKey,
}

/// A host key, plain or certified.
#[derive(Debug, Clone)]
pub enum HostKey {
    /// A plain key.
    Plain(ssh_key::PublicKey),
    /// A certificate whose authority's signature is verified; whether the authority is trusted
    /// and the claims hold ([`Certificate::check_host`]) is the caller's to say.
    Certificate(Box<Certificate>),
}

/// What the two sides agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// The key exchange method.
    pub kex: &'static str,
    /// The host key algorithm.
    pub host_key: &'static str,
    /// The cipher from us to the server.
    pub cipher_out: &'static str,
    /// The cipher from the server to us.
    pub cipher_in: &'static str,
    /// The MAC from us to the server; none where the cipher has its own.
    pub mac_out: Option<&'static str>,
    /// The MAC from the server to us; none where the cipher has its own.
    pub mac_in: Option<&'static str>,
    /// The compression from us to the server.
    pub compression_out: &'static str,
    /// The compression from the server to us.
    pub compression_in: &'static str,
    /// Whether strict key exchange is in force.
    pub strict: bool,
}

/// One connection's transport, from the first byte on.
pub struct Transport {
    config: Arc<Config>,
    entropy: Entropy,
    inbound: Inbound,
    outbound: Outbound,
    ident: IdentReader,
    their_ident: Option<String>,
    /// The key exchange that is under way.
    exchange: Option<Exchange>,
    /// Payloads that wait for new keys, each behind its length.
    held: Vec<u8>,
    /// Whether strict key exchange is in force, once it was agreed on.
    strict: Option<bool>,
    /// What the last finished exchange agreed on; none until the first keys are in use.
    negotiated: Option<Negotiated>,
    session_id: Vec<u8>,
    /// The host key of the first exchange, which all later ones must show.
    host_key: Bytes,
    server_sig_algs: Option<Vec<String>>,
    ext_infos: u32,
    authenticated: bool,
    limits: RekeyLimits,
    /// When the keys were made.
    keyed_at: Instant,
    /// The time that was told last.
    now: Instant,
    idle_talk: Bucket,
    server_rekeys: Bucket,
    /// A fault of [`Transport::send`], for [`Transport::poll`] to tell.
    fault: Option<Error>,
    dead: bool,
}

impl Transport {
    /// Starts: the identification and the first KEXINIT stand in the output at once.
    pub fn new(config: Arc<Config>, now: Instant, entropy: Entropy) -> Self {
        let mut transport = Self {
            limits: RekeyLimits {
                bytes: u64::MAX,
                time: config.rekey_time,
            },
            config,
            entropy,
            inbound: Inbound::new(),
            outbound: Outbound::new(),
            ident: IdentReader::default(),
            their_ident: None,
            exchange: None,
            held: Vec::new(),
            strict: None,
            negotiated: None,
            session_id: Vec::new(),
            host_key: Bytes::new(),
            server_sig_algs: None,
            ext_infos: 0,
            authenticated: false,
            keyed_at: now,
            now,
            idle_talk: Bucket::new(5000, 1000, now),
            server_rekeys: Bucket::new(16, 1, now),
            fault: None,
            dead: false,
        };
        transport.greet();
        transport
    }

    /// Where the driver appends what it read from the socket.
    pub fn read_buffer(&mut self) -> &mut BytesMut {
        &mut self.inbound.read
    }

    /// The next event out of what was read. After an error the transport is dead: write out
    /// what [`Transport::output`] holds and close.
    pub fn poll(&mut self, now: Instant) -> Result<Option<Event>, Error> {
        self.now = now;
        if self.dead {
            return Ok(None);
        }
        let event = self.advance();
        if let Err(error) = &event {
            self.fail(error);
        }
        event
    }

    /// Seals one payload at the end of the output, or holds it while keys are exchanged.
    pub fn send(&mut self, payload: &[u8]) {
        self.send_data(payload, &[]);
    }

    /// As [`Transport::send`], for a payload in two pieces.
    pub fn send_data(&mut self, header: &[u8], data: &[u8]) {
        if self.dead {
            return;
        }
        if self.is_rekeying() {
            self.hold(header, data);
        } else {
            self.send_now(header, data);
        }
    }

    /// The sequence number of the message that was sent last; none while it is held for new keys.
    pub fn sent(&self) -> Option<u32> {
        let sent = self.outbound.last_sequence();
        (!self.is_rekeying()).then_some(sent)
    }

    /// Answers the packet that [`Transport::poll`] gave last with UNIMPLEMENTED.
    pub fn unimplemented(&mut self) {
        let payload = message::unimplemented(self.inbound.last_sequence());
        self.send(&payload);
    }

    /// What the driver writes to the socket, and advances by what was written.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.outbound.out
    }

    /// The bytes that wait: what the driver has not written, and what is held until new keys are in use.
    pub fn backlog(&self) -> usize {
        self.outbound.out.len() + self.held.len()
    }

    /// Whether what is sent now is held until new keys are in use: send no bulk meanwhile. True
    /// from the start until the first keys.
    pub fn is_rekeying(&self) -> bool {
        self.exchange.as_ref().is_some_and(Exchange::holds_output)
    }

    /// Begins an exchange of new keys, unless one is under way or the first is not over.
    pub fn start_rekey(&mut self, now: Instant) {
        self.now = now;
        if self.negotiated.is_some() && self.exchange.is_none() && !self.dead {
            self.begin_exchange();
        }
    }

    /// When [`Transport::handle_timeout`] wants to be called; may lie in the past.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.dead {
            return None;
        }
        match &self.exchange {
            Some(exchange) => exchange.deadline(),
            None if self.rekey_is_due(self.now) => Some(self.now),
            None => self.rekey_at(),
        }
    }

    /// Does what is due: new keys, or the end of a server that does not finish its exchange.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        self.now = now;
        if self.dead {
            return Ok(());
        }
        let done = self.on_time();
        if let Err(error) = &done {
            self.fail(error);
        }
        done
    }

    /// The session identifier; empty until the host key is shown.
    pub fn session_id(&self) -> &[u8] {
        &self.session_id
    }

    /// What was agreed on last, once keys are in use.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.negotiated.as_ref()
    }

    /// The signature algorithms that the server takes from users, once it told.
    pub fn server_sig_algs(&self) -> Option<&[String]> {
        self.server_sig_algs.as_deref()
    }

    /// What the server said before its identification, cut to 1 KiB and not escaped.
    pub fn pre_banner(&self) -> &str {
        self.ident.pre_banner()
    }

    /// Goes on with the first exchange: the host key is the right one.
    pub fn accept_host_key(&mut self, now: Instant) {
        self.now = now;
        if let Err(error) = self.on_host_key_accepted() {
            self.fault = Some(error);
        }
    }

    /// Ends the session: the host key is not the right one.
    pub fn reject_host_key(&mut self) {
        self.fail(&Error::HostKeyRejected);
    }

    /// Says goodbye: DISCONNECT stands in the output, and nothing can be sent after it.
    pub fn disconnect(&mut self, code: u32, text: &str) {
        if !self.dead {
            self.send_now(&message::disconnect(code, text), &[]);
            self.dead = true;
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("their_ident", &self.their_ident)
            .field("negotiated", &self.negotiated)
            .field("is_rekeying", &self.is_rekeying())
            .field("dead", &self.dead)
            .finish_non_exhaustive()
    }
}
