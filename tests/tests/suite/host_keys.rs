//! Host keys: prompts for unknown ones, host certificates, and additional keys that a server offers.

use anyhow::{Context, Result};
use serde_json::json;
use tunneld_proto::status::{Prompt, PromptKind, State, TunnelStatus};
use tunneld_tests::daemon::Daemon;
use tunneld_tests::faulty_link::FaultyLink;
use tunneld_tests::home::Home;
use tunneld_tests::keys;
use tunneld_tests::process::run_tool;
use tunneld_tests::sshd::{Sshd, SshdOptions};
use tunneld_tests::wait::{LONG, within};

use crate::fixture::{
    answer_prompt, has_error, has_prompt, in_new_session, is_failed, is_up, open_prompts,
    wait_next_prompt, wait_prompt, with_known_hosts,
};

fn settled(tunnel: &TunnelStatus) -> bool {
    matches!(tunnel.state, State::Up | State::Failed)
}

/// The prompt stays open after the server has disconnected, and its answer counts only for the key that it showed.
#[tokio::test]
async fn a_server_that_disconnects_during_the_host_key_prompt_is_reconnected_with_the_answer()
-> Result<()> {
    let mut server = Sshd::start().await?;
    let mut link = FaultyLink::to(server.addr()).await?;
    let home = Home::new()?;
    let text = server.tunnel_toml_at("t", link.port())?;
    let text = with_known_hosts(&text, &home.path("known"), "ask");
    home.write("t.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    let disconnected = |tunnel: &TunnelStatus| has_prompt(tunnel) && has_error(tunnel);

    let first = watch.until("t", LONG, has_prompt).await?;
    let first = first.prompt.context("a prompt")?;
    link.close_all();
    let tunnel = watch.until("t", LONG, disconnected).await?;
    assert_eq!(tunnel.state, State::NeedsInput);
    assert_eq!(tunnel.prompt.as_ref(), Some(&first));
    // The server's keys change only after the daemon has lost the connection.
    link.wait_connections(0, LONG).await?;
    server.change_host_keys().await?;
    answer_prompt(&daemon, &first, &["yes"]).await?;
    let second = wait_next_prompt(&mut watch, "t", &first).await?;
    assert_ne!(second.fingerprint, first.fingerprint);

    link.reset_all();
    let error_time = |tunnel: &TunnelStatus| tunnel.last_error.as_ref().map(|error| error.at);
    let failed_again = |now: &TunnelStatus| error_time(now) != error_time(&tunnel);
    watch.until("t", LONG, failed_again).await?;
    answer_prompt(&daemon, &second, &["yes"]).await?;
    let settled = watch.until("t", LONG, settled).await?;
    assert_eq!(settled.state, State::Up, "{settled:#?}");
    Ok(())
}

#[tokio::test]
async fn an_unknown_host_key_is_prompted_with_its_fingerprint() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    let known = home.path("known");
    let text = with_known_hosts(&server.tunnel_toml("t")?, &known, "ask");
    home.write("t.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    let prompt = wait_prompt(&mut watch, "t").await?;
    assert_eq!(prompt.kind, PromptKind::HostKey);
    let fingerprint = keys::fingerprint(&server.host_key("ed25519")).await?;
    assert_eq!(prompt.fingerprint.as_deref(), Some(fingerprint.as_str()));
    assert!(prompt.text.contains(&fingerprint), "{prompt:?}");
    assert_eq!(server.log()?.count_after(0, "userauth-request"), 0);

    let wrong = json!({"id": prompt.id, "answers": ["perhaps"]});
    let error = daemon.rpc().await?.call("prompt.answer", wrong).await?;
    assert_eq!(
        error.expect_err("no answer").data.kind.as_str(),
        "invalid_answer"
    );
    // As with ssh, the fingerprint itself is an answer.
    answer_prompt(&daemon, &prompt, &[&fingerprint]).await?;
    let up = watch.until("t", LONG, is_up).await?;
    let saved = std::fs::read_to_string(&known)?;
    assert_eq!(saved.lines().count(), 1, "{saved}");
    // The next session needs no prompt.
    server.kill_sessions()?;
    watch.until("t", LONG, in_new_session(&up)).await?;

    std::fs::remove_file(&known)?;
    home.ctl(&["restart", "t", "--no-wait"]).await.ok();
    let prompt = wait_prompt(&mut watch, "t").await?;
    answer_prompt(&daemon, &prompt, &["no"]).await?;
    let tunnel = watch.until("t", LONG, is_failed).await?;
    assert_eq!(
        tunnel.last_error.context("an error")?.kind.as_str(),
        "host_key_unknown"
    );
    Ok(())
}

#[tokio::test]
async fn a_host_certificate_is_trusted_through_its_authority() -> Result<()> {
    let mut server = Sshd::start().await?;
    let ca = server.dir().join("ca");
    keys::generate(&ca, "ed25519").await?;
    let sign = async |principal: &str| {
        let key = server.host_key("ed25519");
        let (ca, key) = (ca.display().to_string(), key.display().to_string());
        let args = ["-q", "-s", &ca, "-I", "host", "-h", "-n", principal, &key];
        run_tool("ssh-keygen", &args).await
    };
    sign("127.0.0.1").await?;
    let line = format!(
        "HostCertificate {}/host_ed25519-cert.pub",
        server.dir().display()
    );
    server.stop().await?;
    server.options_mut().config_lines.push(line);
    server.start_again().await?;
    let text = server.tunnel_toml("t")?;
    let known = server.dir().join(format!("known_hosts_{}", server.port()));
    let public = std::fs::read_to_string(ca.with_extension("pub"))?;
    std::fs::write(&known, format!("@cert-authority [127.0.0.1]:* {public}"))?;
    let home = Home::new()?;
    home.write("t.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    daemon.wait_up("t").await?;
    Ok(())
}

#[tokio::test]
async fn additional_host_keys_are_prompted_while_the_tunnel_is_up() -> Result<()> {
    let server = Sshd::start_with(SshdOptions {
        host_keys: vec!["ed25519".into(), "ecdsa".into(), "rsa".into()],
        ..SshdOptions::default()
    })
    .await?;
    let home = Home::new()?;
    let text = server.tunnel_toml("t")?;
    let known = server.dir().join(format!("known_hosts_{}", server.port()));
    let all_lines = std::fs::read_to_string(&known)?;
    let first = all_lines.lines().next().context("a line")?.to_owned() + "\n";
    std::fs::write(&known, &first)?;
    let hook = home.path("hook-ran");
    home.write(
        "t.toml",
        &format!(
            "{text}update_host_keys = \"ask\"\non_needs_input = [\"touch\", \"{}\"]\n",
            hook.display()
        ),
    )?;
    let daemon = Daemon::start(&home).await?;
    daemon.wait_up("t").await?;
    // The tunnel is up, so this prompt is not in its status.
    let update_prompt = async |daemon: &Daemon| -> Result<Prompt> {
        within(LONG, "a prompt", async {
            loop {
                if let Some(prompt) = open_prompts(daemon).await?.into_iter().next() {
                    return anyhow::Ok(prompt);
                }
                tokio::task::yield_now().await;
            }
        })
        .await?
    };
    let first_prompt = update_prompt(&daemon).await?;
    assert_eq!(first_prompt.kind, PromptKind::HostKeyUpdate);
    for kind in ["ecdsa", "rsa"] {
        let fingerprint = keys::fingerprint(&server.host_key(kind)).await?;
        assert!(first_prompt.text.contains(&fingerprint), "{first_prompt:?}");
    }
    assert_eq!(daemon.status("t").await?.state, State::Up);
    assert_eq!(std::fs::read_to_string(&known)?, first);
    let hint = "run: tunnelctl answer t";
    assert_eq!(
        daemon.log().count_after(0, hint),
        1,
        "{}",
        daemon.log().text()
    );

    // The prompt is cancelled with its session, and the next session prompts again.
    server.kill_sessions()?;
    let second_prompt = within(LONG, "another prompt", async {
        loop {
            let prompt = update_prompt(&daemon).await?;
            if prompt.id != first_prompt.id {
                return anyhow::Ok(prompt);
            }
        }
    })
    .await??;
    let wrong = json!({"id": second_prompt.id, "answers": ["so"]});
    let error = daemon.rpc().await?.call("prompt.answer", wrong).await?;
    assert!(error.is_err());
    answer_prompt(&daemon, &second_prompt, &["no"]).await?;
    assert_eq!(std::fs::read_to_string(&known)?, first);
    home.ctl(&["restart", "t"]).await?.expect_exit(0)?;
    let last_prompt = update_prompt(&daemon).await?;
    answer_prompt(&daemon, &last_prompt, &["yes"]).await?;
    daemon
        .log()
        .wait("the host has proven further keys: ", LONG)
        .await?;
    let mut saved: Vec<String> = std::fs::read_to_string(&known)?
        .lines()
        .map(str::to_owned)
        .collect();
    let mut all: Vec<String> = all_lines.lines().map(str::to_owned).collect();
    saved.sort();
    all.sort();
    assert_eq!(saved, all);
    assert!(!hook.exists(), "the hook ran though the tunnel was up");
    Ok(())
}
