//! Every algorithm: a tunnel that allows only that one negotiates it and carries bytes.

use anyhow::{Context, Result};
use tunneld_proto::status::{ForwardKind, TunnelStatus};
use tunneld_tests::daemon::{Daemon, listen_addr};
use tunneld_tests::home::Home;
use tunneld_tests::payload::{MIB, exchange, random, same};
use tunneld_tests::sshd::{Sshd, SshdOptions};
use tunneld_tests::target::{Target, TargetBehavior};
use tunneld_tests::wait::LONG;

use crate::fixture::{has_error, is_up, local_forward_to, tcp};

/// Starts one tunnel for each of `values` of the configuration key `key`, and checks that `used` returns that value
/// for it and that it carries 1 MiB.
async fn check_each(
    server: &Sshd,
    key: &str,
    values: &[&str],
    used: impl Fn(&TunnelStatus) -> Option<String>,
) -> Result<()> {
    let target = Target::start(TargetBehavior::EchoAtEof).await?;
    let home = Home::new()?;
    let mut text = String::new();
    for (n, value) in values.iter().enumerate() {
        text += &server.tunnel_toml(&format!("t{n}"))?;
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
        let tunnel = watch.until(&format!("t{n}"), LONG, is_up).await;
        let tunnel = tunnel.with_context(|| format!("{key} {value}"))?;
        assert_eq!(used(&tunnel).as_deref(), Some(*value), "{tunnel:#?}");
        let stream = tcp(listen_addr(&tunnel, ForwardKind::Local)?).await?;
        same(&data, &exchange(stream, &data).await?).with_context(|| format!("{key} {value}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_short_rsa_host_key_is_refused_with_the_key_that_allows_it() -> Result<()> {
    let options = SshdOptions {
        host_keys: vec!["rsa-1024".to_owned()],
        ..SshdOptions::default()
    };
    let server = Sshd::start_with(options).await?;
    let home = Home::new()?;
    let allowed = server.tunnel_toml("allowed")? + "required_rsa_size = 1024\n";
    home.write("t.toml", &(server.tunnel_toml("refused")? + &allowed))?;
    let daemon = Daemon::start(&home).await?;
    daemon.wait_up("allowed").await?;
    let refused = daemon.wait_for("refused", LONG, has_error).await?;
    let error = refused.last_error.context("no error")?;
    assert_eq!(error.kind.as_str(), "no_common_algorithm");
    assert!(error.message.contains("1024 bits"), "{error:?}");
    let hint = error.hint.unwrap_or_default();
    assert!(hint.contains("required_rsa_size = 1024"), "{hint}");
    assert!(error.ends_wait);
    Ok(())
}

#[tokio::test]
async fn every_key_exchange_method_carries_bytes() -> Result<()> {
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
    check_each(&server, "kex_algorithms", &values, kex).await
}

#[tokio::test]
async fn every_cipher_carries_bytes() -> Result<()> {
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
    check_each(&server, "ciphers", &values, cipher).await
}

#[tokio::test]
async fn every_mac_carries_bytes() -> Result<()> {
    // The AEAD ciphers have no separate MAC, so the server must not choose one of them.
    let server = Sshd::start_with_lines(&["Ciphers aes128-ctr"]).await?;
    let mac = |tunnel: &TunnelStatus| tunnel.session.as_ref()?.mac.clone();
    let values = [
        "hmac-sha2-256-etm@openssh.com",
        "hmac-sha2-512-etm@openssh.com",
        "hmac-sha2-256",
        "hmac-sha2-512",
    ];
    check_each(&server, "macs", &values, mac).await
}

#[tokio::test]
async fn every_host_key_type_carries_bytes() -> Result<()> {
    let target = Target::start(TargetBehavior::EchoAtEof).await?;
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let server = Sshd::start_with(SshdOptions {
            host_keys: vec![kind.into()],
            user_key: kind.into(),
            ..SshdOptions::default()
        })
        .await?;
        let lines = local_forward_to(&target);
        let (_fixture, tunnel) = crate::fixture::Fixture::up_on(server, &lines).await?;
        let stream = tcp(listen_addr(&tunnel, ForwardKind::Local)?).await?;
        let data = random(92, MIB);
        same(&data, &exchange(stream, &data).await?)?;
    }
    Ok(())
}

#[tokio::test]
async fn no_common_algorithm_is_reported_with_both_offers() -> Result<()> {
    // Not among the ciphers that tunneld accepts by default.
    let server = Sshd::start_with_lines(&["Ciphers aes128-cbc"]).await?;
    let fixture = crate::fixture::Fixture::start(server, "").await?;
    let tunnel = fixture.daemon.wait_for("t", LONG, has_error).await?;
    let error = tunnel.last_error.context("an error")?;
    assert_eq!(error.kind.as_str(), "no_common_algorithm", "{error:?}");
    let hint = error.hint.as_deref().unwrap_or_default();
    assert!(hint.contains(" = \"+"), "{hint}");
    let text = format!("{} {}", error.message, error.hint.unwrap_or_default());
    assert!(
        text.contains("aes128-cbc") && text.contains("cipher"),
        "{text}"
    );
    Ok(())
}
