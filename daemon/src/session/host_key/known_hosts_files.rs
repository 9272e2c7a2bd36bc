//! The known_hosts files on disk: read whole before a host shows its key, written by replacing, so that a full disk
//! leaves the old file as it was.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tokio::sync::Mutex;
use tunneld_platform::fs;

use crate::failure::{Failure, FailureKind};
use crate::known_hosts::revoked::{self, Certified, Shown};
use crate::known_hosts::{self, KnownHost, Name, Source};
use crate::session::blob;
use tunneld_config::model::HostKeys;
use tunneld_proto::text;

/// Larger files are refused: reading them would hold up everyone.
const LIMIT: u64 = 64 << 20;

/// One writer at a time: each reads, adds and replaces.
static WRITING: Mutex<()> = Mutex::const_new(());

/// What the files, and the lines that a KnownHostsCommand said, tell of `name`. A missing file says nothing; one that
/// cannot be read is a failure.
pub(crate) async fn look_up(
    host_keys: &HostKeys,
    name: &Name,
    said: Option<Vec<u8>>,
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
        files.extend(said.map(|said| ("KnownHostsCommand".to_owned(), said)));
        let sources: Vec<Source<'_>> = files
            .iter()
            .map(|(file, text)| Source { file, text })
            .collect();
        Ok(KnownHost::look_up(&sources, &name))
    })
    .await
}

/// The RevokedHostKeys file that revokes what the host has shown, where one does.
pub(crate) async fn revoked_by(
    host_keys: &HostKeys,
    plain: &[u8],
    certificate: Option<(blob::Certificate, Vec<u8>)>,
) -> Result<Option<String>, Failure> {
    if host_keys.revoked_files.is_empty() {
        return Ok(None);
    }
    let paths = host_keys.revoked_files.clone();
    let plain = plain.to_vec();
    off_runtime(move || {
        let shown = Shown {
            plain: &plain,
            certified: certificate.as_ref().map(|(says, authority)| Certified {
                authority,
                serial: says.serial,
                key_id: &says.key_id,
            }),
        };
        for path in &paths {
            if file_revokes(path, &shown)? {
                return Ok(Some(path.to_string_lossy().into_owned()));
            }
        }
        Ok(None)
    })
    .await
}

fn file_revokes(path: &Path, shown: &Shown<'_>) -> Result<bool, Failure> {
    // As for ssh: revocations that cannot be read revoke everything.
    if !path.exists() {
        return Err(unreadable(path, "it does not exist"));
    }
    revoked::revokes(&read(path)?, shown).map_err(|why| unreadable(path, &why))
}

/// Writes down that `key` is the host's, in the first user file.
pub(crate) async fn add(host_keys: &HostKeys, name: &Name, key: &[u8]) -> Result<(), Failure> {
    let Some(path) = host_keys.user_files.first().cloned() else {
        return Err(Failure::new(
            FailureKind::KnownHosts,
            "there is no user_known_hosts_file to write the new host key to",
        )
        .hint("name one, or add the key to a global file"));
    };
    let salt = host_keys.hash.then(rand::random::<[u8; 20]>);
    let line = known_hosts::new_line(name, key, salt).ok_or_else(|| {
        Failure::new(
            FailureKind::Protocol,
            "the server's host key is of no type that can be written down",
        )
    })?;
    let (name, key) = (name.clone(), key.to_vec());
    let _one_writer = WRITING.lock().await;
    off_runtime(move || {
        let path = std::fs::canonicalize(&path).unwrap_or(path);
        // `/dev/null` is how ssh_config says "remember nothing".
        if path == Path::new("/dev/null") {
            return Ok(());
        }
        let old = read(&path)?;
        let file = path.to_string_lossy();
        let source = Source {
            file: &file,
            text: &old,
        };
        if KnownHost::look_up(&[source], &name).lists(&key) {
            return Ok(());
        }
        write(&path, &old, &line).map_err(|error| {
            Failure::new(
                FailureKind::KnownHosts,
                format!(
                    "writing the new host key to {}: {error}",
                    text::escape(&file)
                ),
            )
            .hint("make the file writable, or name another user_known_hosts_file")
        })
    })
    .await
}

/// Replaces the file as a whole; where only the file itself can be written (a folder of root's, a file that a
/// container mounts), adds the line to it.
fn write(path: &Path, old: &[u8], line: &str) -> io::Result<()> {
    replace(path, old, line).or_else(|why| match append(path, old, line) {
        Ok(()) => Ok(()),
        Err(_) => Err(why),
    })
}

fn replace(path: &Path, old: &[u8], line: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_private_dir(folder)?;
    }
    let mut contents = old.to_vec();
    if !ends_in_a_line(old) {
        contents.push(b'\n');
    }
    contents.extend_from_slice(line.as_bytes());
    fs::replace(path, &contents)
}

fn append(path: &Path, old: &[u8], line: &str) -> io::Result<()> {
    let mut file = std::fs::File::options().append(true).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let begin = if ends_in_a_line(old) { "" } else { "\n" };
    let text = format!("{begin}{line}");
    let before = file.metadata()?.len();
    // In one write: a second writer's line stays whole.
    let written = file.write(text.as_bytes())?;
    if written < text.len() {
        // A full disk took a part of the line; it goes again, unless somebody has written after it.
        if file.metadata()?.len() == before + written as u64 {
            file.set_len(before)?;
        }
        return Err(io::ErrorKind::StorageFull.into());
    }
    file.sync_all()
}

fn ends_in_a_line(text: &[u8]) -> bool {
    text.last().is_none_or(|last| *last == b'\n')
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let found = match std::fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(path, &error.to_string())),
    };
    // `/dev/null` is how ssh_config says "none".
    if path == Path::new("/dev/null") {
        return Ok(Vec::new());
    }
    if !found.is_file() {
        return Err(unreadable(path, "it is no regular file"));
    }
    if found.len() > LIMIT {
        return Err(unreadable(path, "it is larger than 64 MiB"));
    }
    std::fs::read(path).map_err(|error| unreadable(path, &error.to_string()))
}

fn unreadable(path: &Path, why: &str) -> Failure {
    Failure::new(
        FailureKind::KnownHosts,
        format!("reading {}: {why}", text::escape(&path.to_string_lossy())),
    )
    .hint("without it no host key can be trusted: mend the file or its mode")
}

async fn off_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        Err(Failure::new(
            FailureKind::Internal,
            "reading known_hosts broke off",
        ))
    })
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use crate::known_hosts::Recovery;
    use base64ct::{Base64, Encoding as _};
    use std::os::unix::fs::PermissionsExt as _;
    use tunneld_config::model::{HostKeyChecking, UpdateHostKeys};

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
            add(&host_keys, &name, &key(1)).await.unwrap();
            assert_eq!(
                look_up(&host_keys, &name, None)
                    .await
                    .unwrap()
                    .judge(&key(1)),
                Recovery::Known
            );
        }
        assert_eq!((mode(&file), mode(&dir.path().join("ssh"))), (0o600, 0o700));
        assert_eq!(
            std::fs::read_to_string(&file).unwrap().lines().count(),
            1,
            "known already"
        );

        std::fs::write(&file, "# no end of line").unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        add(&host_keys(&link, true), &name, &key(2)).await.unwrap();
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
    async fn dev_null_remembers_nothing_and_stays_what_it_is() {
        let host_keys = host_keys(Path::new("/dev/null"), false);
        let name = Name::new("h", 22);
        add(&host_keys, &name, &key(1)).await.unwrap();
        let known = look_up(&host_keys, &name, None).await.unwrap();
        assert_eq!(known.judge(&key(1)), Recovery::Unknown);
        assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_replaced_is_added_to() {
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
    async fn what_cannot_be_read_is_refused_and_what_is_missing_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let name = Name::new("h", 22);
        let missing = look_up(&host_keys(&dir.path().join("none"), false), &name, None).await;
        assert_eq!(missing.unwrap().judge(&key(1)), Recovery::Unknown);
        let folder = look_up(&host_keys(dir.path(), false), &name, None).await;
        assert_eq!(folder.unwrap_err().kind, FailureKind::KnownHosts);
    }

    #[tokio::test]
    async fn revoked_files_revoke() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("revoked");
        let mut host_keys = host_keys(&dir.path().join("none"), false);
        host_keys.revoked_files = vec![file.clone()];
        let by = async |seed| revoked_by(&host_keys, &key(seed), None).await;
        assert!(by(1).await.is_err(), "missing");
        let line = format!("ssh-ed25519 {} c", Base64::encode_string(&key(1)));
        std::fs::write(&file, format!("# old\n\n {line}\r\n")).unwrap();
        assert_eq!(by(1).await.unwrap().unwrap(), file.to_string_lossy());
        assert_eq!(by(2).await.unwrap(), None);
        std::fs::write(&file, format!("{line}\nssh-ed25519 AAAA\n")).unwrap();
        let failure = by(2).await.unwrap_err();
        assert!(failure.message.contains("line 2"), "{failure:?}");
    }
}
