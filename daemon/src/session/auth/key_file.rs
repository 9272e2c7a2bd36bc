//! Private key files (OpenSSH, PEM, PKCS#8, PuTTY) and the certificates beside them: reads and unlocks them.
//! The formats are parsed in `tunneld_keys`.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64ct::{Base64, Encoding as _};
use secrecy::{ExposeSecret as _, SecretString};
use tunneld_proto::status::{PromptField, PromptKind};
use tunneld_proto::text;

use crate::prompt::PromptRequest;
use crate::session::auth::login::SignError;
use crate::session::auth::method::AuthContext;
use crate::session::auth::unlocked_keys::Keep;
use tunneld_keys::private_key;
use tunneld_keys::wire::{self, Certificate};
use tunneld_keys::{DecryptError, PrivateKey};
use tunneld_platform::subprocess;

/// Largest file that is read, in bytes. No key is that long.
const FILE_LIMIT: u64 = 1 << 20;
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// A key file of the configuration.
pub(crate) struct KeyFile {
    path: PathBuf,
    /// The public key. `None` while only the encrypted part of the file holds it.
    public: Option<Vec<u8>>,
    /// `None` if the file holds a public key only, or belongs to a security key.
    private: Option<PrivatePart>,
}

enum PrivatePart {
    /// The text of the encrypted file.
    Encrypted(SecretString),
    Unlocked(Arc<PrivateKey>),
}

/// Why a key is not used, with the remedy. Escaped.
pub(crate) type Note = String;

/// Why a key file or certificate is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FileError {
    /// It cannot be read now; a later dial may be able to.
    Unreadable(Note),
    /// Its content or its mode rules it out until the user changes it.
    Unusable(Note),
}

impl FileError {
    /// The reason, without the distinction.
    pub(crate) fn note(self) -> Note {
        match self {
            Self::Unreadable(note) | Self::Unusable(note) => note,
        }
    }
}

/// How often files that could not be read are tried again while the user is asked.
const READ_AGAIN_INTERVAL: Duration = Duration::from_secs(2);

/// Waits until one of `paths`, which could not be read, can be read. Pending for ever if `paths` is empty.
///
/// # Cancel safety
/// Cancel safe.
pub(crate) async fn readable_again(paths: &[PathBuf]) -> PathBuf {
    if paths.is_empty() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(READ_AGAIN_INTERVAL).await;
        for path in paths {
            let tried = path.clone();
            let tried = tokio::task::spawn_blocking(move || {
                // A file of the wrong mode can be read too: whether it is used is the next dial's decision.
                read_carefully(&tried, Privacy::Anyone).is_ok()
            });
            if tried.await.unwrap_or(false) {
                return path.clone();
            }
        }
    }
}

impl KeyFile {
    /// Reads the file at `path`. `None` if it is missing and not `explicit`: the default files need not exist.
    ///
    /// # Errors
    /// Why the file cannot be used.
    pub(crate) async fn read(path: &Path, explicit: bool) -> Result<Option<Self>, FileError> {
        let path = path.to_owned();
        let read = tokio::task::spawn_blocking(move || read_key(path, explicit)).await;
        read.unwrap_or_else(|_| Err(FileError::Unusable("reading a key file failed".into())))
    }

    /// The path, escaped.
    pub(crate) fn shown(&self) -> String {
        text::escape(&self.path.to_string_lossy())
    }

    /// The public key in the wire format. `None` while only the encrypted part of the file holds it.
    pub(crate) fn public(&self) -> Option<&[u8]> {
        self.public.as_deref()
    }

    /// Where its certificate is, if it has one.
    pub(crate) fn certificate_path(&self) -> PathBuf {
        certificate_path(&self.path)
    }

    /// The certificate that the file is. `None` for a key. As for ssh, a certificate may be named as an identity.
    pub(crate) fn as_certificate(&self) -> Option<&[u8]> {
        let public = self.public()?;
        (!self.can_sign() && certified_key(public).is_some()).then_some(public)
    }

    /// Whether the file holds a private key.
    pub(crate) fn can_sign(&self) -> bool {
        self.private.is_some()
    }

    /// Reads the certificate `PATH-cert.pub`, as ssh does. `None` if there is no such file.
    pub(crate) async fn certificate(&self) -> Option<Result<Vec<u8>, FileError>> {
        let path = self.certificate_path();
        match tokio::fs::try_exists(&path).await {
            Ok(false) => None,
            // Reading it again finds out why it cannot be examined.
            Ok(true) | Err(_) => Some(read_certificate(&path).await),
        }
    }

    /// Returns the private key. An encrypted file is decrypted with the output of passphrase_command, or the passphrase
    /// of the user.
    pub(crate) async fn unlock(
        &mut self,
        context: &AuthContext<'_>,
    ) -> Result<Arc<PrivateKey>, SignError> {
        let encrypted = match &self.private {
            None => {
                let why = format!("{} holds a public key only", self.shown());
                return Err(SignError::Unable(why));
            }
            Some(PrivatePart::Unlocked(key)) => return Ok(Arc::clone(key)),
            Some(PrivatePart::Encrypted(encrypted)) => encrypted.clone(),
        };
        // A derivation of an earlier dial may still run: its result spares the person a second prompt.
        let shown = self.shown();
        let known = context.while_unlocking(&shown, context.unlocked_keys.get(&encrypted));
        let key = match known.await {
            Some(key) => key,
            None => self.decrypt(&encrypted, context).await?,
        };
        self.public = private_key::public_bytes(&key);
        self.private = Some(PrivatePart::Unlocked(Arc::clone(&key)));
        Ok(key)
    }

    async fn decrypt(
        &self,
        encrypted: &SecretString,
        context: &AuthContext<'_>,
    ) -> Result<Arc<PrivateKey>, SignError> {
        let command = &context.auth.passphrase_command;
        let note = match command.is_empty() {
            true => String::new(),
            false => match self.decrypt_by_command(encrypted, command, context).await {
                Ok(key) => return Ok(key),
                // The user may still know the passphrase, and sees in the prompt why the command did not do.
                Err(note) => note,
            },
        };
        self.decrypt_by_user(encrypted, context, note).await
    }

    async fn decrypt_by_command(
        &self,
        encrypted: &SecretString,
        command: &[String],
        context: &AuthContext<'_>,
    ) -> Result<Arc<PrivateKey>, Note> {
        let why = match subprocess::first_line(command).await {
            Ok(passphrase) => match self
                .derive(encrypted, passphrase, Keep::Briefly, context)
                .await
            {
                Ok(key) => return Ok(key),
                Err(why) => why.to_string(),
            },
            Err(why) => why,
        };
        let note = format!("passphrase_command: {why}. ");
        tracing::warn!("key {}: {note}", self.shown());
        Err(note)
    }

    /// Asks the user for the passphrase until it is right, as often as `number_of_password_prompts` allows.
    async fn decrypt_by_user(
        &self,
        encrypted: &SecretString,
        context: &AuthContext<'_>,
        mut note: Note,
    ) -> Result<Arc<PrivateKey>, SignError> {
        let unable = |why: DecryptError| {
            let why = format!("key {}: {why}", self.shown());
            Err(SignError::Unable(why))
        };
        for _ in 0..context.auth.password_prompts.max(1) {
            let request = PromptRequest {
                kind: PromptKind::Passphrase,
                host: context.destination.to_owned(),
                note: std::mem::take(&mut note),
                text: format!(
                    "The key {} needs its passphrase, which stays on this machine.",
                    self.shown()
                ),
                fields: vec![PromptField {
                    label: "Passphrase: ".into(),
                    echo: false,
                }],
                fingerprint: None,
                server: None,
            };
            let answer = context.prompter.ask_one(request).await;
            let passphrase = answer.map_err(|_| SignError::PromptCancelled)?;
            match self
                .derive(encrypted, passphrase, Keep::UntilExit, context)
                .await
            {
                Ok(key) => return Ok(key),
                Err(DecryptError::WrongPassphrase) => note = "The passphrase is wrong. ".into(),
                Err(why @ DecryptError::Unusable(_)) => return unable(why),
            }
        }
        unable(DecryptError::WrongPassphrase)
    }

    async fn derive(
        &self,
        encrypted: &SecretString,
        passphrase: SecretString,
        keep: Keep,
        context: &AuthContext<'_>,
    ) -> Result<Arc<PrivateKey>, DecryptError> {
        let keys = context.unlocked_keys;
        let derivation = keys.unlock(encrypted, passphrase, keep, private_key::decrypt);
        context.while_unlocking(&self.shown(), derivation).await
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    PathBuf::from(path)
}

/// Where ssh looks for the certificate of the key at `path`.
pub(crate) fn certificate_path(path: &Path) -> PathBuf {
    with_suffix(path, "-cert.pub")
}

fn read_key(path: PathBuf, explicit: bool) -> Result<Option<KeyFile>, FileError> {
    let shown = text::escape(&path.to_string_lossy());
    let public_beside = || read_public(&with_suffix(&path, ".pub"));
    let public_only = |public| KeyFile {
        path: path.clone(),
        public: Some(public),
        private: None,
    };
    let read = match read_carefully(&path, Privacy::Anyone) {
        // A public key may be public. The mode of everything else is checked before it is used.
        Ok(content) if public_in(&content).is_none() => read_carefully(&path, Privacy::OwnerOnly),
        read => read,
    };
    let content = match read {
        Ok(content) => content,
        // As for ssh: `KEY.pub` alone names a key that the agent holds.
        Err(ReadError::Missing) => {
            return match public_beside() {
                Some(public) => Ok(Some(public_only(public))),
                None if explicit => Err(missing(&path, format!("key {shown} does not exist"))),
                None => Ok(None),
            };
        }
        Err(ReadError::Forbidden(why)) if !explicit => {
            // The default files belong to whoever owns the home directory, which need not be this user.
            return Err(FileError::Unusable(format!("key {shown} {why}")));
        }
        Err(error) => return Err(error.into_file_error(&format!("key {shown}"))),
    };
    if let Some(public) = public_in(&content) {
        return Ok(Some(public_only(public)));
    }
    let content =
        text_of(content).map_err(|why| FileError::Unusable(format!("key {shown} {why}")))?;
    let found = private_key::inspect(content.expose_secret())
        .map_err(|why| FileError::Unusable(format!("key {shown} cannot be used: {why}")))?;
    let public = found.public.or_else(public_beside);
    let private = match found.key {
        // The file of a security key only refers to the token, which signs through the agent.
        _ if public.as_deref().is_some_and(private_key::is_security_key) => None,
        Some(key) => Some(PrivatePart::Unlocked(Arc::new(key))),
        None => Some(PrivatePart::Encrypted(content)),
    };
    Ok(Some(KeyFile {
        path,
        public,
        private,
    }))
}

/// Returns the text of a file without the byte order mark that editors on Windows write.
fn text_of(mut content: Vec<u8>) -> Result<SecretString, &'static str> {
    if content.starts_with(&[0xff, 0xfe]) || content.starts_with(&[0xfe, 0xff]) {
        return Err("is UTF-16: save it as UTF-8 or ASCII");
    }
    if content.starts_with(BYTE_ORDER_MARK) {
        content.drain(..BYTE_ORDER_MARK.len());
    }
    String::from_utf8(content)
        .map(SecretString::from)
        .map_err(|_| "is not a private key in any known format")
}

/// Why a file was not read. The texts complete a sentence that begins with the path.
enum ReadError {
    Missing,
    /// The system denies the access (EACCES).
    Forbidden(String),
    /// Another error of the system, or something else is in the file's place.
    Unreadable(String),
    /// The file's size or mode rules it out.
    Unusable(String),
}

impl ReadError {
    /// `what` names the file.
    fn into_file_error(self, what: &str) -> FileError {
        match self {
            Self::Missing => FileError::Unusable(format!("{what} does not exist")),
            Self::Forbidden(why) | Self::Unreadable(why) => {
                FileError::Unreadable(format!("{what} {why}"))
            }
            Self::Unusable(why) => FileError::Unusable(format!("{what} {why}")),
        }
    }
}

/// The error for a missing file. Without its folder it counts as unreadable: the home directory may not be mounted yet.
fn missing(path: &Path, note: Note) -> FileError {
    match path.parent().map(Path::try_exists) {
        Some(Ok(false) | Err(_)) => FileError::Unreadable(note),
        Some(Ok(true)) | None => FileError::Unusable(note),
    }
}

/// Who may be able to read a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Privacy {
    /// Others are refused, as ssh does for private keys.
    OwnerOnly,
    Anyone,
}

/// Reads a small regular file.
fn read_carefully(path: &Path, privacy: Privacy) -> Result<Vec<u8>, ReadError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => ReadError::Missing,
        io::ErrorKind::PermissionDenied => ReadError::Forbidden(format!("cannot be read: {error}")),
        _ => ReadError::Unreadable(format!("cannot be read: {error}")),
    };
    // Checked before it is opened: opening a FIFO would wait for a writer.
    let found = std::fs::metadata(path).map_err(failed)?;
    if !found.is_file() {
        return Err(ReadError::Unreadable("is not a regular file".into()));
    }
    // Missing only now: the file is being replaced, and the next dial finds the new one.
    let file = File::open(path).map_err(|error| match failed(error) {
        ReadError::Missing => ReadError::Unreadable("was removed while it was read".into()),
        error => error,
    })?;
    // And again on the open file, which may have been replaced meanwhile.
    let found = file.metadata().map_err(failed)?;
    if found.len() > FILE_LIMIT {
        let why = "is larger than 1 MiB, which no key is";
        return Err(ReadError::Unusable(why.into()));
    }
    if privacy == Privacy::OwnerOnly {
        check_mode(&found, path).map_err(ReadError::Unusable)?;
    }
    let mut content = Vec::with_capacity(usize::try_from(found.len()).unwrap_or_default());
    // The file may grow while it is read.
    file.take(FILE_LIMIT)
        .read_to_end(&mut content)
        .map_err(failed)?;
    Ok(content)
}

/// As in ssh, only the mode of files that the user owns is checked.
#[cfg(unix)]
fn check_mode(found: &std::fs::Metadata, path: &Path) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt as _;
    let mode = found.mode() & 0o777;
    if found.uid() == rustix::process::geteuid().as_raw() && mode & 0o077 != 0 {
        return Err(format!(
            "is not used because others can read it (mode {mode:04o}): chmod 600 {}",
            text::escape(&path.to_string_lossy())
        ));
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_mode(_found: &std::fs::Metadata, _path: &Path) -> Result<(), String> {
    Ok(())
}

/// The public key in the file at `path`. `None` if it cannot be read or holds none.
fn read_public(path: &Path) -> Option<Vec<u8>> {
    read_carefully(path, Privacy::Anyone)
        .ok()
        .and_then(|content| public_in(&content))
}

/// The key of the first line that is not a comment: `TYPE BASE64 COMMENT`. `None` if that is not a public key.
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

/// Reads a user certificate, in the wire format.
///
/// # Errors
/// It cannot be read, or is not valid now.
pub(crate) async fn read_certificate(path: &Path) -> Result<Vec<u8>, FileError> {
    let shown = text::escape(&path.to_string_lossy());
    let tried = path.to_owned();
    let path = path.to_owned();
    let content = tokio::task::spawn_blocking(move || read_carefully(&path, Privacy::Anyone)).await;
    let unusable = |why: String| FileError::Unusable(why);
    let content = match content {
        Ok(Ok(content)) => content,
        Ok(Err(ReadError::Missing)) => {
            return Err(missing(
                &tried,
                format!("certificate {shown} does not exist"),
            ));
        }
        Ok(Err(error)) => return Err(error.into_file_error(&format!("certificate {shown}"))),
        Err(_) => return Err(unusable(format!("reading the certificate {shown} failed"))),
    };
    let not_a_certificate = || unusable(format!("{shown} is not a certificate"));
    let blob = public_in(&content).ok_or_else(not_a_certificate)?;
    let certificate = Certificate::read(&blob).ok_or_else(not_a_certificate)?;
    // Checked here and not left to the server: each offer counts as an attempt there.
    let now = jiff::Timestamp::now().as_second();
    // A limit beyond what i64 holds means that the certificate never expires (OpenSSH PROTOCOL.certkeys).
    let has_passed = |limit: u64| i64::try_from(limit).is_ok_and(|limit| now >= limit);
    if has_passed(certificate.valid_before) {
        return Err(unusable(format!(
            "certificate {shown} has expired: get a new one"
        )));
    }
    if !has_passed(certificate.valid_after) {
        return Err(unusable(format!("certificate {shown} is not valid yet")));
    }
    Ok(blob)
}

/// The plain key in a certificate. `None` if `certificate` is not one.
pub(crate) fn certified_key(certificate: &[u8]) -> Option<Vec<u8>> {
    Certificate::read(certificate).map(|certificate| certificate.key)
}

#[cfg(test)]
mod tests;
