//! Files that a dial needs and that cannot be read for a while: the tunnel waits and comes back without a person.

use anyhow::Result;
use tokio::process::Command;
use tunneld_proto::status::{State, TunnelStatus};
use tunneld_tests::daemon::Daemon;
use tunneld_tests::home::Home;
use tunneld_tests::process;
use tunneld_tests::root;
use tunneld_tests::sshd::{Sshd, SshdOptions};
use tunneld_tests::wait::LONG;

use crate::fixture::{error_kind, without_key};

fn waits_for_a_file(tunnel: &TunnelStatus) -> bool {
    tunnel.state == State::Waiting && error_kind(tunnel) == Some("unreadable")
}

/// The daemon under strace, with these options.
async fn start_traced(home: &Home, options: &[&str]) -> Result<Daemon> {
    // -D: the process that is started, and ended with the test, is the daemon and not strace.
    let mut prefix: Vec<String> = ["strace", "-D", "-f", "-o", "/dev/null"]
        .map(str::to_owned)
        .to_vec();
    prefix.extend(options.iter().map(|&option| option.to_owned()));
    Daemon::start_with(home, home.command_with_prefix(&prefix, "tunneld")?).await
}

#[tokio::test]
async fn a_key_or_known_hosts_that_fails_to_open_once_is_read_again() -> Result<()> {
    let server = Sshd::start().await?;
    let known = server.dir().join("known_hosts");
    std::fs::write(&known, server.known_hosts_lines(server.port())?)?;
    for file in [server.user_key(), known.clone()] {
        for errno in ["EMFILE", "EIO"] {
            let home = Home::new()?;
            let text = without_key(&server.tunnel_toml("t")?, "user_known_hosts_file");
            let text = format!("{text}user_known_hosts_file = \"{}\"\n", known.display());
            home.write("t.toml", &text)?;
            let inject = format!("inject=openat:error={errno}:when=1");
            let path = file.display().to_string();
            let daemon = start_traced(&home, &["-P", &path, "-e", &inject]).await?;
            let settled = |tunnel: &TunnelStatus| matches!(tunnel.state, State::Up | State::Failed);
            let tunnel = daemon.wait_for("t", LONG, settled).await?;
            assert_eq!(tunnel.state, State::Up, "{errno}: {tunnel:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_folder_in_the_place_of_known_hosts_is_waited_out() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    let known = home.path("known_hosts");
    let text = without_key(&server.tunnel_toml("t")?, "user_known_hosts_file");
    let text = format!("{text}user_known_hosts_file = \"{}\"\n", known.display());
    std::fs::write(&known, server.known_hosts_lines(server.port())?)?;
    home.write("t.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    daemon.wait_up("t").await?;
    std::fs::rename(&known, home.path("kept"))?;
    std::fs::create_dir(&known)?;
    server.kill_sessions()?;
    daemon.wait_for("t", LONG, waits_for_a_file).await?;
    std::fs::remove_dir(&known)?;
    std::fs::rename(home.path("kept"), &known)?;
    daemon.wait_up("t").await.map(drop)
}

#[tokio::test]
async fn an_open_password_prompt_ends_when_the_key_can_be_read_again() -> Result<()> {
    if !root::available("sets the password of a server's user")? {
        return Ok(());
    }
    let server = Sshd::start_with(SshdOptions {
        config_lines: vec!["PasswordAuthentication yes".into()],
        password: Some("secret".into()),
        ..SshdOptions::default()
    })
    .await?;
    let home = Home::new()?;
    let key = server.user_key();
    let kept = key.with_extension("kept");
    std::fs::rename(&key, &kept)?;
    let fifo = key.display().to_string();
    process::run_tool("mkfifo", &[&fifo]).await?;
    home.write("t.toml", &server.tunnel_toml("t")?)?;
    let daemon = Daemon::start(&home).await?;
    let asks = |tunnel: &TunnelStatus| tunnel.state == State::NeedsInput;
    daemon.wait_for("t", LONG, asks).await?;
    std::fs::rename(&kept, &key)?;
    daemon.wait_up("t").await.map(drop)
}

#[tokio::test]
async fn a_key_is_tried_again_as_soon_as_its_mode_is_fixed() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    let key = server.user_key().display().to_string();
    process::run_tool("chmod", &["644", &key]).await?;
    home.write("t.toml", &server.tunnel_toml("t")?)?;
    let daemon = Daemon::start(&home).await?;
    let failed = |tunnel: &TunnelStatus| tunnel.state == State::Failed;
    daemon.wait_for("t", LONG, failed).await?;
    let fixed = Command::new("chmod").args(["600", &key]).status().await?;
    anyhow::ensure!(fixed.success());
    daemon.wait_up("t").await.map(drop)
}
