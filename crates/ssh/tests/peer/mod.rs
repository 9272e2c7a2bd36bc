//! The transport of the server's side for tests against a hostile server: packets, and one key exchange
//! (curve25519-sha256, ssh-ed25519, aes128-gcm). Independent of the client's code, except for `wire`.

#![allow(
    dead_code,
    reason = "several tests share it, and each needs a part of it"
)]

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use flate2::{Compress, Compression, FlushCompress};
use tunneld_ssh::wire::{Reader, Writer};

pub(crate) const DISCONNECT: u8 = 1;
pub(crate) const IGNORE: u8 = 2;
pub(crate) const UNIMPLEMENTED: u8 = 3;
pub(crate) const DEBUG: u8 = 4;
pub(crate) const SERVICE_REQUEST: u8 = 5;
pub(crate) const SERVICE_ACCEPT: u8 = 6;
pub(crate) const EXT_INFO: u8 = 7;
pub(crate) const KEXINIT: u8 = 20;
pub(crate) const NEWKEYS: u8 = 21;
pub(crate) const KEX_INIT: u8 = 30;
pub(crate) const KEX_REPLY: u8 = 31;

const TAG: usize = 16;

/// The contents of a KEXINIT.
#[derive(Clone)]
pub(crate) struct Offer {
    pub(crate) kex: String,
    pub(crate) host_keys: String,
    pub(crate) ciphers: String,
    pub(crate) macs: String,
    pub(crate) compression: String,
    pub(crate) guess: bool,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            kex: "curve25519-sha256,kex-strict-s-v00@openssh.com".into(),
            host_keys: "ssh-ed25519".into(),
            ciphers: "aes128-gcm@openssh.com".into(),
            macs: "hmac-sha2-256".into(),
            compression: "none".into(),
            guess: false,
        }
    }
}

impl Offer {
    /// The default offer without strict key exchange.
    pub(crate) fn without_strict() -> Self {
        Self {
            kex: "curve25519-sha256".into(),
            ..Self::default()
        }
    }

    pub(crate) fn payload(&self) -> Vec<u8> {
        let mut out = vec![KEXINIT];
        out.raw(&[7; 16]);
        out.string(&self.kex);
        out.string(&self.host_keys);
        for list in [&self.ciphers, &self.macs] {
            out.string(list);
            out.string(list);
        }
        out.string("none");
        out.string(&self.compression);
        out.string("");
        out.string("");
        out.bool(self.guess);
        out.u32(0);
        out
    }
}

/// AES-128-GCM with OpenSSH's nonce.
struct Gcm {
    key: LessSafeKey,
    iv: [u8; 12],
}

impl Gcm {
    fn new(key: &[u8], iv: &[u8]) -> Self {
        Self {
            key: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key).unwrap()),
            iv: iv.try_into().unwrap(),
        }
    }

    fn nonce(&mut self) -> Nonce {
        let nonce = Nonce::assume_unique_for_key(self.iv);
        let counter = u64::from_be_bytes(self.iv[4..].try_into().unwrap());
        self.iv[4..].copy_from_slice(&counter.wrapping_add(1).to_be_bytes());
        nonce
    }
}

/// The keys of both directions, before NEWKEYS.
pub(crate) struct NewKeys {
    seal: Gcm,
    open: Gcm,
}

/// The transport of the server's side.
pub(crate) struct Peer {
    pub(crate) ident: String,
    pub(crate) client_ident: String,
    /// The last KEXINIT of each side.
    pub(crate) server_kexinit: Vec<u8>,
    pub(crate) client_kexinit: Vec<u8>,
    pub(crate) session_id: Vec<u8>,
    pub(crate) key: Ed25519KeyPair,
    /// Compresses payloads to send. `None` before the login.
    pub(crate) deflate: Option<Compress>,
    /// Whether received bytes are discarded: they are sealed with keys that this side never uses.
    pub(crate) ignores_input: bool,
    /// Packets received since the sequence number was last reset.
    pub(crate) received: u32,
    seal: Option<Gcm>,
    open: Option<Gcm>,
    read: Vec<u8>,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            ident: "SSH-2.0-hostile".into(),
            client_ident: String::new(),
            server_kexinit: Vec::new(),
            client_kexinit: Vec::new(),
            session_id: Vec::new(),
            key: Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap(),
            deflate: None,
            ignores_input: false,
            received: 0,
            seal: None,
            open: None,
            read: Vec::new(),
        }
    }
}

impl Peer {
    /// Appends bytes from the client.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        if self.ignores_input {
            return;
        }
        self.read.extend_from_slice(bytes);
    }

    /// Reads the client's identification. `false` if more bytes are needed.
    pub(crate) fn take_ident(&mut self) -> bool {
        let Some(end) = self.read.windows(2).position(|two| two == b"\r\n") else {
            return false;
        };
        let line: Vec<u8> = self.read.drain(..end + 2).take(end).collect();
        self.client_ident = String::from_utf8(line).unwrap();
        true
    }

    /// Returns the next payload. `None` if more bytes are needed.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        let head = self.read.first_chunk::<4>()?;
        let length = u32::from_be_bytes(*head) as usize;
        let tag = if self.open.is_some() { TAG } else { 0 };
        if self.read.len() < 4 + length + tag {
            return None;
        }
        let mut packet: Vec<u8> = self.read.drain(..4 + length + tag).collect();
        if let Some(gcm) = &mut self.open {
            let nonce = gcm.nonce();
            let (head, body) = packet.split_at_mut(4);
            gcm.key
                .open_in_place(nonce, Aad::from(&*head), body)
                .unwrap();
        }
        self.received += 1;
        let padding = usize::from(packet[4]);
        Some(packet[5..4 + length - padding].to_vec())
    }

    /// Makes a correct packet.
    pub(crate) fn packet(&mut self, payload: &[u8]) -> Vec<u8> {
        let packed;
        let payload = match &mut self.deflate {
            Some(deflate) => {
                packed = pack(deflate, payload);
                &packed
            }
            None => payload,
        };
        let sealed = self.seal.is_some();
        let block = if sealed { 16 } else { 8 };
        let head = if sealed { 1 } else { 5 };
        let mut padding = block - (payload.len() + head) % block;
        if padding < 4 {
            padding += block;
        }
        let mut body = vec![u8::try_from(padding).unwrap()];
        body.extend_from_slice(payload);
        body.resize(body.len() + padding, 0);
        self.frame(&body)
    }

    /// Makes a packet of any body: padding length, payload and padding.
    pub(crate) fn frame(&mut self, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let mut packet = length.to_vec();
        packet.extend_from_slice(body);
        if let Some(gcm) = &mut self.seal {
            let nonce = gcm.nonce();
            let sealed = &mut packet[4..];
            let tag = gcm
                .key
                .seal_in_place_separate_tag(nonce, Aad::from(length), sealed)
                .unwrap();
            packet.extend_from_slice(tag.as_ref());
        }
        packet
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.seal.is_some()
    }

    /// Returns the answer to the client's KEX_ECDH_INIT, and the new keys.
    pub(crate) fn reply(&mut self, init: &[u8]) -> (Vec<u8>, NewKeys) {
        let private = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).unwrap();
        let ours = private.compute_public_key().unwrap();
        let theirs = Reader::new(&init[1..]).string().unwrap().to_vec();
        let mut secret = Vec::new();
        agreement::agree_ephemeral(
            private,
            UnparsedPublicKey::new(&X25519, &theirs),
            (),
            |shared| {
                secret.mpint(shared);
                Ok(())
            },
        )
        .unwrap();
        let host_key = self.host_key();
        let mut hashed = Vec::new();
        hashed.string(&self.client_ident);
        hashed.string(&self.ident);
        hashed.string(&self.client_kexinit);
        hashed.string(&self.server_kexinit);
        hashed.string(&host_key);
        hashed.string(&theirs);
        hashed.string(ours.as_ref());
        hashed.raw(&secret);
        let hash = digest(&SHA256, &hashed).as_ref().to_vec();
        if self.session_id.is_empty() {
            self.session_id.clone_from(&hash);
        }
        let mut payload = vec![KEX_REPLY];
        payload.string(&host_key);
        payload.string(ours.as_ref());
        payload.string(self.sign(&hash));
        let key = |letter: u8, length: usize| {
            let input = [&secret[..], &hash, &[letter], &self.session_id].concat();
            digest(&SHA256, &input).as_ref()[..length].to_vec()
        };
        let keys = NewKeys {
            seal: Gcm::new(&key(b'D', 16), &key(b'B', 12)),
            open: Gcm::new(&key(b'C', 16), &key(b'A', 12)),
        };
        (payload, keys)
    }

    pub(crate) fn host_key(&self) -> Vec<u8> {
        let mut blob = Vec::new();
        blob.string("ssh-ed25519");
        blob.string(self.key.public_key());
        blob
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let mut blob = Vec::new();
        blob.string("ssh-ed25519");
        blob.string(self.key.sign(message));
        blob
    }

    /// Puts the new keys in use for both directions.
    pub(crate) fn rekey(&mut self, keys: NewKeys) {
        self.seal = Some(keys.seal);
        self.open = Some(keys.open);
        self.received = 0;
    }

    /// Puts the new keys in use for the server's direction.
    pub(crate) fn rekey_out(&mut self, keys: NewKeys) -> ClientKey {
        self.seal = Some(keys.seal);
        ClientKey(keys.open)
    }

    /// Puts the new keys in use for the client's direction.
    pub(crate) fn rekey_in(&mut self, client_key: ClientKey) {
        self.open = Some(client_key.0);
        self.received = 0;
    }
}

/// The key that opens packets after the client's NEWKEYS.
pub(crate) struct ClientKey(Gcm);

/// A compressor for zlib@openssh.com.
pub(crate) fn compressor() -> Compress {
    Compress::new(Compression::best(), true)
}

fn pack(deflate: &mut Compress, payload: &[u8]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(payload.len() + 1024);
    deflate
        .compress_vec(payload, &mut packed, FlushCompress::Sync)
        .unwrap();
    packed
}

/// Makes a message: its number, then what `fill` writes.
pub(crate) fn message(number: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![number];
    fill(&mut out);
    out
}
