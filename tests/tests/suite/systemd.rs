//! The user unit, started for real by a systemd user manager in namespaces of its own.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;
use tunneld_tests::home::{DEFAULTS, Home, built};
use tunneld_tests::sshd::Sshd;
use tunneld_tests::wait::within;

use crate::fixture::secs;

fn unit(name: &str) -> std::path::PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).join("systemd").join(name)
}

#[tokio::test]
async fn the_user_unit_starts_restarts_and_stops_under_systemd() -> Result<()> {
    let cgroups = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/cgroup.procs"];
    if !rustix::process::geteuid().is_root() || !cgroups.iter().any(|path| Path::new(path).exists())
    {
        eprintln!("SKIPPED: a private user manager needs root and a writable cgroup tree");
        return Ok(());
    }
    let server = Sshd::start().await?;
    let home = Home::bare()?;
    let config = home.path("t.toml");
    std::fs::write(&config, format!("{DEFAULTS}\n{}", server.tunnel("t")?))?;
    let script = home.path("systemd_user_manager.sh");
    std::fs::write(&script, include_str!("systemd_user_manager.sh"))?;
    let known = server.dir().join(format!("known_hosts_{}", server.port()));
    let bin = built("tunneld")?;
    let run = Command::new("bash")
        .arg(&script)
        .arg(bin.parent().context("a folder")?)
        .arg(unit("tunneld.service"))
        .args([&config, &server.user_key(), &known])
        .kill_on_drop(true)
        .output();
    let out = within(secs(110), "the unit's trial", run).await??;
    let (stdout, stderr) = (
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr),
    );
    ensure!(out.status.success(), "{stdout}\n{stderr}");
    for step in [
        "verify",
        "started",
        "up",
        "journal fields",
        "watchdog",
        "stopped",
    ] {
        ensure!(
            stdout.contains(step),
            "{step} was not proved:\n{stdout}\n{stderr}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn every_unit_passes_systemd_analyze() -> Result<()> {
    let home = Home::bare()?;
    for entry in std::fs::read_dir(unit(""))? {
        let path = entry?.path();
        if path.extension().is_none_or(|kind| kind != "service") {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        // ExecStart has to exist for the verification: the program that was just built.
        let program = built("tunneld")?;
        let program = program.display().to_string();
        let text: String = text
            .lines()
            .map(|line| match line.strip_prefix("ExecStart=") {
                Some(rest) => {
                    let args = rest.split_once(' ').map_or("", |(_, args)| args);
                    format!("ExecStart={program} {args}\n")
                }
                None => format!("{line}\n"),
            })
            .collect();
        let name = path
            .file_name()
            .context("a name")?
            .to_string_lossy()
            .replace("@.", "@root.");
        let copy = home.path(&name);
        std::fs::write(&copy, text)?;
        let mode = if name.contains('@') {
            "--system"
        } else {
            "--user"
        };
        let out = Command::new("systemd-analyze")
            .args([mode, "verify", "--recursive-errors=yes", "--man=no"])
            .arg(&copy)
            .env("XDG_RUNTIME_DIR", home.path("run"))
            .output()
            .await?;
        let stderr = String::from_utf8_lossy(&out.stderr);
        ensure!(
            out.status.success() && !stderr.contains(name.as_str()),
            "{name}: {stderr}"
        );
    }
    Ok(())
}
