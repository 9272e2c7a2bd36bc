//! Dynamic forwards: SOCKS4, 4a and 5, names at the far end, true reply codes.

use std::net::{IpAddr, Ipv6Addr};

use anyhow::Result;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tunneld_proto::status::ForwardKind;
use tunneld_tests::daemon::listen;
use tunneld_tests::payload::{MIB, exchange, random, same};
use tunneld_tests::socks::{self, Dest};
use tunneld_tests::sshd::Sshd;
use tunneld_tests::target::{Manner, Target};
use tunneld_tests::{keys, ports};

use crate::fixture::{Scene, session_since, tcp};

#[tokio::test]
async fn ten_mebibytes_pass_both_ways_for_every_socks_version_and_address_type() -> Result<()> {
    let target = Target::start(Manner::Collect).await?;
    let six = Target::at(&format!("[::1]:{}", target.port()), Manner::Collect).await;
    let (_scene, tunnel) = Scene::up("dynamic_forward = 0").await?;
    let proxy = listen(&tunnel, ForwardKind::Dynamic)?;
    let data = random(30, 10 * MIB);
    let name = Dest::Name("localhost".into());
    let four = Dest::Ip(target.addr().ip());
    for dest in [&name, &four] {
        let stream = socks::v5(proxy, dest, target.port()).await?;
        same(&data, &exchange(stream.expect("granted"), &data).await?)?;
        let stream = socks::v4(proxy, dest, target.port()).await?;
        same(&data, &exchange(stream.expect("granted"), &data).await?)?;
    }
    if six.is_ok() {
        let dest = Dest::Ip(IpAddr::V6(Ipv6Addr::LOCALHOST));
        let stream = socks::v5(proxy, &dest, target.port()).await?;
        same(&data, &exchange(stream.expect("granted"), &data).await?)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_hundred_concurrent_connections_carry_intact_bytes() -> Result<()> {
    let target = Target::echo().await?;
    let (_scene, tunnel) = Scene::up("dynamic_forward = 0").await?;
    let proxy = listen(&tunnel, ForwardKind::Dynamic)?;
    let (ip, port) = (target.addr().ip(), target.port());
    let mut all = JoinSet::new();
    for seed in 0..100 {
        all.spawn(async move {
            let data = random(seed, 50_000);
            let stream = socks::v5(proxy, &Dest::Ip(ip), port).await?;
            same(&data, &exchange(stream.expect("granted"), &data).await?)
        });
    }
    while let Some(one) = all.join_next().await {
        one??;
    }
    Ok(())
}

#[tokio::test]
async fn curl_connects_through_the_proxy() -> Result<()> {
    let target = Target::start(Manner::Http("hello from there".into())).await?;
    let (_scene, tunnel) = Scene::up("dynamic_forward = 0").await?;
    let proxy = listen(&tunnel, ForwardKind::Dynamic)?;
    for scheme in ["socks5h", "socks5", "socks4a", "socks4"] {
        let out = keys::run(
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
        // `localhost` may be ::1 to curl where it resolves the name itself, and the target listens on 127.0.0.1.
        if scheme.ends_with(['h', 'a']) {
            assert_eq!(out?, "hello from there", "{scheme}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn failed_requests_get_the_matching_reply_code_and_the_session_survives() -> Result<()> {
    let server = Sshd::with_lines(&["PermitOpen 127.0.0.1:1 no-such-host.invalid:80"]).await?;
    let (scene, tunnel) = Scene::on(server, "dynamic_forward = 0").await?;
    let proxy = listen(&tunnel, ForwardKind::Dynamic)?;
    let ip = Dest::Ip([127, 0, 0, 1].into());
    let code = |answer: Result<tokio::net::TcpStream, u8>| answer.err();
    let refused = code(socks::v5(proxy, &ip, 1).await?);
    assert_eq!(refused, Some(5), "connection refused");
    let unresolvable = Dest::Name("no-such-host.invalid".into());
    let unreachable = code(socks::v5(proxy, &unresolvable, 80).await?);
    assert_eq!(unreachable, Some(4), "host unreachable");
    let prohibited = code(socks::v5(proxy, &ip, ports::free()?).await?);
    assert_eq!(prohibited, Some(2), "not allowed");
    assert_eq!(code(socks::v4(proxy, &ip, 1).await?), Some(91));
    let after = scene.daemon.status("t").await?;
    assert_eq!(session_since(&after), session_since(&tunnel));
    Ok(())
}

#[tokio::test]
async fn bind_udp_and_unknown_address_types_get_their_reply_codes() -> Result<()> {
    let (_scene, tunnel) = Scene::up("dynamic_forward = 0").await?;
    let proxy = listen(&tunnel, ForwardKind::Dynamic)?;
    let ip = Dest::Ip([127, 0, 0, 1].into());
    for (command, code) in [(2, 7), (3, 7), (9, 7)] {
        let mut stream = tcp(proxy).await?;
        stream.write_all(&[5, 1, 0]).await?;
        let request = socks::request_v5(command, &ip, 80);
        stream.write_all(&request).await?;
        let mut method = [0; 2];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut method).await?;
        assert_eq!(socks::reply_v5(&mut stream).await?, code, "{command}");
    }
    let mut stream = tcp(proxy).await?;
    stream.write_all(&[5, 1, 0, 5, 1, 0, 9, 0, 0]).await?;
    let mut method = [0; 2];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut method).await?;
    assert_eq!(socks::reply_v5(&mut stream).await?, 8);
    Ok(())
}

#[tokio::test]
async fn max_sessions_does_not_count_forwarded_connections() -> Result<()> {
    let server = Sshd::with_lines(&["MaxSessions 1"]).await?;
    let target = Target::echo().await?;
    let (_scene, tunnel) = Scene::on(server, "dynamic_forward = 0").await?;
    let proxy = listen(&tunnel, ForwardKind::Dynamic)?;
    let dest = Dest::Ip(target.addr().ip());
    let mut open = Vec::new();
    for _ in 0..20 {
        let stream = socks::v5(proxy, &dest, target.port()).await?;
        open.push(stream.expect("granted"));
    }
    for stream in &mut open {
        tunneld_tests::payload::ping(stream, b"all twenty").await?;
    }
    Ok(())
}
