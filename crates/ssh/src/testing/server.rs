//! A transport of the server's side for unit tests, in memory: follows the protocol, or breaks it as its script says.

use std::collections::VecDeque;

use aws_lc_rs::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bytes::{Bytes, BytesMut};
use zeroize::Zeroizing;

use crate::kex::{HashAlgorithm, KeyMaterial};
use crate::transport::cipher::{CipherSpec, Direction};
use crate::transport::compress::{Deflate, Inflate};
use crate::transport::mac::MacSpec;
use crate::transport::packet::{PacketReader, PacketWriter};
use crate::wire::{Reader, Writer};

/// What the server offers, and which rules it breaks.
#[derive(Clone)]
pub(crate) struct ServerScript {
    pub(crate) ident: Vec<u8>,
    pub(crate) kex: String,
    pub(crate) host_key: String,
    pub(crate) cipher: &'static str,
    pub(crate) mac: &'static str,
    pub(crate) compression: &'static str,
    /// Announces a guessed packet in its KEXINIT.
    pub(crate) guess: bool,
    /// Answers the client's first message of the method.
    pub(crate) answers: bool,
    /// Signs something else than the exchange hash.
    pub(crate) bad_signature: bool,
    /// Sends this public value instead of the real one.
    pub(crate) public: Option<Vec<u8>>,
    /// Sends these payloads before its KEXINIT.
    pub(crate) before_kexinit: Vec<Vec<u8>>,
    /// Sends these payloads between its reply and its NEWKEYS.
    pub(crate) before_newkeys: Vec<Vec<u8>>,
    /// Presents another host key in later key exchanges.
    pub(crate) changes_host_key: bool,
}

impl Default for ServerScript {
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
            before_kexinit: Vec::new(),
            before_newkeys: Vec::new(),
            changes_host_key: false,
        }
    }
}

/// The transport of the server's side.
pub(crate) struct Server {
    pub(crate) script: ServerScript,
    reader: PacketReader,
    writer: PacketWriter,
    client_ident: Option<String>,
    server_kexinit: Vec<u8>,
    client_kexinit: Bytes,
    kexinit_sent: bool,
    host_key: Ed25519KeyPair,
    session_id: Vec<u8>,
    pending: Option<KeyMaterial>,
    authenticated: bool,
    /// Received payloads that do not belong to a key exchange.
    pub(crate) received: VecDeque<Bytes>,
    /// Key exchanges that are finished.
    pub(crate) exchanges: usize,
}

fn fill(bytes: &mut [u8]) {
    rand::fill(bytes).unwrap();
}

fn generate_host_key() -> Ed25519KeyPair {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap()
}

impl Server {
    pub(crate) fn new(script: ServerScript) -> Self {
        let mut server = Self {
            reader: PacketReader::new(),
            writer: PacketWriter::new(),
            client_ident: None,
            server_kexinit: Vec::new(),
            client_kexinit: Bytes::new(),
            kexinit_sent: false,
            host_key: generate_host_key(),
            session_id: Vec::new(),
            pending: None,
            authenticated: false,
            received: VecDeque::new(),
            exchanges: 0,
            script,
        };
        server.writer.output.extend_from_slice(&server.script.ident);
        for payload in server.script.before_kexinit.clone() {
            server.send(&payload);
        }
        server.send_kexinit();
        server
    }

    /// Seals a payload, also during a key exchange.
    pub(crate) fn send(&mut self, payload: &[u8]) {
        self.writer.write(payload, &[], &mut fill).unwrap();
        if payload[0] == 52
            && !std::mem::replace(&mut self.authenticated, true)
            && self.compresses()
        {
            self.writer.deflate = Some(Deflate::new());
            self.reader.inflate = Some(Inflate::new());
        }
    }

    fn compresses(&self) -> bool {
        self.authenticated && self.script.compression != "none"
    }

    /// Appends bytes to the output that are not a packet.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.writer.output.extend_from_slice(bytes);
    }

    pub(crate) fn output(&mut self) -> BytesMut {
        self.writer.output.split()
    }

    /// Starts a key exchange from the server's side.
    pub(crate) fn send_kexinit(&mut self) {
        let script = &self.script;
        let mut payload = vec![20];
        payload.raw(&[9; 16]);
        payload.string(&script.kex);
        payload.string(&script.host_key);
        for name in [script.cipher, script.mac, script.compression] {
            payload.string(name);
            payload.string(name);
        }
        payload.string("");
        payload.string("");
        payload.bool(script.guess);
        payload.u32(0);
        self.send(&payload);
        self.server_kexinit = payload;
        self.kexinit_sent = true;
    }

    /// Handles bytes from the client.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        self.reader.buffer.extend_from_slice(bytes);
        if self.client_ident.is_none() {
            let buffer = &mut self.reader.buffer;
            let Some(end) = buffer.iter().position(|byte| *byte == b'\n') else {
                return;
            };
            let line = buffer.split_to(end + 1);
            self.client_ident = Some(String::from_utf8(line[..end - 1].to_vec()).unwrap());
        }
        while let Some(payload) = self.reader.poll().unwrap() {
            match payload[0] {
                20 => {
                    self.client_kexinit = payload;
                    if !self.kexinit_sent {
                        self.send_kexinit();
                    }
                }
                30 if self.script.answers => self.reply(&payload),
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
            .script
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
        if self.script.changes_host_key && self.exchanges > 0 {
            self.host_key = generate_host_key();
        }
        let mut key = Vec::new();
        key.string("ssh-ed25519");
        key.string(self.host_key.public_key());
        let mut hashed = Vec::new();
        hashed.string(self.client_ident.as_ref().unwrap());
        let ident = String::from_utf8_lossy(&self.script.ident);
        hashed.string(ident.trim_end());
        hashed.string(&self.client_kexinit);
        hashed.string(&self.server_kexinit);
        hashed.string(&key);
        hashed.string(q_c);
        hashed.string(&q_s);
        let exchange_hash = HashAlgorithm::Sha256.digest(&[&hashed, &secret]);
        let signed = if self.script.bad_signature {
            b"something else".to_vec()
        } else {
            exchange_hash.to_vec()
        };
        let mut signature = Vec::new();
        signature.string("ssh-ed25519");
        signature.string(self.host_key.sign(&signed));
        let mut reply = vec![31];
        reply.string(&key);
        reply.string(&q_s);
        reply.string(&signature);
        self.send(&reply);
        self.send_newkeys(secret, exchange_hash);
    }

    /// Sends NEWKEYS and puts the new keys in use for the server's direction.
    fn send_newkeys(&mut self, secret: Zeroizing<Vec<u8>>, exchange_hash: Zeroizing<Vec<u8>>) {
        for payload in self.script.before_newkeys.clone() {
            self.send(&payload);
        }
        self.send(&[21]);
        if self.session_id.is_empty() {
            self.session_id = exchange_hash.to_vec();
        }
        let material = KeyMaterial {
            hash: HashAlgorithm::Sha256,
            secret,
            exchange_hash,
            session_id: self.session_id.clone(),
        };
        let (spec, mac) = self.spec();
        let sealer = spec
            .sealer(mac, &material, Direction::ServerToClient)
            .unwrap();
        let deflate = self.compresses().then(Deflate::new);
        self.writer.rekey(sealer, deflate, self.is_strict());
        self.pending = Some(material);
    }

    fn is_strict(&self) -> bool {
        self.script.kex.contains("kex-strict-s")
    }

    fn spec(&self) -> (CipherSpec, Option<MacSpec>) {
        let spec = CipherSpec::find(self.script.cipher).unwrap();
        let mac = (!spec.is_aead()).then(|| MacSpec::find(self.script.mac).unwrap());
        (spec, mac)
    }

    fn on_newkeys(&mut self) {
        let material = self.pending.take().unwrap();
        let (spec, mac) = self.spec();
        let opener = spec
            .opener(mac, &material, Direction::ClientToServer)
            .unwrap();
        let inflate = self.compresses().then(Inflate::new);
        self.reader.rekey(opener, inflate, self.is_strict());
        self.kexinit_sent = false;
        self.exchanges += 1;
    }
}
