//! Key files: read with ssh's care, unlocked when they are really needed, those that a person unlocked are kept for
//! the daemon's life, so that a reconnect at night asks nobody. OpenSSH, PEM, PKCS#8 and PuTTY's formats; certificates beside them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use aws_lc_rs::digest;
use base64ct::{Base64, Encoding as _};
use secrecy::{ExposeSecret as _, SecretString};
use tunneld_proto::status::{PromptField, PromptKind};
use tunneld_proto::text;

use crate::prompt::PromptRequest;
use crate::session::auth::login::SignError;
use crate::session::deadline::Prompter;
use tunneld_config::model::Auth;
use tunneld_keys::private_key;
use tunneld_keys::wire::{self, Certificate};
use tunneld_keys::{DecryptError, PrivateKey};
use tunneld_platform::subprocess as command;

/// No key is longer; what is, is no key.
const FILE_LIMIT: u64 = 1 << 20;
const BOM: &[u8] = "\u{feff}".as_bytes();

/// A key file.
pub(crate) struct KeyFile {
    path: PathBuf,
    /// The public key, where it can be had without a passphrase.
    public: Option<Vec<u8>>,
    secret: Option<Secret>,
}

enum Secret {
    Locked(SecretString),
    Open(Arc<PrivateKey>),
}

/// Why a key file is not used, with the remedy.
pub(crate) type Note = String;

impl KeyFile {
    /// Reads the file at `path`; none where it is missing and nobody asked for it.
    pub(crate) async fn read(path: &Path, asked_for: bool) -> Result<Option<Self>, Note> {
        let path = path.to_owned();
        let read = tokio::task::spawn_blocking(move || read_key(path, asked_for)).await;
        read.unwrap_or_else(|_| Err("reading a key file failed".into()))
    }

    /// The path, escaped.
    pub(crate) fn shown(&self) -> String {
        text::escape(&self.path.to_string_lossy())
    }

    /// The public key, where it is known.
    pub(crate) fn public(&self) -> Option<&[u8]> {
        self.public.as_deref()
    }

    /// Whether the file holds a private key, and not a public one alone.
    pub(crate) fn can_sign(&self) -> bool {
        self.secret.is_some()
    }

    /// The certificate beside the file.
    pub(crate) async fn certificate(&self) -> Option<Result<Vec<u8>, Note>> {
        let mut path = self.path.clone().into_os_string();
        path.push("-cert.pub");
        let path = PathBuf::from(path);
        match tokio::fs::try_exists(&path).await {
            Ok(true) => Some(read_certificate(&path).await),
            _ => None,
        }
    }

    /// Opens the key: with the passphrase of `passphrase_command`, or of a person.
    pub(crate) async fn unlock(
        &mut self,
        auth: &Auth,
        desk: &Prompter,
        host: &str,
    ) -> Result<Arc<PrivateKey>, SignError> {
        let sealed = match &self.secret {
            None => {
                let why = format!("{} holds a public key alone", self.shown());
                return Err(SignError::Unable(why));
            }
            Some(Secret::Open(key)) => return Ok(Arc::clone(key)),
            Some(Secret::Locked(sealed)) => sealed.clone(),
        };
        let key = match remembered(&sealed) {
            Some(key) => key,
            None => self.ask_for_key(&sealed, auth, desk, host).await?,
        };
        self.public = private_key::public_bytes(&key);
        self.secret = Some(Secret::Open(Arc::clone(&key)));
        Ok(key)
    }

    async fn ask_for_key(
        &self,
        sealed: &SecretString,
        auth: &Auth,
        desk: &Prompter,
        host: &str,
    ) -> Result<Arc<PrivateKey>, SignError> {
        let mut trouble = String::new();
        if !auth.passphrase_command.is_empty() {
            match command::first_line(&auth.passphrase_command).await {
                Ok(passphrase) => match open(sealed, passphrase).await {
                    Ok(key) => return Ok(key),
                    Err(why) => trouble = format!("passphrase_command: {why}. "),
                },
                Err(why) => trouble = format!("passphrase_command: {why}. "),
            }
            tracing::warn!("key {}: {trouble}", self.shown());
        }
        for _ in 0..auth.password_prompts.max(1) {
            let question = PromptRequest {
                kind: PromptKind::Passphrase,
                host: host.to_owned(),
                note: std::mem::take(&mut trouble),
                text: format!("The key {} needs its passphrase.", self.shown()),
                fields: vec![PromptField {
                    label: "Passphrase: ".into(),
                    echo: false,
                }],
                fingerprint: None,
            };
            let passphrase = desk
                .ask_one(question)
                .await
                .map_err(|_| SignError::PromptCancelled)?;
            match open(sealed, passphrase).await {
                Ok(key) => {
                    remember(sealed, &key);
                    return Ok(key);
                }
                Err(DecryptError::WrongPassphrase) => trouble = "The passphrase is wrong. ".into(),
                Err(DecryptError::Unusable(why)) => {
                    let why = format!("key {}: {why}", self.shown());
                    return Err(SignError::Unable(why));
                }
            }
        }
        let why = format!("key {}: {}", self.shown(), DecryptError::WrongPassphrase);
        Err(SignError::Unable(why))
    }
}

/// Decrypts off the runtime: bcrypt and argon2 take their time.
async fn open(
    sealed: &SecretString,
    passphrase: SecretString,
) -> Result<Arc<PrivateKey>, DecryptError> {
    let sealed = sealed.clone();
    let opened = tokio::task::spawn_blocking(move || {
        private_key::decrypt(sealed.expose_secret(), passphrase.expose_secret()).map(Arc::new)
    });
    let broken = |_| Err(DecryptError::Unusable("unlocking it broke off".into()));
    opened.await.unwrap_or_else(broken)
}

type Memory = Mutex<HashMap<[u8; 32], Arc<PrivateKey>>>;

/// Keys that a person unlocked, by the digest of their file; a command can be asked again. The lock is never held across an await.
fn memory() -> &'static Memory {
    static MEMORY: OnceLock<Memory> = OnceLock::new();
    MEMORY.get_or_init(Memory::default)
}

fn digest_of(sealed: &SecretString) -> Option<[u8; 32]> {
    let digest = digest::digest(&digest::SHA256, sealed.expose_secret().as_bytes());
    digest.as_ref().try_into().ok()
}

fn remembered(sealed: &SecretString) -> Option<Arc<PrivateKey>> {
    let memory = memory().lock().unwrap_or_else(PoisonError::into_inner);
    memory.get(&digest_of(sealed)?).cloned()
}

fn remember(sealed: &SecretString, key: &Arc<PrivateKey>) {
    if let Some(digest) = digest_of(sealed) {
        let mut memory = memory().lock().unwrap_or_else(PoisonError::into_inner);
        memory.insert(digest, Arc::clone(key));
    }
}

fn read_key(path: PathBuf, asked_for: bool) -> Result<Option<KeyFile>, Note> {
    let shown = text::escape(&path.to_string_lossy());
    let beside = || {
        let mut public = path.clone().into_os_string();
        public.push(".pub");
        read_public(Path::new(&public))
    };
    let content = match read_carefully(&path, true) {
        Ok(content) => content,
        Err(Unread::Missing) => {
            return match beside() {
                Some(public) => Ok(Some(KeyFile {
                    path,
                    public: Some(public),
                    secret: None,
                })),
                None if asked_for => Err(format!("key {shown} does not exist")),
                None => Ok(None),
            };
        }
        Err(Unread::Why(why)) => return Err(format!("key {shown} {why}")),
    };
    if let Some(public) = public_in(&content) {
        return Ok(Some(KeyFile {
            path,
            public: Some(public),
            secret: None,
        }));
    }
    let sealed = text_of(content).map_err(|why| format!("key {shown} {why}"))?;
    let found = private_key::inspect(sealed.expose_secret())
        .map_err(|why| format!("key {shown} cannot be used: {why}"))?;
    let public = found.public.or_else(beside);
    let secret = match found.key {
        _ if public.as_deref().is_some_and(private_key::is_security_key) => None,
        Some(key) => Some(Secret::Open(Arc::new(key))),
        None => Some(Secret::Locked(sealed)),
    };
    Ok(Some(KeyFile {
        path,
        public,
        secret,
    }))
}

/// The text of a file, without the mark that Windows' editors put before it.
fn text_of(mut content: Vec<u8>) -> Result<SecretString, &'static str> {
    if content.starts_with(&[0xff, 0xfe]) || content.starts_with(&[0xfe, 0xff]) {
        return Err("is written in UTF-16: save it as UTF-8 or ASCII");
    }
    if content.starts_with(BOM) {
        content.drain(..BOM.len());
    }
    String::from_utf8(content)
        .map(SecretString::from)
        .map_err(|_| "is no private key in any known format")
}

enum Unread {
    Missing,
    Why(String),
}

/// Reads a small regular file; a private one is refused where others could read it.
fn read_carefully(path: &Path, private: bool) -> Result<Vec<u8>, Unread> {
    let why = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Unread::Missing,
        _ => Unread::Why(format!("cannot be read: {error}")),
    };
    // Looked at before it is opened: opening a FIFO would wait for its writer.
    let found = std::fs::metadata(path).map_err(why)?;
    if !found.is_file() {
        return Err(Unread::Why("is no regular file".into()));
    }
    let file = File::open(path).map_err(why)?;
    let found = file.metadata().map_err(why)?;
    if found.len() > FILE_LIMIT {
        return Err(Unread::Why("is larger than 1 MiB, which no key is".into()));
    }
    if private {
        check_mode(&found).map_err(Unread::Why)?;
    }
    let mut content = Vec::with_capacity(usize::try_from(found.len()).unwrap_or_default());
    file.take(FILE_LIMIT)
        .read_to_end(&mut content)
        .map_err(why)?;
    Ok(content)
}

#[cfg(unix)]
fn check_mode(found: &std::fs::Metadata) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt as _;
    let mode = found.mode() & 0o777;
    if found.uid() == rustix::process::geteuid().as_raw() && mode & 0o077 != 0 {
        return Err(format!(
            "is not used because others can read it (mode {mode:04o}): chmod 600 it"
        ));
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_mode(_found: &std::fs::Metadata) -> Result<(), String> {
    Ok(())
}

/// The public key in the file at `path`, where there is one.
fn read_public(path: &Path) -> Option<Vec<u8>> {
    read_carefully(path, false)
        .ok()
        .and_then(|content| public_in(&content))
}

fn public_in(content: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(content).ok()?;
    let line = text
        .trim_start_matches('\u{feff}')
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let mut fields = line.split_ascii_whitespace();
    let (kind, key) = (fields.next()?, fields.next()?);
    let key = Base64::decode_vec(key).ok()?;
    (wire::name(&key) == Some(kind)).then_some(key)
}

/// Reads a certificate for a user, as it goes on the wire.
pub(crate) async fn read_certificate(path: &Path) -> Result<Vec<u8>, Note> {
    let shown = text::escape(&path.to_string_lossy());
    let path = path.to_owned();
    let content = tokio::task::spawn_blocking(move || read_carefully(&path, false)).await;
    let content = match content {
        Ok(Ok(content)) => content,
        Ok(Err(Unread::Missing)) => return Err(format!("certificate {shown} does not exist")),
        Ok(Err(Unread::Why(why))) => return Err(format!("certificate {shown} {why}")),
        Err(_) => return Err(format!("reading the certificate {shown} failed")),
    };
    let blob = public_in(&content).ok_or_else(|| format!("{shown} is no certificate"))?;
    let certificate =
        Certificate::read(&blob).ok_or_else(|| format!("{shown} is no certificate"))?;
    let now = jiff::Timestamp::now().as_second();
    let after = |limit: u64| i64::try_from(limit).is_ok_and(|limit| now >= limit);
    if after(certificate.valid_before) {
        return Err(format!("certificate {shown} has expired: get a new one"));
    }
    if !after(certificate.valid_after) {
        return Err(format!("certificate {shown} is not valid yet"));
    }
    Ok(blob)
}

/// The plain key that a certificate certifies.
pub(crate) fn certified_key(certificate: &[u8]) -> Option<Vec<u8>> {
    Certificate::read(certificate).map(|certificate| certificate.key)
}

#[cfg(test)]
mod tests;
