//! Local forwards: bit-exact on TCP and Unix sockets, half-close, many at once, ports, neighbours.

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tunneld_proto::status::{ForwardKind, ForwardState, State};
use tunneld_tests::daemon::{listen, listen_at};
use tunneld_tests::payload::{self, MIB, exchange, random, same};
use tunneld_tests::sshd::{Setup, Sshd};
use tunneld_tests::target::{Manner, Target};
use tunneld_tests::wait::LONG;

use crate::fixture::{Scene, session_since, tcp, unix};

#[tokio::test]
async fn ten_mebibytes_pass_from_tcp_to_tcp_both_ways() -> Result<()> {
    let target = Target::start(Manner::Collect).await?;
    let lines = format!("local_forward = \"0 127.0.0.1:{}\"", target.port());
    let (scene, tunnel) = Scene::up(&lines).await?;
    let stream = tcp(listen(&tunnel, ForwardKind::Local)?).await?;
    let data = random(10, 10 * MIB);
    same(&data, &exchange(stream, &data).await?)?;

    let counted = |tunnel: &tunneld_proto::status::TunnelStatus| {
        let forward = &tunnel.forwards[0];
        (forward.bytes_in, forward.bytes_out) == (10 << 20, 10 << 20)
            && (forward.total, forward.connections) == (1, 0)
    };
    scene.daemon.wait_for("t", LONG, counted).await?;
    Ok(())
}

#[tokio::test]
async fn bytes_pass_in_both_directions_at_once() -> Result<()> {
    let target = Target::echo().await?;
    let lines = format!("local_forward = \"0 127.0.0.1:{}\"", target.port());
    let (_scene, tunnel) = Scene::up(&lines).await?;
    let stream = tcp(listen(&tunnel, ForwardKind::Local)?).await?;
    let data = random(11, 10 * MIB);
    same(&data, &exchange(stream, &data).await?)
}

#[tokio::test]
async fn unix_sockets_work_on_either_side() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (near, far, both) = (
        folder.path().join("near.sock"),
        folder.path().join("far.sock"),
        folder.path().join("both.sock"),
    );
    let _unix_target = Target::unix(&far, Manner::Collect)?;
    let target = Target::start(Manner::Collect).await?;
    let lines = format!(
        "local_forward = [\"{} 127.0.0.1:{}\", \"0 {far}\", \"{} {far}\"]",
        near.display(),
        target.port(),
        both.display(),
        far = far.display(),
    );
    let (_scene, tunnel) = Scene::up(&lines).await?;
    let data = random(12, 10 * MIB);
    same(&data, &exchange(unix(&near).await?, &data).await?)?;
    let stream = tcp(listen_at(&tunnel, 1)?).await?;
    same(&data, &exchange(stream, &data).await?)?;
    same(&data, &exchange(unix(&both).await?, &data).await?)
}

#[tokio::test]
async fn unix_listeners_are_private_and_removed_with_the_tunnel() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir()?;
    let near = folder.path().join("near.sock");
    let lines = format!("local_forward = \"{} 127.0.0.1:9\"", near.display());
    let (scene, _) = Scene::up(&lines).await?;
    let mode = std::fs::metadata(&near)?.permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    scene.home.ctl(&["down", "t"]).await?.expect(0)?;
    assert!(!near.exists());
    Ok(())
}

#[tokio::test]
async fn ipv6_works_on_both_sides() -> Result<()> {
    let target = Target::at("[::1]:0", Manner::Collect).await?;
    let lines = format!("local_forward = \"[::1]:0:[::1]:{}\"", target.port());
    let (_scene, tunnel) = Scene::up(&lines).await?;
    let addr = listen(&tunnel, ForwardKind::Local)?;
    assert!(addr.is_ipv6(), "{addr}");
    let data = random(13, MIB);
    same(&data, &exchange(tcp(addr).await?, &data).await?)
}

#[tokio::test]
async fn a_server_is_reached_over_ipv6() -> Result<()> {
    let server = Sshd::with(Setup {
        ipv6: true,
        ..Setup::default()
    })
    .await?;
    let target = Target::start(Manner::Collect).await?;
    let home = tunneld_tests::home::Home::new()?;
    let known = server.dir().join("known");
    let lines = server.known_hosts_at(server.port())?;
    std::fs::write(&known, lines.replace("127.0.0.1", "::1"))?;
    let text = format!(
        "[tunnel.six]\nhost = \"{}@[::1]:{}\"\nidentity_file = \"{}\"\nuser_known_hosts_file = \"{}\"\nlocal_forward = \"0 127.0.0.1:{}\"\n",
        tunneld_tests::sshd::user()?,
        server.port(),
        server.user_key().display(),
        known.display(),
        target.port()
    );
    home.write("six.toml", &text)?;
    let daemon = tunneld_tests::daemon::Daemon::start(&home).await?;
    let tunnel = daemon.wait_up("six").await?;
    let stream = tcp(listen(&tunnel, ForwardKind::Local)?).await?;
    let data = random(14, MIB);
    same(&data, &exchange(stream, &data).await?)
}

#[tokio::test]
async fn a_half_close_by_the_client_keeps_the_response_complete() -> Result<()> {
    let mut target = Target::start(Manner::Collect).await?;
    let lines = format!("local_forward = \"0 127.0.0.1:{}\"", target.port());
    let (_scene, tunnel) = Scene::up(&lines).await?;
    let data = random(15, 300_000);
    let stream = tcp(listen(&tunnel, ForwardKind::Local)?).await?;
    same(&data, &exchange(stream, &data).await?)?;
    let end = target.next_end(LONG).await?;
    assert!(end.clean);
    same(&data, &end.received)
}

#[tokio::test]
async fn a_half_close_by_the_server_keeps_the_request_direction_open() -> Result<()> {
    let first = random(16, 300_000);
    let mut target = Target::start(Manner::Source(first.clone().into())).await?;
    let lines = format!("local_forward = \"0 127.0.0.1:{}\"", target.port());
    let (_scene, tunnel) = Scene::up(&lines).await?;
    let mut stream = tcp(listen(&tunnel, ForwardKind::Local)?).await?;
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await?;
    same(&first, &got)?;
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
    let lines = format!("local_forward = \"0 127.0.0.1:{}\"", target.port());
    let (_scene, tunnel) = Scene::up(&lines).await?;
    let addr = listen(&tunnel, ForwardKind::Local)?;
    let mut all = JoinSet::new();
    for seed in 0..100 {
        all.spawn(async move {
            let data = random(seed, 100_000);
            let stream = tcp(addr).await?;
            same(&data, &exchange(stream, &data).await?)
        });
    }
    while let Some(one) = all.join_next().await {
        one??;
    }
    Ok(())
}

#[tokio::test]
async fn a_refusing_target_fails_only_its_own_connection() -> Result<()> {
    let target = Target::echo().await?;
    let nobody = tunneld_tests::ports::free()?;
    let lines = format!(
        "local_forward = [\"0 127.0.0.1:{}\", \"0 127.0.0.1:{nobody}\"]",
        target.port()
    );
    let (scene, tunnel) = Scene::up(&lines).await?;
    let mut good = tcp(listen_at(&tunnel, 0)?).await?;
    payload::ping(&mut good, b"before").await?;
    let mut bad = tcp(listen_at(&tunnel, 1)?).await?;
    let read = bad.read(&mut [0; 8]).await;
    assert!(!matches!(read, Ok(n) if n > 0), "{read:?}");
    payload::ping(&mut good, b"after").await?;
    let after = scene.daemon.status("t").await?;
    assert_eq!(session_since(&after), session_since(&tunnel));
    assert_eq!(after.state, State::Up);
    Ok(())
}

#[tokio::test]
async fn a_busy_port_degrades_the_tunnel_and_is_bound_when_free() -> Result<()> {
    let target = Target::echo().await?;
    let port = tunneld_tests::ports::free()?;
    let squatter = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let lines = format!(
        "local_forward = [\"{port} 127.0.0.1:{to}\", \"0 127.0.0.1:{to}\"]",
        to = target.port()
    );
    let scene = Scene::begun(Sshd::start().await?, &lines).await?;
    let degraded = |tunnel: &tunneld_proto::status::TunnelStatus| {
        tunnel.state == State::Degraded && tunnel.forwards[0].error.is_some()
    };
    let tunnel = scene.daemon.wait_for("t", LONG, degraded).await?;
    assert_eq!(tunnel.forwards[0].state, ForwardState::Failed);
    let error = tunnel.forwards[0].error.clone().expect("an error");
    assert_eq!(error.kind.as_str(), "bind_failed");
    assert!(error.message.contains(&port.to_string()), "{error:?}");
    let mut neighbour = tcp(listen_at(&tunnel, 1)?).await?;
    payload::ping(&mut neighbour, b"the other one works").await?;
    drop(squatter);
    let up = scene.daemon.wait_up("t").await?;
    assert_eq!(session_since(&up), session_since(&tunnel));
    payload::ping(&mut tcp(listen_at(&up, 0)?).await?, b"now too").await
}

#[tokio::test]
async fn only_listeners_beyond_loopback_are_shown_as_exposed() -> Result<()> {
    let lines = "local_forward = [\"0.0.0.0:0:127.0.0.1:9\", \"0 127.0.0.1:9\"]";
    let (_scene, tunnel) = Scene::up(lines).await?;
    assert!(tunnel.forwards[0].exposed);
    assert!(!tunnel.forwards[1].exposed);
    assert!(listen_at(&tunnel, 1)?.ip().is_loopback());
    Ok(())
}
