//! DNS forwards: `dig` and other clients ask a resolver at the far side of a real sshd, also while the tunnel is away.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tunneld_proto::status::{ForwardKind, ForwardState, TunnelStatus};
use tunneld_tests::daemon::listen_addr;
use tunneld_tests::dns::{HoldingServer, answer, ask_over_udp, query};
use tunneld_tests::dnsmasq::{BIG_STRINGS, Dnsmasq};
use tunneld_tests::ports;
use tunneld_tests::process::run_tool;
use tunneld_tests::sshd::Sshd;
use tunneld_tests::wait::LONG;

use crate::fixture::{Fixture, is_up, is_waiting, tcp};

/// The lines of a tunnel that asks the server on this port of the far side.
fn dns_to(port: u16) -> String {
    format!("dns_listen = 0\ndns_server = \"127.0.0.1:{port}\"")
}

/// Runs `dig` once, without a second try, and returns what it prints. It gives up after 5 seconds.
async fn dig(server: SocketAddr, args: &[&str]) -> Result<String> {
    let (at, port) = (format!("@{}", server.ip()), server.port().to_string());
    let fixed = [&*at, "-p", &port, "+tries=1", "+time=5"];
    run_tool("dig", &[&fixed, args].concat()).await
}

/// The forward's status, of a tunnel with this one alone.
fn forward(tunnel: &TunnelStatus) -> &tunneld_proto::status::ForwardStatus {
    &tunnel.forwards[0]
}

#[tokio::test]
async fn dig_gets_the_records_of_the_far_resolver() -> Result<()> {
    let resolver = Dnsmasq::start().await?;
    let (fixture, tunnel) = Fixture::up(&dns_to(resolver.port())).await?;
    let server = listen_addr(&tunnel, ForwardKind::Dns)?;
    let v6 = SocketAddr::new("::1".parse()?, server.port());
    for server in [server, v6] {
        for transport in ["+notcp", "+tcp"] {
            let found = |kind| async move {
                dig(server, &[transport, "+short", "www.lab.test", kind]).await
            };
            assert_eq!(found("A").await?, "192.0.2.80\n");
            assert_eq!(found("AAAA").await?, "2001:db8::80\n");
            let missing = dig(server, &[transport, "no.lab.test"]).await?;
            assert!(missing.contains("status: NXDOMAIN"), "{missing}");
        }
    }
    // Two questions on one connection.
    let both = [
        "+tcp",
        "+keepopen",
        "+short",
        "www.lab.test",
        "A",
        "www.lab.test",
        "AAAA",
    ];
    assert_eq!(dig(server, &both).await?, "192.0.2.80\n2001:db8::80\n");
    let status = fixture
        .daemon
        .wait_for("t", LONG, |tunnel| forward(tunnel).connections == 0)
        .await?;
    let forward = forward(&status);
    assert_eq!(
        (forward.total, forward.state),
        (13, ForwardState::Listening)
    );
    assert!(forward.bytes_in > 13 * 12 && forward.bytes_out > 13 * 12);
    assert_eq!(forward.to, Some(format!("127.0.0.1:{}", resolver.port())));
    let shown = fixture.home.ctl(&["status", "t"]).await?.stdout;
    assert!(
        shown.contains(&format!("N {server} → 127.0.0.1:")),
        "{shown}"
    );
    Ok(())
}

#[tokio::test]
async fn a_local_dnsmasq_sends_one_domain_through_the_tunnel() -> Result<()> {
    let resolver = Dnsmasq::start().await?;
    let (_fixture, tunnel) = Fixture::up(&dns_to(resolver.port())).await?;
    let listen = listen_addr(&tunnel, ForwardKind::Dns)?;
    let local = Dnsmasq::start_forwarder("lab.test", listen.port()).await?;
    let local = ports::local(local.port());
    for transport in ["+notcp", "+tcp"] {
        let found = dig(local, &[transport, "+short", "www.lab.test"]).await?;
        assert_eq!(found, "192.0.2.80\n");
        let other = dig(local, &[transport, "www.example"]).await?;
        assert!(other.contains("status: REFUSED"), "{other}");
    }
    Ok(())
}

#[tokio::test]
async fn a_large_answer_is_truncated_over_udp_and_dig_gets_it_over_tcp() -> Result<()> {
    let resolver = Dnsmasq::start().await?;
    let (_fixture, tunnel) = Fixture::up(&dns_to(resolver.port())).await?;
    let server = listen_addr(&tunnel, ForwardKind::Dns)?;
    let ask = ["big.lab.test", "TXT"];
    for size in ["+noedns", "+bufsize=1232", "+bufsize=4096"] {
        let short = dig(server, &[&["+notcp", "+ignore", size], &ask[..]].concat()).await?;
        assert!(short.contains(" tc "), "{short}");
        assert!(
            short.contains("QUERY: 1, ANSWER: 0, AUTHORITY: 0"),
            "{short}"
        );
        assert!(!short.contains("malformed"), "{short}");
        // dig asks again over TCP.
        let whole = dig(server, &[&["+notcp", size], &ask[..]].concat()).await?;
        assert!(whole.contains("Truncated, retrying in TCP mode"), "{whole}");
        assert_eq!(whole.matches(&"x".repeat(200)).count(), BIG_STRINGS);
    }
    // Larger than the answer.
    let whole = dig(
        server,
        &[&["+notcp", "+ignore", "+bufsize=16384"], &ask[..]].concat(),
    )
    .await?;
    assert_eq!(whole.matches(&"x".repeat(200)).count(), BIG_STRINGS);
    Ok(())
}

#[tokio::test]
async fn a_thousand_queries_are_in_flight() -> Result<()> {
    let mut far = HoldingServer::start().await?;
    let (fixture, tunnel) = Fixture::up(&dns_to(far.port())).await?;
    let server = listen_addr(&tunnel, ForwardKind::Dns)?;
    let mut clients = JoinSet::new();
    for client in 0..10u16 {
        // The clients use the same ids.
        let queries: Vec<_> = (0..100)
            .map(|id| query(id, &format!("n{id}.client{client}.test")))
            .collect();
        clients.spawn(async move {
            let answers = ask_over_udp(server, queries.clone(), LONG).await?;
            anyhow::Ok((queries, answers))
        });
        // A burst of all would overflow the queue of the socket, as it may with any server.
        far.wait_received(usize::from(client + 1) * 100, LONG)
            .await?;
    }
    assert_eq!(
        forward(&fixture.daemon.status("t").await?).connections,
        1000
    );
    far.answer_all();
    while let Some(done) = clients.join_next().await {
        let (queries, answers) = done??;
        for (id, query) in (0..).zip(queries) {
            assert_eq!(answers.get(&id), Some(&answer(&query, [192, 0, 2, 7])));
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_thousand_queries_are_answered_by_a_resolver_that_closes_after_a_hundred() -> Result<()> {
    let resolver = Dnsmasq::start().await?;
    let (_fixture, tunnel) = Fixture::up(&dns_to(resolver.port())).await?;
    let server = listen_addr(&tunnel, ForwardKind::Dns)?;
    let mut clients = JoinSet::new();
    for start in (0..1000u16).step_by(100) {
        let queries: Vec<_> = (start..start + 100)
            .map(|n| query(n, &format!("n{n}.lab.test")))
            .collect();
        clients.spawn(async move { ask_over_udp(server, queries, LONG).await });
    }
    while let Some(done) = clients.join_next().await {
        for (n, message) in done?? {
            let [high, low] = n.to_be_bytes();
            assert!(message.ends_with(&[10, 9, high, low]), "n{n}: {message:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_query_while_the_tunnel_is_away_fails_before_dig_gives_up() -> Result<()> {
    let resolver = Dnsmasq::start().await?;
    let (mut fixture, tunnel) = Fixture::up(&dns_to(resolver.port())).await?;
    let server = listen_addr(&tunnel, ForwardKind::Dns)?;
    fixture.server.stop().await?;
    fixture.daemon.wait_for("t", LONG, is_waiting).await?;
    for transport in ["+notcp", "+tcp"] {
        let failed = dig(server, &[transport, "www.lab.test"]).await?;
        assert!(failed.contains("status: SERVFAIL"), "{failed}");
        assert!(failed.contains("tunneld: the tunnel t is away"), "{failed}");
    }
    fixture.server.start_again().await?;
    fixture.daemon.wait_for("t", LONG, is_up).await?;
    let found = dig(server, &["+short", "www.lab.test"]).await?;
    assert_eq!(found, "192.0.2.80\n");
    Ok(())
}

#[tokio::test]
async fn a_query_in_flight_when_the_session_ends_is_asked_on_the_next_one() -> Result<()> {
    let mut far = HoldingServer::start().await?;
    let (fixture, tunnel) = Fixture::up(&dns_to(far.port())).await?;
    let server = listen_addr(&tunnel, ForwardKind::Dns)?;
    let asked = query(7, "www.lab.test");
    let mut asking = JoinSet::new();
    asking.spawn(ask_over_udp(server, vec![asked.clone()], LONG));
    far.wait_received(1, LONG).await?;
    fixture.server.kill_sessions()?;
    far.wait_received(2, LONG).await?;
    far.answer_all();
    let answers = asking.join_next().await.context("an answer")???;
    assert_eq!(answers.get(&7), Some(&answer(&asked, [192, 0, 2, 7])));
    Ok(())
}

#[tokio::test]
async fn a_resolver_that_does_not_listen_or_answer_fails_the_query_and_shows_in_the_status()
-> Result<()> {
    let nothing = ports::free()?;
    let (fixture, tunnel) = Fixture::up(&dns_to(nothing)).await?;
    let server = listen_addr(&tunnel, ForwardKind::Dns)?;
    let failed = dig(server, &["www.lab.test"]).await?;
    assert!(failed.contains("status: SERVFAIL"), "{failed}");
    assert!(
        failed.contains(&format!("no connection to 127.0.0.1:{nothing}")),
        "{failed}"
    );
    let refused = forward(&fixture.daemon.status("t").await?).refused.clone();
    assert_eq!(refused.context("a refusal")?.code, Some(2));

    let far = HoldingServer::start().await?;
    fixture.rewrite_tunnel(&dns_to(far.port()))?;
    let to = format!("127.0.0.1:{}", far.port());
    let is_new = |tunnel: &TunnelStatus| {
        forward(tunnel).to.as_ref() == Some(&to) && forward(tunnel).state == ForwardState::Listening
    };
    let tunnel = fixture.daemon.wait_for("t", LONG, is_new).await?;
    let server = listen_addr(&tunnel, ForwardKind::Dns)?;
    let failed = dig(server, &["www.lab.test"]).await?;
    assert!(failed.contains("status: SERVFAIL"), "{failed}");
    assert!(
        failed.contains(&format!("{to} does not answer")),
        "{failed}"
    );
    let refused = forward(&fixture.daemon.status("t").await?).refused.clone();
    assert!(
        refused
            .context("a refusal")?
            .message
            .contains("does not answer")
    );
    Ok(())
}

#[tokio::test]
async fn garbage_disturbs_no_other_client() -> Result<()> {
    let resolver = Dnsmasq::start().await?;
    let (fixture, tunnel) = Fixture::up(&dns_to(resolver.port())).await?;
    let server = listen_addr(&tunnel, ForwardKind::Dns)?;
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let garbage = tunneld_tests::payload::random(53, 100_000);
    for (index, bytes) in garbage.chunks(97).enumerate() {
        socket.send_to(bytes, server).await?;
        if index % 10 == 0 {
            let mut stream = tcp(server).await?;
            // The daemon may have closed it already.
            let _ = stream.write_all(bytes).await;
        }
    }
    let mut stream = tcp(server).await?;
    stream.write_all(&[0xff, 0xff, 0, 0]).await?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await?;
    assert_eq!(rest, b"");
    for transport in ["+notcp", "+tcp"] {
        let found = dig(server, &[transport, "+short", "www.lab.test"]).await?;
        assert_eq!(found, "192.0.2.80\n");
    }
    assert_eq!(forward(&fixture.daemon.status("t").await?).refused, None);
    Ok(())
}

#[tokio::test]
async fn a_port_that_another_resolver_has_is_named_and_bound_when_it_is_free() -> Result<()> {
    let other = Dnsmasq::start().await?;
    let resolver = Dnsmasq::start().await?;
    let lines = format!(
        "dns_listen = {}\ndns_server = \"127.0.0.1:{}\"",
        other.port(),
        resolver.port()
    );
    let fixture = Fixture::start(Sshd::start().await?, &lines).await?;
    let failed = |tunnel: &TunnelStatus| {
        tunnel.forwards.len() == 1 && forward(tunnel).state == ForwardState::Failed
    };
    let tunnel = fixture.daemon.wait_for("t", LONG, failed).await?;
    let error = forward(&tunnel).error.as_ref().context("an error")?;
    assert!(error.message.contains("in use by dnsmasq"), "{error:?}");
    drop(other);
    let listening = |tunnel: &TunnelStatus| forward(tunnel).state == ForwardState::Listening;
    let tunnel = fixture.daemon.wait_for("t", LONG, listening).await?;
    let server = listen_addr(&tunnel, ForwardKind::Dns)?;
    let found = dig(server, &["+short", "www.lab.test"]).await?;
    assert_eq!(found, "192.0.2.80\n");
    // `down` frees the port for both.
    fixture.home.ctl(&["down", "t"]).await?.expect_exit(0)?;
    std::net::UdpSocket::bind(server)?;
    std::net::TcpListener::bind(server)?;
    Ok(())
}
