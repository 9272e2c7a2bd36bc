//! Dynamic forwards: SOCKS4, 4a and 5, names that the server resolves, and reply codes.

use std::net::{IpAddr, Ipv6Addr};

use anyhow::Result;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tunneld_proto::status::ForwardKind;
use tunneld_tests::daemon::listen_addr;
use tunneld_tests::payload::{MIB, exchange, random, same};
use tunneld_tests::ports;
use tunneld_tests::process::run_tool;
use tunneld_tests::socks::{self, Destination};
use tunneld_tests::sshd::Sshd;
use tunneld_tests::target::{Target, TargetBehavior};

use crate::fixture::{Fixture, session_since, tcp};

#[tokio::test]
async fn ten_mebibytes_pass_both_ways_for_every_socks_version_and_address_type() -> Result<()> {
    let target = Target::start(TargetBehavior::EchoAtEof).await?;
    let target_v6 = Target::at(
        &format!("[::1]:{}", target.port()),
        TargetBehavior::EchoAtEof,
    )
    .await;
    let (_fixture, tunnel) = Fixture::up("dynamic_forward = 0").await?;
    let proxy = listen_addr(&tunnel, ForwardKind::Dynamic)?;
    let data = random(30, 10 * MIB);
    let name = Destination::Name("localhost".into());
    let ipv4 = Destination::Ip(target.addr().ip());
    for dest in [&name, &ipv4] {
        let stream = socks::connect_v5(proxy, dest, target.port()).await?;
        same(&data, &exchange(stream.expect("granted"), &data).await?)?;
        let stream = socks::connect_v4(proxy, dest, target.port()).await?;
        same(&data, &exchange(stream.expect("granted"), &data).await?)?;
    }
    if target_v6.is_ok() {
        let dest = Destination::Ip(IpAddr::V6(Ipv6Addr::LOCALHOST));
        let stream = socks::connect_v5(proxy, &dest, target.port()).await?;
        same(&data, &exchange(stream.expect("granted"), &data).await?)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_hundred_concurrent_connections_carry_intact_bytes() -> Result<()> {
    let target = Target::echo().await?;
    let (_fixture, tunnel) = Fixture::up("dynamic_forward = 0").await?;
    let proxy = listen_addr(&tunnel, ForwardKind::Dynamic)?;
    let (ip, port) = (target.addr().ip(), target.port());
    let mut exchanges = JoinSet::new();
    for seed in 0..100 {
        exchanges.spawn(async move {
            let data = random(seed, 50_000);
            let stream = socks::connect_v5(proxy, &Destination::Ip(ip), port).await?;
            same(&data, &exchange(stream.expect("granted"), &data).await?)
        });
    }
    while let Some(done) = exchanges.join_next().await {
        done??;
    }
    Ok(())
}

#[tokio::test]
async fn curl_connects_through_the_proxy() -> Result<()> {
    let target = Target::start(TargetBehavior::HttpResponse("hello from there".into())).await?;
    let (_fixture, tunnel) = Fixture::up("dynamic_forward = 0").await?;
    let proxy = listen_addr(&tunnel, ForwardKind::Dynamic)?;
    for scheme in ["socks5h", "socks5", "socks4a", "socks4"] {
        let out = run_tool(
            "curl",
            &[
                "-sS",
                "--noproxy",
                "",
                "-x",
                &format!("{scheme}://{proxy}"),
                &format!("http://localhost:{}/", target.port()),
            ],
        )
        .await;
        // With the other schemes curl resolves `localhost` itself, perhaps to ::1, where the target does not listen.
        if scheme.ends_with(['h', 'a']) {
            assert_eq!(out?, "hello from there", "{scheme}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn failed_requests_get_the_matching_reply_code_and_the_session_survives() -> Result<()> {
    // sshd refuses every other target as administratively prohibited.
    let server =
        Sshd::start_with_lines(&["PermitOpen 127.0.0.1:1 no-such-host.invalid:80"]).await?;
    let (fixture, tunnel) = Fixture::up_on(server, "dynamic_forward = 0").await?;
    let proxy = listen_addr(&tunnel, ForwardKind::Dynamic)?;
    let ip = Destination::Ip([127, 0, 0, 1].into());
    let code = |answer: Result<tokio::net::TcpStream, u8>| answer.err();
    let refused = code(socks::connect_v5(proxy, &ip, 1).await?);
    assert_eq!(refused, Some(5), "connection refused");
    let unresolvable = Destination::Name("no-such-host.invalid".into());
    let unreachable = code(socks::connect_v5(proxy, &unresolvable, 80).await?);
    assert_eq!(unreachable, Some(4), "host unreachable");
    let prohibited = code(socks::connect_v5(proxy, &ip, ports::free()?).await?);
    assert_eq!(prohibited, Some(2), "not allowed");
    assert_eq!(code(socks::connect_v4(proxy, &ip, 1).await?), Some(91));
    let after = fixture.daemon.status("t").await?;
    assert_eq!(session_since(&after), session_since(&tunnel));
    Ok(())
}

#[tokio::test]
async fn bind_udp_and_unknown_address_types_get_their_reply_codes() -> Result<()> {
    let (_fixture, tunnel) = Fixture::up("dynamic_forward = 0").await?;
    let proxy = listen_addr(&tunnel, ForwardKind::Dynamic)?;
    let ip = Destination::Ip([127, 0, 0, 1].into());
    for (command, code) in [(2, 7), (3, 7), (9, 7)] {
        let mut stream = tcp(proxy).await?;
        stream.write_all(&[5, 1, 0]).await?;
        let request = socks::request_v5(command, &ip, 80);
        stream.write_all(&request).await?;
        let mut method = [0; 2];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut method).await?;
        assert_eq!(socks::read_reply_v5(&mut stream).await?, code, "{command}");
    }
    let mut stream = tcp(proxy).await?;
    stream.write_all(&[5, 1, 0, 5, 1, 0, 9, 0, 0]).await?;
    let mut method = [0; 2];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut method).await?;
    assert_eq!(socks::read_reply_v5(&mut stream).await?, 8);
    Ok(())
}

#[tokio::test]
async fn max_sessions_does_not_count_forwarded_connections() -> Result<()> {
    // sshd_config(5): MaxSessions limits shell sessions per connection, not forwarding.
    let server = Sshd::start_with_lines(&["MaxSessions 1"]).await?;
    let target = Target::echo().await?;
    let (_fixture, tunnel) = Fixture::up_on(server, "dynamic_forward = 0").await?;
    let proxy = listen_addr(&tunnel, ForwardKind::Dynamic)?;
    let dest = Destination::Ip(target.addr().ip());
    let mut open = Vec::new();
    for _ in 0..20 {
        let stream = socks::connect_v5(proxy, &dest, target.port()).await?;
        open.push(stream.expect("granted"));
    }
    for stream in &mut open {
        tunneld_tests::payload::ping(stream, b"all twenty").await?;
    }
    Ok(())
}
