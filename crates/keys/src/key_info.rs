//! What every reader of a key file returns, whatever the format.

use ssh_key::PrivateKey;

/// What a key file contains, as far as it is readable without the passphrase.
pub struct KeyInfo {
    /// The public key as it goes on the wire; `None` if only decryption reveals it.
    pub public: Option<Vec<u8>>,
    /// The private key; `None` if it is encrypted.
    pub key: Option<PrivateKey>,
}

/// Returns the public half in wire format. `None` if it cannot be encoded.
pub fn public_bytes(key: &PrivateKey) -> Option<Vec<u8>> {
    key.public_key().to_bytes().ok()
}
