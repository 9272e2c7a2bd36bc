//! A tunnel's life: sessions that die in every manner, and what the local connections notice of it.

use std::time::Duration;

use anyhow::Result;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;
use tunneld_proto::status::{ForwardKind, State, TunnelStatus};
use tunneld_tests::daemon::{Daemon, listen};
use tunneld_tests::home::Home;
use tunneld_tests::payload::{self};
use tunneld_tests::sshd::Sshd;
use tunneld_tests::target::Target;
use tunneld_tests::wait::{LONG, within};
use tunneld_tests::{keys, ports};

use crate::fixture::{Scene, renewed, secs, session_since, tcp, was_reset};

fn forward(target: &Target) -> String {
    format!("local_forward = \"0 127.0.0.1:{}\"", target.port())
}

fn kind(tunnel: &TunnelStatus) -> Option<&str> {
    tunnel.last_error.as_ref().map(|error| error.kind.as_str())
}

#[tokio::test]
async fn a_killed_session_resets_open_connections_and_holds_new_ones_until_it_is_back() -> Result<()>
{
    let target = Target::echo().await?;
    let (scene, before) = Scene::up(&forward(&target)).await?;
    let addr = listen(&before, ForwardKind::Local)?;
    let mut live = tcp(addr).await?;
    payload::ping(&mut live, b"hello").await?;
    let killed = Instant::now();
    scene.server.kill_sessions()?;
    let read = within(LONG, "the reset", live.read_u8()).await?;
    assert!(was_reset(read), "a dead session is no end of file");
    // From now until the session is back every connection is taken and answered.
    let mut during = 0;
    loop {
        let mut stream = tcp(addr).await?;
        within(LONG, "an echo", payload::ping(&mut stream, b"again")).await??;
        during += 1;
        if during >= 20 {
            break;
        }
    }
    assert!(
        killed.elapsed() < secs(5),
        "back after {:?}",
        killed.elapsed()
    );
    let after = scene.daemon.wait_for("t", LONG, renewed(&before)).await?;
    assert_eq!(listen(&after, ForwardKind::Local)?, addr);
    Ok(())
}

#[tokio::test]
async fn a_tunnel_reconnects_when_its_stopped_server_is_back() -> Result<()> {
    let target = Target::echo().await?;
    let (mut scene, before) = Scene::up(&forward(&target)).await?;
    let mut watch = scene.daemon.watch().await?;
    scene.server.stop().await?;
    let waiting = |tunnel: &TunnelStatus| {
        tunnel.state == State::Waiting && kind(tunnel) == Some("connect_refused")
    };
    let first = watch.until("t", LONG, waiting).await?;
    assert!(first.retry_at.is_some());
    let later = |tunnel: &TunnelStatus| waiting(tunnel) && tunnel.attempt >= first.attempt + 3;
    watch.until("t", LONG, later).await?;
    scene.server.resume().await?;
    // The longest delay of the lab's backoff is 2 s, and jitter only shortens or stretches it by half.
    watch.until("t", secs(6), renewed(&before)).await?;
    let addr = listen(&before, ForwardKind::Local)?;
    payload::ping(&mut tcp(addr).await?, b"back").await
}

#[tokio::test]
async fn a_tunnel_connects_when_its_server_starts_later() -> Result<()> {
    let target = Target::echo().await?;
    let mut server = Sshd::start().await?;
    server.stop().await?;
    let mut scene = Scene::begun(server, &forward(&target)).await?;
    let waiting = |tunnel: &TunnelStatus| tunnel.state == State::Waiting;
    let tunnel = scene.daemon.wait_for("t", LONG, waiting).await?;
    assert_eq!(kind(&tunnel), Some("connect_refused"));
    scene.server.resume().await?;
    scene
        .daemon
        .wait_for("t", secs(6), |tunnel| tunnel.state == State::Up)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_held_connection_waits_for_the_session() -> Result<()> {
    let target = Target::echo().await?;
    let (mut scene, before) = Scene::up(&forward(&target)).await?;
    let addr = listen(&before, ForwardKind::Local)?;
    scene.server.stop().await?;
    let away = |tunnel: &TunnelStatus| tunnel.state == State::Waiting;
    scene.daemon.wait_for("t", LONG, away).await?;
    let mut stream = tcp(addr).await?;
    let held = |tunnel: &TunnelStatus| tunnel.forwards[0].held == 1;
    scene.daemon.wait_for("t", LONG, held).await?;
    scene.server.resume().await?;
    within(LONG, "the held echo", payload::ping(&mut stream, b"held")).await??;
    let none = |tunnel: &TunnelStatus| tunnel.forwards[0].held == 0;
    scene.daemon.wait_for("t", LONG, none).await?;
    Ok(())
}

#[tokio::test]
async fn a_held_connection_is_reset_when_hold_runs_out() -> Result<()> {
    let target = Target::echo().await?;
    let lines = format!("hold = \"1s\"\n{}", forward(&target));
    let (mut scene, before) = Scene::up(&lines).await?;
    let addr = listen(&before, ForwardKind::Local)?;
    scene.server.stop().await?;
    let away = |tunnel: &TunnelStatus| tunnel.state == State::Waiting;
    scene.daemon.wait_for("t", LONG, away).await?;
    let began = Instant::now();
    let mut stream = tcp(addr).await?;
    assert!(was_reset(
        within(LONG, "the reset", stream.read_u8()).await?
    ));
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(900) && took <= secs(3),
        "{took:?}"
    );
    Ok(())
}

#[tokio::test]
async fn without_hold_a_connection_is_reset_at_once() -> Result<()> {
    let target = Target::echo().await?;
    let lines = format!("hold = 0\n{}", forward(&target));
    let (mut scene, before) = Scene::up(&lines).await?;
    let addr = listen(&before, ForwardKind::Local)?;
    scene.server.stop().await?;
    let away = |tunnel: &TunnelStatus| tunnel.state == State::Waiting;
    scene.daemon.wait_for("t", LONG, away).await?;
    let read = within(secs(1), "the end", async {
        // The reset may come before the connect has returned.
        tokio::net::TcpStream::connect(addr).await?.read_u8().await
    });
    assert!(was_reset(read.await?));
    Ok(())
}

#[tokio::test]
async fn a_refused_login_is_retried_slowly_and_ends_a_waiting_up() -> Result<()> {
    let server = Sshd::start().await?;
    let other = server.dir().join("other_key");
    keys::generate(&other, "ed25519").await?;
    std::fs::copy(&other, server.user_key())?;
    let scene = Scene::begun(server, "identities_only = true").await?;
    let refused = |tunnel: &TunnelStatus| {
        tunnel.state == State::Waiting && kind(tunnel) == Some("auth_refused")
    };
    let tunnel = scene.daemon.wait_for("t", LONG, refused).await?;
    let wait = tunnel
        .retry_at
        .expect("a next attempt")
        .duration_since(tunnel.since);
    assert!(wait.as_secs() >= 14, "tries again after {wait:#}");
    let error = tunnel.last_error.expect("an error");
    assert!(error.hint.is_some(), "{error:?}");
    let said = scene.home.ctl(&["up", "t"]).await?.expect(1)?;
    assert!(said.stderr.contains("refused"), "{said:?}");
    Ok(())
}

#[tokio::test]
async fn a_revoked_login_is_shown_and_a_restored_one_connects() -> Result<()> {
    let (scene, before) = Scene::up("").await?;
    let authorized = scene.server.dir().join("authorized_keys");
    let text = std::fs::read_to_string(&authorized)?;
    std::fs::write(&authorized, "")?;
    let mut watch = scene.daemon.watch().await?;
    scene.server.kill_sessions()?;
    let refused = |tunnel: &TunnelStatus| kind(tunnel) == Some("auth_refused");
    watch.until("t", LONG, refused).await?;
    std::fs::write(&authorized, text)?;
    scene.home.ctl(&["restart", "t"]).await?.expect(0)?;
    watch
        .until("t", LONG, |tunnel| {
            tunnel.state == State::Up && session_since(tunnel) != session_since(&before)
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_changed_host_key_stops_the_tunnel_before_any_login() -> Result<()> {
    let (mut scene, _) = Scene::up("").await?;
    let old = keys::fingerprint(&scene.server.host_key("ed25519")).await?;
    scene.server.stop().await?;
    let known = scene
        .server
        .dir()
        .join(format!("known_hosts_{}", scene.server.port()));
    let before = std::fs::read_to_string(&known)?;
    scene.server.change_host_keys().await?;
    let new = keys::fingerprint(&scene.server.host_key("ed25519")).await?;
    let failed = |tunnel: &TunnelStatus| tunnel.state == State::Failed;
    let tunnel = scene.daemon.wait_for("t", LONG, failed).await?;
    let error = tunnel.last_error.expect("an error");
    assert_eq!(error.kind.as_str(), "host_key_changed");
    let told = format!("{} {}", error.message, error.hint.unwrap_or_default());
    assert!(told.contains(&old) && told.contains(&new), "{told}");
    assert!(told.contains("ssh-keygen"), "{told}");
    let log = scene.server.log()?;
    log.wait("Connection from", LONG).await?;
    // Once the sessions are gone the server has said all that it will.
    within(LONG, "the session to go", async {
        while !scene.server.sessions().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await?;
    assert_eq!(log.count_after(0, "userauth-request"), 0);
    assert_eq!(std::fs::read_to_string(&known)?, before);
    Ok(())
}

#[tokio::test]
async fn an_unknown_host_key_is_refused_if_strict_and_saved_if_accept_new() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    let known = home.path("known");
    let text = |checking: &str| -> Result<String> {
        Ok(server.tunnel("t")?.replace(
            "user_known_hosts_file",
            &format!(
                "strict_host_key_checking = \"{checking}\"\nuser_known_hosts_file = \"{}\"\n#",
                known.display()
            ),
        ))
    };
    home.write("t.toml", &text("yes")?)?;
    let daemon = Daemon::start(&home).await?;
    let failed = |tunnel: &TunnelStatus| tunnel.state == State::Failed;
    let tunnel = daemon.wait_for("t", LONG, failed).await?;
    assert_eq!(kind(&tunnel), Some("host_key_unknown"));
    home.write("t.toml", &text("accept-new")?)?;
    daemon.wait_up("t").await?;
    let learnt = std::fs::read_to_string(&known)?;
    let key = std::fs::read_to_string(server.host_key("ed25519"))?;
    let key = key.split_whitespace().nth(1).expect("a key");
    assert!(learnt.contains(key), "{learnt}");
    Ok(())
}

#[tokio::test]
async fn a_busy_local_port_with_exit_on_forward_failure_is_retried() -> Result<()> {
    let port = ports::free()?;
    let squatter = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let lines = format!("exit_on_forward_failure = true\nlocal_forward = \"{port} 127.0.0.1:9\"");
    let scene = Scene::begun(Sshd::start().await?, &lines).await?;
    let waiting =
        |tunnel: &TunnelStatus| tunnel.state == State::Waiting && kind(tunnel) == Some("forward");
    scene.daemon.wait_for("t", LONG, waiting).await?;
    drop(squatter);
    scene.daemon.wait_up("t").await?;
    Ok(())
}
