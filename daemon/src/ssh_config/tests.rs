//! ssh_config files through the real `ssh -G` into tunnels: each keyword, the chains, and what goes wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::addr::{Bind, Endpoint, HostPort, Listen};
use crate::config::model::{
    AddKeysToAgent, AddressFamily, Agent, Forward, HostKeyChecking, Tunnel, UpdateHostKeys, Via,
};
use crate::config::{Env, Loader, ad_hoc};

struct Home(TempDir);

impl Home {
    fn new() -> Self {
        let home = TempDir::new().unwrap();
        fs::create_dir(home.path().join(".ssh")).unwrap();
        Self(home)
    }
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }
    fn env(&self) -> Env {
        Env {
            uid: rustix::process::geteuid().as_raw(),
            ssh: Some("ssh".into()),
            ..Env::for_tests(self.0.path())
        }
    }
    /// `[tunnel.NAME]` with these keys, under this ssh_config; or the faults as one text.
    async fn tunnel(&self, name: &str, config: &str, keys: Value) -> Result<Tunnel, String> {
        let path = self.write("config", config);
        let mut spec = json!({ "ssh_config": path });
        for (key, value) in keys.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let loader = Loader::new(self.0.path().join("none"), self.env());
        ad_hoc(name, &spec, &loader).await.map_err(|faults| {
            faults
                .iter()
                .map(|fault| format!("{}\n", fault.message))
                .collect()
        })
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn local(bind: Bind, port: u16, host: &str, to: u16) -> Forward {
    Forward::Local {
        listen: Listen::Tcp { bind, port },
        to: Endpoint::Tcp(HostPort {
            host: host.into(),
            port: to,
        }),
    }
}

#[tokio::test]
async fn an_empty_table_and_a_clusters_config() {
    let home = Home::new();
    let config = "Host mahuika\n    User cwal219\n    Hostname login.mahuika.nesi.org.nz\n    ProxyCommand ssh -W %h:%p lander\n    ForwardX11 yes\n    ForwardX11Trusted yes\n    ServerAliveInterval 300\n    ServerAliveCountMax 2\n    LocalForward 6676 mahuika:6676\n    ExitOnForwardFailure yes\n";
    let tunnel = home.tunnel("mahuika", config, json!({})).await.unwrap();
    let route = &tunnel.route;
    assert_eq!(
        (
            route.alias.as_str(),
            route.host.as_str(),
            route.user.as_str(),
            route.port
        ),
        ("mahuika", "login.mahuika.nesi.org.nz", "cwal219", 22)
    );
    assert_eq!(route.via, Via::Command("ssh -W %h:%p lander".into()));
    assert_eq!(route.liveness.interval.unwrap().as_secs(), 300);
    assert_eq!(route.liveness.count_max, 2);
    assert_eq!(
        tunnel.forwards,
        [local(Bind::Loopback, 6676, "mahuika", 6676)]
    );
    assert!(tunnel.forwarding.exit_on_failure);
    assert_eq!(tunnel.notes, Vec::<String>::new());
}

type Check = (&'static str, fn(&Tunnel) -> bool);

/// One line of ssh_config, and what it does to the tunnel.
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
            AddKeysToAgent::Yes {
                confirm: false,
                lifetime: None
            }
        )
    }),
    ("StrictHostKeyChecking yes", |t| {
        t.route.host_keys.checking == HostKeyChecking::Yes
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
        |t| matches!(t.route.auth.add_keys_to_agent, AddKeysToAgent::Yes { confirm: true, lifetime: Some(time) } if time.as_secs() == 300),
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
    ("HashKnownHosts yes", |t| t.route.host_keys.hash),
    ("UpdateHostKeys no", |t| {
        t.route.host_keys.update == UpdateHostKeys::No
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
        t.forwards == [local(Bind::Loopback, 8080, "db", 80)]
    }),
    ("LocalForward *:8080 db:80", |t| {
        t.forwards == [local(Bind::Any, 8080, "db", 80)]
    }),
    ("LocalForward /s/%n /d", |t| {
        t.forwards
            == [Forward::Local {
                listen: Listen::Unix("/s/box".into()),
                to: Endpoint::Unix("/d".into()),
            }]
    }),
    (
        "RemoteForward 0 [::1]:22",
        |t| matches!(&t.forwards[..], [Forward::Remote { listen: Listen::Tcp { port: 0, .. }, to: Some(Endpoint::Tcp(to)) }] if to.host == "::1"),
    ),
    ("RemoteForward 1080", |t| {
        matches!(
            &t.forwards[..],
            [Forward::Remote {
                listen: Listen::Tcp {
                    bind: Bind::Loopback,
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
                listen: Listen::Tcp {
                    bind: Bind::Loopback,
                    port: 1080
                }
            }]
        )
    }),
    ("GatewayPorts yes\nDynamicForward 1080", |t| {
        matches!(
            &t.forwards[..],
            [Forward::Dynamic {
                listen: Listen::Tcp {
                    bind: Bind::Any,
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
        let says_the_default = lines.ends_with("none") || lines.ends_with("SSH_AUTH_SOCK");
        assert!(
            !as_by_default || says_the_default,
            "{lines}: the check holds without the line too"
        );
    }
}

/// Keywords that a forwarding daemon has no use for.
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
async fn what_is_of_no_use_is_ignored_in_silence() {
    let home = Home::new();
    let plain = home.tunnel("box", "", json!({})).await.unwrap();
    for lines in IGNORED {
        let tunnel = home
            .tunnel("box", &format!("Host box\n{lines}\n"), json!({}))
            .await;
        assert_eq!(tunnel.as_ref(), Ok(&plain), "{lines}");
    }
}

/// Keywords that are told as impossible, with a word of what is told.
const TOLD: &[(&str, &str)] = &[
    ("GSSAPIAuthentication yes", "Kerberos"),
    ("HostbasedAuthentication yes", "HostbasedAuthentication"),
    ("PKCS11Provider /x.so", "through the agent"),
    ("SecurityKeyProvider /x.so", "through the agent"),
    ("ProxyUseFdpass yes", "ProxyUseFdpass"),
    ("VerifyHostKeyDNS yes", "VerifyHostKeyDNS"),
    (
        "NoHostAuthenticationForLocalhost yes",
        "checked all the same",
    ),
    ("Tunnel yes", "tun device"),
    ("RequiredRSASize 4096", "RequiredRSASize"),
    ("CASignatureAlgorithms ssh-ed25519", "CASignatureAlgorithms"),
];

#[tokio::test]
async fn what_cannot_be_done_is_told_for_that_host_alone() {
    let home = Home::new();
    let system = fs::read_to_string("/etc/ssh/ssh_config").unwrap_or_default();
    for (line, told) in TOLD {
        let config = format!("Host box\n{line}\n");
        let notes = home.tunnel("box", &config, json!({})).await.unwrap().notes;
        // What the system's file says for all hosts is told of none.
        if system.contains(line) {
            assert_eq!(notes, Vec::<String>::new(), "{line}");
            continue;
        }
        assert!(
            notes.len() == 1 && notes[0].contains(told),
            "{line}: {notes:?}"
        );
        let other = home.tunnel("other", &config, json!({})).await.unwrap();
        assert_eq!(other.notes, Vec::<String>::new(), "{line}");
    }
}

#[tokio::test]
async fn clear_all_forwardings_clears() {
    let home = Home::new();
    let lines = "DynamicForward 1080\nLocalForward 80 a:1\nRemoteForward 81 b:1\n";
    let kept = home.tunnel("t", lines, json!({})).await.unwrap();
    assert_eq!(kept.forwards.len(), 3);
    let config = format!("ClearAllForwardings yes\n{lines}");
    let cleared = home
        .tunnel("t", &config, json!({"remote_forward": "82 c:1"}))
        .await
        .unwrap();
    assert_eq!(cleared.forwards.len(), 1, "the TOML's own stay");
}

#[tokio::test]
async fn toml_goes_before_ssh_config_and_forwards_add_up() {
    let home = Home::new();
    let config = "Host box\nUser ssh\nPort 1\nHostName real\nProxyJump hop\nServerAliveInterval 7\nCompression yes\nLocalForward 80 a:1\nLocalForward 81 b:1\n";
    let keys = json!({
        "host": "toml@box:2", "server_alive_interval": 9, "proxy_command": "nc %h %p",
        "local_forward": ["81 b:1", "82 c:1"],
    });
    let tunnel = home.tunnel("t", config, keys).await.unwrap();
    assert_eq!(
        (
            tunnel.route.user.as_str(),
            tunnel.route.port,
            tunnel.route.host.as_str()
        ),
        ("toml", 2, "real")
    );
    assert_eq!(tunnel.route.via, Via::Command("nc %h %p".into()));
    assert_eq!(tunnel.route.liveness.interval.unwrap().as_secs(), 9);
    assert!(tunnel.route.crypto.compression);
    let of = |port, host: &str| local(Bind::Loopback, port, host, 1);
    assert_eq!(tunnel.forwards, [of(81, "b"), of(82, "c"), of(80, "a")]);
    let none = home
        .tunnel(
            "box",
            config,
            json!({"proxy_jump": "none", "clear_all_forwardings": true}),
        )
        .await
        .unwrap();
    assert_eq!((none.route.via, none.forwards.len()), (Via::Direct, 0));
}

#[tokio::test]
async fn each_hop_by_itself() {
    let home = Home::new();
    let config = "Host target\nProxyJump one,ssh://two@two:2200,[::1]:23\nUser me\n\
        Host one\nHostName one.real\nUser u1\nIdentityFile /k/one\nProxyJump zero\nLocalForward 99 a:1\n\
        Host two\nHostName two.real\nProxyCommand ignored\n\
        Host zero\nHostName zero.real\nProxyCommand nc %h %p\n";
    let tunnel = home
        .tunnel("target", config, json!({"identity_file": "/k/own"}))
        .await
        .unwrap();
    let Via::Jump(hops) = &tunnel.route.via else {
        panic!("{:?}", tunnel.route.via);
    };
    let told: Vec<String> = hops
        .iter()
        .map(|hop| format!("{}@{}:{}", hop.user, hop.host, hop.port))
        .collect();
    assert_eq!(
        told,
        [
            "me@zero.real:22",
            "u1@one.real:22",
            "two@two.real:2200",
            "me@::1:23"
        ]
    );
    assert_eq!(hops[0].via, Via::Command("nc %h %p".into()));
    assert!(hops[1..].iter().all(|hop| hop.via == Via::Direct));
    assert_eq!(hops[1].auth.identity_files, [PathBuf::from("/k/one")]);
    assert_ne!(hops[2].auth.identity_files, [PathBuf::from("/k/own")]);
    assert_eq!(tunnel.forwards, []);
}

#[tokio::test]
async fn bad_chains_name_the_hop() {
    let home = Home::new();
    let circle = "Host a\nProxyJump b\nHost b\nProxyJump c\nHost c\nProxyJump a\n";
    let told = home.tunnel("a", circle, json!({})).await.unwrap_err();
    assert!(
        told.contains("the chain runs in a circle: a -> b -> c -> a"),
        "{told}"
    );
    let long: String = (0..10)
        .map(|n| format!("Host h{n}\nProxyJump h{}\n", n + 1))
        .collect();
    let told = home.tunnel("h0", &long, json!({})).await.unwrap_err();
    assert!(told.contains("more than 8 hops"), "{told}");
    let bad = "Host t\nProxyJump hop\nHost hop\nIdentityFile ~nobody-else/x\n";
    let told = home.tunnel("t", bad, json!({})).await.unwrap_err();
    assert!(told.contains("hop hop: identity_file"), "{told}");
}

#[tokio::test]
async fn what_ssh_refuses_and_what_is_dangerous() {
    let home = Home::new();
    let told = home
        .tunnel("t", "Host t\nFooBar yes\n", json!({}))
        .await
        .unwrap_err();
    assert!(
        told.contains("line 2: Bad configuration option: foobar"),
        "{told}"
    );
    let told = home
        .tunnel("t", "", json!({"ssh_config": "/does/not/exist"}))
        .await
        .unwrap_err();
    assert!(told.contains("/does/not/exist"), "{told}");
    for line in [
        "HostName $(x)",
        "HostName a;b",
        "User a$b",
        "ProxyCommand nc %q",
        "IdentityFile ${NOT_THERE}/x",
        "IdentityFile %q",
    ] {
        let told = home
            .tunnel("t", &format!("Host t\n{line}\n"), json!({}))
            .await;
        assert!(told.is_err(), "{line}: {told:?}");
    }
}

#[tokio::test]
async fn without_an_ssh_the_toml_is_the_whole_truth_and_that_is_told() {
    let home = Home::new();
    home.write(".ssh/config", "Host t\nPort 99\n");
    let dir = home.path("conf");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    home.write(
        "conf/a.toml",
        "[tunnel.t]\n[tunnel.u]\nssh_config = false\n",
    );
    let absent = Env {
        ssh: Some("/no/such/ssh".into()),
        ..home.env()
    };
    let loaded = Loader::new(dir.clone(), absent).load().await;
    assert_eq!(loaded.tunnels[0].route.port, 22);
    assert!(
        loaded.notes.len() == 1 && loaded.notes[0].contains("no ssh program"),
        "{:?}",
        loaded.notes
    );
    let loaded = Loader::new(dir, home.env()).load().await;
    assert!(
        loaded.notes.len() == 1
            && loaded.notes[0].ends_with("is not read for u: ssh_config = false"),
        "{:?}",
        loaded.notes
    );
}

#[tokio::test]
async fn a_hanging_ssh_is_ended_with_all_that_it_started() {
    let home = Home::new();
    let pids = home.path("pid");
    let script = home.write(
        "ssh",
        &format!(
            "#!/bin/sh\nsleep 600 & echo $! > {}\nwait\n",
            pids.display()
        ),
    );
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
    let env = Env {
        ssh: Some(script),
        ..home.env()
    };
    let loader = Loader::new(home.path("none"), env);
    let faults = ad_hoc("t", &json!({}), &loader).await.unwrap_err();
    assert!(
        faults[0].message.contains("did not answer within 5s"),
        "{faults:?}"
    );
    let child: i32 = fs::read_to_string(&pids).unwrap().trim().parse().unwrap();
    let child = rustix::process::Pid::from_raw(child).unwrap();
    // A killed orphan is a zombie until init has reaped it.
    let gone = || match rustix::process::test_kill_process(child) {
        Err(_) => true,
        Ok(()) => fs::read_to_string(format!("/proc/{}/stat", child.as_raw_nonzero()))
            .is_ok_and(|stat| stat.contains(") Z")),
    };
    while !gone() {
        tokio::task::yield_now().await;
    }
}
