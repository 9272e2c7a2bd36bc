//! Why a key file cannot be used.

/// Neither current servers nor the libraries used here accept DSA keys.
pub(crate) const NO_DSA: &str = "DSA keys are not supported, and current servers refuse them too (`ssh-keygen -t ed25519` creates a new key)";

/// Why a private key was not decrypted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecryptError {
    /// Another passphrase may decrypt it.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// No passphrase decrypts it; the text says why.
    #[error("{0}")]
    Unusable(String),
}

/// The error text for a file that violates the format that it claims.
pub(crate) fn corrupt(why: &str) -> String {
    format!("the file is damaged: {why}")
}
