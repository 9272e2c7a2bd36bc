//! The row of logins: each server with every authentication method that it offers.

use std::path::PathBuf;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tunneld_proto::status::ForwardKind;
use tunneld_tests::agent::Agent;
use tunneld_tests::asyncssh::Asyncssh;
use tunneld_tests::daemon::{Daemon, listen_addr};
use tunneld_tests::dropbear::{Dropbear, DropbearAuth};
use tunneld_tests::home::Home;
use tunneld_tests::payload;
use tunneld_tests::prompting_server::{AuthFactor, PromptRound, PromptingServer};
use tunneld_tests::security_key::SecurityKeyAgent;
use tunneld_tests::sshd::{Sshd, SshdOptions};
use tunneld_tests::target::Target;
use tunneld_tests::wait::LONG;
use tunneld_tests::{keys, root, sshd};

use super::{LEGACY, LEGACY_ONLY};
use crate::fixture::{is_up, local_forward_to, tcp, without_key};

const PASSWORD: &str = "lab pass";
const BY_PASSWORD: &str =
    "preferred_authentications = \"password\"\npassword_command = [\"echo\", \"lab pass\"]\n";
const ANSWERS: &str = "answers = [{ prompt = \"(?i)password\", command = [\"echo\", \"lab pass\"] }, \
     { prompt = \"(?i)code\", command = [\"echo\", \"123456\"] }]\n";

/// Credentials that every server accepts: key files of every type, certificates, an agent and two security keys.
struct Credentials {
    dir: TempDir,
    agent: Agent,
    security_keys: [SecurityKeyAgent; 2],
}

/// A tunnel that logs in with one method.
struct Login {
    /// The name of the cell in the matrix, for error messages.
    cell: String,
    /// The lines of the tunnel that select the method and its credentials.
    lines: String,
    /// A part of the login's description in the status.
    expected_auth: String,
}

fn login(cell: &str, lines: &str, expected_auth: &str) -> Login {
    Login {
        cell: cell.into(),
        lines: lines.into(),
        expected_auth: expected_auth.into(),
    }
}

impl Credentials {
    async fn new() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("lab-credentials")
            .tempdir()?;
        for kind in ["ed25519", "ecdsa", "rsa"] {
            keys::generate(&dir.path().join(kind), kind).await?;
        }
        for name in ["authority", "held", "certified", "rsa_certified"] {
            let kind = if name.starts_with("rsa") {
                "rsa"
            } else {
                "ed25519"
            };
            keys::generate(&dir.path().join(name), kind).await?;
        }
        let names = format!("{},lab,someone", sshd::current_user()?);
        for name in ["certified", "rsa_certified"] {
            let public = dir.path().join(name).with_extension("pub");
            keys::sign_user_key(&dir.path().join("authority"), &public, &names).await?;
        }
        let agent = Agent::start().await?;
        agent.add(&dir.path().join("held")).await?;
        Ok(Self {
            agent,
            dir,
            security_keys: [SecurityKeyAgent::ed25519()?, SecurityKeyAgent::ecdsa()?],
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn public(&self, name: &str) -> Result<String> {
        Ok(std::fs::read_to_string(
            self.path(name).with_extension("pub"),
        )?)
    }

    /// The lines of authorized_keys that accept all of them; the certificates by their authority.
    fn authorized_keys(&self) -> Result<String> {
        let mut lines = format!("cert-authority {}", self.public("authority")?);
        for name in ["ed25519", "ecdsa", "rsa", "held"] {
            lines += &self.public(name)?;
        }
        for key in &self.security_keys {
            lines += &key.public_key_line();
        }
        Ok(lines)
    }

    /// The line that logs in with only this key file.
    fn identity_file(&self, name: &str) -> String {
        format!("identity_file = \"{}\"\n", self.path(name).display())
    }

    fn key(&self, name: &str) -> Login {
        let shows = format!("publickey {} SHA256:", name.to_uppercase());
        login(
            &format!("publickey {name}"),
            &self.identity_file(name),
            &shows,
        )
    }

    fn certificate(&self, name: &str) -> Login {
        login("certificate", &self.identity_file(name), "CERT")
    }

    fn agent(&self, socket: PathBuf, cell: &str, shows: &str) -> Login {
        let lines = format!("identity_agent = \"{}\"\n", socket.display());
        login(cell, &lines, shows)
    }

    fn held(&self) -> Login {
        self.agent(self.agent.socket(), "agent", "(agent, ")
    }

    /// The logins with key files, the agent and security keys. A server with only legacy algorithms refuses most.
    fn key_logins(&self) -> Vec<Login> {
        let mut all: Vec<Login> = ["ed25519", "ecdsa", "rsa"]
            .map(|name| self.key(name))
            .into();
        all.push(self.held());
        let [ed25519, ecdsa] = &self.security_keys;
        all.push(self.agent(ed25519.socket(), "sk-ed25519 in the agent", "ED25519-SK"));
        all.push(self.agent(ecdsa.socket(), "sk-ecdsa in the agent", "ECDSA-SK"));
        all
    }
}

/// Checks each login with its own tunnel, with the table that reaches the server: it logs in with the expected
/// method and carries bytes.
async fn check(logins: Vec<(String, Login)>) -> Result<()> {
    let target = Target::echo().await?;
    let home = Home::new()?;
    let mut text = String::new();
    for (tunnel, login) in &logins {
        text += &without_key(tunnel, "identity_file");
        text += &login.lines;
        text += &(local_forward_to(&target) + "\n");
    }
    home.write("t.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    for (n, (_, login)) in logins.iter().enumerate() {
        let checked = async {
            let tunnel = watch.until(&format!("t{n}"), LONG, is_up).await?;
            let auth = &tunnel.session.as_ref().context("a session")?.auth;
            anyhow::ensure!(auth.contains(&login.expected_auth), "the login is {auth}");
            let mut stream = tcp(listen_addr(&tunnel, ForwardKind::Local)?).await?;
            payload::ping(&mut stream, b"in").await
        };
        checked.await.with_context(|| login.cell.clone())?;
    }
    Ok(())
}

/// Pairs each login with the table of the tunnel `tN` that reaches its server; N begins with `first`.
fn numbered(
    first: usize,
    logins: Vec<Login>,
    tunnel: impl Fn(&str) -> Result<String>,
) -> Result<Vec<(String, Login)>> {
    let logins = logins.into_iter().enumerate();
    logins
        .map(|(n, login)| Ok((tunnel(&format!("t{}", first + n))?, login)))
        .collect()
}

/// Starts an sshd whose user has this password and whose PAM prompts for it; an empty password is one that the server
/// accepts by the method `none`. A client from 127.0.0.11 must pass the first of [`CHAINS`], and so on.
async fn with_pam(lines: &[&str], key: &str, password: &str, is_openssh10: bool) -> Result<Sshd> {
    let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    lines.extend([
        "PasswordAuthentication yes".into(),
        "KbdInteractiveAuthentication yes".into(),
    ]);
    if password.is_empty() {
        lines.push("PermitEmptyPasswords yes".into());
    } else {
        lines.push("UsePAM yes".into());
    }
    for (n, chain) in CHAINS.iter().enumerate() {
        lines.push(format!("Match Address 127.0.0.{}", 11 + n));
        lines.push(format!("AuthenticationMethods {}", chain.0));
    }
    let pam = "auth required pam_unix.so\naccount required pam_permit.so\nsession required pam_permit.so\n";
    Sshd::start_with(SshdOptions {
        config_lines: lines,
        host_keys: vec![key.into()],
        user_key: key.into(),
        password: Some(password.into()),
        pam_service: (!password.is_empty()).then(|| pam.to_owned()),
        is_openssh10,
        ..SshdOptions::default()
    })
    .await
}

/// Values of AuthenticationMethods, and the number of keys that each requires.
const CHAINS: &[(&str, usize)] = &[
    ("publickey,password", 1),
    ("publickey,keyboard-interactive", 1),
    ("keyboard-interactive,keyboard-interactive", 0),
    ("password,publickey", 1),
    ("publickey,publickey", 2),
];

fn chain_logins(credentials: &Credentials, key_names: [&str; 2]) -> Vec<Login> {
    let chain = |(n, (chain, count)): (usize, &(&str, usize))| {
        let files = key_names.iter().take(*count);
        let files: Vec<String> = files
            .map(|name| format!("\"{}\"", credentials.path(name).display()))
            .collect();
        let lines = format!(
            "bind_address = \"127.0.0.{}\"\nidentity_file = [{}]\n{ANSWERS}\
             password_command = [\"echo\", \"lab pass\"]\n",
            11 + n,
            files.join(", ")
        );
        login(chain, &lines, " + ")
    };
    CHAINS.iter().enumerate().map(chain).collect()
}

fn keyboard_interactive() -> Login {
    let lines = format!("preferred_authentications = \"keyboard-interactive\"\n{ANSWERS}");
    login("keyboard-interactive", &lines, "keyboard-interactive")
}

fn private_accounts() -> Result<bool> {
    root::available("give a server its own user accounts")
}

#[tokio::test]
async fn sshd() -> Result<()> {
    check_sshd(false).await
}

#[tokio::test]
async fn openssh10() -> Result<()> {
    check_sshd(true).await
}

async fn check_sshd(is_openssh10: bool) -> Result<()> {
    if !private_accounts()? {
        return Ok(());
    }
    let credentials = Credentials::new().await?;
    let server = with_pam(&[], "ed25519", PASSWORD, is_openssh10).await?;
    std::fs::write(
        server.dir().join("authorized_keys"),
        credentials.authorized_keys()?,
    )?;
    let open = with_pam(&[], "ed25519", "", is_openssh10).await?;
    let mut logins = credentials.key_logins();
    logins.push(credentials.certificate("certified"));
    logins.push(login("password", BY_PASSWORD, "password"));
    logins.push(keyboard_interactive());
    logins.extend(chain_logins(&credentials, ["ed25519", "ecdsa"]));
    let mut all = numbered(0, logins, |name| server.tunnel_toml(name))?;
    let none = vec![login("none", "", "none")];
    all.extend(numbered(all.len(), none, |name| open.tunnel_toml(name))?);
    check(all).await
}

#[tokio::test]
async fn sshd_with_legacy_algorithms_alone() -> Result<()> {
    if !private_accounts()? {
        return Ok(());
    }
    let credentials = Credentials::new().await?;
    let server = with_pam(LEGACY_ONLY, "rsa", PASSWORD, false).await?;
    let authorized = credentials.authorized_keys()?
        + &std::fs::read_to_string(server.user_key().with_extension("pub"))?;
    std::fs::write(server.dir().join("authorized_keys"), authorized)?;
    credentials.agent.add(&server.user_key()).await?;
    let open = with_pam(LEGACY_ONLY, "rsa", "", false).await?;
    std::fs::copy(server.user_key(), credentials.path("second"))?;
    let mut logins = vec![
        credentials.key("rsa"),
        credentials.held(),
        credentials.certificate("rsa_certified"),
        login("password", BY_PASSWORD, "password"),
        keyboard_interactive(),
    ];
    logins.extend(chain_logins(&credentials, ["rsa", "second"]));
    let mut all = numbered(0, logins, |name| Ok(server.tunnel_toml(name)? + LEGACY))?;
    let none = vec![login("none", "", "none")];
    all.extend(numbered(all.len(), none, |name| {
        Ok(open.tunnel_toml(name)? + LEGACY)
    })?);
    check(all).await
}

#[tokio::test]
async fn dropbear() -> Result<()> {
    if !private_accounts()? {
        return Ok(());
    }
    let credentials = Credentials::new().await?;
    let server = Dropbear::start_with(DropbearAuth::PublicKeyOrPassword(PASSWORD)).await?;
    std::fs::write(server.authorized_keys(), credentials.authorized_keys()?)?;
    let both = Dropbear::start_with(DropbearAuth::PublicKeyAndPassword(PASSWORD)).await?;
    std::fs::write(both.authorized_keys(), credentials.authorized_keys()?)?;
    let open = Dropbear::start_with(DropbearAuth::NoPassword).await?;
    let mut logins = credentials.key_logins();
    logins.push(login("password", BY_PASSWORD, "password"));
    let mut all = numbered(0, logins, |name| server.tunnel_toml(name))?;
    let chain = format!(
        "{}password_command = [\"echo\", \"lab pass\"]\n",
        credentials.identity_file("ed25519")
    );
    let chain = vec![login("publickey,password", &chain, " + password")];
    all.extend(numbered(all.len(), chain, |name| both.tunnel_toml(name))?);
    let none = vec![login("none", "", "none")];
    all.extend(numbered(all.len(), none, |name| open.tunnel_toml(name))?);
    check(all).await
}

#[tokio::test]
async fn asyncssh() -> Result<()> {
    let credentials = Credentials::new().await?;
    let server =
        Asyncssh::start_with(super::NO_REKEY_BYTES, &credentials.authorized_keys()?).await?;
    let mut logins = credentials.key_logins();
    logins.push(credentials.certificate("certified"));
    logins.push(login("password", BY_PASSWORD, "password"));
    logins.push(keyboard_interactive());
    let mut all = numbered(0, logins, |name| server.tunnel_toml(name))?;
    let none = vec![login("none", "", "none")];
    let no_auth = |name: &str| Ok(server.tunnel_toml(name)?.replace("lab@", "none@"));
    all.extend(numbered(all.len(), none, no_auth)?);
    check(all).await
}

#[tokio::test]
async fn russh() -> Result<()> {
    let credentials = Credentials::new().await?;
    let rounds = vec![
        PromptRound {
            instructions: "Two factors",
            prompts: vec![("Password: ", false, PASSWORD), ("Code: ", true, "123456")],
        },
        PromptRound {
            instructions: "",
            prompts: vec![("Next code: ", false, "123456")],
        },
    ];
    let keyboard = AuthFactor::KeyboardInteractive(rounds);
    let key = PromptingServer::start(vec![AuthFactor::PublicKey]).await?;
    let mut logins = credentials.key_logins();
    logins.push(credentials.certificate("certified"));
    let mut all = numbered(0, logins, |name| key.tunnel_toml(name))?;
    let chain = format!(
        "{}{ANSWERS}password_command = [\"echo\", \"lab pass\"]\n",
        credentials.identity_file("ed25519")
    );
    let mut others = Vec::new();
    for (factors, cell) in [
        (vec![AuthFactor::None], login("none", "", "none")),
        (
            vec![AuthFactor::Password(PASSWORD)],
            login("password", BY_PASSWORD, "password"),
        ),
        (vec![keyboard.clone()], keyboard_interactive()),
        (
            vec![
                AuthFactor::PublicKey,
                AuthFactor::Password(PASSWORD),
                keyboard,
            ],
            login(
                "publickey,password,keyboard-interactive",
                &chain,
                " + password + keyboard-interactive",
            ),
        ),
    ] {
        others.push((PromptingServer::start(factors).await?, cell));
    }
    let servers: Vec<PromptingServer> = others
        .into_iter()
        .map(|(server, cell)| {
            all.extend(numbered(all.len(), vec![cell], |name| {
                server.tunnel_toml(name)
            })?);
            Ok(server)
        })
        .collect::<Result<_>>()?;
    check(all).await?;
    drop(servers);
    Ok(())
}
