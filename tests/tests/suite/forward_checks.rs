//! Checks that a local and a remote forward must pass alike, and the bytes of several connections at once.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tunneld_proto::status::{ForwardKind, State};
use tunneld_tests::daemon::{listen_addr, listen_addr_at};
use tunneld_tests::payload::{self, MIB, exchange, random, same};
use tunneld_tests::ports;
use tunneld_tests::target::{Target, TargetBehavior};

use crate::fixture::{Fixture, session_since, tcp};

/// Checks that `count` connections at once each get their own `len` bytes back.
pub(crate) async fn concurrent_exchanges(addr: SocketAddr, count: u64, len: usize) -> Result<()> {
    let mut exchanges = JoinSet::new();
    for seed in 0..count {
        exchanges.spawn(async move {
            let data = random(seed, len);
            same(&data, &exchange(tcp(addr).await?, &data).await?)
        });
    }
    while let Some(done) = exchanges.join_next().await {
        done??;
    }
    Ok(())
}

/// Checks that a forward from `[::1]` to `[::1]` carries bytes. `key` is `local_forward` or `remote_forward`.
pub(crate) async fn ipv6(key: &str, kind: ForwardKind, seed: u64) -> Result<()> {
    let target = Target::at("[::1]:0", TargetBehavior::EchoAtEof).await?;
    let lines = format!("{key} = \"[::1]:0:[::1]:{}\"", target.port());
    let (_fixture, tunnel) = Fixture::up(&lines).await?;
    let addr = listen_addr(&tunnel, kind)?;
    assert!(addr.is_ipv6(), "{addr}");
    let data = random(seed, MIB);
    same(&data, &exchange(tcp(addr).await?, &data).await?)
}

/// Checks that a connection to a target that refuses fails alone: a connection of another forward and the session go
/// on. `key` is `local_forward` or `remote_forward`.
pub(crate) async fn refusing_target(key: &str) -> Result<()> {
    let target = Target::echo().await?;
    let closed_port = ports::free()?;
    let lines = format!(
        "{key} = [\"0 127.0.0.1:{}\", \"0 127.0.0.1:{closed_port}\"]",
        target.port()
    );
    let (fixture, tunnel) = Fixture::up(&lines).await?;
    let mut good = tcp(listen_addr_at(&tunnel, 0)?).await?;
    payload::ping(&mut good, b"before").await?;
    let mut refused = tcp(listen_addr_at(&tunnel, 1)?).await?;
    let read = refused.read(&mut [0; 8]).await;
    assert!(!matches!(read, Ok(n) if n > 0), "{read:?}");
    payload::ping(&mut good, b"after").await?;
    let after = fixture.daemon.status("t").await?;
    assert_eq!(session_since(&after), session_since(&tunnel));
    assert_eq!(after.state, State::Up);
    if key == "local_forward" {
        let refusal = after.forwards[1].refused.as_ref().context("no refusal")?;
        assert_eq!((refusal.count, refusal.code), (1, Some(2)), "{refusal:?}");
    }
    Ok(())
}
