//! What one session offers in the key exchange.

use std::time::Duration;

use crate::algorithm::Kind;

/// Algorithms, rekey limits and time limit of one session's transport.
///
/// ```
/// use tunneld_ssh::Config;
/// use tunneld_ssh::algorithm::Kind;
///
/// let config = Config {
///     ciphers: vec!["aes256-gcm@openssh.com"],
///     rekey_bytes: Some(1 << 30),
///     ..Config::default()
/// };
/// assert_eq!(config.macs, Kind::Mac.defaults());
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    /// Our identification, `SSH-2.0-` included and without the line end.
    pub ident: String,
    /// Key exchange methods, preferred first.
    pub kex: Vec<&'static str>,
    /// Host key algorithms, preferred first.
    pub host_keys: Vec<&'static str>,
    /// Ciphers for both directions, preferred first.
    pub ciphers: Vec<&'static str>,
    /// MACs, preferred first. Not used with ciphers that authenticate by themselves.
    pub macs: Vec<&'static str>,
    /// Compression methods for both directions, preferred first.
    pub compression: Vec<&'static str>,
    /// Whether ciphers that are open to the Terrapin attack are used with a server that has no strict key exchange.
    pub allow_terrapin: bool,
    /// Bytes in one direction after which new keys are made, 1 KiB at least. `None` for the cipher's own limit.
    pub rekey_bytes: Option<u64>,
    /// Age of the keys at which new ones are made. `None` for no limit.
    pub rekey_time: Option<Duration>,
    /// Time limit of the server for each step of a key exchange.
    pub kex_timeout: Duration,
    /// Bits that an RSA host key must have at least. `None` for 2048 with SHA-2 and 1024 with `ssh-rsa`; 1024 is the lowest
    /// limit that can be set.
    pub min_rsa_bits: Option<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ident: concat!("SSH-2.0-tunneld_", env!("CARGO_PKG_VERSION")).to_owned(),
            kex: Kind::Kex.defaults().to_vec(),
            host_keys: Kind::HostKey.defaults().to_vec(),
            ciphers: Kind::Cipher.defaults().to_vec(),
            macs: Kind::Mac.defaults().to_vec(),
            compression: Kind::Compression.defaults().to_vec(),
            allow_terrapin: false,
            rekey_bytes: None,
            rekey_time: None,
            kex_timeout: Duration::from_secs(60),
            min_rsa_bits: None,
        }
    }
}
