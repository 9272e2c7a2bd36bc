//! Logins with prompts: passwords, one-time codes and several factors, answered by commands or by the user.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tunneld_proto::message::EventBody;
use tunneld_proto::status::{ForwardKind, Prompt, PromptKind, TunnelStatus};
use tunneld_tests::asyncssh::Asyncssh;
use tunneld_tests::daemon::{Daemon, EventWatch, listen_addr};
use tunneld_tests::home::Home;
use tunneld_tests::prompting_server::{AuthFactor, PromptRound, PromptingServer};
use tunneld_tests::sshd::{Sshd, SshdOptions};
use tunneld_tests::target::Target;
use tunneld_tests::wait::{LONG, within};
use tunneld_tests::{keys, payload, root};

use crate::fixture::{
    answer_prompt, has_prompt, has_prompt_after, is_failed, is_up, is_waiting, local_forward_to,
    open_prompts, start_daemon, tcp, wait_next_prompt, wait_prompt,
};

#[tokio::test]
async fn a_password_from_a_command_or_a_prompt_logs_in() -> Result<()> {
    let server = PromptingServer::start(vec![AuthFactor::Password("s3cret")]).await?;
    let target = Target::echo().await?;
    let forward = local_forward_to(&target) + "\n";
    let text = format!(
        "{}{forward}password_command = [\"echo\", \"s3cret\"]\n{}{forward}autostart = false\n",
        server.tunnel_toml("command")?,
        server.tunnel_toml("person")?
    );
    let (home, daemon) = start_daemon(&text).await?;
    let tunnel = daemon.wait_up("command").await?;
    let data = payload::random(70, 1 << 20);
    let stream = tcp(listen_addr(&tunnel, ForwardKind::Local)?).await?;
    payload::same(&data, &payload::exchange(stream, &data).await?)?;
    let mut watch = daemon.watch().await?;
    home.ctl(&["up", "person", "--no-wait"])
        .await?
        .expect_exit(0)?;
    let prompt = wait_prompt(&mut watch, "person").await?;
    assert_eq!(prompt.kind, PromptKind::Password);
    assert!(!prompt.fields[0].echo);
    assert!(prompt.host.contains("someone@127.0.0.1"), "{prompt:?}");
    answer_prompt(&daemon, &prompt, &["s3cret"]).await?;
    watch.until("person", LONG, is_up).await?;
    assert!(!daemon.log().text().contains("s3cret"));
    Ok(())
}

#[tokio::test]
async fn an_open_prompt_uses_no_login_attempt_and_a_wrong_password_is_prompted_again() -> Result<()>
{
    let server = PromptingServer::start(vec![AuthFactor::Password("right")]).await?;
    let (home, daemon) = start_daemon(&server.tunnel_toml("t")?).await?;
    let mut watch = daemon.watch().await?;
    let first = wait_prompt(&mut watch, "t").await?;
    assert!(!server.attempts().iter().any(|a| a.starts_with("password")));
    assert_eq!(open_prompts(&daemon).await?, std::slice::from_ref(&first));
    answer_prompt(&daemon, &first, &["wrong"]).await?;
    let second = wait_next_prompt(&mut watch, "t", &first).await?;
    assert_eq!(server.attempts(), ["password wrong"]);
    daemon
        .call("prompt.cancel", json!({"id": second.id}))
        .await?;
    let tunnel = watch.until("t", LONG, is_failed).await?;
    assert_eq!(
        tunnel.last_error.context("an error")?.kind.as_str(),
        "not_answered"
    );
    assert_eq!(server.attempts(), ["password wrong"]);
    home.ctl(&["up", "t", "--no-wait"]).await?.expect_exit(0)?;
    let third = wait_prompt(&mut watch, "t").await?;
    answer_prompt(&daemon, &third, &["right"]).await?;
    watch.until("t", LONG, is_up).await?;
    Ok(())
}

/// Two rounds: a password and a project, then a code.
fn code_rounds() -> Vec<PromptRound> {
    vec![
        PromptRound {
            instructions: "Welcome to the cluster",
            prompts: vec![("Password: ", false, "pw"), ("Project: ", true, "p42")],
        },
        PromptRound {
            instructions: "",
            prompts: vec![("Verification code: ", false, "123456")],
        },
    ]
}

#[tokio::test]
async fn keyboard_interactive_rounds_are_answered_by_commands_or_the_user() -> Result<()> {
    let server =
        PromptingServer::start(vec![AuthFactor::KeyboardInteractive(code_rounds())]).await?;
    let answers = "answers = [{ prompt = \"(?i)^password\", command = [\"echo\", \"pw\"] }, { prompt = \"Project\", command = [\"echo\", \"p42\"] }, { prompt = \"(?i)code\", command = [\"echo\", \"123456\"] }]\n";
    let text = format!(
        "{}{answers}{}autostart = false\n",
        server.tunnel_toml("commands")?,
        server.tunnel_toml("person")?
    );
    let (home, daemon) = start_daemon(&text).await?;
    daemon.wait_up("commands").await?;
    home.ctl(&["up", "person", "--no-wait"])
        .await?
        .expect_exit(0)?;
    let mut watch = daemon.watch().await?;
    let first = wait_prompt(&mut watch, "person").await?;
    assert_eq!(first.kind, PromptKind::KeyboardInteractive);
    assert!(first.text.contains("Welcome to the cluster"), "{first:?}");
    let echo: Vec<bool> = first.fields.iter().map(|field| field.echo).collect();
    assert_eq!(echo, [false, true]);
    answer_prompt(&daemon, &first, &["pw", "p42"]).await?;
    let second = wait_next_prompt(&mut watch, "person", &first).await?;
    answer_prompt(&daemon, &second, &["123456"]).await?;
    watch.until("person", LONG, is_up).await?;
    Ok(())
}

#[tokio::test]
async fn stdin_lines_answer_every_round() -> Result<()> {
    let server =
        PromptingServer::start(vec![AuthFactor::KeyboardInteractive(code_rounds())]).await?;
    let (home, daemon) = start_daemon(&server.tunnel_toml("t")?).await?;
    let mut watch = daemon.watch().await?;
    wait_prompt(&mut watch, "t").await?;
    // An empty stdin answers nothing.
    home.ctl(&["answer", "t"]).await?.expect_exit(1)?;
    wait_prompt(&mut watch, "t").await?;
    let mut command = home.command("tunnelctl")?;
    let mut child = command
        .args(["answer", "t"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().context("a stdin")?;
    stdin.write_all(b"pw\np42\n123456\n").await?;
    drop(stdin);
    let output = within(LONG, "the answers", child.wait_with_output()).await??;
    let stderr = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.code() == Some(0), "{stderr}");
    assert_eq!(stderr, "t answered\nt answered\nt up\n");
    assert_eq!(server.attempts(), ["keyboard right"]);
    Ok(())
}

#[tokio::test]
async fn a_key_and_a_code_form_one_login() -> Result<()> {
    let server = PromptingServer::start(vec![
        AuthFactor::PublicKey,
        AuthFactor::KeyboardInteractive(code_rounds()),
    ])
    .await?;
    let answers = "answers = [{ prompt = \"Password\", command = [\"echo\", \"pw\"] }, { prompt = \"Project\", command = [\"echo\", \"p42\"] }, { prompt = \"code\", command = [\"echo\", \"123456\"] }]\n";
    let (_home, daemon) = start_daemon(&format!("{}{answers}", server.tunnel_toml("t")?)).await?;
    daemon.wait_up("t").await?;
    assert_eq!(server.attempts(), ["key right", "keyboard right"]);
    Ok(())
}

#[tokio::test]
async fn sshd_requires_a_key_and_a_password() -> Result<()> {
    if !root::available("give sshd its own /etc/shadow")? {
        return Ok(());
    }
    let server = Sshd::start_with(SshdOptions::key_and_password("lab pass")).await?;
    let text = format!(
        "{}password_command = [\"echo\", \"lab pass\"]\n",
        server.tunnel_toml("t")?
    );
    let (_home, daemon) = start_daemon(&text).await?;
    daemon.wait_up("t").await?;
    let log = server.log()?;
    log.wait("Accepted password", LONG).await?;
    assert_eq!(log.count_after(0, "Accepted password"), 1, "{}", log.text());
    assert_eq!(log.count_after(0, "Failed password"), 0, "{}", log.text());
    Ok(())
}

#[tokio::test]
async fn tunnels_to_one_host_share_one_prompt() -> Result<()> {
    let server = PromptingServer::start(vec![AuthFactor::Password("pw")]).await?;
    let text = format!(
        "{}{}",
        server.tunnel_toml("one")?,
        server.tunnel_toml("two")?
    );
    let (_home, daemon) = start_daemon(&text).await?;
    let mut watch = daemon.watch().await?;
    let first = within(LONG, "a prompt", async {
        loop {
            let prompt = watch
                .tunnels()
                .values()
                .find_map(|tunnel| tunnel.prompt.clone());
            if let Some(prompt) = prompt {
                return anyhow::Ok(prompt);
            }
            watch.next(LONG).await?;
        }
    })
    .await??;
    let prompts = open_prompts(&daemon).await?;
    assert_eq!(prompts.len(), 1, "{prompts:?}");
    answer_prompt(&daemon, &first, &["pw"]).await?;
    let mut answered = 1;
    within(LONG, "both to be up", async {
        while !watch.tunnels().values().all(is_up) {
            if let Some(EventBody::Prompt { prompt }) = watch.next(LONG).await?
                && prompt.id != first.id
            {
                answer_prompt(&daemon, &prompt, &["pw"]).await?;
                answered += 1;
            }
        }
        anyhow::Ok(())
    })
    .await??;
    assert_eq!(answered, 1);
    Ok(())
}

/// Disconnects every client during a prompt, and waits until the daemon has noticed. The prompt stays open.
async fn disconnect_during_prompt(server: &PromptingServer, daemon: &Daemon) -> Result<()> {
    let mark = daemon.log().mark();
    server.disconnect_all();
    let line = "the server closed the connection while the prompt was open";
    daemon.log().wait_after(mark, line, LONG).await?;
    Ok(())
}

/// Waits until the tunnel is up; fails if it prompts again after `answered` instead.
async fn until_up_without_prompt(
    watch: &mut EventWatch,
    name: &str,
    answered: &Prompt,
) -> Result<()> {
    let settled = |tunnel: &TunnelStatus| is_up(tunnel) || has_prompt_after(answered)(tunnel);
    let tunnel = watch.until(name, LONG, settled).await?;
    assert!(is_up(&tunnel), "prompted twice: {tunnel:?}");
    Ok(())
}

#[tokio::test]
async fn a_password_given_after_a_disconnect_is_used_for_the_next_login() -> Result<()> {
    let server = PromptingServer::start(vec![AuthFactor::Password("pw")]).await?;
    let (_home, daemon) = start_daemon(&server.tunnel_toml("t")?).await?;
    let mut watch = daemon.watch().await?;
    let first = wait_prompt(&mut watch, "t").await?;
    answer_prompt(&daemon, &first, &["wrong"]).await?;
    let second = wait_next_prompt(&mut watch, "t", &first).await?;
    disconnect_during_prompt(&server, &daemon).await?;
    assert_eq!(open_prompts(&daemon).await?, std::slice::from_ref(&second));
    answer_prompt(&daemon, &second, &["pw"]).await?;
    until_up_without_prompt(&mut watch, "t", &second).await?;
    assert_eq!(server.attempts(), ["password wrong", "password right"]);
    Ok(())
}

#[tokio::test]
async fn a_code_given_after_a_disconnect_is_prompted_again() -> Result<()> {
    let rounds = vec![PromptRound {
        instructions: "",
        prompts: vec![("Verification code: ", false, "222222")],
    }];
    let server = PromptingServer::start(vec![AuthFactor::KeyboardInteractive(rounds)]).await?;
    let (_home, daemon) = start_daemon(&server.tunnel_toml("t")?).await?;
    let mut watch = daemon.watch().await?;
    let first = wait_prompt(&mut watch, "t").await?;
    disconnect_during_prompt(&server, &daemon).await?;
    answer_prompt(&daemon, &first, &["111111"]).await?;
    let second = wait_next_prompt(&mut watch, "t", &first).await?;
    assert!(server.attempts().is_empty(), "{:?}", server.attempts());
    answer_prompt(&daemon, &second, &["222222"]).await?;
    watch.until("t", LONG, is_up).await?;
    Ok(())
}

#[tokio::test]
async fn an_unlocked_key_and_a_trusted_host_survive_a_disconnect() -> Result<()> {
    let server = PromptingServer::start(vec![AuthFactor::PublicKey]).await?;
    let home = Home::new()?;
    let key = home.path("locked");
    keys::generate_encrypted(&key, "ed25519", "open sesame").await?;
    let known = home.path("known");
    let text = server.tunnel_toml("t")?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.retain(|line| !line.starts_with("identity_file") && !line.starts_with("user_known"));
    lines.push(format!("identity_file = \"{}\"", key.display()));
    lines.push(format!("user_known_hosts_file = \"{}\"", known.display()));
    lines.push("strict_host_key_checking = \"ask\"".into());
    home.write("t.toml", &lines.join("\n"))?;
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    let host_key = wait_prompt(&mut watch, "t").await?;
    assert_eq!(host_key.kind, PromptKind::HostKey);
    disconnect_during_prompt(&server, &daemon).await?;
    answer_prompt(&daemon, &host_key, &["yes"]).await?;
    let passphrase = wait_next_prompt(&mut watch, "t", &host_key).await?;
    assert_eq!(passphrase.kind, PromptKind::Passphrase, "{passphrase:?}");
    disconnect_during_prompt(&server, &daemon).await?;
    answer_prompt(&daemon, &passphrase, &["open sesame"]).await?;
    until_up_without_prompt(&mut watch, "t", &passphrase).await
}

#[tokio::test]
async fn a_server_that_disconnects_after_a_password_is_retried_slowly() -> Result<()> {
    let server = PromptingServer::start(vec![AuthFactor::DisconnectOnPassword]).await?;
    let text = format!(
        "{}password_command = [\"echo\", \"pw\"]\nbackoff = {{ initial = \"100ms\", max = \"100ms\" }}\n",
        server.tunnel_toml("t")?
    );
    let (_home, daemon) = start_daemon(&text).await?;
    let tunnel = daemon.wait_for("t", LONG, is_waiting).await?;
    let error = tunnel.last_error.context("an error")?;
    assert_eq!(error.kind.as_str(), "auth_refused", "{error:?}");
    // The wait after a refused login, not the configured backoff of 100 ms.
    let wait = tunnel.retry_at.context("a time")?.duration_since(error.at);
    assert!(wait.as_secs() >= 29, "{wait}");
    assert_eq!(server.attempts(), ["password wrong"]);
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_silent_in_the_login_for_longer_than_connect_timeout_is_waited_for()
-> Result<()> {
    let factor = AuthFactor::SlowPassword("pw", Duration::from_secs(2));
    let server = PromptingServer::start(vec![factor]).await?;
    let text = format!(
        "{}password_command = [\"echo\", \"pw\"]\nconnect_timeout = \"1s\"\n",
        server.tunnel_toml("t")?
    );
    let (_home, daemon) = start_daemon(&text).await?;
    daemon.wait_up("t").await?;
    assert_eq!(server.attempts(), ["password right"]);
    Ok(())
}

#[tokio::test]
async fn a_login_that_times_out_after_a_password_is_retried_slowly() -> Result<()> {
    let factor = AuthFactor::SlowPassword("pw", LONG * 100);
    let server = PromptingServer::start(vec![factor]).await?;
    let text = format!(
        "{}password_command = [\"echo\", \"pw\"]\nlogin_timeout = \"1s\"\n",
        server.tunnel_toml("t")?
    );
    let (_home, daemon) = start_daemon(&text).await?;
    let tunnel = daemon.wait_for("t", LONG, is_waiting).await?;
    let error = tunnel.last_error.context("an error")?;
    assert_eq!(error.kind.as_str(), "auth_refused", "{error:?}");
    let hint = error.hint.context("a hint")?;
    assert!(hint.contains("login_timeout"), "{hint}");
    let wait = tunnel.retry_at.context("a time")?.duration_since(error.at);
    assert!(wait.as_secs() >= 29, "{wait}");
    assert_eq!(server.attempts(), ["password right"]);
    Ok(())
}

#[tokio::test]
async fn a_keyboard_interactive_password_is_used_for_the_waiting_tunnels() -> Result<()> {
    let rounds = vec![PromptRound {
        instructions: "",
        prompts: vec![("Password: ", false, "pw")],
    }];
    let server = PromptingServer::start(vec![AuthFactor::KeyboardInteractive(rounds)]).await?;
    let names = ["one", "two", "three"];
    let text: Vec<String> = names
        .iter()
        .map(|name| server.tunnel_toml(name))
        .collect::<Result<_>>()?;
    let (_home, daemon) = start_daemon(&text.concat()).await?;
    let mut watch = daemon.watch().await?;
    // The tunnels share the prompt, whichever of them connected first.
    let prompt = watch
        .until("three", LONG, has_prompt)
        .await?
        .prompt
        .context("no prompt")?;
    answer_prompt(&daemon, &prompt, &["pw"]).await?;
    for name in names {
        until_up_without_prompt(&mut watch, name, &prompt).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_expired_password_is_changed_during_the_login() -> Result<()> {
    // asyncssh sends SSH_MSG_USERAUTH_PASSWD_CHANGEREQ for this user (RFC 4252 §8).
    let server = Asyncssh::start(1 << 30).await?;
    let text = server.tunnel_toml("t")?.replacen("lab@", "expired@", 1)
        + "preferred_authentications = \"password\"\n";
    let (_home, daemon) = start_daemon(&text).await?;
    let mut watch = daemon.watch().await?;
    let mut prompt = wait_prompt(&mut watch, "t").await?;
    assert_eq!(prompt.kind, PromptKind::Password);
    // The old password, two different new ones, and a new one that the server refuses.
    for (answers, expected_text) in [
        (&["lab pass"][..], "too old"),
        (&["one thing", "another"], "The two passwords differ"),
        (&["too short", "too short"], "too short"),
    ] {
        answer_prompt(&daemon, &prompt, answers).await?;
        prompt = wait_next_prompt(&mut watch, "t", &prompt).await?;
        assert_eq!(prompt.kind, PromptKind::NewPassword);
        assert!(prompt.text.contains(expected_text), "{prompt:?}");
        assert!(prompt.fields.iter().all(|field| !field.echo));
    }
    answer_prompt(&daemon, &prompt, &["new pass", "new pass"]).await?;
    watch.until("t", LONG, is_up).await?;
    let log = daemon.log().text();
    assert!(!log.contains("new pass") && !log.contains("lab pass"));
    Ok(())
}
