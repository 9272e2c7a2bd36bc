//! Logins with keys of every format, agents and certificates. Passwords and prompts are in `prompts`.

use std::path::Path;

use anyhow::{Context, Result};
use tunneld_proto::status::PromptKind;
use tunneld_tests::agent::Agent;
use tunneld_tests::keys;
use tunneld_tests::process::run_tool;
use tunneld_tests::sshd::Sshd;
use tunneld_tests::wait::LONG;

use crate::fixture::{
    answer_prompt, has_error, is_up, is_waiting, start_daemon, wait_next_prompt, wait_prompt,
    without_key,
};

/// The tunnel NAME to `server` with another key file.
fn with_key(server: &Sshd, name: &str, key: &Path) -> Result<String> {
    let text = server.tunnel_toml(name)?;
    let default_key = server.user_key().display().to_string();
    Ok(text.replace(&default_key, &key.display().to_string()))
}

#[tokio::test]
async fn keys_of_every_type_and_file_format_log_in() -> Result<()> {
    let server = Sshd::start().await?;
    let dir = server.dir().to_owned();
    let mut authorized = std::fs::read_to_string(dir.join("authorized_keys"))?;
    let mut text = server.tunnel_toml("openssh-ed25519")?;
    let mut names = vec!["openssh-ed25519".to_owned()];
    for (kind, formats) in [
        ("ecdsa", &["RFC4716", "PEM", "PKCS8"][..]),
        ("rsa", &["RFC4716", "PEM", "PKCS8"]),
    ] {
        for format in formats {
            let name = format!("{kind}-{format}");
            let path = dir.join(&name);
            let file = path.to_str().context("UTF-8")?;
            let mut args = vec!["-q", "-t", kind, "-N", "", "-f", file];
            // Without `-m` ssh-keygen writes OpenSSH's own format.
            if *format != "RFC4716" {
                args.extend(["-m", format]);
            }
            run_tool("ssh-keygen", &args).await?;
            authorized += &std::fs::read_to_string(path.with_extension("pub"))?;
            text += &with_key(&server, &name, &path)?;
            names.push(name);
        }
    }
    for version in ["2", "3"] {
        for kind in ["ed25519", "rsa"] {
            let (name, plain) = (
                format!("ppk{version}-{kind}"),
                dir.join(format!("p{version}{kind}")),
            );
            keys::generate(&plain, kind).await?;
            authorized += &std::fs::read_to_string(plain.with_extension("pub"))?;
            let ppk = dir.join(format!("{name}.ppk"));
            let (from, to) = (
                plain.to_str().context("UTF-8")?,
                ppk.to_str().context("UTF-8")?,
            );
            let param = format!("version={version}");
            let args = [from, "-O", "private", "--ppk-param", &param, "-o", to];
            run_tool("puttygen", &args).await?;
            text += &with_key(&server, &name, &ppk)?;
            names.push(name);
        }
    }
    std::fs::write(dir.join("authorized_keys"), authorized)?;
    let (_home, daemon) = start_daemon(&format!("{text}\n")).await?;
    for name in names {
        daemon.wait_up(&name).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_encrypted_key_is_unlocked_by_a_command_or_a_prompt() -> Result<()> {
    let server = Sshd::start().await?;
    let dir = server.dir().to_owned();
    let mut authorized = String::new();
    let (open, ppk2, ppk3) = (dir.join("open"), dir.join("two.ppk"), dir.join("three.ppk"));
    keys::generate_encrypted(&open, "ed25519", "open sesame").await?;
    authorized += &std::fs::read_to_string(open.with_extension("pub"))?;
    let passphrase_file = dir.join("passphrase");
    std::fs::write(&passphrase_file, "open sesame\n")?;
    // Another key for the prompt: the daemon keeps a decrypted key in memory and would not prompt.
    let closed = dir.join("closed");
    keys::generate_encrypted(&closed, "ed25519", "open sesame").await?;
    authorized += &std::fs::read_to_string(closed.with_extension("pub"))?;
    for (version, ppk) in [("2", &ppk2), ("3", &ppk3)] {
        let plain = dir.join(format!("plain{version}"));
        keys::generate(&plain, "ed25519").await?;
        authorized += &std::fs::read_to_string(plain.with_extension("pub"))?;
        let param = format!("version={version}");
        let args = [
            plain.to_str().context("UTF-8")?,
            "-O",
            "private",
            "--ppk-param",
            &param,
            "--new-passphrase",
            passphrase_file.to_str().context("UTF-8")?,
            "-o",
            ppk.to_str().context("UTF-8")?,
        ];
        run_tool("puttygen", &args).await?;
    }
    std::fs::write(dir.join("authorized_keys"), authorized)?;
    let command = "passphrase_command = [\"echo\", \"open sesame\"]\n";
    let text = format!(
        "{}{command}{}{command}{}{command}{}",
        with_key(&server, "open", &open)?,
        with_key(&server, "two", &ppk2)?,
        with_key(&server, "three", &ppk3)?,
        with_key(&server, "prompts", &closed)?,
    ) + "autostart = false\n";
    let (home, daemon) = start_daemon(&text).await?;
    for name in ["open", "two", "three"] {
        daemon.wait_up(name).await?;
    }
    let mut watch = daemon.watch().await?;
    home.ctl(&["up", "prompts", "--no-wait"])
        .await?
        .expect_exit(0)?;
    let first = wait_prompt(&mut watch, "prompts").await?;
    assert_eq!(first.kind, PromptKind::Passphrase);
    assert!(
        !first.fields[0].echo
            && (first.fields[0].label.contains("closed") || first.text.contains("closed"))
    );
    answer_prompt(&daemon, &first, &["wrong"]).await?;
    let second = wait_next_prompt(&mut watch, "prompts", &first).await?;
    answer_prompt(&daemon, &second, &["open sesame"]).await?;
    watch.until("prompts", LONG, is_up).await?;
    Ok(())
}

#[tokio::test]
async fn each_connection_attempt_queries_the_agent_again() -> Result<()> {
    let server = Sshd::start().await?;
    let agent = Agent::start().await?;
    let hidden = server.dir().join("hidden");
    // Out of the way, so that only the agent can offer the key.
    std::fs::rename(server.user_key(), &hidden)?;
    let socket = server.dir().join("agent.link");
    let text = server.tunnel_toml("t")?;
    let line = text
        .lines()
        .find(|line| line.starts_with("identity_file"))
        .context("a line")?;
    let agent_line = format!("identity_agent = \"{}\"", socket.display());
    let text = text.replace(line, &agent_line);
    let (home, daemon) = start_daemon(&text).await?;
    daemon.wait_for("t", LONG, has_error).await?;
    agent.add(&hidden).await?;
    std::os::unix::fs::symlink(agent.socket(), &socket)?;
    home.ctl(&["restart", "t"]).await?.expect_exit(0)?;
    let tunnel = daemon.wait_up("t").await?;
    let auth = tunnel.session.context("a session")?.auth;
    assert!(auth.contains("agent") && auth.contains("SHA256:"), "{auth}");
    Ok(())
}

#[tokio::test]
async fn a_tunnel_that_waits_for_its_agent_connects_when_the_agent_appears() -> Result<()> {
    let server = Sshd::start().await?;
    let socket = server.dir().join("agent");
    let text = with_key(&server, "t", Path::new("/nonexistent"))?;
    let (_home, daemon) = start_daemon(&format!(
        "{text}identity_agent = \"{}\"\n",
        socket.display()
    ))
    .await?;
    let mut watch = daemon.watch().await?;
    let tunnel = watch.until("t", LONG, is_waiting).await?;
    assert_eq!(
        tunnel.last_error.context("an error")?.kind.as_str(),
        "agent"
    );
    let agent = Agent::start().await?;
    agent.add(&server.user_key()).await?;
    std::os::unix::fs::symlink(agent.socket(), &socket)?;
    let tunnel = watch.until("t", LONG, is_up).await?;
    assert!(tunnel.session.context("a session")?.auth.contains("agent"));
    Ok(())
}

#[tokio::test]
async fn a_frozen_agent_delays_only_the_tunnel_that_uses_it() -> Result<()> {
    let server = Sshd::start().await?;
    let agent = Agent::start().await?;
    agent.process().signal(rustix::process::Signal::STOP)?;
    let text = format!(
        "{}identity_agent = \"{}\"\n{}",
        server.tunnel_toml("t")?,
        agent.socket().display(),
        server.tunnel_toml("neighbour")?
    );
    let (_home, daemon) = start_daemon(&text).await?;
    daemon.wait_up("neighbour").await?;
    // The agent does not answer; after its timeout the key file is tried.
    daemon.wait_for("t", LONG * 2, is_up).await?;
    Ok(())
}

#[tokio::test]
async fn a_certificate_logs_in_when_configured_named_as_an_identity_or_beside_its_key() -> Result<()>
{
    let ca = tempfile::tempdir()?;
    let ca_key = ca.path().join("ca");
    keys::generate(&ca_key, "ed25519").await?;
    let trusted = format!("TrustedUserCAKeys {}.pub", ca_key.display());
    let server = Sshd::start_with_lines(&[&trusted]).await?;
    // Only a certificate can log in: the server accepts no plain key.
    std::fs::write(server.dir().join("authorized_keys"), "")?;
    let (ca_file, key) = (ca_key.to_str().context("UTF-8")?, server.user_key());
    let public = key.with_extension("pub");
    let user = tunneld_tests::sshd::current_user()?;
    let args = [
        "-q",
        "-s",
        ca_file,
        "-I",
        "lab",
        "-n",
        &user,
        public.to_str().context("UTF-8")?,
    ];
    run_tool("ssh-keygen", &args).await?;
    let beside = server.dir().join("user_key-cert.pub");
    let elsewhere = server.dir().join("elsewhere.pub");
    std::fs::copy(&beside, &elsewhere)?;
    let other = server.dir().join("other");
    std::fs::copy(&key, &other)?;
    // A copy of a private key must not be readable by others, or it is refused.
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let text = format!(
        "{}{}certificate_file = \"{}\"\n",
        server.tunnel_toml("beside")?,
        with_key(&server, "explicit", &other)?,
        elsewhere.display()
    );
    // As Vault's documentation has it: the certificate is an identity of its own, before its key.
    let named = without_key(&server.tunnel_toml("named")?, "identity_file");
    let text = format!(
        "{text}{named}identity_file = [\"{}\", \"{}\"]\n",
        elsewhere.display(),
        other.display()
    );
    let (_home, daemon) = start_daemon(&text).await?;
    for name in ["beside", "explicit", "named"] {
        let tunnel = daemon.wait_up(name).await?;
        let auth = tunnel.session.context("a session")?.auth;
        assert!(auth.to_lowercase().contains("cert"), "{auth}");
    }
    Ok(())
}

#[tokio::test]
async fn a_public_key_that_all_can_read_names_a_key_of_the_agent() -> Result<()> {
    let server = Sshd::start().await?;
    let agent = Agent::start().await?;
    agent.add(&server.user_key()).await?;
    let public = server.dir().join("named.pub");
    std::fs::copy(server.user_key().with_extension("pub"), &public)?;
    std::fs::set_permissions(&public, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    let tunnel = without_key(&server.tunnel_toml("t")?, "identity_file");
    let text = format!(
        "{tunnel}identity_file = \"{}\"\nidentities_only = true\nidentity_agent = \"{}\"\n",
        public.display(),
        agent.socket().display()
    );
    let (_home, daemon) = start_daemon(&text).await?;
    daemon.wait_up("t").await?;
    Ok(())
}

#[tokio::test]
async fn the_configured_key_is_tried_before_the_keys_of_the_agent() -> Result<()> {
    let server = Sshd::start_with_lines(&["MaxAuthTries 3"]).await?;
    let agent = Agent::start().await?;
    for n in 0..8 {
        let key = server.dir().join(format!("extra{n}"));
        keys::generate(&key, "ed25519").await?;
        agent.add(&key).await?;
    }
    let text = format!(
        "{}identity_agent = \"{}\"\n",
        server.tunnel_toml("t")?,
        agent.socket().display()
    );
    // The eight keys of the agent alone would use up the three tries.
    let (_home, daemon) = start_daemon(&text).await?;
    daemon.wait_up("t").await?;
    Ok(())
}
