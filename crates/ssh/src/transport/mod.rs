//! RFC 4253: identification, key exchange, packets, rekeying.
//!
//! No socket, no clock: the caller reads from its socket into [`Transport::read_buffer`], takes events from
//! [`Transport::poll_event`] and writes [`Transport::output`] to its socket.

mod block;
pub(crate) mod cipher;
pub(crate) mod compress;
mod exchange;
pub(crate) mod ident;
mod kex_deadline;
pub(crate) mod mac;
mod machine;
mod message;
pub(crate) mod negotiate;
pub(crate) mod packet;
mod rekey;
pub(crate) mod sealing;
mod types;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use crate::config::Config;
use crate::error::Error;
use crate::token_bucket::TokenBucket;
use exchange::KeyExchange;
use ident::IdentReader;
use packet::{PacketReader, PacketWriter};
use rekey::RekeyLimits;
pub use types::{Entropy, HostKey, HostKeyOffer, Negotiated, TransportEvent};

/// The transport of one connection, from its first byte on.
pub struct Transport {
    config: Arc<Config>,
    entropy: Entropy,
    reader: PacketReader,
    writer: PacketWriter,
    ident_reader: IdentReader,
    /// The server's identification line without its line end. `None` until it is received; the exchange hash covers it.
    server_ident: Option<String>,
    /// The key exchange in progress. `None` between key exchanges, when everything may be sent.
    exchange: Option<KeyExchange>,
    /// Payloads that wait for new keys, each behind its length as a native-endian `usize`.
    held: Vec<u8>,
    /// Whether strict key exchange is in force. `None` before the server's first KEXINIT.
    strict: Option<bool>,
    /// The result of the last finished key exchange. `None` until the first keys are in use.
    negotiated: Option<Negotiated>,
    /// The exchange hash of the first key exchange (RFC 4253 §7.2); it stays the same when keys are renewed. Empty
    /// before the first host key.
    session_id: Vec<u8>,
    /// The host key of the first key exchange; every later one must present the same.
    host_key: Bytes,
    /// Signature algorithms of the EXT_INFO received last (RFC 8308 §3.1). `None` if the server has sent none.
    server_sig_algs: Option<Vec<String>>,
    /// Number of EXT_INFO messages received in this session; RFC 8308 §2.4 allows two.
    ext_info_count: u32,
    /// Whether the server has sent USERAUTH_SUCCESS: from then on keys are renewed and `zlib@openssh.com` compresses.
    authenticated: bool,
    /// Traffic and age at which we start the next key exchange.
    rekey_limits: RekeyLimits,
    /// When the current keys were put in use.
    keyed_at: Instant,
    /// The last time that the caller passed in.
    now: Instant,
    /// Limits messages without effect: IGNORE, DEBUG, UNIMPLEMENTED, unknown numbers.
    noise_limiter: TokenBucket,
    /// Limits key exchanges that the server starts: each one costs us CPU time.
    server_rekey_limiter: TokenBucket,
    /// An error of [`Transport::send`], which the next [`Transport::poll_event`] returns.
    deferred_error: Option<Error>,
    /// Whether the session is over: nothing is sent or read any more.
    dead: bool,
}

impl Transport {
    /// Starts a connection: the output holds our identification and the first KEXINIT.
    pub fn new(config: Arc<Config>, now: Instant, entropy: Entropy) -> Self {
        let mut transport = Self {
            rekey_limits: RekeyLimits::unlimited(&config),
            config,
            entropy,
            reader: PacketReader::new(),
            writer: PacketWriter::new(),
            ident_reader: IdentReader::default(),
            server_ident: None,
            exchange: None,
            held: Vec::new(),
            strict: None,
            negotiated: None,
            session_id: Vec::new(),
            host_key: Bytes::new(),
            server_sig_algs: None,
            ext_info_count: 0,
            authenticated: false,
            keyed_at: now,
            now,
            // RFC 4253 §11 allows these messages at any time, so that only their rate can show an attack.
            noise_limiter: TokenBucket::new(5000, 1000),
            // An honest server rekeys by age or by traffic: one a second is allowed, and traffic refunds more
            // (`on_kexinit`).
            server_rekey_limiter: TokenBucket::new(16, 1),
            deferred_error: None,
            dead: false,
        };
        transport.start();
        transport
    }

    /// Returns the buffer to append received bytes to.
    pub fn read_buffer(&mut self) -> &mut BytesMut {
        &mut self.reader.buffer
    }

    /// Returns the next event from the received bytes. `None` if more bytes are needed.
    ///
    /// # Errors
    /// The session has ended: write what [`Transport::output`] holds, which may be a DISCONNECT, and close the socket.
    pub fn poll_event(&mut self, now: Instant) -> Result<Option<TransportEvent>, Error> {
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

    /// Seals one payload at the end of the output, or holds it back until new keys are in use.
    pub fn send(&mut self, payload: &[u8]) {
        self.send_parts(payload, &[]);
    }

    /// As [`Transport::send`], for a payload in two parts.
    pub fn send_parts(&mut self, header: &[u8], data: &[u8]) {
        if self.dead {
            return;
        }
        // RFC 4253 §7.1: between KEXINIT and NEWKEYS only messages of the key exchange may be sent.
        if self.is_rekeying() {
            self.hold(header, data);
        } else {
            self.send_now(header, data);
        }
    }

    /// Returns the sequence number of the packet that was sent last. `None` while payloads are held back for new keys.
    pub fn last_sequence(&self) -> Option<u32> {
        // A payload that is held back has no sequence number until it is sealed, and strict key exchange resets the
        // counter.
        (!self.is_rekeying()).then(|| self.writer.last_sequence())
    }

    /// Answers the packet that was received last with UNIMPLEMENTED.
    pub fn reply_unimplemented(&mut self) {
        let payload = message::unimplemented(self.reader.last_sequence());
        self.send(&payload);
    }

    /// Returns the sealed bytes to write to the socket. The caller removes what it has written.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.writer.output
    }

    /// Returns the bytes that are not written yet, including payloads that are held back for new keys.
    pub fn unsent_bytes(&self) -> usize {
        self.writer.output.len() + self.held.len()
    }

    /// Whether payloads are held back until new keys are in use; send no bulk data then. True from the start until
    /// the first keys.
    pub fn is_rekeying(&self) -> bool {
        self.exchange
            .as_ref()
            .is_some_and(KeyExchange::holds_output)
    }

    /// Starts a key exchange, unless one is in progress.
    pub fn start_rekey(&mut self, now: Instant) {
        self.now = now;
        // Before the first keys there is nothing to renew, and RFC 4253 §9 forbids a second exchange inside another.
        if self.negotiated.is_some() && self.exchange.is_none() && !self.dead {
            self.start_exchange();
        }
    }

    /// Returns when [`Transport::handle_timeout`] has to be called, which may be in the past. `None` if no timer runs.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.dead {
            return None;
        }
        match &self.exchange {
            Some(exchange) => exchange.deadline(),
            // By traffic: due at once, whatever the age of the keys.
            None if self.rekey_is_due(self.now) => Some(self.now),
            None => self.rekey_at(),
        }
    }

    /// Starts a key exchange that is due by age or traffic.
    ///
    /// # Errors
    /// [`Error::Timeout`] if the server has not finished a key exchange in time.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        self.now = now;
        if self.dead {
            return Ok(());
        }
        let result = self.on_timeout();
        if let Err(error) = &result {
            self.fail(error);
        }
        result
    }

    /// Returns the session identifier (RFC 4253 §7.2); empty before the host key.
    pub fn session_id(&self) -> &[u8] {
        &self.session_id
    }

    /// Returns the result of the last key exchange. `None` before the first keys are in use.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.negotiated.as_ref()
    }

    /// Returns the signature algorithms that the server accepts from users (RFC 8308). `None` if it has not sent them.
    pub fn server_sig_algs(&self) -> Option<&[String]> {
        self.server_sig_algs.as_deref()
    }

    /// Returns the lines that the server sent before its identification, cut to 1 KiB and not escaped.
    pub fn pre_banner(&self) -> &str {
        self.ident_reader.pre_banner()
    }

    /// Returns all that the server sent before its identification, with an unfinished last line.
    pub fn received_before_ident(&self) -> String {
        self.ident_reader.received()
    }

    /// Continues the first key exchange: the caller trusts the host key.
    pub fn accept_host_key(&mut self, now: Instant) {
        self.now = now;
        if let Err(error) = self.on_host_key_accepted() {
            // The caller's next `poll_event` returns it, so that there is one place where a session ends.
            self.deferred_error = Some(error);
        }
    }

    /// Ends the session: the caller does not trust the host key.
    pub fn reject_host_key(&mut self) {
        self.fail(&Error::HostKeyRejected);
    }

    /// Ends the session with DISCONNECT, the last packet in the output. `code` is a reason of RFC 4253 §11.1; `text`
    /// is cut to 256 bytes.
    pub fn disconnect(&mut self, code: u32, text: &str) {
        if !self.dead {
            self.send_now(&message::disconnect(code, text), &[]);
            self.dead = true;
        }
    }
}

/// For fuzzing: skips the key exchange and the authentication.
#[cfg(any(test, feature = "fuzzing"))]
impl Transport {
    /// Pretends that the first keys are in use and that the user is authenticated.
    pub(crate) fn assume_authenticated(&mut self, negotiated: Negotiated) {
        self.server_ident = Some("SSH-2.0-fuzz".to_owned());
        self.exchange = None;
        self.strict = Some(negotiated.strict);
        self.session_id = vec![7; 32];
        self.authenticated = true;
        self.negotiated = Some(negotiated);
    }

    /// Handles a payload as if it had been received and opened.
    pub(crate) fn handle_payload(
        &mut self,
        payload: Bytes,
    ) -> Result<Option<TransportEvent>, Error> {
        self.on_payload(payload)
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("server_ident", &self.server_ident)
            .field("negotiated", &self.negotiated)
            .field("is_rekeying", &self.is_rekeying())
            .field("dead", &self.dead)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;
