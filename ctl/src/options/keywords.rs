//! The keywords of ssh_config(5) that `-o` accepts: translated to a key, ignored, or not supported.

use crate::exit::Exit;

/// The form of a key's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    /// `yes` or `no`.
    Flag,
    Number,
    /// A list of strings; the keyword may be repeated.
    Texts,
    /// A list of file names; the keyword may be repeated.
    Files,
    /// File names separated by blanks; only the first occurrence of the keyword counts.
    FileList,
    /// A file name, `yes` or `no`.
    FileOrFlag,
}

use Form::{FileList, FileOrFlag, Files, Flag, Number, Text, Texts};

/// Keyword of ssh_config, key of tunneld, form of the value. Keys that only tunneld has come last, with an empty keyword.
const KEYS: &[(&str, &str, Form)] = &[
    ("HostName", "host_name", Text),
    ("User", "user", Text),
    ("Port", "port", Number),
    ("AddressFamily", "address_family", Text),
    ("BindAddress", "bind_address", Text),
    ("BindInterface", "bind_interface", Text),
    ("ConnectTimeout", "connect_timeout", Text),
    ("ProxyJump", "proxy_jump", Text),
    ("ProxyCommand", "proxy_command", Text),
    ("IdentityFile", "identity_file", Files),
    ("IdentitiesOnly", "identities_only", Flag),
    ("IdentityAgent", "identity_agent", Text),
    ("CertificateFile", "certificate_file", Files),
    ("AddKeysToAgent", "add_keys_to_agent", Text),
    (
        "PreferredAuthentications",
        "preferred_authentications",
        Text,
    ),
    ("PubkeyAuthentication", "pubkey_authentication", Flag),
    ("PasswordAuthentication", "password_authentication", Flag),
    (
        "KbdInteractiveAuthentication",
        "kbd_interactive_authentication",
        Flag,
    ),
    (
        "PubkeyAcceptedAlgorithms",
        "pubkey_accepted_algorithms",
        Text,
    ),
    (
        "NumberOfPasswordPrompts",
        "number_of_password_prompts",
        Number,
    ),
    ("StrictHostKeyChecking", "strict_host_key_checking", Text),
    ("UserKnownHostsFile", "user_known_hosts_file", FileList),
    ("GlobalKnownHostsFile", "global_known_hosts_file", FileList),
    ("RevokedHostKeys", "revoked_host_keys", FileList),
    ("KnownHostsCommand", "known_hosts_command", Text),
    ("HostKeyAlias", "host_key_alias", Text),
    ("HostKeyAlgorithms", "host_key_algorithms", Text),
    ("RequiredRSASize", "required_rsa_size", Number),
    ("HashKnownHosts", "hash_known_hosts", Flag),
    ("UpdateHostKeys", "update_host_keys", Text),
    ("Ciphers", "ciphers", Text),
    ("MACs", "macs", Text),
    ("KexAlgorithms", "kex_algorithms", Text),
    ("Compression", "compression", Flag),
    ("RekeyLimit", "rekey_limit", Text),
    ("ServerAliveInterval", "server_alive_interval", Text),
    ("ServerAliveCountMax", "server_alive_count_max", Number),
    ("TCPKeepAlive", "tcp_keep_alive", Flag),
    ("LocalForward", "local_forward", Texts),
    ("RemoteForward", "remote_forward", Texts),
    ("DynamicForward", "dynamic_forward", Texts),
    ("ClearAllForwardings", "clear_all_forwardings", Flag),
    ("GatewayPorts", "gateway_ports", Flag),
    ("ExitOnForwardFailure", "exit_on_forward_failure", Flag),
    ("StreamLocalBindUnlink", "stream_local_bind_unlink", Flag),
    ("StreamLocalBindMask", "stream_local_bind_mask", Text),
    ("PermitRemoteOpen", "permit_remote_open", Text),
    ("", "ssh_config", FileOrFlag),
    ("", "autostart", Flag),
    ("", "on_demand", Flag),
    ("", "idle_timeout", Text),
    ("", "hold", Text),
    ("", "sessions", Number),
    ("", "description", Text),
    ("", "tags", Texts),
    ("", "proxy_for", Texts),
    ("", "proxy_user", Text),
    ("", "dns_listen", Texts),
    ("", "dns_server", Text),
];

/// Deprecated and alternative names that ssh accepts, and the keyword that each one means.
const ALIASES: &[(&str, &str)] = &[
    ("PubkeyAcceptedKeyTypes", "PubkeyAcceptedAlgorithms"),
    ("DSAAuthentication", "PubkeyAuthentication"),
    ("RSAAuthentication", "PubkeyAuthentication"),
    (
        "ChallengeResponseAuthentication",
        "KbdInteractiveAuthentication",
    ),
    ("SkeyAuthentication", "KbdInteractiveAuthentication"),
    ("TISAuthentication", "KbdInteractiveAuthentication"),
    ("KeepAlive", "TCPKeepAlive"),
    ("SmartcardDevice", "PKCS11Provider"),
];

/// Keywords without meaning for a daemon that only forwards, and keywords that ssh itself ignores by now.
const IGNORED: &[&str] = &[
    "BatchMode",
    "CanonicalDomains",
    "CanonicalizeFallbackLocal",
    "CanonicalizeMaxDots",
    "CanonicalizePermittedCNAMEs",
    "CheckHostIP",
    "Cipher",
    "CompressionLevel",
    "ConnectionAttempts",
    "ControlMaster",
    "ControlPath",
    "ControlPersist",
    "EnableEscapeCommandline",
    "EnableSSHKeysign",
    "EscapeChar",
    "FingerprintHash",
    "ForkAfterAuthentication",
    "ForwardAgent",
    "ForwardX11",
    "ForwardX11Timeout",
    "ForwardX11Trusted",
    "GSSAPIDelegateCredentials",
    "HostbasedAcceptedAlgorithms",
    "HostbasedKeyTypes",
    "IgnoreUnknown",
    "IPQoS",
    "KbdInteractiveDevices",
    "LocalCommand",
    "LogLevel",
    "LogVerbose",
    "ObscureKeystrokeTiming",
    "PermitLocalCommand",
    "Protocol",
    "RemoteCommand",
    "RequestTTY",
    "SendEnv",
    "SessionType",
    "SetEnv",
    "StdinNull",
    "SyslogFacility",
    "TunnelDevice",
    "UsePrivilegedPort",
    "VisualHostKey",
    "XAuthLocation",
];

/// Keywords that tunneld does not support: the values for which this makes no difference, and the note for any other.
const UNSUPPORTED: &[(&str, &[&str], &str)] = &[
    (
        "CanonicalizeHostname",
        &["no", "false", "none"],
        "write it into ~/.ssh/config, where it is supported",
    ),
    (
        "CASignatureAlgorithms",
        &[],
        "tunneld uses its own list of algorithms",
    ),
    (
        "GSSAPIAuthentication",
        &["no", "false"],
        "tunneld logs in without Kerberos",
    ),
    (
        "HostbasedAuthentication",
        &["no", "false"],
        "tunneld has no host-based login",
    ),
    (
        "NoHostAuthenticationForLocalhost",
        &["no", "false"],
        "the host key is checked for localhost, too",
    ),
    (
        "PKCS11Provider",
        &["none"],
        "add the token to the agent: ssh-add -s LIBRARY",
    ),
    (
        "ProxyUseFdpass",
        &["no", "false"],
        "the ProxyCommand must relay the bytes itself",
    ),
    ("RequiredRSASize", &[], "small RSA keys are not refused"),
    (
        "SecurityKeyProvider",
        &["internal", "none"],
        "use the security key through the agent",
    ),
    ("Tunnel", &["no", "false"], "tunneld has no tun device"),
    (
        "VerifyHostKeyDNS",
        &["no", "false"],
        "host keys are not looked up in DNS",
    ),
];

/// How a keyword is handled.
pub(super) enum Found {
    /// Translated to this key of `[tunnel.NAME]`, with its value in this form.
    Key(&'static str, Form),
    /// Accepted, and ignored without a note.
    Ignored,
    /// Not supported: harmless values, and the note for any other.
    Unsupported(&'static [&'static str], &'static str),
}

fn find_in<T>(
    mut table: impl Iterator<Item = &'static T>,
    word: impl Fn(&T) -> &str,
    keyword: &str,
) -> Option<&'static T> {
    table.find(|row| word(row).eq_ignore_ascii_case(keyword))
}

/// Looks up a keyword, an alias or a key; upper and lower case are equal.
pub(super) fn find(keyword: &str) -> Result<Found, Exit> {
    let alias = find_in(ALIASES.iter(), |(alias, _)| alias, keyword);
    let keyword = alias.map_or(keyword, |(_, keyword)| keyword);
    let known = !keyword.is_empty();
    let found = KEYS.iter().find(|(ssh, own, _)| {
        known && (keyword.eq_ignore_ascii_case(ssh) || keyword.eq_ignore_ascii_case(own))
    });
    if let Some((_, key, form)) = found {
        return Ok(Found::Key(key, *form));
    }
    if find_in(IGNORED.iter(), |ignored| ignored, keyword).is_some() {
        return Ok(Found::Ignored);
    }
    if let Some((_, harmless, instead)) = find_in(UNSUPPORTED.iter(), |(ssh, ..)| ssh, keyword) {
        return Ok(Found::Unsupported(harmless, instead));
    }
    let error = Exit::usage(format!("-o {keyword}: unknown option"));
    if keyword.eq_ignore_ascii_case("host") {
        return Err(error.hint("the host is the destination at the end of the command line"));
    }
    // Compared in lower case, so that only the letters count for the suggestion.
    let lower = keyword.to_ascii_lowercase();
    let words = KEYS
        .iter()
        .map(|(ssh, own, _)| if ssh.is_empty() { own } else { ssh });
    let nearest = words
        .map(|word| {
            (
                strsim::jaro_winkler(&lower, &word.to_ascii_lowercase()),
                word,
            )
        })
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    Err(match nearest {
        Some((near, word)) if near > 0.8 => error.hint(format!("did you mean {word}?")),
        _ => error.hint("see docs/ssh_config.md for the supported options"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keywords of a section of the manual: a list, or the first column of a table.
    fn keywords(section: &str) -> Vec<&'static str> {
        let manual = include_str!("../../../docs/ssh_config.md");
        let (_, rest) = manual.split_once(&format!("\n## {section}\n")).unwrap();
        let text = rest.split("\n## ").next().unwrap();
        let rows = text.lines().filter_map(|line| {
            let row = line
                .strip_prefix("| ")
                .and_then(|row| row.split(" |").next());
            row.or((line.contains(", ") && !line.contains('`')).then_some(line))
        });
        let words = rows.flat_map(|row| row.split(", ")).map(|word| {
            let word = word.split(" (").next().unwrap_or(word);
            word.trim_matches([' ', ',', '.'])
        });
        let words = words.filter(|word| {
            word.starts_with(char::is_uppercase) && word.chars().all(char::is_alphanumeric)
        });
        words.collect()
    }

    #[test]
    fn every_keyword_of_the_manual_is_taken() {
        let (honoured, ignored) = (keywords("Honoured"), keywords("Ignored silently"));
        let unsupported = keywords("Not supported");
        assert!(honoured.len() > 40 && ignored.len() > 25 && unsupported.len() > 8);
        // Sections of a file, not options of a host.
        let own = ["Host", "Match", "Include"];
        for keyword in honoured.into_iter().filter(|word| !own.contains(word)) {
            assert!(find(keyword).is_ok(), "{keyword}");
        }
        for keyword in ignored {
            assert!(matches!(find(keyword), Ok(Found::Ignored)), "{keyword}");
        }
        for keyword in unsupported {
            assert!(
                matches!(find(keyword), Ok(Found::Unsupported(..))),
                "{keyword}"
            );
        }
    }

    #[test]
    fn every_key_is_its_keyword_in_snake_case() {
        for (ssh, own, _) in KEYS {
            if !ssh.is_empty() {
                assert_eq!(ssh.to_ascii_lowercase(), own.replace('_', ""));
            }
        }
    }
}
