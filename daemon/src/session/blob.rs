//! The binary grammar of RFC 4251 §5, as far as keys, certificates and agents need it.

/// Reads from the front of some bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next byte.
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next uint32.
    pub(super) fn u32(&mut self) -> Option<u32> {
        let (first, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*first))
    }

    /// The next string.
    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        let (string, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(string)
    }
}

/// Writes a string.
pub(super) fn put_string(into: &mut Vec<u8>, string: &[u8]) {
    let len = u32::try_from(string.len()).unwrap_or(u32::MAX);
    into.extend(len.to_be_bytes());
    into.extend(string);
}

/// The algorithm name that a key, certificate or signature begins with.
pub(super) fn name(blob: &[u8]) -> Option<&str> {
    std::str::from_utf8(Reader(blob).string()?).ok()
}

/// The type without `-cert-v01@…`, and whether it was there.
pub(super) fn plain_type(name: &str) -> (String, bool) {
    match name.split_once("-cert-v01@") {
        // `sk-ssh-ed25519-cert-v01@openssh.com` is of the type `sk-ssh-ed25519@openssh.com`.
        Some((plain, domain)) if plain.starts_with("sk-") => (format!("{plain}@{domain}"), true),
        Some((plain, _)) => (plain.to_owned(), true),
        None => (name.to_owned(), false),
    }
}

/// How ssh calls a type in messages: `ED25519`, `RSA-CERT`, …
pub(super) fn short_type(name: &str) -> String {
    let (plain, certified) = plain_type(name);
    let short = match plain.as_str() {
        "ssh-ed25519" => "ED25519",
        "ssh-rsa" | "rsa-sha2-256" | "rsa-sha2-512" => "RSA",
        "ssh-dss" => "DSA",
        "sk-ssh-ed25519@openssh.com" => "ED25519-SK",
        "sk-ecdsa-sha2-nistp256@openssh.com" => "ECDSA-SK",
        ecdsa if ecdsa.starts_with("ecdsa-sha2-") => "ECDSA",
        _ => return crate::text::escape(name),
    };
    format!("{short}{}", if certified { "-CERT" } else { "" })
}
