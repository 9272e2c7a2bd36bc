//! Keys, certificates and fingerprints, made by the tools that users make them with.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

/// Makes a key pair without a passphrase: `path` and `path.pub`.
///
/// # Errors
/// Where `ssh-keygen` fails.
pub async fn generate(path: &Path, kind: &str) -> Result<()> {
    generate_with(path, kind, "").await
}

/// Makes a key pair with a passphrase: `path` and `path.pub`.
///
/// # Errors
/// Where `ssh-keygen` fails.
pub async fn generate_with(path: &Path, kind: &str, passphrase: &str) -> Result<()> {
    let _ = std::fs::remove_file(path);
    let path = path.to_str().context("the path is not UTF-8")?;
    run(
        "ssh-keygen",
        &["-q", "-t", kind, "-N", passphrase, "-C", "lab", "-f", path],
    )
    .await
    .map(drop)
}

/// The SHA256 fingerprint of a public key file, `SHA256:…`.
///
/// # Errors
/// Where `ssh-keygen` fails.
pub async fn fingerprint(path: &Path) -> Result<String> {
    let path = path.to_str().context("the path is not UTF-8")?;
    let out = run("ssh-keygen", &["-l", "-E", "sha256", "-f", path]).await?;
    let word = out.split_whitespace().nth(1);
    Ok(word.context("no fingerprint")?.to_owned())
}

/// Runs a tool to its end and returns its stdout.
///
/// # Errors
/// Where it cannot be run or fails; the message bears its stderr.
pub async fn run(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .await
        .with_context(|| {
            format!("cannot run {program}; tests/run installs what the suite needs")
        })?;
    ensure!(
        output.status.success(),
        "{program} {args:?} failed: {}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
