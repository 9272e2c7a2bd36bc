//! Which server an answer may reach: only the one whose accepted host key it was typed for, whatever its address says.

use anyhow::Result;
use tunneld_proto::status::{PromptKind, TunnelStatus};
use tunneld_tests::home::Home;
use tunneld_tests::prompting_server::{AuthFactor, PromptRound, PromptingServer};
use tunneld_tests::wait::LONG;

use crate::fixture::{answer_prompt, is_up, start_daemon};

/// A tunnel to `alice@10.9.9.9:22`, an address that its proxy_command leads to `server`.
fn tunnel_toml(home: &Home, name: &str, server: &PromptingServer) -> String {
    format!(
        "[tunnel.{name}]\nhost = \"alice@10.9.9.9:22\"\nproxy_command = \"nc 127.0.0.1 {}\"\nhost_key_alias = \"{name}\"\nidentity_file = \"none\"\nstrict_host_key_checking = \"accept-new\"\nuser_known_hosts_file = \"{}\"\n",
        server.port(),
        home.path("known").display()
    )
}

/// The methods that ask for the password `secret`.
fn password_factors(secret: &'static str) -> [AuthFactor; 2] {
    let round = PromptRound {
        instructions: "",
        prompts: vec![("Password: ", false, secret)],
    };
    [
        AuthFactor::Password(secret),
        AuthFactor::KeyboardInteractive(vec![round]),
    ]
}

/// Whether the tunnel waits for its own prompt about a login, or is up without one.
fn asks_or_is_up(tunnel: &TunnelStatus) -> bool {
    let kinds = [PromptKind::Password, PromptKind::KeyboardInteractive];
    is_up(tunnel)
        || tunnel
            .prompt
            .as_ref()
            .is_some_and(|prompt| kinds.contains(&prompt.kind))
}

#[tokio::test]
async fn a_pending_answer_serves_no_second_server_with_the_same_address() -> Result<()> {
    for (factor, other) in password_factors("pw one")
        .into_iter()
        .zip(password_factors("pw two"))
    {
        let one = PromptingServer::start(vec![factor]).await?;
        let two = PromptingServer::start(vec![other]).await?;
        let files = Home::without_config()?;
        let text = tunnel_toml(&files, "one", &one) + &tunnel_toml(&files, "two", &two);
        let (_home, daemon) = start_daemon(&text).await?;
        let mut watch = daemon.watch().await?;
        for name in ["one", "two"] {
            let tunnel = watch.until(name, LONG, asks_or_is_up).await?;
            let prompt = tunnel.prompt.expect("a prompt");
            assert_eq!(
                prompt.tunnel, name,
                "it waits for the other server's answer"
            );
        }
        for (name, secret) in [("one", "pw one"), ("two", "pw two")] {
            let prompt = watch.until(name, LONG, asks_or_is_up).await?.prompt;
            answer_prompt(&daemon, &prompt.expect("a prompt"), &[secret]).await?;
            watch.until(name, LONG, is_up).await?;
        }
        for server in [one, two] {
            let attempts = server.attempts();
            assert!(
                attempts.len() == 1 && attempts[0].ends_with("right"),
                "{attempts:?}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_recent_answer_serves_no_second_server_with_the_same_address() -> Result<()> {
    for (factor, other) in password_factors("pw one")
        .into_iter()
        .zip(password_factors("pw two"))
    {
        let one = PromptingServer::start(vec![factor]).await?;
        let two = PromptingServer::start(vec![other]).await?;
        let files = Home::without_config()?;
        let text = tunnel_toml(&files, "one", &one)
            + &tunnel_toml(&files, "two", &two)
            + "autostart = false\n";
        let (home, daemon) = start_daemon(&text).await?;
        let mut watch = daemon.watch().await?;
        for (name, secret) in [("one", "pw one"), ("two", "pw two")] {
            home.ctl(&["up", name, "--no-wait"]).await?.expect_exit(0)?;
            let prompt = watch.until(name, LONG, asks_or_is_up).await?.prompt;
            answer_prompt(&daemon, &prompt.expect("a prompt"), &[secret]).await?;
            watch.until(name, LONG, is_up).await?;
        }
        for server in [one, two] {
            let attempts = server.attempts();
            assert!(
                attempts.len() == 1 && attempts[0].ends_with("right"),
                "{attempts:?}"
            );
        }
    }
    Ok(())
}
