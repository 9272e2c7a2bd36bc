//! The systemd units: the user unit is started by a real user manager in its own namespaces, and every unit is verified.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;
use tunneld_tests::home::{DEFAULTS, Home, program_path};
use tunneld_tests::root;
use tunneld_tests::sshd::Sshd;
use tunneld_tests::wait::within;

use crate::fixture::secs;

/// The path of a unit in the repository's folder `systemd`.
fn unit(name: &str) -> std::path::PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).join("systemd").join(name)
}

#[tokio::test]
async fn the_user_unit_starts_restarts_and_stops_under_systemd() -> Result<()> {
    let cgroups = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/cgroup.procs"];
    let has_cgroups = cgroups.iter().any(|path| Path::new(path).exists());
    let purpose = "start a systemd user manager in its own cgroup, below /sys/fs/cgroup";
    if !root::available_if(has_cgroups, purpose)? {
        return Ok(());
    }
    let server = Sshd::start().await?;
    let home = Home::without_config()?;
    let config = home.path("t.toml");
    std::fs::write(&config, format!("{DEFAULTS}\n{}", server.tunnel_toml("t")?))?;
    let script = home.path("systemd_user_manager.sh");
    std::fs::write(&script, include_str!("systemd_user_manager.sh"))?;
    let known = server.dir().join(format!("known_hosts_{}", server.port()));
    let bin = program_path("tunneld")?;
    let run = Command::new("bash")
        .arg(&script)
        .arg(bin.parent().context("a folder")?)
        .arg(unit("tunneld.service"))
        .args([&config, &server.user_key(), &known])
        .kill_on_drop(true)
        .output();
    let out = within(secs(110), "the script to end", run).await??;
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
            "the step {step} is missing:\n{stdout}\n{stderr}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn every_unit_passes_systemd_analyze() -> Result<()> {
    let home = Home::without_config()?;
    for entry in std::fs::read_dir(unit(""))? {
        let path = entry?.path();
        if path.extension().is_none_or(|kind| kind != "service") {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        // The verification needs an existing program in ExecStart: here the one that was built.
        let program = program_path("tunneld")?;
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
