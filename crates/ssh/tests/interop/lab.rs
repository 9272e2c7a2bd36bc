//! A private sshd on a loopback socket, a session to it, and targets that its channels connect to.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use russh::keys::ssh_key::{Algorithm, PrivateKey, PublicKey};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tunneld_ssh::auth::AuthResult;
use tunneld_ssh::client::{self, Authenticator, IncomingChannels, Options, Session};
use tunneld_ssh::testing::KeySigner;
use tunneld_ssh::{Config, Error};

/// An sshd that serves one connection and is killed on drop.
pub(crate) struct Sshd {
    child: Child,
    pub(crate) home: TempDir,
}

impl Sshd {
    /// Starts sshd on one end of a new connection, with additional configuration lines. Returns the other end.
    pub(crate) async fn start(lines: &str) -> (Self, TcpStream) {
        let home = TempDir::new().unwrap();
        for (name, kind) in [("host", "ed25519"), ("user", "ed25519"), ("other", "ecdsa")] {
            keygen(home.path(), name, kind);
        }
        let keys = ["user.pub", "other.pub"].map(|name| fs::read(home.path().join(name)).unwrap());
        fs::write(home.path().join("authorized"), keys.concat()).unwrap();
        let at = home.path().display();
        fs::write(
            home.path().join("config"),
            format!(
                "{lines}\nHostKey {at}/host\nAuthorizedKeysFile {at}/authorized\nStrictModes no\n\
                 UsePAM no\nPermitRootLogin yes\nPidFile none\nMaxSessions 100\nLogLevel DEBUG1\n\
                 AllowStreamLocalForwarding yes\nGatewayPorts clientspecified\n"
            ),
        )
        .unwrap();
        fs::create_dir_all("/run/sshd").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let server = server.into_std().unwrap();
        server.set_nonblocking(false).unwrap();
        let input = OwnedFd::from(server);
        let output = input.try_clone().unwrap();
        let child = Command::new("/usr/sbin/sshd")
            .args(["-i", "-f"])
            .arg(home.path().join("config"))
            .arg("-E")
            .arg(home.path().join("log"))
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(output))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        (Self { child, home }, client)
    }

    /// Starts sshd and authenticates.
    pub(crate) async fn session(
        lines: &str,
        config: Config,
        options: Options,
    ) -> (Self, Session, IncomingChannels) {
        let (sshd, stream) = Self::start(lines).await;
        let mut authenticator = sshd.connect(stream, config, options).await.unwrap();
        assert_eq!(
            sshd.log_in(&mut authenticator, "user").await,
            AuthResult::Success
        );
        let (session, incoming) = authenticator.into_session().unwrap();
        (sshd, session, incoming)
    }

    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        config: Config,
        options: Options,
    ) -> Result<Authenticator, Error> {
        let known = fs::read_to_string(self.home.path().join("host.pub")).unwrap();
        client::handshake(
            stream,
            Arc::new(config),
            options,
            "root",
            |offer| async move {
                let key = PublicKey::from_bytes(offer.plain_key()).unwrap();
                known.starts_with(&key.to_openssh().unwrap())
            },
        )
        .await
    }

    pub(crate) async fn log_in(&self, authenticator: &mut Authenticator, key: &str) -> AuthResult {
        let key = fs::read_to_string(self.home.path().join(key)).unwrap();
        let key = PrivateKey::from_openssh(key).unwrap();
        let blob = key.public_key().to_bytes().unwrap();
        let algorithm = match key.algorithm() {
            Algorithm::Rsa { .. } => authenticator.best_rsa_algorithm().unwrap().to_owned(),
            plain => plain.to_string(),
        };
        authenticator
            .public_key(&algorithm, &blob, &mut KeySigner::new(key))
            .await
            .unwrap()
    }

    /// Sends a signal to the process that serves the session.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let done = Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .unwrap();
        assert!(done.success());
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn keygen(home: &Path, name: &str, kind: &str) {
    let done = Command::new("ssh-keygen")
        .args(["-q", "-N", "", "-t", kind, "-f"])
        .arg(home.join(name))
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(done.success());
}

/// Options with this keepalive.
pub(crate) fn with_keepalive(interval: Duration, count: u32) -> Options {
    Options {
        keepalive: Some((interval, count)),
        ..Options::default()
    }
}

/// What a target does with its connections.
#[derive(Clone, Copy)]
pub(crate) enum TargetBehavior {
    /// Sends back what it receives.
    Echo,
    /// Sends this many bytes of the pattern, then ends.
    Send(u64),
    /// Reads to the end. Sends back the number of bytes, and whether they were the pattern.
    Check,
    /// Never reads.
    Stall,
    /// As [`TargetBehavior::Check`], after [`Target::release`].
    CheckLater,
}

/// A target on a free port. Its tasks end when it is dropped.
pub(crate) struct Target {
    pub(crate) addr: SocketAddr,
    released: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Target {
    pub(crate) async fn start(does: TargetBehavior) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        let (released, release) = watch::channel(false);
        tasks.spawn(async move {
            let mut each = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let mut release = release.clone();
                each.spawn(async move {
                    if matches!(does, TargetBehavior::CheckLater) {
                        let _ = release.wait_for(|released| *released).await;
                    }
                    serve(stream, does).await;
                });
            }
        });
        Self {
            addr,
            released,
            _tasks: tasks,
        }
    }

    /// Lets [`TargetBehavior::CheckLater`] start to read.
    pub(crate) fn release(&self) {
        self.released.send_replace(true);
    }
}

async fn serve(mut stream: TcpStream, does: TargetBehavior) {
    let _ = stream.set_nodelay(true);
    match does {
        TargetBehavior::Echo => {
            let (mut from, mut to) = stream.split();
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        }
        TargetBehavior::Send(count) => {
            let mut pattern = Pattern::default();
            let mut left = count;
            let mut buffer = vec![0; 64 * 1024];
            while left > 0 {
                let some = buffer.len().min(left as usize);
                pattern.fill(&mut buffer[..some]);
                if stream.write_all(&buffer[..some]).await.is_err() {
                    return;
                }
                left -= some as u64;
            }
            let _ = stream.shutdown().await;
            let _ = stream.read(&mut buffer).await;
        }
        TargetBehavior::Check | TargetBehavior::CheckLater => {
            let mut pattern = Pattern::default();
            let mut count = 0u64;
            let mut buffer = vec![0; 64 * 1024];
            let mut good = true;
            while let Ok(some) = stream.read(&mut buffer).await
                && some > 0
            {
                good &= pattern.check(&buffer[..some]);
                count += some as u64;
            }
            let _ = stream.write_u64(count).await;
            let _ = stream.write_u8(u8::from(good)).await;
        }
        TargetBehavior::Stall => std::future::pending().await,
    }
}

/// A sequence of bytes in which a lost or repeated packet is detected.
#[derive(Default)]
pub(crate) struct Pattern(u64);

impl Pattern {
    fn at(place: u64) -> [u8; 8] {
        (place / 8)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .to_le_bytes()
    }

    pub(crate) fn fill(&mut self, buffer: &mut [u8]) {
        for byte in buffer {
            *byte = Self::at(self.0)[(self.0 % 8) as usize];
            self.0 += 1;
        }
    }

    pub(crate) fn check(&mut self, bytes: &[u8]) -> bool {
        bytes.iter().all(|byte| {
            let right = *byte == Self::at(self.0)[(self.0 % 8) as usize];
            self.0 += 1;
            right
        })
    }

    pub(crate) fn count(&self) -> u64 {
        self.0
    }
}
