//! tunnelctl as users and scripts run it: exit codes, selecting tunnels, and starting the daemon. What it prints is in
//! `cli_output`.

use anyhow::{Context, Result};
use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tunneld_proto::status::State;
use tunneld_tests::daemon::Daemon;
use tunneld_tests::home::{DEFAULTS, Home};
use tunneld_tests::payload;
use tunneld_tests::ports;
use tunneld_tests::rpc;
use tunneld_tests::sshd::{self, Sshd};
use tunneld_tests::target::Target;
use tunneld_tests::wait::within;

use crate::fixture::{Fixture, secs, tcp};

#[tokio::test]
async fn each_command_returns_its_documented_exit_code() -> Result<()> {
    let (fixture, _) = Fixture::up("").await?;
    let home = &fixture.home;
    for (args, code) in [
        (&["status"][..], 0),
        (&["status", "t"], 0),
        (&["up", "t"], 0),
        (&["up", "--all"], 0),
        (&["up"], 2),
        (&["down"], 2),
        (&["restart"], 2),
        (&["fly"], 2),
        (&["--fly"], 2),
        (&["up", "nobody"], 4),
        (&["down", "nobody"], 4),
        (&["status", "nobody"], 4),
        (&["check"], 0),
        (&["reload"], 0),
        (&["down", "t"], 0),
        (&["status"], 0),
        (&["status", "t"], 3),
        (&["restart", "t"], 0),
        (&["status", "t"], 0),
        (&["--version"], 0),
        (&["--help"], 0),
    ] {
        let output = home.ctl(args).await?;
        let output = output
            .expect_exit(code)
            .with_context(|| format!("{args:?}"))?;
        let talk = &output.stderr;
        assert!(
            code == 0 || code == 3 || !talk.is_empty(),
            "{args:?}: {output:#?}"
        );
        assert!(!talk.contains("panicked"), "{args:?}: {output:#?}");
    }
    Ok(())
}

#[tokio::test]
async fn up_returns_6_when_the_host_does_not_connect_in_time() -> Result<()> {
    let home = Home::new()?;
    let port = ports::free()?;
    let text = format!("[tunnel.t]\nhost = \"u@127.0.0.1:{port}\"\n");
    home.write("t.toml", &text)?;
    let _daemon = Daemon::start(&home).await?;
    let output = home.ctl(&["up", "t", "--wait=1s"]).await?.expect_exit(6)?;
    assert!(
        output.stderr.contains("refused"),
        "the reason is missing: {output:#?}"
    );
    home.ctl(&["up", "t", "--no-wait"]).await?.expect_exit(0)?;
    home.ctl(&["status", "t"]).await?.expect_exit(3)?;
    Ok(())
}

#[tokio::test]
async fn a_missing_or_hanging_daemon_returns_5() -> Result<()> {
    let home = Home::new()?;
    let output = home.ctl(&["status"]).await?.expect_exit(5)?;
    assert!(
        output.stderr.contains("tunneld") || output.stderr.contains("tunnelctl up"),
        "{output:#?}"
    );

    let folder = home.socket().parent().context("a folder")?.to_owned();
    std::fs::create_dir_all(&folder)?;
    std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    // A socket that nothing listens on, as a killed daemon leaves it.
    drop(std::os::unix::net::UnixListener::bind(home.socket())?);
    home.ctl(&["status"]).await?.expect_exit(5)?;
    std::fs::remove_file(home.socket())?;

    // Accepts in the kernel's backlog and never replies.
    let _hanging = UnixListener::bind(home.socket())?;
    let began = Instant::now();
    home.ctl(&["status"]).await?.expect_exit(5)?;
    assert!(began.elapsed() <= secs(8), "{:?}", began.elapsed());
    Ok(())
}

#[tokio::test]
async fn an_unsupported_protocol_version_returns_7() -> Result<()> {
    let home = Home::new()?;
    let folder = home.socket().parent().context("a folder")?.to_owned();
    std::fs::create_dir_all(&folder)?;
    std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let listener = UnixListener::bind(home.socket())?;
    std::fs::set_permissions(
        home.socket(),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )?;
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let reply = "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32000,\"message\":\"no common protocol\",\"data\":{\"kind\":\"unsupported_protocol\",\"causes\":[\"9\"]}}}\n";
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, reply.as_bytes()).await;
            open.push(stream);
        }
    });
    let output = home.ctl(&["status"]).await?.expect_exit(7)?;
    assert!(!output.stderr.is_empty());
    Ok(())
}

#[tokio::test]
async fn globs_and_tags_select_tunnels() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    let mut text = String::new();
    for (name, tag) in [("db-one", "work"), ("db-two", "home"), ("web", "work")] {
        text += &server.tunnel_toml(name)?;
        text += &format!("autostart = false\ntags = [\"{tag}\"]\n");
    }
    home.write("all.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    let state = async |name: &str| Ok::<_, anyhow::Error>(daemon.status(name).await?.state);
    home.ctl(&["up", "db-*"]).await?.expect_exit(0)?;
    assert_eq!(state("db-one").await?, State::Up);
    assert_eq!(state("db-two").await?, State::Up);
    assert_eq!(state("web").await?, State::Stopped);
    home.ctl(&["up", "--tag", "work"]).await?.expect_exit(0)?;
    assert_eq!(state("web").await?, State::Up);
    home.ctl(&["down", "--tag", "work"]).await?.expect_exit(0)?;
    assert_eq!(state("db-one").await?, State::Stopped);
    assert_eq!(state("db-two").await?, State::Up);
    home.ctl(&["down", "--all"]).await?.expect_exit(0)?;
    assert_eq!(state("db-two").await?, State::Stopped);
    home.ctl(&["up", "x*"]).await?.expect_exit(4)?;
    Ok(())
}

#[tokio::test]
async fn up_starts_the_daemon_if_none_runs() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    home.write("t.toml", &server.tunnel_toml("t")?)?;
    let output = home.ctl(&["up", "t"]).await?;
    // The daemon is shut down before any check can fail: it is not a child of the test and would keep running.
    let status = rpc::call_once(&home.socket(), "daemon.status", serde_json::json!({})).await;
    let shutdown = rpc::call_once(&home.socket(), "daemon.shutdown", serde_json::json!({})).await;
    output.expect_exit(0)?;
    assert!(status?["pid"].as_u64() > Some(1));
    shutdown?;
    within(secs(8), "the daemon's socket to go", async {
        while home.socket().exists() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}

#[tokio::test]
async fn up_accepts_ssh_flags_for_an_ad_hoc_tunnel_and_saves_it() -> Result<()> {
    let server = Sshd::start().await?;
    let target = Target::echo().await?;
    let home = Home::new()?;
    let known = server.dir().join("known");
    std::fs::write(&known, server.known_hosts_lines(server.port())?)?;
    // Ad hoc tunnels take the known_hosts file from the defaults.
    let defaults = format!(
        "{DEFAULTS}user_known_hosts_file = \"{}\"\n",
        known.display()
    );
    home.write("tunneld.toml", &defaults)?;
    let daemon = Daemon::start(&home).await?;
    let (port, key) = (ports::free()?, server.user_key());
    let forward = format!("127.0.0.1:{port}:127.0.0.1:{}", target.port());
    let (ssh_port, user) = (server.port().to_string(), sshd::current_user()?);
    let key = key.to_str().context("UTF-8")?;
    let args = [
        "up",
        "-L",
        &forward,
        "-D",
        "0",
        "-i",
        key,
        "-p",
        &ssh_port,
        "-l",
        &user,
        "--name",
        "ad-hoc",
        "127.0.0.1",
    ];
    home.ctl(&args).await?.expect_exit(0)?;
    let tunnel = daemon.status("ad-hoc").await?;
    assert_eq!((tunnel.state, tunnel.forwards.len()), (State::Up, 2));
    payload::ping(&mut tcp(ports::local(port)).await?, b"ad-hoc").await?;
    assert!(!home.config_dir().join("ad-hoc.toml").exists());
    home.ctl(&["down", "ad-hoc"]).await?.expect_exit(0)?;

    let forward = format!("127.0.0.1:{}:127.0.0.1:{}", ports::free()?, target.port());
    let dest = format!("{user}@127.0.0.1");
    let args = [
        "up", "-L", &forward, "-i", key, "-p", &ssh_port, "--name", "kept", "--save", &dest,
    ];
    home.ctl(&args).await?.expect_exit(0)?;
    let file = std::fs::read_to_string(home.config_dir().join("kept.toml"))?;
    assert!(file.contains("[tunnel.kept]"), "{file}");
    home.ctl(&["check"]).await?.expect_exit(0)?;
    home.ctl(&["reload"]).await?.expect_exit(0)?;
    assert_eq!(daemon.status("kept").await?.state, State::Up);
    Ok(())
}
