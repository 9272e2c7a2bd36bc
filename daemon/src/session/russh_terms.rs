//! russh's configuration: our algorithms, limits that keep out of its traps, windows that fit long ways.

use std::borrow::Cow;
use std::time::Duration;

use russh::keys::{Algorithm, HashAlg};
use russh::{Limits, Preferred, SshId, cipher, client, compression, kex, mac};

use super::russh_client::Terms;
use crate::failure::{Failure, FailureKind};
use crate::text;

/// The window of each channel. russh counts what it has received, not what was consumed, and halves it.
const WINDOW: u32 = 8 << 20;

const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::ECDH_SHA2_NISTP256,
    kex::ECDH_SHA2_NISTP384,
    kex::ECDH_SHA2_NISTP521,
    kex::DH_GEX_SHA256,
    kex::DH_G16_SHA512,
    kex::DH_G18_SHA512,
    kex::DH_G14_SHA256,
];
const KEX_EXTENSIONS: &[kex::Name] = &[
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
];
const CIPHERS: &[cipher::Name] = &[
    cipher::AES_128_GCM,
    cipher::AES_256_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
];
const MACS: &[mac::Name] = &[
    mac::HMAC_SHA256_ETM,
    mac::HMAC_SHA512_ETM,
    mac::HMAC_SHA256,
    mac::HMAC_SHA512,
    mac::HMAC_SHA1_ETM,
    mac::HMAC_SHA1,
];

/// The configuration for one connection.
pub(super) fn config(terms: &Terms<'_>) -> Result<client::Config, Failure> {
    let crypto = terms.crypto;
    let mut kex = choose("kex_algorithms", &crypto.kex, KEX, |name| {
        kex::Name::try_from(name)
            .ok()
            .filter(|name| !KEX_EXTENSIONS.contains(name))
    })?;
    kex.extend_from_slice(KEX_EXTENSIONS);
    let (key, host_key_certificates) = host_keys(terms.host_key_algorithms);
    if crypto.compression {
        tracing::info!(
            tunnel = terms.tunnel,
            "compression is not available and left out"
        );
    }
    Ok(client::Config {
        client_id: SshId::Standard(Cow::Borrowed(concat!(
            "SSH-2.0-tunneld_",
            env!("CARGO_PKG_VERSION")
        ))),
        window_size: WINDOW,
        maximum_packet_size: 32 * 1024,
        channel_buffer_size: 256,
        nodelay: true,
        // A key exchange that the client starts can end the connection under load; sshd starts its own in time.
        limits: Limits {
            rekey_write_limit: 1 << 34,
            rekey_read_limit: 1 << 34,
            rekey_time_limit: Duration::from_secs(10 * 365 * 86_400),
        },
        keepalive_interval: None,
        inactivity_timeout: None,
        preferred: Preferred {
            kex: kex.into(),
            key: key.into(),
            host_key_certificates: host_key_certificates.into(),
            cipher: choose("ciphers", &crypto.ciphers, CIPHERS, |name| {
                cipher::Name::try_from(name)
                    .ok()
                    .filter(|name| *name != cipher::NONE && *name != cipher::CLEAR)
            })?
            .into(),
            mac: choose("macs", &crypto.macs, MACS, |name| {
                mac::Name::try_from(name)
                    .ok()
                    .filter(|name| *name != mac::NONE)
            })?
            .into(),
            compression: Cow::Borrowed(&[compression::NONE]),
        },
        ..client::Config::default()
    })
}

/// The names of `wanted` that there are; the default where none is wanted.
fn choose<N: Copy>(
    key: &str,
    wanted: &[String],
    default: &[N],
    find: impl Fn(&str) -> Option<N>,
) -> Result<Vec<N>, Failure> {
    if wanted.is_empty() {
        return Ok(default.to_vec());
    }
    let found: Vec<N> = wanted.iter().filter_map(|name| find(name)).collect();
    if found.is_empty() {
        return Err(Failure::new(
            FailureKind::Config,
            format!(
                "none of {key} is implemented: {}",
                text::escape(&wanted.join(","))
            ),
        )
        .hint(format!(
            "take some of {key} out, or leave it to the default"
        )));
    }
    Ok(found)
}

fn host_keys(wanted: &[String]) -> (Vec<Algorithm>, Vec<Algorithm>) {
    let (mut plain, mut certified) = (Vec::new(), Vec::new());
    for name in wanted {
        match name.strip_suffix("-cert-v01@openssh.com") {
            Some(name) => certified.extend(algorithm(name)),
            None => plain.extend(algorithm(name)),
        }
    }
    (plain, certified)
}

fn algorithm(name: &str) -> Option<Algorithm> {
    match name {
        "rsa-sha2-512" => Some(Algorithm::Rsa {
            hash: Some(HashAlg::Sha512),
        }),
        "rsa-sha2-256" => Some(Algorithm::Rsa {
            hash: Some(HashAlg::Sha256),
        }),
        name => Algorithm::new(name)
            .ok()
            .filter(|algorithm| !matches!(algorithm, Algorithm::Other(_))),
    }
}
