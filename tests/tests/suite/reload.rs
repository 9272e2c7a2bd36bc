//! Reload: only changed tunnels are affected, and a broken file leaves its tunnels as they are.

use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;
use serde_json::json;
use tunneld_proto::message::{DaemonStatus, EventBody, ReloadReport};
use tunneld_proto::status::{ForwardKind, ForwardState, Phase, State, TunnelStatus};
use tunneld_tests::daemon::{Daemon, EventWatch, listen_addr, listen_addr_at};
use tunneld_tests::home::{DEFAULTS, Home};
use tunneld_tests::payload;
use tunneld_tests::ports;
use tunneld_tests::sshd::Sshd;
use tunneld_tests::target::Target;
use tunneld_tests::wait::{LONG, within};

use crate::fixture::{Fixture, is_up, reconnected_since, secs, session_since, tcp};

/// Whether the tunnel has exactly `count` forwards and all of them listen.
fn listening(count: usize) -> impl Fn(&TunnelStatus) -> bool {
    move |tunnel| {
        let mut forwards = tunnel.forwards.iter();
        tunnel.forwards.len() == count
            && forwards.all(|forward| forward.state == ForwardState::Listening)
    }
}

/// Whether the tunnel has this description. Tests use it to recognize a version of the file.
fn described(description: &str) -> impl Fn(&TunnelStatus) -> bool + '_ {
    move |tunnel| tunnel.description.as_deref() == Some(description)
}

/// Waits for the next report of a reload that satisfies `condition`.
async fn wait_reload(
    watch: &mut EventWatch,
    condition: impl Fn(&ReloadReport) -> bool,
) -> Result<ReloadReport> {
    within(LONG, "a reload", async {
        loop {
            if let Some(EventBody::Config { report }) = watch.next(LONG).await?
                && condition(&report)
            {
                return Ok(report);
            }
        }
    })
    .await?
}

#[tokio::test]
async fn forwards_are_added_and_removed_on_a_live_session() -> Result<()> {
    let target = Target::echo().await?;
    let to = target.port();
    let first = format!("\"0 127.0.0.1:{to}\"");
    let (fixture, before) = Fixture::up(&format!("local_forward = [{first}]")).await?;
    let addr = listen_addr(&before, ForwardKind::Local)?;
    let mut live = tcp(addr).await?;
    payload::ping(&mut live, b"one").await?;

    let more = format!(
        "local_forward = [{first}, \"127.0.0.1:{}:127.0.0.1:{to}\"]\nremote_forward = \"0 127.0.0.1:{to}\"\ndynamic_forward = 0",
        ports::free()?
    );
    fixture.rewrite_tunnel(&more)?;
    let tunnel = fixture.daemon.wait_for("t", LONG, listening(4)).await?;
    assert_eq!(listen_addr(&tunnel, ForwardKind::Local)?, addr);
    payload::ping(&mut live, b"two").await?;
    payload::ping(&mut tcp(listen_addr_at(&tunnel, 1)?).await?, b"new").await?;
    let remote = listen_addr(&tunnel, ForwardKind::Remote)?;
    let mut remote_stream = tcp(remote).await?;
    payload::ping(&mut remote_stream, b"new").await?;

    fixture.rewrite_tunnel(&format!("local_forward = [{first}]"))?;
    let tunnel = fixture.daemon.wait_for("t", LONG, listening(1)).await?;
    assert_eq!(listen_addr(&tunnel, ForwardKind::Local)?, addr);
    payload::ping(&mut live, b"three").await?;
    assert_eq!(session_since(&tunnel), session_since(&before));
    assert_eq!(tunnel.reconnects, 0);
    let closed = within(LONG, "the remote listener to close", async {
        while tokio::net::TcpStream::connect(remote).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    closed.await
}

#[tokio::test]
async fn description_and_tags_change_without_a_reconnect() -> Result<()> {
    let (fixture, before) = Fixture::up("").await?;
    fixture.rewrite_tunnel("description = \"the new one\"\ntags = [\"a\", \"b\"]")?;
    let tunnel = fixture
        .daemon
        .wait_for("t", LONG, described("the new one"))
        .await?;
    assert_eq!(tunnel.tags, ["a", "b"]);
    assert_eq!(session_since(&tunnel), session_since(&before));
    Ok(())
}

#[tokio::test]
async fn a_changed_destination_reconnects_only_that_tunnel() -> Result<()> {
    let (fixture, before) = Fixture::up("").await?;
    let other = Sshd::start().await?;
    fixture
        .home
        .write("u.toml", &fixture.server.tunnel_toml("u")?)?;
    let u = fixture.daemon.wait_up("u").await?;
    fixture.home.write("t.toml", &other.tunnel_toml("t")?)?;
    let moved = |tunnel: &TunnelStatus| {
        tunnel.state == State::Up && tunnel.host.contains(&other.port().to_string())
    };
    let after = fixture.daemon.wait_for("t", LONG, moved).await?;
    assert_ne!(session_since(&after), session_since(&before));
    let same = fixture.daemon.status("u").await?;
    assert_eq!(session_since(&same), session_since(&u));
    Ok(())
}

#[tokio::test]
async fn a_broken_file_keeps_its_tunnels_and_other_files_apply() -> Result<()> {
    let (fixture, before) = Fixture::up("").await?;
    let mut watch = fixture.daemon.watch().await?;
    fixture
        .home
        .write("t.toml", "[tunnel.t]\nhots = \"typo\"\n")?;
    let report = wait_reload(&mut watch, |report| !report.errors.is_empty()).await?;
    let error = &report.errors[0];
    assert!(error.file.ends_with("t.toml"), "{error:?}");
    assert_eq!((error.line, error.column), (Some(2), Some(1)));
    assert!(error.rendered.contains("did you mean") && error.rendered.contains("host"));

    fixture
        .home
        .write("u.toml", &fixture.server.tunnel_toml("u")?)?;
    watch.until("u", LONG, is_up).await?;
    let tunnel = fixture.daemon.status("t").await?;
    assert_eq!(session_since(&tunnel), session_since(&before));
    assert_eq!(tunnel.state, State::Up);

    let output = fixture.home.ctl(&["reload"]).await?.expect_exit(2)?;
    assert!(output.stderr.contains("t.toml"), "{output:?}");
    let output = fixture.home.ctl(&["status"]).await?.expect_exit(2)?;
    let all = format!("{}{}", output.stdout, output.stderr);
    assert!(all.contains("t.toml"), "{output:?}");
    let daemon: DaemonStatus =
        serde_json::from_value(fixture.daemon.call("daemon.status", json!({})).await?)?;
    assert_eq!(daemon.config_errors.len(), 1);

    fixture.rewrite_tunnel("description = \"mended\"")?;
    let tunnel = watch.until("t", LONG, described("mended")).await?;
    assert_eq!(session_since(&tunnel), session_since(&before));
    fixture.home.ctl(&["reload"]).await?.expect_exit(0)?;
    Ok(())
}

#[tokio::test]
async fn a_reload_during_the_forward_requests_does_not_stop_the_tunnel() -> Result<()> {
    let target = Target::echo().await?;
    let lines = format!("remote_forward = \"0 127.0.0.1:{}\"\n", target.port());
    let (fixture, link, before) = Fixture::up_over_link(&lines).await?;
    link.set_delay(Duration::from_millis(500));
    let mut watch = fixture.daemon.watch().await?;
    link.reset_all();
    let requesting = |tunnel: &TunnelStatus| tunnel.phase == Some(Phase::Forwards);
    watch.until("t", LONG, requesting).await?;
    // Frozen in that phase, so that the reload happens during it.
    link.freeze();
    let tunnel = fixture.server.tunnel_toml_at("t", link.port())?;
    let text = format!("{tunnel}{lines}description = \"changed\"\n");
    fixture.home.write("t.toml", &text)?;
    fixture.daemon.call("config.reload", json!({})).await?;
    assert!(requesting(&fixture.daemon.status("t").await?));
    link.thaw();
    watch.until("t", LONG, reconnected_since(&before)).await?;
    let tunnel = watch.until("t", LONG, described("changed")).await?;
    assert!(reconnected_since(&before)(&tunnel));
    Ok(())
}

#[tokio::test]
async fn an_address_that_moves_between_tunnels_causes_no_conflict() -> Result<()> {
    let server = Sshd::start().await?;
    let (one, two) = (ports::free()?, ports::free()?);
    let forward = |port| format!("local_forward = \"{port} 127.0.0.1:9\"\n");
    let named =
        |name: &str, port| Ok::<_, anyhow::Error>(server.tunnel_toml(name)? + &forward(port));
    let home = Home::new()?;
    home.write("t.toml", &(named("a", one)? + &named("b", two)?))?;
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    let up = |tunnel: &TunnelStatus| tunnel.state == State::Up && listening(1)(tunnel);
    watch.until_all(&["a", "b"], LONG, is_up).await?;
    // The tunnels swap their ports, then one is renamed, then renamed back.
    for (first, second) in [("b", "a"), ("c", "a"), ("b", "a")] {
        home.write("t.toml", &(named(first, one)? + &named(second, two)?))?;
        daemon.call("config.reload", json!({})).await?;
        let moved = |tunnel: &TunnelStatus| {
            let port = if tunnel.name == "a" { two } else { one };
            up(tunnel) && tunnel.forwards[0].listen.ends_with(&format!(":{port}"))
        };
        watch.until_all(&[first, second], LONG, moved).await?;
    }
    let log = daemon.log().text();
    assert!(!log.contains("cannot listen"), "{log}");
    Ok(())
}

#[tokio::test]
async fn a_removed_file_removes_its_tunnels() -> Result<()> {
    let (fixture, _) = Fixture::up("local_forward = \"0 127.0.0.1:9\"").await?;
    let mut watch = fixture.daemon.watch().await?;
    let addr = listen_addr(&watch.tunnels()["t"], ForwardKind::Local)?;
    fixture.home.remove("t.toml")?;
    within(LONG, "the tunnel to be removed", async {
        while watch.tunnels().contains_key("t") {
            watch.next(LONG).await?;
        }
        anyhow::Ok(())
    })
    .await??;
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
    fixture.home.ctl(&["status", "t"]).await?.expect_exit(4)?;
    Ok(())
}

#[tokio::test]
async fn sighup_reloads_the_configuration() -> Result<()> {
    let (fixture, _) = Fixture::up("").await?;
    let mut watch = fixture.daemon.watch().await?;
    fixture.daemon.process().signal(Signal::HUP)?;
    fixture.daemon.log().wait("SIGHUP", LONG).await?;
    fixture.rewrite_tunnel("description = \"after the signal\"")?;
    fixture.daemon.process().signal(Signal::HUP)?;
    watch
        .until("t", LONG, described("after the signal"))
        .await?;
    Ok(())
}

#[tokio::test]
async fn config_reload_reports_nothing_if_nothing_changed() -> Result<()> {
    let (fixture, _) = Fixture::up("").await?;
    let call = async || -> Result<ReloadReport> {
        let value = fixture.daemon.call("config.reload", json!({})).await?;
        Ok(serde_json::from_value(value)?)
    };
    assert_eq!(call().await?, ReloadReport::default());
    Ok(())
}

#[tokio::test]
async fn a_symlink_swap_and_an_in_place_edit_are_noticed() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    let text = |description: &str| -> Result<String> {
        Ok(format!(
            "{}description = \"{description}\"\n",
            server.tunnel_toml("t")?
        ))
    };
    // As Nix and Kubernetes do it: the file is a symbolic link, and an update replaces the link.
    std::fs::create_dir(home.path("store"))?;
    let (one, two) = (home.path("store/one.toml"), home.path("store/two.toml"));
    std::fs::write(&one, text("one")?)?;
    std::fs::write(&two, text("two")?)?;
    let link = home.config_dir().join("t.toml");
    std::os::unix::fs::symlink(&one, &link)?;
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    watch.until("t", LONG, described("one")).await?;
    // Created beside and renamed over the link: the file never disappears.
    let swapped = home.config_dir().join(".swap");
    std::os::unix::fs::symlink(&two, &swapped)?;
    std::fs::rename(&swapped, &link)?;
    watch.until("t", LONG, described("two")).await?;
    std::fs::remove_file(&link)?;
    std::fs::write(&link, text("three")?)?;
    watch.until("t", LONG, described("three")).await?;
    std::fs::write(&link, text("four")?)?;
    watch.until("t", LONG, described("four")).await?;
    Ok(())
}

#[tokio::test]
async fn a_replaced_directory_is_watched_again() -> Result<()> {
    let (fixture, before) = Fixture::up("").await?;
    let mut watch = fixture.daemon.watch().await?;
    let (dir, old) = (fixture.home.config_dir(), fixture.home.path("config.old"));
    std::fs::rename(&dir, &old)?;
    std::fs::create_dir(&dir)?;
    fixture.home.write("tunneld.toml", DEFAULTS)?;
    fixture.rewrite_tunnel("description = \"new folder\"")?;
    watch.until("t", LONG, described("new folder")).await?;
    fixture.rewrite_tunnel("description = \"and again\"")?;
    let after = watch.until("t", LONG, described("and again")).await?;
    assert_eq!(session_since(&after), session_since(&before));
    Ok(())
}

#[tokio::test]
async fn a_missing_directory_keeps_the_tunnels() -> Result<()> {
    let (fixture, before) = Fixture::up("").await?;
    let mut watch = fixture.daemon.watch().await?;
    let (dir, old) = (fixture.home.config_dir(), fixture.home.path("config.old"));
    std::fs::rename(&dir, &old)?;
    wait_reload(&mut watch, |report| !report.errors.is_empty()).await?;
    let during = fixture.daemon.status("t").await?;
    assert_eq!(session_since(&during), session_since(&before));
    // The same folder is back, with unchanged files.
    std::fs::rename(&old, &dir)?;
    wait_reload(&mut watch, |report| report.errors.is_empty()).await?;
    let after = fixture.daemon.status("t").await?;
    assert_eq!(session_since(&after), session_since(&before));
    Ok(())
}

#[tokio::test]
async fn an_unreadable_file_keeps_its_tunnels() -> Result<()> {
    let (fixture, before) = Fixture::up("").await?;
    let mut watch = fixture.daemon.watch().await?;
    let path = fixture.home.config_dir().join("t.toml");
    // Root can read a file of mode 0, so the file is replaced by a folder, which no user can read as a file.
    std::fs::remove_file(&path)?;
    std::fs::create_dir(&path)?;
    let report = wait_reload(&mut watch, |report| !report.errors.is_empty()).await?;
    assert!(report.errors[0].file.ends_with("t.toml"), "{report:?}");
    let during = fixture.daemon.status("t").await?;
    assert_eq!(session_since(&during), session_since(&before));
    Ok(())
}

#[tokio::test]
async fn the_last_of_a_thousand_edits_applies() -> Result<()> {
    let (fixture, before) = Fixture::up("").await?;
    for n in 0..1000 {
        // Every tenth version is not TOML.
        let broken = n % 10 == 0;
        let text = if broken { "[[[" } else { "" };
        fixture.rewrite_tunnel(&format!("description = \"edit {n}\"\n{text}"))?;
    }
    let after = fixture
        .daemon
        .wait_for("t", secs(10), described("edit 999"))
        .await?;
    assert_eq!(session_since(&after), session_since(&before));
    Ok(())
}

#[tokio::test]
async fn hidden_files_and_editor_backups_are_ignored() -> Result<()> {
    let (fixture, _) = Fixture::up("").await?;
    for name in [
        ".hidden.toml",
        "t.toml~",
        "#t.toml#",
        "t.toml.swp",
        "notes.txt",
    ] {
        std::fs::write(fixture.home.config_dir().join(name), "this is no TOML [[[")?;
    }
    fixture.home.ctl(&["reload"]).await?.expect_exit(0)?;
    Ok(())
}

#[tokio::test]
async fn a_file_saved_right_before_a_command_counts() -> Result<()> {
    let (fixture, _) = Fixture::up("").await?;
    let home = &fixture.home;
    for round in 0..3 {
        let name = format!("new{round}");
        home.write(&format!("{name}.toml"), &fixture.server.tunnel_toml(&name)?)?;
        match round {
            0 => home.ctl(&["up", &name]).await?.expect_exit(0)?,
            1 => home.ctl(&["restart", &name]).await?.expect_exit(0)?,
            // It may still be connecting.
            _ => {
                let output = home.ctl(&["status", "--output", "json", &name]).await?;
                assert!(matches!(output.exit_code, 0 | 3), "{output:?}");
                output
            }
        };
    }
    fixture.rewrite_tunnel("description = \"now\"")?;
    assert_eq!(
        fixture.daemon.status("t").await?.description.as_deref(),
        Some("now")
    );
    home.remove("new0.toml")?;
    home.ctl(&["down", "new0"]).await?.expect_exit(4)?;
    Ok(())
}

#[tokio::test]
async fn a_tunnel_is_listed_as_soon_as_its_file_is_read() -> Result<()> {
    let (fixture, _) = Fixture::up("").await?;
    let held: Vec<_> = (0..8)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    let ports = held
        .iter()
        .map(|held| held.local_addr().map(|at| at.port()));
    let forwards = ports
        .map(|port| Ok(format!("\"127.0.0.1:{} localhost:1\"", port?)))
        .collect::<Result<Vec<_>>>()?;
    let toml = format!(
        "{}local_forward = [{}]\n",
        fixture.server.tunnel_toml("held")?,
        forwards.join(", ")
    );
    fixture.home.write("held.toml", &toml)?;
    fixture.home.ctl(&["up", "held"]).await?.expect_exit(0)?;
    Ok(())
}

#[tokio::test]
async fn commands_for_all_tunnels_return_2_after_a_start_with_a_broken_file() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    home.write("good.toml", &server.tunnel_toml("good")?)?;
    home.write("bad.toml", "[tunnel.bad\nhost = \"x\"\n")?;
    let daemon = Daemon::start(&home).await?;
    for command in [&["up", "--all"][..], &["up", "g*"], &["status"]] {
        let output = home.ctl(command).await?.expect_exit(2)?;
        assert!(output.stderr.contains("bad.toml"), "{output:?}");
    }
    home.ctl(&["up", "good"]).await?.expect_exit(0)?;
    home.ctl(&["status", "good"]).await?.expect_exit(0)?;
    daemon.wait_up("good").await?;
    Ok(())
}

#[tokio::test]
async fn a_mended_ssh_config_starts_its_tunnels_without_a_reload() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    let (config, included) = (home.path("ssh_config"), home.path("included"));
    std::fs::write(&config, format!("Include {}\n", included.display()))?;
    std::fs::write(&included, "NoSuchOption x\n")?;
    let lines = format!("ssh_config = \"{}\"\n", config.display());
    home.write("t.toml", &format!("{}{lines}", server.tunnel_toml("t")?))?;
    let daemon = Daemon::start(&home).await?;
    daemon.log().wait("Bad configuration option", LONG).await?;
    assert!(daemon.status("t").await.is_err());
    // Included files are not watched.
    std::fs::write(&included, "Port 22\n")?;
    daemon.wait_up("t").await?;
    Ok(())
}

#[tokio::test]
async fn a_daemon_that_starts_with_a_broken_file_runs_its_last_good_copy() -> Result<()> {
    let (mut fixture, _) = Fixture::up("").await?;
    fixture.daemon.terminate(LONG).await?;
    fixture.home.write("t.toml", "[tunnel.t\n")?;
    let daemon = Daemon::start(&fixture.home).await?;
    let tunnel = daemon.wait_up("t").await?;
    assert!(tunnel.notes.iter().any(|note| note.starts_with("stale: ")));
    fixture.rewrite_tunnel("description = \"mended\"")?;
    let tunnel = daemon.wait_for("t", LONG, described("mended")).await?;
    assert_eq!(tunnel.notes, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn hosts_whose_match_exec_hangs_delay_only_their_own_tunnels() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    let (ssh_config, release) = (home.path("ssh_config"), home.path("release"));
    let wait = format!("until test -e {}; do sleep 0.05; done", release.display());
    let block = server.ssh_config_host("slow*")?;
    std::fs::write(
        &ssh_config,
        format!("Match originalhost slow* exec \"{wait}\"\n  Compression no\n{block}"),
    )?;
    home.write("plain.toml", &server.tunnel_toml("plain")?)?;
    for number in 0..24 {
        let text = format!(
            "[tunnel.slow{number}]\nssh_config = \"{}\"\n",
            ssh_config.display()
        );
        home.write(&format!("slow{number}.toml"), &text)?;
    }
    let daemon = Daemon::start(&home).await?;
    daemon.wait_up("plain").await?;
    let errors = async || {
        let status: DaemonStatus =
            serde_json::from_value(daemon.call("daemon.status", json!({})).await?)?;
        let errors = status.config_errors.into_iter();
        anyhow::Ok(errors.map(|error| error.message).collect::<Vec<_>>())
    };
    let waiting = errors().await?;
    assert_eq!(waiting.len(), 24, "{waiting:#?}");
    assert!(
        waiting
            .iter()
            .all(|error| error.contains("has not answered yet")),
        "{waiting:#?}"
    );
    // A reload answers too, before any of them has.
    let report = daemon.call("config.reload", json!({})).await?;
    let report: ReloadReport = serde_json::from_value(report)?;
    assert!(
        report
            .errors
            .iter()
            .all(|error| error.message.contains("has not answered yet")),
        "{:#?}",
        report.errors
    );
    std::fs::write(release, "")?;
    for number in 0..24 {
        daemon.wait_up(&format!("slow{number}")).await?;
    }
    assert_eq!(errors().await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_command_reads_again_at_once_what_could_not_be_used() -> Result<()> {
    let home = Home::new()?;
    let (ssh_config, included) = (home.path("ssh_config"), home.path("included"));
    std::fs::write(&ssh_config, format!("Include {}\n", included.display()))?;
    std::fs::write(&included, "NoSuchOption yes\n")?;
    let text = format!(
        "[tunnel.t]\nhost = \"192.0.2.1\"\nautostart = false\nssh_config = \"{}\"\n",
        ssh_config.display()
    );
    home.write("t.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    let errors = async || {
        let status: DaemonStatus =
            serde_json::from_value(daemon.call("daemon.status", json!({})).await?)?;
        anyhow::Ok(status.config_errors.len())
    };
    assert_eq!(errors().await?, 1);
    // The file is not watched: only asking ssh again shows that it is mended.
    std::fs::write(&included, "")?;
    let shown = daemon.call("tunnel.status", json!({})).await?;
    assert_eq!(shown["tunnels"][0]["name"], "t", "{shown}");
    assert_eq!(errors().await?, 0);
    Ok(())
}
