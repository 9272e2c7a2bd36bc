//! The key exchange (RFC 4253) and the check of the host key: which algorithms are offered, and with which time limits.

use std::sync::Arc;

use tunneld_proto::text;
use tunneld_ssh::Config;
use tunneld_ssh::algorithm::Kind;
use tunneld_ssh::client;
use tunneld_ssh::transport::HostKeyOffer;

use crate::failure::{Failure, FailureKind};
use crate::session::host_key::{HostKeyVerifier, plain_key};
use crate::session::ssh_error::{failure_of, may_be_overload};
use tunneld_config::model::{Crypto, Route};
use tunneld_keys::known_hosts;

/// Why there is no connection with exchanged keys.
#[derive(Debug)]
pub(super) struct ExchangeError {
    pub(super) failure: Failure,
    /// Whether the server closed the connection before it showed a host key, as one does that has too many connections
    /// which are not logged in.
    pub(super) dropped_early: bool,
}

impl From<Failure> for ExchangeError {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            dropped_early: false,
        }
    }
}

/// Exchanges keys over `stream` and verifies the host key. Calls `on_host_key` when the server has shown its key.
/// Returns the connection and the SHA256 fingerprint of the accepted key; of a certificate, that of the key in it.
///
/// # Errors
/// The verifier's failure, or what the key exchange failed with.
pub(super) async fn connect(
    stream: client::Stream,
    route: &Route,
    verifier: HostKeyVerifier,
    on_host_key: impl AsyncFnOnce(),
) -> Result<(client::Authenticator, String), ExchangeError> {
    let config = Config {
        min_rsa_bits: route
            .host_keys
            .min_rsa_bits
            .and_then(|bits| usize::try_from(bits).ok()),
        ..config(&route.crypto, &verifier.algorithms())?
    };
    let options = client::Options {
        keepalive: route
            .liveness
            .interval
            .map(|interval| (interval, route.liveness.count_max)),
        // The deadlines of the dial must expire first: they pause while a person is asked, these limits do not.
        handshake_timeout: route.connect_timeout.saturating_mul(2),
        auth_timeout: route.login_timeout.saturating_mul(2),
        ..client::Options::default()
    };
    // The library only learns yes or no; the reason is kept here.
    let mut rejection = None;
    let mut fingerprint = String::new();
    let verify = async |offer: HostKeyOffer| {
        on_host_key().await;
        fingerprint = known_hosts::fingerprint(&plain_key(&offer));
        match verifier.verify(&offer).await {
            Ok(()) => true,
            Err(failure) => {
                rejection = Some(failure);
                false
            }
        }
    };
    let result = client::handshake(stream, Arc::new(config), options, &route.user, verify).await;
    match (result, rejection) {
        (_, Some(failure)) => Err(failure.into()),
        (Ok(connected), None) => Ok((connected, fingerprint)),
        (Err(error), None) => Err(ExchangeError {
            failure: failure_of(&error),
            dropped_early: fingerprint.is_empty() && may_be_overload(&error),
        }),
    }
}

fn config(crypto: &Crypto, host_keys: &[String]) -> Result<Config, Failure> {
    let compression: &[&str] = match crypto.compression {
        true => &["zlib@openssh.com", "none"],
        false => &["none"],
    };
    Ok(Config {
        kex: choose("kex_algorithms", Kind::Kex, &crypto.kex)?,
        host_keys: choose("host_key_algorithms", Kind::HostKey, host_keys)?,
        ciphers: choose("ciphers", Kind::Cipher, &crypto.ciphers)?,
        macs: choose("macs", Kind::Mac, &crypto.macs)?,
        compression: compression.to_vec(),
        rekey_bytes: crypto.rekey.bytes,
        rekey_time: crypto.rekey.time,
        ..Config::default()
    })
}

/// Returns the algorithms of `configured` that tunneld has, in that order; the defaults if `configured` is empty.
fn choose(key: &str, kind: Kind, configured: &[String]) -> Result<Vec<&'static str>, Failure> {
    if configured.is_empty() {
        return Ok(kind.defaults().to_vec());
    }
    // A list that ssh_config(5) shares with ssh names algorithms that only ssh has (`umac-…`, `sntrup761…`): these are
    // skipped, and only a list without any known name is an error.
    let found: Vec<&'static str> = configured
        .iter()
        .filter_map(|name| kind.find(name))
        .collect();
    if found.is_empty() {
        let known: Vec<&str> = kind.known().collect();
        return Err(Failure::new(
            FailureKind::Config,
            format!(
                "{key}: tunneld has no {} named {}",
                kind.label(),
                text::escape(&configured.join(","))
            ),
        )
        .hint(format!("the known names are {}", known.join(", "))));
    }
    Ok(found)
}
