//! Reload: only what changed is touched, and what is broken changes nothing.

use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;
use serde_json::json;
use tunneld_proto::message::{DaemonStatus, EventBody, ReloadReport};
use tunneld_proto::status::{ForwardKind, ForwardState, Phase, State, TunnelStatus};
use tunneld_tests::daemon::{Daemon, Watch, listen, listen_at};
use tunneld_tests::home::{DEFAULTS, Home};
use tunneld_tests::payload;
use tunneld_tests::ports;
use tunneld_tests::sshd::Sshd;
use tunneld_tests::target::Target;
use tunneld_tests::wait::{LONG, within};

use crate::fixture::{Scene, renewed, secs, session_since, tcp};

fn listening(count: usize) -> impl Fn(&TunnelStatus) -> bool {
    move |tunnel| {
        let mut forwards = tunnel.forwards.iter();
        tunnel.forwards.len() == count
            && forwards.all(|forward| forward.state == ForwardState::Listening)
    }
}

/// Waits for the next report of a reload that satisfies `so`.
async fn reloaded(watch: &mut Watch, so: impl Fn(&ReloadReport) -> bool) -> Result<ReloadReport> {
    within(LONG, "a reload", async {
        loop {
            if let Some(EventBody::Config { report }) = watch.next(LONG).await?
                && so(&report)
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
    let (scene, before) = Scene::up(&format!("local_forward = [{first}]")).await?;
    let addr = listen(&before, ForwardKind::Local)?;
    let mut live = tcp(addr).await?;
    payload::ping(&mut live, b"one").await?;

    let more = format!(
        "local_forward = [{first}, \"127.0.0.1:{}:127.0.0.1:{to}\"]\nremote_forward = \"0 127.0.0.1:{to}\"\ndynamic_forward = 0",
        ports::free()?
    );
    scene.rewrite(&more)?;
    let tunnel = scene.daemon.wait_for("t", LONG, listening(4)).await?;
    assert_eq!(listen(&tunnel, ForwardKind::Local)?, addr);
    payload::ping(&mut live, b"two").await?;
    payload::ping(&mut tcp(listen_at(&tunnel, 1)?).await?, b"new").await?;
    let remote = listen(&tunnel, ForwardKind::Remote)?;
    let mut through = tcp(remote).await?;
    payload::ping(&mut through, b"new").await?;

    scene.rewrite(&format!("local_forward = [{first}]"))?;
    let tunnel = scene.daemon.wait_for("t", LONG, listening(1)).await?;
    assert_eq!(listen(&tunnel, ForwardKind::Local)?, addr);
    payload::ping(&mut live, b"three").await?;
    assert_eq!(session_since(&tunnel), session_since(&before));
    assert_eq!(tunnel.reconnects, 0);
    let gone = within(LONG, "the remote listener to go", async {
        while tokio::net::TcpStream::connect(remote).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    gone.await
}

#[tokio::test]
async fn description_and_tags_change_without_a_reconnect() -> Result<()> {
    let (scene, before) = Scene::up("").await?;
    scene.rewrite("description = \"the new one\"\ntags = [\"a\", \"b\"]")?;
    let told = |tunnel: &TunnelStatus| tunnel.description.as_deref() == Some("the new one");
    let tunnel = scene.daemon.wait_for("t", LONG, told).await?;
    assert_eq!(tunnel.tags, ["a", "b"]);
    assert_eq!(session_since(&tunnel), session_since(&before));
    Ok(())
}

#[tokio::test]
async fn a_live_session_survives_a_change_of_what_the_next_dial_reads() -> Result<()> {
    let target = Target::echo().await?;
    let forward = format!("local_forward = \"0 127.0.0.1:{}\"", target.port());
    let (scene, before) = Scene::up(&forward).await?;
    let mut live = tcp(listen(&before, ForwardKind::Local)?).await?;
    payload::ping(&mut live, b"one").await?;
    // The description shows when the new file is in force.
    let policy = "backoff = { initial = \"7s\", max = \"9s\" }\nconnect_timeout = 7\nhash_known_hosts = true";
    scene.rewrite(&format!("{forward}\n{policy}\ndescription = \"new\""))?;
    let applied = |tunnel: &TunnelStatus| tunnel.description.as_deref() == Some("new");
    let after = scene.daemon.wait_for("t", LONG, applied).await?;
    payload::ping(&mut live, b"two").await?;
    assert_eq!(session_since(&after), session_since(&before));
    assert_eq!(after.reconnects, 0);
    Ok(())
}

#[tokio::test]
async fn a_dial_that_waits_starts_over_with_a_changed_backoff() -> Result<()> {
    // Port 9 of the loopback refuses: the tunnel waits for its next attempt.
    let tunnel = "[tunnel.t]\nhost = \"127.0.0.1:9\"\nssh_config = false\n";
    let slow = "backoff = { initial = \"1h\", max = \"1h\" }\n";
    let (home, daemon) = crate::fixture::home(&format!("{tunnel}{slow}")).await?;
    let waits = |tunnel: &TunnelStatus| tunnel.state == State::Waiting;
    daemon.wait_for("t", LONG, waits).await?;
    home.write(
        "t.toml",
        &format!("{tunnel}backoff = {{ initial = \"100ms\", max = \"100ms\" }}\n"),
    )?;
    let retried = |tunnel: &TunnelStatus| tunnel.attempt >= 3;
    daemon.wait_for("t", LONG, retried).await.map(drop)
}

#[tokio::test]
async fn a_changed_destination_reconnects_that_tunnel_alone() -> Result<()> {
    let (scene, before) = Scene::up("").await?;
    let other = Sshd::start().await?;
    scene.home.write("u.toml", &scene.server.tunnel("u")?)?;
    let u = scene.daemon.wait_up("u").await?;
    scene.home.write("t.toml", &other.tunnel("t")?)?;
    let moved = |tunnel: &TunnelStatus| {
        tunnel.state == State::Up && tunnel.host.contains(&other.port().to_string())
    };
    let after = scene.daemon.wait_for("t", LONG, moved).await?;
    assert_ne!(session_since(&after), session_since(&before));
    let same = scene.daemon.status("u").await?;
    assert_eq!(session_since(&same), session_since(&u));
    Ok(())
}

#[tokio::test]
async fn a_broken_file_keeps_its_tunnels_and_other_files_apply() -> Result<()> {
    let (scene, before) = Scene::up("").await?;
    let mut watch = scene.daemon.watch().await?;
    scene
        .home
        .write("t.toml", "[tunnel.t]\nhots = \"typo\"\n")?;
    let report = reloaded(&mut watch, |report| !report.errors.is_empty()).await?;
    let fault = &report.errors[0];
    assert!(fault.file.ends_with("t.toml"), "{fault:?}");
    assert_eq!((fault.line, fault.column), (Some(2), Some(1)));
    assert!(fault.rendered.contains("did you mean") && fault.rendered.contains("host"));

    scene.home.write("u.toml", &scene.server.tunnel("u")?)?;
    watch
        .until("u", LONG, |tunnel| tunnel.state == State::Up)
        .await?;
    let tunnel = scene.daemon.status("t").await?;
    assert_eq!(session_since(&tunnel), session_since(&before));
    assert_eq!(tunnel.state, State::Up);

    let said = scene.home.ctl(&["reload"]).await?.expect(2)?;
    assert!(said.stderr.contains("t.toml"), "{said:?}");
    let said = scene.home.ctl(&["status"]).await?.expect(0)?;
    let all = format!("{}{}", said.stdout, said.stderr);
    assert!(all.contains("t.toml"), "{said:?}");
    let daemon: DaemonStatus =
        serde_json::from_value(scene.daemon.call("daemon.status", json!({})).await?)?;
    assert_eq!(daemon.config_errors.len(), 1);

    scene.rewrite("description = \"mended\"")?;
    let mended = |tunnel: &TunnelStatus| tunnel.description.as_deref() == Some("mended");
    let tunnel = watch.until("t", LONG, mended).await?;
    assert_eq!(session_since(&tunnel), session_since(&before));
    scene.home.ctl(&["reload"]).await?.expect(0)?;
    Ok(())
}

#[tokio::test]
async fn a_reload_during_the_forward_requests_does_not_stop_the_tunnel() -> Result<()> {
    let target = Target::echo().await?;
    let lines = format!("remote_forward = \"0 127.0.0.1:{}\"\n", target.port());
    let (scene, link, before) = Scene::linked(&lines).await?;
    link.delay(Duration::from_millis(500));
    let mut watch = scene.daemon.watch().await?;
    link.reset();
    let asking = |tunnel: &TunnelStatus| tunnel.phase == Some(Phase::Forwards);
    watch.until("t", LONG, asking).await?;
    link.freeze();
    let tunnel = scene.server.tunnel_at("t", link.port())?;
    let text = format!("{tunnel}{lines}description = \"changed\"\n");
    scene.home.write("t.toml", &text)?;
    scene.daemon.call("config.reload", json!({})).await?;
    assert!(asking(&scene.daemon.status("t").await?));
    link.thaw();
    watch.until("t", LONG, renewed(&before)).await?;
    let told = |tunnel: &TunnelStatus| tunnel.description.is_some();
    let tunnel = watch.until("t", LONG, told).await?;
    assert!(renewed(&before)(&tunnel));
    Ok(())
}

#[tokio::test]
async fn an_address_that_moves_between_tunnels_causes_no_conflict() -> Result<()> {
    let server = Sshd::start().await?;
    let (one, two) = (ports::free()?, ports::free()?);
    let forward = |port| format!("local_forward = \"{port} 127.0.0.1:9\"\n");
    let named = |name: &str, port| Ok::<_, anyhow::Error>(server.tunnel(name)? + &forward(port));
    let home = Home::new()?;
    home.write("t.toml", &(named("a", one)? + &named("b", two)?))?;
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    let up = |tunnel: &TunnelStatus| tunnel.state == State::Up && listening(1)(tunnel);
    watch.until_all(&["a", "b"], LONG, up).await?;
    // Swapped, then one renamed, then renamed back.
    for (first, second) in [("b", "a"), ("c", "a"), ("b", "a")] {
        home.write("t.toml", &(named(first, one)? + &named(second, two)?))?;
        daemon.call("config.reload", json!({})).await?;
        let there = |tunnel: &TunnelStatus| {
            let port = if tunnel.name == "a" { two } else { one };
            up(tunnel) && tunnel.forwards[0].listen.ends_with(&format!(":{port}"))
        };
        watch.until_all(&[first, second], LONG, there).await?;
    }
    let log = daemon.log().text();
    assert!(!log.contains("cannot listen"), "{log}");
    Ok(())
}

#[tokio::test]
async fn a_removed_file_removes_its_tunnels() -> Result<()> {
    let (scene, _) = Scene::up("local_forward = \"0 127.0.0.1:9\"").await?;
    let mut watch = scene.daemon.watch().await?;
    let addr = listen(&watch.tunnels()["t"], ForwardKind::Local)?;
    scene.home.remove("t.toml")?;
    within(LONG, "the tunnel to go", async {
        while watch.tunnels().contains_key("t") {
            watch.next(LONG).await?;
        }
        anyhow::Ok(())
    })
    .await??;
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
    scene.home.ctl(&["status", "t"]).await?.expect(4)?;
    Ok(())
}

#[tokio::test]
async fn sighup_reloads_the_configuration() -> Result<()> {
    let (scene, _) = Scene::up("").await?;
    let mut watch = scene.daemon.watch().await?;
    scene.daemon.process().signal(Signal::HUP)?;
    scene.daemon.log().wait("SIGHUP", LONG).await?;
    scene.rewrite("description = \"after the signal\"")?;
    scene.daemon.process().signal(Signal::HUP)?;
    let told = |tunnel: &TunnelStatus| tunnel.description.is_some();
    watch.until("t", LONG, told).await?;
    Ok(())
}

#[tokio::test]
async fn config_reload_reports_nothing_if_nothing_changed() -> Result<()> {
    let (scene, _) = Scene::up("").await?;
    let call = async || -> Result<ReloadReport> {
        let value = scene.daemon.call("config.reload", json!({})).await?;
        Ok(serde_json::from_value(value)?)
    };
    assert_eq!(call().await?, ReloadReport::default());
    Ok(())
}

#[tokio::test]
async fn a_symlink_swap_and_an_in_place_edit_are_noticed() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    let text = |words: &str| -> Result<String> {
        Ok(format!(
            "{}description = \"{words}\"\n",
            server.tunnel("t")?
        ))
    };
    // A store of the kind that Nix and Kubernetes keep: the file is a link, and the link is swapped.
    std::fs::create_dir(home.path("store"))?;
    let (one, two) = (home.path("store/one.toml"), home.path("store/two.toml"));
    std::fs::write(&one, text("one")?)?;
    std::fs::write(&two, text("two")?)?;
    let link = home.config_dir().join("t.toml");
    std::os::unix::fs::symlink(&one, &link)?;
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    let says = |words: &'static str| {
        move |tunnel: &TunnelStatus| tunnel.description.as_deref() == Some(words)
    };
    watch.until("t", LONG, says("one")).await?;
    let swapped = home.config_dir().join(".swap");
    std::os::unix::fs::symlink(&two, &swapped)?;
    std::fs::rename(&swapped, &link)?;
    watch.until("t", LONG, says("two")).await?;
    std::fs::remove_file(&link)?;
    std::fs::write(&link, text("three")?)?;
    watch.until("t", LONG, says("three")).await?;
    std::fs::write(&link, text("four")?)?;
    watch.until("t", LONG, says("four")).await?;
    Ok(())
}

#[tokio::test]
async fn a_replaced_directory_is_watched_again() -> Result<()> {
    let (scene, before) = Scene::up("").await?;
    let mut watch = scene.daemon.watch().await?;
    let (dir, old) = (scene.home.config_dir(), scene.home.path("config.old"));
    std::fs::rename(&dir, &old)?;
    std::fs::create_dir(&dir)?;
    scene.home.write("tunneld.toml", DEFAULTS)?;
    scene.rewrite("description = \"new folder\"")?;
    let told = |tunnel: &TunnelStatus| tunnel.description.as_deref() == Some("new folder");
    watch.until("t", LONG, told).await?;
    scene.rewrite("description = \"and again\"")?;
    let told = |tunnel: &TunnelStatus| tunnel.description.as_deref() == Some("and again");
    let after = watch.until("t", LONG, told).await?;
    assert_eq!(session_since(&after), session_since(&before));
    Ok(())
}

#[tokio::test]
async fn a_missing_directory_keeps_the_tunnels() -> Result<()> {
    let (scene, before) = Scene::up("").await?;
    let mut watch = scene.daemon.watch().await?;
    let (dir, old) = (scene.home.config_dir(), scene.home.path("config.old"));
    std::fs::rename(&dir, &old)?;
    reloaded(&mut watch, |report| !report.errors.is_empty()).await?;
    let during = scene.daemon.status("t").await?;
    assert_eq!(session_since(&during), session_since(&before));
    std::fs::rename(&old, &dir)?;
    reloaded(&mut watch, |report| report.errors.is_empty()).await?;
    let after = scene.daemon.status("t").await?;
    assert_eq!(session_since(&after), session_since(&before));
    Ok(())
}

#[tokio::test]
async fn an_unreadable_file_keeps_its_tunnels() -> Result<()> {
    let (scene, before) = Scene::up("").await?;
    let mut watch = scene.daemon.watch().await?;
    let path = scene.home.config_dir().join("t.toml");
    // A directory of that name is as unreadable to root as mode 0 is to others.
    std::fs::remove_file(&path)?;
    std::fs::create_dir(&path)?;
    let report = reloaded(&mut watch, |report| !report.errors.is_empty()).await?;
    assert!(report.errors[0].file.ends_with("t.toml"), "{report:?}");
    let during = scene.daemon.status("t").await?;
    assert_eq!(session_since(&during), session_since(&before));
    Ok(())
}

#[tokio::test]
async fn the_last_of_a_thousand_edits_applies() -> Result<()> {
    let (scene, before) = Scene::up("").await?;
    for n in 0..1000 {
        let broken = n % 10 == 0;
        let text = if broken { "[[[" } else { "" };
        scene.rewrite(&format!("description = \"edit {n}\"\n{text}"))?;
    }
    let last = |tunnel: &TunnelStatus| tunnel.description.as_deref() == Some("edit 999");
    let after = scene.daemon.wait_for("t", secs(10), last).await?;
    assert_eq!(session_since(&after), session_since(&before));
    Ok(())
}

#[tokio::test]
async fn hidden_files_and_editor_backups_are_ignored() -> Result<()> {
    let (scene, _) = Scene::up("").await?;
    for name in [
        ".hidden.toml",
        "t.toml~",
        "#t.toml#",
        "t.toml.swp",
        "notes.txt",
    ] {
        std::fs::write(scene.home.config_dir().join(name), "this is no TOML [[[")?;
    }
    scene.home.ctl(&["reload"]).await?.expect(0)?;
    Ok(())
}
