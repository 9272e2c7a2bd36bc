//! Host keys: asked about, learnt, certified.

use anyhow::{Context, Result};
use serde_json::json;
use tunneld_proto::message::Prompts;
use tunneld_proto::status::{Prompt, PromptKind, State, TunnelStatus};
use tunneld_tests::daemon::Daemon;
use tunneld_tests::faulty_link::Link;
use tunneld_tests::home::Home;
use tunneld_tests::keys;
use tunneld_tests::sshd::{Setup, Sshd};
use tunneld_tests::wait::{LONG, within};

use crate::fixture::session_since;

fn settled(tunnel: &TunnelStatus) -> bool {
    matches!(tunnel.state, State::Up | State::Failed)
}

/// The question outlives the server that hung up, and its answer counts for that very key alone.
#[tokio::test]
async fn a_server_that_disconnects_during_the_host_key_prompt_is_reconnected_with_the_answer()
-> Result<()> {
    let mut server = Sshd::start().await?;
    let mut link = Link::to(server.addr()).await?;
    let home = Home::new()?;
    let text = server.tunnel_at("t", link.port())?;
    let line = |line: &&str| line.starts_with("user_known");
    let line = text.lines().find(line).context("a line")?;
    let new = format!(
        "user_known_hosts_file = \"{}\"\nstrict_host_key_checking = \"ask\"",
        home.path("known").display()
    );
    home.write("t.toml", &text.replace(line, &new))?;
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    let asks = |tunnel: &TunnelStatus| tunnel.prompt.is_some();
    let hung_up = |tunnel: &TunnelStatus| tunnel.prompt.is_some() && tunnel.last_error.is_some();
    let yes = |id| json!({"id": id, "answers": ["yes"]});

    let first = watch.until("t", LONG, asks).await?;
    let first = first.prompt.context("a prompt")?;
    link.close();
    let tunnel = watch.until("t", LONG, hung_up).await?;
    assert_eq!(tunnel.state, State::NeedsInput);
    assert_eq!(tunnel.prompt.as_ref(), Some(&first));
    link.wait_live(0, LONG).await?;
    server.change_host_keys().await?;
    daemon.call("prompt.answer", yes(first.id)).await?;
    let other =
        |tunnel: &TunnelStatus| tunnel.prompt.as_ref().is_some_and(|now| now.id != first.id);
    let second = watch.until("t", LONG, other).await?.prompt;
    let second = second.context("a prompt")?;
    assert_ne!(second.fingerprint, first.fingerprint);

    link.reset();
    let again = |now: &TunnelStatus| {
        let at = |tunnel: &TunnelStatus| tunnel.last_error.as_ref().map(|error| error.at);
        at(now) != at(&tunnel)
    };
    watch.until("t", LONG, again).await?;
    daemon.call("prompt.answer", yes(second.id)).await?;
    let settled = watch.until("t", LONG, settled).await?;
    assert_eq!(settled.state, State::Up, "{settled:#?}");
    Ok(())
}

#[tokio::test]
async fn an_unknown_host_key_is_prompted_with_its_fingerprint() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    let known = home.path("known");
    let asks = |name: &str, port: u16| -> Result<String> {
        let text = server.tunnel_at(name, port)?;
        let line = text
            .lines()
            .find(|line| line.starts_with("user_known"))
            .context("a line")?;
        let new = format!(
            "user_known_hosts_file = \"{}\"\nstrict_host_key_checking = \"ask\"",
            known.display()
        );
        Ok(text.replace(line, &new))
    };
    home.write("t.toml", &asks("t", server.port())?)?;
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    let needs = |tunnel: &TunnelStatus| tunnel.state == State::NeedsInput;
    let tunnel = watch.until("t", LONG, needs).await?;
    let prompt = tunnel.prompt.context("a prompt")?;
    assert_eq!(prompt.kind, PromptKind::HostKey);
    let print = keys::fingerprint(&server.host_key("ed25519")).await?;
    assert_eq!(prompt.fingerprint.as_deref(), Some(print.as_str()));
    assert!(prompt.text.contains(&print), "{prompt:?}");
    assert_eq!(server.log()?.count_after(0, "userauth-request"), 0);

    let wrong = json!({"id": prompt.id, "answers": ["perhaps"]});
    let error = daemon.rpc().await?.call("prompt.answer", wrong).await?;
    assert_eq!(
        error.expect_err("no answer").data.kind.as_str(),
        "invalid_answer"
    );
    let right = json!({"id": prompt.id, "answers": [print]});
    daemon.call("prompt.answer", right).await?;
    let up = watch
        .until("t", LONG, |tunnel| tunnel.state == State::Up)
        .await?;
    let learnt = std::fs::read_to_string(&known)?;
    assert_eq!(learnt.lines().count(), 1, "{learnt}");
    // The next session finds it known.
    server.kill_sessions()?;
    watch
        .until("t", LONG, |tunnel| {
            tunnel.state == State::Up && session_since(tunnel) != session_since(&up)
        })
        .await?;

    std::fs::remove_file(&known)?;
    home.ctl(&["restart", "t", "--no-wait"]).await.ok();
    let tunnel = watch.until("t", LONG, needs).await?;
    let no = json!({"id": tunnel.prompt.context("a prompt")?.id, "answers": ["no"]});
    daemon.call("prompt.answer", no).await?;
    let failed = |tunnel: &TunnelStatus| tunnel.state == State::Failed;
    let tunnel = watch.until("t", LONG, failed).await?;
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
        keys::run("ssh-keygen", &args).await
    };
    sign("127.0.0.1").await?;
    let line = format!(
        "HostCertificate {}/host_ed25519-cert.pub",
        server.dir().display()
    );
    server.stop().await?;
    server.setup_mut().lines.push(line);
    server.resume().await?;
    let text = server.tunnel("t")?;
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
    let server = Sshd::with(Setup {
        host_keys: vec!["ed25519".into(), "ecdsa".into(), "rsa".into()],
        ..Setup::default()
    })
    .await?;
    let home = Home::new()?;
    let text = server.tunnel("t")?;
    let known = server.dir().join(format!("known_hosts_{}", server.port()));
    let whole = std::fs::read_to_string(&known)?;
    let first = whole.lines().next().context("a line")?.to_owned() + "\n";
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
    let update = async |daemon: &Daemon| -> Result<Prompt> {
        within(LONG, "a prompt", async {
            loop {
                let list = daemon.call("prompt.list", json!({})).await?;
                let list: Prompts = serde_json::from_value(list)?;
                if let Some(prompt) = list.prompts.into_iter().next() {
                    return anyhow::Ok(prompt);
                }
                tokio::task::yield_now().await;
            }
        })
        .await?
    };
    let asked = update(&daemon).await?;
    assert_eq!(asked.kind, PromptKind::HostKeyUpdate);
    for kind in ["ecdsa", "rsa"] {
        let print = keys::fingerprint(&server.host_key(kind)).await?;
        assert!(asked.text.contains(&print), "{asked:?}");
    }
    assert_eq!(daemon.status("t").await?.state, State::Up);
    assert_eq!(std::fs::read_to_string(&known)?, first);
    let told = "run: tunnelctl answer t";
    assert_eq!(
        daemon.log().count_after(0, told),
        1,
        "{}",
        daemon.log().text()
    );

    // It goes with its session, and the next one asks anew; no is no.
    server.kill_sessions()?;
    let other = within(LONG, "another prompt", async {
        loop {
            let prompt = update(&daemon).await?;
            if prompt.id != asked.id {
                return anyhow::Ok(prompt);
            }
        }
    })
    .await??;
    let wrong = json!({"id": other.id, "answers": ["so"]});
    let error = daemon.rpc().await?.call("prompt.answer", wrong).await?;
    assert!(error.is_err());
    daemon
        .call("prompt.answer", json!({"id": other.id, "answers": ["no"]}))
        .await?;
    assert_eq!(std::fs::read_to_string(&known)?, first);
    home.ctl(&["restart", "t"]).await?.expect(0)?;
    let last = update(&daemon).await?;
    daemon
        .call("prompt.answer", json!({"id": last.id, "answers": ["yes"]}))
        .await?;
    daemon
        .log()
        .wait("the host has proven a further key: RSA", LONG)
        .await?;
    let mut learnt: Vec<String> = std::fs::read_to_string(&known)?
        .lines()
        .map(str::to_owned)
        .collect();
    let mut all: Vec<String> = whole.lines().map(str::to_owned).collect();
    learnt.sort();
    all.sort();
    assert_eq!(learnt, all);
    assert!(!hook.exists(), "nothing waited for that answer");
    Ok(())
}
