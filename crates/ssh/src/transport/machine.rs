//! The transport's state machine: what each message does, and when new keys are made.

use bytes::Bytes;
use zeroize::Zeroizing;

use super::Transport;
use super::compress::{Deflate, Inflate};
use super::exchange::{DerivedKeys, Idents, KexReply, KexStage, KeyExchange};
use super::kex_deadline::KexDeadline;
use super::message::{self, *};
use super::negotiate::{self, KEXINIT};
use super::rekey::RekeyLimits;
use super::types::{Negotiated, TransportEvent};
use crate::error::Error;
use crate::kex::{KexMethod, KexOutcome};

/// Bytes of traffic that allow the server one more rekey, beside one per second. OpenSSH with a small RekeyLimit rekeys
/// by traffic, which is legitimate; a rekey without traffic only costs CPU time.
const BYTES_PER_SERVER_REKEY: f64 = 256.0 * 1024.0;
/// EXT_INFO messages that RFC 8308 §2.4 allows the server.
const MAX_EXT_INFOS: u32 = 2;
/// Bytes that the server may send while the caller checks its host key, which may take minutes: the bytes stay in the
/// read buffer, encrypted with keys that are not in use yet.
const MAX_BEFORE_HOST_KEY_ACCEPTED: usize = 64 * 1024;
const ZLIB: &str = "zlib@openssh.com";

fn protocol_error(what: &str) -> Error {
    Error::Protocol(what.to_owned())
}

impl Transport {
    /// Writes our identification and starts the first key exchange.
    pub(super) fn start(&mut self) {
        let ident = self.config.ident.clone();
        self.writer.output.extend_from_slice(ident.as_bytes());
        self.writer.output.extend_from_slice(b"\r\n");
        self.start_exchange();
    }

    pub(super) fn start_exchange(&mut self) {
        let mut cookie = [0; 16];
        (self.entropy)(&mut cookie);
        // The markers in our offer are defined for the first KEXINIT only.
        let first = self.negotiated.is_none();
        let payload = negotiate::offer(&self.config, first, cookie);
        self.send_now(&payload, &[]);
        // UNIMPLEMENTED refers to packets by this number (`KeyExchange::has_sent`).
        let sequence = self.writer.last_sequence();
        let deadline = KexDeadline::new(self.now, self.config.kex_timeout);
        self.exchange = Some(KeyExchange::new(payload, sequence, deadline));
    }

    /// Seals a payload, also during a key exchange.
    pub(super) fn send_now(&mut self, header: &[u8], data: &[u8]) {
        let sealed = self.writer.write(header, data, &mut *self.entropy);
        if let Err(error) = sealed {
            self.deferred_error = Some(error);
        }
    }

    /// Keeps a payload until new keys are in use.
    pub(super) fn hold(&mut self, header: &[u8], data: &[u8]) {
        // One buffer with length prefixes instead of a queue of vectors: it is empty most of the time. It needs no
        // bound of its own: writers of channel data wait while keys are exchanged, and `OUTPUT_LIMIT` counts the rest.
        let length = header.len() + data.len();
        self.held.extend_from_slice(&length.to_ne_bytes());
        self.held.extend_from_slice(header);
        self.held.extend_from_slice(data);
    }

    /// Seals the payloads that were held back, in order.
    fn release_held(&mut self) {
        // There may be a password among them: overwrite the memory.
        let held = Zeroizing::new(std::mem::take(&mut self.held));
        let mut rest = &held[..];
        while let Some((length, tail)) = rest.split_first_chunk() {
            let Some((payload, tail)) = tail.split_at_checked(usize::from_ne_bytes(*length)) else {
                break;
            };
            self.send_now(payload, &[]);
            rest = tail;
        }
    }

    /// Handles received messages until one makes an event.
    pub(super) fn advance(&mut self) -> Result<Option<TransportEvent>, Error> {
        if let Some(error) = self.deferred_error.take() {
            return Err(error);
        }
        if self.server_ident.is_none() {
            // RFC 4253 §4.2: the identification comes first and is not a packet.
            let Some(ident) = self.ident_reader.poll(&mut self.reader.buffer)? else {
                return Ok(None);
            };
            self.server_ident = Some(ident.clone());
            return Ok(Some(TransportEvent::Ident(ident)));
        }
        loop {
            if matches!(&self.exchange, Some(exchange) if matches!(exchange.stage, KexStage::HostKey(_)))
            {
                // A user may take minutes. Only NEWKEYS and EXT_INFO can follow until then.
                if self.reader.buffer.len() > MAX_BEFORE_HOST_KEY_ACCEPTED {
                    return Err(protocol_error("too much before its host key was accepted"));
                }
                return Ok(None);
            }
            let Some(payload) = self.reader.poll()? else {
                break;
            };
            if let Some(event) = self.on_payload(payload)? {
                return Ok(Some(event));
            }
        }
        // After the loop and not in it: all packets that are here already are read under the keys they were sealed
        // with.
        if self.exchange.is_none() && self.rekey_is_due(self.now) {
            self.start_exchange();
        }
        Ok(None)
    }

    pub(super) fn on_payload(&mut self, payload: Bytes) -> Result<Option<TransportEvent>, Error> {
        let number = payload.first().copied().unwrap_or_default();
        let in_exchange = self
            .exchange
            .as_ref()
            .is_some_and(KeyExchange::server_started);
        if let Some(exchange) = &mut self.exchange {
            // The server sends what it had queued before it saw our KEXINIT.
            exchange.deadline.add_received(payload.len());
        }
        match number {
            DISCONNECT => {
                // No answer: RFC 4253 §11.1 forbids sending or accepting anything after DISCONNECT.
                self.dead = true;
                let (code, text) = message::read_disconnect(&payload);
                return Ok(Some(TransportEvent::Disconnected { code, text }));
            }
            KEXINIT => self.on_kexinit(payload)?,
            NEWKEYS => return self.on_newkeys(&payload).map(Some),
            KEX_FIRST..=KEX_LAST => return self.on_exchange(&payload),
            _ if self.strict == Some(true) && self.negotiated.is_none() => {
                // Strict key exchange allows no other message, not even IGNORE: such a message can hide a truncation.
                return Err(protocol_error("a stray message in a strict key exchange"));
            }
            UNIMPLEMENTED => return self.on_unimplemented(&payload),
            IGNORE | DEBUG => self.limit_noise()?,
            // RFC 4253 §7.1 forbids it, but some servers continue their channels under the old keys.
            CONNECTION_FIRST.. if in_exchange && self.authenticated => {
                return Ok(Some(TransportEvent::Packet(payload)));
            }
            // After the server's KEXINIT, RFC 4253 §7.1 allows it no other message; before the first keys there is no
            // service to send one for.
            _ if in_exchange || self.negotiated.is_none() => {
                return Err(protocol_error("a message in the middle of a key exchange"));
            }
            EXT_INFO => self.on_ext_info(&payload)?,
            SERVICE_ACCEPT | 50.. => {
                // The transport must see it itself: delayed compression starts with the next packet, which may be in
                // the same read.
                if number == AUTH_SUCCESS {
                    self.on_auth_success();
                }
                return Ok(Some(TransportEvent::Packet(payload)));
            }
            _ => {
                self.limit_noise()?;
                self.reply_unimplemented();
            }
        }
        Ok(None)
    }

    fn on_kexinit(&mut self, payload: Bytes) -> Result<(), Error> {
        match &self.exchange {
            // Our own KEXINIT does not count: both sides may start an exchange at the same time (RFC 4253 §9).
            Some(exchange) if exchange.server_started() => {
                return Err(protocol_error("a second KEXINIT"));
            }
            Some(_) => {}
            None => {
                // Traffic under the current keys, in both directions: a server counts both against its RekeyLimit.
                let traffic = self.reader.usage.bytes + self.writer.usage.bytes;
                self.server_rekey_limiter
                    .refund(traffic as f64 / BYTES_PER_SERVER_REKEY);
                if !self.server_rekey_limiter.take(self.now) {
                    return Err(protocol_error("it starts key exchanges too often"));
                }
                self.start_exchange();
            }
        }
        // Strictness is agreed on once per session: a later KEXINIT must not be able to switch it off.
        let first = self.strict.is_none();
        let agreement = negotiate::negotiate(&self.config, &payload, self.strict)?;
        let strict = agreement.negotiated.strict;
        // With strict key exchange KEXINIT must be the server's first packet: an attacker who can insert one before it
        // can remove one after NEWKEYS unnoticed (Terrapin, CVE-2023-48795).
        if first && strict && self.reader.last_sequence() != 0 {
            return Err(protocol_error("a message before the first KEXINIT"));
        }
        self.strict = Some(strict);
        let (method, opening) = KexMethod::start(agreement.negotiated.kex, &mut *self.entropy)?;
        // At once, without waiting for the server: all methods but group exchange take one round trip.
        self.send_now(&opening, &[]);
        if let Some(exchange) = &mut self.exchange {
            exchange.server_kexinit = payload;
            exchange.stage = KexStage::Method(Box::new((agreement, method)));
            exchange.deadline.next_step(self.now);
        }
        Ok(())
    }

    fn on_exchange(&mut self, payload: &[u8]) -> Result<Option<TransportEvent>, Error> {
        let exchange = self
            .exchange
            .as_mut()
            .ok_or_else(|| protocol_error("a key exchange message outside a key exchange"))?;
        exchange.deadline.next_step(self.now);
        match exchange.on_message(payload, &mut *self.entropy)? {
            KexReply::Nothing => Ok(None),
            KexReply::Send(payload) => {
                self.send_now(&payload, &[]);
                Ok(None)
            }
            KexReply::Done(done) => {
                let (negotiated, outcome) = *done;
                self.on_method_done(negotiated, outcome)
            }
        }
    }

    /// Reports the host key in the first key exchange, and compares it with the first one in every later exchange.
    fn on_method_done(
        &mut self,
        negotiated: Negotiated,
        outcome: KexOutcome,
    ) -> Result<Option<TransportEvent>, Error> {
        let Some(exchange) = &mut self.exchange else {
            return Ok(None);
        };
        let idents = Idents {
            client: &self.config.ident,
            server: self.server_ident.as_deref().unwrap_or_default(),
        };
        let (keys, offer) = exchange.finish(
            &idents,
            negotiated,
            outcome,
            &self.session_id,
            self.config.min_rsa_bits,
        )?;
        // The first key exchange. NEWKEYS waits until the caller trusts the key: nothing may be sent under keys that an
        // attacker may know.
        if self.session_id.is_empty() {
            self.session_id.clone_from(&keys.material.session_id);
            self.host_key = offer.blob.clone();
            exchange.stage = KexStage::HostKey(Box::new(keys));
            return Ok(Some(TransportEvent::HostKey(Box::new(offer))));
        }
        // The user trusted the first key; a rekey must not replace it without a question.
        if offer.blob != self.host_key {
            return Err(Error::KexFailed("the host key has changed".to_owned()));
        }
        self.send_newkeys(&keys)?;
        Ok(None)
    }

    pub(super) fn on_host_key_accepted(&mut self) -> Result<(), Error> {
        let Some(exchange) = &mut self.exchange else {
            return Ok(());
        };
        match std::mem::replace(&mut exchange.stage, KexStage::KexInit) {
            KexStage::HostKey(keys) => {
                // The time of the host key check is not the server's: the deadline starts again.
                exchange.deadline = KexDeadline::new(self.now, self.config.kex_timeout);
                self.send_newkeys(&keys)
            }
            other => {
                exchange.stage = other;
                Ok(())
            }
        }
    }

    /// Sends NEWKEYS and puts the new keys in use for our direction.
    fn send_newkeys(&mut self, keys: &DerivedKeys) -> Result<(), Error> {
        // Both are made before NEWKEYS is sealed: a failure must not leave the two directions with different keys.
        let (sealer, opener) = (keys.sealer()?, keys.opener()?);
        // Ours changes now, the server's with its own NEWKEYS: the directions change independently (RFC 4253 §7.3).
        let negotiated = keys.negotiated.clone();
        self.send_now(&[NEWKEYS], &[]);
        // zlib@openssh.com starts after authentication. Each key exchange starts a new stream.
        let compress = self.authenticated && negotiated.compression_out == ZLIB;
        let deflate = compress.then(Deflate::new);
        self.writer.rekey(sealer, deflate, negotiated.strict);
        if let Some(exchange) = &mut self.exchange {
            exchange.stage = KexStage::NewKeys(Box::new((negotiated, opener)));
            exchange.deadline.next_step(self.now);
        }
        // Only now, so that payloads which waited are sealed with the new keys.
        self.release_held();
        Ok(())
    }

    /// Puts the new keys in use for the server's direction.
    fn on_newkeys(&mut self, payload: &[u8]) -> Result<TransportEvent, Error> {
        let exchange = self.exchange.take();
        // In every other stage the new keys do not exist yet, or the host key is not accepted.
        let Some(KexStage::NewKeys(keys)) = exchange.map(|exchange| exchange.stage) else {
            return Err(protocol_error("NEWKEYS outside a key exchange"));
        };
        if payload.len() != 1 {
            return Err(protocol_error("a malformed NEWKEYS"));
        }
        let (negotiated, opener) = *keys;
        let compressed = self.authenticated && negotiated.compression_in == ZLIB;
        let inflate = compressed.then(Inflate::new);
        self.reader.rekey(opener, inflate, negotiated.strict);
        // The usage of both directions counts from here; the limits may differ, because the cipher may.
        self.rekey_limits = RekeyLimits::new(&self.config, &negotiated)?;
        self.keyed_at = self.now;
        let first = self.negotiated.replace(negotiated.clone()).is_none();
        Ok(if first {
            TransportEvent::Ready(Box::new(negotiated))
        } else {
            TransportEvent::Rekeyed
        })
    }

    /// Counts a message without effect: cheap to send, not free to read.
    fn limit_noise(&mut self) -> Result<(), Error> {
        if self.noise_limiter.take(self.now) {
            Ok(())
        } else {
            Err(protocol_error("a flood of messages without effect"))
        }
    }

    /// Handles UNIMPLEMENTED, with which some servers answer unknown global requests.
    fn on_unimplemented(&mut self, payload: &[u8]) -> Result<Option<TransportEvent>, Error> {
        self.limit_noise()?;
        // A malformed one is ignored: it refers to nothing that we could end.
        let Some(sequence) = message::read_unimplemented(payload) else {
            return Ok(None);
        };
        // A server that does not know our key exchange message would otherwise leave us waiting for the deadline.
        if matches!(&self.exchange, Some(exchange) if exchange.has_sent(sequence)) {
            return Err(Error::KexFailed(
                "the server does not implement it".to_owned(),
            ));
        }
        Ok(Some(TransportEvent::Unimplemented(sequence)))
    }

    fn on_ext_info(&mut self, payload: &[u8]) -> Result<(), Error> {
        // The second one may replace the list of the first: RFC 8308 §2.4 lets the server send it right before
        // USERAUTH_SUCCESS.
        self.ext_info_count += 1;
        if self.ext_info_count > MAX_EXT_INFOS {
            return Err(protocol_error("EXT_INFO too often"));
        }
        if let Some(algorithms) = message::read_ext_info(payload)? {
            self.server_sig_algs = Some(algorithms);
        }
        Ok(())
    }

    fn on_auth_success(&mut self) {
        // A second USERAUTH_SUCCESS must not restart the zlib streams, which would corrupt them.
        if std::mem::replace(&mut self.authenticated, true) {
            return;
        }
        // Each direction starts here, after the packet that said so: the next packet is the first compressed one.
        if let Some(negotiated) = &self.negotiated {
            if negotiated.compression_in == ZLIB {
                self.reader.inflate = Some(Inflate::new());
            }
            if negotiated.compression_out == ZLIB {
                self.writer.deflate = Some(Deflate::new());
            }
        }
    }

    /// Ends the session because of `error` and sends the reason to the server.
    pub(super) fn fail(&mut self, error: &Error) {
        let (code, text) = match error {
            Error::Ident(_) => {
                // This may not be an SSH server: send it nothing.
                self.dead = true;
                return;
            }
            Error::Mac => (MAC_ERROR, "corrupted packet"),
            Error::HostKeyRejected => (HOST_KEY_NOT_VERIFIABLE, "host key not accepted"),
            Error::NoCommonAlgorithm { .. } => (KEY_EXCHANGE_FAILED, "no common algorithm"),
            // The text stays general: the details are for our user, not for a server that may be an attacker.
            Error::KexFailed(_) | Error::Terrapin { .. } | Error::ShortHostKey { .. } => {
                (KEY_EXCHANGE_FAILED, "key exchange failed")
            }
            Error::Timeout(_) => (BY_APPLICATION, "timed out"),
            _ => (PROTOCOL_ERROR, "protocol error"),
        };
        self.disconnect(code, text);
    }
}
