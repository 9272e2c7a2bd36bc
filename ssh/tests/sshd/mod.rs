//! An sshd of our own in inetd mode at the end of a socket pair, and a blocking client.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Buf;
use russh::keys::ssh_key::{PrivateKey, PublicKey};
use tunneld_ssh::transport::{Event, HostKey, Negotiated, Transport};
use tunneld_ssh::wire::Writer;
use tunneld_ssh::{Config, Error};

const SSHD: &str = "/usr/sbin/sshd";

/// A running sshd with its keys in a directory of its own.
pub(crate) struct Sshd {
    dir: tempfile::TempDir,
    child: Child,
    stream: UnixStream,
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

impl Sshd {
    /// Starts one, with all host keys and everything old allowed; none if there is no sshd.
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        if !Path::new(SSHD).exists() {
            eprintln!("SKIPPED: no {SSHD}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
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
        let path = dir.path().join("sshd_config");
        std::fs::write(&path, config).unwrap();
        let (input, output) = (
            OwnedFd::from(theirs.try_clone().unwrap()),
            OwnedFd::from(theirs),
        );
        let child = Command::new(SSHD)
            .args(["-i", "-e", "-f"])
            .arg(&path)
            .args(options)
            .stdin(input)
            .stdout(output)
            .stderr(std::fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        Some(Self {
            dir,
            child,
            stream: ours,
        })
    }

    /// Whether a key is one of the host's.
    pub(crate) fn has_host_key(&self, key: &PublicKey) -> bool {
        let keys = std::fs::read_dir(self.dir.path()).unwrap();
        keys.map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|end| end == "pub"))
            .filter_map(|path| PublicKey::read_openssh_file(&path).ok())
            .any(|known| known.key_data() == key.key_data())
    }

    fn user_key(&self) -> PathBuf {
        self.dir.path().join("user")
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The transport, driven by blocking reads.
pub(crate) struct Client {
    sshd: Sshd,
    transport: Transport,
    host_key: Option<HostKey>,
    accept: bool,
    now: Instant,
}

impl Client {
    pub(crate) fn new(sshd: Sshd, config: Config) -> Self {
        let now = tokio::time::Instant::now().into_std();
        let entropy = Box::new(|bytes: &mut [u8]| aws_lc_rs::rand::fill(bytes).unwrap());
        Self {
            sshd,
            transport: Transport::new(Arc::new(config), now, entropy),
            host_key: None,
            accept: true,
            now,
        }
    }

    pub(crate) fn sshd(&self) -> &Sshd {
        &self.sshd
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    pub(crate) fn host_key(&self) -> Option<&HostKey> {
        self.host_key.as_ref()
    }

    pub(crate) fn reject_host_key(&mut self) {
        self.accept = false;
    }

    pub(crate) fn advance_clock(&mut self, by: Duration) {
        self.now += by;
        self.transport.handle_timeout(self.now).unwrap();
    }

    /// The next event, after writing and reading what it takes.
    pub(crate) fn event(&mut self) -> Result<Event, Error> {
        loop {
            let event = self.transport.poll(self.now);
            let output = self.transport.output();
            self.sshd.stream.write_all(output)?;
            output.advance(output.len());
            if let Some(event) = event? {
                return Ok(event);
            }
            let mut chunk = [0; 16 * 1024];
            match self.sshd.stream.read(&mut chunk)? {
                0 => return Err(Error::Eof),
                count => self
                    .transport
                    .read_buffer()
                    .extend_from_slice(&chunk[..count]),
            }
        }
    }

    /// Goes on until the first keys are in use.
    pub(crate) fn handshake(&mut self) -> Result<Negotiated, Error> {
        loop {
            match self.event()? {
                Event::Ident(ident) => assert!(ident.starts_with("SSH-2.0-OpenSSH")),
                Event::HostKey(offer) => {
                    self.host_key = Some(offer.key);
                    if self.accept {
                        self.transport.accept_host_key(self.now);
                    } else {
                        self.transport.reject_host_key();
                        assert!(!self.transport.output().is_empty(), "a goodbye");
                    }
                }
                Event::Ready(negotiated) => return Ok(*negotiated),
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) fn request_userauth(&mut self) {
        let mut payload = vec![5];
        payload.string("ssh-userauth");
        self.transport.send(&payload);
        match self.event().unwrap() {
            Event::Packet(payload) => assert_eq!(payload[0], 6),
            other => panic!("{other:?}"),
        }
    }

    /// Logs in with the user's key.
    pub(crate) fn authenticate(&mut self) {
        let user = Command::new("id").arg("-un").output().unwrap().stdout;
        let user = String::from_utf8(user).unwrap();
        let key = PrivateKey::read_openssh_file(self.sshd.user_key()).unwrap();
        let mut request = vec![50];
        request.string(user.trim());
        request.string("ssh-connection");
        request.string("publickey");
        request.bool(true);
        request.string("ssh-ed25519");
        request.string(key.public_key().to_bytes().unwrap());
        let mut signed = Vec::new();
        signed.string(self.transport.session_id());
        signed.raw(&request);
        let bytes = key.key_data().ed25519().unwrap();
        let pair =
            aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(bytes.private.as_ref());
        let mut signature = Vec::new();
        signature.string("ssh-ed25519");
        signature.string(pair.unwrap().sign(&signed));
        request.string(&signature);
        self.transport.send(&request);
        match self.event().unwrap() {
            Event::Packet(payload) => assert_eq!(payload[0], 52, "{payload:?}"),
            other => panic!("{other:?}"),
        }
    }

    /// Asks for something that is refused, with something to carry.
    pub(crate) fn global_request(&mut self, round: usize) {
        let mut payload = vec![80];
        payload.string("keepalive@openssh.com");
        payload.bool(true);
        payload.raw(&vec![u8::try_from(round % 256).unwrap(); round]);
        self.transport.send(&payload);
    }
}
