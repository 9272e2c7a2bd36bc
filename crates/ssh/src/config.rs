//! What one session offers and how long it waits.

use std::time::Duration;

use crate::algorithm::Kind;

/// What one session offers and how long it waits.
#[derive(Debug, Clone)]
pub struct Config {
    /// Our identification, without the line end.
    pub ident: String,
    /// Key exchange methods, best first.
    pub kex: Vec<&'static str>,
    /// Host key algorithms, best first.
    pub host_keys: Vec<&'static str>,
    /// Ciphers, best first.
    pub ciphers: Vec<&'static str>,
    /// MACs, best first.
    pub macs: Vec<&'static str>,
    /// Compression, best first.
    pub compression: Vec<&'static str>,
    /// Whether ciphers open to the Terrapin attack are used with a server that has no strict key
    /// exchange.
    pub allow_terrapin: bool,
    /// New keys after so many bytes in one direction; none for the cipher's own limit.
    pub rekey_bytes: Option<u64>,
    /// New keys after so long.
    pub rekey_time: Option<Duration>,
    /// How long the server may take for each step of a key exchange.
    pub kex_timeout: Duration,
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
        }
    }
}
