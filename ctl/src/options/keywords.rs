//! The keywords of ssh_config, and what becomes of each on the command line.

use crate::exit::Exit;

/// The form of a key's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A string.
    Text,
    /// yes or no.
    Flag,
    /// A whole number.
    Number,
    /// Strings; the keyword may stand more than once.
    Texts,
    /// As `Texts`, and files.
    Files,
    /// Files, blank-separated; the keyword counts once.
    FileList,
    /// A file, or yes or no.
    FileOrFlag,
}

use Form::{FileList, FileOrFlag, Files, Flag, Number, Text, Texts};

/// ssh_config's keywords, then tunneld's own keys, which ssh has no word for.
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
];

/// ssh's own other names of keywords.
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

/// Keywords that a forwarding daemon has no use for, as in ssh_config; and those that ssh itself has given up.
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

/// Keywords that tunneld cannot honour: with which values nothing is lost, and what is said otherwise.
const IMPOSSIBLE: &[(&str, &[&str], &str)] = &[
    (
        "CanonicalizeHostname",
        &["no", "false", "none"],
        "write it into ~/.ssh/config, where it is honoured",
    ),
    (
        "CASignatureAlgorithms",
        &[],
        "tunneld's own list of algorithms holds",
    ),
    (
        "GSSAPIAuthentication",
        &["no", "false"],
        "tunneld logs in without Kerberos",
    ),
    (
        "HostbasedAuthentication",
        &["no", "false"],
        "tunneld has no such login",
    ),
    (
        "NoHostAuthenticationForLocalhost",
        &["no", "false"],
        "the host key is checked all the same",
    ),
    (
        "PKCS11Provider",
        &["none"],
        "use the token through the agent (ssh-add -s)",
    ),
    (
        "ProxyUseFdpass",
        &["no", "false"],
        "the ProxyCommand must carry the bytes itself",
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

/// What becomes of a keyword.
pub(super) enum Found {
    /// This key.
    Key(&'static str, Form),
    /// Nothing, in silence.
    Ignored,
    /// Nothing, which is told unless the value is one of these.
    Impossible(&'static [&'static str], &'static str),
}

fn find_in<T>(
    mut table: impl Iterator<Item = &'static T>,
    word: impl Fn(&T) -> &str,
    keyword: &str,
) -> Option<&'static T> {
    table.find(|row| word(row).eq_ignore_ascii_case(keyword))
}

/// What becomes of `keyword`, in any case and by any of its names.
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
    if let Some((_, fine, instead)) = find_in(IMPOSSIBLE.iter(), |(ssh, ..)| ssh, keyword) {
        return Ok(Found::Impossible(fine, instead));
    }
    let error = Exit::usage(format!("-o {keyword}: tunneld knows no such option"));
    if keyword.eq_ignore_ascii_case("host") {
        return Err(error.hint("the host is the destination, the last word of the command"));
    }
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
        _ => error.hint("tunneld takes the options of ssh_config that are about reaching, trusting and forwarding"),
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
        let told = keywords("Not supported");
        assert!(honoured.len() > 40 && ignored.len() > 25 && told.len() > 8);
        // These are files' own.
        let own = ["Host", "Match", "Include"];
        for keyword in honoured.into_iter().filter(|word| !own.contains(word)) {
            assert!(find(keyword).is_ok(), "{keyword}");
        }
        for keyword in ignored {
            assert!(matches!(find(keyword), Ok(Found::Ignored)), "{keyword}");
        }
        for keyword in told {
            assert!(
                matches!(find(keyword), Ok(Found::Impossible(..))),
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
