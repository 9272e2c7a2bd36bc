//! Reaching the server: jump chains, ProxyCommand, a shared jump host, host_command, and ssh_config as it is.

use anyhow::{Context, Result};
use tunneld_proto::status::{ForwardKind, State, TunnelStatus};
use tunneld_tests::daemon::{Daemon, listen};
use tunneld_tests::home::Home;
use tunneld_tests::payload::{self, exchange, random, same};
use tunneld_tests::process;
use tunneld_tests::sshd::Sshd;
use tunneld_tests::target::{Manner, Target};
use tunneld_tests::wait::{LONG, within};

use crate::fixture::{renewed, session_since, tcp};

/// A home whose tunnels read this ssh_config and nothing of the machine's.
async fn home(ssh_config: &str, tunnels: &str) -> Result<(Home, Daemon)> {
    let home = Home::bare()?;
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

async fn carries(tunnel: &TunnelStatus) -> Result<()> {
    let data = random(80, 1 << 20);
    let stream = tcp(listen(tunnel, ForwardKind::Local)?).await?;
    same(&data, &exchange(stream, &data).await?)
}

#[tokio::test]
async fn an_empty_tunnel_takes_everything_from_ssh_config() -> Result<()> {
    let server = Sshd::start().await?;
    let target = Target::start(Manner::Collect).await?;
    let (one, two) = (tunneld_tests::ports::free()?, tunneld_tests::ports::free()?);
    let config = format!(
        "{}  ProxyCommand nc %h %p\n  ServerAliveInterval 7\n  ExitOnForwardFailure yes\n  LocalForward {one} 127.0.0.1:{to}\n  DynamicForward {two}\n  SetEnv A=b\n  RequestTTY no\n",
        server.ssh_host("mahuika")?,
        to = target.port()
    );
    let (_home, daemon) = home(&config, "[tunnel.mahuika]\n").await?;
    let tunnel = daemon.wait_up("mahuika").await?;
    assert_eq!(tunnel.forwards.len(), 2, "{tunnel:#?}");
    assert_eq!(listen(&tunnel, ForwardKind::Local)?.port(), one);
    assert!(tunnel.host.contains("127.0.0.1"), "{}", tunnel.host);
    carries(&tunnel).await
}

#[tokio::test]
async fn toml_overrides_ssh_config() -> Result<()> {
    let (wrong, right) = (Sshd::start().await?, Sshd::start().await?);
    let config = format!("{}{}", wrong.ssh_host("h")?, right.ssh_host("other")?);
    let lines = right.tunnel("h")?;
    let port = right.port();
    let keep = lines
        .lines()
        .filter(|line| line.starts_with("identity") || line.starts_with("user_known"))
        .collect::<Vec<_>>()
        .join("\n");
    let text = format!("[tunnel.h]\nport = {port}\n{keep}\n");
    let (_home, daemon) = home(&config, &text).await?;
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
    let target = Target::start(Manner::Collect).await?;
    let config = format!(
        "{}{}{}  ProxyJump one,two\n",
        one.ssh_host("one")?,
        two.ssh_host("two")?,
        end.ssh_host("end")?
    );
    let text = format!(
        "[tunnel.end]\nlocal_forward = \"0 127.0.0.1:{}\"\n",
        target.port()
    );
    let (_home, daemon) = home(&config, &text).await?;
    let mut tunnel = daemon.wait_up("end").await?;
    assert_eq!(tunnel.via.len(), 2, "{:?}", tunnel.via);
    carries(&tunnel).await?;
    for server in [&one, &two, &end] {
        server.kill_sessions()?;
        tunnel = daemon.wait_for("end", LONG, renewed(&tunnel)).await?;
        carries(&tunnel).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_jump_host_that_refuses_the_login_is_named() -> Result<()> {
    let (hop, end) = (Sshd::start().await?, Sshd::start().await?);
    std::fs::write(hop.dir().join("authorized_keys"), "")?;
    let config = format!(
        "{}{}  ProxyJump gate\n",
        hop.ssh_host("gate")?,
        end.ssh_host("end")?
    );
    let (_home, daemon) = home(&config, "[tunnel.end]\n").await?;
    let stuck = |tunnel: &TunnelStatus| tunnel.last_error.is_some();
    let tunnel = daemon.wait_for("end", LONG, stuck).await?;
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
        server.ssh_host("dies")?,
        server.ssh_host("hangs")?,
        server.ssh_host("good")?
    );
    let text = "[tunnel.dies]\n[tunnel.hangs]\n[tunnel.good]\n";
    let (_home, mut daemon) = home(&config, text).await?;
    daemon.wait_up("good").await?;
    let stuck = |tunnel: &TunnelStatus| tunnel.last_error.is_some();
    let dies = daemon.wait_for("dies", LONG, stuck).await?;
    let error = dies.last_error.context("an error")?;
    assert_eq!(error.kind.as_str(), "proxy", "{error:?}");
    assert!(error.message.contains("broken by design"), "{error:?}");
    let hangs = daemon.wait_for("hangs", LONG, stuck).await?;
    assert!(hangs.last_error.is_some());
    let children = process::descendants(daemon.process().pid());
    daemon.terminate(crate::fixture::secs(6)).await?;
    for pid in children {
        // Killed, it stays until init has looked after it.
        let what = format!("the end of process {pid}, which outlived the daemon");
        within(LONG, &what, async {
            while process::signal(pid, rustix::process::Signal::CONT).is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_proxy_command_ends_the_session_and_a_new_one_follows() -> Result<()> {
    let server = Sshd::start().await?;
    let target = Target::start(Manner::Collect).await?;
    let config = format!("{}  ProxyCommand nc %h %p\n", server.ssh_host("t")?);
    let text = format!(
        "[tunnel.t]\nlocal_forward = \"0 127.0.0.1:{}\"\n",
        target.port()
    );
    let (_home, daemon) = home(&config, &text).await?;
    let before = daemon.wait_up("t").await?;
    for pid in process::descendants(daemon.process().pid()) {
        process::signal(pid, rustix::process::Signal::KILL)?;
    }
    let after = daemon.wait_for("t", LONG, renewed(&before)).await?;
    carries(&after).await
}

#[tokio::test]
async fn a_shared_jump_host_is_logged_into_once() -> Result<()> {
    let (gate, end) = (Sshd::start().await?, Sshd::start().await?);
    let home = Home::new()?;
    let text = format!(
        "{}{}proxy_jump = \"tunnel:gate\"\n{}proxy_jump = \"tunnel:gate\"\n",
        gate.tunnel("gate")?,
        end.tunnel("one")?,
        end.tunnel("two")?
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
    let script = home.path("where.sh");
    let count = home.path("count");
    std::fs::write(
        &script,
        format!("echo x >>{}; echo 127.0.0.1; echo more\n", count.display()),
    )?;
    let text = server.tunnel("t")?;
    let user = tunneld_tests::sshd::user()?;
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
    daemon.wait_for("t", LONG, renewed(&before)).await?;
    assert_eq!(std::fs::read_to_string(&count)?.lines().count(), 2);
    Ok(())
}

#[tokio::test]
async fn tunnelctl_connect_works_as_proxy_command_of_ssh_scp_and_git() -> Result<()> {
    let (gate, end) = (Sshd::start().await?, Sshd::start().await?);
    let home = Home::new()?;
    home.write("t.toml", &gate.tunnel("gate")?)?;
    let daemon = Daemon::start(&home).await?;
    let before = daemon.wait_up("gate").await?;
    let ctl = tunneld_tests::home::built("tunnelctl")?;
    let proxy = format!(
        "  ProxyCommand {} --socket {} connect gate %h:%p\n",
        ctl.display(),
        home.socket().display()
    );
    let config = home.path("ssh_config");
    std::fs::write(&config, format!("{}{proxy}", end.ssh_host("end")?))?;
    let config = config.to_str().context("UTF-8")?;
    let out =
        tunneld_tests::keys::run("ssh", &["-F", config, "end", "echo", "over the gate"]).await?;
    assert_eq!(out, "over the gate\n");

    let data = random(81, 1 << 20);
    let (from, to) = (home.path("from"), home.path("to"));
    std::fs::write(&from, &data)?;
    let (from, there) = (from.display().to_string(), format!("end:{}", to.display()));
    tunneld_tests::keys::run("scp", &["-q", "-O", "-F", config, &from, &there]).await?;
    same(&data, &std::fs::read(&to)?)?;

    let repository = home.path("repository.git");
    let repository = repository.display().to_string();
    tunneld_tests::keys::run("git", &["init", "-q", "--bare", &repository]).await?;
    let ssh = format!("core.sshCommand=ssh -F {config}");
    let url = format!("end:{repository}");
    let refs = tunneld_tests::keys::run("git", &["-c", &ssh, "ls-remote", &url]).await?;
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
        server.tunnel("a")?,
        server.tunnel("b")?
    );
    home.write("t.toml", &text)?;
    let said = home.ctl(&["check"]).await?.expect(2)?;
    assert!(
        said.stderr.contains('a') && said.stderr.contains('b'),
        "{said:#?}"
    );
    Ok(())
}

#[tokio::test]
async fn direct_proxied_and_jumped_tunnels_work_side_by_side() -> Result<()> {
    let server = Sshd::start().await?;
    let target = Target::echo().await?;
    let config = format!(
        "{}{}  ProxyCommand nc %h %p\n{}  ProxyJump plain\n",
        server.ssh_host("plain")?,
        server.ssh_host("command")?,
        server.ssh_host("jumped")?
    );
    let forward = format!("local_forward = \"0 127.0.0.1:{}\"\n", target.port());
    let text =
        format!("[tunnel.plain]\n{forward}[tunnel.command]\n{forward}[tunnel.jumped]\n{forward}");
    let (_home, daemon) = home(&config, &text).await?;
    for name in ["plain", "command", "jumped"] {
        let tunnel = daemon.wait_up(name).await?;
        let mut stream = tcp(listen(&tunnel, ForwardKind::Local)?).await?;
        payload::ping(&mut stream, name.as_bytes()).await?;
    }
    Ok(())
}

/// Ends the sessions of `t` until one reaches `port`.
async fn until_reached(daemon: &Daemon, servers: [&Sshd; 2], port: u16) -> Result<()> {
    let mut watch = daemon.watch().await?;
    let at = |tunnel: &TunnelStatus| tunnel.host.ends_with(&format!(":{port}"));
    within(LONG, "the other server", async {
        loop {
            let up = |tunnel: &TunnelStatus| tunnel.state == State::Up;
            let tunnel = watch.until("t", LONG, up).await?;
            if at(&tunnel) {
                return anyhow::Ok(());
            }
            for server in servers {
                server.signal_sessions(rustix::process::Signal::KILL);
            }
            let before = session_since(&tunnel);
            let anew = |tunnel: &TunnelStatus| up(tunnel) && session_since(tunnel) != before;
            watch.until("t", LONG, anew).await?;
        }
    })
    .await?
}

#[tokio::test]
async fn changes_of_an_included_file_and_match_exec_apply_at_the_next_connection() -> Result<()> {
    let (one, two) = (Sshd::start().await?, Sshd::start().await?);
    let target = Target::start(Manner::Collect).await?;
    let apart = tempfile::tempdir()?;
    let (included, flag) = (apart.path().join("included"), apart.path().join("flag"));
    let config = format!(
        "Match originalhost t exec \"test -e {}\"\n  Port {}\nMatch all\nInclude {}\n",
        flag.display(),
        one.port(),
        included.display()
    );
    let known = apart.path().join("known");
    let hosts = one.known_hosts_at(one.port())? + &two.known_hosts_at(two.port())?;
    std::fs::write(&known, hosts)?;
    let both = std::fs::read_to_string(one.dir().join("authorized_keys"))?;
    std::fs::write(two.dir().join("authorized_keys"), both)?;
    let host = one.ssh_host("t")? + &format!("  UserKnownHostsFile {}\n", known.display());
    let host = host.replacen("UserKnownHostsFile", "# ", 1);
    let free = tunneld_tests::ports::free()?;
    let forward = format!("  LocalForward {free} 127.0.0.1:{}\n", target.port());
    std::fs::write(&included, &host)?;
    let (_home, daemon) = home(&config, "[tunnel.t]\n").await?;
    let tunnel = daemon.wait_up("t").await?;
    assert!(tunnel.forwards.is_empty());

    let other = host.replace(
        &format!("Port {}", one.port()),
        &format!("Port {}", two.port()),
    );
    std::fs::write(&included, other + &forward)?;
    until_reached(&daemon, [&one, &two], two.port()).await?;
    let tunnel = daemon.wait_up("t").await?;
    carries(&tunnel).await?;

    std::fs::write(&flag, "")?;
    until_reached(&daemon, [&one, &two], one.port()).await?;

    // What ssh refuses changes nothing.
    std::fs::write(&included, "Nonsense yes\n")?;
    one.signal_sessions(rustix::process::Signal::KILL);
    daemon.log().wait("and stays unchanged", LONG).await?;
    daemon.wait_up("t").await?;
    Ok(())
}

#[tokio::test]
async fn an_error_names_a_hop_by_its_ssh_config_alias() -> Result<()> {
    let (first, second) = (
        Sshd::start().await?,
        Sshd::with_lines(&["AllowTcpForwarding no"]).await?,
    );
    let end = format!("{}  ProxyJump one,two\n", first.ssh_host("t")?);
    let config = first.ssh_host("one")? + &second.ssh_host("two")? + &end;
    let (_home, daemon) = home(&config, "[tunnel.t]\n").await?;
    let failed = |tunnel: &TunnelStatus| tunnel.last_error.is_some();
    let error = daemon
        .wait_for("t", LONG, failed)
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
