//! Private key files, signatures, known_hosts and revocation lists, as OpenSSH reads them.
//!
//! Pure: bytes in, values out. No file, no clock, no runtime; the daemon's `session` reads the files. Formats and
//! cryptographic primitives come from libraries, this crate holds together what they leave open.

mod der;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod hex;
mod key_info;
pub mod known_hosts;
mod openssh;
mod pem;
pub mod private_key;
mod putty;
mod sign;
pub mod wire;

pub use error::DecryptError;
pub use key_info::KeyInfo;
pub use private_key::PrivateKey;
pub use sign::sign;
