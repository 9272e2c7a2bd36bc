//! Whole ssh_config files: what a tunnel is resolved to against what `ssh -G` prints for the same host.

use proptest::prelude::*;
use serde_json::json;

use super::tests::Home;

/// Files with what parsers of their own get wrong.
const FILES: &[&str] = &[
    // Options before the first Host, `=` and tabs, a negated pattern, quotes.
    "User early\nHost a !b *.example\n\tPort=2222\nHost b\nPort\t33\n  IdentityFile \"/k/with space\"\n  IdentityFile=/k/two\n",
    // A Match block must not leak into the Host before it.
    "Host a\n  Port 2200\nMatch host nothing\n  ProxyCommand wrong\n  User wrong\nHost *\n  User last\n",
    // The first value wins; lists of forwards add up.
    "Host a\n  User one\n  LocalForward 80 x:1\nHost *\n  User two\n  LocalForward 81 y:2\n  DynamicForward 1080\n",
    // Match on the name as written, on the real name, with a command.
    "Host a\n  HostName real.example\nMatch originalhost a exec \"test %n = a\"\n  User original\nMatch host real.example\n  Port 23\n",
    "Match final host a.local\n  User final\nHost a\n  HostName %h.local\n",
    "Match exec false\n  User never\nMatch all\n  User always\n",
    "Host j1\n  ProxyJump none\nHost *\n  ProxyJump j1,u@j2:22\n",
    "CanonicalizeHostname no\nHost b\n  HostName 2001:db8::1\n  AddressFamily inet6\n",
    "Host a b\n  Ciphers ^aes256-ctr\n  KexAlgorithms -curve*\n  MACs +hmac-sha1\n  RekeyLimit 1M 10m\n",
];

fn printed(text: &str, keyword: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            line.strip_prefix(keyword)?
                .strip_prefix(' ')
                .map(str::to_owned)
        })
        .collect()
}

async fn agree(config: &str, host: &str) {
    let home = Home::new();
    let path = home.write("other", config);
    let output = std::process::Command::new("ssh")
        .args(["-G", "-T", "-N", "-F"])
        .arg(&path)
        .args(["--", host])
        .output()
        .expect("ssh runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let ours = home.tunnel(host, config, json!({})).await;
    if !output.status.success() {
        assert!(ours.is_err(), "{config}: ssh refuses it");
        return;
    }
    let ours = ours.unwrap_or_else(|faults| panic!("{config}: {faults}"));
    let one = |keyword| printed(&text, keyword).concat();
    let told = format!("{host} of\n{config}");
    assert_eq!(ours.route.host, one("hostname"), "{told}");
    assert_eq!(ours.route.port.to_string(), one("port"), "{told}");
    // Without a word from the file, both take the local user, whom our test has made up.
    if config.contains("User") && ours.route.user != "me" {
        assert_eq!(ours.route.user, one("user"), "{told}");
    }
    let via = match &ours.route.via {
        crate::config::model::Via::Command(command) => command.clone(),
        _ => String::new(),
    };
    assert_eq!(via, one("proxycommand"), "{told}");
    if ours.route.auth.identity_files_explicit {
        let files: Vec<String> = ours
            .route
            .auth
            .identity_files
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        assert_eq!(files, printed(&text, "identityfile"), "{told}");
    }
    let count = |keyword| printed(&text, keyword).len();
    assert_eq!(
        ours.forwards.len(),
        count("localforward") + count("remoteforward") + count("dynamicforward"),
        "{told}"
    );
    for (list, keyword) in [
        (&ours.route.crypto.ciphers, "ciphers"),
        (&ours.route.crypto.kex, "kexalgorithms"),
        (&ours.route.crypto.macs, "macs"),
    ] {
        if !list.is_empty() {
            assert_eq!(list.join(","), one(keyword), "{told}");
        }
    }
}

#[tokio::test]
async fn every_file_reads_as_ssh_reads_it() {
    for config in FILES {
        for host in ["a", "b", "c.example", "j2"] {
            agree(config, host).await;
        }
    }
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

    /// Files made up of blocks that are, as files go, well formed and otherwise anything.
    #[test]
    fn made_up_files_read_as_ssh_reads_them(lines in proptest::collection::vec(line(), 0..14)) {
        let config = lines.join("\n") + "\n";
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for host in ["a", "b"] {
                agree(&config, host).await;
            }
        });
    }
}
