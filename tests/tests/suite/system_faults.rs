//! Faults of the machine: a clock that is set, too few file descriptors, clients that take memory,
//! a journal that is frozen, a disk that is full.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::net::{TcpSocket, TcpStream, UnixDatagram};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tunneld_proto::status::{ForwardKind, State, TunnelStatus};
use tunneld_tests::clock::Clock;
use tunneld_tests::daemon::{Daemon, listen};
use tunneld_tests::home::Home;
use tunneld_tests::payload::{self, MIB, random};
use tunneld_tests::process;
use tunneld_tests::sshd::Sshd;
use tunneld_tests::target::{Manner, Target};
use tunneld_tests::wait::{LONG, within};

use crate::fixture::{renewed, secs, session_since, settled_files, tcp};

const HOUR: i64 = 3600;
const TEN_YEARS: i64 = 10 * 365 * 24 * HOUR;

#[tokio::test]
async fn a_changed_clock_changes_only_timestamps() -> Result<()> {
    let mut server = Sshd::start().await?;
    let target = Target::echo().await?;
    let (clock, home) = Clock::of(Home::new()?).await?;
    let text = format!(
        "{}server_alive_interval = \"1s\"\nlocal_forward = \"0 127.0.0.1:{}\"\n",
        server.tunnel("t")?,
        target.port()
    );
    home.write("t.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    let before = daemon.wait_up("t").await?;
    let mut stream = tcp(listen(&before, ForwardKind::Local)?).await?;
    for seconds in [HOUR, -HOUR, TEN_YEARS, -TEN_YEARS, TEN_YEARS] {
        clock.set(seconds)?;
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
    // The program does see that clock, and waits by another.
    server.stop().await?;
    let waits = |tunnel: &TunnelStatus| tunnel.retry_at.is_some();
    let waiting = daemon.wait_for("t", LONG, waits).await?;
    let year = |at: jiff::Timestamp| at.to_string()[..4].parse::<i64>();
    let told = year(waiting.last_error.context("an error")?.at)?;
    ensure!(
        told - year(jiff::Timestamp::now())? >= 9,
        "it is told as of {told}"
    );
    clock.set(-TEN_YEARS)?;
    server.resume().await?;
    daemon.wait_for("t", LONG, renewed(&before)).await?;
    Ok(())
}

/// What goes before a command: a shell in a mount namespace of its own that does `first`. None where not root.
fn after(first: &str) -> Option<Vec<String>> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can mount");
        return None;
    }
    let script = format!("{first}; exec \"$@\"");
    Some(
        ["unshare", "--mount", "sh", "-ec", &script, "sh"]
            .map(str::to_owned)
            .to_vec(),
    )
}

#[tokio::test]
async fn a_frozen_journal_loses_only_log_lines() -> Result<()> {
    let server = Sshd::start().await?;
    let target = Target::start(Manner::Collect).await?;
    let home = Home::new()?.var("RUST_LOG", "trace");
    let text = format!(
        "{}local_forward = \"0 127.0.0.1:{}\"\n",
        server.tunnel("t")?,
        target.port()
    );
    home.write("t.toml", &text)?;
    std::fs::create_dir_all(home.path("rundir/systemd/journal"))?;
    let journal = UnixDatagram::bind(home.path("rundir/systemd/journal/socket"))?;
    let Some(before) = after(&format!(
        "mount --bind {} /run; export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2)",
        home.path("rundir").display()
    )) else {
        return Ok(());
    };
    let mut daemon = Daemon::launch(&home, home.command_after(&before, "tunneld")?).await?;
    let tunnel = daemon.wait_up("t").await?;
    let addr = listen(&tunnel, ForwardKind::Local)?;
    let mut line = vec![0; 4096];
    let mut told = false;
    for _ in 0..5 {
        let n = within(LONG, "a line for the journal", journal.recv(&mut line)).await??;
        told |= String::from_utf8_lossy(&line[..n]).contains("SYSLOG_IDENTIFIER");
    }
    ensure!(told, "what came is nothing for a journal");
    // From here on nobody reads it: its queue is full, and whoever writes to it stands still.
    let filler = std::os::unix::net::UnixDatagram::unbound()?;
    filler.set_nonblocking(true)?;
    let place = home.path("rundir/systemd/journal/socket");
    while filler.send_to(b"PRIORITY=7\n", &place).is_ok() {}
    let data = random(60, 1000);
    for _ in 0..50 {
        let stream = tcp(addr).await?;
        let got = within(secs(5), "the bytes", payload::exchange(stream, &data)).await??;
        payload::same(&data, &got)?;
    }
    ensure!(
        filler.send_to(b"PRIORITY=7\n", &place).is_err(),
        "somebody reads the journal"
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
    let tunnel = server.tunnel("t")?;
    let line = tunnel.lines().find(|line| line.starts_with("user_known"));
    let new = format!(
        "user_known_hosts_file = \"{}\"\nstrict_host_key_checking = \"accept-new\"",
        known.display()
    );
    home.write("t.toml", &tunnel.replace(line.context("a line")?, &new))?;
    // It fills its page but for four bytes, and no other page can be had.
    let old = "# the names of a life\n".repeat(186);
    std::fs::write(home.path("old"), &old)?;
    let Some(before) = after(&format!(
        "mount -t tmpfs -o size=64k none {disk}; cp {old} {disk}/known_hosts; \
         dd if=/dev/zero of={disk}/rest bs=4k 2>/dev/null || true",
        disk = disk.display(),
        old = home.path("old").display()
    )) else {
        return Ok(());
    };
    let daemon = Daemon::launch(&home, home.command_after(&before, "tunneld")?).await?;
    let settled = |tunnel: &TunnelStatus| tunnel.state == State::Up || tunnel.last_error.is_some();
    daemon.wait_for("t", LONG, settled).await?;
    daemon.log().wait("No space left", LONG).await?;
    let root = format!("/proc/{}/root", daemon.process().pid());
    let kept = std::fs::read_to_string(format!("{root}{}", known.display()))?;
    ensure!(kept == old, "{} bytes of {}", kept.len(), old.len());
    let names = std::fs::read_dir(format!("{root}{}", disk.display()))?;
    ensure!(names.count() == 2, "a temporary file is left behind");
    Ok(())
}

/// What became of a client.
async fn client(addr: std::net::SocketAddr) -> Result<Option<TcpStream>> {
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
    let forward = format!("local_forward = \"0 127.0.0.1:{}\"\n", target.port());
    let text = format!(
        "{}{forward}{}{forward}",
        server.tunnel("t")?,
        server.tunnel("n")?
    );
    home.write("t.toml", &text)?;
    let few = ["prlimit", "--nofile=80:80"].map(str::to_owned);
    let daemon = Daemon::launch(&home, home.command_after(&few, "tunneld")?).await?;
    let (tunnel, neighbour) = (daemon.wait_up("t").await?, daemon.wait_up("n").await?);
    let addr = listen(&tunnel, ForwardKind::Local)?;
    let mut beside = tcp(listen(&neighbour, ForwardKind::Local)?).await?;
    payload::ping(&mut beside, b"beside").await?;
    let files = settled_files(daemon.process().pid()).await?;

    let mut clients = JoinSet::new();
    for _ in 0..100 {
        clients.spawn(timeout(LONG, client(addr)));
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
        payload::ping(&mut beside, b"beside"),
    )
    .await??;
    let told = daemon.log().lines();
    let told = told
        .iter()
        .filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
    ensure!(told.count() < 10, "{}", daemon.log().text());

    drop(served);
    let again = within(LONG, "a client after the flood", async {
        loop {
            if let Some(stream) = client(addr).await? {
                return anyhow::Ok(stream);
            }
        }
    });
    drop(again.await??);
    let kept = daemon.status("t").await?;
    ensure!(session_since(&kept) == session_since(&tunnel), "{kept:#?}");
    within(LONG, "the files to be closed", async {
        while settled_files(daemon.process().pid()).await? > files {}
        anyhow::Ok(())
    })
    .await?
}

#[tokio::test]
async fn three_hundred_clients_that_do_not_read_use_bounded_memory() -> Result<()> {
    const CLIENTS: usize = 300;
    let server = Sshd::start().await?;
    let mut source = Target::start(Manner::Source(random(99, 4 * MIB).into())).await?;
    let echo = Target::echo().await?;
    let home = Home::new()?;
    let text = format!(
        "{}local_forward = [\"0 127.0.0.1:{}\", \"0 127.0.0.1:{}\"]\n",
        server.tunnel("t")?,
        source.port(),
        echo.port()
    );
    home.write("t.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    let tunnel = daemon.wait_up("t").await?;
    let pid = daemon.process().pid();
    let base = process::resident(pid)?;
    let addr = tunneld_tests::daemon::listen_at(&tunnel, 0)?;
    let mut stalled = Vec::new();
    for _ in 0..CLIENTS {
        let socket = TcpSocket::new_v4()?;
        // What never is read waits in tunneld and not in the kernel.
        socket.set_recv_buffer_size(32 * 1024)?;
        let stream = within(LONG, "a connection", socket.connect(addr)).await??;
        stalled.push(stream);
    }
    within(
        LONG,
        "every connection to have begun",
        source.wait_accepted(CLIENTS as u64, LONG),
    )
    .await??;
    let mut probe = tcp(tunneld_tests::daemon::listen_at(&tunnel, 1)?).await?;
    let mut worst = 0;
    for _ in 0..20 {
        within(secs(5), "an echo", payload::ping(&mut probe, b"probe")).await??;
        worst = worst.max(process::resident(pid)?);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let grown = (worst.saturating_sub(base)) >> 20;
    ensure!(grown <= 256, "{CLIENTS} clients take {grown} MiB");
    drop(stalled);
    let returned = async {
        while process::resident(pid)? > base + (48 << 20) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    };
    within(LONG, "the memory to be given back", returned).await??;
    let kept = daemon.status("t").await?;
    ensure!(session_since(&kept) == session_since(&tunnel), "{kept:#?}");
    Ok(())
}
