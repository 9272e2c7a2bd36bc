//! The row of logins: each server with every way in that it has.

use std::path::PathBuf;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tunneld_proto::status::{ForwardKind, State, TunnelStatus};
use tunneld_tests::agent::Agent;
use tunneld_tests::asyncssh::Asyncssh;
use tunneld_tests::daemon::{Daemon, listen};
use tunneld_tests::dropbear::{Door, Dropbear};
use tunneld_tests::home::Home;
use tunneld_tests::payload;
use tunneld_tests::prompting_server::{Asking, Factor, Round};
use tunneld_tests::security_key::SecurityKey;
use tunneld_tests::sshd::{Setup, Sshd};
use tunneld_tests::target::Target;
use tunneld_tests::wait::LONG;
use tunneld_tests::{keys, sshd};

use super::{LEGACY, LEGACY_ONLY};
use crate::fixture::tcp;

const PASSWORD: &str = "lab pass";
const BY_PASSWORD: &str =
    "preferred_authentications = \"password\"\npassword_command = [\"echo\", \"lab pass\"]\n";
const ANSWERS: &str = "answers = [{ prompt = \"(?i)password\", command = [\"echo\", \"lab pass\"] }, \
     { prompt = \"(?i)code\", command = [\"echo\", \"123456\"] }]\n";

/// Keys of every type, a certificate, an agent: what every server is to let in.
struct Ring {
    dir: TempDir,
    agent: Agent,
    tokens: [SecurityKey; 2],
}

/// A tunnel: the cell that it proves, its lines, and what its status must tell of the login.
struct Login {
    cell: String,
    lines: String,
    shows: String,
}

/// A cell without a key; `lines` are whole.
fn login(cell: &str, lines: &str, shows: &str) -> Login {
    Login {
        cell: cell.into(),
        lines: lines.into(),
        shows: shows.into(),
    }
}

impl Ring {
    async fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("lab-ring").tempdir()?;
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
        let names = format!("{},lab,someone", sshd::user()?);
        for name in ["certified", "rsa_certified"] {
            let public = dir.path().join(name).with_extension("pub");
            keys::certify(&dir.path().join("authority"), &public, &names).await?;
        }
        let agent = Agent::start().await?;
        agent.add(&dir.path().join("held")).await?;
        Ok(Self {
            agent,
            dir,
            tokens: [SecurityKey::ed25519()?, SecurityKey::ecdsa()?],
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

    /// Lines of authorized_keys for all of them; the authority by an option.
    fn authorized(&self) -> Result<String> {
        let mut lines = format!("cert-authority {}", self.public("authority")?);
        for name in ["ed25519", "ecdsa", "rsa", "held"] {
            lines += &self.public(name)?;
        }
        for token in &self.tokens {
            lines += &token.public();
        }
        Ok(lines)
    }

    /// The line that logs in with this key file alone.
    fn with(&self, name: &str) -> String {
        format!("identity_file = \"{}\"\n", self.path(name).display())
    }

    fn key(&self, name: &str) -> Login {
        let shows = format!("publickey {} SHA256:", name.to_uppercase());
        login(&format!("publickey {name}"), &self.with(name), &shows)
    }

    fn certificate(&self, name: &str) -> Login {
        login("certificate", &self.with(name), "CERT")
    }

    fn agent(&self, socket: PathBuf, cell: &str, shows: &str) -> Login {
        let lines = format!("identity_agent = \"{}\"\n", socket.display());
        login(cell, &lines, shows)
    }

    fn held(&self) -> Login {
        self.agent(self.agent.socket(), "agent", "(agent, ")
    }

    /// The cells of keys that know no legacy: files, agent, security keys.
    fn keys(&self) -> Vec<Login> {
        let mut all: Vec<Login> = ["ed25519", "ecdsa", "rsa"]
            .map(|name| self.key(name))
            .into();
        all.push(self.held());
        let [ed25519, ecdsa] = &self.tokens;
        all.push(self.agent(ed25519.socket(), "sk-ed25519 in the agent", "ED25519-SK"));
        all.push(self.agent(ecdsa.socket(), "sk-ecdsa in the agent", "ECDSA-SK"));
        all
    }
}

/// The lines of a tunnel without its key.
fn keyless(tunnel: &str) -> String {
    let lines = tunnel
        .lines()
        .filter(|line| !line.starts_with("identity_file"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Proves the cells, each by a tunnel of its own that carries bytes.
async fn prove(logins: Vec<(String, Login)>) -> Result<()> {
    let target = Target::echo().await?;
    let home = Home::new()?;
    let mut text = String::new();
    for (tunnel, login) in &logins {
        text += &keyless(tunnel);
        text += &login.lines;
        text += &format!("local_forward = \"0 127.0.0.1:{}\"\n", target.port());
    }
    home.write("t.toml", &text)?;
    let daemon = Daemon::start(&home).await?;
    let mut watch = daemon.watch().await?;
    for (n, (_, login)) in logins.iter().enumerate() {
        let proved = async {
            let up = |tunnel: &TunnelStatus| tunnel.state == State::Up;
            let tunnel = watch.until(&format!("t{n}"), LONG, up).await?;
            let auth = &tunnel.session.as_ref().context("a session")?.auth;
            anyhow::ensure!(auth.contains(&login.shows), "the login is {auth}");
            let mut stream = tcp(listen(&tunnel, ForwardKind::Local)?).await?;
            payload::ping(&mut stream, b"in").await
        };
        proved.await.with_context(|| login.cell.clone())?;
    }
    Ok(())
}

/// Each of `logins` with the lines of a tunnel `tN`, N counted on from `from`.
fn at(
    from: usize,
    logins: Vec<Login>,
    tunnel: impl Fn(&str) -> Result<String>,
) -> Result<Vec<(String, Login)>> {
    let numbered = logins.into_iter().enumerate();
    numbered
        .map(|(n, login)| Ok((tunnel(&format!("t{}", from + n))?, login)))
        .collect()
}

/// An sshd whose user has a password and whose PAM asks for it; from 127.0.0.11 on it wants chains.
async fn with_pam(lines: &[&str], key: &str, password: &str) -> Result<Sshd> {
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
    Sshd::with(Setup {
        lines,
        host_keys: vec![key.into()],
        user_key: key.into(),
        password: Some(password.into()),
        pam: (!password.is_empty()).then(|| pam.to_owned()),
        ..Setup::default()
    })
    .await
}

/// What sshd asks for, one after the other, and how many keys it needs.
const CHAINS: &[(&str, usize)] = &[
    ("publickey,password", 1),
    ("publickey,keyboard-interactive", 1),
    ("keyboard-interactive,keyboard-interactive", 0),
    ("password,publickey", 1),
    ("publickey,publickey", 2),
];

fn chains(ring: &Ring, names: [&str; 2]) -> Vec<Login> {
    let chain = |(n, (chain, count)): (usize, &(&str, usize))| {
        let files = names.iter().take(*count);
        let files: Vec<String> = files
            .map(|name| format!("\"{}\"", ring.path(name).display()))
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

fn by_keyboard() -> Login {
    let lines = format!("preferred_authentications = \"keyboard-interactive\"\n{ANSWERS}");
    login("keyboard-interactive", &lines, "keyboard-interactive")
}

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: only root can give a server accounts of its own");
    }
    root
}

#[tokio::test]
async fn sshd() -> Result<()> {
    if !root() {
        return Ok(());
    }
    let ring = Ring::new().await?;
    let server = with_pam(&[], "ed25519", PASSWORD).await?;
    std::fs::write(server.dir().join("authorized_keys"), ring.authorized()?)?;
    let open = with_pam(&[], "ed25519", "").await?;
    let mut logins = ring.keys();
    logins.push(ring.certificate("certified"));
    logins.push(login("password", BY_PASSWORD, "password"));
    logins.push(by_keyboard());
    logins.extend(chains(&ring, ["ed25519", "ecdsa"]));
    let mut all = at(0, logins, |name| server.tunnel(name))?;
    let none = vec![login("none", "", "none")];
    all.extend(at(all.len(), none, |name| open.tunnel(name))?);
    prove(all).await
}

#[tokio::test]
async fn sshd_with_legacy_algorithms_alone() -> Result<()> {
    if !root() {
        return Ok(());
    }
    let ring = Ring::new().await?;
    let server = with_pam(LEGACY_ONLY, "rsa", PASSWORD).await?;
    let authorized =
        ring.authorized()? + &std::fs::read_to_string(server.user_key().with_extension("pub"))?;
    std::fs::write(server.dir().join("authorized_keys"), authorized)?;
    ring.agent.add(&server.user_key()).await?;
    let open = with_pam(LEGACY_ONLY, "rsa", "").await?;
    std::fs::copy(server.user_key(), ring.path("second"))?;
    let mut logins = vec![
        ring.key("rsa"),
        ring.held(),
        ring.certificate("rsa_certified"),
        login("password", BY_PASSWORD, "password"),
        by_keyboard(),
    ];
    logins.extend(chains(&ring, ["rsa", "second"]));
    let mut all = at(0, logins, |name| Ok(server.tunnel(name)? + LEGACY))?;
    let none = vec![login("none", "", "none")];
    all.extend(at(all.len(), none, |name| Ok(open.tunnel(name)? + LEGACY))?);
    prove(all).await
}

#[tokio::test]
async fn dropbear() -> Result<()> {
    if !root() {
        return Ok(());
    }
    let ring = Ring::new().await?;
    let server = Dropbear::with(Door::Password(PASSWORD)).await?;
    std::fs::write(server.authorized_keys(), ring.authorized()?)?;
    let both = Dropbear::with(Door::Both(PASSWORD)).await?;
    std::fs::write(both.authorized_keys(), ring.authorized()?)?;
    let open = Dropbear::with(Door::Open).await?;
    let mut logins = ring.keys();
    logins.push(login("password", BY_PASSWORD, "password"));
    let mut all = at(0, logins, |name| server.tunnel(name))?;
    let chain = format!(
        "{}password_command = [\"echo\", \"lab pass\"]\n",
        ring.with("ed25519")
    );
    let chain = vec![login("publickey,password", &chain, " + password")];
    all.extend(at(all.len(), chain, |name| both.tunnel(name))?);
    let none = vec![login("none", "", "none")];
    all.extend(at(all.len(), none, |name| open.tunnel(name))?);
    prove(all).await
}

#[tokio::test]
async fn asyncssh() -> Result<()> {
    let ring = Ring::new().await?;
    let server = Asyncssh::with(super::NEVER, &ring.authorized()?).await?;
    let mut logins = ring.keys();
    logins.push(ring.certificate("certified"));
    logins.push(login("password", BY_PASSWORD, "password"));
    logins.push(by_keyboard());
    let mut all = at(0, logins, |name| server.tunnel(name))?;
    let none = vec![login("none", "", "none")];
    let nobody = |name: &str| Ok(server.tunnel(name)?.replace("lab@", "none@"));
    all.extend(at(all.len(), none, nobody)?);
    prove(all).await
}

#[tokio::test]
async fn russh() -> Result<()> {
    let ring = Ring::new().await?;
    let rounds = vec![
        Round {
            instructions: "Two factors",
            prompts: vec![("Password: ", false, PASSWORD), ("Code: ", true, "123456")],
        },
        Round {
            instructions: "",
            prompts: vec![("Next code: ", false, "123456")],
        },
    ];
    let keyboard = Factor::Keyboard(rounds);
    let key = Asking::start(vec![Factor::Key]).await?;
    let mut logins = ring.keys();
    logins.push(ring.certificate("certified"));
    let mut all = at(0, logins, |name| key.tunnel(name))?;
    let chain = format!(
        "{}{ANSWERS}password_command = [\"echo\", \"lab pass\"]\n",
        ring.with("ed25519")
    );
    let mut others = Vec::new();
    for (factors, cell) in [
        (vec![Factor::Nothing], login("none", "", "none")),
        (
            vec![Factor::Password(PASSWORD)],
            login("password", BY_PASSWORD, "password"),
        ),
        (vec![keyboard.clone()], by_keyboard()),
        (
            vec![Factor::Key, Factor::Password(PASSWORD), keyboard],
            login(
                "publickey,password,keyboard-interactive",
                &chain,
                " + password + keyboard-interactive",
            ),
        ),
    ] {
        others.push((Asking::start(factors).await?, cell));
    }
    let servers: Vec<Asking> = others
        .into_iter()
        .map(|(server, cell)| {
            all.extend(at(all.len(), vec![cell], |name| server.tunnel(name))?);
            Ok(server)
        })
        .collect::<Result<_>>()?;
    prove(all).await?;
    drop(servers);
    Ok(())
}
