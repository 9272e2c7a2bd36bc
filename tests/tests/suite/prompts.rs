//! Logins that ask: passwords, codes, several factors; answered by commands or by a person.

use anyhow::{Context, Result};
use serde_json::json;
use tunneld_proto::message::{EventBody, Prompts};
use tunneld_proto::status::{ForwardKind, PromptKind, State, TunnelStatus};
use tunneld_tests::asking::{Asking, Factor, Round};
use tunneld_tests::daemon::listen;
use tunneld_tests::payload;
use tunneld_tests::sshd::{Setup, Sshd};
use tunneld_tests::target::Target;
use tunneld_tests::wait::{LONG, within};

use crate::scene::{answer, home, prompt, tcp, up};

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
    let other = |tunnel: &TunnelStatus| {
        tunnel
            .prompt
            .as_ref()
            .is_some_and(|prompt| prompt.id != first.id)
    };
    let second = watch
        .until("t", LONG, other)
        .await?
        .prompt
        .context("a prompt")?;
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
    let other = |tunnel: &TunnelStatus| {
        tunnel
            .prompt
            .as_ref()
            .is_some_and(|prompt| prompt.id != first.id)
    };
    let second = watch
        .until("person", LONG, other)
        .await?
        .prompt
        .context("a prompt")?;
    answer(&daemon, &second, &["123456"]).await?;
    watch.until("person", LONG, up).await?;
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
    assert!(answered <= 2);
    Ok(())
}
