//! Encrypted keys whose passphrase takes long to check, as the owner chose with `ssh-keygen -a`.

use anyhow::Result;
use tunneld_proto::status::TunnelStatus;
use tunneld_tests::daemon::Daemon;
use tunneld_tests::home::Home;
use tunneld_tests::keys;
use tunneld_tests::sshd::{Sshd, SshdOptions};
use tunneld_tests::wait::LONG;

use crate::fixture::{answer_prompt, has_error, is_up, start_daemon, wait_prompt};

const COMMAND: &str = "passphrase_command = [\"echo\", \"open sesame\"]\n";

/// A server whose user key takes some seconds to unlock, and the table of the tunnel `name` to it.
async fn slow_key_server(name: &str, lines: &[&str]) -> Result<(Sshd, String)> {
    let server = Sshd::start_with(SshdOptions {
        config_lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        ..SshdOptions::default()
    })
    .await?;
    keys::encrypt(&server.user_key(), "open sesame", 200).await?;
    let table = server.tunnel_toml(name)?;
    Ok((server, table))
}

#[tokio::test]
async fn a_key_that_takes_longer_than_login_timeout_to_unlock_opens() -> Result<()> {
    let (_server, table) = slow_key_server("t", &[]).await?;
    let text = table + COMMAND + "login_timeout = \"1s\"\n";
    let (_home, daemon) = start_daemon(&text).await?;
    let tunnel = daemon.wait_for("t", LONG, |tunnel| is_up(tunnel) || has_error(tunnel));
    let tunnel = tunnel.await?;
    assert!(is_up(&tunnel), "{:?}", tunnel.last_error);
    Ok(())
}

#[tokio::test]
async fn a_key_that_takes_longer_than_the_server_waits_opens_for_a_later_login() -> Result<()> {
    let (_server, table) = slow_key_server("t", &["LoginGraceTime 1"]).await?;
    let (_home, daemon) = start_daemon(&(table + COMMAND)).await?;
    let mut watch = daemon.watch().await?;
    let says_why = |tunnel: &TunnelStatus| {
        let error = tunnel.last_error.as_ref();
        error.is_some_and(|error| error.message.contains("was still being unlocked"))
    };
    watch.until("t", LONG, says_why).await?;
    watch.until("t", LONG, is_up).await?;
    Ok(())
}

#[tokio::test]
async fn a_passphrase_is_asked_for_once_if_the_server_does_not_wait_for_it() -> Result<()> {
    let (_server, table) = slow_key_server("t", &["LoginGraceTime 1"]).await?;
    let home = Home::new()?;
    home.write("t.toml", &table)?;
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    let prompt = wait_prompt(&mut watch, "t").await?;
    answer_prompt(&daemon, &prompt, &["open sesame"]).await?;
    let asks_again = |tunnel: &TunnelStatus| {
        let prompt_after = tunnel.prompt.as_ref().map(|prompt| prompt.id);
        is_up(tunnel) || prompt_after.is_some_and(|id| id != prompt.id)
    };
    let tunnel = watch.until("t", LONG, asks_again).await?;
    assert!(is_up(&tunnel), "{:?}", tunnel.prompt);
    Ok(())
}
