//! NAT routers that drop the state of a connection.

use std::time::Duration;

use anyhow::{Context, Result};
use tunneld_proto::status::{ForwardKind, ForwardState, State, TunnelStatus};

use super::{NetworkFixture, SHORT};
use crate::fixture::{forward_of, is_up, reconnected_since, secs, session_since};

#[tokio::test]
async fn a_remote_port_held_by_the_old_session_is_bound_when_it_is_free() -> Result<()> {
    let port = tunneld_tests::ports::free()?;
    let lines = format!("{SHORT}remote_forward = \"{port} 127.0.0.1:9\"\n");
    let server = ["ClientAliveInterval 2", "ClientAliveCountMax 3"];
    let Some((fixture, before)) =
        NetworkFixture::up_with(&lines, &server, |_| Ok(Vec::new())).await?
    else {
        return Ok(());
    };
    let from = fixture.session_port().await?;
    fixture.hosts.drop_connection(from).await?;
    let (took, kind) = fixture.wait_lost(secs(10)).await?;
    assert_eq!(kind, "dead_peer");
    assert!(took < secs(6), "{took:?}");
    // The new session is established while the server still keeps the old one, which holds the port.
    let remote_failed = |tunnel: &TunnelStatus| {
        tunnel.state == State::Degraded
            && forward_of(tunnel, ForwardKind::Remote)
                .is_some_and(|forward| forward.state == ForwardState::Failed)
    };
    let tunnel = fixture
        .daemon
        .wait_for("t", secs(10), remote_failed)
        .await?;
    let error = forward_of(&tunnel, ForwardKind::Remote)
        .and_then(|forward| forward.error.as_ref())
        .context("no error")?;
    assert!(error.message.contains(&port.to_string()), "{error:?}");
    fixture.check_echo().await?;
    let since = session_since(&tunnel);
    fixture
        .server
        .log()?
        .wait("Timeout, client not responding", secs(30))
        .await?;
    let tunnel = fixture.daemon.wait_for("t", secs(10), is_up).await?;
    assert_eq!(
        session_since(&tunnel),
        since,
        "another session has the port"
    );
    assert!(reconnected_since(&before)(&tunnel));
    fixture.check_reconnected(&before, secs(1)).await
}

/// Makes the server host drop the packets of the session of `t` after two seconds without one, as a NAT router does. A
/// new connection begins a new state.
async fn drop_state_when_idle(fixture: &NetworkFixture) -> Result<()> {
    let from = fixture.session_port().await?;
    let ssh = fixture.server.port();
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
        fixture.hosts.run_on_server(&line).await?;
    }
    Ok(())
}

#[tokio::test]
async fn keepalives_keep_the_state_of_a_router_alive() -> Result<()> {
    let Some((fixture, before)) = NetworkFixture::up(SHORT).await? else {
        return Ok(());
    };
    drop_state_when_idle(&fixture).await?;
    // Three times the router's timeout; the keepalives come each second.
    tokio::time::sleep(Duration::from_secs(6)).await;
    fixture.check_same_session(&before).await?;
    fixture.check_unaffected().await
}

#[tokio::test]
async fn a_router_that_drops_its_state_sooner_costs_one_session() -> Result<()> {
    let rare = "server_alive_interval = \"4s\"\nserver_alive_count_max = 1\n";
    let Some((fixture, before)) = NetworkFixture::up(rare).await? else {
        return Ok(());
    };
    drop_state_when_idle(&fixture).await?;
    let (_, kind) = fixture.wait_lost(secs(20)).await?;
    assert_eq!(kind, "dead_peer");
    fixture.check_reconnected(&before, secs(10)).await
}
