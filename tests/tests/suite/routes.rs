//! Routes to the server: jump hosts, ProxyCommand, shared jump hosts, host_command, and values from ssh_config.

use anyhow::{Context, Result};
use tunneld_proto::status::{ForwardKind, State, TunnelStatus};
use tunneld_tests::daemon::{Daemon, listen_addr};
use tunneld_tests::home::Home;
use tunneld_tests::payload::{self, exchange, random, same};
use tunneld_tests::process;
use tunneld_tests::process::run_tool;
use tunneld_tests::sshd::Sshd;
use tunneld_tests::target::{Target, TargetBehavior};
use tunneld_tests::wait::{LONG, within};

use crate::fixture::{
    has_error, in_new_session, is_up, local_forward_to, reconnected_since, session_since, tcp,
};

/// Starts a daemon whose tunnels read this ssh_config, and not the one of the user who runs the tests.
async fn start_with_ssh_config(ssh_config: &str, tunnels: &str) -> Result<(Home, Daemon)> {
    let home = Home::without_config()?;
    let path = home.path("home/.ssh/config");
    std::fs::write(&path, ssh_config)?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let defaults = format!(
        "[defaults]\nssh_config = \"{}\"\nstrict_host_key_checking = \"yes\"\nserver_alive_interval = \"2s\"\nbackoff = {{ initial = \"1s\", max = \"2s\" }}\n",
        path.display()
    );
    home.write("tunneld.toml", &defaults)?;
    home.write("t.toml", tunnels)?;
    let daemon = Daemon::start(&home).await?;
    Ok((home, daemon))
}

/// Checks that the tunnel's local forward carries 1 MiB.
async fn check_carries(tunnel: &TunnelStatus) -> Result<()> {
    let data = random(80, 1 << 20);
    let stream = tcp(listen_addr(tunnel, ForwardKind::Local)?).await?;
    same(&data, &exchange(stream, &data).await?)
}

#[tokio::test]
async fn an_empty_tunnel_takes_everything_from_ssh_config() -> Result<()> {
    let server = Sshd::start().await?;
    let target = Target::start(TargetBehavior::EchoAtEof).await?;
    let (one, two) = (tunneld_tests::ports::free()?, tunneld_tests::ports::free()?);
    // SetEnv and RequestTTY mean nothing to a tunnel and must not be an error.
    let config = format!(
        "{}  ProxyCommand nc %h %p\n  ServerAliveInterval 7\n  ExitOnForwardFailure yes\n  LocalForward {one} 127.0.0.1:{to}\n  DynamicForward {two}\n  SetEnv A=b\n  RequestTTY no\n",
        server.ssh_config_host("mahuika")?,
        to = target.port()
    );
    let (_home, daemon) = start_with_ssh_config(&config, "[tunnel.mahuika]\n").await?;
    let tunnel = daemon.wait_up("mahuika").await?;
    assert_eq!(tunnel.forwards.len(), 2, "{tunnel:#?}");
    assert_eq!(listen_addr(&tunnel, ForwardKind::Local)?.port(), one);
    assert!(tunnel.host.contains("127.0.0.1"), "{}", tunnel.host);
    check_carries(&tunnel).await
}

#[tokio::test]
async fn toml_overrides_ssh_config() -> Result<()> {
    let (wrong, right) = (Sshd::start().await?, Sshd::start().await?);
    let config = format!(
        "{}{}",
        wrong.ssh_config_host("h")?,
        right.ssh_config_host("other")?
    );
    let lines = right.tunnel_toml("h")?;
    let port = right.port();
    let credentials = lines
        .lines()
        .filter(|line| line.starts_with("identity") || line.starts_with("user_known"))
        .collect::<Vec<_>>()
        .join("\n");
    let text = format!("[tunnel.h]\nport = {port}\n{credentials}\n");
    let (_home, daemon) = start_with_ssh_config(&config, &text).await?;
    let tunnel = daemon.wait_up("h").await?;
    assert!(tunnel.host.contains(&port.to_string()), "{}", tunnel.host);
    Ok(())
}

#[tokio::test]
async fn a_chain_of_jump_hosts_recovers_from_the_loss_of_any_hop() -> Result<()> {
    let (one, two, end) = (
        Sshd::start().await?,
        Sshd::start().await?,
        Sshd::start().await?,
    );
    let target = Target::start(TargetBehavior::EchoAtEof).await?;
    let config = format!(
        "{}{}{}  ProxyJump one,two\n",
        one.ssh_config_host("one")?,
        two.ssh_config_host("two")?,
        end.ssh_config_host("end")?
    );
    let text = format!(
        "[tunnel.end]\nlocal_forward = \"0 127.0.0.1:{}\"\n",
        target.port()
    );
    let (_home, daemon) = start_with_ssh_config(&config, &text).await?;
    let mut tunnel = daemon.wait_up("end").await?;
    assert_eq!(tunnel.via.len(), 2, "{:?}", tunnel.via);
    check_carries(&tunnel).await?;
    for server in [&one, &two, &end] {
        server.kill_sessions()?;
        tunnel = daemon
            .wait_for("end", LONG, reconnected_since(&tunnel))
            .await?;
        check_carries(&tunnel).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_jump_host_that_refuses_the_login_is_named() -> Result<()> {
    let (hop, end) = (Sshd::start().await?, Sshd::start().await?);
    // The jump host refuses every key.
    std::fs::write(hop.dir().join("authorized_keys"), "")?;
    let config = format!(
        "{}{}  ProxyJump gate\n",
        hop.ssh_config_host("gate")?,
        end.ssh_config_host("end")?
    );
    let (_home, daemon) = start_with_ssh_config(&config, "[tunnel.end]\n").await?;
    let tunnel = daemon.wait_for("end", LONG, has_error).await?;
    let error = tunnel.last_error.context("an error")?;
    assert_eq!(error.kind.as_str(), "auth_refused", "{error:?}");
    let named = error.message.contains("gate") || error.message.contains(&hop.port().to_string());
    assert!(named, "{error:?}");
    Ok(())
}

#[tokio::test]
async fn a_failed_proxy_command_is_reported_and_leaves_no_process() -> Result<()> {
    let server = Sshd::start().await?;
    let config = format!(
        "{}  ProxyCommand sh -c 'echo some words; echo broken by design >&2; exit 3'\n{}  ProxyCommand sleep 1000\n  ConnectTimeout 2\n{}",
        server.ssh_config_host("dies")?,
        server.ssh_config_host("hangs")?,
        server.ssh_config_host("good")?
    );
    let text = "[tunnel.dies]\n[tunnel.hangs]\n[tunnel.good]\n";
    let (_home, mut daemon) = start_with_ssh_config(&config, text).await?;
    daemon.wait_up("good").await?;
    let dies = daemon.wait_for("dies", LONG, has_error).await?;
    let error = dies.last_error.context("an error")?;
    assert_eq!(error.kind.as_str(), "proxy", "{error:?}");
    assert!(error.message.contains("broken by design"), "{error:?}");
    let hangs = daemon.wait_for("hangs", LONG, has_error).await?;
    assert!(hangs.last_error.is_some());
    let children = process::descendants(daemon.process().pid());
    daemon.terminate(crate::fixture::secs(6)).await?;
    process::wait_gone(&children).await
}

#[tokio::test]
async fn a_proxy_command_is_run_by_the_users_shell() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?.with_var("SHELL", "/bin/bash");
    // Process substitution is a syntax error for /bin/sh of Debian.
    let command = "nc %h %p 2> >(cat >&2)";
    let text = format!(
        "{}proxy_command = \"{command}\"\n",
        server.tunnel_toml("t")?
    );
    home.write("t.toml", &text)?;
    Daemon::start(&home).await?.wait_up("t").await?;
    Ok(())
}

#[tokio::test]
async fn a_killed_proxy_command_ends_the_session_and_a_new_one_follows() -> Result<()> {
    let server = Sshd::start().await?;
    let target = Target::start(TargetBehavior::EchoAtEof).await?;
    let config = format!("{}  ProxyCommand nc %h %p\n", server.ssh_config_host("t")?);
    let text = format!(
        "[tunnel.t]\nlocal_forward = \"0 127.0.0.1:{}\"\n",
        target.port()
    );
    let (_home, daemon) = start_with_ssh_config(&config, &text).await?;
    let before = daemon.wait_up("t").await?;
    for pid in process::descendants(daemon.process().pid()) {
        process::signal(pid, rustix::process::Signal::KILL)?;
    }
    let after = daemon
        .wait_for("t", LONG, reconnected_since(&before))
        .await?;
    check_carries(&after).await
}

#[tokio::test]
async fn a_shared_jump_host_is_logged_into_once() -> Result<()> {
    let (gate, end) = (Sshd::start().await?, Sshd::start().await?);
    let home = Home::new()?;
    let text = format!(
        "{}{}proxy_jump = \"tunnel:gate\"\n{}proxy_jump = \"tunnel:gate\"\n",
        gate.tunnel_toml("gate")?,
        end.tunnel_toml("one")?,
        end.tunnel_toml("two")?
    );
    home.write("t.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    for name in ["gate", "one", "two"] {
        daemon.wait_up(name).await?;
    }
    assert_eq!(gate.log()?.count_after(0, "Accepted publickey"), 1);
    assert_eq!(end.log()?.count_after(0, "Accepted publickey"), 2);
    Ok(())
}

#[tokio::test]
async fn host_command_runs_at_each_connection_attempt() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    let script = home.path("host.sh");
    let calls = home.path("calls");
    std::fs::write(
        &script,
        format!("echo x >>{}; echo 127.0.0.1; echo more\n", calls.display()),
    )?;
    let text = server.tunnel_toml("t")?;
    let user = tunneld_tests::sshd::current_user()?;
    let host = format!("host = \"{user}@127.0.0.1:{}\"", server.port());
    let new = format!(
        "user = \"{user}\"\nport = {}\nhost_command = [\"sh\", \"{}\"]",
        server.port(),
        script.display()
    );
    home.write("t.toml", &text.replace(&host, &new))?;
    let daemon = Daemon::start(&home).await?;
    let before = daemon.wait_up("t").await?;
    assert_eq!(before.host, format!("{user}@127.0.0.1:{}", server.port()));
    server.kill_sessions()?;
    daemon
        .wait_for("t", LONG, reconnected_since(&before))
        .await?;
    assert_eq!(std::fs::read_to_string(&calls)?.lines().count(), 2);
    Ok(())
}

#[tokio::test]
async fn tunnelctl_connect_works_as_proxy_command_of_ssh_scp_and_git() -> Result<()> {
    let (gate, end) = (Sshd::start().await?, Sshd::start().await?);
    let home = Home::new()?;
    home.write("t.toml", &gate.tunnel_toml("gate")?)?;
    let daemon = Daemon::start(&home).await?;
    let before = daemon.wait_up("gate").await?;
    let ctl = tunneld_tests::home::program_path("tunnelctl")?;
    let proxy = format!(
        "  ProxyCommand {} --socket {} connect gate %h:%p\n",
        ctl.display(),
        home.socket().display()
    );
    let config = home.path("ssh_config");
    std::fs::write(&config, format!("{}{proxy}", end.ssh_config_host("end")?))?;
    let config = config.to_str().context("UTF-8")?;
    let out = run_tool("ssh", &["-F", config, "end", "echo", "over the gate"]).await?;
    assert_eq!(out, "over the gate\n");

    let data = random(81, 1 << 20);
    let (from, to) = (home.path("from"), home.path("to"));
    std::fs::write(&from, &data)?;
    let (from, remote) = (from.display().to_string(), format!("end:{}", to.display()));
    run_tool("scp", &["-q", "-O", "-F", config, &from, &remote]).await?;
    same(&data, &std::fs::read(&to)?)?;

    let repository = home.path("repository.git");
    let repository = repository.display().to_string();
    run_tool("git", &["init", "-q", "--bare", &repository]).await?;
    let ssh = format!("core.sshCommand=ssh -F {config}");
    let url = format!("end:{repository}");
    let refs = run_tool("git", &["-c", &ssh, "ls-remote", &url]).await?;
    assert_eq!(refs, "");
    let after = daemon.status("gate").await?;
    assert_eq!(session_since(&after), session_since(&before));
    assert_eq!(after.state, State::Up);
    Ok(())
}

#[tokio::test]
async fn a_loop_of_jump_hosts_is_refused_with_its_names() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    let text = format!(
        "{}proxy_jump = \"tunnel:b\"\n{}proxy_jump = \"tunnel:a\"\n",
        server.tunnel_toml("a")?,
        server.tunnel_toml("b")?
    );
    home.write("t.toml", &text)?;
    let output = home.ctl(&["check"]).await?.expect_exit(2)?;
    assert!(
        output.stderr.contains('a') && output.stderr.contains('b'),
        "{output:#?}"
    );
    Ok(())
}

#[tokio::test]
async fn direct_proxied_and_jumped_tunnels_work_side_by_side() -> Result<()> {
    let server = Sshd::start().await?;
    let target = Target::echo().await?;
    let config = format!(
        "{}{}  ProxyCommand nc %h %p\n{}  ProxyJump plain\n",
        server.ssh_config_host("plain")?,
        server.ssh_config_host("command")?,
        server.ssh_config_host("jumped")?
    );
    let forward = local_forward_to(&target) + "\n";
    let text =
        format!("[tunnel.plain]\n{forward}[tunnel.command]\n{forward}[tunnel.jumped]\n{forward}");
    let (_home, daemon) = start_with_ssh_config(&config, &text).await?;
    for name in ["plain", "command", "jumped"] {
        let tunnel = daemon.wait_up(name).await?;
        let mut stream = tcp(listen_addr(&tunnel, ForwardKind::Local)?).await?;
        payload::ping(&mut stream, name.as_bytes()).await?;
    }
    Ok(())
}

/// Kills the sessions of `t` until it is connected to the server on `port`. A changed ssh_config applies at a later
/// connection: the evaluation of `ssh -G` may not be done at the first.
async fn reconnect_until_at(daemon: &Daemon, servers: [&Sshd; 2], port: u16) -> Result<()> {
    let mut watch = daemon.watch().await?;
    let is_at_port = |tunnel: &TunnelStatus| tunnel.host.ends_with(&format!(":{port}"));
    within(LONG, "the other server", async {
        loop {
            let tunnel = watch.until("t", LONG, is_up).await?;
            if is_at_port(&tunnel) {
                return anyhow::Ok(());
            }
            for server in servers {
                server.signal_sessions(rustix::process::Signal::KILL);
            }
            watch.until("t", LONG, in_new_session(&tunnel)).await?;
        }
    })
    .await?
}

#[tokio::test]
async fn changes_of_an_included_file_and_match_exec_apply_at_the_next_connection() -> Result<()> {
    let (one, two) = (Sshd::start().await?, Sshd::start().await?);
    let target = Target::start(TargetBehavior::EchoAtEof).await?;
    let dir = tempfile::tempdir()?;
    let (included, flag) = (dir.path().join("included"), dir.path().join("flag"));
    let config = format!(
        "Match originalhost t exec \"test -e {}\"\n  Port {}\nMatch all\nInclude {}\n",
        flag.display(),
        one.port(),
        included.display()
    );
    let known = dir.path().join("known");
    let hosts = one.known_hosts_lines(one.port())? + &two.known_hosts_lines(two.port())?;
    std::fs::write(&known, hosts)?;
    // Both servers accept the key of the first.
    let authorized = std::fs::read_to_string(one.dir().join("authorized_keys"))?;
    std::fs::write(two.dir().join("authorized_keys"), authorized)?;
    let host = one.ssh_config_host("t")? + &format!("  UserKnownHostsFile {}\n", known.display());
    let host = host.replacen("UserKnownHostsFile", "# ", 1);
    let port = tunneld_tests::ports::free()?;
    let forward = format!("  LocalForward {port} 127.0.0.1:{}\n", target.port());
    std::fs::write(&included, &host)?;
    let (_home, daemon) = start_with_ssh_config(&config, "[tunnel.t]\n").await?;
    let tunnel = daemon.wait_up("t").await?;
    assert!(tunnel.forwards.is_empty());

    let other = host.replace(
        &format!("Port {}", one.port()),
        &format!("Port {}", two.port()),
    );
    std::fs::write(&included, other + &forward)?;
    reconnect_until_at(&daemon, [&one, &two], two.port()).await?;
    let tunnel = daemon.wait_up("t").await?;
    check_carries(&tunnel).await?;

    std::fs::write(&flag, "")?;
    reconnect_until_at(&daemon, [&one, &two], one.port()).await?;

    // A configuration that ssh refuses leaves the tunnel as it is.
    std::fs::write(&included, "Nonsense yes\n")?;
    one.signal_sessions(rustix::process::Signal::KILL);
    daemon.log().wait("and stays unchanged", LONG).await?;
    daemon.wait_up("t").await?;
    Ok(())
}

#[tokio::test]
async fn an_error_names_a_hop_by_its_ssh_config_alias() -> Result<()> {
    // The second hop is reached, and then refuses to forward to the end.
    let (first, second) = (
        Sshd::start().await?,
        Sshd::start_with_lines(&["AllowTcpForwarding no"]).await?,
    );
    let end = format!("{}  ProxyJump one,two\n", first.ssh_config_host("t")?);
    let config = first.ssh_config_host("one")? + &second.ssh_config_host("two")? + &end;
    let (_home, daemon) = start_with_ssh_config(&config, "[tunnel.t]\n").await?;
    let error = daemon
        .wait_for("t", LONG, has_error)
        .await?
        .last_error
        .context("an error")?;
    assert!(
        error
            .message
            .starts_with("jump host two: opening 127.0.0.1:"),
        "{error:?}"
    );
    let hint = error.hint.context("a hint")?;
    assert!(hint.contains("AllowTcpForwarding"), "{hint}");
    Ok(())
}
