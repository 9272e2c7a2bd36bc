//! Faults of the system that the daemon runs on: a changed clock, a frozen journal, a full disk, too few file descriptors,
//! and clients that use up memory.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::net::{TcpSocket, TcpStream, UnixDatagram};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tunneld_proto::status::{ForwardKind, State, TunnelStatus};
use tunneld_tests::clock::ShiftedClock;
use tunneld_tests::daemon::{Daemon, listen_addr};
use tunneld_tests::home::Home;
use tunneld_tests::payload::{self, MIB, random};
use tunneld_tests::process;
use tunneld_tests::root;
use tunneld_tests::sshd::Sshd;
use tunneld_tests::target::{Target, TargetBehavior};
use tunneld_tests::wait::{LONG, within};

use crate::fixture::{
    local_forward_to, reconnected_since, secs, session_since, stable_open_files, tcp,
    with_known_hosts,
};

const HOUR: i64 = 3600;
const TEN_YEARS: i64 = 10 * 365 * 24 * HOUR;

#[tokio::test]
async fn a_changed_clock_changes_only_timestamps() -> Result<()> {
    let mut server = Sshd::start().await?;
    let target = Target::echo().await?;
    let (clock, home) = ShiftedClock::install(Home::new()?).await?;
    let text = format!(
        "{}server_alive_interval = \"1s\"\nlocal_forward = \"0 127.0.0.1:{}\"\n",
        server.tunnel_toml("t")?,
        target.port()
    );
    home.write("t.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    let before = daemon.wait_up("t").await?;
    let mut stream = tcp(listen_addr(&before, ForwardKind::Local)?).await?;
    // Longer than the keepalive interval of 1 s after each change.
    for seconds in [HOUR, -HOUR, TEN_YEARS, -TEN_YEARS, TEN_YEARS] {
        clock.set_offset(seconds)?;
        let until = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < until {
            within(secs(5), "an echo", payload::ping(&mut stream, b"tick")).await??;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let now = daemon.status("t").await?;
        ensure!(
            now.state == State::Up && session_since(&now) == session_since(&before),
            "{now:#?}"
        );
    }
    // A check of the test itself: the daemon uses that clock for timestamps. It measures its waits with another clock, or
    // the retry below would be years away.
    server.stop().await?;
    let waits = |tunnel: &TunnelStatus| tunnel.retry_at.is_some();
    let waiting = daemon.wait_for("t", LONG, waits).await?;
    let year = |at: jiff::Timestamp| at.to_string()[..4].parse::<i64>();
    let error_year = year(waiting.last_error.context("an error")?.at)?;
    ensure!(
        error_year - year(jiff::Timestamp::now())? >= 9,
        "the error is dated {error_year}"
    );
    clock.set_offset(-TEN_YEARS)?;
    server.start_again().await?;
    daemon
        .wait_for("t", LONG, reconnected_since(&before))
        .await?;
    Ok(())
}

/// The command prefix that runs a command in its own mount namespace, after the shell commands `first`. `None` if the
/// user is not root and has chosen to skip such tests.
fn mount_prefix(first: &str) -> Result<Option<Vec<String>>> {
    if !root::available("mount in a mount namespace")? {
        return Ok(None);
    }
    let script = format!("{first}; exec \"$@\"");
    let words = ["unshare", "--mount", "sh", "-ec", &script, "sh"];
    Ok(Some(words.map(str::to_owned).to_vec()))
}

#[tokio::test]
async fn a_frozen_journal_loses_only_log_lines() -> Result<()> {
    let server = Sshd::start().await?;
    let target = Target::start(TargetBehavior::EchoAtEof).await?;
    let home = Home::new()?.with_var("RUST_LOG", "trace");
    let text = format!(
        "{}local_forward = \"0 127.0.0.1:{}\"\n",
        server.tunnel_toml("t")?,
        target.port()
    );
    home.write("t.toml", &text)?;
    std::fs::create_dir_all(home.path("rundir/systemd/journal"))?;
    let journal = UnixDatagram::bind(home.path("rundir/systemd/journal/socket"))?;
    // JOURNAL_STREAM with the device and inode of stderr shows a program that its stderr is the journal
    // (systemd.exec(5)), so that the daemon logs to the journal's socket.
    let Some(prefix) = mount_prefix(&format!(
        "mount --bind {} /run; export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2)",
        home.path("rundir").display()
    ))?
    else {
        return Ok(());
    };
    let command = home.command_with_prefix(&prefix, "tunneld")?;
    let mut daemon = Daemon::start_with(&home, command).await?;
    let tunnel = daemon.wait_up("t").await?;
    let addr = listen_addr(&tunnel, ForwardKind::Local)?;
    let mut line = vec![0; 4096];
    let mut found = false;
    for _ in 0..5 {
        let n = within(LONG, "a line for the journal", journal.recv(&mut line)).await??;
        found |= String::from_utf8_lossy(&line[..n]).contains("SYSLOG_IDENTIFIER");
    }
    ensure!(found, "the daemon does not log in the journal's format");
    // From here on the journal is not read. With its queue full, a blocking write to it would never return.
    let filler = std::os::unix::net::UnixDatagram::unbound()?;
    filler.set_nonblocking(true)?;
    let socket = home.path("rundir/systemd/journal/socket");
    while filler.send_to(b"PRIORITY=7\n", &socket).is_ok() {}
    let data = random(60, 1000);
    for _ in 0..50 {
        let stream = tcp(addr).await?;
        let received = within(secs(5), "the bytes", payload::exchange(stream, &data)).await??;
        payload::same(&data, &received)?;
    }
    ensure!(
        filler.send_to(b"PRIORITY=7\n", &socket).is_err(),
        "the journal's queue is no longer full"
    );
    let kept = daemon.status("t").await?;
    ensure!(session_since(&kept) == session_since(&tunnel), "{kept:#?}");
    daemon.terminate(secs(8)).await.map(drop)
}

#[tokio::test]
async fn a_full_disk_leaves_known_hosts_intact() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    let disk = home.path("disk");
    std::fs::create_dir(&disk)?;
    let known = disk.join("known_hosts");
    let tunnel = with_known_hosts(&server.tunnel_toml("t")?, &known, "accept-new");
    home.write("t.toml", &tunnel)?;
    // The file fills its page of the tmpfs except for four bytes, and `rest` takes every other page.
    let old = "# the names of a life\n".repeat(186);
    std::fs::write(home.path("old"), &old)?;
    let Some(prefix) = mount_prefix(&format!(
        "mount -t tmpfs -o size=64k none {disk}; cp {old} {disk}/known_hosts; \
         dd if=/dev/zero of={disk}/rest bs=4k 2>/dev/null || true",
        disk = disk.display(),
        old = home.path("old").display()
    ))?
    else {
        return Ok(());
    };
    let command = home.command_with_prefix(&prefix, "tunneld")?;
    let daemon = Daemon::start_with(&home, command).await?;
    let settled = |tunnel: &TunnelStatus| tunnel.state == State::Up || tunnel.last_error.is_some();
    daemon.wait_for("t", LONG, settled).await?;
    daemon.log().wait("No space left", LONG).await?;
    // The disk as the daemon sees it, in its mount namespace.
    let daemon_root = format!("/proc/{}/root", daemon.process().pid());
    let kept = std::fs::read_to_string(format!("{daemon_root}{}", known.display()))?;
    ensure!(kept == old, "{} bytes of {}", kept.len(), old.len());
    let names = std::fs::read_dir(format!("{daemon_root}{}", disk.display()))?;
    ensure!(names.count() == 2, "a temporary file is left behind");
    Ok(())
}

/// Connects and exchanges a few bytes. `None` if the connection was refused or closed.
async fn connect_and_ping(addr: std::net::SocketAddr) -> Result<Option<TcpStream>> {
    let Ok(mut stream) = TcpStream::connect(addr).await else {
        return Ok(None);
    };
    let served = payload::ping(&mut stream, b"a client").await.is_ok();
    Ok(served.then_some(stream))
}

#[tokio::test]
async fn a_file_descriptor_shortage_refuses_only_the_excess_clients() -> Result<()> {
    let server = Sshd::start().await?;
    let target = Target::echo().await?;
    let home = Home::new()?;
    let forward = local_forward_to(&target) + "\n";
    let text = format!(
        "{}{forward}{}{forward}",
        server.tunnel_toml("t")?,
        server.tunnel_toml("n")?
    );
    home.write("t.toml", &text)?;
    // Enough for both tunnels, not for a hundred clients.
    let prefix = ["prlimit", "--nofile=80:80"].map(str::to_owned);
    let command = home.command_with_prefix(&prefix, "tunneld")?;
    let daemon = Daemon::start_with(&home, command).await?;
    let (tunnel, neighbour) = (daemon.wait_up("t").await?, daemon.wait_up("n").await?);
    let addr = listen_addr(&tunnel, ForwardKind::Local)?;
    let mut neighbour_stream = tcp(listen_addr(&neighbour, ForwardKind::Local)?).await?;
    payload::ping(&mut neighbour_stream, b"before").await?;
    let files = stable_open_files(daemon.process().pid()).await?;

    let mut clients = JoinSet::new();
    for _ in 0..100 {
        clients.spawn(timeout(LONG, connect_and_ping(addr)));
    }
    let mut served = Vec::new();
    while let Some(done) = clients.join_next().await {
        served.extend(done?.context("a client hangs")??);
    }
    ensure!(
        (4..100).contains(&served.len()),
        "{} were served",
        served.len()
    );
    let began = Instant::now();
    daemon.call("tunnel.status", json!({"names": []})).await?;
    ensure!(
        began.elapsed() < secs(2),
        "the status took {:?}",
        began.elapsed()
    );
    within(
        secs(5),
        "the neighbour",
        payload::ping(&mut neighbour_stream, b"during"),
    )
    .await??;
    // The warnings are limited in number: a hundred refused clients must not flood the log.
    let lines = daemon.log().lines();
    let warnings = lines
        .iter()
        .filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
    ensure!(warnings.count() < 10, "{}", daemon.log().text());

    drop(served);
    let again = within(LONG, "a client after the flood", async {
        loop {
            if let Some(stream) = connect_and_ping(addr).await? {
                return anyhow::Ok(stream);
            }
        }
    });
    drop(again.await??);
    let kept = daemon.status("t").await?;
    ensure!(session_since(&kept) == session_since(&tunnel), "{kept:#?}");
    within(LONG, "the files to be closed", async {
        while stable_open_files(daemon.process().pid()).await? > files {}
        anyhow::Ok(())
    })
    .await?
}

#[tokio::test]
async fn forty_forwards_with_64_descriptors_leave_room_for_control_clients_and_dials() -> Result<()>
{
    let server = Sshd::start().await?;
    let target = Target::echo().await?;
    let home = Home::new()?;
    // Targets that differ, since equal forwards are one forward.
    let forwards: Vec<String> = (1..=40)
        .map(|number| format!("\"0 127.0.0.{number}:{}\"", target.port()))
        .collect();
    let forwards = forwards.join(", ");
    let text = format!(
        "{}local_forward = [{forwards}]\n{}{}\n",
        server.tunnel_toml("many")?,
        server.tunnel_toml("one")?,
        local_forward_to(&target)
    );
    home.write("t.toml", &text)?;
    let prefix = ["prlimit", "--nofile=64:64"].map(str::to_owned);
    let command = home.command_with_prefix(&prefix, "tunneld")?;
    let daemon = Daemon::start_with(&home, command).await?;
    // Each tunnel dials, reads known_hosts and logs in, whatever the listeners use.
    let is_connected = |tunnel: &TunnelStatus| matches!(tunnel.state, State::Up | State::Degraded);
    daemon.wait_for("one", LONG, is_connected).await?;
    let many = daemon.wait_for("many", LONG, is_connected).await?;
    let failed: Vec<_> = many
        .forwards
        .iter()
        .filter_map(|forward| forward.error.as_ref())
        .collect();
    ensure!((10..40).contains(&failed.len()), "{} failed", failed.len());
    for error in failed {
        ensure!(
            error.message.contains("the limit is 64")
                && error
                    .hint
                    .as_ref()
                    .is_some_and(|hint| hint.contains("ulimit -n")),
            "{error:?}"
        );
    }
    // Control clients are still served, and connections too.
    for _ in 0..5 {
        home.ctl(&["status"]).await?.expect_exit(0)?;
    }
    let stream = connect_and_ping(listen_addr(&many, ForwardKind::Local)?).await?;
    ensure!(
        stream.is_some(),
        "a listener has no descriptor for a client"
    );
    let lines = daemon.log().lines();
    let warnings = lines
        .iter()
        .filter(|line| line.contains("cannot accept a control client"));
    ensure!(warnings.count() == 0, "{}", daemon.log().text());
    Ok(())
}

#[tokio::test]
async fn three_hundred_clients_that_do_not_read_use_bounded_memory() -> Result<()> {
    const CLIENTS: usize = 300;
    let server = Sshd::start().await?;
    let mut source =
        Target::start(TargetBehavior::SendThenRead(random(99, 4 * MIB).into())).await?;
    let echo = Target::echo().await?;
    let home = Home::new()?;
    let text = format!(
        "{}local_forward = [\"0 127.0.0.1:{}\", \"0 127.0.0.1:{}\"]\n",
        server.tunnel_toml("t")?,
        source.port(),
        echo.port()
    );
    home.write("t.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    let tunnel = daemon.wait_up("t").await?;
    let pid = daemon.process().pid();
    let base = process::resident_bytes(pid)?;
    let addr = tunneld_tests::daemon::listen_addr_at(&tunnel, 0)?;
    let mut stalled = Vec::new();
    for _ in 0..CLIENTS {
        let socket = TcpSocket::new_v4()?;
        // A small kernel buffer, so that the unread bytes are in tunneld's memory.
        socket.set_recv_buffer_size(32 * 1024)?;
        let stream = within(LONG, "a connection", socket.connect(addr)).await??;
        stalled.push(stream);
    }
    within(
        LONG,
        "every connection to reach the target",
        source.wait_accepted(CLIENTS as u64, LONG),
    )
    .await??;
    let mut probe = tcp(tunneld_tests::daemon::listen_addr_at(&tunnel, 1)?).await?;
    let mut worst = 0;
    for _ in 0..20 {
        within(secs(5), "an echo", payload::ping(&mut probe, b"probe")).await??;
        worst = worst.max(process::resident_bytes(pid)?);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let grown = (worst.saturating_sub(base)) >> 20;
    ensure!(grown <= 256, "{CLIENTS} clients take {grown} MiB");
    drop(stalled);
    let returned = async {
        while process::resident_bytes(pid)? > base + (48 << 20) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    };
    within(LONG, "the memory to be released", returned).await??;
    let kept = daemon.status("t").await?;
    ensure!(session_since(&kept) == session_since(&tunnel), "{kept:#?}");
    Ok(())
}
