//! Logins that ask: passwords, codes, several factors; answered by commands or by a person.

use std::process::Stdio;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tunneld_proto::message::{EventBody, Prompts};
use tunneld_proto::status::{ForwardKind, Prompt, PromptKind, State, TunnelStatus};
use tunneld_tests::asking::{Asking, Factor, Round};
use tunneld_tests::asyncssh::Asyncssh;
use tunneld_tests::daemon::{Daemon, listen};
use tunneld_tests::home::Home;
use tunneld_tests::sshd::{Setup, Sshd};
use tunneld_tests::target::Target;
use tunneld_tests::wait::{LONG, within};
use tunneld_tests::{keys, payload};

use crate::scene::{answer, home, next_prompt, prompt, tcp, up};

#[tokio::test]
async fn password_by_command_and_by_prompt_carries_bytes() -> Result<()> {
    let server = Asking::start(vec![Factor::Password("s3cret")]).await?;
    let target = Target::echo().await?;
    let forward = format!("local_forward = \"0 127.0.0.1:{}\"\n", target.port());
    let text = format!(
        "{}{forward}password_command = [\"echo\", \"s3cret\"]\n{}{forward}autostart = false\n",
        server.tunnel("command")?,
        server.tunnel("person")?
    );
    let (home, daemon) = home(&text).await?;
    let tunnel = daemon.wait_up("command").await?;
    let data = payload::random(70, 1 << 20);
    let stream = tcp(listen(&tunnel, ForwardKind::Local)?).await?;
    payload::same(&data, &payload::exchange(stream, &data).await?)?;
    let mut watch = daemon.watch().await?;
    home.ctl(&["up", "person", "--no-wait"]).await?.expect(0)?;
    let asked = prompt(&mut watch, "person").await?;
    assert_eq!(asked.kind, PromptKind::Password);
    assert!(!asked.fields[0].echo);
    assert!(asked.host.contains("someone@127.0.0.1"), "{asked:?}");
    answer(&daemon, &asked, &["s3cret"]).await?;
    watch.until("person", LONG, up).await?;
    assert!(!daemon.log().text().contains("s3cret"));
    Ok(())
}

#[tokio::test]
async fn an_unanswered_prompt_burns_no_attempt_and_a_wrong_one_is_asked_again() -> Result<()> {
    let server = Asking::start(vec![Factor::Password("right")]).await?;
    let (home, daemon) = home(&server.tunnel("t")?).await?;
    let mut watch = daemon.watch().await?;
    let first = prompt(&mut watch, "t").await?;
    assert!(!server.attempts().iter().any(|a| a.starts_with("password")));
    let list: Prompts = serde_json::from_value(daemon.call("prompt.list", json!({})).await?)?;
    assert_eq!(list.prompts, std::slice::from_ref(&first));
    answer(&daemon, &first, &["wrong"]).await?;
    let second = next_prompt(&mut watch, "t", &first).await?;
    assert_eq!(server.attempts(), ["password wrong"]);
    daemon
        .call("prompt.cancel", json!({"id": second.id}))
        .await?;
    let failed = |tunnel: &TunnelStatus| tunnel.state == State::Failed;
    let tunnel = watch.until("t", LONG, failed).await?;
    assert_eq!(tunnel.last_error.context("an error")?.kind, "not_answered");
    assert_eq!(server.attempts(), ["password wrong"]);
    home.ctl(&["up", "t", "--no-wait"]).await?.expect(0)?;
    let third = prompt(&mut watch, "t").await?;
    answer(&daemon, &third, &["right"]).await?;
    watch.until("t", LONG, up).await?;
    Ok(())
}

fn code_rounds() -> Vec<Round> {
    vec![
        Round {
            instructions: "Welcome to the cluster",
            prompts: vec![("Password: ", false, "pw"), ("Project: ", true, "p42")],
        },
        Round {
            instructions: "",
            prompts: vec![("Verification code: ", false, "123456")],
        },
    ]
}

#[tokio::test]
async fn keyboard_interactive_rounds_by_commands_and_by_a_person() -> Result<()> {
    let server = Asking::start(vec![Factor::Keyboard(code_rounds())]).await?;
    let answers = "answers = [{ prompt = \"(?i)^password\", command = [\"echo\", \"pw\"] }, { prompt = \"Project\", command = [\"echo\", \"p42\"] }, { prompt = \"(?i)code\", command = [\"echo\", \"123456\"] }]\n";
    let text = format!(
        "{}{answers}{}autostart = false\n",
        server.tunnel("commands")?,
        server.tunnel("person")?
    );
    let (home, daemon) = home(&text).await?;
    daemon.wait_up("commands").await?;
    home.ctl(&["up", "person", "--no-wait"]).await?.expect(0)?;
    let mut watch = daemon.watch().await?;
    let first = prompt(&mut watch, "person").await?;
    assert_eq!(first.kind, PromptKind::KeyboardInteractive);
    assert!(first.text.contains("Welcome to the cluster"), "{first:?}");
    let echo: Vec<bool> = first.fields.iter().map(|field| field.echo).collect();
    assert_eq!(echo, [false, true]);
    answer(&daemon, &first, &["pw", "p42"]).await?;
    let second = next_prompt(&mut watch, "person", &first).await?;
    answer(&daemon, &second, &["123456"]).await?;
    watch.until("person", LONG, up).await?;
    Ok(())
}

#[tokio::test]
async fn lines_of_stdin_answer_every_round() -> Result<()> {
    let server = Asking::start(vec![Factor::Keyboard(code_rounds())]).await?;
    let (home, daemon) = home(&server.tunnel("t")?).await?;
    let mut watch = daemon.watch().await?;
    prompt(&mut watch, "t").await?;
    home.ctl(&["answer", "t"]).await?.expect(1)?;
    prompt(&mut watch, "t").await?;
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
    let out = within(LONG, "the answers", child.wait_with_output()).await??;
    let talk = String::from_utf8_lossy(&out.stderr);
    anyhow::ensure!(out.status.code() == Some(0), "{talk}");
    assert_eq!(talk, "t answered\nt answered\nt up\n");
    assert_eq!(server.attempts(), ["keyboard right"]);
    Ok(())
}

#[tokio::test]
async fn key_then_code_is_one_login() -> Result<()> {
    let server = Asking::start(vec![Factor::Key, Factor::Keyboard(code_rounds())]).await?;
    let answers = "answers = [{ prompt = \"Password\", command = [\"echo\", \"pw\"] }, { prompt = \"Project\", command = [\"echo\", \"p42\"] }, { prompt = \"code\", command = [\"echo\", \"123456\"] }]\n";
    let (_home, daemon) = home(&format!("{}{answers}", server.tunnel("t")?)).await?;
    daemon.wait_up("t").await?;
    assert_eq!(server.attempts(), ["key right", "keyboard right"]);
    Ok(())
}

#[tokio::test]
async fn sshd_wants_key_and_password() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can give the server a password of its own");
        return Ok(());
    }
    let server = Sshd::with(Setup {
        lines: vec![
            "AuthenticationMethods publickey,password".into(),
            "PasswordAuthentication yes".into(),
        ],
        password: Some("lab pass".into()),
        ..Setup::default()
    })
    .await?;
    let text = format!(
        "{}password_command = [\"echo\", \"lab pass\"]\n",
        server.tunnel("t")?
    );
    let (_home, daemon) = home(&text).await?;
    daemon.wait_up("t").await?;
    let log = server.log()?;
    log.wait("Accepted password", LONG).await?;
    assert_eq!(log.count_after(0, "Accepted password"), 1, "{}", log.text());
    assert_eq!(log.count_after(0, "Failed password"), 0, "{}", log.text());
    Ok(())
}

#[tokio::test]
async fn tunnels_that_wait_for_one_host_ask_once_at_a_time() -> Result<()> {
    let server = Asking::start(vec![Factor::Password("pw")]).await?;
    let text = format!("{}{}", server.tunnel("one")?, server.tunnel("two")?);
    let (_home, daemon) = home(&text).await?;
    let mut watch = daemon.watch().await?;
    let asked = within(LONG, "a prompt", async {
        loop {
            let asks = watch
                .tunnels()
                .values()
                .find_map(|tunnel| tunnel.prompt.clone());
            if let Some(prompt) = asks {
                return anyhow::Ok(prompt);
            }
            watch.next(LONG).await?;
        }
    })
    .await??;
    let list: Prompts = serde_json::from_value(daemon.call("prompt.list", json!({})).await?)?;
    assert_eq!(list.prompts.len(), 1, "{list:?}");
    answer(&daemon, &asked, &["pw"]).await?;
    let mut answered = 1;
    within(LONG, "both to be up", async {
        while !watch.tunnels().values().all(up) {
            if let Some(EventBody::Prompt { prompt }) = watch.next(LONG).await?
                && prompt.id != asked.id
            {
                answer(&daemon, &prompt, &["pw"]).await?;
                answered += 1;
            }
        }
        anyhow::Ok(())
    })
    .await??;
    assert_eq!(answered, 1);
    Ok(())
}

fn asked_anew(old: &Prompt) -> impl Fn(&TunnelStatus) -> bool {
    move |tunnel| {
        let prompt = tunnel.prompt.as_ref();
        prompt.is_some_and(|prompt| prompt.id != old.id)
    }
}

/// Hangs up, and waits until the daemon knows: the prompt stays.
async fn hang_up(server: &Asking, daemon: &Daemon) -> Result<()> {
    let mark = daemon.log().mark();
    server.hang_up();
    let message = "the server closed the connection while the prompt was open";
    daemon.log().wait_after(mark, message, LONG).await?;
    Ok(())
}

#[tokio::test]
async fn a_password_that_comes_after_the_server_hung_up_serves_the_next_login() -> Result<()> {
    let server = Asking::start(vec![Factor::Password("pw")]).await?;
    let (_home, daemon) = home(&server.tunnel("t")?).await?;
    let mut watch = daemon.watch().await?;
    let asked = prompt(&mut watch, "t").await?;
    answer(&daemon, &asked, &["wrong"]).await?;
    let again = watch.until("t", LONG, asked_anew(&asked)).await?;
    let again = again.prompt.context("a prompt")?;
    hang_up(&server, &daemon).await?;
    let list: Prompts = serde_json::from_value(daemon.call("prompt.list", json!({})).await?)?;
    assert_eq!(list.prompts, std::slice::from_ref(&again));
    answer(&daemon, &again, &["pw"]).await?;
    let settled = |tunnel: &TunnelStatus| up(tunnel) || asked_anew(&again)(tunnel);
    let tunnel = watch.until("t", LONG, settled).await?;
    assert!(up(&tunnel), "asked twice: {tunnel:?}");
    assert_eq!(server.attempts(), ["password wrong", "password right"]);
    Ok(())
}

#[tokio::test]
async fn a_code_that_comes_after_the_server_hung_up_is_asked_for_again() -> Result<()> {
    let rounds = vec![Round {
        instructions: "",
        prompts: vec![("Verification code: ", false, "222222")],
    }];
    let server = Asking::start(vec![Factor::Keyboard(rounds)]).await?;
    let (_home, daemon) = home(&server.tunnel("t")?).await?;
    let mut watch = daemon.watch().await?;
    let asked = prompt(&mut watch, "t").await?;
    hang_up(&server, &daemon).await?;
    answer(&daemon, &asked, &["111111"]).await?;
    let again = watch.until("t", LONG, asked_anew(&asked)).await?;
    assert!(server.attempts().is_empty(), "{:?}", server.attempts());
    answer(&daemon, &again.prompt.context("a prompt")?, &["222222"]).await?;
    watch.until("t", LONG, up).await?;
    Ok(())
}

#[tokio::test]
async fn an_unlocked_key_and_a_trusted_host_survive_the_servers_hanging_up() -> Result<()> {
    let server = Asking::start(vec![Factor::Key]).await?;
    let home = Home::new()?;
    let key = home.path("locked");
    keys::generate_with(&key, "ed25519", "open sesame").await?;
    let known = home.path("known");
    let text = server.tunnel("t")?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.retain(|line| !line.starts_with("identity_file") && !line.starts_with("user_known"));
    lines.push(format!("identity_file = \"{}\"", key.display()));
    lines.push(format!("user_known_hosts_file = \"{}\"", known.display()));
    lines.push("strict_host_key_checking = \"ask\"".into());
    home.write("t.toml", &lines.join("\n"))?;
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    let host = prompt(&mut watch, "t").await?;
    assert_eq!(host.kind, PromptKind::HostKey);
    hang_up(&server, &daemon).await?;
    answer(&daemon, &host, &["yes"]).await?;
    let passphrase = watch.until("t", LONG, asked_anew(&host)).await?;
    let passphrase = passphrase.prompt.context("a prompt")?;
    assert_eq!(passphrase.kind, PromptKind::Passphrase, "{passphrase:?}");
    hang_up(&server, &daemon).await?;
    answer(&daemon, &passphrase, &["open sesame"]).await?;
    let settled = |tunnel: &TunnelStatus| up(tunnel) || asked_anew(&passphrase)(tunnel);
    let tunnel = watch.until("t", LONG, settled).await?;
    assert!(up(&tunnel), "asked twice: {tunnel:?}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_hangs_up_upon_a_password_is_not_hurried() -> Result<()> {
    let server = Asking::start(vec![Factor::HangsUp]).await?;
    let text = format!(
        "{}password_command = [\"echo\", \"pw\"]\nbackoff = {{ initial = \"100ms\", max = \"100ms\" }}\n",
        server.tunnel("t")?
    );
    let (_home, daemon) = home(&text).await?;
    let waits = |tunnel: &TunnelStatus| tunnel.state == State::Waiting;
    let tunnel = daemon.wait_for("t", LONG, waits).await?;
    let error = tunnel.last_error.context("an error")?;
    assert_eq!(error.kind, "auth_refused", "{error:?}");
    let wait = tunnel.retry_at.context("a time")?.duration_since(error.at);
    assert!(wait.as_secs() >= 29, "{wait}");
    assert_eq!(server.attempts(), ["password wrong"]);
    Ok(())
}

#[tokio::test]
async fn a_password_asked_by_keyboard_interactive_serves_the_tunnels_behind() -> Result<()> {
    let rounds = vec![Round {
        instructions: "",
        prompts: vec![("Password: ", false, "pw")],
    }];
    let server = Asking::start(vec![Factor::Keyboard(rounds)]).await?;
    let names = ["one", "two", "three"];
    let text: Vec<String> = names
        .iter()
        .map(|name| server.tunnel(name))
        .collect::<Result<_>>()?;
    let (_home, daemon) = home(&text.concat()).await?;
    let mut watch = daemon.watch().await?;
    let asks = |tunnel: &TunnelStatus| tunnel.prompt.is_some();
    let asked = watch
        .until("three", LONG, asks)
        .await?
        .prompt
        .context("a prompt")?;
    answer(&daemon, &asked, &["pw"]).await?;
    for name in names {
        let settled = |tunnel: &TunnelStatus| up(tunnel) || asked_anew(&asked)(tunnel);
        let tunnel = watch.until(name, LONG, settled).await?;
        assert!(up(&tunnel), "asked twice: {tunnel:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_expired_password_is_changed_on_the_way_in() -> Result<()> {
    let server = Asyncssh::start(1 << 30).await?;
    let text = server.tunnel("t")?.replacen("lab@", "expired@", 1)
        + "preferred_authentications = \"password\"\n";
    let (_home, daemon) = home(&text).await?;
    let mut watch = daemon.watch().await?;
    let mut asked = prompt(&mut watch, "t").await?;
    assert_eq!(asked.kind, PromptKind::Password);
    for (answers, says) in [
        (&["lab pass"][..], "too old"),
        (&["one thing", "another"], "The two differ"),
        (&["too short", "too short"], "too short"),
    ] {
        answer(&daemon, &asked, answers).await?;
        let next = watch.until("t", LONG, asked_anew(&asked)).await?;
        asked = next.prompt.context("a prompt")?;
        assert_eq!(asked.kind, PromptKind::NewPassword);
        assert!(asked.text.contains(says), "{asked:?}");
        assert!(asked.fields.iter().all(|field| !field.echo));
    }
    answer(&daemon, &asked, &["new pass", "new pass"]).await?;
    watch.until("t", LONG, up).await?;
    let log = daemon.log().text();
    assert!(!log.contains("new pass") && !log.contains("lab pass"));
    Ok(())
}
