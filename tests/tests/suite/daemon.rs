//! The daemon itself: one per socket, what it remembers, how it stops, and logs that fail.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tunneld_proto::status::{Desired, ForwardKind, State, TunnelStatus};
use tunneld_tests::daemon::{Daemon, listen};
use tunneld_tests::faulty_link::Link;
use tunneld_tests::home::Home;
use tunneld_tests::payload;
use tunneld_tests::process::{self, Process};
use tunneld_tests::sshd::Sshd;
use tunneld_tests::target::Target;
use tunneld_tests::wait::{LONG, within};

use crate::fixture::{Scene, secs, tcp, unix};

#[tokio::test]
async fn a_second_daemon_exits_and_names_the_pid_of_the_first() -> Result<()> {
    let (scene, _) = Scene::up("").await?;
    let said = scene.home.run("tunneld", &[]).await?.expect(1)?;
    let pid = scene.daemon.process().pid().to_string();
    assert!(said.stderr.contains(&pid), "{said:#?}");
    assert_eq!(scene.daemon.status("t").await?.state, State::Up);
    Ok(())
}

#[tokio::test]
async fn exactly_one_of_twenty_concurrent_starts_wins() -> Result<()> {
    let home = Home::new()?;
    let mut all = Vec::new();
    for _ in 0..20 {
        all.push(Process::start("tunneld", home.command("tunneld")?)?);
    }
    let mut ends = JoinSet::new();
    for mut one in all {
        ends.spawn(async move {
            let end = one.ended(secs(15)).await.ok().map(process::code);
            (end, one)
        });
    }
    let ends = ends.join_all().await;
    let lost = ends.iter().filter(|(end, _)| *end == Some(1)).count();
    let run: Vec<_> = ends.iter().filter(|(end, _)| end.is_none()).collect();
    assert_eq!((lost, run.len()), (19, 1));
    let winner = run[0].1.pid();
    let status = tunneld_tests::rpc::once(&home.socket(), "daemon.status", json!({})).await?;
    assert_eq!(status["pid"], winner);
    let named = ends
        .iter()
        .filter(|(_, one)| one.log().text().contains(&winner.to_string()));
    assert!(named.count() >= 15, "the losers name the winner");
    Ok(())
}

#[tokio::test]
async fn desired_states_and_ad_hoc_tunnels_survive_a_restart_and_a_kill() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    let text = format!(
        "{}\n{}autostart = false\n",
        server.tunnel("auto")?,
        server.tunnel("manual")?
    );
    home.write("both.toml", &text)?;
    let mut daemon = Daemon::start(&home).await?;
    daemon.wait_up("auto").await?;
    assert_eq!(daemon.status("manual").await?.state, State::Stopped);
    home.ctl(&["down", "auto"]).await?.expect(0)?;
    home.ctl(&["up", "manual"]).await?.expect(0)?;
    let spec: toml::Table = server.tunnel("spot")?.parse()?;
    let add = json!({"name": "spot", "spec": serde_json::to_value(&spec["tunnel"]["spot"])?});
    daemon.call("tunnel.add", add).await?;
    home.ctl(&["up", "spot"]).await?.expect(0)?;

    for kill in [false, true] {
        if kill {
            daemon.kill().await?;
            assert!(home.socket().exists(), "a killed daemon leaves its socket");
        } else {
            assert_eq!(process::code(daemon.terminate(secs(6)).await?), 0);
            assert!(!home.socket().exists());
        }
        let began = Instant::now();
        daemon = Daemon::start(&home).await?;
        assert!(began.elapsed() < secs(3), "{:?}", began.elapsed());
        daemon.wait_up("manual").await?;
        daemon.wait_up("spot").await?;
        let auto = daemon.status("auto").await?;
        assert_eq!((auto.state, auto.desired), (State::Stopped, Desired::Down));
    }
    Ok(())
}

#[tokio::test]
async fn a_new_daemon_binds_the_listeners_of_a_killed_one() -> Result<()> {
    let target = Target::echo().await?;
    let folder = tempfile::tempdir()?;
    let (near, far) = (
        folder.path().join("near.sock"),
        folder.path().join("far.sock"),
    );
    let port = tunneld_tests::ports::free()?;
    let lines = format!(
        "stream_local_bind_unlink = true\nlocal_forward = [\"{port} 127.0.0.1:{to}\", \"{} 127.0.0.1:{to}\"]\nremote_forward = \"{} 127.0.0.1:{to}\"",
        near.display(),
        far.display(),
        to = target.port()
    );
    let server = Sshd::with_lines(&["StreamLocalBindUnlink yes"]).await?;
    let (mut scene, _) = Scene::on(server, &lines).await?;
    scene.daemon.kill().await?;
    scene.daemon = Daemon::start(&scene.home).await?;
    scene.daemon.wait_up("t").await?;
    payload::ping(&mut tcp(tunneld_tests::ports::local(port)).await?, b"tcp").await?;
    payload::ping(&mut unix(&near).await?, b"unix").await
}

async fn stops(mut daemon: Daemon, home: &Home, limit: u64) -> Result<()> {
    let began = Instant::now();
    let status = daemon.terminate(secs(limit)).await?;
    assert_eq!(process::code(status), 0, "{}", daemon.log().text());
    assert!(began.elapsed() <= secs(limit));
    assert!(!home.socket().exists());
    Ok(())
}

#[tokio::test]
async fn sigterm_with_a_tunnel_up_ends_within_two_seconds() -> Result<()> {
    let target = Target::echo().await?;
    let lines = format!("local_forward = \"0 127.0.0.1:{}\"", target.port());
    let (scene, tunnel) = Scene::up(&lines).await?;
    // A server that has just let us in may not listen for a goodbye yet.
    let mut stream = tcp(listen(&tunnel, ForwardKind::Local)?).await?;
    payload::ping(&mut stream, b"x").await?;
    drop(stream);
    stops(scene.daemon, &scene.home, 2).await?;
    let log = scene.server.log()?;
    log.wait("Connection closed by", LONG)
        .await
        .map(drop)
        .or_else(|_| {
            // OpenSSH words a disconnect message otherwise.
            anyhow::ensure!(log.text().contains("disconnect"), "{}", log.text());
            Ok(())
        })
}

#[tokio::test]
async fn sigterm_with_open_connections_ends_in_time() -> Result<()> {
    let target = Target::echo().await?;
    let lines = format!("local_forward = \"0 127.0.0.1:{}\"", target.port());
    let (scene, tunnel) = Scene::up(&lines).await?;
    let addr = listen(&tunnel, ForwardKind::Local)?;
    let mut open = Vec::new();
    for _ in 0..100 {
        let mut stream = tcp(addr).await?;
        payload::ping(&mut stream, b"x").await?;
        open.push(stream);
    }
    stops(scene.daemon, &scene.home, 6).await
}

#[tokio::test]
async fn sigterm_during_a_handshake_with_a_silent_server_ends_in_time() -> Result<()> {
    let server = Sshd::start().await?;
    let link = Link::to(server.addr()).await?;
    link.freeze();
    let home = Home::new()?;
    home.write("t.toml", &server.tunnel_at("t", link.port())?)?;
    let daemon = Daemon::start(&home).await?;
    let connecting = |tunnel: &TunnelStatus| tunnel.state == State::Connecting;
    daemon.wait_for("t", LONG, connecting).await?;
    stops(daemon, &home, 6).await
}

#[tokio::test]
async fn sigterm_with_a_frozen_server_and_held_connections_ends_in_time() -> Result<()> {
    let target = Target::echo().await?;
    let lines = format!("local_forward = \"0 127.0.0.1:{}\"", target.port());
    let (scene, link, tunnel) = Scene::linked(&lines).await?;
    let addr = listen(&tunnel, ForwardKind::Local)?;
    let mut live = tcp(addr).await?;
    payload::ping(&mut live, b"x").await?;
    link.freeze();
    let _waiting = tcp(addr).await?;
    stops(scene.daemon, &scene.home, 6).await
}

#[tokio::test]
async fn sigterm_between_connection_attempts_ends_within_two_seconds() -> Result<()> {
    let home = Home::new()?;
    let port = tunneld_tests::ports::free()?;
    home.write(
        "t.toml",
        &format!("[tunnel.t]\nhost = \"u@127.0.0.1:{port}\"\n"),
    )?;
    let daemon = Daemon::start(&home).await?;
    let waiting = |tunnel: &TunnelStatus| tunnel.state == State::Waiting;
    daemon.wait_for("t", LONG, waiting).await?;
    stops(daemon, &home, 2).await
}

#[tokio::test]
async fn a_second_signal_ends_the_daemon_at_once() -> Result<()> {
    let target = Target::echo().await?;
    let lines = format!("local_forward = \"0 127.0.0.1:{}\"", target.port());
    let (mut scene, link, tunnel) = Scene::linked(&lines).await?;
    let mut live = tcp(listen(&tunnel, ForwardKind::Local)?).await?;
    payload::ping(&mut live, b"x").await?;
    link.freeze();
    let began = Instant::now();
    scene.daemon.process().signal(Signal::TERM)?;
    let _ = scene.daemon.process().signal(Signal::INT);
    scene
        .daemon
        .terminate(secs(3))
        .await
        .map(drop)
        .or_else(|error| {
            // The process may be gone before the third signal.
            anyhow::ensure!(began.elapsed() < secs(3), error);
            Ok(())
        })
}

/// A daemon whose stderr is what the shell makes of `redirect`.
async fn with_stderr(home: &Home, redirect: &str) -> Result<Daemon> {
    let original = home.command("tunneld")?;
    let program = original.as_std().get_program().to_owned();
    let envs = original.as_std().get_envs();
    let envs: Vec<_> = envs
        .filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned())))
        .collect();
    let mut command = tokio::process::Command::new("bash");
    command
        .args(["-c", &format!("exec \"$0\" {redirect}")])
        .arg(program)
        .env_clear()
        .envs(envs)
        .env("RUST_LOG", "trace")
        .current_dir(home.path(""));
    Daemon::launch(home, command).await
}

#[tokio::test]
async fn an_unwritable_log_does_not_affect_a_tunnel() -> Result<()> {
    let target = Target::start(tunneld_tests::target::Manner::Collect).await?;
    let server = Sshd::start().await?;
    for redirect in [
        "2>/dev/full",
        "2>&-",
        "0<&- 1>&- 2>&-",
        "2> >(head -n1 >/dev/null)",
        "2<>log.fifo",
    ] {
        let home = Home::new()?;
        tunneld_tests::fifo::make(&home.path("log.fifo"))?;
        let text = server.tunnel("t")?;
        let text = format!("{text}local_forward = \"0 127.0.0.1:{}\"\n", target.port());
        home.write("t.toml", &text)?;
        let mut daemon = with_stderr(&home, redirect).await.context(redirect)?;
        let tunnel = daemon.wait_up("t").await.context(redirect)?;
        let addr = listen(&tunnel, ForwardKind::Local)?;
        let data = payload::random(60, 4 << 20);
        for _ in 0..3 {
            let echo = payload::exchange(tcp(addr).await?, &data);
            let got = within(LONG, redirect, echo).await??;
            payload::same(&data, &got)?;
        }
        let began = Instant::now();
        let status = daemon.call("daemon.status", json!({})).await?;
        assert!(
            began.elapsed() < secs(1),
            "{redirect}: {:?}",
            began.elapsed()
        );
        assert!(status["log_dropped"].is_u64(), "{status}");
        daemon.terminate(secs(6)).await.context(redirect)?;
    }
    Ok(())
}

#[tokio::test]
async fn invalid_environment_variables_do_not_stop_the_daemon() -> Result<()> {
    let server = Sshd::start().await?;
    for (name, value) in [
        ("RUST_LOG", "=[=,garbage"),
        ("LISTEN_FDS", "1000000"),
        ("LISTEN_PID", "1"),
        ("WATCHDOG_USEC", "soon"),
        ("SSH_AUTH_SOCK", "/no/such/socket"),
        ("LC_ALL", "xx_YY.nonsense"),
    ] {
        let home = Home::new()?.var(name, value);
        home.write("t.toml", &server.tunnel("t")?)?;
        let daemon = Daemon::start(&home).await.context(name)?;
        daemon.wait_up("t").await.context(name)?;
    }
    Ok(())
}

#[tokio::test]
async fn files_are_private_even_with_umask_zero() -> Result<()> {
    let home = Home::new()?;
    let original = home.command("tunneld")?;
    let program = original.as_std().get_program().to_owned();
    let envs = original.as_std().get_envs();
    let envs: Vec<_> = envs
        .filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned())))
        .collect();
    let mut command = tokio::process::Command::new("sh");
    command
        .args(["-c", "umask 0; exec \"$0\""])
        .arg(program)
        .env_clear()
        .envs(envs);
    let _daemon = Daemon::launch(&home, command).await?;
    let mode = |path: &std::path::Path| -> Result<u32> {
        Ok(std::fs::symlink_metadata(path)?.permissions().mode() & 0o777)
    };
    assert_eq!(mode(&home.socket())?, 0o600);
    for entry in std::fs::read_dir(home.path("run/tunneld"))? {
        let path = entry?.path();
        assert_eq!(mode(&path)? & 0o077, 0, "{}", path.display());
    }
    Ok(())
}

#[tokio::test]
async fn private_keys_do_not_appear_in_the_log() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?.var("RUST_LOG", "trace");
    home.write("t.toml", &server.tunnel("t")?)?;
    let daemon = Daemon::start(&home).await?;
    daemon.wait_up("t").await?;
    let key = std::fs::read_to_string(server.user_key())?;
    let marker = key.lines().nth(3).context("a line of the key")?;
    assert!(!daemon.log().text().contains(marker));
    assert!(!daemon.log().text().contains("BEGIN OPENSSH PRIVATE KEY"));
    Ok(())
}

#[tokio::test]
async fn demo_once_runs_and_removes_its_files() -> Result<()> {
    let home = Home::bare()?;
    let tmp = home.path("tmp");
    std::fs::create_dir(&tmp)?;
    let home = home.var("TMPDIR", &tmp);
    let said = home.run("tunneld", &["demo", "--once"]).await?.expect(0)?;
    let all = format!("{}{}", said.stdout, said.stderr);
    assert!(all.contains("curl"), "{said:#?}");
    assert!(all.contains("up"), "{said:#?}");
    let left: Vec<_> = std::fs::read_dir(&tmp)?
        .flatten()
        .map(|e| e.path())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}
