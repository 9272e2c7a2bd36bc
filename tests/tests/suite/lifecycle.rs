//! The life of a tunnel: lost sessions, refused logins and changed host keys, and their effect on local connections.

use std::time::Duration;

use anyhow::Result;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;
use tunneld_proto::status::{ForwardKind, State, TunnelStatus};
use tunneld_tests::daemon::{Daemon, listen_addr};
use tunneld_tests::home::Home;
use tunneld_tests::payload::{self};
use tunneld_tests::sshd::Sshd;
use tunneld_tests::target::Target;
use tunneld_tests::wait::{LONG, within};
use tunneld_tests::{keys, ports};

use crate::fixture::{
    Fixture, error_kind, in_new_session, is_failed, is_up, is_waiting, local_forward_to,
    reconnected_since, secs, tcp, was_reset, with_known_hosts,
};

#[tokio::test]
async fn a_killed_session_resets_open_connections_and_holds_new_ones_until_it_is_back() -> Result<()>
{
    let target = Target::echo().await?;
    let (fixture, before) = Fixture::up(&local_forward_to(&target)).await?;
    let addr = listen_addr(&before, ForwardKind::Local)?;
    let mut live = tcp(addr).await?;
    payload::ping(&mut live, b"hello").await?;
    let killed = Instant::now();
    fixture.server.kill_sessions()?;
    let read = within(LONG, "the reset", live.read_u8()).await?;
    assert!(
        was_reset(read),
        "a lost session must not look like an end of file"
    );
    // Until the session is back, every new connection is accepted, held and then served.
    for _ in 0..20 {
        let mut stream = tcp(addr).await?;
        within(LONG, "an echo", payload::ping(&mut stream, b"again")).await??;
    }
    assert!(
        killed.elapsed() < secs(5),
        "back after {:?}",
        killed.elapsed()
    );
    let after = fixture
        .daemon
        .wait_for("t", LONG, reconnected_since(&before))
        .await?;
    assert_eq!(listen_addr(&after, ForwardKind::Local)?, addr);
    Ok(())
}

#[tokio::test]
async fn a_tunnel_reconnects_when_its_stopped_server_is_back() -> Result<()> {
    let target = Target::echo().await?;
    let (mut fixture, before) = Fixture::up(&local_forward_to(&target)).await?;
    let mut watch = fixture.daemon.watch().await?;
    fixture.server.stop().await?;
    let waiting = |tunnel: &TunnelStatus| {
        tunnel.state == State::Waiting && error_kind(tunnel) == Some("connect_refused")
    };
    let first = watch.until("t", LONG, waiting).await?;
    assert!(first.retry_at.is_some());
    // Several attempts in a row: the server's return is noticed by a retry and not by an event.
    let later = |tunnel: &TunnelStatus| waiting(tunnel) && tunnel.attempt >= first.attempt + 3;
    watch.until("t", LONG, later).await?;
    fixture.server.start_again().await?;
    // The lab's longest backoff is 2 s, and jitter changes it by at most half.
    watch
        .until("t", secs(6), reconnected_since(&before))
        .await?;
    let addr = listen_addr(&before, ForwardKind::Local)?;
    payload::ping(&mut tcp(addr).await?, b"back").await
}

#[tokio::test]
async fn a_tunnel_connects_when_its_server_starts_later() -> Result<()> {
    let target = Target::echo().await?;
    let mut server = Sshd::start().await?;
    server.stop().await?;
    let mut fixture = Fixture::start(server, &local_forward_to(&target)).await?;
    let tunnel = fixture.daemon.wait_for("t", LONG, is_waiting).await?;
    assert_eq!(error_kind(&tunnel), Some("connect_refused"));
    fixture.server.start_again().await?;
    fixture.daemon.wait_for("t", secs(6), is_up).await?;
    Ok(())
}

#[tokio::test]
async fn a_held_connection_waits_for_the_session() -> Result<()> {
    let target = Target::echo().await?;
    let (mut fixture, before) = Fixture::up(&local_forward_to(&target)).await?;
    let addr = listen_addr(&before, ForwardKind::Local)?;
    fixture.server.stop().await?;
    fixture.daemon.wait_for("t", LONG, is_waiting).await?;
    let mut stream = tcp(addr).await?;
    let held = |tunnel: &TunnelStatus| tunnel.forwards[0].held == 1;
    fixture.daemon.wait_for("t", LONG, held).await?;
    fixture.server.start_again().await?;
    within(LONG, "the held echo", payload::ping(&mut stream, b"held")).await??;
    let none = |tunnel: &TunnelStatus| tunnel.forwards[0].held == 0;
    fixture.daemon.wait_for("t", LONG, none).await?;
    Ok(())
}

#[tokio::test]
async fn a_held_connection_is_reset_when_hold_runs_out() -> Result<()> {
    let target = Target::echo().await?;
    let lines = format!("hold = \"1s\"\n{}", local_forward_to(&target));
    let (mut fixture, before) = Fixture::up(&lines).await?;
    let addr = listen_addr(&before, ForwardKind::Local)?;
    fixture.server.stop().await?;
    fixture.daemon.wait_for("t", LONG, is_waiting).await?;
    let began = Instant::now();
    let mut stream = tcp(addr).await?;
    assert!(was_reset(
        within(LONG, "the reset", stream.read_u8()).await?
    ));
    let held_for = began.elapsed();
    assert!(
        held_for >= Duration::from_millis(900) && held_for <= secs(3),
        "{held_for:?}"
    );
    Ok(())
}

#[tokio::test]
async fn without_hold_a_connection_is_reset_at_once() -> Result<()> {
    let target = Target::echo().await?;
    let lines = format!("hold = 0\n{}", local_forward_to(&target));
    let (mut fixture, before) = Fixture::up(&lines).await?;
    let addr = listen_addr(&before, ForwardKind::Local)?;
    fixture.server.stop().await?;
    fixture.daemon.wait_for("t", LONG, is_waiting).await?;
    let read = within(secs(1), "the reset", async {
        // The reset may arrive before the connect has returned.
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
    // The client gets a key that the server does not accept.
    std::fs::copy(&other, server.user_key())?;
    let fixture = Fixture::start(server, "identities_only = true").await?;
    let refused = |tunnel: &TunnelStatus| {
        tunnel.state == State::Waiting && error_kind(tunnel) == Some("auth_refused")
    };
    let tunnel = fixture.daemon.wait_for("t", LONG, refused).await?;
    let wait = tunnel
        .retry_at
        .expect("a next attempt")
        .duration_since(tunnel.since);
    // Far longer than the lab's longest backoff of 2 s.
    assert!(wait.as_secs() >= 14, "tries again after {wait:#}");
    let error = tunnel.last_error.expect("an error");
    assert!(error.hint.is_some(), "{error:?}");
    let output = fixture.home.ctl(&["up", "t"]).await?.expect_exit(1)?;
    assert!(output.stderr.contains("was rejected"), "{output:?}");
    Ok(())
}

#[tokio::test]
async fn a_revoked_login_is_shown_and_a_restored_one_connects() -> Result<()> {
    let (fixture, before) = Fixture::up("").await?;
    let authorized = fixture.server.dir().join("authorized_keys");
    let text = std::fs::read_to_string(&authorized)?;
    // The server accepts no key any more; the session that exists stays until it is killed.
    std::fs::write(&authorized, "")?;
    let mut watch = fixture.daemon.watch().await?;
    fixture.server.kill_sessions()?;
    let refused = |tunnel: &TunnelStatus| error_kind(tunnel) == Some("auth_refused");
    watch.until("t", LONG, refused).await?;
    std::fs::write(&authorized, text)?;
    fixture.home.ctl(&["restart", "t"]).await?.expect_exit(0)?;
    watch.until("t", LONG, in_new_session(&before)).await?;
    Ok(())
}

#[tokio::test]
async fn a_changed_host_key_stops_the_tunnel_before_any_login() -> Result<()> {
    let (mut fixture, _) = Fixture::up("").await?;
    let old = keys::fingerprint(&fixture.server.host_key("ed25519")).await?;
    fixture.server.stop().await?;
    let known = fixture
        .server
        .dir()
        .join(format!("known_hosts_{}", fixture.server.port()));
    let before = std::fs::read_to_string(&known)?;
    fixture.server.change_host_keys().await?;
    let new = keys::fingerprint(&fixture.server.host_key("ed25519")).await?;
    let tunnel = fixture.daemon.wait_for("t", LONG, is_failed).await?;
    let error = tunnel.last_error.expect("an error");
    assert_eq!(error.kind.as_str(), "host_key_changed");
    let text = format!("{} {}", error.message, error.hint.unwrap_or_default());
    assert!(text.contains(&old) && text.contains(&new), "{text}");
    assert!(text.contains("ssh-keygen"), "{text}");
    let log = fixture.server.log()?;
    log.wait("Connection from", LONG).await?;
    // Once the sessions are gone the server has output all that it will.
    within(LONG, "the session to go", async {
        while !fixture.server.session_pids().is_empty() {
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
        let tunnel = server.tunnel_toml("t")?;
        Ok(with_known_hosts(&tunnel, &known, checking))
    };
    home.write("t.toml", &text("yes")?)?;
    let daemon = Daemon::start(&home).await?;
    let tunnel = daemon.wait_for("t", LONG, is_failed).await?;
    assert_eq!(error_kind(&tunnel), Some("host_key_unknown"));
    home.write("t.toml", &text("accept-new")?)?;
    daemon.wait_up("t").await?;
    let saved = std::fs::read_to_string(&known)?;
    let key = std::fs::read_to_string(server.host_key("ed25519"))?;
    let key = key.split_whitespace().nth(1).expect("a key");
    assert!(saved.contains(key), "{saved}");
    Ok(())
}

#[tokio::test]
async fn a_busy_local_port_with_exit_on_forward_failure_is_retried() -> Result<()> {
    let port = ports::free()?;
    let occupant = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let lines = format!("exit_on_forward_failure = true\nlocal_forward = \"{port} 127.0.0.1:9\"");
    let fixture = Fixture::start(Sshd::start().await?, &lines).await?;
    let waiting = |tunnel: &TunnelStatus| {
        tunnel.state == State::Waiting && error_kind(tunnel) == Some("forward")
    };
    fixture.daemon.wait_for("t", LONG, waiting).await?;
    drop(occupant);
    fixture.daemon.wait_up("t").await?;
    Ok(())
}
