//! Faults of the line and the server, under load: noticed in time, nothing corrupt, no neighbour touched, nothing leaked.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;
use tunneld_proto::status::{ForwardKind, State, TunnelStatus};
use tunneld_tests::asyncssh::Asyncssh;
use tunneld_tests::daemon::{Daemon, listen};
use tunneld_tests::faulty_link::Link;
use tunneld_tests::home::Home;
use tunneld_tests::payload::{self, MIB, exchange, random, same};
use tunneld_tests::sshd::{Setup, Sshd};
use tunneld_tests::target::{Manner, Target};
use tunneld_tests::wait::{LONG, within};

use crate::fixture::{Scene, renewed, secs, session_since, settled_files, tcp, was_reset};

fn forward(target: &Target) -> String {
    format!("local_forward = \"0 127.0.0.1:{}\"", target.port())
}

fn kind(tunnel: &TunnelStatus) -> Option<&str> {
    tunnel.last_error.as_ref().map(|error| error.kind.as_str())
}

#[tokio::test]
async fn a_reset_connection_is_reestablished() -> Result<()> {
    let target = Target::echo().await?;
    let (scene, link, before) = Scene::linked(&forward(&target)).await?;
    let addr = listen(&before, ForwardKind::Local)?;
    let mut live = tcp(addr).await?;
    payload::ping(&mut live, b"hello").await?;
    link.reset();
    assert!(was_reset(within(LONG, "the reset", live.read_u8()).await?));
    scene.daemon.wait_for("t", LONG, renewed(&before)).await?;
    payload::ping(&mut tcp(addr).await?, b"back").await
}

#[tokio::test]
async fn a_tunnel_over_another_reconnects_as_soon_as_the_other_is_up() -> Result<()> {
    let server = Sshd::start().await?;
    let mut link = Link::to(server.addr()).await?;
    let carrier = server.tunnel_at("carrier", link.port())?;
    let carried = server.tunnel("carried")?;
    let slow = "proxy_jump = \"tunnel:carrier\"\nbackoff = { initial = \"1h\", max = \"1h\" }\n";
    let home = Home::new()?;
    home.write("t.toml", &format!("{carrier}{carried}{slow}"))?;
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    let up = |tunnel: &TunnelStatus| tunnel.state == State::Up;
    watch.until_all(&["carrier", "carried"], LONG, up).await?;
    link.refuse().await?;
    link.reset();
    let waits = |tunnel: &TunnelStatus| tunnel.state == State::Waiting;
    watch.until("carried", LONG, waits).await?;
    link.accept().await?;
    watch.until_all(&["carrier", "carried"], LONG, up).await?;
    Ok(())
}

#[tokio::test]
async fn a_frozen_server_is_given_up_after_interval_times_count() -> Result<()> {
    let target = Target::echo().await?;
    let lines = format!("hold = 0\n{}", forward(&target));
    let (scene, link, before) = Scene::linked(&lines).await?;
    let addr = listen(&before, ForwardKind::Local)?;
    let mut live = tcp(addr).await?;
    payload::ping(&mut live, b"hello").await?;
    let mut watch = scene.daemon.watch().await?;
    link.freeze();
    let frozen = Instant::now();
    let dead = |tunnel: &TunnelStatus| tunnel.state != State::Up;
    let tunnel = watch.until("t", secs(12), dead).await?;
    let noticed = frozen.elapsed();
    // 2 s x 3, the last byte up to a keepalive's round trip before the freeze.
    assert!(
        noticed >= secs(5) && noticed <= Duration::from_millis(7600),
        "{noticed:?}"
    );
    assert_eq!(kind(&tunnel), Some("dead_peer"));
    assert!(was_reset(within(LONG, "the reset", live.read_u8()).await?));
    link.thaw();
    scene.daemon.wait_for("t", LONG, renewed(&before)).await?;
    payload::ping(&mut tcp(addr).await?, b"back").await
}

#[tokio::test]
async fn a_frozen_server_is_given_up_as_soon_under_blocked_uploads() -> Result<()> {
    let mut target = Target::start(Manner::Silent).await?;
    let (scene, before) = Scene::up(&forward(&target)).await?;
    let addr = listen(&before, ForwardKind::Local)?;
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut stream = tcp(addr).await?;
        writers.spawn(async move {
            let data = vec![7; MIB];
            while tokio::io::AsyncWriteExt::write_all(&mut stream, &data)
                .await
                .is_ok()
            {}
        });
    }
    target.wait_accepted(8, LONG).await?;
    let mut watch = scene.daemon.watch().await?;
    within(LONG, "bytes on every connection", async {
        while scene.daemon.status("t").await?.forwards[0].bytes_out < 8 << 20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    })
    .await??;
    scene.server.freeze_sessions()?;
    let frozen = Instant::now();
    let dead = |tunnel: &TunnelStatus| tunnel.state != State::Up;
    watch.until("t", secs(14), dead).await?;
    assert!(frozen.elapsed() <= secs(8), "{:?}", frozen.elapsed());
    watch.until("t", LONG, renewed(&before)).await?;
    within(LONG, "every writer to end", writers.join_all()).await?;
    Ok(())
}

#[tokio::test]
async fn a_short_silence_keeps_the_session() -> Result<()> {
    let target = Target::start(Manner::Collect).await?;
    let (scene, link, before) = Scene::linked(&forward(&target)).await?;
    let addr = listen(&before, ForwardKind::Local)?;
    let data = random(40, 4 * MIB);
    let transfer = async {
        let stream = tcp(addr).await?;
        same(&data, &exchange(stream, &data).await?)
    };
    let blip = async {
        link.freeze();
        tokio::time::sleep(secs(3)).await;
        link.thaw();
        anyhow::Ok(())
    };
    tokio::try_join!(transfer, blip)?;
    let after = scene.daemon.status("t").await?;
    assert_eq!(session_since(&after), session_since(&before));
    Ok(())
}

#[tokio::test]
async fn a_corrupt_byte_does_not_reach_the_application() -> Result<()> {
    let data = random(41, 8 * MIB);
    let target = Target::start(Manner::Source(data.clone().into())).await?;
    let (scene, link, before) = Scene::linked(&forward(&target)).await?;
    let mut stream = tcp(listen(&before, ForwardKind::Local)?).await?;
    link.flip_after(2 << 20);
    let mut got = Vec::new();
    let read = within(LONG, "the end", stream.read_to_end(&mut got)).await?;
    assert!(was_reset(read), "a broken session is no end of file");
    assert!(got.len() < data.len());
    same(&data[..got.len()], &got)?;
    scene.daemon.wait_for("t", LONG, renewed(&before)).await?;
    Ok(())
}

#[tokio::test]
async fn rekeying_under_load_keeps_the_bytes_intact() -> Result<()> {
    let server = Sshd::with_lines(&["RekeyLimit 1M"]).await?;
    let target = Target::echo().await?;
    let (scene, before) = Scene::on(server, &forward(&target)).await?;
    let addr = listen(&before, ForwardKind::Local)?;
    let mut all = tokio::task::JoinSet::new();
    for seed in 0..8 {
        all.spawn(async move {
            let data = random(seed, 3 * MIB);
            same(&data, &exchange(tcp(addr).await?, &data).await?)
        });
    }
    while let Some(one) = all.join_next().await {
        one??;
    }
    let after = scene.daemon.status("t").await?;
    assert_eq!(session_since(&after), session_since(&before));
    let rekeys = scene
        .server
        .log()?
        .count_after(0, "SSH2_MSG_KEXINIT received");
    assert!(rekeys > 5, "only {rekeys} key exchanges");
    Ok(())
}

#[tokio::test]
async fn a_failing_tunnel_does_not_disturb_another() -> Result<()> {
    let target = Target::echo().await?;
    let (bad, good) = (Sshd::start().await?, Sshd::start().await?);
    let home = Home::new()?;
    for (name, server) in [("bad", &bad), ("good", &good)] {
        let text = format!("{}{}\n", server.tunnel(name)?, forward(&target));
        home.write(&format!("{name}.toml"), &text)?;
    }
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    watch
        .until_all(&["bad", "good"], LONG, |tunnel| tunnel.state == State::Up)
        .await?;
    let before = watch.tunnels()["good"].clone();
    let mut stream = tcp(listen(&before, ForwardKind::Local)?).await?;
    for _ in 0..3 {
        let bad_before = daemon.status("bad").await?;
        bad.kill_sessions()?;
        for _ in 0..20 {
            let began = Instant::now();
            payload::ping(&mut stream, b"undisturbed").await?;
            assert!(began.elapsed() < secs(1), "{:?}", began.elapsed());
        }
        watch.until("bad", LONG, renewed(&bad_before)).await?;
    }
    let after = daemon.status("good").await?;
    assert_eq!(session_since(&after), session_since(&before));
    Ok(())
}

#[tokio::test]
async fn fifty_tunnels_to_one_server_stay_within_its_max_startups() -> Result<()> {
    let server = Sshd::with(Setup {
        lines: vec!["MaxStartups 10:30:100".into()],
        ..Setup::default()
    })
    .await?;
    let home = Home::new()?;
    let names: Vec<String> = (0..50).map(|n| format!("t{n}")).collect();
    let text = names.iter().map(|name| server.tunnel(name));
    let text = text.collect::<Result<Vec<_>>>()?.join("\n");
    home.write("many.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let up = |tunnel: &TunnelStatus| tunnel.state == State::Up;
    watch.until_all(&names, secs(60), up).await?;
    let dropped = server.log()?.count_after(0, "drop connection");
    assert_eq!(dropped, 0, "the server dropped connections");
    Ok(())
}

#[tokio::test]
async fn file_descriptors_do_not_leak_over_reconnects() -> Result<()> {
    let target = Target::echo().await?;
    let (scene, mut before) = Scene::up(&forward(&target)).await?;
    let addr = listen(&before, ForwardKind::Local)?;
    let pid = scene.daemon.process().pid();
    let mut baseline = None;
    for round in 0..12 {
        let mut stream = tcp(addr).await?;
        payload::ping(&mut stream, b"hello").await?;
        drop(stream);
        scene.server.signal_sessions(Signal::KILL);
        before = scene.daemon.wait_for("t", LONG, renewed(&before)).await?;
        let idle = |tunnel: &TunnelStatus| tunnel.forwards[0].connections == 0;
        scene.daemon.wait_for("t", LONG, idle).await?;
        if round == 2 {
            baseline = Some(settled_files(pid).await?);
        }
    }
    let files = settled_files(pid).await?;
    assert!(
        files <= baseline.expect("a baseline"),
        "{files} files, {baseline:?} before"
    );
    Ok(())
}

/// What a server tries is refused, counted, and told; the tunnel goes on.
#[tokio::test]
async fn unrequested_channels_are_counted_in_the_status() -> Result<()> {
    let server = Asyncssh::start(1 << 30).await?;
    let target = Target::start(Manner::Collect).await?;
    let home = Home::new()?;
    let lines = server.tunnel("t")?.replace("lab@", "intruder@");
    let forward = format!("local_forward = \"0 127.0.0.1:{}\"\n", target.port());
    home.write("t.toml", &(lines + &forward))?;
    let daemon = Daemon::start(&home).await?;
    let tunnel = daemon.wait_up("t").await?;
    // Its channels came before the answer to this one.
    let data = random(94, 1000);
    let local = tcp(listen(&tunnel, ForwardKind::Local)?).await?;
    same(&data, &exchange(local, &data).await?)?;
    let tunnel = daemon.status("t").await?;
    assert_eq!(tunnel.session.context("a session")?.offences, 3);
    let told = home.ctl(&["status", "t"]).await?.expect(0)?;
    let text = &told.stdout;
    assert!(text.contains("offences    3: the server"), "{text}");
    Ok(())
}
