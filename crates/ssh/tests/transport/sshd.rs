//! A private sshd in inetd mode at one end of a socket pair.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use russh::keys::ssh_key::PublicKey;

const SSHD: &str = "/usr/sbin/sshd";

/// Host keys with their certificates, a user's key, and the configuration of an sshd.
pub(crate) struct Keys {
    dir: tempfile::TempDir,
}

/// A running sshd.
pub(crate) struct Sshd {
    child: Child,
    pub(crate) stream: UnixStream,
}

fn keygen(dir: &Path, arguments: &[&str]) {
    let done = Command::new("ssh-keygen")
        .current_dir(dir)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(done.unwrap().success(), "ssh-keygen {arguments:?}");
}

impl Keys {
    /// Generates the keys and a configuration that allows all legacy algorithms. `None` if sshd is not installed.
    pub(crate) fn new() -> Option<Self> {
        if !Path::new(SSHD).exists() {
            eprintln!("SKIPPED: no {SSHD}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut config =
            String::from("UsePAM no\nStrictModes no\nPermitRootLogin yes\nAuthorizedKeysFile ");
        config.push_str(dir.path().join("user.pub").to_str().unwrap());
        config.push_str(
            "\nKexAlgorithms +diffie-hellman-group1-sha1,diffie-hellman-group14-sha1,\
             diffie-hellman-group-exchange-sha1\nCiphers +aes128-cbc,aes192-cbc,aes256-cbc,3des-cbc\n\
             MACs +hmac-sha1\nHostKeyAlgorithms +ssh-rsa,ssh-rsa-cert-v01@openssh.com\n",
        );
        keygen(
            dir.path(),
            &["-q", "-t", "ed25519", "-N", "", "-f", "authority"],
        );
        keygen(dir.path(), &["-q", "-t", "ed25519", "-N", "", "-f", "user"]);
        for name in ["ed25519", "ecdsa-256", "ecdsa-384", "ecdsa-521", "rsa-2048"] {
            let (kind, bits) = name.split_once('-').unwrap_or((name, "256"));
            keygen(
                dir.path(),
                &["-q", "-t", kind, "-b", bits, "-N", "", "-f", name],
            );
            let public = format!("{name}.pub");
            let names = "db.example,*.lab.example";
            keygen(
                dir.path(),
                &[
                    "-q",
                    "-s",
                    "authority",
                    "-I",
                    name,
                    "-h",
                    "-n",
                    names,
                    "-V",
                    "20200101:20400101",
                    &public,
                ],
            );
            let path = dir.path().join(name);
            let path = path.to_str().unwrap();
            config.push_str(&format!(
                "HostKey {path}\nHostCertificate {path}-cert.pub\n"
            ));
        }
        std::fs::write(dir.path().join("sshd_config"), config).unwrap();
        Some(Self { dir })
    }

    /// Starts an sshd with these keys.
    pub(crate) fn start(&self, options: &[&str]) -> Sshd {
        let (stream, theirs) = UnixStream::pair().unwrap();
        let (input, output) = (
            OwnedFd::from(theirs.try_clone().unwrap()),
            OwnedFd::from(theirs),
        );
        let child = Command::new(SSHD)
            .args(["-i", "-e", "-f"])
            .arg(self.dir.path().join("sshd_config"))
            .args(options)
            .stdin(input)
            .stdout(output)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        Sshd { child, stream }
    }

    /// Whether the blob is one of the server's host keys.
    pub(crate) fn has_host_key(&self, blob: &[u8]) -> bool {
        let key = PublicKey::from_bytes(blob).unwrap();
        let keys = std::fs::read_dir(self.dir.path()).unwrap();
        keys.map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|end| end == "pub"))
            .filter_map(|path| PublicKey::read_openssh_file(&path).ok())
            .any(|known| known.key_data() == key.key_data())
    }

    /// Path of the user's private key.
    pub(crate) fn user_key(&self) -> PathBuf {
        self.dir.path().join("user")
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
