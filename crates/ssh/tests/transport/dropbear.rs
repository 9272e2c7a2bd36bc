//! The transport against dropbear.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tunneld_ssh::transport::TransportEvent;
use tunneld_ssh::{Config, Error};

use crate::client::Client;

const DROPBEAR: &str = "/usr/sbin/dropbear";

struct Dropbear {
    child: Child,
    stream: UnixStream,
    _dir: tempfile::TempDir,
}

impl Dropbear {
    fn start() -> Option<Self> {
        if !Path::new(DROPBEAR).exists() {
            eprintln!("SKIPPED: no {DROPBEAR}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let (stream, theirs) = UnixStream::pair().unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let mut command = Command::new(DROPBEAR);
        command.arg("-i");
        for kind in ["ed25519", "ecdsa", "rsa"] {
            let path = dir.path().join(kind);
            let made = Command::new("dropbearkey")
                .args(["-t", kind, "-f"])
                .arg(&path)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            assert!(made.unwrap().success());
            command.arg("-r").arg(path);
        }
        let child = command
            .stdin(OwnedFd::from(theirs.try_clone().unwrap()))
            .stdout(OwnedFd::from(theirs))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self {
            child,
            stream,
            _dir: dir,
        })
    }
}

impl Drop for Dropbear {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn key_exchanges_ciphers_and_host_keys() {
    let config = Config::default;
    let configs = [
        config(),
        Config {
            kex: vec!["diffie-hellman-group14-sha256"],
            ciphers: vec!["aes256-ctr"],
            macs: vec!["hmac-sha2-256"],
            ..config()
        },
        Config {
            kex: vec!["ecdh-sha2-nistp521"],
            host_keys: vec!["ecdsa-sha2-nistp256"],
            ciphers: vec!["aes128-ctr"],
            ..config()
        },
        Config {
            host_keys: vec!["rsa-sha2-256"],
            ciphers: vec!["chacha20-poly1305@openssh.com"],
            ..config()
        },
    ];
    for config in configs {
        let Some(dropbear) = Dropbear::start() else {
            return;
        };
        let mut client = Client::new(&dropbear.stream, config);
        match client.handshake() {
            Ok(_) => client.request_userauth(),
            Err(Error::Terrapin { cipher }) => {
                assert_eq!(cipher, "chacha20-poly1305@openssh.com");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_rekey_before_the_login() {
    let Some(dropbear) = Dropbear::start() else {
        return;
    };
    let mut client = Client::new(&dropbear.stream, Config::default());
    client.handshake().unwrap();
    client.start_rekey();
    assert!(matches!(client.event().unwrap(), TransportEvent::Rekeyed));
    client.request_userauth();
}
