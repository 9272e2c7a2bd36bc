//! An ssh-agent in this process with a FIDO security key in software: it signs as a token does that was touched.
//!
//! Agent protocol: draft-miller-ssh-agent. Signatures: OpenSSH's PROTOCOL.u2f.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use base64ct::{Base64, Encoding as _};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const FAILURE: u8 = 5;
const APPLICATION: &[u8] = b"ssh:";
/// The flag of a signature that says the user has touched the token. sshd requires it by default.
const USER_PRESENT: u8 = 1;
/// The signature counter of the token. Any value is valid, sshd does not check it.
const COUNTER: u32 = 7;

enum SigningKey {
    Ed25519(Ed25519KeyPair),
    Ecdsa(EcdsaKeyPair),
}

struct Key {
    algorithm: &'static str,
    /// The public key in SSH's wire format.
    blob: Vec<u8>,
    signing_key: SigningKey,
}

/// An agent with one security key. It serves its socket until it is dropped.
pub struct SecurityKeyAgent {
    dir: TempDir,
    key: Arc<Key>,
    _serving: JoinSet<()>,
}

impl SecurityKeyAgent {
    /// Starts an agent with a new key of the type `sk-ssh-ed25519@openssh.com`.
    ///
    /// # Errors
    /// If the socket cannot be bound.
    pub fn ed25519() -> Result<Self> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        let pkcs8 = pkcs8.map_err(|_| anyhow!("cannot generate an Ed25519 key"))?;
        let pair =
            Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|error| anyhow!("{error}"))?;
        let algorithm = "sk-ssh-ed25519@openssh.com";
        let mut blob = Vec::new();
        put_string(&mut blob, algorithm.as_bytes());
        put_string(&mut blob, pair.public_key().as_ref());
        put_string(&mut blob, APPLICATION);
        Self::start(algorithm, blob, SigningKey::Ed25519(pair))
    }

    /// Starts an agent with a new key of the type `sk-ecdsa-sha2-nistp256@openssh.com`.
    ///
    /// # Errors
    /// If the socket cannot be bound.
    pub fn ecdsa() -> Result<Self> {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new());
        let pkcs8 = pkcs8.map_err(|_| anyhow!("cannot generate an ECDSA key"))?;
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref());
        let pair = pair.map_err(|error| anyhow!("{error}"))?;
        let algorithm = "sk-ecdsa-sha2-nistp256@openssh.com";
        let mut blob = Vec::new();
        put_string(&mut blob, algorithm.as_bytes());
        put_string(&mut blob, b"nistp256");
        put_string(&mut blob, pair.public_key().as_ref());
        put_string(&mut blob, APPLICATION);
        Self::start(algorithm, blob, SigningKey::Ecdsa(pair))
    }

    fn start(algorithm: &'static str, blob: Vec<u8>, signing_key: SigningKey) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("lab-sk").tempdir()?;
        let key = Arc::new(Key {
            algorithm,
            blob,
            signing_key,
        });
        let listener = UnixListener::bind(dir.path().join("agent"))?;
        let mut serving = JoinSet::new();
        let served = key.clone();
        serving.spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let key = served.clone();
                clients.spawn(async move { drop(serve(stream, &key).await) });
            }
        });
        Ok(Self {
            dir,
            key,
            _serving: serving,
        })
    }

    /// The path of the agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("agent")
    }

    /// The public key as a line of authorized_keys, with a newline.
    pub fn public_key_line(&self) -> String {
        let blob = Base64::encode_string(&self.key.blob);
        format!("{} {blob} lab\n", self.key.algorithm)
    }
}

async fn serve(mut stream: UnixStream, key: &Key) -> Result<()> {
    loop {
        let length = stream.read_u32().await?;
        let mut request = vec![0; usize::try_from(length)?];
        stream.read_exact(&mut request).await?;
        let answer = key.answer(&request).unwrap_or_else(|_| vec![FAILURE]);
        let mut framed = Vec::new();
        put_string(&mut framed, &answer);
        stream.write_all(&framed).await?;
    }
}

impl Key {
    fn answer(&self, request: &[u8]) -> Result<Vec<u8>> {
        let (kind, mut rest) = request.split_first().context("an empty request")?;
        let mut answer = Vec::new();
        match *kind {
            REQUEST_IDENTITIES => {
                answer.push(IDENTITIES_ANSWER);
                answer.extend(1_u32.to_be_bytes());
                put_string(&mut answer, &self.blob);
                put_string(&mut answer, b"token");
            }
            SIGN_REQUEST if take_string(&mut rest)? == self.blob => {
                let signature = self.sign(take_string(&mut rest)?)?;
                answer.push(SIGN_RESPONSE);
                put_string(&mut answer, &signature);
            }
            _ => answer.push(FAILURE),
        }
        Ok(answer)
    }

    /// PROTOCOL.u2f: a token signs the hashes of the application and of the message, with its flags and counter.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let mut signed = digest(&SHA256, APPLICATION).as_ref().to_vec();
        signed.push(USER_PRESENT);
        signed.extend(COUNTER.to_be_bytes());
        signed.extend(digest(&SHA256, message).as_ref());
        let mut signature = Vec::new();
        put_string(&mut signature, self.algorithm.as_bytes());
        match &self.signing_key {
            SigningKey::Ed25519(pair) => put_string(&mut signature, pair.sign(&signed).as_ref()),
            SigningKey::Ecdsa(pair) => {
                let r_and_s = pair.sign(&SystemRandom::new(), &signed);
                let r_and_s = r_and_s.map_err(|_| anyhow!("cannot sign"))?;
                let mut numbers = Vec::new();
                for number in r_and_s.as_ref().chunks(32) {
                    put_string(&mut numbers, &mpint(number));
                }
                put_string(&mut signature, &numbers);
            }
        }
        signature.push(USER_PRESENT);
        signature.extend(COUNTER.to_be_bytes());
        Ok(signature)
    }
}

/// The content of an `mpint` (RFC 4251 §5): no leading zeros, except one byte that keeps the number positive.
fn mpint(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let number = number.get(zeros..).unwrap_or_default();
    let sign = number.first().is_some_and(|first| *first > 0x7f);
    let mut mpint = vec![0; usize::from(sign)];
    mpint.extend(number);
    mpint
}

/// Appends a `string` (RFC 4251 §5).
fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(bytes);
}

/// Takes a `string` (RFC 4251 §5) from the front of `rest`.
fn take_string<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8]> {
    let (length, after) = rest.split_first_chunk().context("no length")?;
    let length = usize::try_from(u32::from_be_bytes(*length))?;
    let bytes = after.get(..length).context("the string is cut off")?;
    *rest = after.get(length..).unwrap_or_default();
    Ok(bytes)
}
