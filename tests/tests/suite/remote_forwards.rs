//! Remote forwards: TCP and Unix sockets, port 0, reverse SOCKS, refused forwards and their retries.

use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tunneld_proto::status::{ForwardKind, ForwardState, State, TunnelStatus};
use tunneld_tests::daemon::{listen_addr, listen_addr_at};
use tunneld_tests::payload::{self, MIB, exchange, random, same};
use tunneld_tests::sshd::{Sshd, SshdOptions};
use tunneld_tests::target::{Target, TargetBehavior};
use tunneld_tests::wait::{LONG, within};
use tunneld_tests::{ports, socks};

use crate::fixture::{
    Fixture, error_kind, forward_of, is_waiting, reconnected_since, session_since, start_daemon,
    tcp, unix,
};
use crate::forward_checks;

#[tokio::test]
async fn port_zero_is_reported_and_carries_ten_mebibytes_both_ways() -> Result<()> {
    let target = Target::start(TargetBehavior::EchoAtEof).await?;
    let lines = format!("remote_forward = \"0 127.0.0.1:{}\"", target.port());
    let (_fixture, tunnel) = Fixture::up(&lines).await?;
    let stream = tcp(listen_addr(&tunnel, ForwardKind::Remote)?).await?;
    let data = random(20, 10 * MIB);
    same(&data, &exchange(stream, &data).await?)
}

#[tokio::test]
async fn fifty_concurrent_connections_carry_intact_bytes() -> Result<()> {
    let target = Target::echo().await?;
    let lines = format!("remote_forward = \"0 127.0.0.1:{}\"", target.port());
    let (_fixture, tunnel) = Fixture::up(&lines).await?;
    let addr = listen_addr(&tunnel, ForwardKind::Remote)?;
    forward_checks::concurrent_exchanges(addr, 50, 200_000).await
}

#[tokio::test]
async fn unix_sockets_work_on_either_side() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (remote_socket, target_socket) = (
        folder.path().join("remote.sock"),
        folder.path().join("target.sock"),
    );
    let port = ports::free()?;
    let _unix_target = Target::unix(&target_socket, TargetBehavior::EchoAtEof)?;
    let target = Target::start(TargetBehavior::EchoAtEof).await?;
    let lines = format!(
        "remote_forward = [\"{} 127.0.0.1:{}\", \"{port} {}\"]",
        remote_socket.display(),
        target.port(),
        target_socket.display()
    );
    let (_fixture, _) = Fixture::up(&lines).await?;
    let data = random(21, 10 * MIB);
    same(&data, &exchange(unix(&remote_socket).await?, &data).await?)?;
    let stream = tcp(ports::local(port)).await?;
    same(&data, &exchange(stream, &data).await?)
}

#[tokio::test]
async fn ipv6_works_on_both_sides() -> Result<()> {
    forward_checks::ipv6("remote_forward", ForwardKind::Remote, 22).await
}

#[tokio::test]
async fn a_half_close_by_either_side_keeps_the_other_direction_open() -> Result<()> {
    let first = random(23, 300_000);
    let mut sender = Target::start(TargetBehavior::SendThenRead(first.clone().into())).await?;
    let echo = Target::start(TargetBehavior::EchoAtEof).await?;
    let lines = format!(
        "remote_forward = [\"0 127.0.0.1:{}\", \"0 127.0.0.1:{}\"]",
        sender.port(),
        echo.port()
    );
    let (_fixture, tunnel) = Fixture::up(&lines).await?;
    let mut stream = tcp(listen_addr_at(&tunnel, 0)?).await?;
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await?;
    same(&first, &received)?;
    let second = random(24, 300_000);
    stream.write_all(&second).await?;
    stream.shutdown().await?;
    same(&second, &sender.next_end(LONG).await?.received)?;
    let stream = tcp(listen_addr_at(&tunnel, 1)?).await?;
    same(&second, &exchange(stream, &second).await?)
}

#[tokio::test]
async fn a_bare_port_is_a_reverse_socks_proxy() -> Result<()> {
    let target = Target::start(TargetBehavior::EchoAtEof).await?;
    let port = ports::free()?;
    let (_fixture, tunnel) = Fixture::up(&format!("remote_forward = {port}")).await?;
    assert_eq!(tunnel.forwards[0].to, None);
    let data = random(25, MIB);
    for dest in [
        socks::Destination::Ip(target.addr().ip()),
        socks::Destination::Name("localhost".into()),
    ] {
        let stream = socks::connect_v5(ports::local(port), &dest, target.port()).await?;
        same(&data, &exchange(stream.expect("granted"), &data).await?)?;
        let stream = socks::connect_v4(ports::local(port), &dest, target.port()).await?;
        same(&data, &exchange(stream.expect("granted"), &data).await?)?;
    }
    let closed_port = ports::free()?;
    let dest = socks::Destination::Ip(target.addr().ip());
    let code = socks::connect_v5(ports::local(port), &dest, closed_port).await?;
    assert_eq!(code.err(), Some(5));
    Ok(())
}

#[tokio::test]
async fn a_refusing_target_fails_only_its_own_connection() -> Result<()> {
    forward_checks::refusing_target("remote_forward").await
}

#[tokio::test]
async fn a_busy_port_is_reported_and_bound_when_free_in_the_same_session() -> Result<()> {
    let target = Target::echo().await?;
    let port = ports::free()?;
    // Both addresses of localhost: sshd reports success if it can bind one of them.
    let occupants = (
        tokio::net::TcpListener::bind(("127.0.0.1", port)).await?,
        tokio::net::TcpListener::bind(("::1", port)).await,
    );
    let lines = format!(
        "local_forward = \"0 127.0.0.1:{to}\"\nremote_forward = \"{port} 127.0.0.1:{to}\"",
        to = target.port()
    );
    let fixture = Fixture::start(Sshd::start().await?, &lines).await?;
    let failed = |tunnel: &TunnelStatus| {
        tunnel.state == State::Degraded
            && forward_of(tunnel, ForwardKind::Remote)
                .is_some_and(|forward| forward.state == ForwardState::Failed)
    };
    let tunnel = fixture.daemon.wait_for("t", LONG, failed).await?;
    let remote = forward_of(&tunnel, ForwardKind::Remote);
    let error = remote.and_then(|forward| forward.error.clone());
    assert_eq!(
        error.expect("an error").kind.as_str(),
        "remote_forward_refused"
    );
    let mut neighbour = tcp(listen_addr(&tunnel, ForwardKind::Local)?).await?;
    payload::ping(&mut neighbour, b"the other one works").await?;
    drop(occupants);
    let up = fixture.daemon.wait_up("t").await?;
    assert_eq!(session_since(&up), session_since(&tunnel));
    payload::ping(&mut neighbour, b"still").await?;
    payload::ping(&mut tcp(ports::local(port)).await?, b"now too").await
}

#[tokio::test]
async fn exit_on_forward_failure_ends_the_session_and_retries() -> Result<()> {
    let server = Sshd::start_with(SshdOptions {
        // sshd allows this key only a remote port that no test asks for.
        key_options: "permitlisten=\"127.0.0.1:1\"".into(),
        ..SshdOptions::default()
    })
    .await?;
    let lines = "exit_on_forward_failure = true\nremote_forward = \"0 127.0.0.1:9\"";
    let fixture = Fixture::start(server, lines).await?;
    let waiting =
        |tunnel: &TunnelStatus| is_waiting(tunnel) && error_kind(tunnel) == Some("forward");
    let mut watch = fixture.daemon.watch().await?;
    let first = watch.until("t", LONG, waiting).await?;
    assert!(first.retry_at.is_some());
    let again = |tunnel: &TunnelStatus| waiting(tunnel) && tunnel.attempt > first.attempt;
    watch.until("t", LONG, again).await?;
    let output = fixture.home.ctl(&["up", "t"]).await?.expect_exit(1)?;
    assert!(
        output.stderr.contains("refused the remote forward"),
        "{output:?}"
    );
    Ok(())
}

#[tokio::test]
async fn without_exit_on_forward_failure_other_forwards_work_and_up_reports_the_failure()
-> Result<()> {
    let server = Sshd::start_with(SshdOptions {
        key_options: "permitlisten=\"127.0.0.1:1\"".into(),
        ..SshdOptions::default()
    })
    .await?;
    let target = Target::echo().await?;
    let lines = format!(
        "local_forward = \"0 127.0.0.1:{}\"\nremote_forward = \"0 127.0.0.1:9\"",
        target.port()
    );
    let fixture = Fixture::start(server, &lines).await?;
    let degraded = |tunnel: &TunnelStatus| tunnel.state == State::Degraded;
    let tunnel = fixture.daemon.wait_for("t", LONG, degraded).await?;
    let mut stream = tcp(listen_addr(&tunnel, ForwardKind::Local)?).await?;
    payload::ping(&mut stream, b"works").await?;
    // The tunnel is usable, so this is a warning and not a failure.
    let output = fixture.home.ctl(&["up", "t"]).await?.expect_exit(0)?;
    assert!(
        output.stderr.contains("refused the remote forward"),
        "{output:?}"
    );
    Ok(())
}

#[tokio::test]
async fn remote_forwards_are_restored_in_a_new_session() -> Result<()> {
    let target = Target::echo().await?;
    let lines = format!("remote_forward = \"0 127.0.0.1:{}\"", target.port());
    let (fixture, before) = Fixture::up(&lines).await?;
    fixture.server.kill_sessions()?;
    let after = fixture
        .daemon
        .wait_for("t", LONG, reconnected_since(&before))
        .await?;
    let mut stream = tcp(listen_addr(&after, ForwardKind::Remote)?).await?;
    payload::ping(&mut stream, b"back").await
}

#[tokio::test]
async fn the_removal_of_one_of_two_forwards_with_port_zero_leaves_the_other() -> Result<()> {
    let (kept, removed) = (Target::echo().await?, Target::echo().await?);
    let line = |ports: &[u16]| {
        let forwards = ports.iter().map(|port| format!("\"0 127.0.0.1:{port}\""));
        format!(
            "remote_forward = [{}]",
            forwards.collect::<Vec<_>>().join(", ")
        )
    };
    let (fixture, tunnel) = Fixture::up(&line(&[kept.port(), removed.port()])).await?;
    let (kept_addr, removed_addr) = (listen_addr_at(&tunnel, 0)?, listen_addr_at(&tunnel, 1)?);
    fixture.rewrite_tunnel(&line(&[kept.port()]))?;
    let stops = async {
        while TcpStream::connect(removed_addr).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(
        LONG,
        "the server stops listening for the removed forward",
        stops,
    )
    .await?;
    let data = random(25, 1000);
    same(&data, &exchange(tcp(kept_addr).await?, &data).await?)
}

#[tokio::test]
async fn a_socket_that_a_killed_session_left_behind_is_named_in_the_hint() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("left.sock");
    drop(std::os::unix::net::UnixListener::bind(&path)?);
    let target = Target::echo().await?;
    let line = format!(
        "remote_forward = \"{} 127.0.0.1:{}\"",
        path.display(),
        target.port()
    );
    let fixture = Fixture::start(Sshd::start().await?, &line).await?;
    let failed = |tunnel: &TunnelStatus| tunnel.state == State::Degraded;
    let tunnel = fixture.daemon.wait_for("t", LONG, failed).await?;
    let error = tunnel.forwards[0].error.clone().expect("an error");
    let hint = error.hint.expect("a hint");
    assert!(hint.contains(&path.display().to_string()), "{hint}");
    assert!(hint.contains("StreamLocalBindUnlink"), "{hint}");
    assert!(!hint.contains("port"), "{hint}");
    Ok(())
}

#[tokio::test]
async fn a_port_that_another_tunnel_of_this_daemon_has_at_the_server_is_explained() -> Result<()> {
    let (server, target, port) = (Sshd::start().await?, Target::echo().await?, ports::free()?);
    let line = format!("remote_forward = \"{port} 127.0.0.1:{}\"\n", target.port());
    let first = server.tunnel_toml("first")? + &line;
    let second = server.tunnel_toml("second")? + &line + "autostart = false\n";
    let (home, daemon) = start_daemon(&(first + &second)).await?;
    daemon.wait_up("first").await?;
    home.ctl(&["up", "second", "--no-wait"])
        .await?
        .expect_exit(0)?;
    let failed = |tunnel: &TunnelStatus| tunnel.state == State::Degraded;
    let tunnel = daemon.wait_for("second", LONG, failed).await?;
    let error = tunnel.forwards[0].error.clone().expect("an error");
    assert!(
        error.message.contains("the tunnel first"),
        "{}",
        error.message
    );
    Ok(())
}

#[tokio::test]
async fn a_port_that_the_server_keeps_for_a_lost_session_is_explained() -> Result<()> {
    let port = ports::free()?;
    let target = Target::echo().await?;
    let lines = format!("remote_forward = \"{port} 127.0.0.1:{}\"", target.port());
    let (fixture, link, before) = Fixture::up_over_link(&lines).await?;
    // The server never learns that the session is gone.
    link.freeze();
    fixture.rewrite_tunnel(&lines)?;
    let degraded = |tunnel: &TunnelStatus| {
        tunnel.state == State::Degraded && session_since(tunnel) != session_since(&before)
    };
    let tunnel = fixture.daemon.wait_for("t", LONG, degraded).await?;
    let error = tunnel.forwards[0].error.clone().expect("an error");
    assert!(
        error.message.contains("earlier session of the tunnel t"),
        "{}",
        error.message
    );
    assert!(error.hint.expect("a hint").contains("tries again"));
    Ok(())
}
