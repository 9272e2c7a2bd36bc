//! What a host has shown in the key exchange: the input of the revocation checks.

/// What a host has shown.
#[derive(Debug, Clone, Copy)]
pub struct Presented<'a> {
    /// Its plain key.
    pub plain: &'a [u8],
    /// Who has certified that, where somebody has.
    pub certified: Option<CertifiedBy<'a>>,
}

/// What a certificate says of itself.
#[derive(Debug, Clone, Copy)]
pub struct CertifiedBy<'a> {
    /// The authority's key.
    pub authority: &'a [u8],
    /// The serial number; 0 for none.
    pub serial: u64,
    /// The authority's name for it.
    pub key_id: &'a [u8],
}
