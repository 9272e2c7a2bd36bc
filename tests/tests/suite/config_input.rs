//! Invalid input in configuration files and key files: each mistake gets one clear error and affects nothing else.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};
use tokio::time::Instant;
use tunneld_platform::testing::make_fifo;
use tunneld_proto::status::{ForwardState, State, TunnelStatus};
use tunneld_tests::ctl::ProgramOutput;
use tunneld_tests::daemon::Daemon;
use tunneld_tests::home::{DEFAULTS, Home};
use tunneld_tests::sshd::Sshd;
use tunneld_tests::wait::LONG;

use crate::fixture::{Fixture, secs};

/// Runs `tunneld check` on these files, given by name and content.
async fn check(files: &[(&str, &[u8])]) -> Result<ProgramOutput> {
    let home = Home::without_config()?;
    for (name, bytes) in files {
        std::fs::write(home.config_dir().join(name), bytes)?;
    }
    let began = Instant::now();
    let output = home.run("tunneld", &["check"]).await?;
    assert!(began.elapsed() < secs(10), "took {:?}", began.elapsed());
    let all = format!("{}{}", output.stdout, output.stderr);
    assert!(!all.contains("panicked"), "{output:#?}");
    // An error quotes the file: control characters must not reach the terminal.
    assert!(!all.contains(['\u{1b}', '\u{9b}', '\0']), "{output:#?}");
    Ok(output)
}

/// Checks that `[tunnel.t]` with this line is accepted.
async fn check_accepted(line: &str) -> Result<()> {
    let text = format!("[tunnel.t]\nhost = \"h\"\nssh_config = false\n{line}\n");
    let output = check(&[("t.toml", text.as_bytes())]).await?;
    output.expect_exit(0).with_context(|| line.to_owned())?;
    Ok(())
}

/// Checks that `[tunnel.t]` with this line is refused, with an error that names the line and contains these words.
async fn check_refused(line: &str, words: &[&str]) -> Result<()> {
    let text = format!("[tunnel.t]\nssh_config = false\n{line}\n");
    let output = check(&[("t.toml", text.as_bytes())]).await?;
    let output = output.expect_exit(2).with_context(|| line.to_owned())?;
    assert!(output.stderr.contains("t.toml:3:"), "{line}: {output:#?}");
    for word in words {
        assert!(
            output.stderr.contains(word),
            "{line} without {word:?}: {output:#?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn empty_files_comments_byte_order_marks_and_crlf_are_accepted() -> Result<()> {
    check(&[]).await?.expect_exit(0)?;
    let files: &[&[u8]] = &[
        b"",
        b"# a comment",
        b"\xef\xbb\xbf[tunnel.t]\nhost = \"h\"\nssh_config = false\n",
        b"[tunnel.t]\r\nhost = \"h\"\r\nssh_config = false\r\n",
    ];
    for file in files {
        check(&[("t.toml", file)]).await?.expect_exit(0)?;
    }
    Ok(())
}

#[tokio::test]
async fn invalid_toml_is_reported_as_one_short_error() -> Result<()> {
    // Nested more deeply than a recursive parser survives.
    let deep = format!("a = {}{}", "[".repeat(500), "]".repeat(500));
    let tables = (0..100_000)
        .map(|n| format!("[x{n}]\n"))
        .collect::<String>();
    let files: &[(&str, &[u8])] = &[
        ("a NUL byte", b"[tunnel.t]\nhost = \"a\0b\"\n"),
        ("invalid UTF-8", b"[tunnel.t]\nhost = \"\xff\xfe\"\n"),
        ("not TOML", b"this is no TOML\n"),
        ("open string", b"[tunnel.t]\nhost = \"open\n"),
        ("deep", deep.as_bytes()),
        ("tables", tables.as_bytes()),
        ("10 MB", &vec![b'#'; 10 << 20]),
    ];
    for (case, bytes) in files {
        let output = check(&[("t.toml", bytes)]).await?;
        let output = output.expect_exit(2).with_context(|| (*case).to_owned())?;
        assert!(output.stderr.contains("t.toml"), "{case}: {output:#?}");
        // A hundred thousand mistakes must not fill the terminal.
        assert!(
            output.stderr.len() < 100_000,
            "{case}: {} bytes",
            output.stderr.len()
        );
    }
    Ok(())
}

#[tokio::test]
async fn unknown_keys_and_wrong_types_are_reported_with_their_location() -> Result<()> {
    check_refused("hots = \"h\"", &["did you mean", "host", "t.toml:3:1"]).await?;
    check_refused(
        "local_forwards = \"1 h:2\"",
        &["did you mean", "local_forward"],
    )
    .await?;
    check_refused("local_forward = true", &[]).await?;
    check_refused("port = \"twenty-two\"", &[]).await?;
    check_refused("tags = 7", &[]).await?;
    check_refused("autostart = \"perhaps\"", &[]).await?;
    check_refused("ssh_config = true", &[]).await
}

#[tokio::test]
async fn all_errors_of_all_files_are_reported_in_one_pass() -> Result<()> {
    let one = b"[tunnel.a]\nssh_config = false\nhots = \"h\"\nport = 70000\n";
    let two = b"[tunnel.b]\nssh_config = false\nlocal_forward = \"x y z\"\n";
    let output = check(&[("one.toml", one), ("two.toml", two)])
        .await?
        .expect_exit(2)?;
    for place in ["one.toml:3:", "one.toml:4:", "two.toml:3:"] {
        assert!(output.stderr.contains(place), "{place}: {output:#?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_duplicate_tunnel_name_is_reported_with_both_files() -> Result<()> {
    let text = b"[tunnel.same]\nhost = \"h\"\nssh_config = false\n";
    let output = check(&[("one.toml", text), ("two.toml", text)])
        .await?
        .expect_exit(2)?;
    assert!(
        output.stderr.contains("one.toml") && output.stderr.contains("two.toml"),
        "{output:#?}"
    );
    assert!(output.stderr.contains("same"), "{output:#?}");
    Ok(())
}

#[tokio::test]
async fn port_numbers_are_checked() -> Result<()> {
    check_accepted("local_forward = \"0 h:1\"").await?;
    check_accepted("local_forward = \"65535 h:65535\"").await?;
    check_accepted("dynamic_forward = 0").await?;
    check_accepted("port = 65535").await?;
    for line in [
        "local_forward = \"65536 h:1\"",
        "local_forward = \"1 h:65536\"",
        "local_forward = \"1 h:0\"",
        "local_forward = \"-1 h:1\"",
        "local_forward = \"1\"",
        "local_forward = \"\"",
        "dynamic_forward = 65536",
        "dynamic_forward = -1",
        "port = 0",
        "port = 65536",
        "port = -1",
        "port = \"22 \"",
    ] {
        check_refused(line, &[]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn durations_are_checked() -> Result<()> {
    for line in [
        "server_alive_interval = 90",
        "server_alive_interval = \"90\"",
        "server_alive_interval = \"1m30s\"",
        "server_alive_interval = \"2h\"",
        "server_alive_interval = 0",
        "hold = 0",
        "backoff = { initial = \"1s\", max = \"5m\" }",
    ] {
        check_accepted(line).await?;
    }
    for line in [
        "server_alive_interval = \"-1s\"",
        "server_alive_interval = -1",
        "server_alive_interval = 1000000000000000000",
        "server_alive_interval = \"99999999999999999999h\"",
        "server_alive_interval = nan",
        "server_alive_interval = 1e18",
        "server_alive_interval = \"soon\"",
        "server_alive_interval = \"\"",
        "hold = \"1 year\"",
        "connect_timeout = -5",
        "backoff = { initial = \"1m\", max = \"1s\" }",
        "backoff = { first = \"1s\" }",
    ] {
        check_refused(line, &[]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn tunnel_names_are_checked() -> Result<()> {
    let long = "x".repeat(300);
    for name in [
        "a/b",
        "..",
        "a\\nb",
        "\\u001bx",
        "-x",
        "",
        "a b",
        "\\u0085",
        long.as_str(),
    ] {
        let text = format!("[tunnel.\"{name}\"]\nhost = \"h\"\nssh_config = false\n");
        let output = check(&[("t.toml", text.as_bytes())]).await?;
        let output = output.expect_exit(2).with_context(|| name.to_owned())?;
        assert!(output.stderr.contains("t.toml:1:"), "{name}: {output:#?}");
    }
    // The longest name that is accepted.
    let longest = "x".repeat(64);
    for name in ["a", "A.b-c_9", longest.as_str()] {
        let text = format!("[tunnel.\"{name}\"]\nhost = \"h\"\nssh_config = false\n");
        check(&[("t.toml", text.as_bytes())])
            .await?
            .expect_exit(0)?;
    }
    Ok(())
}

#[tokio::test]
async fn hosts_and_users_are_checked() -> Result<()> {
    for line in [
        "host = \"h\"",
        "host = \"u@h\"",
        "host = \"u@h:22\"",
        "host = \"u@[::1]:22\"",
        "host = \"fe80::1%eth0\"",
        "host = \"user@domain@h\"",
        "host = \"John Smith@h\"",
        "user = \"$x\"",
        "user = \"a\\\\b\"",
        "host = \"vsock/3\"\nproxy_command = \"nc %h %p\"",
    ] {
        let text = format!("[tunnel.t]\nssh_config = false\n{line}\n");
        let output = check(&[("t.toml", text.as_bytes())]).await?;
        output.expect_exit(0).with_context(|| line.to_owned())?;
    }
    for line in [
        "host = \"a b\"",
        "host = \"a\\nb\"",
        "host = \"a;b\"",
        "host = \"$(id)\"",
        "host = \"`id`\"",
        "host = \"-oProxyCommand=id\"",
        "host = \"u@-x\"",
        "host = \"\"",
        "host = \"u@h:0\"",
        "host = \"u@h:99999\"",
        "user = \"-u\"",
        "user = \"a;b\"",
        "user = \"$(x)\"",
        "user = \"a\\\\\"",
        "user = \"a\\u001b\"",
        "host = \"vsock/3\"",
    ] {
        check_refused(line, &[]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn invalid_and_conflicting_listen_addresses_are_refused() -> Result<()> {
    check_refused("local_forward = \"*:1080:h:1\"", &["gateway_ports"]).await?;
    check_accepted("gateway_ports = true\nlocal_forward = \"*:1080:h:1\"").await?;
    check_accepted("local_forward = \"0.0.0.0:1080:h:1\"").await?;
    // sun_path of unix(7) has 108 bytes, including the NUL at the end.
    let long = format!("/{}", "x".repeat(108));
    check_refused(&format!("local_forward = \"{long} h:1\""), &[]).await?;
    check_accepted(&format!("local_forward = \"{} h:1\"", &long[..107])).await?;
    let text = b"[tunnel.t]\nhost = \"h\"\nssh_config = false\nlocal_forward = \"1080 h:1\"\ndynamic_forward = 1080\n";
    let output = check(&[("t.toml", text)]).await?.expect_exit(2)?;
    assert!(output.stderr.contains("1080"), "{output:#?}");
    let one = b"[tunnel.one]\nhost = \"h\"\nssh_config = false\nlocal_forward = \"1080 h:1\"\n";
    let two = b"[tunnel.two]\nhost = \"h\"\nssh_config = false\nlocal_forward = \"1080 h:1\"\n";
    let output = check(&[("one.toml", one), ("two.toml", two)])
        .await?
        .expect_exit(2)?;
    assert!(
        output.stderr.contains("one") && output.stderr.contains("two"),
        "{output:#?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_file_that_other_users_can_write_is_refused() -> Result<()> {
    let home = Home::without_config()?;
    let path = home.write("t.toml", "[tunnel.t]\nhost = \"h\"\nssh_config = false\n")?;
    home.run("tunneld", &["check"]).await?.expect_exit(0)?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666))?;
    let output = home.run("tunneld", &["check"]).await?.expect_exit(2)?;
    assert!(output.stderr.contains("t.toml"), "{output:#?}");
    Ok(())
}

#[tokio::test]
async fn a_fifo_as_configuration_file_does_not_block() -> Result<()> {
    let home = Home::without_config()?;
    let path = home.config_dir().join("t.toml");
    make_fifo(&path);
    let output = home.run("tunneld", &["check"]).await?.expect_exit(2)?;
    assert!(output.stderr.contains("t.toml"), "{output:#?}");
    Ok(())
}

#[tokio::test]
async fn a_missing_explicit_configuration_folder_is_reported() -> Result<()> {
    let home = Home::without_config()?;
    let gone = home.path("no-such-folder");
    let gone = gone.to_str().context("UTF-8")?;
    let output = home
        .ctl(&["check", "--config-dir", gone])
        .await?
        .expect_exit(2)?;
    assert!(output.stderr.contains("no-such-folder"), "{output:#?}");
    Ok(())
}

#[tokio::test]
async fn tunnelctl_check_reports_the_same_errors() -> Result<()> {
    let home = Home::without_config()?;
    home.write("t.toml", "[tunnel.t]\nssh_config = false\nhots = \"h\"\n")?;
    let output = home.ctl(&["check"]).await?.expect_exit(2)?;
    assert!(output.stderr.contains("t.toml:3:1"), "{output:#?}");
    home.write("t.toml", "[tunnel.t]\nssh_config = false\nhost = \"h\"\n")?;
    home.ctl(&["check"]).await?.expect_exit(0)?;
    Ok(())
}

#[tokio::test]
async fn a_broken_file_does_not_stop_the_tunnels_of_other_files() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    home.write("good.toml", &server.tunnel_toml("good")?)?;
    home.write("bad.toml", "[tunnel.bad]\nhots = \"h\"\n")?;
    let daemon = Daemon::start(&home).await?;
    daemon.wait_up("good").await?;
    daemon.log().wait("bad.toml", LONG).await?;
    let output = home.ctl(&["status"]).await?.expect_exit(2)?;
    let all = format!("{}{}", output.stdout, output.stderr);
    assert!(all.contains("bad.toml"), "{output:#?}");
    Ok(())
}

#[tokio::test]
async fn no_tunnel_connects_without_the_defaults_of_a_broken_main_file() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    let broken = format!("{DEFAULTS}proxy_jump = \"127.0.0.1:9\"\n[daemon]\nlgo = \"info\"\n");
    home.write("tunneld.toml", &broken)?;
    home.write("x.toml", &server.tunnel_toml("x")?)?;
    let daemon = Daemon::start(&home).await?;
    daemon.log().wait("x does not start until", LONG).await?;
    assert!(daemon.status("x").await.is_err());
    let output = home.ctl(&["status"]).await?;
    let shown = format!("{}{}", output.stdout, output.stderr);
    assert!(shown.contains("x does not start until"), "{output:#?}");
    let output = home.ctl(&["check"]).await?.expect_exit(2)?;
    assert!(
        output.stderr.contains("x does not start until"),
        "{output:#?}"
    );
    assert_eq!(server.log()?.count_after(0, "Connection from"), 0);
    home.write("tunneld.toml", DEFAULTS)?;
    daemon.wait_up("x").await?;
    Ok(())
}

/// Checks that a tunnel whose key file is made by `create` shows an error that names the file, while another tunnel of
/// the same daemon is up.
async fn check_bad_key(create: impl Fn(&std::path::Path) -> Result<()>) -> Result<TunnelStatus> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    let key = home.path("bad_key");
    create(&key)?;
    home.write("good.toml", &server.tunnel_toml("good")?)?;
    let user_key = server.user_key();
    let good_key = user_key.to_str().context("UTF-8")?;
    let text = server.tunnel_toml("bad")?;
    let text = text.replace(good_key, key.to_str().context("UTF-8")?);
    home.write("bad.toml", &format!("{text}identities_only = true\n"))?;
    let daemon = Daemon::start(&home).await?;
    daemon.wait_up("good").await?;
    let stuck = |tunnel: &TunnelStatus| {
        matches!(tunnel.state, State::Failed | State::Waiting) && tunnel.last_error.is_some()
    };
    let tunnel = daemon.wait_for("bad", LONG, stuck).await?;
    let error = tunnel.last_error.clone().context("an error")?;
    let text = format!("{} {}", error.message, error.hint.unwrap_or_default());
    assert!(text.contains("bad_key"), "{text}");
    Ok(tunnel)
}

#[tokio::test]
async fn a_missing_key_file_is_named_in_the_error() -> Result<()> {
    check_bad_key(|_| Ok(())).await.map(drop)
}

#[tokio::test]
async fn a_folder_as_key_file_is_named_in_the_error() -> Result<()> {
    check_bad_key(|path| Ok(std::fs::create_dir(path)?))
        .await
        .map(drop)
}

#[tokio::test]
async fn a_fifo_as_key_file_does_not_block() -> Result<()> {
    let fifo = |path: &std::path::Path| {
        make_fifo(path);
        Ok(())
    };
    check_bad_key(fifo).await.map(drop)
}

#[tokio::test]
async fn a_key_file_of_unknown_format_is_named_in_the_error() -> Result<()> {
    let garbage = |path: &std::path::Path| {
        std::fs::write(path, "no key at all\n")?;
        Ok(std::fs::set_permissions(
            path,
            PermissionsExt::from_mode(0o600),
        )?)
    };
    check_bad_key(garbage).await.map(drop)
}

#[tokio::test]
async fn a_huge_key_file_is_refused_by_its_size() -> Result<()> {
    let huge = |path: &std::path::Path| {
        // Sparse: it takes no space on the disk.
        let file = std::fs::File::create(path)?;
        file.set_len(1 << 30)?;
        Ok(std::fs::set_permissions(
            path,
            PermissionsExt::from_mode(0o600),
        )?)
    };
    check_bad_key(huge).await.map(drop)
}

#[tokio::test]
async fn a_regular_file_at_a_unix_listeners_path_is_not_overwritten() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("precious");
    std::fs::write(&path, "precious")?;
    let lines = format!("local_forward = \"{} 127.0.0.1:9\"", path.display());
    let fixture = Fixture::start(Sshd::start().await?, &lines).await?;
    let failed = |tunnel: &TunnelStatus| {
        tunnel.state == State::Degraded && tunnel.forwards[0].state == ForwardState::Failed
    };
    fixture.daemon.wait_for("t", LONG, failed).await?;
    drop(fixture);
    assert_eq!(std::fs::read_to_string(&path)?, "precious");
    Ok(())
}
