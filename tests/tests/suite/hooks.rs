//! What is run for a prompt: `on_needs_input`, and SSH_ASKPASS where a display is.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe::OpenOptions;
use tunneld_proto::status::{State, TunnelStatus};
use tunneld_tests::daemon::Daemon;
use tunneld_tests::home::Home;
use tunneld_tests::prompting_server::{Asking, Factor, Round};
use tunneld_tests::wait::{LONG, within};

fn asks(tunnel: &TunnelStatus) -> bool {
    tunnel.prompt.is_some()
}

/// Writes a script into the home.
fn script(home: &Home, name: &str, text: &str) -> Result<PathBuf> {
    let path = home.path(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700))?;
    Ok(path)
}

/// A home whose daemon has `text` as its SSH_ASKPASS.
fn with_askpass(text: &str) -> Result<Home> {
    let home = Home::new()?;
    let askpass = script(&home, "askpass", text)?;
    Ok(home
        .var("SSH_ASKPASS", askpass)
        .var("SSH_ASKPASS_REQUIRE", "force"))
}

#[tokio::test]
async fn the_hook_gets_the_prompt_and_its_failure_is_logged() -> Result<()> {
    let server = Asking::start(vec![Factor::Password("pw")]).await?;
    let home = Home::new()?;
    let told = home.path("told");
    let text = format!(
        "env >'{}'; printf 'no \\033 bell' >&2; exit 3",
        told.display()
    );
    let hook = script(&home, "hook", &text)?;
    let tunnel = server.tunnel("t")?;
    home.write(
        "t.toml",
        &format!("{tunnel}on_needs_input = [\"{}\"]\n", hook.display()),
    )?;
    let daemon = Daemon::start(&home).await?;
    let line = daemon.log().wait("on_needs_input: ", LONG).await?;
    assert!(line.contains("WARN"), "{line}");
    assert!(
        line.contains("ended with status 3: no \\u{1b} bell"),
        "{line}"
    );
    let told = std::fs::read_to_string(told)?;
    let host = format!("someone@127.0.0.1:{}", server.port());
    for line in [
        "TUNNELD_NAME=t".to_owned(),
        "TUNNELD_STATE=needs_input".to_owned(),
        format!("TUNNELD_HOST={host}"),
        format!("TUNNELD_REASON=password: {host} wants a password."),
    ] {
        assert!(told.lines().any(|have| have == line), "{line} in\n{told}");
    }
    let status = daemon.status("t").await?;
    assert_eq!(status.state, State::NeedsInput);
    Ok(())
}

#[tokio::test]
async fn askpass_answers_each_field_if_no_client_attends() -> Result<()> {
    let server = Asking::start(vec![
        Factor::Password("pw of askpass"),
        Factor::Keyboard(vec![Round {
            instructions: "Two things",
            prompts: vec![("Project: ", true, "p42"), ("Code: ", false, "123456")],
        }]),
    ])
    .await?;
    let home = with_askpass(
        "case \"$#$1\" in\n1*'wants a password.'*'Password: ') echo 'pw of askpass'; echo more;;\n\
         1*'Two things'*'Project: ') echo p42;;\n1*'Two things'*'Code: ') echo 123456;;\n*) exit 1;;\nesac",
    )?;
    home.write("t.toml", &server.tunnel("t")?)?;
    let daemon = Daemon::start(&home).await?;
    daemon.wait_up("t").await?;
    assert_eq!(server.attempts(), ["password right", "keyboard right"]);
    assert!(!daemon.log().text().contains("pw of askpass"));
    Ok(())
}

#[tokio::test]
async fn a_cancelled_askpass_leaves_the_prompt_open() -> Result<()> {
    let server = Asking::start(vec![Factor::Password("pw")]).await?;
    let home = with_askpass("echo pw; echo closed >&2; exit 1")?;
    home.write("t.toml", &server.tunnel("t")?)?;
    let daemon = Daemon::start(&home).await?;
    let line = daemon
        .log()
        .wait("SSH_ASKPASS gave no answer", LONG)
        .await?;
    assert!(line.contains("ended with status 1: closed"), "{line}");
    let tunnel = daemon.wait_for("t", LONG, asks).await?;
    assert!(server.attempts().is_empty(), "{:?}", server.attempts());
    let id = tunnel.prompt.context("a prompt")?.id;
    let answer = json!({"id": id, "answers": ["pw"]});
    daemon.call("prompt.answer", answer).await?;
    daemon.wait_up("t").await?;
    Ok(())
}

#[tokio::test]
async fn askpass_is_killed_when_the_prompt_is_answered_elsewhere() -> Result<()> {
    let server = Asking::start(vec![Factor::Password("pw")]).await?;
    // Its child holds the FIFO open until it is killed.
    let home = with_askpass("exec 3>fifo\necho open >&3\nsleep 600 &\nwait")?;
    let fifo = home.path("fifo");
    tunneld_tests::fifo::make(&fifo)?;
    let mut window = BufReader::new(OpenOptions::new().open_receiver(&fifo)?);
    // Without a writer the reader would meet an end before the askpass begins.
    let writer = std::fs::OpenOptions::new().write(true).open(&fifo)?;
    home.write("t.toml", &server.tunnel("t")?)?;
    let daemon = Daemon::start(&home).await?;
    let mut said = String::new();
    within(LONG, "the askpass", window.read_line(&mut said)).await??;
    assert_eq!(said, "open\n");
    drop(writer);
    let tunnel = daemon.wait_for("t", LONG, asks).await?;
    let id = tunnel.prompt.context("a prompt")?.id;
    let answer = json!({"id": id, "answers": ["pw"]});
    daemon.call("prompt.answer", answer).await?;
    daemon.wait_up("t").await?;
    let end = within(LONG, "the askpass's end", window.read(&mut [0; 8])).await??;
    assert_eq!(end, 0);
    Ok(())
}

#[tokio::test]
async fn askpass_does_not_start_while_a_client_attends() -> Result<()> {
    let (watched, other) = (
        Asking::start(vec![Factor::Password("pw")]).await?,
        Asking::start(vec![Factor::Password("pw")]).await?,
    );
    let home = with_askpass("echo pw")?;
    let off = "autostart = false\n";
    let text = format!(
        "{}{off}{}{off}",
        watched.tunnel("watched")?,
        other.tunnel("other")?
    );
    home.write("t.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    let mut terminal = daemon.rpc().await?;
    let names = json!({"names": ["watched"]});
    let attending = terminal.call("prompt.attend", names).await?;
    attending.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    home.ctl(&["up", "watched", "--no-wait"]).await?.expect(0)?;
    daemon.wait_for("watched", LONG, asks).await?;
    // The later prompt gets its window: the earlier one would have had its own by then.
    home.ctl(&["up", "other", "--no-wait"]).await?.expect(0)?;
    daemon.wait_up("other").await?;
    assert!(asks(&daemon.status("watched").await?));
    assert!(watched.attempts().is_empty(), "{:?}", watched.attempts());
    drop(terminal);
    daemon.wait_up("watched").await?;
    Ok(())
}
