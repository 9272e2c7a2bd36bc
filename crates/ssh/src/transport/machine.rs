//! What the transport does with each message, and when new keys are made.

use std::time::Instant;

use bytes::Bytes;
use zeroize::Zeroizing;

use super::compress::{Deflate, Inflate};
use super::exchange::{Exchange, Greeting, Keys, Reply, Stage, spec};
use super::limits::{MAX_PACKETS, Patience, RekeyLimits};
use super::message::{self, *};
use super::negotiate::{self, KEXINIT};
use super::{Event, Negotiated, Transport};
use crate::error::Error;
use crate::kex::{Method, Outcome};

/// So much traffic pays for one rekey of the server's, beside one a second.
const BYTES_A_REKEY: f64 = 256.0 * 1024.0;
/// How many times RFC 8308 §2.4 lets the server send EXT_INFO.
const MAX_EXT_INFOS: u32 = 2;
/// New keys more often than this would be all that is sent.
const LEAST_REKEY_BYTES: u64 = 1024;
/// What the server may send while its host key is looked at.
const MAX_AHEAD: usize = 64 * 1024;
const ZLIB: &str = "zlib@openssh.com";

fn protocol(what: &str) -> Error {
    Error::Protocol(what.to_owned())
}

impl Transport {
    /// Identifies us and opens the first exchange.
    pub(super) fn greet(&mut self) {
        let ident = self.config.ident.clone();
        self.outbound.out.extend_from_slice(ident.as_bytes());
        self.outbound.out.extend_from_slice(b"\r\n");
        self.begin_exchange();
    }

    pub(super) fn begin_exchange(&mut self) {
        let mut cookie = [0; 16];
        (self.entropy)(&mut cookie);
        let first = self.negotiated.is_none();
        let payload = negotiate::offer(&self.config, first, cookie);
        self.send_now(&payload, &[]);
        let number = self.outbound.last_sequence();
        let patience = Patience::new(self.now, self.config.kex_timeout);
        self.exchange = Some(Exchange::new(payload, number, patience));
    }

    /// Seals a payload, whatever goes on.
    pub(super) fn send_now(&mut self, header: &[u8], data: &[u8]) {
        let sent = self.outbound.send(header, data, &mut *self.entropy);
        if let Err(error) = sent {
            self.fault = Some(error);
        }
    }

    pub(super) fn hold(&mut self, header: &[u8], data: &[u8]) {
        let length = header.len() + data.len();
        self.held.extend_from_slice(&length.to_ne_bytes());
        self.held.extend_from_slice(header);
        self.held.extend_from_slice(data);
    }

    fn release(&mut self) {
        // A password may be among it.
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

    /// Takes messages until one is worth telling.
    pub(super) fn advance(&mut self) -> Result<Option<Event>, Error> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        if self.their_ident.is_none() {
            let Some(ident) = self.ident.poll(&mut self.inbound.read)? else {
                return Ok(None);
            };
            self.their_ident = Some(ident.clone());
            return Ok(Some(Event::Ident(ident)));
        }
        loop {
            if matches!(&self.exchange, Some(exchange) if matches!(exchange.stage, Stage::HostKey(_)))
            {
                // Nothing is due of the server but NEWKEYS and EXT_INFO, and a person may take long.
                if self.inbound.read.len() > MAX_AHEAD {
                    return Err(protocol("too much before its host key was accepted"));
                }
                return Ok(None);
            }
            let Some(payload) = self.inbound.poll()? else {
                break;
            };
            if let Some(event) = self.on_payload(payload)? {
                return Ok(Some(event));
            }
        }
        if self.exchange.is_none() && self.rekey_is_due(self.now) {
            self.begin_exchange();
        }
        Ok(None)
    }

    pub(super) fn on_payload(&mut self, payload: Bytes) -> Result<Option<Event>, Error> {
        let number = payload.first().copied().unwrap_or_default();
        let in_exchange = self.exchange.as_ref().is_some_and(Exchange::server_began);
        if let Some(exchange) = &mut self.exchange {
            // It still sends what was under way before it saw our KEXINIT.
            exchange.patience.extend(payload.len());
        }
        match number {
            DISCONNECT => {
                self.dead = true;
                let (code, text) = message::read_disconnect(&payload);
                return Ok(Some(Event::Disconnected { code, text }));
            }
            KEXINIT => self.on_kexinit(payload)?,
            NEWKEYS => return self.on_newkeys(&payload).map(Some),
            KEX_FIRST..=KEX_LAST => return self.on_exchange(&payload),
            _ if self.strict == Some(true) && self.negotiated.is_none() => {
                return Err(protocol("a stray message in a strict key exchange"));
            }
            UNIMPLEMENTED => return self.on_unimplemented(&payload),
            IGNORE | DEBUG => self.on_idle_talk()?,
            // RFC 4253 §7.1 forbids it, and some servers let their channels go on under the old keys all the same.
            CONNECTION.. if in_exchange && self.authenticated => {
                return Ok(Some(Event::Packet(payload)));
            }
            _ if in_exchange || self.negotiated.is_none() => {
                return Err(protocol("a message in the middle of a key exchange"));
            }
            EXT_INFO => self.on_ext_info(&payload)?,
            SERVICE_ACCEPT | 50.. => {
                if number == AUTH_SUCCESS {
                    self.on_auth_success();
                }
                return Ok(Some(Event::Packet(payload)));
            }
            _ => {
                self.on_idle_talk()?;
                self.unimplemented();
            }
        }
        Ok(None)
    }

    fn on_kexinit(&mut self, payload: Bytes) -> Result<(), Error> {
        match &self.exchange {
            Some(exchange) if exchange.server_began() => {
                return Err(protocol("a second KEXINIT"));
            }
            Some(_) => {}
            None => {
                let traffic = self.inbound.usage.bytes + self.outbound.usage.bytes;
                self.server_rekeys.refund(traffic as f64 / BYTES_A_REKEY);
                if !self.server_rekeys.take(self.now) {
                    return Err(protocol("new keys are asked for too often"));
                }
                self.begin_exchange();
            }
        }
        let first = self.strict.is_none();
        let agreement = negotiate::agree(&self.config, &payload, self.strict)?;
        let strict = agreement.negotiated.strict;
        if first && strict && self.inbound.last_sequence() != 0 {
            return Err(protocol("a message before the first KEXINIT"));
        }
        self.strict = Some(strict);
        let (method, opening) = Method::start(agreement.negotiated.kex, &mut *self.entropy)?;
        self.send_now(&opening, &[]);
        if let Some(exchange) = &mut self.exchange {
            exchange.theirs = payload;
            exchange.stage = Stage::Method(Box::new((agreement, method)));
            exchange.patience.step(self.now);
        }
        Ok(())
    }

    fn on_exchange(&mut self, payload: &[u8]) -> Result<Option<Event>, Error> {
        let exchange = self
            .exchange
            .as_mut()
            .ok_or_else(|| protocol("a message of a key exchange that does not run"))?;
        exchange.patience.step(self.now);
        match exchange.on_message(payload, &mut *self.entropy)? {
            Reply::Nothing => Ok(None),
            Reply::Send(payload) => {
                self.send_now(&payload, &[]);
                Ok(None)
            }
            Reply::Done(done) => {
                let (negotiated, outcome) = *done;
                self.on_secret(negotiated, outcome)
            }
        }
    }

    /// The method is over: shows the host key, or in later exchanges compares it.
    fn on_secret(
        &mut self,
        negotiated: Negotiated,
        outcome: Outcome,
    ) -> Result<Option<Event>, Error> {
        let Some(exchange) = &mut self.exchange else {
            return Ok(None);
        };
        let greeting = Greeting {
            our_ident: &self.config.ident,
            their_ident: self.their_ident.as_deref().unwrap_or_default(),
        };
        let (keys, offer) = exchange.finish(&greeting, negotiated, outcome, &self.session_id)?;
        if self.session_id.is_empty() {
            self.session_id.clone_from(&keys.material.session_id);
            self.host_key = offer.blob.clone();
            exchange.stage = Stage::HostKey(Box::new(keys));
            return Ok(Some(Event::HostKey(Box::new(offer))));
        }
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
        match std::mem::replace(&mut exchange.stage, Stage::Init) {
            Stage::HostKey(keys) => {
                // How long a person took is not the server's time.
                exchange.patience = Patience::new(self.now, self.config.kex_timeout);
                self.send_newkeys(&keys)
            }
            other => {
                exchange.stage = other;
                Ok(())
            }
        }
    }

    fn send_newkeys(&mut self, keys: &Keys) -> Result<(), Error> {
        let (sealer, opener) = (keys.sealer()?, keys.opener()?);
        let negotiated = keys.negotiated.clone();
        self.send_now(&[NEWKEYS], &[]);
        let packs = self.authenticated && negotiated.compression_out == ZLIB;
        let deflate = packs.then(Deflate::new);
        self.outbound.rekey(sealer, deflate, negotiated.strict);
        if let Some(exchange) = &mut self.exchange {
            exchange.stage = Stage::NewKeys(Box::new((negotiated, opener)));
            exchange.patience.step(self.now);
        }
        self.release();
        Ok(())
    }

    fn on_newkeys(&mut self, payload: &[u8]) -> Result<Event, Error> {
        let exchange = self.exchange.take();
        let Some(Stage::NewKeys(keys)) = exchange.map(|exchange| exchange.stage) else {
            return Err(protocol("NEWKEYS out of turn"));
        };
        if payload.len() != 1 {
            return Err(protocol("a malformed NEWKEYS"));
        }
        let (negotiated, opener) = *keys;
        let packs = self.authenticated && negotiated.compression_in == ZLIB;
        let inflate = packs.then(Inflate::new);
        self.inbound.rekey(opener, inflate, negotiated.strict);
        let weakest = spec(negotiated.cipher_out)?
            .byte_limit()
            .min(spec(negotiated.cipher_in)?.byte_limit());
        self.limits = RekeyLimits {
            bytes: self
                .config
                .rekey_bytes
                .unwrap_or(weakest)
                .clamp(LEAST_REKEY_BYTES, weakest),
            time: self.config.rekey_time,
        };
        self.keyed_at = self.now;
        let first = self.negotiated.replace(negotiated.clone()).is_none();
        Ok(if first {
            Event::Ready(Box::new(negotiated))
        } else {
            Event::Rekeyed
        })
    }

    fn on_idle_talk(&mut self) -> Result<(), Error> {
        if self.idle_talk.take(self.now) {
            Ok(())
        } else {
            Err(protocol("a flood of messages that mean nothing"))
        }
    }

    /// Some servers answer requests that they do not know so.
    fn on_unimplemented(&mut self, payload: &[u8]) -> Result<Option<Event>, Error> {
        self.on_idle_talk()?;
        let Some(number) = message::read_unimplemented(payload) else {
            return Ok(None);
        };
        if matches!(&self.exchange, Some(exchange) if exchange.sent(number)) {
            return Err(Error::KexFailed("the server does not know it".to_owned()));
        }
        Ok(Some(Event::Unimplemented(number)))
    }

    fn on_ext_info(&mut self, payload: &[u8]) -> Result<(), Error> {
        self.ext_infos += 1;
        if self.ext_infos > MAX_EXT_INFOS {
            return Err(protocol("EXT_INFO too often"));
        }
        if let Some(algorithms) = message::read_ext_info(payload)? {
            self.server_sig_algs = Some(algorithms);
        }
        Ok(())
    }

    fn on_auth_success(&mut self) {
        if std::mem::replace(&mut self.authenticated, true) {
            return;
        }
        if let Some(negotiated) = &self.negotiated {
            if negotiated.compression_in == ZLIB {
                self.inbound.inflate = Some(Inflate::new());
            }
            if negotiated.compression_out == ZLIB {
                self.outbound.deflate = Some(Deflate::new());
            }
        }
    }

    pub(super) fn on_time(&mut self) -> Result<(), Error> {
        match &self.exchange {
            Some(exchange) => match exchange.deadline() {
                Some(deadline) if deadline <= self.now => Err(Error::Timeout("the key exchange")),
                _ => Ok(()),
            },
            None => {
                if self.rekey_is_due(self.now) {
                    self.begin_exchange();
                }
                Ok(())
            }
        }
    }

    /// When the keys are too old.
    pub(super) fn rekey_at(&self) -> Option<Instant> {
        let time = self.limits.time.filter(|_| self.authenticated)?;
        self.keyed_at.checked_add(time)
    }

    /// Whether new keys are due: never before authentication, as OpenSSH has it.
    pub(super) fn rekey_is_due(&self, now: Instant) -> bool {
        let used_up = [self.inbound.usage, self.outbound.usage]
            .iter()
            .any(|usage| usage.bytes >= self.limits.bytes || usage.packets >= MAX_PACKETS);
        self.authenticated && (used_up || self.rekey_at().is_some_and(|at| at <= now))
    }

    /// Ends the session because of a fault, telling the server why.
    pub(super) fn fail(&mut self, error: &Error) {
        let (code, text) = match error {
            Error::Ident(_) => {
                self.dead = true;
                return;
            }
            Error::Mac => (MAC_ERROR, "corrupted packet"),
            Error::HostKeyRejected => (HOST_KEY_NOT_VERIFIABLE, "host key not accepted"),
            Error::NoCommon { .. } => (KEY_EXCHANGE_FAILED, "no common algorithm"),
            Error::KexFailed(_) | Error::Terrapin { .. } => {
                (KEY_EXCHANGE_FAILED, "key exchange failed")
            }
            Error::Timeout(_) => (BY_APPLICATION, "timed out"),
            _ => (PROTOCOL_ERROR, "protocol error"),
        };
        self.disconnect(code, text);
    }
}
