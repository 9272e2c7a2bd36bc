//! Remote forwards: TCP, Unix, port 0, reverse SOCKS, refusals and retries.

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tunneld_proto::status::{ForwardKind, ForwardState, State, TunnelStatus};
use tunneld_tests::daemon::{listen, listen_at};
use tunneld_tests::payload::{self, MIB, exchange, random, same};
use tunneld_tests::sshd::{Setup, Sshd};
use tunneld_tests::target::{Manner, Target};
use tunneld_tests::wait::LONG;
use tunneld_tests::{ports, socks};

use crate::fixture::{Scene, renewed, session_since, tcp, unix};

#[tokio::test]
async fn port_zero_is_reported_and_carries_ten_mebibytes_both_ways() -> Result<()> {
    let target = Target::start(Manner::Collect).await?;
    let lines = format!("remote_forward = \"0 127.0.0.1:{}\"", target.port());
    let (_scene, tunnel) = Scene::up(&lines).await?;
    let stream = tcp(listen(&tunnel, ForwardKind::Remote)?).await?;
    let data = random(20, 10 * MIB);
    same(&data, &exchange(stream, &data).await?)
}

#[tokio::test]
async fn fifty_concurrent_connections_carry_intact_bytes() -> Result<()> {
    let target = Target::echo().await?;
    let lines = format!("remote_forward = \"0 127.0.0.1:{}\"", target.port());
    let (_scene, tunnel) = Scene::up(&lines).await?;
    let addr = listen(&tunnel, ForwardKind::Remote)?;
    let mut all = JoinSet::new();
    for seed in 0..50 {
        all.spawn(async move {
            let data = random(seed, 200_000);
            same(&data, &exchange(tcp(addr).await?, &data).await?)
        });
    }
    while let Some(one) = all.join_next().await {
        one??;
    }
    Ok(())
}

#[tokio::test]
async fn unix_sockets_work_on_either_side() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (far, near) = (
        folder.path().join("far.sock"),
        folder.path().join("near.sock"),
    );
    let port = ports::free()?;
    let _unix_target = Target::unix(&near, Manner::Collect)?;
    let target = Target::start(Manner::Collect).await?;
    let lines = format!(
        "remote_forward = [\"{} 127.0.0.1:{}\", \"{port} {}\"]",
        far.display(),
        target.port(),
        near.display()
    );
    let (_scene, _) = Scene::up(&lines).await?;
    let data = random(21, 10 * MIB);
    same(&data, &exchange(unix(&far).await?, &data).await?)?;
    let stream = tcp(ports::local(port)).await?;
    same(&data, &exchange(stream, &data).await?)
}

#[tokio::test]
async fn ipv6_works_on_both_sides() -> Result<()> {
    let target = Target::at("[::1]:0", Manner::Collect).await?;
    let lines = format!("remote_forward = \"[::1]:0:[::1]:{}\"", target.port());
    let (_scene, tunnel) = Scene::up(&lines).await?;
    let addr = listen(&tunnel, ForwardKind::Remote)?;
    assert!(addr.is_ipv6(), "{addr}");
    let data = random(22, MIB);
    same(&data, &exchange(tcp(addr).await?, &data).await?)
}

#[tokio::test]
async fn a_half_close_by_either_side_keeps_the_other_direction_open() -> Result<()> {
    let first = random(23, 300_000);
    let mut source = Target::start(Manner::Source(first.clone().into())).await?;
    let collect = Target::start(Manner::Collect).await?;
    let lines = format!(
        "remote_forward = [\"0 127.0.0.1:{}\", \"0 127.0.0.1:{}\"]",
        source.port(),
        collect.port()
    );
    let (_scene, tunnel) = Scene::up(&lines).await?;
    let mut stream = tcp(listen_at(&tunnel, 0)?).await?;
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await?;
    same(&first, &got)?;
    let second = random(24, 300_000);
    stream.write_all(&second).await?;
    stream.shutdown().await?;
    same(&second, &source.next_end(LONG).await?.received)?;
    let stream = tcp(listen_at(&tunnel, 1)?).await?;
    same(&second, &exchange(stream, &second).await?)
}

#[tokio::test]
async fn a_bare_port_is_a_reverse_socks_proxy() -> Result<()> {
    let target = Target::start(Manner::Collect).await?;
    let port = ports::free()?;
    let (_scene, tunnel) = Scene::up(&format!("remote_forward = {port}")).await?;
    assert_eq!(tunnel.forwards[0].to, None);
    let data = random(25, MIB);
    for dest in [
        socks::Dest::Ip(target.addr().ip()),
        socks::Dest::Name("localhost".into()),
    ] {
        let stream = socks::v5(ports::local(port), &dest, target.port()).await?;
        same(&data, &exchange(stream.expect("granted"), &data).await?)?;
        let stream = socks::v4(ports::local(port), &dest, target.port()).await?;
        same(&data, &exchange(stream.expect("granted"), &data).await?)?;
    }
    let nobody = ports::free()?;
    let dest = socks::Dest::Ip(target.addr().ip());
    let code = socks::v5(ports::local(port), &dest, nobody).await?;
    assert_eq!(code.err(), Some(5));
    Ok(())
}

#[tokio::test]
async fn a_refusing_target_fails_only_its_own_connection() -> Result<()> {
    let target = Target::echo().await?;
    let nobody = ports::free()?;
    let lines = format!(
        "remote_forward = [\"0 127.0.0.1:{}\", \"0 127.0.0.1:{nobody}\"]",
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
    Ok(())
}

#[tokio::test]
async fn a_busy_port_is_reported_and_bound_when_free_in_the_same_session() -> Result<()> {
    let target = Target::echo().await?;
    let port = ports::free()?;
    // sshd is content with one of its localhost's addresses.
    let squatter = (
        tokio::net::TcpListener::bind(("127.0.0.1", port)).await?,
        tokio::net::TcpListener::bind(("::1", port)).await,
    );
    let lines = format!(
        "local_forward = \"0 127.0.0.1:{to}\"\nremote_forward = \"{port} 127.0.0.1:{to}\"",
        to = target.port()
    );
    let scene = Scene::begun(Sshd::start().await?, &lines).await?;
    let failed = |tunnel: &TunnelStatus| {
        let mut remote = tunnel.forwards.iter();
        let remote = remote.find(|forward| forward.kind == ForwardKind::Remote);
        tunnel.state == State::Degraded
            && remote.is_some_and(|forward| forward.state == ForwardState::Failed)
    };
    let tunnel = scene.daemon.wait_for("t", LONG, failed).await?;
    let mut remote = tunnel.forwards.iter();
    let remote = remote.find(|forward| forward.kind == ForwardKind::Remote);
    let error = remote.and_then(|forward| forward.error.clone());
    assert_eq!(
        error.expect("an error").kind.as_str(),
        "remote_forward_refused"
    );
    let mut neighbour = tcp(listen(&tunnel, ForwardKind::Local)?).await?;
    payload::ping(&mut neighbour, b"the other one works").await?;
    drop(squatter);
    let up = scene.daemon.wait_up("t").await?;
    assert_eq!(session_since(&up), session_since(&tunnel));
    payload::ping(&mut neighbour, b"still").await?;
    payload::ping(&mut tcp(ports::local(port)).await?, b"now too").await
}

#[tokio::test]
async fn exit_on_forward_failure_ends_the_session_and_retries() -> Result<()> {
    let server = Sshd::with(Setup {
        key_options: "permitlisten=\"127.0.0.1:1\"".into(),
        ..Setup::default()
    })
    .await?;
    let lines = "exit_on_forward_failure = true\nremote_forward = \"0 127.0.0.1:9\"";
    let scene = Scene::begun(server, lines).await?;
    let waiting = |tunnel: &TunnelStatus| {
        let kind = tunnel.last_error.as_ref().map(|error| error.kind.as_str());
        tunnel.state == State::Waiting && kind == Some("forward")
    };
    let mut watch = scene.daemon.watch().await?;
    let first = watch.until("t", LONG, waiting).await?;
    assert!(first.retry_at.is_some());
    let again = |tunnel: &TunnelStatus| waiting(tunnel) && tunnel.attempt > first.attempt;
    watch.until("t", LONG, again).await?;
    let said = scene.home.ctl(&["up", "t"]).await?.expect(1)?;
    assert!(
        said.stderr.contains("refused the remote forward"),
        "{said:?}"
    );
    Ok(())
}

#[tokio::test]
async fn without_exit_on_forward_failure_other_forwards_work_and_up_reports_the_failure()
-> Result<()> {
    let server = Sshd::with(Setup {
        key_options: "permitlisten=\"127.0.0.1:1\"".into(),
        ..Setup::default()
    })
    .await?;
    let target = Target::echo().await?;
    let lines = format!(
        "local_forward = \"0 127.0.0.1:{}\"\nremote_forward = \"0 127.0.0.1:9\"",
        target.port()
    );
    let scene = Scene::begun(server, &lines).await?;
    let degraded = |tunnel: &TunnelStatus| tunnel.state == State::Degraded;
    let tunnel = scene.daemon.wait_for("t", LONG, degraded).await?;
    let mut stream = tcp(listen(&tunnel, ForwardKind::Local)?).await?;
    payload::ping(&mut stream, b"works").await?;
    let said = scene.home.ctl(&["up", "t"]).await?.expect(0)?;
    assert!(
        said.stderr.contains("refused the remote forward"),
        "{said:?}"
    );
    Ok(())
}

#[tokio::test]
async fn remote_forwards_are_restored_in_a_new_session() -> Result<()> {
    let target = Target::echo().await?;
    let lines = format!("remote_forward = \"0 127.0.0.1:{}\"", target.port());
    let (scene, before) = Scene::up(&lines).await?;
    scene.server.kill_sessions()?;
    let after = scene.daemon.wait_for("t", LONG, renewed(&before)).await?;
    let mut stream = tcp(listen(&after, ForwardKind::Remote)?).await?;
    payload::ping(&mut stream, b"back").await
}
