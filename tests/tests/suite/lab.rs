//! Tests of the lab itself, with OpenSSH's client in place of tunneld: a test of a fault proves nothing if the lab does
//! not cause that fault.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tunneld_tests::faulty_link::FaultyLink;
use tunneld_tests::payload::{self, MIB};
use tunneld_tests::process::{Process, write_script};
use tunneld_tests::sshd::{self, Sshd, SshdOptions};
use tunneld_tests::target::{Target, TargetBehavior};
use tunneld_tests::wait::{LONG, within};
use tunneld_tests::{ports, root, socks};

/// Starts `ssh` with these forwards, through `port` of 127.0.0.1, and returns when it is logged in.
async fn ssh(server: &Sshd, port: u16, args: &[&str]) -> Result<Process> {
    let known = server.dir().join("known_hosts_lab");
    std::fs::write(&known, server.known_hosts_lines(port)?)?;
    let mut command = Command::new("ssh");
    command
        .args(["-F", "none", "-N", "-v", "-o", "BatchMode=yes", "-o"])
        .arg(format!("UserKnownHostsFile={}", known.display()))
        .args(["-o", "ServerAliveInterval=1", "-i"])
        .arg(server.user_key())
        .args(["-p", &port.to_string()])
        .args(args)
        .arg(format!("{}@127.0.0.1", sshd::current_user()?));
    let process = Process::start("ssh", command)?;
    let ready = "Entering interactive session";
    process.log().wait(ready, LONG).await?;
    Ok(process)
}

#[tokio::test]
async fn sshd_forwards_bytes_and_its_sessions_can_be_killed() -> Result<()> {
    let server = Sshd::start().await?;
    let target = Target::start(TargetBehavior::EchoAtEof).await?;
    let port = ports::free()?;
    let forward = format!("127.0.0.1:{port}:127.0.0.1:{}", target.port());
    let mut client = ssh(&server, server.port(), &["-L", &forward]).await?;
    let data = payload::random(1, MIB);
    let stream = TcpStream::connect(ports::local(port)).await?;
    payload::same(&data, &payload::exchange(stream, &data).await?)?;
    server.kill_sessions()?;
    client.wait_exit(LONG).await?;
    assert!(server.session_pids().is_empty());
    Ok(())
}

#[tokio::test]
async fn sshd_restarts_with_new_host_keys_on_the_same_port() -> Result<()> {
    let mut server = Sshd::start_with(SshdOptions {
        host_keys: vec!["ed25519".into(), "ecdsa".into()],
        ..SshdOptions::default()
    })
    .await?;
    let (port, before) = (server.port(), server.known_hosts_lines(22)?);
    server.change_host_keys().await?;
    assert_eq!(server.port(), port);
    assert_ne!(server.known_hosts_lines(22)?, before);
    TcpStream::connect(server.addr()).await?;
    Ok(())
}

#[tokio::test]
async fn a_frozen_session_is_silent_and_keeps_its_tcp_connection() -> Result<()> {
    let server = Sshd::start().await?;
    let target = Target::echo().await?;
    let port = ports::free()?;
    let forward = format!("127.0.0.1:{port}:127.0.0.1:{}", target.port());
    let mut client = ssh(&server, server.port(), &["-L", &forward]).await?;
    let mut stream = TcpStream::connect(ports::local(port)).await?;
    payload::ping(&mut stream, b"awake").await?;
    server.freeze_sessions()?;
    let silence = Duration::from_millis(300);
    let ping = payload::ping(&mut stream, b"frozen");
    assert!(within(silence, "the frozen echo", ping).await.is_err());
    // ssh gives up after ServerAliveInterval times ServerAliveCountMax, 1 s times 3.
    client.wait_exit(LONG).await?;
    Ok(())
}

#[tokio::test]
async fn the_socks_client_speaks_4_4a_and_5() -> Result<()> {
    let server = Sshd::start().await?;
    let target = Target::echo().await?;
    let port = ports::free()?;
    let listen = format!("127.0.0.1:{port}");
    let _client = ssh(&server, server.port(), &["-D", &listen]).await?;
    let proxy = ports::local(port);
    let name = socks::Destination::Name("localhost".into());
    let ip = socks::Destination::Ip(target.addr().ip());
    for dest in [&name, &ip] {
        let stream = socks::connect_v5(proxy, dest, target.port()).await?;
        payload::ping(&mut stream.expect("granted"), b"five").await?;
        let stream = socks::connect_v4(proxy, dest, target.port()).await?;
        payload::ping(&mut stream.expect("granted"), b"four").await?;
    }
    Ok(())
}

/// A link to `target` and a connection over it.
async fn connect_over_link(target: &Target) -> Result<(FaultyLink, TcpStream)> {
    let link = FaultyLink::to(target.addr()).await?;
    let stream = TcpStream::connect(link.addr()).await?;
    Ok((link, stream))
}

#[tokio::test]
async fn the_link_relays_both_ways_and_half_closes() -> Result<()> {
    let target = Target::start(TargetBehavior::EchoAtEof).await?;
    let (_link, stream) = connect_over_link(&target).await?;
    let data = payload::random(2, 3 * MIB);
    payload::same(&data, &payload::exchange(stream, &data).await?)
}

#[tokio::test]
async fn the_link_freezes_thaws_and_delays() -> Result<()> {
    let target = Target::echo().await?;
    let (link, mut stream) = connect_over_link(&target).await?;
    payload::ping(&mut stream, b"one").await?;
    link.freeze();
    stream.write_all(b"two").await?;
    let mut got = [0; 3];
    // Nothing can signal that no byte arrives, so the test waits a moment.
    let silence = Duration::from_millis(200);
    assert!(
        within(silence, "a byte", stream.read_exact(&mut got))
            .await
            .is_err()
    );
    link.thaw();
    within(LONG, "the thaw", stream.read_exact(&mut got)).await??;
    assert_eq!(&got, b"two");
    link.set_delay(Duration::from_millis(80));
    let before = tokio::time::Instant::now();
    payload::ping(&mut stream, b"slow").await?;
    // Each direction is delayed by 80 ms.
    assert!(before.elapsed() >= Duration::from_millis(160));
    Ok(())
}

#[tokio::test]
async fn the_link_resets_both_sides() -> Result<()> {
    let mut target = Target::echo().await?;
    let (link, mut stream) = connect_over_link(&target).await?;
    payload::ping(&mut stream, b"hello").await?;
    link.reset_all();
    let error = within(LONG, "the reset", stream.read_u8()).await?;
    let kind = error.expect_err("a reset").kind();
    assert_eq!(kind, std::io::ErrorKind::ConnectionReset);
    assert!(!target.next_end(LONG).await?.clean);
    Ok(())
}

#[tokio::test]
async fn the_link_refuses_and_accepts_again() -> Result<()> {
    let target = Target::echo().await?;
    let mut link = FaultyLink::to(target.addr()).await?;
    link.refuse_new().await?;
    let refused = TcpStream::connect(link.addr()).await;
    let kind = refused.expect_err("refused").kind();
    assert_eq!(kind, std::io::ErrorKind::ConnectionRefused);
    link.accept_new().await?;
    let mut stream = TcpStream::connect(link.addr()).await?;
    payload::ping(&mut stream, b"back").await
}

#[tokio::test]
async fn the_link_flips_one_bit() -> Result<()> {
    let target = Target::start(TargetBehavior::EchoAtEof).await?;
    let (link, stream) = connect_over_link(&target).await?;
    link.flip_bit_after(1000);
    let data = payload::random(3, 4000);
    let got = payload::exchange(stream, &data).await?;
    let differ = data.iter().zip(&got).filter(|(a, b)| a != b).count();
    assert_eq!((differ, data[1000] ^ 1), (1, got[1000]));
    Ok(())
}

#[tokio::test]
async fn a_target_distinguishes_a_reset_from_a_close() -> Result<()> {
    let mut target = Target::start(TargetBehavior::EchoAtEof).await?;
    let addr: SocketAddr = target.addr();
    let stream = TcpStream::connect(addr).await?;
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    drop(stream);
    assert!(!target.next_end(LONG).await?.clean);
    drop(TcpStream::connect(addr).await?);
    assert!(target.next_end(LONG).await?.clean);
    Ok(())
}

/// Whether `ssh` can log in to the host of this tunnel if it gets `answer` for every prompt.
async fn ssh_logs_in(tunnel_toml: &str, answer: &str) -> Result<bool> {
    let table: toml::Table = tunnel_toml.parse()?;
    let (_, tunnel) = table["tunnel"]
        .as_table()
        .expect("tunnels")
        .iter()
        .next()
        .expect("one");
    let text = |key: &str| tunnel[key].as_str().unwrap_or_default().to_owned();
    let folder = tempfile::tempdir()?;
    let script = folder.path().join("askpass");
    write_script(&script, &format!("echo '{answer}'"))?;
    let mut command = Command::new("ssh");
    command
        .args(["-F", "none", "-N", "-v", "-o"])
        .arg(format!(
            "UserKnownHostsFile={}",
            text("user_known_hosts_file")
        ))
        .args(["-i", &text("identity_file")])
        .arg(format!("ssh://{}", text("host")))
        .env("SSH_ASKPASS", &script)
        .env("SSH_ASKPASS_REQUIRE", "force");
    let process = Process::start("ssh", command)?;
    // A failed login ends ssh, and with it the wait.
    let login = process.log().wait("Authenticated to", LONG).await;
    if let Err(error) = &login {
        eprintln!("{error}");
    }
    Ok(login.is_ok())
}

#[tokio::test]
async fn the_prompting_server_requires_every_factor() -> Result<()> {
    use tunneld_tests::prompting_server::{AuthFactor, PromptRound, PromptingServer};
    let rounds = vec![PromptRound {
        instructions: "hello",
        prompts: vec![("Code: ", false, "same")],
    }];
    let factors = vec![
        AuthFactor::PublicKey,
        AuthFactor::Password("same"),
        AuthFactor::KeyboardInteractive(rounds),
    ];
    let server = PromptingServer::start(factors).await?;
    assert!(ssh_logs_in(&server.tunnel_toml("t")?, "same").await?);
    assert_eq!(
        server.attempts(),
        ["key right", "password right", "keyboard right"]
    );
    assert!(!ssh_logs_in(&server.tunnel_toml("t")?, "other").await?);
    Ok(())
}

#[tokio::test]
async fn sshd_accepts_only_its_private_password() -> Result<()> {
    if !root::available("give sshd its own /etc/shadow")? {
        return Ok(());
    }
    let server = Sshd::start_with(SshdOptions::key_and_password("lab pass")).await?;
    assert!(ssh_logs_in(&server.tunnel_toml("t")?, "lab pass").await?);
    assert!(!ssh_logs_in(&server.tunnel_toml("t")?, "wrong").await?);
    Ok(())
}

#[tokio::test]
async fn dropbear_accepts_the_key_of_its_user() -> Result<()> {
    if !root::available("give Dropbear its own /etc/passwd")? {
        return Ok(());
    }
    let server = tunneld_tests::dropbear::Dropbear::start().await?;
    assert!(ssh_logs_in(&server.tunnel_toml("t")?, "").await?);
    Ok(())
}
