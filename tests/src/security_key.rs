//! An ssh-agent in this process that holds security keys made of software: it signs as a touched FIDO token does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use base64ct::{Base64, Encoding as _};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
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
/// Somebody touched the token.
const USER_PRESENT: u8 = 1;
const COUNTER: u32 = 7;

enum Secret {
    Ed25519(Ed25519KeyPair),
    Ecdsa(EcdsaKeyPair),
}

struct Key {
    algorithm: &'static str,
    blob: Vec<u8>,
    secret: Secret,
}

/// An agent with one security key.
pub struct SecurityKey {
    dir: TempDir,
    key: Arc<Key>,
    _serving: JoinSet<()>,
}

impl SecurityKey {
    /// A key of the type `sk-ssh-ed25519@openssh.com`.
    ///
    /// # Errors
    /// Where no socket can be bound.
    pub fn ed25519() -> Result<Self> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        let pkcs8 = pkcs8.map_err(|_| anyhow!("no Ed25519 key"))?;
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|why| anyhow!("{why}"))?;
        let algorithm = "sk-ssh-ed25519@openssh.com";
        let mut blob = Vec::new();
        put(&mut blob, algorithm.as_bytes());
        put(&mut blob, pair.public_key().as_ref());
        put(&mut blob, APPLICATION);
        Self::start(algorithm, blob, Secret::Ed25519(pair))
    }

    /// A key of the type `sk-ecdsa-sha2-nistp256@openssh.com`.
    ///
    /// # Errors
    /// Where no socket can be bound.
    pub fn ecdsa() -> Result<Self> {
        let (how, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(how, &random);
        let pkcs8 = pkcs8.map_err(|_| anyhow!("no ECDSA key"))?;
        let pair = EcdsaKeyPair::from_pkcs8(how, pkcs8.as_ref(), &random);
        let pair = pair.map_err(|why| anyhow!("{why}"))?;
        let algorithm = "sk-ecdsa-sha2-nistp256@openssh.com";
        let mut blob = Vec::new();
        put(&mut blob, algorithm.as_bytes());
        put(&mut blob, b"nistp256");
        put(&mut blob, pair.public_key().as_ref());
        put(&mut blob, APPLICATION);
        Self::start(algorithm, blob, Secret::Ecdsa(pair))
    }

    fn start(algorithm: &'static str, blob: Vec<u8>, secret: Secret) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("lab-sk").tempdir()?;
        let key = Arc::new(Key {
            algorithm,
            blob,
            secret,
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

    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("agent")
    }

    /// The public key, a line for authorized_keys.
    pub fn public(&self) -> String {
        let blob = Base64::encode_string(&self.key.blob);
        format!("{} {blob} lab\n", self.key.algorithm)
    }

    /// Writes the public key to `path`.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        Ok(std::fs::write(path, self.public())?)
    }
}

async fn serve(mut stream: UnixStream, key: &Key) -> Result<()> {
    loop {
        let length = stream.read_u32().await?;
        let mut request = vec![0; usize::try_from(length)?];
        stream.read_exact(&mut request).await?;
        let answer = key.answer(&request).unwrap_or_else(|_| vec![FAILURE]);
        let mut framed = Vec::new();
        put(&mut framed, &answer);
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
                put(&mut answer, &self.blob);
                put(&mut answer, b"token");
            }
            SIGN_REQUEST if take(&mut rest)? == self.blob => {
                let signature = self.sign(take(&mut rest)?)?;
                answer.push(SIGN_RESPONSE);
                put(&mut answer, &signature);
            }
            _ => answer.push(FAILURE),
        }
        Ok(answer)
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let mut signed = digest(&SHA256, APPLICATION).as_ref().to_vec();
        signed.push(USER_PRESENT);
        signed.extend(COUNTER.to_be_bytes());
        signed.extend(digest(&SHA256, message).as_ref());
        let mut signature = Vec::new();
        put(&mut signature, self.algorithm.as_bytes());
        match &self.secret {
            Secret::Ed25519(pair) => put(&mut signature, pair.sign(&signed).as_ref()),
            Secret::Ecdsa(pair) => {
                let both = pair.sign(&SystemRandom::new(), &signed);
                let both = both.map_err(|_| anyhow!("no signature"))?;
                let mut numbers = Vec::new();
                for number in both.as_ref().chunks(32) {
                    put(&mut numbers, &mpint(number));
                }
                put(&mut signature, &numbers);
            }
        }
        signature.push(USER_PRESENT);
        signature.extend(COUNTER.to_be_bytes());
        Ok(signature)
    }
}

fn mpint(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let number = number.get(zeros..).unwrap_or_default();
    let sign = number.first().is_some_and(|first| *first > 0x7f);
    let mut mpint = vec![0; usize::from(sign)];
    mpint.extend(number);
    mpint
}

fn put(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(text);
}

fn take<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8]> {
    let (length, after) = rest.split_first_chunk().context("a length")?;
    let length = usize::try_from(u32::from_be_bytes(*length))?;
    let text = after.get(..length).context("a string")?;
    *rest = after.get(length..).unwrap_or_default();
    Ok(text)
}
