//! Faults of the link and the server: they are noticed in time, corrupt no data, affect no other tunnel and leak nothing.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;
use tunneld_proto::status::{ForwardKind, State, TunnelStatus};
use tunneld_tests::asyncssh::Asyncssh;
use tunneld_tests::daemon::{Daemon, listen_addr};
use tunneld_tests::faulty_link::FaultyLink;
use tunneld_tests::home::Home;
use tunneld_tests::payload::{self, MIB, exchange, random, same};
use tunneld_tests::sshd::{Sshd, SshdOptions};
use tunneld_tests::target::{Target, TargetBehavior};
use tunneld_tests::wait::{LONG, within};

use crate::fixture::{
    Fixture, error_kind, is_up, is_waiting, local_forward_to, reconnected_since, secs,
    session_since, stable_open_files, tcp, was_reset,
};
use crate::forward_checks::concurrent_exchanges;

#[tokio::test]
async fn a_reset_connection_is_reestablished() -> Result<()> {
    let target = Target::echo().await?;
    let (fixture, link, before) = Fixture::up_over_link(&local_forward_to(&target)).await?;
    let addr = listen_addr(&before, ForwardKind::Local)?;
    let mut live = tcp(addr).await?;
    payload::ping(&mut live, b"hello").await?;
    link.reset_all();
    assert!(was_reset(within(LONG, "the reset", live.read_u8()).await?));
    fixture
        .daemon
        .wait_for("t", LONG, reconnected_since(&before))
        .await?;
    payload::ping(&mut tcp(addr).await?, b"back").await
}

#[tokio::test]
async fn a_tunnel_over_another_reconnects_as_soon_as_the_other_is_up() -> Result<()> {
    let server = Sshd::start().await?;
    let mut link = FaultyLink::to(server.addr()).await?;
    let carrier = server.tunnel_toml_at("carrier", link.port())?;
    let carried = server.tunnel_toml("carried")?;
    // An hour of backoff: only the event that the carrier is up can bring the second tunnel back in time.
    let slow = "proxy_jump = \"tunnel:carrier\"\nbackoff = { initial = \"1h\", max = \"1h\" }\n";
    let home = Home::new()?;
    home.write("t.toml", &format!("{carrier}{carried}{slow}"))?;
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    watch
        .until_all(&["carrier", "carried"], LONG, is_up)
        .await?;
    link.refuse_new().await?;
    link.reset_all();
    watch.until("carried", LONG, is_waiting).await?;
    link.accept_new().await?;
    watch
        .until_all(&["carrier", "carried"], LONG, is_up)
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_frozen_server_is_given_up_after_interval_times_count() -> Result<()> {
    let target = Target::echo().await?;
    let lines = format!("hold = 0\n{}", local_forward_to(&target));
    let (fixture, link, before) = Fixture::up_over_link(&lines).await?;
    let addr = listen_addr(&before, ForwardKind::Local)?;
    let mut live = tcp(addr).await?;
    payload::ping(&mut live, b"hello").await?;
    let mut watch = fixture.daemon.watch().await?;
    link.freeze();
    let frozen = Instant::now();
    let dead = |tunnel: &TunnelStatus| tunnel.state != State::Up;
    let tunnel = watch.until("t", secs(12), dead).await?;
    let noticed_after = frozen.elapsed();
    // 2 s times 3, counted from the last byte that was received before the freeze.
    assert!(
        noticed_after >= secs(5) && noticed_after <= Duration::from_millis(7600),
        "{noticed_after:?}"
    );
    assert_eq!(error_kind(&tunnel), Some("dead_peer"));
    assert!(was_reset(within(LONG, "the reset", live.read_u8()).await?));
    link.thaw();
    fixture
        .daemon
        .wait_for("t", LONG, reconnected_since(&before))
        .await?;
    payload::ping(&mut tcp(addr).await?, b"back").await
}

#[tokio::test]
async fn a_frozen_server_is_given_up_as_soon_under_blocked_uploads() -> Result<()> {
    let mut target = Target::start(TargetBehavior::NeverRead).await?;
    let (fixture, before) = Fixture::up(&local_forward_to(&target)).await?;
    let addr = listen_addr(&before, ForwardKind::Local)?;
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
    let mut watch = fixture.daemon.watch().await?;
    // The target does not read, so the uploads block soon after.
    within(LONG, "bytes on every connection", async {
        while fixture.daemon.status("t").await?.forwards[0].bytes_out < 8 << 20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    })
    .await??;
    fixture.server.freeze_sessions()?;
    let frozen = Instant::now();
    let dead = |tunnel: &TunnelStatus| tunnel.state != State::Up;
    watch.until("t", secs(14), dead).await?;
    assert!(frozen.elapsed() <= secs(8), "{:?}", frozen.elapsed());
    watch.until("t", LONG, reconnected_since(&before)).await?;
    within(LONG, "every writer to end", writers.join_all()).await?;
    Ok(())
}

#[tokio::test]
async fn a_short_silence_keeps_the_session() -> Result<()> {
    let target = Target::start(TargetBehavior::EchoAtEof).await?;
    let (fixture, link, before) = Fixture::up_over_link(&local_forward_to(&target)).await?;
    let addr = listen_addr(&before, ForwardKind::Local)?;
    let data = random(40, 4 * MIB);
    let transfer = async {
        let stream = tcp(addr).await?;
        same(&data, &exchange(stream, &data).await?)
    };
    let interruption = async {
        link.freeze();
        // Half of the keepalive limit, 2 s times 3.
        tokio::time::sleep(secs(3)).await;
        link.thaw();
        anyhow::Ok(())
    };
    tokio::try_join!(transfer, interruption)?;
    let after = fixture.daemon.status("t").await?;
    assert_eq!(session_since(&after), session_since(&before));
    Ok(())
}

#[tokio::test]
async fn a_corrupt_byte_does_not_reach_the_application() -> Result<()> {
    let data = random(41, 8 * MIB);
    let target = Target::start(TargetBehavior::SendThenRead(data.clone().into())).await?;
    let (fixture, link, before) = Fixture::up_over_link(&local_forward_to(&target)).await?;
    let mut stream = tcp(listen_addr(&before, ForwardKind::Local)?).await?;
    link.flip_bit_after(2 << 20);
    let mut received = Vec::new();
    let read = within(LONG, "the reset", stream.read_to_end(&mut received)).await?;
    assert!(
        was_reset(read),
        "a lost session must not look like an end of file"
    );
    assert!(received.len() < data.len());
    same(&data[..received.len()], &received)?;
    fixture
        .daemon
        .wait_for("t", LONG, reconnected_since(&before))
        .await?;
    Ok(())
}

#[tokio::test]
async fn rekeying_under_load_keeps_the_bytes_intact() -> Result<()> {
    // Each of the 8 streams moves 3 MiB each way, so the server rekeys many times.
    let server = Sshd::start_with_lines(&["RekeyLimit 1M"]).await?;
    let target = Target::echo().await?;
    let (fixture, before) = Fixture::up_on(server, &local_forward_to(&target)).await?;
    let addr = listen_addr(&before, ForwardKind::Local)?;
    concurrent_exchanges(addr, 8, 3 * MIB).await?;
    let after = fixture.daemon.status("t").await?;
    assert_eq!(session_since(&after), session_since(&before));
    let rekeys = fixture
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
        let text = format!(
            "{}{}\n",
            server.tunnel_toml(name)?,
            local_forward_to(&target)
        );
        home.write(&format!("{name}.toml"), &text)?;
    }
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    watch.until_all(&["bad", "good"], LONG, is_up).await?;
    let before = watch.tunnels()["good"].clone();
    let mut stream = tcp(listen_addr(&before, ForwardKind::Local)?).await?;
    for _ in 0..3 {
        let bad_before = daemon.status("bad").await?;
        bad.kill_sessions()?;
        for _ in 0..20 {
            let began = Instant::now();
            payload::ping(&mut stream, b"undisturbed").await?;
            assert!(began.elapsed() < secs(1), "{:?}", began.elapsed());
        }
        watch
            .until("bad", LONG, reconnected_since(&bad_before))
            .await?;
    }
    let after = daemon.status("good").await?;
    assert_eq!(session_since(&after), session_since(&before));
    Ok(())
}

#[tokio::test]
async fn fifty_tunnels_to_one_server_stay_within_its_max_startups() -> Result<()> {
    let server = Sshd::start_with(SshdOptions {
        // sshd drops new connections at random while 10 or more are not logged in.
        config_lines: vec!["MaxStartups 10:30:100".into()],
        ..SshdOptions::default()
    })
    .await?;
    let home = Home::new()?;
    let names: Vec<String> = (0..50).map(|n| format!("t{n}")).collect();
    let text = names.iter().map(|name| server.tunnel_toml(name));
    let text = text.collect::<Result<Vec<_>>>()?.join("\n");
    home.write("many.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    watch.until_all(&names, secs(60), is_up).await?;
    let dropped = server.log()?.count_after(0, "drop connection");
    assert_eq!(dropped, 0, "the server dropped connections");
    Ok(())
}

#[tokio::test]
async fn file_descriptors_do_not_leak_over_reconnects() -> Result<()> {
    let target = Target::echo().await?;
    let (fixture, mut before) = Fixture::up(&local_forward_to(&target)).await?;
    let addr = listen_addr(&before, ForwardKind::Local)?;
    let pid = fixture.daemon.process().pid();
    let mut baseline = None;
    for round in 0..12 {
        let mut stream = tcp(addr).await?;
        payload::ping(&mut stream, b"hello").await?;
        drop(stream);
        fixture.server.signal_sessions(Signal::KILL);
        before = fixture
            .daemon
            .wait_for("t", LONG, reconnected_since(&before))
            .await?;
        let idle = |tunnel: &TunnelStatus| tunnel.forwards[0].connections == 0;
        fixture.daemon.wait_for("t", LONG, idle).await?;
        // After three rounds of warm-up.
        if round == 2 {
            baseline = Some(stable_open_files(pid).await?);
        }
    }
    let files = stable_open_files(pid).await?;
    assert!(
        files <= baseline.expect("a baseline"),
        "{files} files, {baseline:?} before"
    );
    Ok(())
}

/// A channel that the client has not asked for is refused and counted, and the tunnel stays up.
#[tokio::test]
async fn unrequested_channels_are_counted_in_the_status() -> Result<()> {
    let server = Asyncssh::start(1 << 30).await?;
    let target = Target::start(TargetBehavior::EchoAtEof).await?;
    let home = Home::new()?;
    let lines = server.tunnel_toml("t")?.replace("lab@", "intruder@");
    let forward = local_forward_to(&target) + "\n";
    home.write("t.toml", &(lines + &forward))?;
    let daemon = Daemon::start(&home).await?;
    let tunnel = daemon.wait_up("t").await?;
    // The server opens its channels right after the login, so they precede this exchange.
    let data = random(94, 1000);
    let local = tcp(listen_addr(&tunnel, ForwardKind::Local)?).await?;
    same(&data, &exchange(local, &data).await?)?;
    let tunnel = daemon.status("t").await?;
    assert_eq!(tunnel.session.context("a session")?.offences, 3);
    let output = home.ctl(&["status", "t"]).await?.expect_exit(0)?;
    let text = &output.stdout;
    assert!(text.contains("violations  3: the server"), "{text}");
    Ok(())
}
