//! The known_hosts and RevokedHostKeys files on disk. Reads them whole; adds keys by replacing the file, so that a full
//! disk leaves the old one intact. What the lines mean is decided in `tunneld_keys`.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Mutex;
use tunneld_platform::fs;

use crate::failure::{Failure, FailureKind};
use tunneld_config::model::HostKeys;
use tunneld_keys::known_hosts::presented::{CertifiedBy, Presented};
use tunneld_keys::known_hosts::revoked;
use tunneld_keys::known_hosts::{self, KnownHost, Name, Source};
use tunneld_keys::wire;
use tunneld_proto::text;

/// Largest file that is read, in bytes. A larger one would block a thread for long at each dial.
const FILE_LIMIT: u64 = 64 << 20;

/// How ssh_config(5) writes "no file"; it is neither read nor replaced.
const NO_FILE: &str = "/dev/null";

/// Host keys that are kept for one host. A server can prove any number of keys, new ones at each login, and the file must
/// not grow without an end; servers have about five.
pub(crate) const KEYS_PER_HOST: usize = 32;

/// Adds host keys to known_hosts files. Clones share a lock, so that two sessions with one host do not both add its key.
#[derive(Clone, Default)]
pub(crate) struct KnownHostsWriter(Arc<Mutex<()>>);

/// Looks `name` up in the files, and in `command_output`, the lines of a KnownHostsCommand. A missing file counts as
/// empty.
///
/// # Errors
/// A file cannot be read: a key in it may be revoked or changed, so no host key can be trusted. `Unreadable` unless the
/// cause lies in the file itself.
pub(crate) async fn look_up(
    host_keys: &HostKeys,
    name: &Name,
    command_output: Option<Vec<u8>>,
) -> Result<KnownHost, Failure> {
    let paths: Vec<PathBuf> = host_keys
        .user_files
        .iter()
        .chain(&host_keys.global_files)
        .cloned()
        .collect();
    let name = name.clone();
    off_runtime(move || {
        let mut files = Vec::new();
        for path in &paths {
            files.push((path.to_string_lossy().into_owned(), read(path)?));
        }
        files.extend(command_output.map(|output| ("KnownHostsCommand".to_owned(), output)));
        let sources: Vec<Source<'_>> = files
            .iter()
            .map(|(file, text)| Source { file, text })
            .collect();
        Ok(KnownHost::look_up(&sources, &name))
    })
    .await
}

/// Returns the RevokedHostKeys file that revokes the server's key or certificate. `None` if no file does.
///
/// # Errors
/// A file is missing or cannot be read.
pub(crate) async fn revoked_by(
    host_keys: &HostKeys,
    plain: &[u8],
    certificate: Option<(wire::Certificate, Vec<u8>)>,
) -> Result<Option<String>, Failure> {
    if host_keys.revoked_files.is_empty() {
        return Ok(None);
    }
    let paths = host_keys.revoked_files.clone();
    let plain = plain.to_vec();
    off_runtime(move || {
        let presented = Presented {
            plain: &plain,
            certified: certificate
                .as_ref()
                .map(|(certificate, authority)| CertifiedBy {
                    authority,
                    serial: certificate.serial,
                    key_id: &certificate.key_id,
                }),
        };
        for path in &paths {
            if file_revokes(path, &presented)? {
                return Ok(Some(path.to_string_lossy().into_owned()));
            }
        }
        Ok(None)
    })
    .await
}

fn file_revokes(path: &Path, presented: &Presented<'_>) -> Result<bool, Failure> {
    // As in ssh: a list of revocations that cannot be read revokes every key.
    match path.try_exists() {
        Ok(true) => {}
        Ok(false) => return Err(unreadable(path, "it does not exist")),
        Err(error) => return Err(unreadable(path, &error.to_string())),
    }
    revoked::revokes(&read(path)?, presented).map_err(|why| unusable(path, &why))
}

impl KnownHostsWriter {
    /// Adds `keys` as host keys of `name` to the first user file, with one write. Those that the file lists already are
    /// left out, and so is what exceeds [`KEYS_PER_HOST`].
    ///
    /// # Errors
    /// There is no user file, or it cannot be written.
    pub(crate) async fn add(
        &self,
        host_keys: &HostKeys,
        name: &Name,
        keys: &[Vec<u8>],
    ) -> Result<(), Failure> {
        let Some(path) = host_keys.user_files.first().cloned() else {
            return Err(Failure::new(
                FailureKind::KnownHosts,
                "no user_known_hosts_file is set to write the new host key to",
            )
            .hint("set user_known_hosts_file, or add the key to a global file"));
        };
        let mut lines = Vec::new();
        for key in keys {
            let salt = host_keys.hash.then(rand::random::<[u8; 20]>);
            let line = known_hosts::new_line(name, key, salt).ok_or_else(|| {
                Failure::new(
                    FailureKind::Protocol,
                    "the type of the server's host key cannot be written to known_hosts",
                )
            })?;
            lines.push((key.clone(), line));
        }
        let name = name.clone();
        let _writer = self.0.lock().await;
        off_runtime(move || add_lines(&path, &name, &lines)).await
    }
}

fn add_lines(path: &Path, name: &Name, lines: &[(Vec<u8>, String)]) -> Result<(), Failure> {
    let path = target_of(path);
    if path == Path::new(NO_FILE) {
        return Ok(());
    }
    // Read again under the lock: another session with the same host may have added the key.
    let old = read(&path)?;
    let file = path.to_string_lossy();
    let source = Source {
        file: &file,
        text: &old,
    };
    let known = KnownHost::look_up(&[source], name);
    let left = KEYS_PER_HOST.saturating_sub(known.key_count());
    let new: String = lines
        .iter()
        .filter(|(key, _)| !known.lists(key))
        .take(left)
        .map(|(_, line)| line.as_str())
        .collect();
    if new.is_empty() {
        return Ok(());
    }
    write(&path, &old, &new).map_err(|error| {
        Failure::new(
            FailureKind::KnownHosts,
            format!(
                "writing the new host key to {}: {error}",
                text::escape(&file)
            ),
        )
        .hint("make the file writable, or set another user_known_hosts_file")
    })
}

/// The file to write: a link stays a link, also one whose target does not exist yet.
fn target_of(path: &Path) -> PathBuf {
    if let Ok(target) = std::fs::canonicalize(path) {
        return target;
    }
    match std::fs::read_link(path) {
        // Relative to the folder of the link; an absolute target replaces it.
        Ok(target) => path.parent().unwrap_or(path).join(target),
        Err(_) => path.to_owned(),
    }
}

/// Appends the lines: what ssh and other programs append meanwhile stays. Only a file that is missing is made. One that
/// this user may not write is left alone, as ssh does: somebody has protected it.
fn write(path: &Path, old: &[u8], lines: &str) -> io::Result<()> {
    append(path, old, lines).or_else(|why| match why.kind() {
        // What is written replaces nothing that another program could have written since.
        io::ErrorKind::NotFound if read_same(path, old) => replace(path, old, lines),
        _ => Err(why),
    })
}

/// Returns whether the file still has the contents `old`.
fn read_same(path: &Path, old: &[u8]) -> bool {
    match std::fs::read(path) {
        Ok(now) => now == old,
        Err(error) => error.kind() == io::ErrorKind::NotFound && old.is_empty(),
    }
}

fn replace(path: &Path, old: &[u8], line: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_private_dir(folder)?;
    }
    let mut contents = old.to_vec();
    if !ends_with_newline(old) {
        contents.push(b'\n');
    }
    contents.extend_from_slice(line.as_bytes());
    fs::replace(path, &contents)
}

fn append(path: &Path, old: &[u8], line: &str) -> io::Result<()> {
    let mut file = std::fs::File::options().append(true).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let separator = if ends_with_newline(old) { "" } else { "\n" };
    let text = format!("{separator}{line}");
    let before = file.metadata()?.len();
    // In one write, so that the lines of two processes do not mix.
    let written = file.write(text.as_bytes())?;
    if written < text.len() {
        // The disk is full. The partial line is removed, unless another process has written after it.
        if file.metadata()?.len() == before + written as u64 {
            file.set_len(before)?;
        }
        return Err(no_space());
    }
    file.sync_all()
}

/// The system's own error for a write that was cut short by a full disk.
fn no_space() -> io::Error {
    #[cfg(unix)]
    return rustix::io::Errno::NOSPC.into();
    #[cfg(not(unix))]
    return io::ErrorKind::StorageFull.into();
}

fn ends_with_newline(text: &[u8]) -> bool {
    text.last().is_none_or(|last| *last == b'\n')
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let found = match std::fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(path, &error.to_string())),
    };
    if path == Path::new(NO_FILE) {
        return Ok(Vec::new());
    }
    if !found.is_file() {
        return Err(unreadable(path, "it is not a regular file"));
    }
    if found.len() > FILE_LIMIT {
        return Err(unusable(path, "it is larger than 64 MiB"));
    }
    std::fs::read(path).map_err(|error| unreadable(path, &error.to_string()))
}

/// The failure for a file that cannot be read now. Retried: the cause may pass without the user (EMFILE, EIO, ESTALE, a
/// home directory that is mounted late).
fn unreadable(path: &Path, why: &str) -> Failure {
    Failure::new(
        FailureKind::Unreadable,
        format!("reading {}: {why}", text::escape(&path.to_string_lossy())),
    )
    .hint("without it no host key can be trusted; tunneld tries again. If the cause stays, fix the file or its mode")
}

/// The failure for a file whose content rules it out until the user changes it.
fn unusable(path: &Path, why: &str) -> Failure {
    Failure::new(
        FailureKind::KnownHosts,
        format!("reading {}: {why}", text::escape(&path.to_string_lossy())),
    )
    .hint("without it no host key can be trusted: fix the file")
}

/// Runs file operations on a thread of their own: a home directory on the network may be slow.
async fn off_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        Err(Failure::new(
            FailureKind::Internal,
            "a bug in tunneld: reading known_hosts panicked",
        ))
    })
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use base64ct::{Base64, Encoding as _};
    use std::os::unix::fs::PermissionsExt as _;
    use tunneld_config::model::{HostKeyChecking, UpdateHostKeys};
    use tunneld_keys::known_hosts::HostKeyStatus;

    fn host_keys(file: &Path, hash: bool) -> HostKeys {
        HostKeys {
            checking: HostKeyChecking::AcceptNew,
            user_files: vec![file.to_owned()],
            global_files: Vec::new(),
            revoked_files: Vec::new(),
            command: None,
            alias: None,
            hash,
            update: UpdateHostKeys::Never,
            algorithms: Vec::new(),
            min_rsa_bits: None,
        }
    }

    fn key(seed: u8) -> Vec<u8> {
        let mut key = b"\0\0\0\x0bssh-ed25519\0\0\0\x20".to_vec();
        key.extend([seed; 32]);
        key
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_new_file_is_private_and_an_old_one_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ssh/known_hosts");
        let name = Name::new("h", 22);
        for hash in [false, true] {
            let host_keys = host_keys(&file, hash);
            KnownHostsWriter::default()
                .add(&host_keys, &name, &[key(1)])
                .await
                .unwrap();
            assert_eq!(
                look_up(&host_keys, &name, None)
                    .await
                    .unwrap()
                    .judge(&key(1)),
                HostKeyStatus::Known
            );
        }
        assert_eq!((mode(&file), mode(&dir.path().join("ssh"))), (0o600, 0o700));
        assert_eq!(
            std::fs::read_to_string(&file).unwrap().lines().count(),
            1,
            "the second key is listed already"
        );

        std::fs::write(&file, "# no end of line").unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        KnownHostsWriter::default()
            .add(&host_keys(&link, true), &name, &[key(2)])
            .await
            .unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("# no end of line\n|1|"), "{text}");
        assert_eq!(mode(&file), 0o644);
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(
            std::fs::read_dir(file.parent().unwrap()).unwrap().count(),
            1
        );
    }

    #[tokio::test]
    async fn lines_that_another_program_appends_meanwhile_stay() {
        use std::io::Write as _;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("known_hosts");
        std::fs::write(&file, "").unwrap();
        let other = file.clone();
        let appended = tokio::task::spawn_blocking(move || {
            // As ssh does: it opens the file anew for each line.
            for number in 0..500 {
                let mut file = std::fs::File::options().append(true).open(&other).unwrap();
                file.write_all(format!("# line {number}\n").as_bytes())
                    .unwrap();
            }
        });
        let writer = KnownHostsWriter::default();
        for host in 0..100 {
            let name = Name::new(&format!("h{host}"), 22);
            let host_keys = host_keys(&file, false);
            writer.add(&host_keys, &name, &[key(1)]).await.unwrap();
        }
        appended.await.unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        let count = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!((count("# line "), count("h")), (500, 100));
    }

    #[tokio::test]
    async fn a_host_gets_a_bounded_number_of_lines() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("known_hosts");
        let (writer, host_keys) = (KnownHostsWriter::default(), host_keys(&file, true));
        for round in 0..4 {
            let keys: Vec<_> = (0..20).map(|n| key(round * 20 + n)).collect();
            for host in ["a", "b"] {
                writer
                    .add(&host_keys, &Name::new(host, 22), &keys)
                    .await
                    .unwrap();
            }
        }
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text.lines().count(), 2 * KEYS_PER_HOST);
    }

    #[tokio::test]
    async fn dev_null_is_neither_read_nor_replaced() {
        let host_keys = host_keys(Path::new("/dev/null"), false);
        let name = Name::new("h", 22);
        KnownHostsWriter::default()
            .add(&host_keys, &name, &[key(1)])
            .await
            .unwrap();
        let known = look_up(&host_keys, &name, None).await.unwrap();
        assert_eq!(known.judge(&key(1)), HostKeyStatus::Unknown);
        assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
    }

    #[tokio::test]
    async fn a_line_is_appended_to_a_file_that_cannot_be_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("known_hosts");
        std::fs::write(&file, "# no end of line").unwrap();
        append(&file, b"# no end of line", "one\n").unwrap();
        append(&file, b"one\n", "two\n").unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text, "# no end of line\none\ntwo\n");
        assert!(append(Path::new("/dev/null"), b"", "x\n").is_err());
        assert!(append(&dir.path().join("none"), b"", "x\n").is_err());
    }

    #[tokio::test]
    async fn an_unreadable_file_is_an_error_and_a_missing_one_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let name = Name::new("h", 22);
        let missing = look_up(&host_keys(&dir.path().join("none"), false), &name, None).await;
        assert_eq!(missing.unwrap().judge(&key(1)), HostKeyStatus::Unknown);
        let folder = look_up(&host_keys(dir.path(), false), &name, None).await;
        assert_eq!(folder.unwrap_err().kind, FailureKind::Unreadable);
    }

    #[tokio::test]
    async fn a_revoked_file_revokes_the_keys_that_it_lists() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("revoked");
        let mut host_keys = host_keys(&dir.path().join("none"), false);
        host_keys.revoked_files = vec![file.clone()];
        let revoked = async |seed| revoked_by(&host_keys, &key(seed), None).await;
        let missing = revoked(1).await.unwrap_err();
        assert_eq!(missing.kind, FailureKind::Unreadable);
        let line = format!("ssh-ed25519 {} c", Base64::encode_string(&key(1)));
        std::fs::write(&file, format!("# old\n\n {line}\r\n")).unwrap();
        assert_eq!(revoked(1).await.unwrap().unwrap(), file.to_string_lossy());
        assert_eq!(revoked(2).await.unwrap(), None);
        std::fs::write(&file, format!("{line}\nssh-ed25519 AAAA\n")).unwrap();
        let failure = revoked(2).await.unwrap_err();
        assert!(failure.message.contains("line 2"), "{failure:?}");
        assert_eq!(failure.kind, FailureKind::KnownHosts);
    }
}
