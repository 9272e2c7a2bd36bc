//! Keys, certificates, fingerprints and password hashes, created by the tools that users create them with.

use std::path::Path;

use anyhow::{Context, Result};

use crate::process::run_tool;

/// Creates a key pair without a passphrase: `path` and `path.pub`. `kind` is a type of `ssh-keygen -t`.
///
/// # Errors
/// If `ssh-keygen` fails.
pub async fn generate(path: &Path, kind: &str) -> Result<()> {
    generate_encrypted(path, kind, "").await
}

/// Encrypts a key without a passphrase with `rounds` rounds of bcrypt, each of which takes some milliseconds.
///
/// # Errors
/// If `ssh-keygen` fails.
pub async fn encrypt(path: &Path, passphrase: &str, rounds: u32) -> Result<()> {
    let rounds = rounds.to_string();
    let path = path.to_str().context("a key path that is not UTF-8")?;
    let args = [
        "-q", "-p", "-a", &rounds, "-P", "", "-N", passphrase, "-f", path,
    ];
    run_tool("ssh-keygen", &args).await?;
    Ok(())
}

/// Creates a key pair with a passphrase: `path` and `path.pub`. `kind` is a type of `ssh-keygen -t`, or `rsa-BITS`.
///
/// # Errors
/// If `ssh-keygen` fails.
pub async fn generate_encrypted(path: &Path, kind: &str, passphrase: &str) -> Result<()> {
    // ssh-keygen asks before it overwrites a file, and no user is there to answer.
    let _ = std::fs::remove_file(path);
    let path = path.to_str().context("the path is not UTF-8")?;
    let mut args = vec!["-q", "-N", passphrase, "-C", "lab", "-f", path, "-t"];
    match kind.split_once('-') {
        Some(("rsa", bits)) => args.extend(["rsa", "-b", bits]),
        _ => args.push(kind),
    }
    run_tool("ssh-keygen", &args).await.map(drop)
}

/// The fingerprint of a public key file, `SHA256:…`.
///
/// # Errors
/// If `ssh-keygen` fails.
pub async fn fingerprint(path: &Path) -> Result<String> {
    let path = path.to_str().context("the path is not UTF-8")?;
    let output = run_tool("ssh-keygen", &["-l", "-E", "sha256", "-f", path]).await?;
    let word = output.split_whitespace().nth(1);
    Ok(word.context("no fingerprint")?.to_owned())
}

/// Signs the user key `public` for the login names `principals`, separated by commas. The certificate is written
/// beside the key, as `…-cert.pub`.
///
/// # Errors
/// If `ssh-keygen` fails.
pub async fn sign_user_key(authority: &Path, public: &Path, principals: &str) -> Result<()> {
    let authority = authority.to_str().context("the path is not UTF-8")?;
    let public = public.to_str().context("the path is not UTF-8")?;
    let args = ["-q", "-s", authority, "-I", "lab", "-n", principals, public];
    run_tool("ssh-keygen", &args).await.map(drop)
}

/// The SHA-512 crypt hash of a password for /etc/shadow; empty for an empty password.
///
/// # Errors
/// If `perl` fails.
pub async fn password_hash(password: &str) -> Result<String> {
    if password.is_empty() {
        return Ok(String::new());
    }
    let script = "print crypt($ARGV[0], q($6$laboratory$))";
    run_tool("perl", &["-e", script, password]).await
}

/// The line of /etc/shadow that gives `user` this password hash and never expires.
pub(crate) fn shadow_line(user: &str, hash: &str) -> String {
    format!("{user}:{hash}:19000:0:99999:7:::\n")
}
