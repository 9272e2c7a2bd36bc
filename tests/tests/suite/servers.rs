//! Other servers and every algorithm: each carries bytes through every kind of forward.

use anyhow::{Context, Result};
use tunneld_proto::status::{ForwardKind, State, TunnelStatus};
use tunneld_tests::asyncssh::Asyncssh;
use tunneld_tests::daemon::{Daemon, listen};
use tunneld_tests::dropbear::Dropbear;
use tunneld_tests::home::Home;
use tunneld_tests::payload::{MIB, exchange, random, same};
use tunneld_tests::socks::{self, Dest};
use tunneld_tests::sshd::{Setup, Sshd};
use tunneld_tests::target::{Manner, Target};
use tunneld_tests::wait::LONG;

use crate::scene::tcp;

/// How much a whole transfer through one server is.
const WHOLE: usize = 100_000_000;

/// A Dropbear, where one can be had.
async fn dropbear() -> Result<Option<Dropbear>> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can give dropbear a home of its own");
        return Ok(None);
    }
    Ok(Some(Dropbear::start().await?))
}

/// Carries 10 MiB there and back through each kind of forward of the tunnel whose lines these are.
async fn every_forward(tunnel: &str) -> Result<()> {
    let target = Target::start(Manner::Collect).await?;
    let far = tunneld_tests::ports::free()?;
    let home = Home::new()?;
    let text = format!(
        "{tunnel}local_forward = \"0 127.0.0.1:{to}\"\nremote_forward = \"{far} 127.0.0.1:{to}\"\ndynamic_forward = 0\n",
        to = target.port()
    );
    home.write("t.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    let tunnel = daemon.wait_up("t").await?;
    let data = random(90, 10 * MIB);
    let local = tcp(listen(&tunnel, ForwardKind::Local)?).await?;
    let remote = tcp(tunneld_tests::ports::local(far)).await?;
    let proxy = listen(&tunnel, ForwardKind::Dynamic)?;
    let dest = Dest::Ip(target.addr().ip());
    let through = socks::v5(proxy, &dest, target.port())
        .await?
        .expect("granted");
    // All at once: keys are exchanged while the others have bytes under way.
    let back = tokio::try_join!(
        exchange(local, &data),
        exchange(remote, &data),
        exchange(through, &data)
    )?;
    for bytes in [back.0, back.1, back.2] {
        same(&data, &bytes)?;
    }
    one_session(&daemon).await
}

/// Carries `len` bytes there and back through a local forward of the tunnel whose lines these are.
async fn whole(tunnel: &str, len: usize) -> Result<()> {
    let target = Target::start(Manner::Collect).await?;
    let home = Home::new()?;
    let text = format!(
        "{tunnel}local_forward = \"0 127.0.0.1:{}\"\n",
        target.port()
    );
    home.write("t.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    let tunnel = daemon.wait_up("t").await?;
    let data = random(93, len);
    let local = tcp(listen(&tunnel, ForwardKind::Local)?).await?;
    same(&data, &exchange(local, &data).await?)?;
    one_session(&daemon).await
}

/// Proves that the tunnel is up and never was renewed.
async fn one_session(daemon: &Daemon) -> Result<()> {
    let tunnel = daemon.wait_up("t").await?;
    assert_eq!(tunnel.reconnects, 0, "{tunnel:#?}");
    Ok(())
}

#[tokio::test]
async fn dropbear_carries_every_forward() -> Result<()> {
    let Some(server) = dropbear().await? else {
        return Ok(());
    };
    every_forward(&server.tunnel("t")?).await
}

#[tokio::test]
async fn asyncssh_carries_every_forward() -> Result<()> {
    let server = Asyncssh::start(1_000_000).await?;
    every_forward(&server.tunnel("t")?).await?;
    // It sent 30 MiB; what it sends in the middle of an exchange counts towards none.
    let count = server.key_exchanges();
    assert!(count > 5, "only {count} key exchanges");
    Ok(())
}

#[tokio::test]
async fn asyncssh_and_we_both_ask_for_new_keys_under_traffic() -> Result<()> {
    let server = Asyncssh::start(1_000_000).await?;
    every_forward(&format!("{}rekey_limit = \"1M\"\n", server.tunnel("t")?)).await
}

#[tokio::test]
async fn sshd_carries_a_hundred_megabytes() -> Result<()> {
    let server = Sshd::start().await?;
    whole(&server.tunnel("t")?, WHOLE).await
}

#[tokio::test]
async fn dropbear_carries_a_hundred_megabytes() -> Result<()> {
    let Some(server) = dropbear().await? else {
        return Ok(());
    };
    whole(&server.tunnel("t")?, WHOLE).await
}

#[tokio::test]
async fn asyncssh_carries_a_hundred_megabytes() -> Result<()> {
    let server = Asyncssh::start(1 << 30).await?;
    whole(&server.tunnel("t")?, WHOLE).await
}

/// One tunnel for each of `values` of `key`; each is up with that very algorithm and carries 1 MiB.
async fn each(
    server: &Sshd,
    key: &str,
    values: &[&str],
    used: impl Fn(&TunnelStatus) -> Option<String>,
) -> Result<()> {
    let target = Target::start(Manner::Collect).await?;
    let home = Home::new()?;
    let mut text = String::new();
    for (n, value) in values.iter().enumerate() {
        text += &server.tunnel(&format!("t{n}"))?;
        text += &format!(
            "{key} = \"{value}\"\nlocal_forward = \"0 127.0.0.1:{}\"\n",
            target.port()
        );
    }
    home.write("t.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    let data = random(91, MIB);
    for (n, value) in values.iter().enumerate() {
        let up = |tunnel: &TunnelStatus| tunnel.state == State::Up;
        let tunnel = watch.until(&format!("t{n}"), LONG, up).await;
        let tunnel = tunnel.with_context(|| format!("{key} {value}"))?;
        assert_eq!(used(&tunnel).as_deref(), Some(*value), "{tunnel:#?}");
        let stream = tcp(listen(&tunnel, ForwardKind::Local)?).await?;
        same(&data, &exchange(stream, &data).await?).with_context(|| format!("{key} {value}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn every_key_exchange() -> Result<()> {
    let server = Sshd::start().await?;
    let kex = |tunnel: &TunnelStatus| Some(tunnel.session.as_ref()?.kex.clone());
    let values = [
        "curve25519-sha256",
        "curve25519-sha256@libssh.org",
        "ecdh-sha2-nistp256",
        "ecdh-sha2-nistp384",
        "ecdh-sha2-nistp521",
        "diffie-hellman-group14-sha256",
        "diffie-hellman-group16-sha512",
        "diffie-hellman-group18-sha512",
        "diffie-hellman-group-exchange-sha256",
    ];
    each(&server, "kex_algorithms", &values, kex).await
}

#[tokio::test]
async fn every_cipher() -> Result<()> {
    let server = Sshd::start().await?;
    let cipher = |tunnel: &TunnelStatus| Some(tunnel.session.as_ref()?.cipher.clone());
    let values = [
        "aes128-gcm@openssh.com",
        "aes256-gcm@openssh.com",
        "chacha20-poly1305@openssh.com",
        "aes128-ctr",
        "aes192-ctr",
        "aes256-ctr",
    ];
    each(&server, "ciphers", &values, cipher).await
}

#[tokio::test]
async fn every_mac() -> Result<()> {
    let server = Sshd::with_lines(&["Ciphers aes128-ctr"]).await?;
    let mac = |tunnel: &TunnelStatus| tunnel.session.as_ref()?.mac.clone();
    let values = [
        "hmac-sha2-256-etm@openssh.com",
        "hmac-sha2-512-etm@openssh.com",
        "hmac-sha2-256",
        "hmac-sha2-512",
    ];
    each(&server, "macs", &values, mac).await
}

#[tokio::test]
async fn every_host_key_type() -> Result<()> {
    let target = Target::start(Manner::Collect).await?;
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let server = Sshd::with(Setup {
            host_keys: vec![kind.into()],
            user_key: kind.into(),
            ..Setup::default()
        })
        .await?;
        let lines = format!("local_forward = \"0 127.0.0.1:{}\"", target.port());
        let (_scene, tunnel) = crate::scene::Scene::on(server, &lines).await?;
        let stream = tcp(listen(&tunnel, ForwardKind::Local)?).await?;
        let data = random(92, MIB);
        same(&data, &exchange(stream, &data).await?)?;
    }
    Ok(())
}

#[tokio::test]
async fn nothing_in_common_names_both_sides() -> Result<()> {
    let server = Sshd::with_lines(&["Ciphers aes128-cbc"]).await?;
    let scene = crate::scene::Scene::begun(server, "").await?;
    let stuck = |tunnel: &TunnelStatus| tunnel.last_error.is_some();
    let tunnel = scene.daemon.wait_for("t", LONG, stuck).await?;
    let error = tunnel.last_error.context("an error")?;
    assert_eq!(error.kind, "protocol", "{error:?}");
    let told = format!("{} {}", error.message, error.hint.unwrap_or_default());
    assert!(
        told.contains("aes128-cbc") && told.contains("cipher"),
        "{told}"
    );
    Ok(())
}
