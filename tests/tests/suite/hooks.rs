//! The programs that the daemon runs for a prompt: `on_needs_input` and SSH_ASKPASS.

use anyhow::{Context, Result};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe::OpenOptions;
use tunneld_platform::testing::make_fifo;
use tunneld_proto::status::State;
use tunneld_tests::daemon::Daemon;
use tunneld_tests::home::Home;
use tunneld_tests::process::write_script;
use tunneld_tests::prompting_server::{AuthFactor, PromptRound, PromptingServer};
use tunneld_tests::wait::{LONG, within};

use crate::fixture::has_prompt;

/// A home whose daemon runs the shell script `text` as SSH_ASKPASS.
fn home_with_askpass(text: &str) -> Result<Home> {
    let home = Home::new()?;
    let askpass = home.path("askpass");
    write_script(&askpass, text)?;
    Ok(home
        .with_var("SSH_ASKPASS", askpass)
        .with_var("SSH_ASKPASS_REQUIRE", "force"))
}

#[tokio::test]
async fn the_hook_gets_the_prompt_and_its_failure_is_logged() -> Result<()> {
    let server = PromptingServer::start(vec![AuthFactor::Password("pw")]).await?;
    let home = Home::new()?;
    let (hook, environment) = (home.path("hook"), home.path("environment"));
    // The script writes a control character, which the log must escape.
    let text = format!(
        "env >'{}'; printf 'no \\033 bell' >&2; exit 3",
        environment.display()
    );
    write_script(&hook, &text)?;
    let tunnel = server.tunnel_toml("t")?;
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
    let environment = std::fs::read_to_string(environment)?;
    let host = format!("someone@127.0.0.1:{}", server.port());
    for line in [
        "TUNNELD_NAME=t".to_owned(),
        "TUNNELD_STATE=needs_input".to_owned(),
        format!("TUNNELD_HOST={host}"),
        format!("TUNNELD_REASON=password: {host} wants a password."),
    ] {
        let found = environment.lines().any(|entry| entry == line);
        assert!(found, "{line} is not in\n{environment}");
    }
    let status = daemon.status("t").await?;
    assert_eq!(status.state, State::NeedsInput);
    Ok(())
}

#[tokio::test]
async fn a_program_gets_the_umask_and_limits_that_the_daemon_was_started_with() -> Result<()> {
    let home = Home::new()?;
    let (command, seen) = (home.path("command"), home.path("seen"));
    let text = format!(
        "{{ umask; ulimit -Sn; ulimit -Hn; ulimit -Sc; ls /proc/self/fd | wc -w; }} >'{0}.new'; mv '{0}.new' '{0}'; \
         exit 1",
        seen.display()
    );
    write_script(&command, &text)?;
    home.write(
        "t.toml",
        &format!(
            "[tunnel.t]\nssh_config = false\nuser = \"u\"\nhost_command = [\"{}\"]\n",
            command.display()
        ),
    )?;
    let start = format!(
        "umask 027; ulimit -Sn 300; ulimit -Hn 400; exec {} \"$@\"",
        "prlimit --core=512000:1024000"
    );
    let prefix = ["sh", "-c", &start, "sh"].map(str::to_owned);
    let daemon = Daemon::start_with(&home, home.command_with_prefix(&prefix, "tunneld")?).await?;
    let failed = |tunnel: &tunneld_proto::status::TunnelStatus| tunnel.last_error.is_some();
    daemon.wait_for("t", LONG, failed).await?;
    let seen = std::fs::read_to_string(seen)?;
    let lines: Vec<&str> = seen.split_whitespace().collect();
    // The shell counts core files in blocks of 512 bytes. `ls` has its standard streams and the folder that it reads.
    assert_eq!(lines, ["0027", "300", "400", "1000", "4"]);
    Ok(())
}

#[tokio::test]
async fn askpass_answers_each_field_if_no_client_attends() -> Result<()> {
    let server = PromptingServer::start(vec![
        AuthFactor::Password("pw of askpass"),
        AuthFactor::KeyboardInteractive(vec![PromptRound {
            instructions: "Two things",
            prompts: vec![("Project: ", true, "p42"), ("Code: ", false, "123456")],
        }]),
    ])
    .await?;
    let home = home_with_askpass(
        "case \"$#$1\" in\n1*'wants a password.'*'Password: ') echo 'pw of askpass'; echo more;;\n\
         1*'Two things'*'Project: ') echo p42;;\n1*'Two things'*'Code: ') echo 123456;;\n*) exit 1;;\nesac",
    )?;
    home.write("t.toml", &server.tunnel_toml("t")?)?;
    let daemon = Daemon::start(&home).await?;
    daemon.wait_up("t").await?;
    assert_eq!(server.attempts(), ["password right", "keyboard right"]);
    assert!(!daemon.log().text().contains("pw of askpass"));
    Ok(())
}

#[tokio::test]
async fn a_cancelled_askpass_leaves_the_prompt_open() -> Result<()> {
    let server = PromptingServer::start(vec![AuthFactor::Password("pw")]).await?;
    let home = home_with_askpass("echo pw; echo closed >&2; exit 1")?;
    home.write("t.toml", &server.tunnel_toml("t")?)?;
    let daemon = Daemon::start(&home).await?;
    let line = daemon
        .log()
        .wait("SSH_ASKPASS gave no answer", LONG)
        .await?;
    assert!(line.contains("ended with status 1: closed"), "{line}");
    let tunnel = daemon.wait_for("t", LONG, has_prompt).await?;
    assert!(server.attempts().is_empty(), "{:?}", server.attempts());
    let id = tunnel.prompt.context("a prompt")?.id;
    let answer = json!({"id": id, "answers": ["pw"]});
    daemon.call("prompt.answer", answer).await?;
    daemon.wait_up("t").await?;
    Ok(())
}

#[tokio::test]
async fn askpass_is_killed_when_the_prompt_is_answered_elsewhere() -> Result<()> {
    let server = PromptingServer::start(vec![AuthFactor::Password("pw")]).await?;
    // A child of the askpass keeps the FIFO open until it is killed, so the test sees whether children are killed too.
    let home = home_with_askpass("exec 3>fifo\necho open >&3\nsleep 600 &\nwait")?;
    let fifo = home.path("fifo");
    make_fifo(&fifo);
    let mut reader = BufReader::new(OpenOptions::new().open_receiver(&fifo)?);
    // Without a writer the reader would get an end of file before the askpass opens the FIFO.
    let writer = std::fs::OpenOptions::new().write(true).open(&fifo)?;
    home.write("t.toml", &server.tunnel_toml("t")?)?;
    let daemon = Daemon::start(&home).await?;
    let mut line = String::new();
    within(LONG, "the askpass to start", reader.read_line(&mut line)).await??;
    assert_eq!(line, "open\n");
    drop(writer);
    let tunnel = daemon.wait_for("t", LONG, has_prompt).await?;
    let id = tunnel.prompt.context("a prompt")?.id;
    let answer = json!({"id": id, "answers": ["pw"]});
    daemon.call("prompt.answer", answer).await?;
    daemon.wait_up("t").await?;
    let end = within(LONG, "the askpass to end", reader.read(&mut [0; 8])).await??;
    assert_eq!(end, 0);
    Ok(())
}

#[tokio::test]
async fn askpass_does_not_start_while_a_client_attends() -> Result<()> {
    let (watched, other) = (
        PromptingServer::start(vec![AuthFactor::Password("pw")]).await?,
        PromptingServer::start(vec![AuthFactor::Password("pw")]).await?,
    );
    let home = home_with_askpass("echo pw")?;
    let off = "autostart = false\n";
    let text = format!(
        "{}{off}{}{off}",
        watched.tunnel_toml("watched")?,
        other.tunnel_toml("other")?
    );
    home.write("t.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    // A client at a terminal announces that its user answers the prompts of this tunnel.
    let mut terminal = daemon.rpc().await?;
    let names = json!({"names": ["watched"]});
    let attending = terminal.call("prompt.attend", names).await?;
    attending.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    home.ctl(&["up", "watched", "--no-wait"])
        .await?
        .expect_exit(0)?;
    daemon.wait_for("watched", LONG, has_prompt).await?;
    // SSH_ASKPASS answers the later prompt; by then it would have answered the earlier one too.
    home.ctl(&["up", "other", "--no-wait"])
        .await?
        .expect_exit(0)?;
    daemon.wait_up("other").await?;
    assert!(has_prompt(&daemon.status("watched").await?));
    assert!(watched.attempts().is_empty(), "{:?}", watched.attempts());
    drop(terminal);
    daemon.wait_up("watched").await?;
    Ok(())
}
