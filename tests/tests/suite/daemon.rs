//! The daemon process: one per socket, the state it keeps, how it stops, logs that fail, and its environment.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tunneld_platform::testing::make_fifo;
use tunneld_proto::status::{Desired, ForwardKind, State, TunnelStatus};
use tunneld_tests::daemon::{Daemon, listen_addr};
use tunneld_tests::faulty_link::FaultyLink;
use tunneld_tests::home::Home;
use tunneld_tests::payload;
use tunneld_tests::process::{self, Process};
use tunneld_tests::sshd::Sshd;
use tunneld_tests::target::Target;
use tunneld_tests::wait::{LONG, within};

use crate::fixture::{Fixture, is_waiting, local_forward_to, secs, tcp, unix};

#[tokio::test]
async fn a_second_daemon_exits_and_names_the_pid_of_the_first() -> Result<()> {
    let (fixture, _) = Fixture::up("").await?;
    let output = fixture.home.run("tunneld", &[]).await?.expect_exit(1)?;
    let pid = fixture.daemon.process().pid().to_string();
    assert!(output.stderr.contains(&pid), "{output:#?}");
    assert_eq!(fixture.daemon.status("t").await?.state, State::Up);
    Ok(())
}

#[tokio::test]
async fn exactly_one_of_twenty_concurrent_starts_wins() -> Result<()> {
    let home = Home::new()?;
    let mut daemons = Vec::new();
    for _ in 0..20 {
        daemons.push(Process::start("tunneld", home.command("tunneld")?)?);
    }
    // `None` for a daemon that still runs after the limit.
    let mut exits = JoinSet::new();
    for mut daemon in daemons {
        exits.spawn(async move {
            let exit = daemon.wait_exit(secs(15)).await;
            (exit.ok().map(process::exit_code), daemon)
        });
    }
    let exits = exits.join_all().await;
    let losers = exits.iter().filter(|(exit, _)| *exit == Some(1)).count();
    let running: Vec<_> = exits.iter().filter(|(exit, _)| exit.is_none()).collect();
    assert_eq!((losers, running.len()), (19, 1));
    let winner = running[0].1.pid();
    let status = tunneld_tests::rpc::call_once(&home.socket(), "daemon.status", json!({})).await?;
    assert_eq!(status["pid"], winner);
    // Not all 19: one that loses before the winner has written its id cannot name it.
    let naming = exits
        .iter()
        .filter(|(_, daemon)| daemon.log().text().contains(&winner.to_string()));
    assert!(naming.count() >= 15, "the losers do not name the winner");
    Ok(())
}

#[tokio::test]
async fn desired_states_and_ad_hoc_tunnels_survive_a_restart_and_a_kill() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    let text = format!(
        "{}\n{}autostart = false\n",
        server.tunnel_toml("auto")?,
        server.tunnel_toml("manual")?
    );
    home.write("both.toml", &text)?;
    let mut daemon = Daemon::start(&home).await?;
    daemon.wait_up("auto").await?;
    assert_eq!(daemon.status("manual").await?.state, State::Stopped);
    home.ctl(&["down", "auto"]).await?.expect_exit(0)?;
    home.ctl(&["up", "manual"]).await?.expect_exit(0)?;
    let spec: toml::Table = server.tunnel_toml("spot")?.parse()?;
    let add = json!({"name": "spot", "spec": serde_json::to_value(&spec["tunnel"]["spot"])?});
    daemon.call("tunnel.add", add).await?;
    home.ctl(&["up", "spot"]).await?.expect_exit(0)?;

    // An orderly restart first, then a kill, which leaves the daemon no time to save anything.
    for kill in [false, true] {
        if kill {
            daemon.kill().await?;
            assert!(home.socket().exists(), "a killed daemon leaves its socket");
        } else {
            assert_eq!(process::exit_code(daemon.terminate(secs(6)).await?), 0);
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
    let (local_socket, remote_socket) = (
        folder.path().join("local.sock"),
        folder.path().join("remote.sock"),
    );
    let port = tunneld_tests::ports::free()?;
    let lines = format!(
        "stream_local_bind_unlink = true\nlocal_forward = [\"{port} 127.0.0.1:{to}\", \"{} 127.0.0.1:{to}\"]\nremote_forward = \"{} 127.0.0.1:{to}\"",
        local_socket.display(),
        remote_socket.display(),
        to = target.port()
    );
    let server = Sshd::start_with_lines(&["StreamLocalBindUnlink yes"]).await?;
    let (mut fixture, _) = Fixture::up_on(server, &lines).await?;
    fixture.daemon.kill().await?;
    fixture.daemon = Daemon::start(&fixture.home).await?;
    fixture.daemon.wait_up("t").await?;
    payload::ping(&mut tcp(tunneld_tests::ports::local(port)).await?, b"tcp").await?;
    payload::ping(&mut unix(&local_socket).await?, b"unix").await
}

/// Checks that SIGTERM ends the daemon with exit 0 within `limit` seconds, and that it removes its socket.
async fn check_stops(mut daemon: Daemon, home: &Home, limit: u64) -> Result<()> {
    let began = Instant::now();
    let status = daemon.terminate(secs(limit)).await?;
    assert_eq!(process::exit_code(status), 0, "{}", daemon.log().text());
    assert!(began.elapsed() <= secs(limit));
    assert!(!home.socket().exists());
    Ok(())
}

#[tokio::test]
async fn sigterm_with_a_tunnel_up_ends_within_two_seconds() -> Result<()> {
    let target = Target::echo().await?;
    let lines = local_forward_to(&target);
    let (fixture, tunnel) = Fixture::up(&lines).await?;
    // One round trip: sshd may not yet read what is sent right after the login, and would not log the disconnect.
    let mut stream = tcp(listen_addr(&tunnel, ForwardKind::Local)?).await?;
    payload::ping(&mut stream, b"x").await?;
    drop(stream);
    check_stops(fixture.daemon, &fixture.home, 2).await?;
    // sshd logs the message DISCONNECT in these words; a connection that is only closed has others.
    fixture.server.log()?.wait("disconnect", LONG).await?;
    Ok(())
}

#[tokio::test]
async fn sigterm_with_open_connections_ends_in_time() -> Result<()> {
    let target = Target::echo().await?;
    let lines = local_forward_to(&target);
    let (fixture, tunnel) = Fixture::up(&lines).await?;
    let addr = listen_addr(&tunnel, ForwardKind::Local)?;
    let mut open = Vec::new();
    // Each connection is established end to end before the next.
    for _ in 0..100 {
        let mut stream = tcp(addr).await?;
        payload::ping(&mut stream, b"x").await?;
        open.push(stream);
    }
    check_stops(fixture.daemon, &fixture.home, 6).await
}

#[tokio::test]
async fn sigterm_during_a_handshake_with_a_silent_server_ends_in_time() -> Result<()> {
    let server = Sshd::start().await?;
    let link = FaultyLink::to(server.addr()).await?;
    link.freeze();
    let home = Home::new()?;
    home.write("t.toml", &server.tunnel_toml_at("t", link.port())?)?;
    let daemon = Daemon::start(&home).await?;
    let connecting = |tunnel: &TunnelStatus| tunnel.state == State::Connecting;
    daemon.wait_for("t", LONG, connecting).await?;
    check_stops(daemon, &home, 6).await
}

#[tokio::test]
async fn sigterm_with_a_frozen_server_and_held_connections_ends_in_time() -> Result<()> {
    let target = Target::echo().await?;
    let lines = local_forward_to(&target);
    let (fixture, link, tunnel) = Fixture::up_over_link(&lines).await?;
    let addr = listen_addr(&tunnel, ForwardKind::Local)?;
    let mut live = tcp(addr).await?;
    payload::ping(&mut live, b"x").await?;
    link.freeze();
    let _held = tcp(addr).await?;
    check_stops(fixture.daemon, &fixture.home, 6).await
}

#[tokio::test]
async fn sigterm_between_connection_attempts_ends_within_two_seconds() -> Result<()> {
    let home = Home::new()?;
    // Nothing listens on the port, so the tunnel waits between its attempts.
    let port = tunneld_tests::ports::free()?;
    home.write(
        "t.toml",
        &format!("[tunnel.t]\nhost = \"u@127.0.0.1:{port}\"\n"),
    )?;
    let daemon = Daemon::start(&home).await?;
    daemon.wait_for("t", LONG, is_waiting).await?;
    check_stops(daemon, &home, 2).await
}

#[tokio::test]
async fn a_second_signal_ends_the_daemon_at_once() -> Result<()> {
    let target = Target::echo().await?;
    let lines = local_forward_to(&target);
    let (mut fixture, link, tunnel) = Fixture::up_over_link(&lines).await?;
    let mut live = tcp(listen_addr(&tunnel, ForwardKind::Local)?).await?;
    payload::ping(&mut live, b"x").await?;
    link.freeze();
    let began = Instant::now();
    fixture.daemon.process().signal(Signal::TERM)?;
    let _may_have_ended = fixture.daemon.process().signal(Signal::INT);
    fixture
        .daemon
        .terminate(secs(3))
        .await
        .map(drop)
        .or_else(|error| {
            // `terminate` sends a third signal, which fails if the process has ended already.
            anyhow::ensure!(began.elapsed() < secs(3), error);
            Ok(())
        })
}

/// Starts a daemon at the log level `trace`, with the redirections of bash in `redirect`.
async fn start_redirected(home: &Home, redirect: &str) -> Result<Daemon> {
    let script = format!("exec \"$0\" {redirect}");
    let shell = ["bash", "-c", &script].map(str::to_owned);
    let mut command = home.command_with_prefix(&shell, "tunneld")?;
    command.env("RUST_LOG", "trace");
    Daemon::start_with(home, command).await
}

#[tokio::test]
async fn an_unwritable_log_does_not_affect_a_tunnel() -> Result<()> {
    let target = Target::start(tunneld_tests::target::TargetBehavior::EchoAtEof).await?;
    let server = Sshd::start().await?;
    for redirect in [
        "2>/dev/full",
        "2>&-",
        "0<&- 1>&- 2>&-",
        // A reader that ends, and a FIFO that is never read.
        "2> >(head -n1 >/dev/null)",
        "2<>log.fifo",
    ] {
        let home = Home::new()?;
        make_fifo(&home.path("log.fifo"));
        let text = server.tunnel_toml("t")?;
        let text = format!("{text}local_forward = \"0 127.0.0.1:{}\"\n", target.port());
        home.write("t.toml", &text)?;
        let mut daemon = start_redirected(&home, redirect).await.context(redirect)?;
        let tunnel = daemon.wait_up("t").await.context(redirect)?;
        let addr = listen_addr(&tunnel, ForwardKind::Local)?;
        let data = payload::random(60, 4 << 20);
        for _ in 0..3 {
            let echo = payload::exchange(tcp(addr).await?, &data);
            let received = within(LONG, redirect, echo).await??;
            payload::same(&data, &received)?;
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
        let home = Home::new()?.with_var(name, value);
        home.write("t.toml", &server.tunnel_toml("t")?)?;
        let daemon = Daemon::start(&home).await.context(name)?;
        daemon.wait_up("t").await.context(name)?;
    }
    Ok(())
}

#[tokio::test]
async fn files_are_private_even_with_umask_zero() -> Result<()> {
    let home = Home::new()?;
    let shell = ["sh", "-c", "umask 0; exec \"$0\""].map(str::to_owned);
    let command = home.command_with_prefix(&shell, "tunneld")?;
    let _daemon = Daemon::start_with(&home, command).await?;
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
    let home = Home::new()?.with_var("RUST_LOG", "trace");
    home.write("t.toml", &server.tunnel_toml("t")?)?;
    let daemon = Daemon::start(&home).await?;
    daemon.wait_up("t").await?;
    let key = std::fs::read_to_string(server.user_key())?;
    // A line from the middle: the first lines are the same in every key.
    let key_line = key.lines().nth(3).context("a line of the key")?;
    assert!(!daemon.log().text().contains(key_line));
    assert!(!daemon.log().text().contains("BEGIN OPENSSH PRIVATE KEY"));
    Ok(())
}

#[tokio::test]
async fn demo_once_runs_and_removes_its_files() -> Result<()> {
    let home = Home::without_config()?;
    let tmp = home.path("tmp");
    std::fs::create_dir(&tmp)?;
    let home = home.with_var("TMPDIR", &tmp);
    let output = home
        .run("tunneld", &["demo", "--once"])
        .await?
        .expect_exit(0)?;
    let all = format!("{}{}", output.stdout, output.stderr);
    assert!(all.contains("curl"), "{output:#?}");
    assert!(all.contains("up"), "{output:#?}");
    let leftovers: Vec<_> = std::fs::read_dir(&tmp)?
        .flatten()
        .map(|e| e.path())
        .collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
    Ok(())
}

#[tokio::test]
async fn a_removed_socket_is_made_again_within_seconds() -> Result<()> {
    let (fixture, _) = Fixture::up("").await?;
    std::fs::remove_file(fixture.home.socket())?;
    // `up` starts a second daemon, which ends because the first has the lock; then the first one answers again.
    fixture.home.ctl(&["up", "t"]).await?.expect_exit(0)?;
    fixture.daemon.status("t").await.map(drop)
}

#[tokio::test]
async fn a_daemon_whose_runtime_folder_was_replaced_leaves_the_tunnels_to_the_next_one()
-> Result<()> {
    let port = tunneld_tests::ports::free()?;
    let lines = format!("local_forward = \"{port} localhost:1\"");
    let (mut fixture, _) = Fixture::up(&lines).await?;
    std::fs::remove_dir_all(fixture.home.path("run/tunneld"))?;
    let second = Daemon::start(&fixture.home).await?;
    let first = std::mem::replace(&mut fixture.daemon, second);
    let mut first = first;
    let exit = first.wait_exit(secs(10)).await?;
    assert_eq!(process::exit_code(exit), 0);
    let listens = |tunnel: &TunnelStatus| {
        tunnel.state == State::Up && listen_addr(tunnel, ForwardKind::Local).is_ok()
    };
    fixture.daemon.wait_for("t", LONG, listens).await?;
    assert!(fixture.home.socket().exists());
    Ok(())
}
