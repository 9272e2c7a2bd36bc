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

/// Certifies the user key `public` for these login names; the certificate lies beside it, `…-cert.pub`.
///
/// # Errors
/// Where `ssh-keygen` fails.
pub async fn certify(authority: &Path, public: &Path, names: &str) -> Result<()> {
    let authority = authority.to_str().context("the path is not UTF-8")?;
    let public = public.to_str().context("the path is not UTF-8")?;
    let args = ["-q", "-s", authority, "-I", "lab", "-n", names, public];
    run("ssh-keygen", &args).await.map(drop)
}

/// A password as the password database holds it; empty for none.
///
/// # Errors
/// Where `perl` fails.
pub async fn crypt(password: &str) -> Result<String> {
    if password.is_empty() {
        return Ok(String::new());
    }
    let script = "print crypt($ARGV[0], q($6$laboratory$))";
    run("perl", &["-e", script, password]).await
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
