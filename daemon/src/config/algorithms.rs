//! The algorithms that are offered unless told otherwise, and ssh_config's `+`, `-` and `^` upon them.

use super::fault::did_you_mean;
use crate::pattern;

/// Key exchange methods, best first.
pub const KEX: &[&str] = &[
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
/// Ciphers, best first.
pub const CIPHERS: &[&str] = &[
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
];
/// MACs, best first.
pub const MACS: &[&str] = &[
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
];
/// Host key and user key algorithms, best first, certificates before keys.
pub const KEYS: &[&str] = &[
    "ssh-ed25519-cert-v01@openssh.com",
    "ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "ecdsa-sha2-nistp384-cert-v01@openssh.com",
    "ecdsa-sha2-nistp521-cert-v01@openssh.com",
    "sk-ssh-ed25519-cert-v01@openssh.com",
    "sk-ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "rsa-sha2-512-cert-v01@openssh.com",
    "rsa-sha2-256-cert-v01@openssh.com",
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
];

/// A kind of algorithm: what is offered by default, and which names OpenSSH knows beyond.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// What is offered by default.
    pub default: &'static [&'static str],
    /// Names that may be asked for besides.
    pub legacy: &'static [&'static str],
}

/// Key exchange.
pub const KEX_KIND: Kind = Kind {
    default: KEX,
    legacy: &[
        "sntrup761x25519-sha512",
        "sntrup761x25519-sha512@openssh.com",
        "diffie-hellman-group14-sha1",
        "diffie-hellman-group1-sha1",
        "diffie-hellman-group-exchange-sha1",
    ],
};
/// Ciphers.
pub const CIPHER_KIND: Kind = Kind {
    default: CIPHERS,
    legacy: &["aes128-cbc", "aes192-cbc", "aes256-cbc", "3des-cbc"],
};
/// MACs.
pub const MAC_KIND: Kind = Kind {
    default: MACS,
    legacy: &[
        "umac-64-etm@openssh.com",
        "umac-128-etm@openssh.com",
        "umac-64@openssh.com",
        "umac-128@openssh.com",
        "hmac-sha1-etm@openssh.com",
        "hmac-sha1",
        "hmac-sha1-96-etm@openssh.com",
        "hmac-sha1-96",
        "hmac-md5-etm@openssh.com",
        "hmac-md5",
        "hmac-md5-96-etm@openssh.com",
        "hmac-md5-96",
    ],
};
/// Keys.
pub const KEY_KIND: Kind = Kind {
    default: KEYS,
    legacy: &["ssh-rsa-cert-v01@openssh.com", "ssh-rsa", "ssh-dss"],
};

/// The list that `text` stands for: a list of its own, or `+`, `-`, `^` and a list upon the defaults.
///
/// # Errors
/// The name that nobody knows, or that nothing is left.
pub fn list(kind: Kind, text: &str) -> Result<Vec<String>, String> {
    let (sign, names) = match text.split_at_checked(1) {
        Some((sign @ ("+" | "-" | "^"), names)) => (sign, names),
        _ => ("", text),
    };
    let default = || kind.default.iter().map(|name| (*name).to_owned());
    let list: Vec<String> = if sign == "-" {
        default()
            .filter(|name| pattern::list(name, names) != pattern::Verdict::Matched)
            .collect()
    } else {
        let mut named = Vec::new();
        for name in names.split(',').map(str::trim) {
            let matching = expand(kind, name)?;
            named.extend(
                matching
                    .into_iter()
                    .filter(|name| !default_has(kind, sign, name)),
            );
        }
        match sign {
            "+" => default().chain(named).collect(),
            "^" => {
                let rest: Vec<String> = default().filter(|name| !named.contains(name)).collect();
                named.into_iter().chain(rest).collect()
            }
            _ => named,
        }
    };
    if list.is_empty() {
        return Err(format!("\"{text}\" leaves no algorithm"));
    }
    let mut once: Vec<String> = Vec::with_capacity(list.len());
    for name in list {
        if !once.contains(&name) {
            once.push(name);
        }
    }
    Ok(once)
}

fn default_has(kind: Kind, sign: &str, name: &str) -> bool {
    sign == "+" && kind.default.contains(&name)
}

fn expand(kind: Kind, name: &str) -> Result<Vec<String>, String> {
    let all = || kind.default.iter().chain(kind.legacy).copied();
    if name.contains(['*', '?']) {
        return Ok(all()
            .filter(|known| pattern::matches(known, name))
            .map(str::to_owned)
            .collect());
    }
    if all().any(|known| known == name) {
        return Ok(vec![name.to_owned()]);
    }
    // Algorithm names are no keys: the did-you-mean of keys folds what differs here, which finds them all the same.
    let meant = did_you_mean(name, all()).map(|meant| format!("; did you mean \"{meant}\"?"));
    Err(format!(
        "no algorithm \"{name}\"{}",
        meant.unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_work_upon_the_defaults() {
        let of = |text| list(CIPHER_KIND, text).unwrap();
        assert_eq!(of("aes256-ctr,aes128-ctr"), ["aes256-ctr", "aes128-ctr"]);
        assert_eq!(of("+aes128-cbc").last().unwrap(), "aes128-cbc");
        assert_eq!(of("+aes128-cbc").len(), CIPHERS.len() + 1);
        assert_eq!(of("+aes128-ctr"), CIPHERS);
        assert_eq!(of("^aes256-ctr")[0], "aes256-ctr");
        assert_eq!(of("^aes256-ctr").len(), CIPHERS.len());
        assert_eq!(
            of("-aes*ctr,chacha*"),
            ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com"]
        );
        assert_eq!(of("aes*-cbc"), ["aes128-cbc", "aes192-cbc", "aes256-cbc"]);
    }

    #[test]
    fn unknown_names_and_empty_lists_are_told() {
        assert_eq!(
            list(CIPHER_KIND, "aes128-ctrr"),
            Err("no algorithm \"aes128-ctrr\"; did you mean \"aes128-ctr\"?".into())
        );
        assert!(
            list(CIPHER_KIND, "-*")
                .unwrap_err()
                .contains("leaves no algorithm")
        );
        assert!(list(KEX_KIND, "").is_err());
    }
}
