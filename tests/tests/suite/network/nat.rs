//! Routers that forget connections.

use std::time::Duration;

use anyhow::{Context, Result};
use tunneld_proto::status::{ForwardKind, ForwardState, State, TunnelStatus};

use super::{Field, SHORT};
use crate::fixture::{renewed, secs, session_since};

#[tokio::test]
async fn a_remote_port_held_by_the_old_session_is_bound_when_it_is_free() -> Result<()> {
    let port = tunneld_tests::ports::free()?;
    let lines = format!("{SHORT}remote_forward = \"{port} 127.0.0.1:9\"\n");
    let server = ["ClientAliveInterval 2", "ClientAliveCountMax 3"];
    let Some((field, before)) = Field::with(&lines, &server, |_| Ok(Vec::new())).await? else {
        return Ok(());
    };
    let from = field.port().await?;
    field.net.forget_flow(from).await?;
    let (took, kind) = field.lost(secs(10)).await?;
    assert_eq!(kind, "dead_peer");
    assert!(took < secs(6), "{took:?}");
    // The new session stands while the server still believes in the old one.
    let remote = |tunnel: &TunnelStatus| {
        let mut forwards = tunnel.forwards.iter();
        forwards
            .find(|forward| forward.kind == ForwardKind::Remote)
            .cloned()
    };
    let half = |tunnel: &TunnelStatus| {
        tunnel.state == State::Degraded
            && remote(tunnel).is_some_and(|forward| forward.state == ForwardState::Failed)
    };
    let tunnel = field.daemon.wait_for("t", secs(10), half).await?;
    let error = remote(&tunnel)
        .and_then(|forward| forward.error)
        .context("an error")?;
    assert!(error.message.contains(&port.to_string()), "{error:?}");
    field.echo().await?;
    let since = session_since(&tunnel);
    field
        .server
        .log()?
        .wait("Timeout, client not responding", secs(30))
        .await?;
    let whole = |tunnel: &TunnelStatus| tunnel.state == State::Up;
    let tunnel = field.daemon.wait_for("t", secs(10), whole).await?;
    assert_eq!(session_since(&tunnel), since, "the same session took it");
    assert!(renewed(&before)(&tunnel));
    field.back(&before, secs(1)).await
}

/// A router that forgets a connection after two seconds without a packet.
async fn forgetful(field: &Field) -> Result<()> {
    let from = field.port().await?;
    let ssh = field.server.port();
    for line in [
        "nft add table inet nat".to_owned(),
        "nft add set inet nat flows { type inet_service ; flags dynamic,timeout ; timeout 2s ; }"
            .to_owned(),
        format!("nft add element inet nat flows {{ {from} }}"),
        "nft add chain inet nat in { type filter hook input priority 0 ; }".to_owned(),
        format!(
            "nft add rule inet nat in tcp dport {ssh} tcp flags & (syn | ack) == syn add @flows {{ tcp sport }}"
        ),
        format!(
            "nft add rule inet nat in tcp dport {ssh} tcp sport @flows update @flows {{ tcp sport }} accept"
        ),
        format!("nft add rule inet nat in tcp dport {ssh} drop"),
    ] {
        field.net.far(&line).await?;
    }
    Ok(())
}

#[tokio::test]
async fn keepalives_keep_the_state_of_a_router_alive() -> Result<()> {
    let Some((field, before)) = Field::up(SHORT).await? else {
        return Ok(());
    };
    forgetful(&field).await?;
    tokio::time::sleep(Duration::from_secs(6)).await;
    field.kept(&before).await?;
    field.unharmed().await
}

#[tokio::test]
async fn a_router_that_drops_its_state_sooner_costs_one_session() -> Result<()> {
    let rare = "server_alive_interval = \"4s\"\nserver_alive_count_max = 1\n";
    let Some((field, before)) = Field::up(rare).await? else {
        return Ok(());
    };
    forgetful(&field).await?;
    let (_, kind) = field.lost(secs(20)).await?;
    assert_eq!(kind, "dead_peer");
    field.back(&before, secs(10)).await
}
