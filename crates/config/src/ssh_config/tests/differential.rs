//! Whole ssh_config files: compares the resolved tunnel with what `ssh -G` prints for the same host.

use proptest::prelude::*;
use serde_json::json;

use super::Home;
use crate::addr::{BindAddr, Endpoint, ListenAddr};
use crate::model::{Forward, Tunnel, Via};

/// Files with constructs that independent parsers of ssh_config often get wrong.
const FILES: &[&str] = &[
    // Options before the first Host, `=` and tabs, a negated pattern, quotes.
    "User early\nHost a !b *.example\n\tPort=2222\nHost b\nPort\t33\n  IdentityFile \"/k/with space\"\n  IdentityFile=/k/two\n",
    // A Match block must not leak into the Host before it.
    "Host a\n  Port 2200\nMatch host nothing\n  ProxyCommand wrong\n  User wrong\nHost *\n  User last\n",
    // The first value wins; lists of forwards add up.
    "Host a\n  User one\n  LocalForward 80 x:1\nHost *\n  User two\n  LocalForward 81 y:2\n  DynamicForward 1080\n",
    // Match on the name as it is written, on the real name, and with a command.
    "Host a\n  HostName real.example\nMatch originalhost a exec \"test %n = a\"\n  User original\nMatch host real.example\n  Port 23\n",
    "Match final host a.local\n  User final\nHost a\n  HostName %h.local\n",
    "Match exec false\n  User never\nMatch all\n  User always\n",
    "Host j1\n  ProxyJump none\nHost *\n  ProxyJump j1,u@j2:22\n",
    "CanonicalizeHostname no\nHost b\n  HostName 2001:db8::1\n  AddressFamily inet6\n",
    // Quotes, `=` with and without white space, keywords in any case.
    "hOsT=a \"b\"\n  uSeR = quoted\n  IDENTITYFILE = \"/k/one two\"\n  UserKnownHostsFile \"/k/a b\" /k/c\n  hostkeyalias=\"x\"\n",
    "Host \"a\" # not a comment for an old ssh\n  User x\n",
    "Host a\n  User x # a comment\n",
    "Host a\n  IdentityFile \"/k/unbalanced\n",
    // Negation: alone it matches nothing; with others it excludes, whatever its position.
    "Host !a\n  User never\nHost !a *\n  User others\nHost * !b\n  User a\nHost ?\n  Port 7\n",
    "Match host *,!b\n  User m\nMatch host !a,*\n  Port 77\nMatch !host a\n  ConnectTimeout 9\n",
    "Match originalhost a,b user u\n  Port 9\nMatch user \"*\"\n  Port 10\nHost b\n  User u\n",
    "Match all\n  Port 5\nMatch final all\n  Port 6\n  User final\nMatch final host b\n  ConnectTimeout 3\n",
    "Match exec \"test %h = real && test %p = 22\"\n  User ran\nHost a\n  HostName real\n",
    "Match exec \"test %h = real\"\n  User early\nHost a\n  HostName real\nMatch exec \"test %h = real\"\n  Port 8\n",
    "Match localuser nobody-here\n  User never\nMatch localuser *\n  User local\n",
    "Match host a port 22\n  User never\n",
    "Match\n  User never\n",
    "Match all host a\n  User never\n",
    // Canonical names: DNS is not asked about a name with enough dots.
    "CanonicalizeHostname yes\nCanonicalizeMaxDots 0\nCanonicalDomains invalid\nMatch canonical host *.example\n  User canonical\nMatch canonical final all\n  Port 44\nHost *.example\n  ConnectTimeout 8\nHost a b j2\n  CanonicalizeHostname no\n",
    "CanonicalizeHostname always\nCanonicalizeMaxDots 0\nCanonicalizeFallbackLocal yes\nCanonicalDomains none\nMatch canonical all\n  User always\n",
    // Tokens.
    "Host *\n  HostName x.%h\n  ProxyCommand nc -x %% %h %p %r %n\n",
    "Host *\n  HostName %p\n",
    // Includes: a pattern, in order; within a Host that does not match; a file that does not exist.
    "Include DIR/inc*\nHost *\n  User late\n",
    "Host b\n  Include DIR/inc*\nHost *\n  User late\n",
    "Include DIR/missing\nInclude \"DIR/inc1\" DIR/inc2\nHost *\n  User late\n",
    "Match host a\n  Include DIR/deep\n",
    "Include DIR/loop\n",
    "Include DIR/broken\n",
    // Forwards of every form.
    "LocalForward 80 x:1\nLocalForward localhost:81 [2001:db8::1]:2\nLocalForward [::1]:82 x:3\nLocalForward *:83 x:4\nLocalForward 127.0.0.1:84 x:5\nLocalForward /run/l x:6\nLocalForward 85 /run/t\nGatewayPorts yes\n",
    "RemoteForward 80 x:1\nRemoteForward 81\nRemoteForward 0 x:2\nRemoteForward [::]:82 x:3\nRemoteForward /run/r x:4\nRemoteForward 83 /run/t\nDynamicForward [::1]:84\nDynamicForward *:85\nGatewayPorts yes\n",
    "LocalForward 80 x:1\nLocalForward 80 x:1\nLocalForward=81 x:2\n",
    "LocalForward 80 x\n",
    // Values with limits and units.
    "ServerAliveInterval 2m\nServerAliveCountMax 1\nConnectTimeout 1m30s\nNumberOfPasswordPrompts 1\n",
    "ConnectTimeout none\nServerAliveInterval 1\n",
    "ServerAliveInterval 5x\n",
    "Port 65536\n",
    "Port 0\n",
    "NoSuchKeyword yes\n",
    "IgnoreUnknown NoSuch*\nNoSuchKeyword yes\nUser known\n",
    "IdentitiesOnly yes\nCompression yes\nExitOnForwardFailure yes\nHashKnownHosts yes\nStrictHostKeyChecking accept-new\nAddressFamily inet\nBindAddress 127.0.0.1\n",
    "StrictHostKeyChecking off\n",
    "PreferredAuthentications password,publickey\nPasswordAuthentication no\n",
    "UserKnownHostsFile none\nGlobalKnownHostsFile /k/g1 /k/g2\n",
    "ProxyCommand exec nc \"%h\" %p\nProxyJump j1\n",
    "Host a\n  ProxyJump u@[2001:db8::7]:2200\n",
    "Host a\n  ProxyJump j1\n  ProxyCommand never\n",
    // White space and line ends.
    "Host a\r\n  User crlf\r\n  Port 3\r\n",
    "\u{c}Host a\n\u{c}  User feed\n",
    "Host a\n  User x \t \n  Port\t=\t4\n  HostName \t x\n",
    "Host a\\\n  User x\n",
    "Host a b\n  Ciphers ^aes256-ctr\n  KexAlgorithms -curve*\n  MACs +hmac-sha1\n  RekeyLimit 1M 10m\n",
];

/// The values that `ssh -G` printed for a keyword.
fn printed(text: &str, keyword: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            line.strip_prefix(keyword)?
                .strip_prefix(' ')
                .map(str::to_owned)
        })
        .collect()
}

/// Writes the files that the others include.
fn write_included(home: &Home) {
    home.write("inc1", "Host a\n  User first\n  Port 101\n");
    home.write(
        "inc2",
        "Host a\n  User second\n  ConnectTimeout 11\nHost b\n  Port 102\n",
    );
    home.write(
        "deep",
        &format!("Include {}\n", home.path("inc1").display()),
    );
    home.write(
        "loop",
        &format!("Include {}\n", home.path("loop").display()),
    );
    home.write("broken", "NoSuchKeyword\n");
}

/// A forward as `ssh -G` prints it: keyword, listener, target.
fn forward(forward: &Forward) -> String {
    let listen = |listen: &ListenAddr| match listen {
        ListenAddr::Tcp {
            bind: BindAddr::Loopback,
            port,
        } => port.to_string(),
        ListenAddr::Tcp {
            bind: BindAddr::Any,
            port,
        } => format!("[*]:{port}"),
        ListenAddr::Tcp {
            bind: BindAddr::Host(host),
            port,
        } => format!("[{host}]:{port}"),
        ListenAddr::Unix(path) => path.display().to_string(),
    };
    let to = |to: &Endpoint| match to {
        Endpoint::Tcp(to) => format!("[{}]:{}", to.host, to.port),
        Endpoint::Unix(path) => path.display().to_string(),
    };
    match forward {
        Forward::Local {
            listen: at,
            to: end,
        } => format!("local {} {}", listen(at), to(end)),
        Forward::Remote {
            listen: at,
            to: Some(end),
        } => {
            format!("remote {} {}", listen(at), to(end))
        }
        Forward::Remote {
            listen: at,
            to: None,
        } => format!("remote {} [socks]:0", listen(at)),
        Forward::Dynamic { listen: at } => format!("dynamic {}", listen(at)),
        Forward::Dns { listen: at, .. } => format!("dns {}", listen(at)),
    }
}

/// The forwards that `ssh -G` printed, each once. It prints a local one to a Unix socket as a dynamic one too.
fn forwards(text: &str, gateway_ports: bool) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for (keyword, kind) in [
        ("localforward", "local"),
        ("remoteforward", "remote"),
        ("dynamicforward", "dynamic"),
    ] {
        for value in printed(text, keyword) {
            let (listen, to) = value.split_once(' ').unwrap_or((&value, ""));
            let is_port = listen.bytes().all(|byte| byte.is_ascii_digit());
            // Without an address both bind the loopback; only ssh prints `localhost`.
            let listen = listen.strip_prefix("[localhost]:").unwrap_or(listen);
            let listen = match kind {
                _ if is_port && gateway_ports && kind != "remote" => format!("[*]:{listen}"),
                _ => listen.to_owned(),
            };
            let line = format!("{kind} {listen} {to}").trim_end().to_owned();
            let twice = |known: &String| {
                known.strip_prefix("local ").is_some_and(|rest| {
                    line.strip_prefix("dynamic ")
                        .is_some_and(|at| rest.starts_with(&format!("{at} /")))
                })
            };
            if !all.contains(&line) && !all.iter().any(twice) {
                all.push(line);
            }
        }
    }
    all
}

type Value = (&'static str, fn(&Tunnel) -> String);

/// Keywords whose values are compared if the file mentions them.
const VALUES: &[Value] = &[
    ("serveraliveinterval", |t| {
        t.route
            .liveness
            .interval
            .map_or(0, |s| s.as_secs())
            .to_string()
    }),
    ("serveralivecountmax", |t| {
        t.route.liveness.count_max.to_string()
    }),
    ("numberofpasswordprompts", |t| {
        t.route.auth.password_prompts.to_string()
    }),
    ("bindaddress", |t| {
        t.route.bind_address.clone().unwrap_or_default()
    }),
    ("hostkeyalias", |t| {
        t.route.host_keys.alias.clone().unwrap_or_default()
    }),
    ("compression", |t| yes(t.route.crypto.compression)),
    ("identitiesonly", |t| yes(t.route.auth.identities_only)),
    ("exitonforwardfailure", |t| {
        yes(t.forwarding.exit_on_failure)
    }),
    ("hashknownhosts", |t| yes(t.route.host_keys.hash)),
    ("userknownhostsfile", |t| {
        paths(&t.route.host_keys.user_files)
    }),
    ("globalknownhostsfile", |t| {
        paths(&t.route.host_keys.global_files)
    }),
];

fn yes(on: bool) -> String {
    if on { "yes" } else { "no" }.to_owned()
}

fn paths(paths: &[std::path::PathBuf]) -> String {
    let paths: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    match paths.is_empty() {
        true => "none".to_owned(),
        false => paths.join(" "),
    }
}

/// The values that tunneld reads from this file for this host and ssh does not.
async fn differences(config: &str, host: &str) -> Vec<String> {
    let home = Home::new();
    write_included(&home);
    let config = &config.replace("DIR", &home.path("").display().to_string());
    let path = home.write("other", config);
    let output = std::process::Command::new("ssh")
        .args(["-G", "-T", "-N", "-F"])
        .arg(&path)
        .args(["--", host])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let case = format!("{host} of\n{config}");
    let ours = match (
        home.tunnel(host, config, json!({})).await,
        output.status.success(),
    ) {
        (Ok(ours), true) => ours,
        (Err(_), false) => return Vec::new(),
        (Ok(_), false) => return vec![format!("only ssh refuses {case}")],
        (Err(why), true) => return vec![format!("only tunneld refuses {case}: {why}")],
    };
    let one = |keyword| printed(&text, keyword).concat();
    let lower = config.to_lowercase();
    let mut pairs = vec![
        ("hostname", ours.route.host.clone(), one("hostname")),
        ("port", ours.route.port.to_string(), one("port")),
    ];
    // Without a User line both take the local user, which the test has made up for tunneld.
    if lower.contains("user") && ours.route.user != "me" {
        pairs.push(("user", ours.route.user.clone(), one("user")));
    }
    let via = match &ours.route.via {
        Via::Command(command) => command.clone(),
        _ => String::new(),
    };
    let command = Some(one("proxycommand")).filter(|command| command != "none");
    pairs.push(("proxycommand", via, command.unwrap_or_default()));
    if ours.route.auth.identity_files_explicit {
        let files = printed(&text, "identityfile").join(" ");
        pairs.push((
            "identityfile",
            paths(&ours.route.auth.identity_files),
            files,
        ));
    }
    let ours_forward: Vec<String> = ours.forwards.iter().map(forward).collect();
    let theirs = forwards(&text, one("gatewayports") == "yes");
    pairs.push(("forwards", ours_forward.join("; "), theirs.join("; ")));
    let crypto = &ours.route.crypto;
    for (list, keyword) in [
        (&crypto.ciphers, "ciphers"),
        (&crypto.kex, "kexalgorithms"),
        (&crypto.macs, "macs"),
    ] {
        if !list.is_empty() {
            pairs.push((keyword, list.join(","), one(keyword)));
        }
    }
    for (keyword, value) in VALUES {
        // A default path is in the home, and ssh does not use the test's home.
        if lower.contains(keyword) && !one(keyword).contains("/.ssh/") {
            pairs.push((*keyword, value(&ours), one(keyword)));
        }
    }
    let differ = pairs.into_iter().filter(|(_, ours, theirs)| ours != theirs);
    differ
        .map(|(keyword, ours, theirs)| format!("{keyword} {ours:?}, to ssh {theirs:?}, for {case}"))
        .collect()
}

#[tokio::test]
async fn every_file_is_read_as_ssh_reads_it() {
    let mut all = Vec::new();
    for config in FILES {
        for host in ["a", "b", "c.example", "j2"] {
            all.extend(differences(config, host).await);
        }
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        "Host [ab*!]{1,3}( [ab?]{1,2})?",
        "Match (all|host [ab*]{1,2}|originalhost [ab]|exec (true|false)|final all)",
        "  (User|user|USER)[ =][a-z]{1,4}",
        "\tPort[ =]?[0-9]{1,5}",
        "  HostName (%h\\.x|[a-z]{1,5}|2001:db8::[1-9])",
        "  ProxyCommand (none|nc %h %p)",
        "  IdentityFile /k/[a-z]{1,4}",
        "  (Local|Remote)Forward [1-9][0-9]{0,3} [a-z]{1,3}:[1-9][0-9]{0,2}",
        "  DynamicForward [1-9][0-9]{0,3}",
        "  # [a-z ]{0,9}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Random files of lines that are well formed one by one.
    #[test]
    fn random_files_are_read_as_ssh_reads_them(lines in proptest::collection::vec(line(), 0..14)) {
        let config = lines.join("\n") + "\n";
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for host in ["a", "b"] {
                let differ = differences(&config, host).await;
                assert!(differ.is_empty(), "{}", differ.join("\n"));
            }
        });
    }
}
