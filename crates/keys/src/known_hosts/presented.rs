//! The host key as the key exchange delivered it: the input of the revocation checks.

/// A host key that a server has presented.
#[derive(Debug, Clone, Copy)]
pub struct Presented<'a> {
    /// The plain public key as on the wire; for a certificate, the key that it certifies.
    pub plain: &'a [u8],
    /// The certificate's own fields; `None` if the server presented a plain key.
    pub certified: Option<CertifiedBy<'a>>,
}

/// The fields of a host certificate that a revocation list can name (OpenSSH PROTOCOL.certkeys).
#[derive(Debug, Clone, Copy)]
pub struct CertifiedBy<'a> {
    /// Public key of the certificate authority, as on the wire.
    pub authority: &'a [u8],
    /// Serial number; 0 means that the certificate has none.
    pub serial: u64,
    /// Key ID, chosen by the authority.
    pub key_id: &'a [u8],
}
