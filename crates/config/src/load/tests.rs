//! Loads of a directory: what is read, what is refused, and what stays when a file has errors.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use tempfile::TempDir;
use tunneld_platform::subprocess::TokioPrograms;

use super::*;
use crate::addr::{BindAddr, Endpoint, HostPort, ListenAddr};
use crate::model::{Forward, Via};

pub(crate) struct Dir {
    pub(crate) home: TempDir,
    pub(crate) dir: PathBuf,
}

impl Dir {
    pub(crate) fn new() -> Self {
        let home = TempDir::new().unwrap();
        let dir = home.path().join("tunneld");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        Self { home, dir }
    }
    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    pub(crate) fn env(&self) -> Env {
        Env {
            uid: rustix::process::geteuid().as_raw(),
            ..Env::for_tests(self.home.path())
        }
    }
    pub(crate) fn loader(&self) -> Loader {
        self.loader_in(self.env())
    }
    fn loader_in(&self, env: Env) -> Loader {
        Loader::new(self.dir.clone(), env, Arc::new(TokioPrograms))
    }
    /// Loads the directory with a new loader.
    async fn load(&self) -> Loaded {
        self.loader().load(now()).await
    }
}

/// The time for a load; tests too may not read std's clock.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
fn names(loaded: &Loaded) -> Vec<&str> {
    loaded
        .tunnels
        .iter()
        .map(|tunnel| tunnel.name.as_str())
        .collect()
}
fn rendered(loaded: &Loaded) -> String {
    loaded
        .faults
        .iter()
        .map(|fault| format!("{}\n", fault.rendered))
        .collect()
}

#[tokio::test]
async fn the_example_of_the_interface_is_loaded() {
    let dir = Dir::new();
    dir.write(
        "tunneld.toml",
        r#"
#:schema ./tunneld.schema.json
[defaults]
server_alive_interval = "1m30s"
[daemon]
log = "info,tunneld=debug"
"#,
    );
    dir.write(
        "work.toml",
        r#"
[tunnel.emr]
host = "hadoop@ec2-198-51-100-7.compute-1.amazonaws.com"
identity_file = "~/mykeypair.pem"
dynamic_forward = 8157
local_forward = ["8088 localhost:8088", "127.0.0.1:9870:localhost:9870", "/run/user/1000/db.sock /var/run/postgresql/.s.PGSQL.5432"]
[tunnel.mahuika]
"#,
    );
    let loaded = dir.load().await;
    assert_eq!(rendered(&loaded), "");
    assert_eq!(names(&loaded), ["emr", "mahuika"]);
    assert_eq!(loaded.daemon.log.as_deref(), Some("info,tunneld=debug"));
    let emr = &loaded.tunnels[0];
    assert_eq!(emr.route.user, "hadoop");
    assert_eq!(emr.route.liveness.interval.unwrap().as_secs(), 90);
    assert_eq!(
        emr.route.auth.identity_files,
        [dir.home.path().join("mykeypair.pem")]
    );
    assert_eq!(emr.forwards.len(), 4);
    assert_eq!(
        emr.forwards[1],
        Forward::Local {
            listen: ListenAddr::Tcp {
                bind: BindAddr::Host("127.0.0.1".into()),
                port: 9870
            },
            to: Endpoint::Tcp(HostPort {
                host: "localhost".into(),
                port: 9870
            }),
        }
    );
    let mahuika = &loaded.tunnels[1].route;
    assert_eq!(
        (mahuika.host.as_str(), mahuika.port, mahuika.user.as_str()),
        ("mahuika", 22, "me")
    );
    assert_eq!(mahuika.auth.identity_files.len(), 5);
    assert_eq!(mahuika.via, Via::Direct);
}

#[tokio::test]
async fn every_error_of_every_file_is_reported_at_once() {
    let dir = Dir::new();
    dir.write(
        "a.toml",
        "[tunnel.a]\nhots = \"x\"\nport = \"22 \"\n[tunnel.b]\nhost = \"u@$(x)\"\nhold = -1\n",
    );
    dir.write("b.toml", "[tunnel.c]\nlocal_forward = [\"8088\", \"70000 h:1\"]\nbackoff = { initial = \"2m\", max = \"1m\" }\non_demand = true\n");
    dir.write("c.toml", "[tunnel.ok]\n");
    let loaded = dir.load().await;
    assert_eq!(names(&loaded), ["ok"]);
    let text = rendered(&loaded);
    for expected in [
        "a.toml:2:1\n  |\n2 | hots = \"x\"\n  | ^^^^\n  = help: did you mean \"host\"?",
        "port: expected an integer from 1 to 65535, found \"22 \"",
        "host: the host `$(x)` contains `$`",
        "hold: expected a time from 0s to 1d, found -1",
        "local_forward: the target is missing",
        "b.toml:2:26",
        "the listening port 70000 is outside 0 to 65535",
        "backoff: initial is longer than max",
        "on_demand is not supported by this version of tunneld",
    ] {
        assert!(text.contains(expected), "{expected}\n--- in ---\n{text}");
    }
    assert_eq!(loaded.faults.len(), 8, "{text}");
}

#[tokio::test]
async fn an_error_hides_no_other_error_of_its_file() {
    let dir = Dir::new();
    dir.write(
        "a.toml",
        "[tunnel.a]\nprt = 1\n[tunnel.b]\nlocal_forward = \"*:8080:h:80\"\n[tunnel.c]\nidentity_file = \"%Z\"\n\
         [tunnel.d]\nlocal_forward = [\"1 h:1\", \"1 h:2\"]\n",
    );
    let text = rendered(&dir.load().await);
    for fault in ["prt", "*:8080", "%Z", "one address"] {
        assert!(text.contains(fault), "{fault}: {text}");
    }
    assert_eq!(
        text.matches("prt").count(),
        1 + text.matches("prt = 1").count(),
        "{text}"
    );
}

#[tokio::test]
async fn a_dangling_link_is_an_error() {
    let dir = Dir::new();
    std::os::unix::fs::symlink("/no/such/file", dir.dir.join("a.toml")).unwrap();
    let text = rendered(&dir.load().await);
    assert!(
        text.contains("a symbolic link to a file that does not exist"),
        "{text}"
    );
}

#[tokio::test]
async fn a_load_without_the_built_in_values_of_ssh_is_to_be_tried_again() {
    let dir = Dir::new();
    dir.write("a.toml", "[tunnel.t]\nhost = \"h\"\n");
    let ssh = dir.dir.join("ssh");
    let script = "#!/bin/sh\ncase \" $* \" in *' none '*) exit 3 ;; esac\necho user me\n";
    fs::write(&ssh, script).unwrap();
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o700)).unwrap();
    let env = Env {
        ssh: Some(ssh),
        ..dir.env()
    };
    let loaded = dir.loader_in(env).load(now()).await;
    assert!(loaded.tunnels.is_empty(), "{loaded:?}");
    assert_eq!(loaded.try_again, TryAgain::Soon);
}

#[tokio::test]
async fn a_load_without_an_answer_of_ssh_is_to_be_tried_again() {
    let dir = Dir::new();
    dir.write("a.toml", "[tunnel.t]\nhost = \"h\"\n");
    dir.write("ssh", "#!/bin/sh\nexit 3\n");
    let env = Env {
        ssh: Some(dir.dir.join("ssh")),
        ..dir.env()
    };
    // The mode 0600 makes it impossible to run.
    let loaded = dir.loader_in(env).load(now()).await;
    assert!(loaded.tunnels.is_empty(), "{loaded:?}");
    assert_eq!(loaded.try_again, TryAgain::Soon);
    assert_eq!(dir.load().await.try_again, TryAgain::OnChange);
}

#[tokio::test]
async fn syntax_errors_and_bad_keys_of_one_file_are_both_reported() {
    let dir = Dir::new();
    dir.write(
        "a.toml",
        "[tunnel.a]\nport = 0\n[tunnel.a]\nuser = 1\n[tunnel.b]\nzzz = 1\nport = 1\nport = 2\n",
    );
    let text = rendered(&dir.load().await);
    for expected in [
        "a.toml:2:",
        "\"a\" is defined twice: also at line 1",
        "\"port\" is defined twice: also at line 7",
        "unknown key \"zzz\"",
    ] {
        assert!(text.contains(expected), "{expected}\n--- in ---\n{text}");
    }
}

#[tokio::test]
async fn a_file_with_errors_keeps_its_tunnels_and_the_others_apply() {
    let dir = Dir::new();
    dir.write("a.toml", "[tunnel.a]\nhost = \"old\"\n");
    dir.write("b.toml", "[tunnel.b]\nhost = \"old\"\n");
    let mut loader = dir.loader();
    let first = loader.load(now()).await;
    assert_eq!(first.faults, []);
    dir.write("a.toml", "[tunnel.a]\nhost = \"new\nhots = 1");
    dir.write("b.toml", "[tunnel.b]\nhost = \"new\"\n");
    let second = loader.load(now()).await;
    assert_eq!(second.tunnels[0].route.host, "old");
    assert!(
        second.tunnels[0].status_notes()[0].starts_with("stale: "),
        "{:?}",
        second.tunnels[0]
    );
    assert_eq!(second.tunnels[1].route.host, "new");
    assert!(!second.faults.is_empty());
    let third = loader.load(now()).await;
    assert_eq!(
        second, third,
        "an unchanged directory gives the same result"
    );
    dir.write("a.toml", "[tunnel.a]\nhost = \"newer\"\n");
    let fourth = loader.load(now()).await;
    assert_eq!(
        (
            fourth.tunnels[0].route.host.as_str(),
            fourth.tunnels[0].status_notes().len()
        ),
        ("newer", 0)
    );
    assert_eq!(fourth.faults, []);
    fs::remove_file(dir.dir.join("a.toml")).unwrap();
    assert_eq!(names(&loader.load(now()).await), ["b"]);
}

#[tokio::test]
async fn a_folder_that_disappears_keeps_its_tunnels_until_it_is_back() {
    let dir = Dir::new();
    dir.write("a.toml", "[tunnel.a]\n");
    let mut loader = dir.loader();
    loader.load(now()).await;
    fs::rename(&dir.dir, dir.home.path().join("away")).unwrap();
    let away = loader.load(now()).await;
    assert_eq!(names(&away), ["a"]);
    assert!(rendered(&away).contains("does not exist"));
    assert!(away.tunnels[0].status_notes()[0].starts_with("stale"));
    fs::rename(dir.home.path().join("away"), &dir.dir).unwrap();
    let back = loader.load(now()).await;
    assert_eq!(
        (back.faults.len(), back.tunnels[0].status_notes().len()),
        (0, 0)
    );
    fs::remove_dir_all(&dir.dir).unwrap();
    assert_eq!(
        dir.load().await,
        Loaded {
            try_again: TryAgain::Soon,
            ..Loaded::default()
        },
        "a new user without a folder is not an error"
    );
    let required = dir.loader().dir_required(true).load(now()).await;
    assert!(rendered(&required).contains("does not exist"));
}

#[tokio::test]
async fn files_that_are_not_trusted_text_are_refused_and_never_block() {
    let dir = Dir::new();
    dir.write("ok.toml", "\u{feff}[tunnel.ok]\r\nhost = \"h\" # c\r\n");
    dir.write("empty.toml", "");
    dir.write("comment.toml", "# nothing\n");
    dir.write("nul.toml", "[tunnel.x]\n\0\n");
    dir.write("latin.toml", b"[tunnel.y]\n# \xe4\n");
    dir.write("huge.toml", "#".repeat(2 << 20));
    dir.write(
        "deep.toml",
        format!("a = {}{}", "[".repeat(500), "]".repeat(500)),
    );
    dir.write("open.toml", "[tunnel.z]\n");
    fs::set_permissions(dir.dir.join("open.toml"), fs::Permissions::from_mode(0o622)).unwrap();
    fs::create_dir(dir.dir.join("dir.toml")).unwrap();
    tunneld_platform::testing::make_fifo(&dir.dir.join("fifo.toml"));
    dir.write(".hidden.toml", "x");
    dir.write("old.toml~", "x");
    dir.write("#edited.toml#", "x");
    let loaded = dir.load().await;
    assert_eq!(names(&loaded), ["ok"]);
    let text = rendered(&loaded);
    for (file, why) in [
        ("nul.toml", "contains a NUL byte in line 2"),
        ("latin.toml", "is not UTF-8: line 2, column 3, byte 0xE4"),
        ("huge.toml", "is larger than 1 MiB"),
        ("deep.toml", "recursion"),
        ("open.toml", "is writable by others (mode 0622)"),
        ("dir.toml", "is not a regular file"),
        ("fifo.toml", "is not a regular file"),
    ] {
        let expected =
            |fault: &ConfigFault| fault.file.ends_with(file) && fault.rendered.contains(why);
        assert!(
            loaded.faults.iter().any(expected),
            "{file}: {why}\n--- in ---\n{text}"
        );
    }
    assert!(
        !text.contains("hidden") && !text.contains("old.toml") && !text.contains("edited"),
        "{text}"
    );
}

#[tokio::test]
async fn many_tables_and_many_errors_are_bounded() {
    let dir = Dir::new();
    let many: String = (0..60_000).map(|n| format!("[t.x{n}]\n")).collect();
    dir.write("a.toml", &many);
    dir.write(
        "b.toml",
        (0..60_000)
            .map(|n| format!("[tunnel.x{n}]\n"))
            .collect::<String>(),
    );
    dir.write(
        "c.toml",
        (0..60_000).map(|n| format!("k{n}=1\n")).collect::<String>(),
    );
    let loaded = dir.load().await;
    assert!(loaded.tunnels.is_empty());
    assert!(loaded.faults.len() < 60, "{}", loaded.faults.len());
    assert!(rendered(&loaded).contains("more than 1024 tunnels"));
}

#[tokio::test]
async fn conflicting_definitions_name_each_other() {
    let dir = Dir::new();
    dir.write(
        "a.toml",
        "[tunnel.db]\nlocal_forward = \"5432 db:5432\"\n[daemon]\n",
    );
    dir.write("b.toml", "[tunnel.db]\n");
    dir.write(
        "c.toml",
        "[tunnel.c]\ndynamic_forward = [\"127.0.0.1:5432\", 1080]\n[daemon]\n",
    );
    dir.write(
        "d.toml",
        "[tunnel.d]\nlocal_forward = [\"[::1]:7 h:1\", \"localhost:7 h:2\"]\n",
    );
    dir.write(
        "e.toml",
        "[tunnel.e]\nlocal_forward = [\"0 h:1\", \"0 h:2\", \"127.0.0.2:5432 h:1\"]\n",
    );
    let loaded = dir.load().await;
    let text = rendered(&loaded);
    for expected in [
        "the tunnel \"db\" is defined twice: also at",
        "a.toml:1:9",
        "\"dynamic_forward 127.0.0.1:5432\" of c and \"local_forward localhost:5432 to db:5432\" of db, at",
        "a.toml:2:17",
        "[daemon] is defined twice",
        "\"local_forward localhost:7 to h:2\" of d and \"local_forward [::1]:7 to h:1\" of d",
    ] {
        assert!(text.contains(expected), "{expected}\n--- in ---\n{text}");
    }
    assert_eq!(names(&loaded), ["db", "e"]);
}

#[tokio::test]
async fn a_conflict_is_reported_for_the_file_that_changed() {
    let dir = Dir::new();
    dir.write("a.toml", "[tunnel.a]\nhost = \"a\"\n");
    dir.write("b.toml", "[tunnel.b]\nhost = \"b\"\n");
    let mut loader = dir.loader();
    loader.load(now()).await;
    dir.write(
        "a.toml",
        "[tunnel.a]\nhost = \"x\"\n[tunnel.b]\nhost = \"x\"\n",
    );
    let loaded = loader.load(now()).await;
    assert!(loaded.faults[0].file.ends_with("a.toml"));
    let hosts: Vec<&str> = loaded
        .tunnels
        .iter()
        .map(|tunnel| tunnel.route.host.as_str())
        .collect();
    assert_eq!(hosts, ["a", "b"]);
    // Removing the tunnel from b.toml completes the move.
    dir.write("b.toml", "");
    let loaded = loader.load(now()).await;
    assert_eq!(rendered(&loaded), "");
    assert!(loaded.tunnels.iter().all(|tunnel| tunnel.route.host == "x"));
}

#[tokio::test]
async fn loops_are_errors() {
    let dir = Dir::new();
    dir.write(
        "a.toml",
        "[tunnel.a]\nproxy_jump = \"tunnel:b\"\n[tunnel.b]\nproxy_jump = \"tunnel:a\"\n[tunnel.c]\nproxy_jump = \"tunnel:aa\"\n[tunnel.d]\nproxy_jump = \"d\"\n",
    );
    dir.write(
        "b.toml",
        "[tunnel.e]\nhost = \"localhost:8022\"\nlocal_forward = \"8022 h:22\"\n",
    );
    dir.write("c.toml", "[tunnel.f]\nlocal_forward = \"8080 localhost:9000\"\nremote_forward = \"9000 localhost:8080\"\n");
    let loaded = dir.load().await;
    let text = rendered(&loaded);
    for expected in [
        "the tunnel would carry itself: a -> b -> a",
        "there is no tunnel \"aa\"",
        "did you mean \"tunnel:a\"?",
        "the chain is a loop: d -> d",
        "the tunnel would connect through its own \"local_forward localhost:8022 to h:22\"",
        "form a loop",
    ] {
        assert!(text.contains(expected), "{expected}\n--- in ---\n{text}");
    }
    assert!(loaded.tunnels.is_empty());
}

#[tokio::test]
async fn tunnels_of_the_command_line_are_resolved_over_the_defaults() {
    let dir = Dir::new();
    dir.write("tunneld.toml", "[defaults]\nconnect_timeout = 5\n");
    let mut loader = dir.loader();
    loader.load(now()).await;
    let keys = serde_json::json!({"host": "u@h", "local_forward": ["8080:localhost:80"], "compression": true});
    let tunnel = ad_hoc("x", &keys, &loader).await.unwrap();
    assert_eq!(
        (
            tunnel.route.user.as_str(),
            tunnel.route.connect_timeout.as_secs()
        ),
        ("u", 5)
    );
    assert!(tunnel.route.crypto.compression);
    let keys =
        serde_json::json!({"hots": 1, "local_forward": ["x"], "port": 0, "gateway_ports": null});
    let faults = ad_hoc("-x", &keys, &loader).await.unwrap_err();
    assert_eq!(faults.len(), 5, "{faults:?}");
    assert!(
        faults
            .iter()
            .any(|fault| fault.message.contains("did you mean \"host\""))
    );
    assert!(ad_hoc("x", &serde_json::json!([]), &loader).await.is_err());
}

#[tokio::test]
async fn listening_on_all_addresses_must_be_explicit() {
    let dir = Dir::new();
    dir.write("a.toml", "[tunnel.a]\nlocal_forward = \"*:8080 h:1\"\n");
    dir.write("b.toml", "[tunnel.b]\ngateway_ports = true\nlocal_forward = [\"8081 h:1\", \"localhost:8082 h:1\"]\n");
    dir.write("c.toml", "[tunnel.c]\ndynamic_forward = \"0.0.0.0:8083\"\nserver_alive_interval = 0\n[tunnel.d]\ndynamic_forward = 40000\n");
    let loaded = dir.load().await;
    let text = rendered(&loaded);
    assert!(
        text.contains("a.toml:2:17") && text.contains("write gateway_ports = true"),
        "{text}"
    );
    assert_eq!(names(&loaded), ["b", "c", "d"]);
    let binds: Vec<String> = loaded.tunnels[0]
        .forwards
        .iter()
        .map(|forward| match forward {
            Forward::Local { listen, .. } => listen.to_string(),
            _ => unreachable!(),
        })
        .collect();
    assert_eq!(binds, ["*:8081", "localhost:8082"]);
    assert_eq!(loaded.tunnels[1].route.liveness.interval, None);
    assert!(loaded.tunnels[1].notes[0].contains("not detected"));
    assert!(loaded.tunnels[2].notes[0].contains("port 40000"));
}

#[tokio::test]
async fn dns_listeners_stay_on_loopback_and_ask_the_configured_server() {
    let dir = Dir::new();
    dir.write(
        "a.toml",
        "[defaults]\ndns_server = \"10.0.0.2\"\n[tunnel.a]\ngateway_ports = true\ndns_listen = [53, \"*:54\"]\n\
         [tunnel.b]\ndns_listen = 5353\ndns_server = \"[fd00::2]:54\"\n",
    );
    dir.write("c.toml", "[tunnel.c]\ndns_listen = \"5354\"\n");
    dir.write("d.toml", "[tunnel.d]\ndns_listen = \"*:5355\"\n");
    dir.write("e.toml", "[tunnel.e]\ndynamic_forward = 5353\n");
    let loaded = dir.load().await;
    let text = rendered(&loaded);
    assert!(text.contains("write gateway_ports = true"), "{text}");
    assert!(text.contains("5353"), "{text}");
    let dns: Vec<String> = loaded
        .tunnels
        .iter()
        .flat_map(|tunnel| &tunnel.forwards)
        .filter_map(|forward| match forward {
            Forward::Dns { listen, server } => Some(format!("{listen} {server}")),
            _ => None,
        })
        .collect();
    assert_eq!(
        dns,
        [
            "localhost:53 10.0.0.2:53",
            "*:54 10.0.0.2:53",
            "localhost:5353 [fd00::2]:54",
            "localhost:5354 127.0.0.1:53",
        ]
    );
}

#[tokio::test]
async fn tunnels_wait_for_a_main_file_whose_defaults_could_not_be_read() {
    const DEFAULTS: &str = "[defaults]\nproxy_jump = \"bastion\"\nstrict_host_key_checking = \"yes\"\nssh_config = false\n";
    let broken = [
        format!("{DEFAULTS}[daemon]\nlgo = \"info\"\n"),
        format!("{DEFAULTS}[daemon\n"),
        DEFAULTS.replace("\"yes\"", "\"maybe\""),
        DEFAULTS.replace("[defaults]", "[default]"),
        format!("{DEFAULTS}[daemon]\n# \0"),
    ];
    for text in broken {
        let dir = Dir::new();
        dir.write("tunneld.toml", &text);
        dir.write("x.toml", "[tunnel.x]\nhost = \"target\"\n");
        let mut loader = dir.loader();
        let loaded = loader.load(now()).await;
        assert!(loaded.tunnels.is_empty(), "{text}: {loaded:?}");
        let shown = rendered(&loaded);
        assert!(shown.contains("x does not start"), "{text}: {shown}");
        let ad_hoc_keys = serde_json::json!({"host": "target"});
        assert!(ad_hoc("y", &ad_hoc_keys, &loader).await.is_err(), "{text}");
        dir.write("tunneld.toml", DEFAULTS);
        let mended = loader.load(now()).await;
        assert_eq!(rendered(&mended), "", "{text}");
        assert_eq!(names(&mended), ["x"]);
        assert!(matches!(mended.tunnels[0].route.via, Via::Jump(_)));
    }
}

#[tokio::test]
async fn tunnels_do_not_wait_for_a_main_file_without_defaults() {
    let dir = Dir::new();
    dir.write("tunneld.toml", "[daemon]\nlgo = \"info\"\n");
    dir.write("x.toml", "[tunnel.x]\nhost = \"target\"\n");
    assert_eq!(names(&dir.load().await), ["x"]);
}

#[tokio::test]
async fn a_main_file_that_breaks_while_tunnels_run_keeps_them() {
    let dir = Dir::new();
    dir.write("x.toml", "[tunnel.x]\nhost = \"old\"\n");
    let mut loader = dir.loader();
    loader.load(now()).await;
    dir.write("tunneld.toml", "[defaults]\nprt = 1\n");
    dir.write("x.toml", "[tunnel.x]\nhost = \"new\"\n[tunnel.z]\n");
    let loaded = loader.load(now()).await;
    assert_eq!(names(&loaded), ["x"]);
    assert_eq!(loaded.tunnels[0].route.host, "old");
    assert!(loaded.tunnels[0].status_notes()[0].contains("tunneld.toml has errors"));
    assert!(rendered(&loaded).contains("z does not start"));
    let later = now() + Duration::from_secs(60);
    assert!(loader.refresh_job("x", None, later).is_none());
}

#[tokio::test]
async fn another_files_daemon_table_does_not_displace_the_main_file() {
    let dir = Dir::new();
    dir.write("a.toml", "[daemon]\n");
    dir.write("tunneld.toml", "[defaults]\nport = 2222\n[daemon]\n");
    dir.write("x.toml", "[tunnel.x]\n");
    let loaded = dir.load().await;
    assert_eq!(loaded.tunnels[0].route.port, 2222);
    assert!(loaded.faults[0].file.ends_with("a.toml"));
}

#[tokio::test]
async fn the_main_file_is_read_however_many_other_files_exist() {
    let dir = Dir::new();
    for number in 0..300 {
        dir.write(&format!("a{number}.toml"), "");
    }
    dir.write("a0.toml", "[tunnel.x]\n");
    dir.write("tunneld.toml", "[defaults]\nport = 2222\n");
    let loaded = dir.load().await;
    assert_eq!(loaded.tunnels[0].route.port, 2222);
}

/// An executable file that stands for the ssh program.
fn fake_ssh(dir: &Dir, script: &str) -> Env {
    let path = dir.home.path().join("ssh");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    Env {
        ssh: Some(path),
        ..dir.env()
    }
}

#[tokio::test]
async fn one_mistake_in_ssh_config_is_reported_once_and_asked_about_again() {
    let dir = Dir::new();
    dir.write("a.toml", "[tunnel.a]\n[tunnel.b]\n[tunnel.c]\n");
    dir.write("bad.toml", "[tunnel.d]\n[tunnel.e]\nhots = 1\n");
    let env = fake_ssh(&dir, "echo 'config line 3: Bad option: foo' >&2; exit 255");
    let loaded = dir.loader_in(env).load(now()).await;
    let text = rendered(&loaded);
    assert_eq!(text.matches("Bad option").count(), 1, "{text}");
    assert!(text.contains("wait for it: a, b, c"), "{text}");
    assert!(loaded.tunnels.is_empty());
    assert_eq!(loaded.try_again, TryAgain::Soon);
}

#[tokio::test]
async fn tunnels_wait_for_an_ssh_config_that_cannot_be_read() {
    let dir = Dir::new();
    dir.write("a.toml", "[tunnel.a]\n[tunnel.b]\nssh_config = false\n");
    let config = dir.home.path().join(".ssh/config");
    // A folder cannot be read by root either, whom no mode stops.
    fs::create_dir_all(&config).unwrap();
    let env = fake_ssh(&dir, "echo host a");
    let mut loader = dir.loader_in(env);
    let loaded = loader.load(now()).await;
    assert_eq!(names(&loaded), ["b"]);
    assert_eq!(loaded.try_again, TryAgain::Soon);
    assert!(rendered(&loaded).contains(".ssh/config cannot be read"));
    fs::remove_dir(&config).unwrap();
    std::os::unix::fs::symlink("/no/such/file", &config).unwrap();
    assert_eq!(names(&loader.load(now()).await), ["b"]);
    fs::remove_file(&config).unwrap();
    let mended = loader.load(now()).await;
    assert_eq!(names(&mended), ["a", "b"], "{mended:?}");
}

#[tokio::test]
async fn what_cannot_be_read_now_is_read_again_and_wrong_content_is_not() {
    let dir = Dir::new();
    dir.write("a.toml", "[tunnel.a]\nhots = 1\n");
    assert_eq!(dir.load().await.try_again, TryAgain::OnChange);
    // A loop of links fails for root too, whom no mode stops.
    let link = dir.dir.join("b.toml");
    std::os::unix::fs::symlink(&link, &link).unwrap();
    let loaded = dir.load().await;
    assert_eq!(loaded.try_again, TryAgain::Soon);
    assert!(rendered(&loaded).contains("reads it again within 5 seconds"));
    let elsewhere = dir.home.path().join("elsewhere");
    fs::rename(&dir.dir, &elsewhere).unwrap();
    let mut loader = dir.loader();
    assert_eq!(loader.load(now()).await.try_again, TryAgain::Soon);
    fs::write(&dir.dir, "").unwrap();
    let unlisted = loader.load(now()).await;
    assert_eq!(unlisted.try_again, TryAgain::Soon);
    assert!(rendered(&unlisted).contains("Not a directory"));
    let keys = serde_json::json!({"host": "h"});
    assert!(ad_hoc("x", &keys, &loader).await.is_err());
}

#[tokio::test]
async fn a_loader_that_starts_with_a_broken_file_uses_its_last_good_copy() {
    let dir = Dir::new();
    dir.write("tunneld.toml", "[defaults]\nport = 2222\n");
    dir.write("x.toml", "[tunnel.x]\nhost = \"old\"\n");
    let mut first = dir.loader().keep_copies();
    first.load(now()).await;
    first.copy_job().unwrap().run().unwrap();
    let folder = dir.home.path().join(".local/state/tunneld");
    assert_eq!(
        folder.metadata().unwrap().permissions().mode() & 0o777,
        0o700
    );
    for entry in fs::read_dir(folder.join("last-good")).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    // The main file alone is broken, then the other one, with defaults that the copy was not read with.
    dir.write("tunneld.toml", "[defaults]\nprot = 1\n");
    let loaded = dir.loader().keep_copies().load(now()).await;
    assert_eq!(names(&loaded), ["x"], "{}", rendered(&loaded));
    assert_eq!(loaded.tunnels[0].route.port, 2222);
    dir.write("tunneld.toml", "[defaults]\nport = 3333\n");
    dir.write("x.toml", "[tunnel.x]\nhots = \"new\"\n");
    let mut second = dir.loader().keep_copies();
    let loaded = second.load(now()).await;
    let route = &loaded.tunnels[0].route;
    assert_eq!((route.host.as_str(), route.port), ("old", 2222));
    assert!(loaded.tunnels[0].status_notes()[0].starts_with("stale: "));
    second.copy_job().unwrap().run().unwrap();

    // The old text is good again, with the present defaults.
    dir.write("x.toml", "[tunnel.x]\nhost = \"old\"\n");
    let loaded = second.load(now()).await;
    let tunnel = &loaded.tunnels[0];
    assert_eq!((tunnel.route.port, tunnel.status_notes().len()), (3333, 0));

    // A removed file leaves no copy, and a copy that others can write is not used.
    fs::remove_file(dir.dir.join("x.toml")).unwrap();
    second.load(now()).await;
    second.copy_job().unwrap().run().unwrap();
    dir.write("x.toml", "[tunnel.x]\nhots = \"new\"\n");
    assert!(
        dir.loader()
            .keep_copies()
            .load(now())
            .await
            .tunnels
            .is_empty()
    );
    dir.write("tunneld.toml", "[defaults]\nprot = 1\n");
    fs::set_permissions(folder.join("last-good"), fs::Permissions::from_mode(0o777)).unwrap();
    dir.write("x.toml", "[tunnel.x]\n");
    assert!(
        dir.loader()
            .keep_copies()
            .load(now())
            .await
            .tunnels
            .is_empty()
    );
}

#[tokio::test]
async fn a_missing_bracket_is_one_error_at_the_bracket_that_is_open() {
    let rest: String = (0..10)
        .map(|n| format!("[tunnel.t{n}]\nhost = \"h\"\nlocal_forward = [\"{n} a:1\", 'b']\n"))
        .collect();
    for (start, line, column) in [
        (
            "[tunnel.a]\nlocal_forward = [\"1 h:1\",\n  \"2 h:]\" # ]\n",
            2,
            17,
        ),
        ("[tunnel.a\nhost = \"h\"\n", 1, 1),
        ("[tunnel.a]\nbackoff = { initial = \"1s\"\n", 2, 11),
        ("[tunnel.a]\nidentity_file = [\"\"\"a]\"\"\"\n", 2, 17),
    ] {
        let dir = Dir::new();
        dir.write("a.toml", format!("{start}{rest}"));
        let loaded = dir.load().await;
        let text = rendered(&loaded);
        assert_eq!(loaded.faults.len(), 1, "{text}");
        let fault = &loaded.faults[0];
        assert!(fault.message.contains("is not closed"), "{text}");
        assert_eq!(
            (fault.line, fault.column),
            (Some(line), Some(column)),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_tunnel_that_is_defined_twice_is_one_error_with_both_places() {
    let dir = Dir::new();
    dir.write(
        "a.toml",
        "[tunnel.a]\nhost = \"x\"\n\n[tunnel.a]\nhost = \"y\"\n",
    );
    let loaded = dir.load().await;
    let text = rendered(&loaded);
    assert_eq!(loaded.faults.len(), 1, "{text}");
    assert!(
        text.contains("\"a\" is defined twice: also at line 1"),
        "{text}"
    );
    assert_eq!(loaded.faults[0].line, Some(4), "{text}");
}

#[tokio::test]
async fn an_error_in_one_tunnel_does_not_affect_the_others_of_its_file() {
    let dir = Dir::new();
    dir.write(
        "a.toml",
        "[tunnel.a]\nhots = \"h\"\n[tunnel.b]\nhost = \"one\"\n",
    );
    let mut loader = dir.loader();
    assert_eq!(names(&loader.load(now()).await), ["b"]);
    dir.write(
        "a.toml",
        "[tunnel.a]\nhost = \"h\"\n[tunnel.b]\nhost = \"one\"\n",
    );
    loader.load(now()).await;
    dir.write(
        "a.toml",
        "[tunnel.a]\nhots = \"h\"\n[tunnel.b]\nhost = \"two\"\n",
    );
    let loaded = loader.load(now()).await;
    assert_eq!(names(&loaded), ["a", "b"]);
    assert!(loaded.tunnels[0].status_notes()[0].starts_with("stale: "));
    assert_eq!(loaded.tunnels[1].route.host, "two");
    assert_eq!(loaded.tunnels[1].status_notes(), Vec::<String>::new());
    assert_eq!(loader.load(now()).await, loaded, "the error stays");
}

#[tokio::test]
async fn group_write_is_refused_only_where_the_group_has_other_members() {
    let dir = Dir::new();
    dir.write("a.toml", "[tunnel.a]\n");
    let path = dir.dir.join("a.toml");
    let set_mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    // The tests' own group is private if it has the user's name and no other member, as root's in a container.
    let uid = rustix::process::geteuid().as_raw();
    let user = uzers::get_user_by_uid(uid).unwrap();
    let group = uzers::get_group_by_gid(rustix::process::getegid().as_raw()).unwrap();
    set_mode(0o664);
    let loaded = dir.load().await;
    if user.name() == group.name() {
        assert_eq!(rendered(&loaded), "");
    }
    set_mode(0o602);
    assert!(rendered(&dir.load().await).contains("chmod o-w"));
    if uid == 0 {
        // A group without any user.
        std::os::unix::fs::chown(&path, None, Some(54_321)).unwrap();
        set_mode(0o664);
        assert!(rendered(&dir.load().await).contains("chmod g-w"));
        set_mode(0o666);
        assert!(rendered(&dir.load().await).contains("chmod go-w"));
    }
}

#[tokio::test]
async fn a_path_in_a_list_may_have_spaces() {
    let dir = Dir::new();
    dir.write("a.toml", "[tunnel.a]\nuser_known_hosts_file = [\"/my files/kh\", \"/b\"]\nglobal_known_hosts_file = \"/c /d\"\n\
        revoked_host_keys = [\"/e f\"]\nlocal_forward = \"'/run/my db.sock' h:1\"\n");
    let loaded = dir.load().await;
    assert_eq!(rendered(&loaded), "");
    let keys = &loaded.tunnels[0].route.host_keys;
    assert_eq!(
        keys.user_files,
        [PathBuf::from("/my files/kh"), PathBuf::from("/b")]
    );
    assert_eq!(
        keys.global_files,
        [PathBuf::from("/c"), PathBuf::from("/d")]
    );
    assert_eq!(keys.revoked_files, [PathBuf::from("/e f")]);
}
