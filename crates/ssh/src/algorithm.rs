//! The names of the algorithms: what we have, what is offered unasked, and ssh_config's lists.

use crate::error::Error;

/// What an algorithm is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Key exchange.
    Kex,
    /// Host keys and their signatures.
    HostKey,
    /// Ciphers.
    Cipher,
    /// Message authentication codes.
    Mac,
    /// Compression.
    Compression,
}

const KEX: &[&str] = &[
    "mlkem768x25519-sha256",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
    "diffie-hellman-group-exchange-sha256",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group18-sha512",
    "diffie-hellman-group14-sha256",
];
const KEX_LEGACY: &[&str] = &[
    "diffie-hellman-group-exchange-sha1",
    "diffie-hellman-group14-sha1",
    "diffie-hellman-group1-sha1",
];
// Certificates come last: a server that has both then shows the plain key, unless a caller who
// trusts an authority for this host puts them first.
const HOST_KEY: &[&str] = &[
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
    "ssh-ed25519-cert-v01@openssh.com",
    "ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "ecdsa-sha2-nistp384-cert-v01@openssh.com",
    "ecdsa-sha2-nistp521-cert-v01@openssh.com",
    "sk-ssh-ed25519-cert-v01@openssh.com",
    "sk-ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "rsa-sha2-512-cert-v01@openssh.com",
    "rsa-sha2-256-cert-v01@openssh.com",
];
const HOST_KEY_LEGACY: &[&str] = &["ssh-rsa", "ssh-rsa-cert-v01@openssh.com"];
const CIPHER: &[&str] = &[
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
];
const CIPHER_NO_AES: &[&str] = &[
    "chacha20-poly1305@openssh.com",
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
];
const CIPHER_LEGACY: &[&str] = &["aes128-cbc", "aes192-cbc", "aes256-cbc", "3des-cbc"];
const MAC: &[&str] = &[
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
];
const MAC_LEGACY: &[&str] = &["hmac-sha1-etm@openssh.com", "hmac-sha1"];
const COMPRESSION: &[&str] = &["none"];
const COMPRESSION_OPTIONAL: &[&str] = &["zlib@openssh.com"];

impl Kind {
    /// The kind in words.
    pub fn what(self) -> &'static str {
        match self {
            Self::Kex => "key exchange method",
            Self::HostKey => "host key algorithm",
            Self::Cipher => "cipher",
            Self::Mac => "MAC",
            Self::Compression => "compression",
        }
    }

    /// What is offered unless the configuration says otherwise, best first.
    pub fn defaults(self) -> &'static [&'static str] {
        match self {
            Self::Kex => KEX,
            Self::HostKey => HOST_KEY,
            Self::Cipher if cpu_has_aes() => CIPHER,
            Self::Cipher => CIPHER_NO_AES,
            Self::Mac => MAC,
            Self::Compression => COMPRESSION,
        }
    }

    /// What is offered only when the configuration names it.
    pub fn only_when_named(self) -> &'static [&'static str] {
        match self {
            Self::Kex => KEX_LEGACY,
            Self::HostKey => HOST_KEY_LEGACY,
            Self::Cipher => CIPHER_LEGACY,
            Self::Mac => MAC_LEGACY,
            Self::Compression => COMPRESSION_OPTIONAL,
        }
    }

    /// All that we have.
    pub fn known(self) -> impl Iterator<Item = &'static str> {
        let (defaults, rest) = (self.defaults(), self.only_when_named());
        defaults.iter().chain(rest).copied()
    }

    /// The algorithm of this name, if we have it.
    pub fn find(self, name: &str) -> Option<&'static str> {
        self.known().find(|known| *known == name)
    }

    /// Proves every name of a list.
    pub fn list<S: AsRef<str>>(self, names: &[S]) -> Result<Vec<&'static str>, Error> {
        let mut list = Vec::with_capacity(names.len());
        for name in names {
            let found = self
                .find(name.as_ref())
                .ok_or_else(|| self.unknown(name.as_ref()))?;
            if !list.contains(&found) {
                list.push(found);
            }
        }
        Ok(list)
    }

    /// Resolves a list in ssh_config's syntax: `a,b` replaces the defaults, `+a` appends, `^a`
    /// prepends, `-a*` takes away (with `*` and `?`).
    pub fn resolve(self, text: &str) -> Result<Vec<&'static str>, Error> {
        let mut chars = text.chars();
        let (sign, names) = match chars.next() {
            Some(sign @ ('+' | '-' | '^')) => (Some(sign), chars.as_str()),
            _ => (None, text),
        };
        let names: Vec<&str> = names
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .collect();
        let defaults = self.defaults().iter().copied();
        if sign == Some('-') {
            return Ok(defaults
                .filter(|name| !names.iter().any(|pattern| matches(pattern, name)))
                .collect());
        }
        let named = self.list(&names)?;
        if named.is_empty() {
            return Err(self.unknown(text));
        }
        Ok(match sign {
            None => named,
            Some('^') => {
                let rest: Vec<&str> = defaults.filter(|name| !named.contains(name)).collect();
                named.into_iter().chain(rest).collect()
            }
            Some(_) => {
                let mut all: Vec<&str> = defaults.collect();
                all.extend(named.iter().filter(|name| !self.defaults().contains(name)));
                all
            }
        })
    }

    fn unknown(self, name: &str) -> Error {
        Error::UnknownAlgorithm {
            what: self.what(),
            name: name.to_owned(),
            known: self.known().collect::<Vec<_>>().join(","),
        }
    }
}

/// Whether the cipher AES runs in hardware, so that it goes before ChaCha20.
fn cpu_has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    {
        std::arch::is_x86_feature_detected!("aes")
            && std::arch::is_x86_feature_detected!("pclmulqdq")
    }
    #[cfg(target_arch = "aarch64")]
    {
        std::arch::is_aarch64_feature_detected!("aes")
    }
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    {
        false
    }
}

/// ssh_config's patterns: `*` for any run, `?` for one character. Only the last `*` is ever gone back to, so
/// that no pattern takes long.
fn matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (pattern.chars(), name.chars());
    let mut last_star = None;
    loop {
        let name_here = name.clone();
        match (pattern.next(), name.next()) {
            (Some('*'), _) => {
                last_star = Some((pattern.clone(), name_here.clone()));
                name = name_here;
            }
            (None, None) => return true,
            (Some('?'), Some(_)) => {}
            (Some(one), Some(first)) if one == first => {}
            _ => {
                let Some((after, from)) = &mut last_star else {
                    return false;
                };
                if from.next().is_none() {
                    return false;
                }
                (pattern, name) = (after.clone(), from.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_replace_append_prepend_and_take_away() {
        let macs = |text| Kind::Mac.resolve(text);
        assert_eq!(macs("hmac-sha1").ok(), Some(vec!["hmac-sha1"]));
        let plus = macs("+hmac-sha1,hmac-sha2-256").unwrap_or_default();
        assert_eq!(plus.last(), Some(&"hmac-sha1"));
        assert_eq!(plus.len(), MAC.len() + 1);
        let caret = macs("^hmac-sha2-512").unwrap_or_default();
        assert_eq!(caret.first(), Some(&"hmac-sha2-512"));
        assert_eq!(caret.len(), MAC.len());
        assert_eq!(
            macs("-*-etm@openssh.com").ok(),
            Some(vec!["hmac-sha2-256", "hmac-sha2-512"])
        );
    }

    #[test]
    fn an_unknown_name_is_told_with_the_known_ones() {
        let error = Kind::Cipher.resolve("aes128-gmc").unwrap_err().to_string();
        assert!(error.contains("aes128-gmc") && error.contains("aes128-gcm@openssh.com"));
        assert!(Kind::Cipher.resolve("").is_err());
    }

    #[test]
    fn patterns_match_as_a_whole() {
        for (pattern, name, fits) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a*", "a", true),
            ("*.example.org", "a.b.example.org", true),
            ("*.example.org", "example.org", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b", "aabab", true),
            ("*ab", "aab", true),
            ("a*b*c", "abbcbc", true),
            ("a*b*c", "abbcb", false),
            ("ä?*", "äöü", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn no_pattern_takes_long() {
        let (pattern, name) = ("*?".repeat(5000) + "x", "a".repeat(10_000));
        let start = tokio::time::Instant::now();
        assert!(!matches(&pattern, &name));
        assert!(start.elapsed() < std::time::Duration::from_secs(5));
    }

    #[test]
    fn nothing_legacy_is_offered_unasked() {
        for kind in [Kind::Kex, Kind::HostKey, Kind::Cipher, Kind::Mac] {
            for name in kind.defaults() {
                assert!(!kind.only_when_named().contains(name));
                assert!(!name.ends_with("sha1") && !name.contains("cbc") && *name != "ssh-rsa");
            }
        }
    }
}
