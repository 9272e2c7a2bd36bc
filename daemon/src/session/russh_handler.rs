//! What russh tells us while a session lives. Nothing here waits: it runs within the session's own loop.

use std::sync::Arc;

use russh::client::{ChannelOpenHandle, DisconnectReason, Handler, Msg, Session as Loop};
use russh::keys::{PublicKey, PublicKeyBase64 as _};
use russh::{Channel, ChannelId, ChannelOpenFailure, Names};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};

use super::Incoming;
use super::host_key::Judge;
use super::russh_client::{Shared, lock};
use super::russh_forwards::{Opened, Target};
use super::wire::Gauge;
use crate::failure::{Failure, FailureKind};
use crate::known_hosts;
use crate::text;

/// How many unwanted openings within how long end the session.
const VIOLATIONS: (u32, Duration) = (20, Duration::from_secs(10));
/// How much of the banners is kept.
const BANNER_LIMIT: usize = 8 * 1024;

/// The ear of one session.
pub(super) struct Hears {
    shared: Arc<Shared>,
    judge: Option<Judge>,
    trusted: Option<Vec<u8>>,
    incoming: mpsc::Sender<Incoming>,
    violations: (u32, Instant),
    tunnel: String,
}

/// The error of a handler: russh's own, or a failure that is told already.
#[derive(Debug)]
pub(super) enum Heard {
    Russh(russh::Error),
    Told(Failure),
}

impl From<russh::Error> for Heard {
    fn from(error: russh::Error) -> Self {
        Self::Russh(error)
    }
}

impl Hears {
    pub(super) fn new(
        shared: Arc<Shared>,
        judge: Judge,
        incoming: mpsc::Sender<Incoming>,
        tunnel: &str,
    ) -> Self {
        Self {
            shared,
            judge: Some(judge),
            trusted: None,
            incoming,
            violations: (0, Instant::now()),
            tunnel: tunnel.to_owned(),
        }
    }

    /// The server opened what nobody asked for.
    fn violation(&mut self, what: &str) -> Result<(), Heard> {
        let (count, since) = &mut self.violations;
        if since.elapsed() > VIOLATIONS.1 {
            (*count, *since) = (0, Instant::now());
        }
        *count += 1;
        if *count == 1 {
            tracing::warn!(
                tunnel = self.tunnel,
                "refused what the server opened unasked: {what}"
            );
        }
        if *count > VIOLATIONS.0 {
            let failure = Failure::new(
                FailureKind::Protocol,
                "the server keeps opening channels that nobody asked for",
            );
            return Err(Heard::Told(failure));
        }
        Ok(())
    }

    fn refuse(&mut self, reply: ChannelOpenHandle, what: &str) -> Result<(), Heard> {
        self.shared.spawn(async move {
            reply
                .reject(ChannelOpenFailure::AdministrativelyProhibited)
                .await
        });
        self.violation(what)
    }

    fn opened(&mut self, target: Target, opened: Opened) -> Result<(), Heard> {
        let mut forwards = lock(&self.shared.forwards);
        if let Some(found) = forwards.find(&target) {
            drop(forwards);
            opened.pass_on(Some(found), &self.shared);
            return Ok(());
        }
        let kept = forwards.keep(target, opened);
        drop(forwards);
        let Err(unwanted) = kept else { return Ok(()) };
        unwanted.refuse(&self.shared, ChannelOpenFailure::AdministrativelyProhibited);
        self.violation("a connection to a forward that is not active")
    }
}

impl Drop for Hears {
    fn drop(&mut self) {
        // The loop is gone, by whatever way: a panic too.
        self.shared.end.cut(Failure::new(
            FailureKind::Disconnected,
            "the connection was lost",
        ));
    }
}

impl Handler for Hears {
    type Error = Heard;

    async fn auth_banner(&mut self, banner: &str, _: &mut Loop) -> Result<(), Heard> {
        let mut kept = lock(&self.shared.banner);
        for line in banner.lines() {
            let line = text::escape(line.trim_end());
            if kept.len() + line.len() >= BANNER_LIMIT {
                break;
            }
            kept.push_str(&line);
            kept.push('\n');
        }
        Ok(())
    }

    async fn check_server_key(
        &mut self,
        offered: &russh::keys::PublicKeyOrCertificate,
    ) -> Result<bool, Heard> {
        let blob = match offered.certificate() {
            Some(certificate) => certificate.to_bytes().map_err(russh::Error::from)?,
            None => offered.public_key().public_key_bytes(),
        };
        if let Some(trusted) = &self.trusted {
            if *trusted == blob {
                return Ok(true);
            }
            return Err(Heard::Told(Failure::new(
                FailureKind::HostKeyChanged,
                "the server changed its host key in the middle of the session",
            )));
        }
        let Some(judge) = self.judge.take() else {
            return Ok(false);
        };
        let cut = self.shared.end.cut_off();
        let judged = tokio::select! {
            judged = judge(blob.clone()) => judged,
            () = cut => return Err(russh::Error::Disconnect.into()),
        };
        judged.map_err(Heard::Told)?;
        let key = offered.public_key();
        lock(&self.shared.agreed).host_key = format!(
            "{} {}",
            key.algorithm(),
            known_hosts::fingerprint(&key.public_key_bytes())
        );
        self.trusted = Some(blob);
        Ok(true)
    }

    async fn kex_done(
        &mut self,
        _: Option<&[u8]>,
        names: &Names,
        _: &mut Loop,
    ) -> Result<(), Heard> {
        let cipher = names.cipher.as_ref().to_owned();
        let brings_its_own = cipher.contains("gcm") || cipher.contains("poly1305");
        let mut agreed = lock(&self.shared.agreed);
        agreed.kex = names.kex.as_ref().to_owned();
        agreed.mac = (!brings_its_own).then(|| names.client_mac.as_ref().to_owned());
        agreed.cipher = cipher;
        Ok(())
    }

    async fn channel_open_confirmation(
        &mut self,
        id: ChannelId,
        _: u32,
        _: u32,
        _: &mut Loop,
    ) -> Result<(), Heard> {
        let _token = self.shared.know_channel(id);
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _: &mut Loop) -> Result<(), Heard> {
        self.shared.close_channel(id);
        Ok(())
    }

    async fn channel_open_failure(
        &mut self,
        _: ChannelId,
        reason: ChannelOpenFailure,
        description: &str,
        _: &str,
        _: &mut Loop,
    ) -> Result<(), Heard> {
        self.shared.note_refusal(reason.code(), description);
        Ok(())
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        channel: Channel<Msg>,
        connected_address: &str,
        connected_port: u32,
        originator_address: &str,
        originator_port: u32,
        reply: ChannelOpenHandle,
        _: &mut Loop,
    ) -> Result<(), Heard> {
        let target = Target::Tcp {
            address: connected_address.to_owned(),
            port: connected_port,
        };
        let originator = text::escape(&format!("{originator_address}:{originator_port}"));
        let to = self.incoming.clone();
        self.opened(
            target,
            Opened {
                channel,
                reply,
                originator,
                to,
            },
        )
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        socket_path: &str,
        reply: ChannelOpenHandle,
        _: &mut Loop,
    ) -> Result<(), Heard> {
        let originator = text::escape(socket_path);
        let to = self.incoming.clone();
        self.opened(
            Target::Unix(socket_path.to_owned()),
            Opened {
                channel,
                reply,
                originator,
                to,
            },
        )
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Loop,
    ) -> Result<(), Heard> {
        self.refuse(reply, "an agent channel")
    }

    async fn server_channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Loop,
    ) -> Result<(), Heard> {
        self.refuse(reply, "a session channel")
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Loop,
    ) -> Result<(), Heard> {
        self.refuse(reply, "a direct-tcpip channel")
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        reply: ChannelOpenHandle,
        _: &mut Loop,
    ) -> Result<(), Heard> {
        self.refuse(reply, "a direct-streamlocal channel")
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Loop,
    ) -> Result<(), Heard> {
        self.refuse(reply, "an X11 channel")
    }

    async fn openssh_ext_host_keys_announced(
        &mut self,
        keys: Vec<PublicKey>,
        _: &mut Loop,
    ) -> Result<(), Heard> {
        tracing::debug!(
            tunnel = self.tunnel,
            "the server announces {} host keys",
            keys.len()
        );
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Heard>) -> Result<(), Heard> {
        let failure = match reason {
            DisconnectReason::ReceivedDisconnect(info) => Failure::new(
                FailureKind::Disconnected,
                format!(
                    "the server closed the connection: {}",
                    text::escape(&info.message)
                ),
            ),
            DisconnectReason::Error(Heard::Told(failure)) => failure,
            DisconnectReason::Error(Heard::Russh(error)) => failure_of(&error),
        };
        self.shared.end.cut(failure);
        Ok(())
    }
}

/// What an error of the library means for a session.
pub(super) fn failure_of(error: &russh::Error) -> Failure {
    use russh::Error;
    let told = text::escape(&error.to_string());
    match error {
        Error::HUP | Error::Disconnect | Error::SendError | Error::RecvError => {
            Failure::new(FailureKind::Disconnected, "the server closed the connection")
        }
        Error::IO(error) => match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                Failure::new(FailureKind::Disconnected, "the server closed the connection")
            }
            std::io::ErrorKind::InvalidData => Failure::new(FailureKind::Protocol, told),
            std::io::ErrorKind::TimedOut => Failure::new(
                FailureKind::DeadPeer,
                format!("the network acknowledged nothing any more: {told}"),
            ),
            _ => Failure::new(FailureKind::Disconnected, format!("the connection broke: {told}")),
        },
        Error::NoCommonAlgo { kind, ours, theirs } => Failure::new(
            FailureKind::Protocol,
            text::escape(&format!(
                "no common {} algorithm: ours are {}; theirs are {}",
                kind_name(kind),
                ours.join(","),
                theirs.join(",")
            )),
        )
        .hint("an old server: set ciphers, macs, kex_algorithms or host_key_algorithms to what it offers"),
        _ => Failure::new(FailureKind::Protocol, format!("the SSH protocol broke: {told}")),
    }
}

fn kind_name(kind: &russh::AlgorithmKind) -> &'static str {
    match kind {
        russh::AlgorithmKind::Kex => "key exchange",
        russh::AlgorithmKind::Key => "host key",
        russh::AlgorithmKind::Cipher => "cipher",
        russh::AlgorithmKind::Compression => "compression",
        russh::AlgorithmKind::Mac => "MAC",
    }
}

/// Why the connection broke before it stood.
pub(super) fn handshake_failure(error: Heard, shared: &Shared, gauge: &Gauge) -> Failure {
    let failure = match error {
        Heard::Told(failure) => return failure,
        Heard::Russh(error) => match (shared.end.cause(), &error) {
            (Some(cause), russh::Error::Disconnect | russh::Error::HUP)
                if cause.message != "the connection was lost" =>
            {
                cause
            }
            _ => failure_of(&error),
        },
    };
    if gauge.identification().is_some() {
        return failure;
    }
    let message = match gauge.said() {
        said if said.is_empty() => format!("before the SSH identification: {}", failure.message),
        said => format!(
            "before the SSH identification: {} (it said: {said})",
            failure.message
        ),
    };
    Failure { message, ..failure }
}
