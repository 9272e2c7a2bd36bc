//! A server half for tests, in memory: it does what it is told, right or wrong.

use std::collections::VecDeque;

use aws_lc_rs::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bytes::{Bytes, BytesMut};
use zeroize::Zeroizing;

use super::cipher::{CipherSpec, Way};
use super::compress::{Deflate, Inflate};
use super::mac::MacSpec;
use super::packet::{Inbound, Outbound};
use crate::kex::{Hash, KeyMaterial};
use crate::wire::{Reader, Writer};

/// How the server behaves.
#[derive(Clone)]
pub(crate) struct Manners {
    pub(crate) ident: Vec<u8>,
    pub(crate) kex: String,
    pub(crate) host_key: String,
    pub(crate) cipher: &'static str,
    pub(crate) mac: &'static str,
    pub(crate) compression: &'static str,
    /// Says that a guess follows.
    pub(crate) guess: bool,
    /// Answers the client's part of the exchange.
    pub(crate) answers: bool,
    /// Signs something else.
    pub(crate) bad_signature: bool,
    /// Sends this public key in the place of its own.
    pub(crate) public: Option<Vec<u8>>,
    /// Sends these payloads before its KEXINIT.
    pub(crate) before: Vec<Vec<u8>>,
    /// Sends these payloads between its reply and its NEWKEYS.
    pub(crate) stray: Vec<Vec<u8>>,
    /// Shows another host key in later exchanges.
    pub(crate) changes_key: bool,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            ident: b"SSH-2.0-test\r\n".to_vec(),
            kex: "curve25519-sha256,kex-strict-s-v00@openssh.com".to_owned(),
            host_key: "ssh-ed25519".to_owned(),
            cipher: "aes128-gcm@openssh.com",
            mac: "hmac-sha2-256",
            compression: "none",
            guess: false,
            answers: true,
            bad_signature: false,
            public: None,
            before: Vec::new(),
            stray: Vec::new(),
            changes_key: false,
        }
    }
}

/// The server half.
pub(crate) struct Server {
    pub(crate) manners: Manners,
    inbound: Inbound,
    outbound: Outbound,
    their_ident: Option<String>,
    ours: Vec<u8>,
    theirs: Bytes,
    began: bool,
    host: Ed25519KeyPair,
    session_id: Vec<u8>,
    pending: Option<KeyMaterial>,
    authenticated: bool,
    /// What came that is not of the exchange.
    pub(crate) received: VecDeque<Bytes>,
    /// How many exchanges are over.
    pub(crate) exchanges: usize,
}

fn fill(bytes: &mut [u8]) {
    rand::fill(bytes).unwrap();
}

fn host_key() -> Ed25519KeyPair {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap()
}

impl Server {
    pub(crate) fn new(manners: Manners) -> Self {
        let mut server = Self {
            inbound: Inbound::new(),
            outbound: Outbound::new(),
            their_ident: None,
            ours: Vec::new(),
            theirs: Bytes::new(),
            began: false,
            host: host_key(),
            session_id: Vec::new(),
            pending: None,
            authenticated: false,
            received: VecDeque::new(),
            exchanges: 0,
            manners,
        };
        server.outbound.out.extend_from_slice(&server.manners.ident);
        for payload in server.manners.before.clone() {
            server.send(&payload);
        }
        server.begin();
        server
    }

    /// Seals a payload, whatever goes on.
    pub(crate) fn send(&mut self, payload: &[u8]) {
        self.outbound.send(payload, &[], &mut fill).unwrap();
        if payload[0] == 52 && !std::mem::replace(&mut self.authenticated, true) && self.packs() {
            self.outbound.deflate = Some(Deflate::new());
            self.inbound.inflate = Some(Inflate::new());
        }
    }

    fn packs(&self) -> bool {
        self.authenticated && self.manners.compression != "none"
    }

    /// Appends to the output as it is.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.outbound.out.extend_from_slice(bytes);
    }

    pub(crate) fn output(&mut self) -> BytesMut {
        self.outbound.out.split()
    }

    /// Sends KEXINIT.
    pub(crate) fn begin(&mut self) {
        let manners = &self.manners;
        let mut payload = vec![20];
        payload.raw(&[9; 16]);
        payload.string(&manners.kex);
        payload.string(&manners.host_key);
        for name in [manners.cipher, manners.mac, manners.compression] {
            payload.string(name);
            payload.string(name);
        }
        payload.string("");
        payload.string("");
        payload.bool(manners.guess);
        payload.u32(0);
        self.send(&payload);
        self.ours = payload;
        self.began = true;
    }

    /// Takes what the client sent.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.inbound.read.extend_from_slice(bytes);
        if self.their_ident.is_none() {
            let read = &mut self.inbound.read;
            let Some(end) = read.iter().position(|byte| *byte == b'\n') else {
                return;
            };
            let line = read.split_to(end + 1);
            self.their_ident = Some(String::from_utf8(line[..end - 1].to_vec()).unwrap());
        }
        while let Some(payload) = self.inbound.poll().unwrap() {
            match payload[0] {
                20 => {
                    self.theirs = payload;
                    if !self.began {
                        self.begin();
                    }
                }
                30 if self.manners.answers => self.reply(&payload),
                30 => {}
                21 => self.on_newkeys(),
                _ => self.received.push_back(payload),
            }
        }
    }

    fn reply(&mut self, payload: &[u8]) {
        let q_c = Reader::new(&payload[1..]).string().unwrap();
        let private = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).unwrap();
        let public = private.compute_public_key().unwrap();
        let q_s = self
            .manners
            .public
            .clone()
            .unwrap_or(public.as_ref().to_vec());
        let peer = UnparsedPublicKey::new(&X25519, q_c);
        let mut secret = Zeroizing::new(Vec::new());
        agree_ephemeral(private, peer, (), |shared| {
            secret.mpint(shared);
            Ok(())
        })
        .unwrap();
        if self.manners.changes_key && self.exchanges > 0 {
            self.host = host_key();
        }
        let mut key = Vec::new();
        key.string("ssh-ed25519");
        key.string(self.host.public_key());
        let mut hashed = Vec::new();
        hashed.string(self.their_ident.as_ref().unwrap());
        let ident = String::from_utf8_lossy(&self.manners.ident);
        hashed.string(ident.trim_end());
        hashed.string(&self.theirs);
        hashed.string(&self.ours);
        hashed.string(&key);
        hashed.string(q_c);
        hashed.string(&q_s);
        let exchange_hash = Hash::Sha256.over(&[&hashed, &secret]);
        let signed = if self.manners.bad_signature {
            b"something else".to_vec()
        } else {
            exchange_hash.to_vec()
        };
        let mut signature = Vec::new();
        signature.string("ssh-ed25519");
        signature.string(self.host.sign(&signed));
        let mut reply = vec![31];
        reply.string(&key);
        reply.string(&q_s);
        reply.string(&signature);
        self.send(&reply);
        for payload in self.manners.stray.clone() {
            self.send(&payload);
        }
        self.send(&[21]);
        if self.session_id.is_empty() {
            self.session_id = exchange_hash.to_vec();
        }
        let material = KeyMaterial {
            hash: Hash::Sha256,
            secret,
            exchange_hash,
            session_id: self.session_id.clone(),
        };
        let (spec, mac) = self.spec();
        let sealer = spec.sealer(mac, &material, Way::In).unwrap();
        let deflate = self.packs().then(Deflate::new);
        self.outbound.rekey(sealer, deflate, self.is_strict());
        self.pending = Some(material);
    }

    fn is_strict(&self) -> bool {
        self.manners.kex.contains("kex-strict-s")
    }

    fn spec(&self) -> (CipherSpec, Option<MacSpec>) {
        let spec = CipherSpec::of(self.manners.cipher).unwrap();
        let mac = (!spec.is_aead()).then(|| MacSpec::of(self.manners.mac).unwrap());
        (spec, mac)
    }

    fn on_newkeys(&mut self) {
        let material = self.pending.take().unwrap();
        let (spec, mac) = self.spec();
        let opener = spec.opener(mac, &material, Way::Out).unwrap();
        let inflate = self.packs().then(Inflate::new);
        self.inbound.rekey(opener, inflate, self.is_strict());
        self.began = false;
        self.exchanges += 1;
    }
}
