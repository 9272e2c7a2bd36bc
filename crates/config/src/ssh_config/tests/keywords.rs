//! Each keyword of ssh_config through the real `ssh -G`: what it does, that it does nothing, or its note.

use std::path::PathBuf;

use serde_json::json;

use super::{Home, local};
use crate::addr::{BindAddr, Endpoint, ListenAddr};
use crate::model::{
    AddKeysToAgent, AddressFamily, Agent, Forward, HostKeyChecking, Tunnel, UpdateHostKeys, Via,
};

type Check = (&'static str, fn(&Tunnel) -> bool);

/// Lines of ssh_config, and whether the tunnel shows their effect.
const HONOURED: &[Check] = &[
    ("HostName real.%h", |t| t.route.host == "real.box"),
    ("User other", |t| t.route.user == "other"),
    ("Port 2222", |t| t.route.port == 2222),
    ("AddressFamily inet6", |t| {
        t.route.address_family == AddressFamily::Inet6
    }),
    ("BindAddress 192.0.2.1", |t| {
        t.route.bind_address.as_deref() == Some("192.0.2.1")
    }),
    ("BindInterface lo", |t| {
        t.route.bind_interface.as_deref() == Some("lo")
    }),
    ("ConnectTimeout 7", |t| {
        t.route.connect_timeout.as_secs() == 7
    }),
    ("ProxyCommand nc %h %p", |t| {
        t.route.via == Via::Command("nc %h %p".into())
    }),
    ("ProxyCommand none", |t| t.route.via == Via::Direct),
    ("ProxyJump none", |t| t.route.via == Via::Direct),
    ("IdentityFile /k/%n_%r", |t| {
        t.route.auth.identity_files == [PathBuf::from("/k/box_me")]
            && t.route.auth.identity_files_explicit
    }),
    ("IdentityFile none", |t| {
        t.route.auth.identity_files.is_empty()
    }),
    ("IdentitiesOnly yes", |t| t.route.auth.identities_only),
    ("IdentityAgent /run/a", |t| {
        t.route.auth.agent == Agent::Socket("/run/a".into())
    }),
    ("IdentityAgent none", |t| t.route.auth.agent == Agent::None),
    ("IdentityAgent $MY_AGENT", |t| {
        t.route.auth.agent == Agent::Variable("MY_AGENT".into())
    }),
    ("IdentityAgent SSH_AUTH_SOCK", |t| {
        t.route.auth.agent == Agent::Environment
    }),
    ("CertificateFile /c/%u", |t| {
        t.route.auth.certificate_files == [PathBuf::from("/c/me")]
    }),
    (
        "PreferredAuthentications hostbased,password,publickey",
        |t| t.route.auth.preferred == ["password", "publickey"],
    ),
    ("PubkeyAuthentication no", |t| {
        t.route.auth.preferred == ["keyboard-interactive", "password"]
    }),
    ("PasswordAuthentication no", |t| {
        t.route.auth.preferred == ["publickey", "keyboard-interactive"]
    }),
    ("KbdInteractiveAuthentication no", |t| {
        t.route.auth.preferred == ["publickey", "password"]
    }),
    ("NumberOfPasswordPrompts 1", |t| {
        t.route.auth.password_prompts == 1
    }),
    ("PubkeyAcceptedAlgorithms ssh-ed25519", |t| {
        t.route.auth.pubkey_algorithms == ["ssh-ed25519"]
    }),
    ("AddKeysToAgent ask", |t| {
        t.route.auth.add_keys_to_agent == AddKeysToAgent::Ask
    }),
    ("AddKeysToAgent yes", |t| {
        matches!(
            t.route.auth.add_keys_to_agent,
            AddKeysToAgent::Always {
                confirm: false,
                lifetime: None
            }
        )
    }),
    ("StrictHostKeyChecking yes", |t| {
        t.route.host_keys.checking == HostKeyChecking::Strict
    }),
    ("StrictHostKeyChecking no", |t| {
        t.route.host_keys.checking == HostKeyChecking::AcceptNew
    }),
    ("StrictHostKeyChecking accept-new", |t| {
        t.route.host_keys.checking == HostKeyChecking::AcceptNew
    }),
    ("UserKnownHostsFile /k/a /k/b", |t| {
        t.route.host_keys.user_files == [PathBuf::from("/k/a"), PathBuf::from("/k/b")]
    }),
    ("UserKnownHostsFile \"/k/a b\" /c", |t| {
        t.route.host_keys.user_files == [PathBuf::from("/k/a b"), PathBuf::from("/c")]
    }),
    (
        "AddKeysToAgent confirm 5m",
        |t| matches!(t.route.auth.add_keys_to_agent, AddKeysToAgent::Always { confirm: true, lifetime: Some(time) } if time.as_secs() == 300),
    ),
    ("GlobalKnownHostsFile /g", |t| {
        t.route.host_keys.global_files == [PathBuf::from("/g")]
    }),
    ("GlobalKnownHostsFile none", |t| {
        t.route.host_keys.global_files.is_empty()
    }),
    ("RevokedHostKeys /r", |t| {
        t.route.host_keys.revoked_files == [PathBuf::from("/r")]
    }),
    ("KnownHostsCommand /bin/kh %H", |t| {
        t.route.host_keys.command.as_deref() == Some("/bin/kh %H")
    }),
    ("HostKeyAlias other", |t| {
        t.route.host_keys.alias.as_deref() == Some("other")
    }),
    ("RequiredRSASize 3072", |t| {
        t.route.host_keys.min_rsa_bits == Some(3072)
    }),
    ("HashKnownHosts yes", |t| t.route.host_keys.hash),
    ("UpdateHostKeys no", |t| {
        t.route.host_keys.update == UpdateHostKeys::Never
    }),
    ("HostKeyAlgorithms ssh-ed25519", |t| {
        t.route.host_keys.algorithms == ["ssh-ed25519"]
    }),
    ("Ciphers aes256-ctr,aes128-ctr", |t| {
        t.route.crypto.ciphers == ["aes256-ctr", "aes128-ctr"]
    }),
    ("Ciphers ^aes256-ctr", |t| {
        t.route.crypto.ciphers.len() > 3 && t.route.crypto.ciphers[0] == "aes256-ctr"
    }),
    ("MACs hmac-sha2-512", |t| {
        t.route.crypto.macs == ["hmac-sha2-512"]
    }),
    ("KexAlgorithms -*nistp*", |t| {
        !t.route.crypto.kex.is_empty()
            && !t.route.crypto.kex.iter().any(|name| name.contains("nistp"))
    }),
    ("Compression yes", |t| t.route.crypto.compression),
    ("RekeyLimit 1G 1h", |t| {
        t.route.crypto.rekey.bytes == Some(1 << 30)
            && t.route.crypto.rekey.time.unwrap().as_secs() == 3600
    }),
    ("ServerAliveInterval 7", |t| {
        t.route.liveness.interval.unwrap().as_secs() == 7
    }),
    ("ServerAliveCountMax 9", |t| t.route.liveness.count_max == 9),
    ("TCPKeepAlive no", |t| !t.route.liveness.tcp_keep_alive),
    ("LocalForward 8080 db:80", |t| {
        t.forwards == [local(BindAddr::Loopback, 8080, "db", 80)]
    }),
    ("LocalForward *:8080 db:80", |t| {
        t.forwards == [local(BindAddr::Any, 8080, "db", 80)]
    }),
    ("LocalForward /s/%n /d", |t| {
        t.forwards
            == [Forward::Local {
                listen: ListenAddr::Unix("/s/box".into()),
                to: Endpoint::Unix("/d".into()),
            }]
    }),
    (
        "RemoteForward 0 [::1]:22",
        |t| matches!(&t.forwards[..], [Forward::Remote { listen: ListenAddr::Tcp { port: 0, .. }, to: Some(Endpoint::Tcp(to)) }] if to.host == "::1"),
    ),
    ("RemoteForward 1080", |t| {
        matches!(
            &t.forwards[..],
            [Forward::Remote {
                listen: ListenAddr::Tcp {
                    bind: BindAddr::Loopback,
                    port: 1080
                },
                to: None
            }]
        )
    }),
    ("DynamicForward 1080", |t| {
        matches!(
            &t.forwards[..],
            [Forward::Dynamic {
                listen: ListenAddr::Tcp {
                    bind: BindAddr::Loopback,
                    port: 1080
                }
            }]
        )
    }),
    ("GatewayPorts yes\nDynamicForward 1080", |t| {
        matches!(
            &t.forwards[..],
            [Forward::Dynamic {
                listen: ListenAddr::Tcp {
                    bind: BindAddr::Any,
                    ..
                }
            }]
        )
    }),
    ("ExitOnForwardFailure yes", |t| t.forwarding.exit_on_failure),
    ("StreamLocalBindUnlink yes", |t| t.forwarding.unlink_socket),
    ("StreamLocalBindMask 0117", |t| {
        t.forwarding.socket_mask == 0o117
    }),
    ("PermitRemoteOpen a:1 b:*", |t| {
        t.forwarding.permit_remote_open == ["a:1", "b:*"]
    }),
    ("Match originalhost box exec \"true\"\nUser matched", |t| {
        t.route.user == "matched"
    }),
];

#[tokio::test]
async fn every_honoured_keyword_does_what_it_says() {
    let home = Home::new();
    let plain = home.tunnel("box", "", json!({})).await.unwrap();
    for (lines, check) in HONOURED {
        let tunnel = home
            .tunnel("box", &format!("Host box\n{lines}\n"), json!({}))
            .await;
        let tunnel = tunnel.unwrap_or_else(|faults| panic!("{lines}: {faults}"));
        assert!(check(&tunnel), "{lines}: {tunnel:#?}");
        assert_eq!(tunnel.notes, Vec::<String>::new(), "{lines}");
        let as_by_default = check(&plain);
        let sets_the_default = lines.ends_with("none") || lines.ends_with("SSH_AUTH_SOCK");
        assert!(
            !as_by_default || sets_the_default,
            "{lines}: the check passes without the line too"
        );
    }
}

/// As with `ssh -o HostName=…`, the other lines about the host apply.
#[tokio::test]
async fn the_toml_s_host_name_overrides_ssh_config() {
    let home = Home::new();
    let config = "Host box\nHostName box.example\nUser me\n";
    let keys = json!({"host_name": "10.0.0.7"});
    let route = home.tunnel("box", config, keys).await.unwrap().route;
    assert_eq!(
        (
            route.alias.as_str(),
            route.host.as_str(),
            route.user.as_str()
        ),
        ("box", "10.0.0.7", "me")
    );
    let odd = home
        .tunnel("box", config, json!({"host_name": "a b"}))
        .await;
    assert!(odd.unwrap_err().contains("host_name"));
}

/// Keywords that are about shells, terminals and connection sharing, which a forwarding daemon does not have.
const IGNORED: &[&str] = &[
    "ForwardX11 yes",
    "ForwardX11Trusted yes",
    "ForwardAgent yes",
    "SetEnv A=b",
    "SendEnv LANG",
    "RemoteCommand ls",
    "RequestTTY force",
    "ControlMaster auto\nControlPath /tmp/%C\nControlPersist 5m",
    "EscapeChar none",
    "LocalCommand ls\nPermitLocalCommand yes",
    "LogLevel DEBUG",
    "VisualHostKey yes",
    "IPQoS none",
    "CheckHostIP yes",
    "ConnectionAttempts 5",
    "SessionType none",
    "StdinNull yes",
    "ForkAfterAuthentication yes",
    "FingerprintHash md5",
    "XAuthLocation /x",
    "EnableSSHKeysign yes",
    "SyslogFacility USER",
    "IgnoreUnknown Foo\nFoo bar",
];

#[tokio::test]
async fn keywords_without_use_for_forwarding_are_ignored_silently() {
    let home = Home::new();
    let plain = home.tunnel("box", "", json!({})).await.unwrap();
    for lines in IGNORED {
        let tunnel = home
            .tunnel("box", &format!("Host box\n{lines}\n"), json!({}))
            .await;
        assert_eq!(tunnel.as_ref(), Ok(&plain), "{lines}");
    }
}

/// Unsupported keywords, with a part of their note.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("GSSAPIAuthentication yes", "Kerberos"),
    ("HostbasedAuthentication yes", "HostbasedAuthentication"),
    ("PKCS11Provider /x.so", "through the agent"),
    ("SecurityKeyProvider /x.so", "through the agent"),
    ("ProxyUseFdpass yes", "ProxyUseFdpass"),
    ("VerifyHostKeyDNS yes", "VerifyHostKeyDNS"),
    (
        "NoHostAuthenticationForLocalhost yes",
        "localhost is checked too",
    ),
    ("Tunnel yes", "tun devices"),
    ("CASignatureAlgorithms ssh-ed25519", "CASignatureAlgorithms"),
];

#[tokio::test]
async fn unsupported_keywords_are_noted_for_the_host_that_sets_them() {
    let home = Home::new();
    for (line, expected) in UNSUPPORTED {
        let config = format!("Host box\n{line}\n");
        let notes = home.tunnel("box", &config, json!({})).await.unwrap().notes;
        assert!(
            notes.len() == 1 && notes[0].contains(expected),
            "{line}: {notes:?}"
        );
        let other = home.tunnel("other", &config, json!({})).await.unwrap();
        assert_eq!(other.notes, Vec::<String>::new(), "{line}");
    }
}

/// docs/ssh_config.md names every keyword of these tables.
#[test]
fn docs_ssh_config_names_every_keyword() {
    let page = include_str!("../../../../../docs/ssh_config.md");
    let lines = HONOURED
        .iter()
        .map(|(lines, _)| *lines)
        .chain(IGNORED.iter().copied());
    for lines in lines.chain(UNSUPPORTED.iter().map(|(line, _)| *line)) {
        for keyword in lines.lines().filter_map(|line| line.split(' ').next()) {
            assert!(
                keyword == "Foo" || page.contains(keyword),
                "{keyword} is not in docs/ssh_config.md"
            );
        }
    }
}
