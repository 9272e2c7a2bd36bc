//! Local forwards: intact bytes over TCP and Unix sockets, half-close, many connections at once, and bound addresses.

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tunneld_proto::status::{ForwardKind, ForwardState, State};
use tunneld_tests::daemon::{listen_addr, listen_addr_at};
use tunneld_tests::payload::{self, MIB, exchange, random, same};
use tunneld_tests::sshd::{Sshd, SshdOptions};
use tunneld_tests::target::{Target, TargetBehavior};
use tunneld_tests::wait::LONG;

use crate::fixture::{Fixture, local_forward_to, session_since, tcp, unix};
use crate::forward_checks;

#[tokio::test]
async fn ten_mebibytes_pass_from_tcp_to_tcp_both_ways() -> Result<()> {
    let target = Target::start(TargetBehavior::EchoAtEof).await?;
    let lines = local_forward_to(&target);
    let (fixture, tunnel) = Fixture::up(&lines).await?;
    let stream = tcp(listen_addr(&tunnel, ForwardKind::Local)?).await?;
    let data = random(10, 10 * MIB);
    same(&data, &exchange(stream, &data).await?)?;

    let counted = |tunnel: &tunneld_proto::status::TunnelStatus| {
        let forward = &tunnel.forwards[0];
        (forward.bytes_in, forward.bytes_out) == (10 << 20, 10 << 20)
            && (forward.total, forward.connections) == (1, 0)
    };
    fixture.daemon.wait_for("t", LONG, counted).await?;
    Ok(())
}

#[tokio::test]
async fn bytes_pass_in_both_directions_at_once() -> Result<()> {
    let target = Target::echo().await?;
    let lines = local_forward_to(&target);
    let (_fixture, tunnel) = Fixture::up(&lines).await?;
    let stream = tcp(listen_addr(&tunnel, ForwardKind::Local)?).await?;
    let data = random(11, 10 * MIB);
    same(&data, &exchange(stream, &data).await?)
}

#[tokio::test]
async fn unix_sockets_work_on_either_side() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (to_tcp, to_unix, target_socket) = (
        folder.path().join("to_tcp.sock"),
        folder.path().join("to_unix.sock"),
        folder.path().join("target.sock"),
    );
    let _unix_target = Target::unix(&target_socket, TargetBehavior::EchoAtEof)?;
    let target = Target::start(TargetBehavior::EchoAtEof).await?;
    let lines = format!(
        "local_forward = [\"{} 127.0.0.1:{}\", \"0 {target_socket}\", \"{} {target_socket}\"]",
        to_tcp.display(),
        target.port(),
        to_unix.display(),
        target_socket = target_socket.display(),
    );
    let (_fixture, tunnel) = Fixture::up(&lines).await?;
    let data = random(12, 10 * MIB);
    same(&data, &exchange(unix(&to_tcp).await?, &data).await?)?;
    let stream = tcp(listen_addr_at(&tunnel, 1)?).await?;
    same(&data, &exchange(stream, &data).await?)?;
    same(&data, &exchange(unix(&to_unix).await?, &data).await?)
}

#[tokio::test]
async fn unix_listeners_are_private_and_removed_with_the_tunnel() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("local.sock");
    let lines = format!("local_forward = \"{} 127.0.0.1:9\"", socket.display());
    let (fixture, _) = Fixture::up(&lines).await?;
    let mode = std::fs::metadata(&socket)?.permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    fixture.home.ctl(&["down", "t"]).await?.expect_exit(0)?;
    assert!(!socket.exists());
    Ok(())
}

#[tokio::test]
async fn ipv6_works_on_both_sides() -> Result<()> {
    forward_checks::ipv6("local_forward", ForwardKind::Local, 13).await
}

#[tokio::test]
async fn a_server_is_reached_over_ipv6() -> Result<()> {
    let server = Sshd::start_with(SshdOptions {
        ipv6: true,
        ..SshdOptions::default()
    })
    .await?;
    let target = Target::start(TargetBehavior::EchoAtEof).await?;
    let home = tunneld_tests::home::Home::new()?;
    let known = server.dir().join("known");
    let lines = server.known_hosts_lines(server.port())?;
    // The lab's tunnel table connects over IPv4, so this one is written here.
    std::fs::write(&known, lines.replace("127.0.0.1", "::1"))?;
    let text = format!(
        "[tunnel.six]\nhost = \"{}@[::1]:{}\"\nidentity_file = \"{}\"\nuser_known_hosts_file = \"{}\"\nlocal_forward = \"0 127.0.0.1:{}\"\n",
        tunneld_tests::sshd::current_user()?,
        server.port(),
        server.user_key().display(),
        known.display(),
        target.port()
    );
    home.write("six.toml", &text)?;
    let daemon = tunneld_tests::daemon::Daemon::start(&home).await?;
    let tunnel = daemon.wait_up("six").await?;
    let stream = tcp(listen_addr(&tunnel, ForwardKind::Local)?).await?;
    let data = random(14, MIB);
    same(&data, &exchange(stream, &data).await?)
}

#[tokio::test]
async fn a_half_close_by_the_client_keeps_the_response_complete() -> Result<()> {
    let mut target = Target::start(TargetBehavior::EchoAtEof).await?;
    let lines = local_forward_to(&target);
    let (_fixture, tunnel) = Fixture::up(&lines).await?;
    let data = random(15, 300_000);
    let stream = tcp(listen_addr(&tunnel, ForwardKind::Local)?).await?;
    same(&data, &exchange(stream, &data).await?)?;
    let end = target.next_end(LONG).await?;
    assert!(end.clean);
    same(&data, &end.received)
}

#[tokio::test]
async fn a_half_close_by_the_server_keeps_the_request_direction_open() -> Result<()> {
    let first = random(16, 300_000);
    let mut target = Target::start(TargetBehavior::SendThenRead(first.clone().into())).await?;
    let lines = local_forward_to(&target);
    let (_fixture, tunnel) = Fixture::up(&lines).await?;
    let mut stream = tcp(listen_addr(&tunnel, ForwardKind::Local)?).await?;
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await?;
    same(&first, &received)?;
    let second = random(17, 300_000);
    stream.write_all(&second).await?;
    stream.shutdown().await?;
    let end = target.next_end(LONG).await?;
    assert!(end.clean);
    same(&second, &end.received)
}

#[tokio::test]
async fn a_hundred_concurrent_connections_carry_intact_bytes() -> Result<()> {
    let target = Target::echo().await?;
    let lines = local_forward_to(&target);
    let (_fixture, tunnel) = Fixture::up(&lines).await?;
    let addr = listen_addr(&tunnel, ForwardKind::Local)?;
    forward_checks::concurrent_exchanges(addr, 100, 100_000).await
}

#[tokio::test]
async fn a_refusing_target_fails_only_its_own_connection() -> Result<()> {
    forward_checks::refusing_target("local_forward").await
}

#[tokio::test]
async fn a_busy_port_degrades_the_tunnel_and_is_bound_when_free() -> Result<()> {
    let target = Target::echo().await?;
    let port = tunneld_tests::ports::free()?;
    // Bound for the whole first part of the test, so that the forward cannot be.
    let occupant = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let lines = format!(
        "local_forward = [\"{port} 127.0.0.1:{to}\", \"0 127.0.0.1:{to}\"]",
        to = target.port()
    );
    let fixture = Fixture::start(Sshd::start().await?, &lines).await?;
    let degraded = |tunnel: &tunneld_proto::status::TunnelStatus| {
        tunnel.state == State::Degraded && tunnel.forwards[0].error.is_some()
    };
    let tunnel = fixture.daemon.wait_for("t", LONG, degraded).await?;
    assert_eq!(tunnel.forwards[0].state, ForwardState::Failed);
    let error = tunnel.forwards[0].error.clone().expect("an error");
    assert_eq!(error.kind.as_str(), "bind_failed");
    assert!(error.message.contains(&port.to_string()), "{error:?}");
    let mut neighbour = tcp(listen_addr_at(&tunnel, 1)?).await?;
    payload::ping(&mut neighbour, b"the other one works").await?;
    drop(occupant);
    let up = fixture.daemon.wait_up("t").await?;
    assert_eq!(session_since(&up), session_since(&tunnel));
    payload::ping(&mut tcp(listen_addr_at(&up, 0)?).await?, b"now too").await
}

#[tokio::test]
async fn only_listeners_beyond_loopback_are_shown_as_exposed() -> Result<()> {
    let lines = "local_forward = [\"0.0.0.0:0:127.0.0.1:9\", \"0 127.0.0.1:9\"]";
    let (_fixture, tunnel) = Fixture::up(lines).await?;
    assert!(tunnel.forwards[0].exposed);
    assert!(!tunnel.forwards[1].exposed);
    assert!(listen_addr_at(&tunnel, 1)?.ip().is_loopback());
    Ok(())
}
