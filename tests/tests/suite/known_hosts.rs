//! known_hosts: the verdict on a corpus of files is that of `ssh -o BatchMode=yes`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::process::Command;
use tokio::task::JoinSet;
use tunneld_proto::status::{State, TunnelStatus};
use tunneld_tests::daemon::Daemon;
use tunneld_tests::home::Home;
use tunneld_tests::keys;
use tunneld_tests::sshd::{self, Sshd};
use tunneld_tests::wait::LONG;

/// Files, with `HOST` for the server as it is reached, `HASHED` for that hashed, `KEY` for its key, `OTHER` and `RSA`
/// for keys that it does not have. `====` begins the next file.
const CORPUS: &[&str] = &[
    "HOST KEY",
    "",
    "# HOST KEY",
    "#HOST KEY\nHOST KEY # not a comment",
    "HOST OTHER",
    "HOST OTHER\nHOST KEY",
    "HOST KEY\nHOST OTHER",
    "HOST RSA",
    "HOST RSA\nHOST KEY",
    "other.example.com KEY",
    // Wildcards and negation.
    "*,!HOST KEY",
    "!HOST,* KEY",
    "!HOST KEY",
    "!other.example.com,HOST KEY",
    "*,!127.0.0.1 KEY",
    "*,![127.0.0.1]:* KEY",
    "[127.0.0.?]:* KEY",
    "[127.0.0.??]:* KEY",
    "[*]:* KEY",
    "*:* KEY",
    "* KEY",
    "? KEY",
    "127.0.0.1 KEY",
    "127.0.0.* KEY",
    "[127.0.0.1]:1 KEY",
    "[127.0.0.1] KEY",
    "127.0.0.1 OTHER",
    "127.0.0.1 OTHER\nHOST KEY",
    "127.0.0.1 KEY\nHOST OTHER",
    "HOST,other.example.com KEY",
    "other.example.com,HOST KEY comment",
    ",HOST KEY",
    "HOST, KEY",
    "HOST,,other KEY",
    // Hashed names.
    "HASHED KEY",
    "HASHED OTHER",
    "HASHED OTHER\nHASHED KEY",
    "HASHED,other.example.com KEY",
    "other.example.com,HASHED KEY",
    "@revoked HASHED KEY\nHOST KEY",
    "|1|c2hvcnQ=|c2hvcnQ= KEY",
    "|1||\nHOST KEY",
    "|2|x|y KEY",
    // Markers.
    "@revoked HOST KEY",
    "@revoked * KEY\nHOST KEY",
    "HOST KEY\n@revoked HOST KEY",
    "@revoked HOST OTHER\nHOST KEY",
    "@revoked other.example.com KEY\nHOST KEY",
    "@revoked 127.0.0.1 KEY\nHOST KEY",
    "@REVOKED HOST KEY\nHOST KEY",
    "@revoked\tHOST\tKEY\nHOST KEY",
    "@cert-authority\tHOST\tKEY\nHOST KEY",
    "@revoked\nHOST KEY",
    "@cert-authority HOST KEY",
    "@cert-authority HOST OTHER\nHOST KEY",
    "@cert-authority @revoked HOST KEY",
    "@unknown-marker HOST KEY",
    "@unknown-marker HOST KEY\nHOST KEY",
    // White space and line ends.
    "   HOST   KEY   trailing words",
    "\tHOST\tKEY",
    "HOST KEY\r",
    "HOST KEY comment\r\n# more\r",
    "\r\n\r\nHOST KEY",
    "HOST\u{a0}KEY",
    "HOST KEY \u{e9}t\u{e9}",
    "\u{feff}HOST KEY",
    "\u{feff}\nHOST KEY",
    "\0HOST KEY",
    "HOST KEY\0",
    "\x0bHOST KEY",
    // Lines that are none.
    "HOST",
    "HOST ssh-ed25519",
    "HOST ssh-ed25519\nHOST KEY",
    "HOST ssh-ed25519 not-base64!",
    "HOST ssh-ed25519 not-base64!\nHOST KEY",
    "HOST ssh-ed25519 AAAA\nHOST KEY",
    "HOST ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQ==\nHOST KEY",
    "HOST ssh-unheard-of AAAAB3NzaC1yc2EAAAADAQABAAAAgQ==\nHOST KEY",
    "HOST 1024 35 1234567890\nHOST KEY",
    "garbage\nHOST KEY",
    "garbage garbage garbage\nHOST KEY",
    "HOST \"KEY\"",
    // Several files.
    "====HOST KEY",
    "HOST OTHER\n====HOST KEY",
    "HOST KEY\n====HOST OTHER",
    "HOST KEY\n====@revoked HOST KEY",
    "====",
];

/// The same for HostKeyAlias, `ALIAS`.
const ALIASED: &[&str] = &[
    "ALIAS KEY",
    "alias.example KEY",
    "[ALIAS]:22 KEY",
    "HOST KEY",
    "127.0.0.1 KEY",
    "ALIAS OTHER\nHOST KEY",
    "*.Example KEY",
    "@revoked ALIAS KEY\nALIAS KEY",
];

/// The same for servers with a certificate by `CA`.
const CERTIFIED: &[&str] = &[
    "@cert-authority HOST CA",
    "@cert-authority * CA",
    "@cert-authority 127.0.0.1 CA",
    "@cert-authority *,!HOST CA",
    "@cert-authority HASHED CA",
    "@cert-authority * OTHER",
    "@cert-authority * OTHER\n@cert-authority * CA",
    "@cert-authority * CA\nHOST KEY",
    "@cert-authority * CA\nHOST OTHER",
    "@revoked * CA\n@cert-authority * CA",
    "@revoked * KEY\n@cert-authority * CA",
    "@revoked * CA\nHOST KEY",
    "HOST CA",
    "HOST KEY",
    "HOST OTHER",
];
/// What is asked of certificates that lack something.
const ODD: &[&str] = &["@cert-authority * CA", "@cert-authority * CA\nHOST KEY"];
/// How a certificate is made beyond key and authority, and the files that it is held against.
const CERTIFICATES: &[(&[&str], &[&str])] = &[
    (&["-n", "127.0.0.1"], CERTIFIED),
    (&["-n", "other.example,127.0.0.1"], ODD),
    (&["-n", "other.example"], ODD),
    (&["-n", "127.0.0.*"], ODD),
    (&["-n", "[127.0.0.1]:22"], ODD),
    (&[], ODD),
    (&["-n", "127.0.0.1", "-V", "20010101:20020101"], ODD),
    (&["-n", "127.0.0.1", "-V", "20900101:20910101"], ODD),
    (&["-n", "127.0.0.1", "-O", "critical:unheard-of=1"], ODD),
    (&["-n", "127.0.0.1", "-O", "extension:unheard-of=1"], ODD),
];

/// One verdict that is asked for.
struct Case {
    shown: String,
    files: Vec<PathBuf>,
    alias: bool,
    port: u16,
    tunnel: String,
}

/// The files that cases are written to.
struct Corpus {
    home: Home,
    ca: String,
    other: String,
    rsa: String,
    cases: Vec<Case>,
}

/// Type and key of a public key file.
fn public(path: &Path) -> Result<String> {
    let key = std::fs::read_to_string(path.with_extension("pub"))?;
    Ok(key.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
}

impl Corpus {
    async fn new() -> Result<Self> {
        let home = Home::new()?;
        let mut texts = Vec::new();
        for (name, kind) in [("ca", "ed25519"), ("other", "ed25519"), ("rsa", "rsa")] {
            let path = home.path(name);
            keys::generate(&path, kind).await?;
            texts.push(public(&path)?);
        }
        let mut texts = texts.into_iter();
        let mut next = || texts.next().unwrap_or_default();
        Ok(Self {
            ca: next(),
            other: next(),
            rsa: next(),
            cases: Vec::new(),
            home,
        })
    }

    async fn add(
        &mut self,
        server: &Sshd,
        entries: &[&str],
        alias: bool,
        note: &str,
    ) -> Result<()> {
        let host = format!("[127.0.0.1]:{}", server.port());
        let hashed = self.hashed(&host).await?;
        let key = public(&server.host_key("ed25519"))?;
        for entry in entries {
            let n = self.cases.len();
            let text = entry
                .replace("HOST", &host)
                .replace("HASHED", &hashed)
                .replace("ALIAS", "alias.EXAMPLE")
                .replace("OTHER", &self.other)
                .replace("RSA", &self.rsa)
                .replace("KEY", &key)
                .replace("CA", &self.ca);
            let mut files = Vec::new();
            for (m, text) in text.split("====").enumerate() {
                let path = self.home.path(format!("known{n}.{m}"));
                std::fs::write(&path, format!("{text}\n"))?;
                files.push(path);
            }
            let list: Vec<String> = files
                .iter()
                .map(|f| format!("\"{}\"", f.display()))
                .collect();
            let tunnel = server.tunnel(&format!("t{n}"))?;
            let lines = tunnel
                .lines()
                .filter(|line| !line.starts_with("user_known"));
            let mut tunnel: String = lines.map(|line| format!("{line}\n")).collect();
            tunnel += &format!("user_known_hosts_file = [{}]\n", list.join(", "));
            if alias {
                tunnel += "host_key_alias = \"alias.EXAMPLE\"\n";
            }
            self.cases.push(Case {
                shown: format!("{entry:?}{note}"),
                files,
                alias,
                port: server.port(),
                tunnel,
            });
        }
        Ok(())
    }

    /// The name as `ssh-keygen -H` writes it.
    async fn hashed(&self, host: &str) -> Result<String> {
        let path = self.home.path("hashed");
        std::fs::write(&path, format!("{host} {}\n", self.other))?;
        let file = path.to_str().context("UTF-8")?;
        keys::run("ssh-keygen", &["-q", "-H", "-f", file]).await?;
        let text = std::fs::read_to_string(&path)?;
        Ok(text.split(' ').next().context("a name")?.to_owned())
    }

    /// A server whose host key is certified so.
    async fn certified(&self, how: &[&str]) -> Result<Sshd> {
        let mut server = Sshd::start().await?;
        let key = server.host_key("ed25519").display().to_string();
        let ca = self.home.path("ca").display().to_string();
        let mut args = vec!["-q", "-s", &ca, "-I", "host", "-h"];
        args.extend(how);
        args.push(&key);
        keys::run("ssh-keygen", &args).await?;
        let certificate = server.dir().join("host_ed25519-cert.pub");
        server.stop().await?;
        let line = format!("HostCertificate {}", certificate.display());
        server.setup_mut().lines.push(line);
        server.resume().await?;
        Ok(server)
    }
}

#[tokio::test]
async fn verdicts_match_openssh() -> Result<()> {
    let mut corpus = Corpus::new().await?;
    let server = Sshd::start().await?;
    corpus.add(&server, CORPUS, false, "").await?;
    corpus.add(&server, ALIASED, true, " aliased").await?;
    let mut certified = Vec::new();
    for (how, entries) in CERTIFICATES {
        let server = corpus.certified(how).await?;
        corpus
            .add(&server, entries, false, &format!(" certified by {how:?}"))
            .await?;
        certified.push(server);
    }
    let tunnels = corpus.cases.iter().map(|case| case.tunnel.as_str());
    corpus.home.write("t.toml", &tunnels.collect::<String>())?;
    let daemon = Daemon::start(&corpus.home).await?;
    let mut theirs = JoinSet::new();
    let turns = std::sync::Arc::new(tokio::sync::Semaphore::new(4));
    for (n, case) in corpus.cases.iter().enumerate() {
        let (command, turns) = (openssh(case)?, turns.clone());
        theirs.spawn(async move {
            let _turn = turns.acquire().await?;
            verdict(command).await.map(|verdict| (n, verdict))
        });
    }
    let mut trusted = vec![false; corpus.cases.len()];
    while let Some(done) = theirs.join_next().await {
        let (n, verdict) = done??;
        trusted[n] = verdict;
    }
    let mut watch = daemon.watch().await?;
    let mut differ = Vec::new();
    for (n, (case, theirs)) in corpus.cases.iter().zip(trusted).enumerate() {
        let settled = |tunnel: &TunnelStatus| matches!(tunnel.state, State::Up | State::Failed);
        let ours = watch.until(&format!("t{n}"), LONG, settled).await?;
        if (ours.state == State::Up) != theirs {
            let why = ours.last_error.map(|error| error.message);
            differ.push(format!("{}: OpenSSH {theirs}, we {why:?}", case.shown));
        }
    }
    assert!(differ.is_empty(), "{differ:#?}");
    Ok(())
}

/// The real ssh, held against the same files.
fn openssh(case: &Case) -> Result<Command> {
    let files: Vec<String> = case.files.iter().map(|f| f.display().to_string()).collect();
    let mut command = Command::new("ssh");
    command.args(["-F", "none"]);
    if case.alias {
        command.args(["-o", "HostKeyAlias=alias.EXAMPLE"]);
    }
    for option in [
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "GlobalKnownHostsFile=none",
        "UpdateHostKeys=no",
        // It is let in no further than the question who it is.
        "PreferredAuthentications=none",
        &format!("UserKnownHostsFile={}", files.join(" ")),
    ] {
        command.args(["-o", option]);
    }
    command.args(["-p", &case.port.to_string()]);
    command
        .arg(format!("{}@127.0.0.1", sshd::user()?))
        .arg("true");
    Ok(command)
}

/// Whether it trusted the host; anything but a clear word is an error of the test.
async fn verdict(mut command: Command) -> Result<bool> {
    let out = command.output().await?;
    let said = String::from_utf8_lossy(&out.stderr);
    let trusted = said.contains("Permission denied");
    let refused =
        said.contains("Host key verification failed") || said.contains("has been revoked");
    anyhow::ensure!(trusted != refused, "ssh says neither yes nor no: {said}");
    Ok(trusted)
}
