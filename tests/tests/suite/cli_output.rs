//! What tunnelctl prints: stdout and stderr, colour, closed and full pipes, JSON lines, escapes and hints.

use std::process::Stdio;

use anyhow::{Context, Result};
use serde_json::Value;
use tunneld_tests::process;
use tunneld_tests::sshd::Sshd;
use tunneld_tests::target::Target;
use tunneld_tests::wait::{LONG, within};

use crate::fixture::Fixture;

#[tokio::test]
async fn data_goes_to_stdout_and_messages_to_stderr() -> Result<()> {
    let target = Target::echo().await?;
    let lines = format!(
        "description = \"the lab's\"\ntags = [\"x\"]\nlocal_forward = \"0 127.0.0.1:{}\"",
        target.port()
    );
    let (fixture, _) = Fixture::up(&lines).await?;
    let output = fixture
        .home
        .ctl(&["status", "--output", "json"])
        .await?
        .expect_exit(0)?;
    assert_eq!(output.stderr, "");
    let json = output.json()?;
    let tunnel = &json[0];
    for key in [
        "name",
        "state",
        "phase",
        "since",
        "host",
        "via",
        "tags",
        "description",
        "desired",
        "attempt",
        "retry_at",
        "last_error",
        "prompt",
        "session",
        "reconnects",
        "forwards",
    ] {
        assert!(tunnel.get(key).is_some(), "no {key}: {tunnel:#}");
    }
    for key in [
        "since", "server", "kex", "cipher", "mac", "host_key", "auth", "rtt_ms", "offences",
    ] {
        assert!(
            tunnel["session"].get(key).is_some(),
            "no session.{key}: {tunnel:#}"
        );
    }
    for key in [
        "kind",
        "listen",
        "to",
        "state",
        "error",
        "exposed",
        "connections",
        "held",
        "total",
        "bytes_in",
        "bytes_out",
    ] {
        assert!(
            tunnel["forwards"][0].get(key).is_some(),
            "no forwards.{key}: {tunnel:#}"
        );
    }
    assert_eq!(tunnel["name"], "t");
    assert!(
        tunnel["session"]["server"]
            .as_str()
            .is_some_and(|s| s.starts_with("SSH-2.0-OpenSSH"))
    );
    assert!(
        tunnel["session"]["host_key"]
            .as_str()
            .is_some_and(|key| key.contains("SHA256:"))
    );
    let since: jiff::Timestamp = tunnel["since"].as_str().context("a time")?.parse()?;
    assert!(since <= jiff::Timestamp::now());

    let output = fixture.home.ctl(&["status"]).await?.expect_exit(0)?;
    assert!(
        output.stdout.contains('t') && output.stdout.contains("up"),
        "{output:#?}"
    );
    let output = fixture.home.ctl(&["status", "t"]).await?.expect_exit(0)?;
    let forward = format!("127.0.0.1:{}", target.port());
    assert!(output.stdout.contains(&forward), "{output:#?}");
    Ok(())
}

#[tokio::test]
async fn colour_is_used_only_when_requested() -> Result<()> {
    let (fixture, _) = Fixture::up("").await?;
    let plain = fixture.home.ctl(&["status"]).await?.expect_exit(0)?;
    assert!(!plain.stdout.contains('\u{1b}'), "{plain:#?}");
    let always = fixture
        .home
        .ctl(&["status", "--color", "always"])
        .await?
        .expect_exit(0)?;
    assert!(always.stdout.contains('\u{1b}'), "{always:#?}");
    let mut command = fixture.home.command("tunnelctl")?;
    let out = command.arg("status").env("NO_COLOR", "1").output().await?;
    assert!(!out.stdout.contains(&0x1b));
    Ok(())
}

#[tokio::test]
async fn closed_or_full_output_and_narrow_terminals_cause_no_panic() -> Result<()> {
    let (fixture, _) = Fixture::up("local_forward = \"0 127.0.0.1:9\"").await?;
    // The shell runs each script with tunnelctl as `$0`. A closed or full stdout may be an error, never a panic.
    for (script, codes) in [
        ("\"$0\" status --output json | :", &[0][..]),
        ("\"$0\" status --output json >&-", &[0, 1]),
        ("\"$0\" status --output json >/dev/full", &[0, 1]),
        ("COLUMNS=20 \"$0\" status", &[0]),
        ("env -u TERM \"$0\" status", &[0]),
        ("COLUMNS=0 \"$0\" status t", &[0]),
    ] {
        let shell = ["bash", "-o", "pipefail", "-c", script].map(str::to_owned);
        let mut command = fixture.home.command_with_prefix(&shell, "tunnelctl")?;
        command.stdin(Stdio::null());
        let out = within(LONG, script, command.output()).await??;
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(!stderr.contains("panicked"), "{script}: {stderr}");
        let code = process::exit_code(out.status);
        assert!(codes.contains(&code), "{script}: {code}: {stderr}");
    }
    Ok(())
}

#[tokio::test]
async fn control_characters_in_names_are_escaped() -> Result<()> {
    let (fixture, _) = Fixture::up("").await?;
    let output = fixture.home.ctl(&["status", "\u{1b}[31mred\u{9b}"]).await?;
    assert_ne!(output.exit_code, 0);
    assert!(!output.stderr.contains(['\u{1b}', '\u{9b}']), "{output:#?}");
    Ok(())
}

#[tokio::test]
async fn events_and_watched_status_print_json_lines() -> Result<()> {
    let (fixture, _) = Fixture::up("").await?;
    for args in [
        &["events", "--output", "json"][..],
        &["status", "--watch", "--output", "json"],
    ] {
        let mut command = fixture.home.command("tunnelctl")?;
        command
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let out = child.stdout.take().context("stdout")?;
        let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(out));
        if args[0] == "status" {
            let line = within(LONG, "a first line", lines.next_line()).await??;
            serde_json::from_str::<Value>(&line.context("a line")?)?;
        } else {
            // `events` prints only later events: wait until it is connected, beside the lab's own client.
            within(LONG, "the subscription", async {
                loop {
                    let status = fixture
                        .daemon
                        .call("daemon.status", serde_json::json!({}))
                        .await?;
                    if status["clients"].as_u64() >= Some(2) {
                        return anyhow::Ok(());
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            })
            .await??;
        }
        fixture.home.ctl(&["restart", "t"]).await?.expect_exit(0)?;
        for _ in 0..2 {
            let line = within(LONG, "a line", lines.next_line()).await??;
            serde_json::from_str::<Value>(&line.context("a line")?)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn logs_shows_the_lines_of_one_tunnel() -> Result<()> {
    let (fixture, _) = Fixture::up("").await?;
    let output = fixture.home.ctl(&["logs", "t"]).await?.expect_exit(0)?;
    assert!(!output.stdout.is_empty(), "{output:#?}");
    fixture
        .home
        .ctl(&["logs", "nobody"])
        .await?
        .expect_exit(4)?;
    Ok(())
}

#[tokio::test]
async fn a_refused_login_prints_a_hint() -> Result<()> {
    let server = Sshd::start().await?;
    std::fs::write(server.dir().join("authorized_keys"), "")?;
    let fixture = Fixture::start(server, "autostart = false\nidentities_only = true").await?;
    let output = fixture.home.ctl(&["up", "t"]).await?.expect_exit(1)?;
    assert!(
        output.stderr.to_lowercase().contains("hint") || output.stderr.lines().count() > 1,
        "{output:#?}"
    );
    Ok(())
}
