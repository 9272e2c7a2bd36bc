//! The line itself: silent, down, with another address, slow and lossy; and a machine that sleeps.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tunneld_proto::status::{State, TunnelStatus};
use tunneld_tests::payload::{self, random, same};
use tunneld_tests::process::Process;
use tunneld_tests::two_hosts::{CABLE, FAR, NEAR};
use tunneld_tests::wait::{LONG, within};

use super::{Field, NEVER, SHORT};
use crate::fixture::{secs, session_since, was_reset};

#[tokio::test]
async fn dropped_packets_beyond_the_keepalive_limit_end_the_session_until_they_pass() -> Result<()>
{
    let Some((field, before)) = Field::up(SHORT).await? else {
        return Ok(());
    };
    let mut live = field.connect_tcp(&before)?;
    payload::ping(&mut live, b"before").await?;
    field.net.black_hole().await?;
    let (took, kind) = field.lost(secs(10)).await?;
    assert_eq!(kind, "dead_peer");
    assert!(took >= secs(1) && took < secs(6), "{took:?}");
    let ended = within(LONG, "an end", live.read_u8()).await?;
    assert!(was_reset(ended), "a dead session is no end of file");
    // Until an attempt has been in vain.
    let tried = |tunnel: &TunnelStatus| {
        tunnel
            .last_error
            .as_ref()
            .is_some_and(|error| error.kind.as_str() != "dead_peer")
    };
    let tunnel = field.daemon.wait_for("t", secs(15), tried).await?;
    assert_eq!(
        tunnel.last_error.context("an error")?.kind.as_str(),
        "timeout"
    );
    field.net.heal().await?;
    field.back(&before, secs(10)).await
}

#[tokio::test]
async fn an_interface_that_comes_up_is_used_at_once() -> Result<()> {
    // Without the event the next attempt would be a minute away.
    let lines = format!("{SHORT}backoff = {{ initial = \"1m\", max = \"2m\" }}\n");
    let Some((field, before)) = Field::up(&lines).await? else {
        return Ok(());
    };
    field.net.near(&format!("ip link set {CABLE} down")).await?;
    field.lost(secs(10)).await?;
    let waits = |tunnel: &TunnelStatus| tunnel.retry_at.is_some();
    field.daemon.wait_for("t", secs(15), waits).await?;
    field.net.near(&format!("ip link set {CABLE} up")).await?;
    field.back(&before, secs(10)).await
}

#[tokio::test]
async fn a_session_whose_local_address_is_removed_ends_at_once() -> Result<()> {
    // Neither keepalives nor the next attempt come in time; the events must do.
    let lines = format!("{NEVER}backoff = {{ initial = \"1m\", max = \"2m\" }}\n");
    let Some((field, before)) = Field::up(&lines).await? else {
        return Ok(());
    };
    let mut live = field.connect_tcp(&before)?;
    payload::ping(&mut live, b"before").await?;
    field
        .net
        .near(&format!("ip addr del {NEAR}/24 dev {CABLE}"))
        .await?;
    assert!(was_reset(
        within(secs(10), "the reset", live.read_u8()).await?
    ));
    field
        .net
        .near(&format!("ip addr add 10.213.7.3/24 dev {CABLE}"))
        .await?;
    field.back(&before, secs(10)).await
}

#[tokio::test]
async fn a_session_over_a_link_local_address_survives_changes_of_other_addresses() -> Result<()> {
    let Some((field, before)) = Field::up(NEVER).await? else {
        return Ok(());
    };
    let usable = async {
        loop {
            let line = "ip -6 -o addr show dev far0 scope link -tentative";
            let found = field.net.far(line).await?;
            if let Some(address) = found.split_whitespace().nth(3) {
                return anyhow::Ok(address.trim_end_matches("/64").to_owned());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let far = within(LONG, "a link-local address", usable).await??;
    let port = field.server.port();
    let words = field.net.on_far();
    let (program, rest) = words.split_first().context("a command")?;
    let mut relay = Command::new(program);
    relay.args(rest).args(["socat", "-d", "-d"]).args([
        format!("TCP6-LISTEN:{port},ipv6only,fork"),
        format!("TCP:{FAR}:{port}"),
    ]);
    let relay = Process::start("socat", relay)?;
    relay.log().wait("listening on", LONG).await?;
    let there = format!("[{far}%{CABLE}]:{port}");
    let file = field.home.config_dir().join("t.toml");
    let text = std::fs::read_to_string(file)?;
    let text = text.replacen(&format!("@{FAR}:{port}\""), &format!("@{there}\""), 1);
    let known = format!("strict_host_key_checking = \"accept-new\"\n{NEVER}");
    field
        .home
        .write("t.toml", &text.replacen(NEVER, &known, 1))?;
    let over = |tunnel: &TunnelStatus| {
        tunnel.state == State::Up && session_since(tunnel) != session_since(&before)
    };
    let tunnel = field.daemon.wait_for("t", LONG, over).await?;
    let debug = json!({ "filter": "debug" });
    field.daemon.call("log.set_level", debug).await?;
    field
        .net
        .near(&format!("ip addr add 10.213.8.1/24 dev {CABLE}"))
        .await?;
    let log = field.daemon.log();
    log.wait("the network addresses changed", LONG).await?;
    field.kept(&tunnel).await
}

#[tokio::test]
async fn a_slow_link_that_loses_packets_keeps_the_session() -> Result<()> {
    let Some((field, before)) = Field::up(SHORT).await? else {
        return Ok(());
    };
    let slow = "root tbf rate 1mbit burst 8kb latency 200ms";
    field
        .net
        .near(&format!("tc qdisc add dev {CABLE} {slow}"))
        .await?;
    field
        .net
        .far(&format!("tc qdisc add dev far0 {slow}"))
        .await?;
    field
        .net
        .drop_what("iifname != lo numgen random mod 100 < 3")
        .await?;
    let data = random(98, 400_000);
    let mut stream = field.connect().await?;
    let (mut reader, mut writer) = stream.split();
    let mut got = vec![0; data.len()];
    let both = async {
        tokio::try_join!(
            tokio::io::AsyncWriteExt::write_all(&mut writer, &data),
            reader.read_exact(&mut got)
        )
    };
    within(secs(60), "400 kB each way", both).await??;
    same(&data, &got)?;
    drop(stream);
    field.kept(&before).await?;
    // What is dead is noticed all the same.
    field.net.black_hole().await?;
    let (_, kind) = field.lost(secs(10)).await?;
    assert_eq!(kind, "dead_peer");
    field.unharmed().await
}

#[tokio::test]
async fn a_wake_from_sleep_checks_the_sessions() -> Result<()> {
    let Some((field, before)) = Field::up(NEVER).await? else {
        return Ok(());
    };
    let process = field.daemon.process();
    // Asleep for longer than a busy machine would keep a process waiting.
    process.signal(Signal::STOP)?;
    tokio::time::sleep(secs(6)).await;
    process.signal(Signal::CONT)?;
    field.daemon.log().wait("slept for", LONG).await?;
    field.kept(&before).await?;

    let port = field.port().await?;
    process.signal(Signal::STOP)?;
    field.net.forget_flow(port).await?;
    tokio::time::sleep(secs(6)).await;
    process.signal(Signal::CONT)?;
    let new = crate::fixture::renewed(&before);
    field.daemon.wait_for("t", secs(12), new).await?;
    field.echo().await
}
