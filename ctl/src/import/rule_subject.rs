//! What a rule of a browser add-on looks at.

/// The longest rule that is read, in bytes. A host has at most 253.
pub(super) const MAX_RULE: usize = 256;

/// What a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Url,
    Host,
}
