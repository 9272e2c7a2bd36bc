//! The matrix of docs/compatibility.md: servers × forwards, new keys, bulk and logins. One test a server and row;
//! each cell has its name in the message of the failure. What a server cannot do is tried too, so that the day it
//! learns it shows.

mod forwards;
mod logins;

use anyhow::Result;
use tunneld_tests::asyncssh::Asyncssh;
use tunneld_tests::dropbear::{Door, Dropbear};
use tunneld_tests::prompting_server::{Asking, Factor};
use tunneld_tests::sshd::{Setup, Sshd};

/// A server that asks for no new keys before that many bytes.
const NEVER: usize = 1 << 30;

/// What a tunnel names to reach a server that has nothing younger.
const LEGACY: &str = "kex_algorithms = \"+diffie-hellman-group14-sha1\"\nhost_key_algorithms = \"+ssh-rsa\"\n\
    ciphers = \"+aes128-cbc\"\nmacs = \"+hmac-sha1\"\npubkey_accepted_algorithms = \"+ssh-rsa,ssh-rsa-cert-v01@openssh.com\"\n";

/// Lines of sshd_config that leave it with nothing else.
const LEGACY_ONLY: &[&str] = &[
    "KexAlgorithms diffie-hellman-group14-sha1",
    "HostKeyAlgorithms ssh-rsa",
    "Ciphers aes128-cbc",
    "MACs hmac-sha1",
    "PubkeyAcceptedAlgorithms ssh-rsa,ssh-rsa-cert-v01@openssh.com",
    "CASignatureAlgorithms +ssh-rsa",
];

/// One of the servers.
enum Peer {
    Sshd(Sshd),
    Legacy(Sshd),
    Dropbear(Dropbear),
    Asyncssh(Asyncssh),
    Russh(Asking),
}

impl Peer {
    async fn sshd(rekey: usize) -> Result<Self> {
        Ok(Self::Sshd(
            Sshd::with_lines(&[&format!("RekeyLimit {rekey}")]).await?,
        ))
    }

    async fn legacy(rekey: usize) -> Result<Self> {
        let mut lines: Vec<String> = LEGACY_ONLY.iter().map(|line| (*line).into()).collect();
        lines.push(format!("RekeyLimit {rekey}"));
        let server = Sshd::with(Setup {
            lines,
            host_keys: vec!["rsa".into()],
            user_key: "rsa".into(),
            ..Setup::default()
        });
        Ok(Self::Legacy(server.await?))
    }

    /// It asks for new keys after a gigabyte, whatever one would have.
    async fn dropbear(_: usize) -> Result<Self> {
        Ok(Self::Dropbear(Dropbear::with(Door::Key).await?))
    }

    async fn asyncssh(rekey: usize) -> Result<Self> {
        Ok(Self::Asyncssh(Asyncssh::start(rekey).await?))
    }

    async fn russh(rekey: usize) -> Result<Self> {
        Ok(Self::Russh(
            Asking::rekeying(vec![Factor::Key], rekey).await?,
        ))
    }

    /// Whether this user can run that server; told where not.
    fn can_run(server: &str) -> bool {
        let can = server != "dropbear" || rustix::process::geteuid().is_root();
        if !can {
            eprintln!("SKIPPED: only root can give {server} a home of its own");
        }
        can
    }

    /// The lines of `[tunnel.NAME]` that reach it.
    fn tunnel(&self, name: &str) -> Result<String> {
        match self {
            Self::Sshd(server) => server.tunnel(name),
            Self::Legacy(server) => Ok(server.tunnel(name)? + LEGACY),
            Self::Dropbear(server) => server.tunnel(name),
            Self::Asyncssh(server) => server.tunnel(name),
            Self::Russh(server) => server.tunnel(name),
        }
    }

    /// Whether the server knows OpenSSH's forwards of Unix sockets.
    fn knows_unix_sockets(&self) -> bool {
        !matches!(self, Self::Dropbear(_))
    }

    /// How many key exchanges its log tells of, the first one included; none where it tells nothing.
    fn key_exchanges(&self) -> Result<Option<usize>> {
        Ok(match self {
            Self::Sshd(server) | Self::Legacy(server) => {
                Some(server.log()?.count_after(0, "SSH2_MSG_KEXINIT received"))
            }
            Self::Asyncssh(server) => Some(server.all_key_exchanges()),
            Self::Dropbear(_) | Self::Russh(_) => None,
        })
    }
}

/// The tests of a server: its rows as `matrix::SERVER::ROW`.
macro_rules! rows {
    ($($server:ident),*) => {$(
        mod $server {
            use super::{NEVER, Peer, forwards};

            async fn server() -> anyhow::Result<Option<Peer>> {
                Ok(match Peer::can_run(stringify!($server)) {
                    true => Some(Peer::$server(NEVER).await?),
                    false => None,
                })
            }

            #[tokio::test]
            async fn every_forward_carries_bytes() -> anyhow::Result<()> {
                match server().await? {
                    Some(server) => forwards::every(&server).await,
                    None => Ok(()),
                }
            }

            #[tokio::test]
            async fn the_client_rekeys_under_load() -> anyhow::Result<()> {
                let lines = "rekey_limit = \"1M\"\n";
                match server().await? {
                    Some(server) => forwards::under_new_keys(&server, lines).await,
                    None => Ok(()),
                }
            }

            #[tokio::test]
            async fn a_hundred_megabytes_each_way() -> anyhow::Result<()> {
                match server().await? {
                    Some(server) => forwards::whole(&server).await,
                    None => Ok(()),
                }
            }
        }
    )*};
}

rows!(sshd, legacy, dropbear, asyncssh, russh);

/// The tests of the servers that can be told when to ask for new keys.
macro_rules! new_keys {
    ($lines:literal: $($server:ident),*) => {$(
        #[tokio::test]
        async fn $server() -> anyhow::Result<()> {
            forwards::under_new_keys(&Peer::$server(1_000_000).await?, $lines).await
        }
    )*};
}

mod the_server_rekeys_under_load {
    use super::{Peer, forwards};
    new_keys!("": sshd, legacy, asyncssh, russh);
}

mod both_sides_rekey_under_load {
    use super::{Peer, forwards};
    new_keys!("rekey_limit = \"1M\"\n": sshd, asyncssh);
}
