//! Signatures and certificates.
