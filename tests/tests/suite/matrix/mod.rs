//! The matrix of docs/compatibility.md: servers × forwards, rekeying, bulk data and logins. One test per server and row;
//! a failure names the cell. What a server cannot do is tried as well, so that the test fails when a newer version can.

mod forwards;
mod logins;

use anyhow::Result;
use tunneld_tests::asyncssh::Asyncssh;
use tunneld_tests::dropbear::{Dropbear, DropbearAuth};
use tunneld_tests::prompting_server::{AuthFactor, PromptingServer};
use tunneld_tests::root;
use tunneld_tests::sshd::{Sshd, SshdOptions};

/// A rekey limit, in bytes, that no test reaches.
const NO_REKEY_BYTES: usize = 1 << 30;

/// The lines by which a tunnel accepts a server with [`LEGACY_ONLY`].
const LEGACY: &str = "kex_algorithms = \"+diffie-hellman-group14-sha1\"\nhost_key_algorithms = \"+ssh-rsa\"\n\
    ciphers = \"+aes128-cbc\"\nmacs = \"+hmac-sha1\"\npubkey_accepted_algorithms = \"+ssh-rsa,ssh-rsa-cert-v01@openssh.com\"\n";

/// Lines of sshd_config that allow only algorithms which tunneld does not accept by default.
const LEGACY_ONLY: &[&str] = &[
    "KexAlgorithms diffie-hellman-group14-sha1",
    "HostKeyAlgorithms ssh-rsa",
    "Ciphers aes128-cbc",
    "MACs hmac-sha1",
    "PubkeyAcceptedAlgorithms ssh-rsa,ssh-rsa-cert-v01@openssh.com",
    "CASignatureAlgorithms +ssh-rsa",
];

/// A server of the matrix.
enum Peer {
    Sshd(Sshd),
    Openssh10(Sshd),
    Legacy(Sshd),
    Dropbear(Dropbear),
    Asyncssh(Asyncssh),
    Russh(PromptingServer),
}

impl Peer {
    async fn sshd(rekey: usize) -> Result<Self> {
        Ok(Self::Sshd(
            Sshd::start_with_lines(&[&format!("RekeyLimit {rekey}")]).await?,
        ))
    }

    async fn openssh10(rekey: usize) -> Result<Self> {
        let server = Sshd::start_with(SshdOptions {
            config_lines: vec![format!("RekeyLimit {rekey}")],
            is_openssh10: true,
            ..SshdOptions::default()
        });
        Ok(Self::Openssh10(server.await?))
    }

    async fn legacy(rekey: usize) -> Result<Self> {
        let mut lines: Vec<String> = LEGACY_ONLY.iter().map(|line| (*line).into()).collect();
        lines.push(format!("RekeyLimit {rekey}"));
        let server = Sshd::start_with(SshdOptions {
            config_lines: lines,
            host_keys: vec!["rsa".into()],
            user_key: "rsa".into(),
            ..SshdOptions::default()
        });
        Ok(Self::Legacy(server.await?))
    }

    /// Dropbear has no option for it: it rekeys after a gigabyte.
    async fn dropbear(_rekey: usize) -> Result<Self> {
        Ok(Self::Dropbear(
            Dropbear::start_with(DropbearAuth::PublicKey).await?,
        ))
    }

    async fn asyncssh(rekey: usize) -> Result<Self> {
        Ok(Self::Asyncssh(Asyncssh::start(rekey).await?))
    }

    async fn russh(rekey: usize) -> Result<Self> {
        Ok(Self::Russh(
            PromptingServer::start_with_rekey_limit(vec![AuthFactor::PublicKey], rekey).await?,
        ))
    }

    /// Whether the current user can run that server.
    fn can_run(server: &str) -> Result<bool> {
        match server {
            "dropbear" => root::available("give Dropbear its own /etc/passwd"),
            "openssh10" => root::available("run the sshd of Debian 13 with chroot"),
            _ => Ok(true),
        }
    }

    /// The table `[tunnel.NAME]` that connects to this server.
    fn tunnel_toml(&self, name: &str) -> Result<String> {
        match self {
            Self::Sshd(server) | Self::Openssh10(server) => server.tunnel_toml(name),
            Self::Legacy(server) => Ok(server.tunnel_toml(name)? + LEGACY),
            Self::Dropbear(server) => server.tunnel_toml(name),
            Self::Asyncssh(server) => server.tunnel_toml(name),
            Self::Russh(server) => server.tunnel_toml(name),
        }
    }

    /// Whether the server supports OpenSSH's forwarding of Unix sockets.
    fn supports_unix_sockets(&self) -> bool {
        !matches!(self, Self::Dropbear(_))
    }

    /// The number of key exchanges in its log, including the first one; `None` if the server does not log them.
    fn key_exchanges(&self) -> Result<Option<usize>> {
        Ok(match self {
            Self::Sshd(server) | Self::Openssh10(server) | Self::Legacy(server) => {
                Some(server.log()?.count_after(0, "SSH2_MSG_KEXINIT received"))
            }
            Self::Asyncssh(server) => Some(server.key_exchanges()),
            Self::Dropbear(_) | Self::Russh(_) => None,
        })
    }
}

/// The tests of each server, `matrix::SERVER::ROW`.
macro_rules! rows {
    ($($server:ident),*) => {$(
        mod $server {
            use super::{NO_REKEY_BYTES, Peer, forwards};

            async fn server() -> anyhow::Result<Option<Peer>> {
                Ok(match Peer::can_run(stringify!($server))? {
                    true => Some(Peer::$server(NO_REKEY_BYTES).await?),
                    false => None,
                })
            }

            #[tokio::test]
            async fn every_forward_carries_bytes() -> anyhow::Result<()> {
                match server().await? {
                    Some(server) => forwards::check_every_forward(&server).await,
                    None => Ok(()),
                }
            }

            #[tokio::test]
            async fn the_client_rekeys_under_load() -> anyhow::Result<()> {
                let lines = "rekey_limit = \"1M\"\n";
                match server().await? {
                    Some(server) => forwards::check_rekeying(&server, lines).await,
                    None => Ok(()),
                }
            }

            #[tokio::test]
            async fn a_hundred_megabytes_each_way() -> anyhow::Result<()> {
                match server().await? {
                    Some(server) => forwards::check_bulk(&server).await,
                    None => Ok(()),
                }
            }
        }
    )*};
}

rows!(sshd, openssh10, legacy, dropbear, asyncssh, russh);

/// The tests of the servers whose rekey limit can be set.
macro_rules! server_rekeys {
    ($lines:literal: $($server:ident),*) => {$(
        #[tokio::test]
        async fn $server() -> anyhow::Result<()> {
            if !Peer::can_run(stringify!($server))? {
                return Ok(());
            }
            forwards::check_rekeying(&Peer::$server(1_000_000).await?, $lines).await
        }
    )*};
}

mod the_server_rekeys_under_load {
    use super::{Peer, forwards};
    server_rekeys!("": sshd, openssh10, legacy, asyncssh, russh);
}

mod both_sides_rekey_under_load {
    use super::{Peer, forwards};
    server_rekeys!("rekey_limit = \"1M\"\n": sshd, openssh10, asyncssh);
}
