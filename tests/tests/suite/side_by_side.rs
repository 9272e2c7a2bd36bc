//! Many tunnels that connect at the same time: a dial that only waits, for a server, an agent, a person or the network,
//! holds up no other.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use tunneld_proto::message::EventBody;
use tunneld_proto::status::{Phase, State, TunnelStatus};
use tunneld_tests::agent::Agent;
use tunneld_tests::daemon::{Daemon, EventWatch};
use tunneld_tests::home::{DEFAULTS, Home};
use tunneld_tests::process::write_script;
use tunneld_tests::prompting_server::{AuthFactor, PromptingServer};
use tunneld_tests::silent_port::SilentPort;
use tunneld_tests::sshd::{Sshd, SshdOptions};
use tunneld_tests::wait::LONG;

use crate::fixture::{answer_prompt, is_up, reconnected_since, start_daemon, wait_prompt};

/// A server that does not answer a password within any test.
async fn server_with_endless_login() -> Result<PromptingServer> {
    let factor = AuthFactor::SlowPassword("pw", Duration::from_secs(3600));
    PromptingServer::start(vec![factor]).await
}

/// The tunnels `PREFIX0`, `PREFIX1`, … to the server, each with its password.
fn password_tunnels(server: &PromptingServer, prefix: &str, count: usize) -> Result<String> {
    let table = |n| {
        let table = server.tunnel_toml(&format!("{prefix}{n}"))?;
        anyhow::Ok(table + "password_command = [\"echo\", \"pw\"]\n")
    };
    (0..count).map(table).collect()
}

fn is_in(phase: Phase) -> impl Fn(&TunnelStatus) -> bool {
    move |tunnel| tunnel.state == State::Connecting && tunnel.phase == Some(phase)
}

/// Waits until exactly `count` tunnels whose name begins with `prefix` are in this phase at the same time.
async fn until_in_phase(
    watch: &mut EventWatch,
    prefix: &str,
    phase: Phase,
    count: usize,
) -> Result<()> {
    let counted = |watch: &EventWatch| {
        let tunnels = watch.tunnels().iter();
        tunnels
            .filter(|(name, tunnel)| name.starts_with(prefix) && is_in(phase)(tunnel))
            .count()
    };
    while counted(watch) != count {
        watch.next(LONG).await?;
    }
    Ok(())
}

#[tokio::test]
async fn logins_at_one_server_run_side_by_side() -> Result<()> {
    let server = server_with_endless_login().await?;
    let (_home, daemon) = start_daemon(&password_tunnels(&server, "t", 6)?).await?;
    let mut watch = daemon.watch().await?;
    until_in_phase(&mut watch, "t", Phase::Auth, 6).await
}

#[tokio::test]
async fn a_tunnel_that_waits_for_its_turn_says_so() -> Result<()> {
    let server = server_with_endless_login().await?;
    let (_home, daemon) = start_daemon(&password_tunnels(&server, "t", 12)?).await?;
    let mut watch = daemon.watch().await?;
    // sshd drops connections at random while 10 or more are not logged in.
    until_in_phase(&mut watch, "t", Phase::Auth, 8).await?;
    until_in_phase(&mut watch, "t", Phase::Queued, 4).await
}

#[tokio::test]
async fn agents_that_wait_for_their_user_hold_up_no_other_tunnel() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    // The user never answers.
    let askpass = home.path("askpass");
    write_script(&askpass, "exec sleep 3600")?;
    // An agent for each, because OpenSSH's answers nothing else while it asks.
    let (mut agents, mut text) = (Vec::new(), String::new());
    for n in 0..10 {
        let agent = Agent::start_with_askpass(&askpass).await?;
        agent.add_with_options(&["-c"], &server.user_key()).await?;
        text += &server.tunnel_toml(&format!("touch{n}"))?;
        text += &format!("identity_agent = \"{}\"\n", agent.socket().display());
        agents.push(agent);
    }
    home.write("t.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    until_in_phase(&mut watch, "touch", Phase::Auth, 10).await?;
    let free = server.tunnel_toml("free")?;
    home.write("u.toml", &free)?;
    home.ctl(&["reload"]).await?.expect_exit(0)?;
    watch.until("free", LONG, is_up).await?;
    Ok(())
}

#[tokio::test]
async fn tunnels_with_one_agent_wait_for_its_user_together() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    let (askpass, consent) = (home.path("askpass"), home.path("consent"));
    let script = format!("until [ -e {} ]; do sleep 0.1; done", consent.display());
    write_script(&askpass, &script)?;
    let agent = Agent::start_with_askpass(&askpass).await?;
    agent.add_with_options(&["-c"], &server.user_key()).await?;
    let lines = format!("identity_agent = \"{}\"\n", agent.socket().display());
    let tables = (0..12).map(|n| anyhow::Ok(server.tunnel_toml(&format!("t{n}"))? + &lines));
    home.write("t.toml", &tables.collect::<Result<String>>()?)?;
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    until_in_phase(&mut watch, "t", Phase::Auth, 12).await?;
    std::fs::write(&consent, "")?;
    let names: Vec<String> = (0..12).map(|n| format!("t{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    watch.until_all(&names, LONG, is_up).await
}

#[tokio::test]
async fn servers_that_do_not_identify_themselves_hold_up_no_other_tunnel() -> Result<()> {
    let silent = tokio::net::TcpListener::bind("0.0.0.0:0").await?;
    let port = silent.local_addr()?.port();
    let tables = (1..30).map(|n| {
        // An address of its own for each: 127.0.0.1 is one server.
        let proxy = format!("proxy_command = \"nc 127.0.0.1 {port}\"\n");
        let proxy = if n % 2 == 0 { proxy } else { String::new() };
        format!("[tunnel.silent{n}]\nhost = \"u@127.0.1.{n}:{port}\"\n{proxy}")
    });
    let text = format!(
        "{DEFAULTS}[daemon]\nmax_concurrent_connects = 1\n{}",
        tables.collect::<String>()
    );
    let server = Sshd::start().await?;
    let home = Home::new()?;
    home.write("tunneld.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    home.write("u.toml", &server.tunnel_toml("free")?)?;
    home.ctl(&["reload"]).await?.expect_exit(0)?;
    watch.until("free", LONG, is_up).await?;
    let gave_up = watch
        .tunnels()
        .values()
        .filter(|tunnel| tunnel.attempt > 1 || tunnel.retry_at.is_some());
    assert_eq!(
        gave_up.count(),
        0,
        "the tunnel waited for the silent servers"
    );
    Ok(())
}

#[tokio::test]
async fn destinations_that_drop_packets_hold_up_no_other_tunnel() -> Result<()> {
    let dead = SilentPort::new()?;
    let server = Sshd::start().await?;
    let tables = (1..40).map(|n| {
        format!(
            "[tunnel.dead{n}]\nhost = \"u@127.0.1.{n}:{}\"\n",
            dead.port()
        )
    });
    let home = Home::new()?;
    let text = format!(
        "{DEFAULTS}[daemon]\nmax_concurrent_connects = 1\n{}",
        tables.collect::<String>()
    );
    home.write("tunneld.toml", &text)?;
    home.write("live.toml", &server.tunnel_toml("live")?)?;
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    let before = watch.until("live", LONG, is_up).await?;
    // All at once: none waits for another.
    until_in_phase(&mut watch, "dead", Phase::Tcp, 39).await?;
    server.kill_sessions()?;
    watch
        .until("live", LONG, reconnected_since(&before))
        .await?;
    let dead_waits = watch
        .tunnels()
        .values()
        .filter(|tunnel| tunnel.retry_at.is_some());
    assert_eq!(
        dead_waits.count(),
        0,
        "the live tunnel waited for the dead ones"
    );
    Ok(())
}

#[tokio::test]
async fn a_server_that_takes_few_connections_at_a_time_gets_few() -> Result<()> {
    let server = Sshd::start_with(SshdOptions {
        config_lines: vec!["MaxStartups 2:100:2".into()],
        ..SshdOptions::default()
    })
    .await?;
    let home = Home::new()?;
    let names: Vec<String> = (0..20).map(|n| format!("t{n}")).collect();
    let text = names.iter().map(|name| server.tunnel_toml(name));
    home.write("many.toml", &text.collect::<Result<String>>()?)?;
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    watch.until_all(&names, LONG, is_up).await?;
    for tunnel in watch.tunnels().values() {
        assert_eq!(
            tunnel.attempt, 1,
            "{}: {:?}",
            tunnel.name, tunnel.last_error
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_tunnel_that_starts_while_an_answer_is_being_checked_asks_nothing() -> Result<()> {
    let factor = AuthFactor::SlowPassword("pw", Duration::from_secs(2));
    let server = PromptingServer::start(vec![factor]).await?;
    let tables = ["first", "second", "third"].map(|name| server.tunnel_toml(name));
    let tables = tables.into_iter().collect::<Result<Vec<_>>>()?;
    let text = tables.join("autostart = false\n") + "autostart = false\n";
    let (home, daemon) = start_daemon(&text).await?;
    let mut watch = daemon.watch().await?;
    home.ctl(&["up", "first", "--no-wait"])
        .await?
        .expect_exit(0)?;
    let prompt = wait_prompt(&mut watch, "first").await?;
    answer_prompt(&daemon, &prompt, &["pw"]).await?;
    for name in ["second", "third"] {
        home.ctl(&["up", name, "--no-wait"]).await?.expect_exit(0)?;
    }
    let mut others = BTreeSet::new();
    let all_up = |watch: &EventWatch| watch.tunnels().values().all(is_up);
    while !all_up(&watch) {
        if let Some(EventBody::Prompt { prompt }) = watch.next(LONG).await? {
            others.insert(prompt.tunnel);
        }
    }
    assert_eq!(others, BTreeSet::new(), "they asked again");
    Ok(())
}
