//! tunnelctl as users and scripts run it: exit codes, stdout and stderr, colour, pipes, and starting the daemon.

use std::process::Stdio;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tunneld_proto::status::{ForwardKind, State};
use tunneld_tests::daemon::{Daemon, listen_addr};
use tunneld_tests::home::{DEFAULTS, Home};
use tunneld_tests::payload;
use tunneld_tests::rpc;
use tunneld_tests::sshd::{self, Sshd};
use tunneld_tests::target::Target;
use tunneld_tests::wait::{LONG, within};
use tunneld_tests::{ports, process};

use crate::fixture::{Fixture, secs, start_daemon, tcp};

#[tokio::test]
async fn each_command_returns_its_documented_exit_code() -> Result<()> {
    let (fixture, _) = Fixture::up("").await?;
    let home = &fixture.home;
    for (args, code) in [
        (&["status"][..], 0),
        (&["status", "t"], 0),
        (&["up", "t"], 0),
        (&["up", "--all"], 0),
        (&["up"], 2),
        (&["down"], 2),
        (&["restart"], 2),
        (&["fly"], 2),
        (&["--fly"], 2),
        (&["up", "nobody"], 4),
        (&["down", "nobody"], 4),
        (&["status", "nobody"], 4),
        (&["check"], 0),
        (&["reload"], 0),
        (&["down", "t"], 0),
        (&["status"], 0),
        (&["status", "t"], 3),
        (&["restart", "t"], 0),
        (&["status", "t"], 0),
        (&["--version"], 0),
        (&["--help"], 0),
    ] {
        let output = home.ctl(args).await?;
        let output = output
            .expect_exit(code)
            .with_context(|| format!("{args:?}"))?;
        let talk = &output.stderr;
        assert!(
            code == 0 || code == 3 || !talk.is_empty(),
            "{args:?}: {output:#?}"
        );
        assert!(!talk.contains("panicked"), "{args:?}: {output:#?}");
    }
    Ok(())
}

#[tokio::test]
async fn up_returns_6_when_the_host_does_not_connect_in_time() -> Result<()> {
    let home = Home::new()?;
    let port = ports::free()?;
    let text = format!("[tunnel.t]\nhost = \"u@127.0.0.1:{port}\"\n");
    home.write("t.toml", &text)?;
    let _daemon = Daemon::start(&home).await?;
    let output = home.ctl(&["up", "t", "--wait=1s"]).await?.expect_exit(6)?;
    assert!(
        output.stderr.contains("refused"),
        "the reason is missing: {output:#?}"
    );
    home.ctl(&["up", "t", "--no-wait"]).await?.expect_exit(0)?;
    home.ctl(&["status", "t"]).await?.expect_exit(3)?;
    Ok(())
}

#[tokio::test]
async fn a_missing_or_hanging_daemon_returns_5() -> Result<()> {
    let home = Home::new()?;
    let output = home.ctl(&["status"]).await?.expect_exit(5)?;
    assert!(
        output.stderr.contains("tunneld") || output.stderr.contains("tunnelctl up"),
        "{output:#?}"
    );

    let folder = home.socket().parent().context("a folder")?.to_owned();
    std::fs::create_dir_all(&folder)?;
    std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    // A socket that nothing listens on, as a killed daemon leaves it.
    drop(std::os::unix::net::UnixListener::bind(home.socket())?);
    home.ctl(&["status"]).await?.expect_exit(5)?;
    std::fs::remove_file(home.socket())?;

    // Accepts in the kernel's backlog and never replies.
    let _hanging = UnixListener::bind(home.socket())?;
    let began = Instant::now();
    home.ctl(&["status"]).await?.expect_exit(5)?;
    assert!(began.elapsed() <= secs(8), "{:?}", began.elapsed());
    Ok(())
}

#[tokio::test]
async fn an_unsupported_protocol_version_returns_7() -> Result<()> {
    let home = Home::new()?;
    let folder = home.socket().parent().context("a folder")?.to_owned();
    std::fs::create_dir_all(&folder)?;
    std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let listener = UnixListener::bind(home.socket())?;
    std::fs::set_permissions(
        home.socket(),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )?;
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let reply = "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32000,\"message\":\"no common protocol\",\"data\":{\"kind\":\"unsupported_protocol\",\"causes\":[\"9\"]}}}\n";
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, reply.as_bytes()).await;
            open.push(stream);
        }
    });
    let output = home.ctl(&["status"]).await?.expect_exit(7)?;
    assert!(!output.stderr.is_empty());
    Ok(())
}

#[tokio::test]
async fn data_goes_to_stdout_and_messages_to_stderr() -> Result<()> {
    let target = Target::echo().await?;
    let lines = format!(
        "description = \"the lab's\"\ntags = [\"x\"]\nlocal_forward = \"0 127.0.0.1:{}\"",
        target.port()
    );
    let (fixture, _) = Fixture::up(&lines).await?;
    let output = fixture
        .home
        .ctl(&["status", "--output", "json"])
        .await?
        .expect_exit(0)?;
    assert_eq!(output.stderr, "");
    let json = output.json()?;
    let tunnel = &json[0];
    for key in [
        "name",
        "state",
        "phase",
        "since",
        "host",
        "via",
        "tags",
        "description",
        "desired",
        "attempt",
        "retry_at",
        "last_error",
        "prompt",
        "session",
        "reconnects",
        "forwards",
    ] {
        assert!(tunnel.get(key).is_some(), "no {key}: {tunnel:#}");
    }
    for key in [
        "since", "server", "kex", "cipher", "mac", "host_key", "auth", "rtt_ms", "offences",
    ] {
        assert!(
            tunnel["session"].get(key).is_some(),
            "no session.{key}: {tunnel:#}"
        );
    }
    for key in [
        "kind",
        "listen",
        "to",
        "state",
        "error",
        "exposed",
        "connections",
        "held",
        "total",
        "bytes_in",
        "bytes_out",
        "refused",
    ] {
        assert!(
            tunnel["forwards"][0].get(key).is_some(),
            "no forwards.{key}: {tunnel:#}"
        );
    }
    assert_eq!(tunnel["name"], "t");
    assert!(
        tunnel["session"]["server"]
            .as_str()
            .is_some_and(|s| s.starts_with("SSH-2.0-OpenSSH"))
    );
    assert!(
        tunnel["session"]["host_key"]
            .as_str()
            .is_some_and(|key| key.contains("SHA256:"))
    );
    let since: jiff::Timestamp = tunnel["since"].as_str().context("a time")?.parse()?;
    assert!(since <= jiff::Timestamp::now());

    let output = fixture.home.ctl(&["status"]).await?.expect_exit(0)?;
    assert!(
        output.stdout.contains('t') && output.stdout.contains("up"),
        "{output:#?}"
    );
    let output = fixture.home.ctl(&["status", "t"]).await?.expect_exit(0)?;
    let forward = format!("127.0.0.1:{}", target.port());
    assert!(output.stdout.contains(&forward), "{output:#?}");
    Ok(())
}

#[tokio::test]
async fn colour_is_used_only_when_requested() -> Result<()> {
    let (fixture, _) = Fixture::up("").await?;
    let plain = fixture.home.ctl(&["status"]).await?.expect_exit(0)?;
    assert!(!plain.stdout.contains('\u{1b}'), "{plain:#?}");
    let always = fixture
        .home
        .ctl(&["status", "--color", "always"])
        .await?
        .expect_exit(0)?;
    assert!(always.stdout.contains('\u{1b}'), "{always:#?}");
    let mut command = fixture.home.command("tunnelctl")?;
    let out = command.arg("status").env("NO_COLOR", "1").output().await?;
    assert!(!out.stdout.contains(&0x1b));
    Ok(())
}

#[tokio::test]
async fn closed_or_full_output_and_narrow_terminals_cause_no_panic() -> Result<()> {
    let (fixture, _) = Fixture::up("local_forward = \"0 127.0.0.1:9\"").await?;
    // The shell runs each script with tunnelctl as `$0`. A closed or full stdout may be an error, never a panic.
    for (script, codes) in [
        ("\"$0\" status --output json | :", &[0][..]),
        ("\"$0\" status --output json >&-", &[0, 1]),
        ("\"$0\" status --output json >/dev/full", &[0, 1]),
        ("COLUMNS=20 \"$0\" status", &[0]),
        ("env -u TERM \"$0\" status", &[0]),
        ("COLUMNS=0 \"$0\" status t", &[0]),
    ] {
        let shell = ["bash", "-o", "pipefail", "-c", script].map(str::to_owned);
        let mut command = fixture.home.command_with_prefix(&shell, "tunnelctl")?;
        command.stdin(Stdio::null());
        let out = within(LONG, script, command.output()).await??;
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(!stderr.contains("panicked"), "{script}: {stderr}");
        let code = process::exit_code(out.status);
        assert!(codes.contains(&code), "{script}: {code}: {stderr}");
    }
    Ok(())
}

#[tokio::test]
async fn control_characters_in_names_are_escaped() -> Result<()> {
    let (fixture, _) = Fixture::up("").await?;
    let output = fixture.home.ctl(&["status", "\u{1b}[31mred\u{9b}"]).await?;
    assert_ne!(output.exit_code, 0);
    assert!(!output.stderr.contains(['\u{1b}', '\u{9b}']), "{output:#?}");
    Ok(())
}

#[tokio::test]
async fn globs_and_tags_select_tunnels() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    let mut text = String::new();
    for (name, tag) in [("db-one", "work"), ("db-two", "home"), ("web", "work")] {
        text += &server.tunnel_toml(name)?;
        text += &format!("autostart = false\ntags = [\"{tag}\"]\n");
    }
    home.write("all.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    let state = async |name: &str| Ok::<_, anyhow::Error>(daemon.status(name).await?.state);
    home.ctl(&["up", "db-*"]).await?.expect_exit(0)?;
    assert_eq!(state("db-one").await?, State::Up);
    assert_eq!(state("db-two").await?, State::Up);
    assert_eq!(state("web").await?, State::Stopped);
    home.ctl(&["up", "--tag", "work"]).await?.expect_exit(0)?;
    assert_eq!(state("web").await?, State::Up);
    home.ctl(&["down", "--tag", "work"]).await?.expect_exit(0)?;
    assert_eq!(state("db-one").await?, State::Stopped);
    assert_eq!(state("db-two").await?, State::Up);
    home.ctl(&["down", "--all"]).await?.expect_exit(0)?;
    assert_eq!(state("db-two").await?, State::Stopped);
    home.ctl(&["up", "x*"]).await?.expect_exit(4)?;
    Ok(())
}

#[tokio::test]
async fn up_starts_the_daemon_if_none_runs() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    home.write("t.toml", &server.tunnel_toml("t")?)?;
    let output = home.ctl(&["up", "t"]).await?;
    // The daemon is shut down before any check can fail: it is not a child of the test and would keep running.
    let status = rpc::call_once(&home.socket(), "daemon.status", serde_json::json!({})).await;
    let shutdown = rpc::call_once(&home.socket(), "daemon.shutdown", serde_json::json!({})).await;
    output.expect_exit(0)?;
    assert!(status?["pid"].as_u64() > Some(1));
    shutdown?;
    within(secs(8), "the daemon's socket to go", async {
        while home.socket().exists() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}

#[tokio::test]
async fn up_accepts_ssh_flags_for_an_ad_hoc_tunnel_and_saves_it() -> Result<()> {
    let server = Sshd::start().await?;
    let target = Target::echo().await?;
    let home = Home::new()?;
    let known = server.dir().join("known");
    std::fs::write(&known, server.known_hosts_lines(server.port())?)?;
    // Ad hoc tunnels take the known_hosts file from the defaults.
    let defaults = format!(
        "{DEFAULTS}user_known_hosts_file = \"{}\"\n",
        known.display()
    );
    home.write("tunneld.toml", &defaults)?;
    let daemon = Daemon::start(&home).await?;
    let (port, key) = (ports::free()?, server.user_key());
    let forward = format!("127.0.0.1:{port}:127.0.0.1:{}", target.port());
    let (ssh_port, user) = (server.port().to_string(), sshd::current_user()?);
    let key = key.to_str().context("UTF-8")?;
    let args = [
        "up",
        "-L",
        &forward,
        "-D",
        "0",
        "-i",
        key,
        "-p",
        &ssh_port,
        "-l",
        &user,
        "--name",
        "ad-hoc",
        "127.0.0.1",
    ];
    home.ctl(&args).await?.expect_exit(0)?;
    let tunnel = daemon.status("ad-hoc").await?;
    assert_eq!((tunnel.state, tunnel.forwards.len()), (State::Up, 2));
    payload::ping(&mut tcp(ports::local(port)).await?, b"ad-hoc").await?;
    assert!(!home.config_dir().join("ad-hoc.toml").exists());
    home.ctl(&["down", "ad-hoc"]).await?.expect_exit(0)?;

    let forward = format!("127.0.0.1:{}:127.0.0.1:{}", ports::free()?, target.port());
    let dest = format!("{user}@127.0.0.1");
    let args = [
        "up", "-L", &forward, "-i", key, "-p", &ssh_port, "--name", "kept", "--save", &dest,
    ];
    home.ctl(&args).await?.expect_exit(0)?;
    let file = std::fs::read_to_string(home.config_dir().join("kept.toml"))?;
    assert!(file.contains("[tunnel.kept]"), "{file}");
    home.ctl(&["check"]).await?.expect_exit(0)?;
    home.ctl(&["reload"]).await?.expect_exit(0)?;
    assert_eq!(daemon.status("kept").await?.state, State::Up);
    Ok(())
}

#[tokio::test]
async fn events_and_watched_status_print_json_lines() -> Result<()> {
    let (fixture, _) = Fixture::up("").await?;
    for args in [
        &["events", "--output", "json"][..],
        &["status", "--watch", "--output", "json"],
    ] {
        let mut command = fixture.home.command("tunnelctl")?;
        command
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let out = child.stdout.take().context("stdout")?;
        let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(out));
        if args[0] == "status" {
            let line = within(LONG, "a first line", lines.next_line()).await??;
            serde_json::from_str::<Value>(&line.context("a line")?)?;
        } else {
            // `events` prints only later events: wait until it is connected, beside the lab's own client.
            within(LONG, "the subscription", async {
                loop {
                    let status = fixture
                        .daemon
                        .call("daemon.status", serde_json::json!({}))
                        .await?;
                    if status["clients"].as_u64() >= Some(2) {
                        return anyhow::Ok(());
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            })
            .await??;
        }
        fixture.home.ctl(&["restart", "t"]).await?.expect_exit(0)?;
        for _ in 0..2 {
            let line = within(LONG, "a line", lines.next_line()).await??;
            serde_json::from_str::<Value>(&line.context("a line")?)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn logs_shows_the_lines_of_one_tunnel() -> Result<()> {
    let (fixture, _) = Fixture::up("").await?;
    let output = fixture.home.ctl(&["logs", "t"]).await?.expect_exit(0)?;
    assert!(!output.stdout.is_empty(), "{output:#?}");
    fixture
        .home
        .ctl(&["logs", "nobody"])
        .await?
        .expect_exit(4)?;
    Ok(())
}

#[tokio::test]
async fn a_refused_login_prints_a_hint() -> Result<()> {
    let server = Sshd::start().await?;
    std::fs::write(server.dir().join("authorized_keys"), "")?;
    let fixture = Fixture::start(server, "autostart = false\nidentities_only = true").await?;
    let output = fixture.home.ctl(&["up", "t"]).await?.expect_exit(1)?;
    assert!(
        output.stderr.to_lowercase().contains("hint") || output.stderr.lines().count() > 1,
        "{output:#?}"
    );
    Ok(())
}

/// Stops the daemon of a home that `tunnelctl` has started: it is not a child of the test and would keep running.
async fn shut_down(home: &Home) -> Result<()> {
    rpc::call_once(&home.socket(), "daemon.shutdown", serde_json::json!({})).await?;
    within(secs(8), "the daemon's socket to go", async {
        while home.socket().exists() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_started_daemon_inherits_no_descriptor_of_the_caller() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    home.write("t.toml", &server.tunnel_toml("t")?)?;
    let tunnelctl = tunneld_tests::home::program_path("tunnelctl")?;
    let mut shell = home.command("tunnelctl")?;
    let vars: Vec<_> = shell
        .as_std()
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    shell = tokio::process::Command::new("sh");
    let script = format!("exec 7>&1 2>&7; exec {} up t", tunnelctl.display());
    shell
        .args(["-c", &script])
        .env_clear()
        .envs(vars)
        .stdin(Stdio::null());
    // The end of the output is the test: it comes when nothing has the pipe open.
    let output = within(secs(20), "the end of the pipe", shell.output()).await;
    let status = rpc::call_once(&home.socket(), "daemon.status", serde_json::json!({})).await?;
    let proc = std::path::PathBuf::from(format!("/proc/{}", status["pid"]));
    let cwd = std::fs::read_link(proc.join("cwd"));
    let streams: Vec<_> = (0..3)
        .map(|fd| std::fs::read_link(proc.join(format!("fd/{fd}"))))
        .collect();
    shut_down(&home).await?;
    output??;
    assert_eq!(cwd?, std::path::Path::new("/"));
    for stream in streams {
        assert_eq!(stream?, std::path::Path::new("/dev/null"));
    }
    Ok(())
}

#[tokio::test]
async fn a_daemon_that_cannot_start_gives_its_cause() -> Result<()> {
    let home = Home::new()?;
    let run = home.path("run/tunneld");
    std::fs::create_dir(&run)?;
    std::fs::set_permissions(&run, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    // In the way of the lock file.
    std::fs::create_dir(run.join("control.sock.lock"))?;
    let output = home.ctl(&["up", "t"]).await?.expect_exit(5)?;
    assert!(output.stderr.contains("control.sock.lock"), "{output:?}");
    Ok(())
}

#[tokio::test]
async fn connect_starts_the_daemon_and_the_tunnel() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    let toml = format!("{}autostart = false\n", server.tunnel_toml("t")?);
    home.write("t.toml", &toml)?;
    let port = format!("127.0.0.1:{}", server.port());
    let output = home
        .ctl(&["connect", "--output", "json", "t", &port])
        .await?;
    shut_down(&home).await?;
    let output = output.expect_exit(0)?;
    assert!(output.stdout.starts_with("SSH-2.0-"), "{output:?}");
    Ok(())
}

#[tokio::test]
async fn connect_is_held_while_the_session_comes_back() -> Result<()> {
    let (fixture, _) = Fixture::up("").await?;
    let mut watch = fixture.daemon.watch().await?;
    fixture.server.kill_sessions()?;
    watch
        .until("t", LONG, |tunnel| tunnel.state != State::Up)
        .await?;
    let port = format!("127.0.0.1:{}", fixture.server.port());
    let output = fixture.home.ctl(&["connect", "t", &port]).await?;
    let output = output.expect_exit(0)?;
    assert!(output.stdout.starts_with("SSH-2.0-"), "{output:?}");
    Ok(())
}

#[tokio::test]
async fn up_brings_up_the_tunnel_that_carries_the_named_one() -> Result<()> {
    let (gate, end) = (Sshd::start().await?, Sshd::start().await?);
    let home = Home::new()?;
    let text = format!(
        "{}autostart = false\n{}autostart = false\nproxy_jump = \"tunnel:parent\"\n",
        gate.tunnel_toml("parent")?,
        end.tunnel_toml("child")?,
    );
    home.write("t.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    let output = home.ctl(&["up", "child"]).await?.expect_exit(0)?;
    assert!(output.stderr.contains("parent"), "{output:?}");
    assert_eq!(daemon.status("parent").await?.state, State::Up);
    let output = home.ctl(&["down", "parent"]).await?.expect_exit(0)?;
    assert!(output.stderr.contains("child"), "{output:?}");
    Ok(())
}

#[tokio::test]
async fn up_names_the_carrying_tunnel_that_fails() -> Result<()> {
    let (gate, end) = (Sshd::start().await?, Sshd::start().await?);
    let home = Home::new()?;
    let text = format!(
        "{}identities_only = true\nidentity_file = \"/none\"\nautostart = false\n{}autostart = false\nproxy_jump = \"tunnel:parent\"\n",
        without_keys(&gate.tunnel_toml("parent")?),
        end.tunnel_toml("child")?,
    );
    home.write("t.toml", &text)?;
    let _daemon = Daemon::start(&home).await?;
    let output = home.ctl(&["up", "child"]).await?.expect_exit(1)?;
    assert!(
        output.stderr.contains("child goes over parent"),
        "{output:?}"
    );
    Ok(())
}

fn without_keys(toml: &str) -> String {
    toml.lines()
        .filter(|line| !line.starts_with("identit"))
        .map(|line| format!("{line}\n"))
        .collect()
}

#[tokio::test]
async fn saving_adds_to_a_tunnel_and_keeps_the_rest() -> Result<()> {
    let target = Target::echo().await?;
    let (one, two) = (ports::free()?, ports::free()?);
    let lines = format!(
        "local_forward = \"{one} 127.0.0.1:{}\" # mine\n",
        target.port()
    );
    let (fixture, _) = Fixture::up(&lines).await?;
    let forward = format!("127.0.0.1:{two}:127.0.0.1:{}", target.port());
    let args = ["up", "-L", &forward, "--save", "t"];
    fixture.home.ctl(&args).await?.expect_exit(0)?;
    let tunnel = fixture.daemon.status("t").await?;
    assert_eq!((tunnel.state, tunnel.forwards.len()), (State::Up, 2));
    payload::ping(&mut tcp(ports::local(one)).await?, b"one").await?;
    payload::ping(&mut tcp(ports::local(two)).await?, b"two").await
}

#[tokio::test]
async fn saving_an_ad_hoc_tunnel_keeps_it_as_it_runs() -> Result<()> {
    let (fixture, _) = Fixture::up("").await?;
    let port = ports::free()?;
    let spec: toml::Table = fixture.server.tunnel_toml("db2")?.parse()?;
    let mut spec = serde_json::to_value(&spec["tunnel"]["db2"])?;
    spec["local_forward"] = format!("{port} localhost:1").into();
    let add = serde_json::json!({"name": "db2", "spec": spec});
    fixture.daemon.call("tunnel.add", add).await?;
    let before = fixture.daemon.wait_up("db2").await?;
    let home = &fixture.home;
    home.ctl(&["up", "--save", "db2"]).await?.expect_exit(0)?;
    let after = fixture.daemon.status("db2").await?;
    assert_eq!(
        after.session.map(|session| session.since),
        before.session.map(|session| session.since)
    );
    assert_eq!((after.host, after.forwards.len()), (before.host, 1));
    let file = std::fs::read_to_string(home.config_dir().join("db2.toml"))?;
    assert!(file.contains(&port.to_string()), "{file}");
    Ok(())
}

#[tokio::test]
async fn saving_refuses_what_would_not_be_read_and_leaves_no_file() -> Result<()> {
    let (fixture, _) = Fixture::up("").await?;
    let home = &fixture.home;
    let files = || -> Result<usize> { Ok(std::fs::read_dir(home.config_dir())?.count()) };
    let before = files()?;
    home.ctl(&["up", "--save", "typo"]).await?.expect_exit(4)?;
    for (name, code) in [
        (".x", 2),
        ("a.swp", 2),
        ("a.swp.b", 2),
        ("CON", 2),
        ("nul.x", 2),
        ("T", 2),
        ("x.lpt1", 0),
    ] {
        let args = [
            "up",
            "--no-wait",
            "-D",
            "0",
            "--save",
            "--name",
            name,
            "user@localhost",
        ];
        home.ctl(&args).await?.expect_exit(code)?;
    }
    home.remove("x.lpt1.toml")?;
    assert_eq!(files()?, before);
    Ok(())
}

#[tokio::test]
async fn up_without_a_terminal_says_once_why_it_still_waits() -> Result<()> {
    let port = tunneld_tests::ports::free()?;
    let toml = format!("[tunnel.t]\nhost = \"u@127.0.0.1:{port}\"\nautostart = false\n");
    let (home, _daemon) = start_daemon(&toml).await?;
    let output = home.ctl(&["up", "--wait=4s", "t"]).await?.expect_exit(6)?;
    let said = output.stderr.matches("Connection refused").count();
    // Once while it waits, and perhaps as the reason of the time-out.
    assert!((1..=2).contains(&said), "{output:#?}");
    assert!(output.stderr.contains("trying again"), "{output:#?}");
    Ok(())
}

#[tokio::test]
async fn events_print_the_refusal_of_a_connection_with_the_servers_reason() -> Result<()> {
    let server = Sshd::start_with_lines(&["AllowTcpForwarding no"]).await?;
    let home = Home::new()?;
    let forward = "local_forward = \"0 127.0.0.1:9\"\n";
    home.write("t.toml", &(server.tunnel_toml("t")? + forward))?;
    let daemon = Daemon::start(&home).await?;
    let tunnel = daemon.wait_up("t").await?;
    let mut events = home.command("tunnelctl")?;
    events.args(["events", "-v"]);
    let events = process::Process::start("events", events)?;
    events.log().wait("waiting for events", LONG).await?;
    let mut client = tcp(listen_addr(&tunnel, ForwardKind::Local)?).await?;
    let read = client.read(&mut [0; 8]).await;
    assert!(!matches!(read, Ok(n) if n > 0), "{read:?}");
    let line = events.log().wait("a connection was refused", LONG).await?;
    assert!(line.contains("t 127.0.0.1:"), "{line}");
    assert!(line.contains("(code 1)"), "{line}");
    Ok(())
}
