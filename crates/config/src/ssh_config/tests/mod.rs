//! ssh_config files through the real `ssh -G` to tunnels: precedence, jump hosts and errors. `keywords` tests each
//! keyword, `differential` whole files.

mod differential;
mod keywords;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;
use tunneld_platform::subprocess::TokioPrograms;

use crate::addr::{BindAddr, Endpoint, HostPort, ListenAddr};
use crate::load::tests::now;
use crate::model::{Forward, Tunnel, Via};
use crate::{Env, Loader, ad_hoc};

pub(crate) struct Home(TempDir);

/// The address and port of a forward's listener.
fn bind_of(forward: &Forward) -> (u16, BindAddr) {
    let (Forward::Local { listen, .. }
    | Forward::Remote { listen, .. }
    | Forward::Dynamic { listen }
    | Forward::Dns { listen, .. }) = forward;
    match listen {
        ListenAddr::Tcp { bind, port } => (*port, bind.clone()),
        ListenAddr::Unix(path) => panic!("{path:?}"),
    }
}

impl Home {
    pub(crate) fn new() -> Self {
        let home = TempDir::new().unwrap();
        fs::create_dir(home.path().join(".ssh")).unwrap();
        Self(home)
    }
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
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
    fn loader(&self, dir: PathBuf, env: Env) -> Loader {
        Loader::new(dir, env, Arc::new(TokioPrograms))
    }
    /// Resolves `[tunnel.NAME]` with these keys and this ssh_config; returns the errors as one text.
    pub(crate) async fn tunnel(
        &self,
        name: &str,
        config: &str,
        keys: Value,
    ) -> Result<Tunnel, String> {
        let path = self.write("config", config);
        let mut all = json!({ "ssh_config": path });
        for (key, value) in keys.as_object().unwrap() {
            all[key] = value.clone();
        }
        let loader = self.loader(self.path("none"), self.env());
        ad_hoc(name, &all, &loader).await.map_err(|faults| {
            faults
                .iter()
                .map(|fault| format!("{}\n", fault.message))
                .collect()
        })
    }
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

pub(crate) fn local(bind: BindAddr, port: u16, host: &str, to: u16) -> Forward {
    Forward::Local {
        listen: ListenAddr::Tcp { bind, port },
        to: Endpoint::Tcp(HostPort {
            host: host.into(),
            port: to,
        }),
    }
}

#[tokio::test]
async fn an_empty_table_takes_everything_from_ssh_config() {
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
        [local(BindAddr::Loopback, 6676, "mahuika", 6676)]
    );
    assert!(tunnel.forwarding.exit_on_failure);
    assert_eq!(tunnel.notes, Vec::<String>::new());
}

#[tokio::test]
async fn clear_all_forwardings_leaves_out_the_forwards_of_ssh_config() {
    let home = Home::new();
    let lines = "DynamicForward 1080\nLocalForward 80 a:1\nRemoteForward 81 b:1\n";
    let kept = home.tunnel("t", lines, json!({})).await.unwrap();
    assert_eq!(kept.forwards.len(), 3);
    let config = format!("ClearAllForwardings yes\n{lines}");
    let cleared = home
        .tunnel("t", &config, json!({"remote_forward": "82 c:1"}))
        .await
        .unwrap();
    assert_eq!(cleared.forwards.len(), 1, "the forwards of the TOML stay");
}

#[tokio::test]
async fn toml_overrides_ssh_config_and_forwards_are_added() {
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
    let of = |port, host: &str| local(BindAddr::Loopback, port, host, 1);
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
async fn each_hop_is_resolved_by_itself() {
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
    let shown: Vec<String> = hops
        .iter()
        .map(|hop| format!("{}@{}:{}", hop.user, hop.host, hop.port))
        .collect();
    assert_eq!(
        shown,
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
    // A hop without keys of its own uses those of the tunnel.
    assert_eq!(hops[2].auth.identity_files, [PathBuf::from("/k/own")]);
    assert_eq!(tunnel.forwards, []);
}

#[tokio::test]
async fn keys_of_the_tunnel_serve_a_jump_host_that_has_none() {
    let home = Home::new();
    let config = "Host agent\nIdentityAgent /run/agent\n";
    let keys = json!({
        "host": "box", "proxy_jump": "plain,agent", "identity_file": "/k/own", "identities_only": true,
        "certificate_file": "/k/own-cert.pub", "passphrase_command": ["pass"],
        "password_command": ["secret"],
    });
    let tunnel = home.tunnel("t", config, keys).await.unwrap();
    let Via::Jump(hops) = &tunnel.route.via else {
        panic!("{:?}", tunnel.route.via);
    };
    let [plain, with_agent] = &hops[..] else {
        panic!("{hops:?}");
    };
    assert_eq!(plain.auth.identity_files, [PathBuf::from("/k/own")]);
    assert_eq!(plain.auth.certificate_files.len(), 1);
    assert!(plain.auth.identities_only);
    assert_eq!(plain.auth.passphrase_command, ["pass"]);
    assert!(
        plain.auth.password_command.is_empty(),
        "for the destination alone"
    );
    assert!(!with_agent.auth.identity_files_explicit && !with_agent.auth.identities_only);
}

#[tokio::test]
async fn listeners_without_an_address_follow_the_address_family() {
    let home = Home::new();
    let lines = "LocalForward 80 a:1\nDynamicForward 81\nLocalForward localhost:82 a:1\n\
        LocalForward 127.0.0.2:83 a:1\nRemoteForward 84 a:1\n";
    let host = |address: &str| BindAddr::Host(address.into());
    for (family, own) in [("inet", "127.0.0.1"), ("inet6", "::1")] {
        let config = format!("Host box\nAddressFamily {family}\n{lines}");
        let tunnel = home.tunnel("box", &config, json!({})).await.unwrap();
        let binds: Vec<(u16, BindAddr)> = tunnel.forwards.iter().map(bind_of).collect();
        let own = host(own);
        assert_eq!(
            binds,
            [
                (80, own.clone()),
                (82, own.clone()),
                (83, host("127.0.0.2")),
                (84, BindAddr::Loopback),
                (81, own),
            ],
            "{family}"
        );
    }
    let open = json!({"host": "h", "address_family": "inet", "gateway_ports": true, "local_forward": "80 a:1"});
    let tunnel = home.tunnel("t", "", open).await.unwrap();
    assert_eq!(bind_of(&tunnel.forwards[0]), (80, host("0.0.0.0")));
}

#[tokio::test]
async fn algorithms_that_the_file_adds_and_tunneld_does_not_have_are_noted() {
    let home = Home::new();
    let config = "Host box\nMACs +hmac-md5,hmac-sha1-96\nCiphers +aes128-cbc\n";
    let notes = home.tunnel("box", config, json!({})).await.unwrap().notes;
    assert_eq!(
        notes,
        ["ssh_config's MACs names what tunneld does not have: hmac-md5, hmac-sha1-96"]
    );
}

#[tokio::test]
async fn update_host_keys_is_what_ssh_makes_of_it() {
    use crate::model::UpdateHostKeys::{Always, Ask, Never};
    let home = Home::new();
    for (lines, keys, expected) in [
        ("", json!({}), Always),
        ("UserKnownHostsFile /own\n", json!({}), Never),
        (
            "UserKnownHostsFile /own\nUpdateHostKeys yes\n",
            json!({}),
            Always,
        ),
        // ssh turns `ask` off with -N: it asks on the terminal of a session.
        (
            "UserKnownHostsFile /own\nUpdateHostKeys ask\n",
            json!({}),
            Never,
        ),
        ("", json!({"user_known_hosts_file": "/own"}), Never),
        (
            "",
            json!({"user_known_hosts_file": "/own", "update_host_keys": "ask"}),
            Ask,
        ),
    ] {
        let config = format!("Host box\n{lines}");
        let tunnel = home.tunnel("box", &config, keys.clone()).await.unwrap();
        assert_eq!(tunnel.route.host_keys.update, expected, "{lines} {keys}");
    }
}

#[tokio::test]
async fn errors_of_a_chain_name_the_hop() {
    let home = Home::new();
    let circular = "Host a\nProxyJump b\nHost b\nProxyJump c\nHost c\nProxyJump a\n";
    let error = home.tunnel("a", circular, json!({})).await.unwrap_err();
    assert!(
        error.contains("the chain is a loop: a -> b -> c -> a"),
        "{error}"
    );
    let long: String = (0..10)
        .map(|n| format!("Host h{n}\nProxyJump h{}\n", n + 1))
        .collect();
    let error = home.tunnel("h0", &long, json!({})).await.unwrap_err();
    assert!(error.contains("more than 8 hops"), "{error}");
    let bad = "Host t\nProxyJump hop\nHost hop\nIdentityFile ~nobody-else/x\n";
    let error = home.tunnel("t", bad, json!({})).await.unwrap_err();
    assert!(error.contains("hop hop: identity_file"), "{error}");
}

#[tokio::test]
async fn what_ssh_refuses_and_unsafe_values_are_errors() {
    let home = Home::new();
    let error = home
        .tunnel("t", "Host t\nFooBar yes\n", json!({}))
        .await
        .unwrap_err();
    assert!(
        error.contains("line 2: Bad configuration option: foobar"),
        "{error}"
    );
    let error = home
        .tunnel("t", "", json!({"ssh_config": "/does/not/exist"}))
        .await
        .unwrap_err();
    assert!(error.contains("/does/not/exist"), "{error}");
    for line in [
        "HostName $(x)",
        "HostName a;b",
        "User a;b",
        "ProxyCommand nc %q",
        "IdentityFile ${NOT_THERE}/x",
        "IdentityFile %q",
    ] {
        let result = home
            .tunnel("t", &format!("Host t\n{line}\n"), json!({}))
            .await;
        assert!(result.is_err(), "{line}: {result:?}");
    }
}

#[tokio::test]
async fn an_ssh_config_that_is_not_read_is_noted() {
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
    let loaded = home.loader(dir.clone(), absent).load(now()).await;
    assert_eq!(loaded.tunnels[0].route.port, 22);
    assert!(
        loaded.notes.len() == 1 && loaded.notes[0].contains("the ssh program was not found"),
        "{:?}",
        loaded.notes
    );
    let elsewhere = Env {
        passwd_home: Some("/no/such/home".into()),
        ..home.env()
    };
    let loaded = home.loader(dir.clone(), elsewhere).load(now()).await;
    assert!(
        loaded.notes.len() == 1 && loaded.notes[0].contains("ssh reads /no/such/home/.ssh/config"),
        "{:?}",
        loaded.notes
    );
    let loaded = home.loader(dir, home.env()).load(now()).await;
    assert!(
        loaded.notes.len() == 1
            && loaded.notes[0].ends_with("is not read for u: ssh_config = false"),
        "{:?}",
        loaded.notes
    );
}

#[tokio::test]
async fn a_uid_without_an_entry_in_the_user_database_works_without_ssh() {
    let home = Home::new();
    home.write(".ssh/config", "Host t\nPort 99\n");
    let ssh = home.write(
        "ssh",
        "#!/bin/sh\necho 'No user exists for uid 54321' >&2; exit 255\n",
    );
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o700)).unwrap();
    let dir = home.path("conf");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    home.write("conf/a.toml", "[tunnel.t]\nuser = \"me\"\n[tunnel.u]\n");
    let env = Env {
        ssh: Some(ssh),
        user: "54321".into(),
        user_is_uid: true,
        uid: rustix::process::geteuid().as_raw(),
        ..home.env()
    };
    let loaded = home.loader(dir.clone(), env.clone()).load(now()).await;
    let names: Vec<&str> = loaded
        .tunnels
        .iter()
        .map(|tunnel| tunnel.name.as_str())
        .collect();
    assert_eq!(names, ["t"]);
    assert_eq!(loaded.tunnels[0].route.port, 22);
    assert!(
        loaded.notes.len() == 1
            && loaded.notes[0].contains("is not read: ssh does not run for uid"),
        "{:?}",
        loaded.notes
    );
    let [no_name] = &loaded.faults[..] else {
        panic!("{:?}", loaded.faults);
    };
    assert!(no_name.message.contains("no login name"), "{no_name:?}");
    assert!(no_name.rendered.contains("USER"), "{no_name:?}");
    // The user database had the user when the daemon started: it is away now.
    let known = Env {
        passwd_home: Some(home.path("")),
        ..env
    };
    let loaded = home.loader(dir, known).load(now()).await;
    assert!(loaded.tunnels.is_empty(), "{:?}", loaded.tunnels);
}

#[tokio::test]
async fn a_hanging_ssh_is_killed_with_its_children() {
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
    let loader = home.loader(home.path("none"), env);
    let faults = ad_hoc("t", &json!({}), &loader).await.unwrap_err();
    assert!(
        faults[0].message.contains("did not answer within 5s"),
        "{faults:?}"
    );
    let child: i32 = fs::read_to_string(&pids).unwrap().trim().parse().unwrap();
    let child = rustix::process::Pid::from_raw(child).unwrap();
    // A killed orphan is a zombie until init reaps it.
    let gone = || match rustix::process::test_kill_process(child) {
        Err(_) => true,
        Ok(()) => fs::read_to_string(format!("/proc/{}/stat", child.as_raw_nonzero()))
            .is_ok_and(|stat| stat.contains(") Z")),
    };
    while !gone() {
        tokio::task::yield_now().await;
    }
}
