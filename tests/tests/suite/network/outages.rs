//! The link between the hosts: silent, down, with another address, slow and lossy; and a machine that sleeps.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tunneld_proto::status::TunnelStatus;
use tunneld_tests::payload::{self, random, same};
use tunneld_tests::process::{Process, command_with_prefix};
use tunneld_tests::two_hosts::{CLIENT_INTERFACE, CLIENT_IP, SERVER_INTERFACE, SERVER_IP};
use tunneld_tests::wait::{LONG, within};

use super::{NEVER, NetworkFixture, SHORT};
use crate::fixture::{in_new_session, secs, was_reset};

#[tokio::test]
async fn dropped_packets_beyond_the_keepalive_limit_end_the_session_until_they_pass() -> Result<()>
{
    let Some((fixture, before)) = NetworkFixture::up(SHORT).await? else {
        return Ok(());
    };
    let mut live = fixture.connect_tcp(&before)?;
    payload::ping(&mut live, b"before").await?;
    fixture.hosts.drop_all_packets().await?;
    let (took, kind) = fixture.wait_lost(secs(10)).await?;
    assert_eq!(kind, "dead_peer");
    assert!(took >= secs(1) && took < secs(6), "{took:?}");
    let read = within(LONG, "the reset", live.read_u8()).await?;
    assert!(
        was_reset(read),
        "a lost session must not look like an end of file"
    );
    // Until an attempt to reconnect has failed.
    let attempt_failed = |tunnel: &TunnelStatus| {
        tunnel
            .last_error
            .as_ref()
            .is_some_and(|error| error.kind.as_str() != "dead_peer")
    };
    let tunnel = fixture
        .daemon
        .wait_for("t", secs(15), attempt_failed)
        .await?;
    assert_eq!(
        tunnel.last_error.context("an error")?.kind.as_str(),
        "timeout"
    );
    fixture.hosts.stop_dropping().await?;
    fixture.check_reconnected(&before, secs(10)).await
}

#[tokio::test]
async fn an_interface_that_comes_up_is_used_at_once() -> Result<()> {
    // Without the network event the next attempt would be a minute away.
    let lines = format!("{SHORT}backoff = {{ initial = \"1m\", max = \"2m\" }}\n");
    let Some((fixture, before)) = NetworkFixture::up(&lines).await? else {
        return Ok(());
    };
    fixture
        .hosts
        .run_on_client(&format!("ip link set {CLIENT_INTERFACE} down"))
        .await?;
    fixture.wait_lost(secs(10)).await?;
    let waits = |tunnel: &TunnelStatus| tunnel.retry_at.is_some();
    fixture.daemon.wait_for("t", secs(15), waits).await?;
    fixture
        .hosts
        .run_on_client(&format!("ip link set {CLIENT_INTERFACE} up"))
        .await?;
    fixture.check_reconnected(&before, secs(10)).await
}

#[tokio::test]
async fn a_session_whose_local_address_is_removed_ends_at_once() -> Result<()> {
    // Neither the keepalives nor the next attempt are in time, only the network event.
    let lines = format!("{NEVER}backoff = {{ initial = \"1m\", max = \"2m\" }}\n");
    let Some((fixture, before)) = NetworkFixture::up(&lines).await? else {
        return Ok(());
    };
    let mut live = fixture.connect_tcp(&before)?;
    payload::ping(&mut live, b"before").await?;
    fixture
        .hosts
        .run_on_client(&format!(
            "ip addr del {CLIENT_IP}/24 dev {CLIENT_INTERFACE}"
        ))
        .await?;
    assert!(was_reset(
        within(secs(10), "the reset", live.read_u8()).await?
    ));
    fixture
        .hosts
        .run_on_client(&format!("ip addr add 10.213.7.3/24 dev {CLIENT_INTERFACE}"))
        .await?;
    fixture.check_reconnected(&before, secs(10)).await
}

#[tokio::test]
async fn a_session_over_a_link_local_address_survives_changes_of_other_addresses() -> Result<()> {
    let Some((fixture, before)) = NetworkFixture::up(NEVER).await? else {
        return Ok(());
    };
    // An address is usable when it is no longer tentative: duplicate address detection takes a second or two.
    let usable = async {
        loop {
            let line = format!("ip -6 -o addr show dev {SERVER_INTERFACE} scope link -tentative");
            let found = fixture.hosts.run_on_server(&line).await?;
            if let Some(address) = found.split_whitespace().nth(3) {
                return anyhow::Ok(address.trim_end_matches("/64").to_owned());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let link_local = within(LONG, "a link-local address", usable).await??;
    let port = fixture.server.port();
    // sshd listens on IPv4 only; socat relays from the link-local address.
    let mut relay = command_with_prefix(&fixture.hosts.server_prefix(), "socat");
    relay.args(["-d", "-d"]).args([
        format!("TCP6-LISTEN:{port},ipv6only,fork"),
        format!("TCP:{SERVER_IP}:{port}"),
    ]);
    let relay = Process::start("socat", relay)?;
    relay.log().wait("listening on", LONG).await?;
    let host = format!("[{link_local}%{CLIENT_INTERFACE}]:{port}");
    let file = fixture.home.config_dir().join("t.toml");
    let text = std::fs::read_to_string(file)?;
    let text = text.replacen(&format!("@{SERVER_IP}:{port}\""), &format!("@{host}\""), 1);
    let accept_new = format!("strict_host_key_checking = \"accept-new\"\n{NEVER}");
    fixture
        .home
        .write("t.toml", &text.replacen(NEVER, &accept_new, 1))?;
    let reconnected = in_new_session(&before);
    let tunnel = fixture.daemon.wait_for("t", LONG, reconnected).await?;
    let debug = json!({ "filter": "debug" });
    fixture.daemon.call("log.set_level", debug).await?;
    fixture
        .hosts
        .run_on_client(&format!("ip addr add 10.213.8.1/24 dev {CLIENT_INTERFACE}"))
        .await?;
    let log = fixture.daemon.log();
    log.wait("the network addresses changed", LONG).await?;
    fixture.check_same_session(&tunnel).await
}

#[tokio::test]
async fn a_slow_link_that_loses_packets_keeps_the_session() -> Result<()> {
    let Some((fixture, before)) = NetworkFixture::up(SHORT).await? else {
        return Ok(());
    };
    // 1 Mbit/s with a queue of 200 ms, and 3 of 100 packets lost.
    let slow = "root tbf rate 1mbit burst 8kb latency 200ms";
    fixture
        .hosts
        .run_on_client(&format!("tc qdisc add dev {CLIENT_INTERFACE} {slow}"))
        .await?;
    fixture
        .hosts
        .run_on_server(&format!("tc qdisc add dev {SERVER_INTERFACE} {slow}"))
        .await?;
    fixture
        .hosts
        .drop_matching("iifname != lo numgen random mod 100 < 3")
        .await?;
    let data = random(98, 400_000);
    let mut stream = fixture.connect().await?;
    let (mut reader, mut writer) = stream.split();
    let mut received = vec![0; data.len()];
    let both = async {
        tokio::try_join!(
            tokio::io::AsyncWriteExt::write_all(&mut writer, &data),
            reader.read_exact(&mut received)
        )
    };
    within(secs(60), "400 kB each way", both).await??;
    same(&data, &received)?;
    drop(stream);
    fixture.check_same_session(&before).await?;
    // A real outage on the same slow link is still noticed.
    fixture.hosts.drop_all_packets().await?;
    let (_, kind) = fixture.wait_lost(secs(10)).await?;
    assert_eq!(kind, "dead_peer");
    fixture.check_unaffected().await
}

#[tokio::test]
async fn a_wake_from_sleep_checks_the_sessions() -> Result<()> {
    let Some((fixture, before)) = NetworkFixture::up(NEVER).await? else {
        return Ok(());
    };
    let process = fixture.daemon.process();
    // SIGSTOP imitates sleep. It lasts longer than a busy machine delays a process, which must not count as sleep.
    process.signal(Signal::STOP)?;
    tokio::time::sleep(secs(6)).await;
    process.signal(Signal::CONT)?;
    fixture.daemon.log().wait("slept for", LONG).await?;
    fixture.check_same_session(&before).await?;

    let port = fixture.session_port().await?;
    process.signal(Signal::STOP)?;
    // The connection is dead when the daemon wakes up, as after a long sleep behind a NAT router.
    fixture.hosts.drop_connection(port).await?;
    tokio::time::sleep(secs(6)).await;
    process.signal(Signal::CONT)?;
    let new = crate::fixture::reconnected_since(&before);
    fixture.daemon.wait_for("t", secs(12), new).await?;
    fixture.check_echo().await
}
