//! known_hosts: for every file of a corpus the daemon trusts the host if and only if `ssh -o BatchMode=yes` does.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::process::Command;
use tokio::task::JoinSet;
use tunneld_proto::status::{State, TunnelStatus};
use tunneld_tests::daemon::Daemon;
use tunneld_tests::home::Home;
use tunneld_tests::keys;
use tunneld_tests::process::run_tool;
use tunneld_tests::sshd::{self, Sshd};
use tunneld_tests::wait::LONG;

use crate::fixture::without_key;

/// The content of known_hosts files. Placeholders: `HOST` is the server's address and port, `HASHED` the same hashed,
/// `KEY` the server's key, `OTHER` and `RSA` are keys that it does not have. `====` begins a second file.
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
    // Invalid lines.
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

/// The same with HostKeyAlias; `ALIAS` is the alias.
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

/// The same for a server whose host certificate is signed by `CA`.
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
/// The files that every unusual certificate is tested with.
const ODD: &[&str] = &["@cert-authority * CA", "@cert-authority * CA\nHOST KEY"];
/// The additional options of `ssh-keygen` for a certificate, and the files that it is tested with. Without certificates that
/// have a pattern as principal, or none: tunneld judges them as OpenSSH 10.3 does, and older versions differ.
const CERTIFICATES: &[(&[&str], &[&str])] = &[
    (&["-n", "127.0.0.1"], CERTIFIED),
    (&["-n", "other.example,127.0.0.1"], ODD),
    (&["-n", "other.example"], ODD),
    (&["-n", "[127.0.0.1]:22"], ODD),
    (&["-n", "127.0.0.1", "-V", "20010101:20020101"], ODD),
    (&["-n", "127.0.0.1", "-V", "20900101:20910101"], ODD),
    (&["-n", "127.0.0.1", "-O", "critical:unheard-of=1"], ODD),
    (&["-n", "127.0.0.1", "-O", "extension:unheard-of=1"], ODD),
];

/// One set of known_hosts files, and the tunnel that uses it.
struct Case {
    /// For error messages.
    description: String,
    files: Vec<PathBuf>,
    alias: bool,
    port: u16,
    tunnel: String,
}

/// All cases. Case number N is the tunnel `tN`.
struct Corpus {
    home: Home,
    ca: String,
    other: String,
    rsa: String,
    cases: Vec<Case>,
}

/// The type and key of a public key file, without the comment.
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

    /// Adds one case for each of `entries`, for this server.
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
            let tunnel = server.tunnel_toml(&format!("t{n}"))?;
            let mut tunnel = without_key(&tunnel, "user_known_hosts_file");
            tunnel += &format!("user_known_hosts_file = [{}]\n", list.join(", "));
            if alias {
                tunnel += "host_key_alias = \"alias.EXAMPLE\"\n";
            }
            self.cases.push(Case {
                description: format!("{entry:?}{note}"),
                files,
                alias,
                port: server.port(),
                tunnel,
            });
        }
        Ok(())
    }

    /// The name hashed by `ssh-keygen -H`.
    async fn hashed(&self, host: &str) -> Result<String> {
        let path = self.home.path("hashed");
        // ssh-keygen hashes the names of a whole file.
        std::fs::write(&path, format!("{host} {}\n", self.other))?;
        let file = path.to_str().context("UTF-8")?;
        run_tool("ssh-keygen", &["-q", "-H", "-f", file]).await?;
        let text = std::fs::read_to_string(&path)?;
        Ok(text.split(' ').next().context("a name")?.to_owned())
    }

    /// Starts a server whose host certificate is made with these options of `ssh-keygen`.
    async fn start_certified(&self, options: &[&str]) -> Result<Sshd> {
        let mut server = Sshd::start().await?;
        let key = server.host_key("ed25519").display().to_string();
        let ca = self.home.path("ca").display().to_string();
        let mut args = vec!["-q", "-s", &ca, "-I", "host", "-h"];
        args.extend(options);
        args.push(&key);
        run_tool("ssh-keygen", &args).await?;
        let certificate = server.dir().join("host_ed25519-cert.pub");
        server.stop().await?;
        let line = format!("HostCertificate {}", certificate.display());
        server.options_mut().config_lines.push(line);
        server.start_again().await?;
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
    for (options, entries) in CERTIFICATES {
        let server = corpus.start_certified(options).await?;
        let note = format!(" certified with {options:?}");
        corpus.add(&server, entries, false, &note).await?;
        certified.push(server);
    }
    let tunnels = corpus.cases.iter().map(|case| case.tunnel.as_str());
    corpus.home.write("t.toml", &tunnels.collect::<String>())?;
    let daemon = Daemon::start(&corpus.home).await?;
    let mut theirs = JoinSet::new();
    // Few at once: the daemon connects to the same servers at the same time.
    let permits = std::sync::Arc::new(tokio::sync::Semaphore::new(4));
    for (n, case) in corpus.cases.iter().enumerate() {
        let (command, permits) = (openssh(case)?, permits.clone());
        theirs.spawn(async move {
            let _permit = permits.acquire().await?;
            openssh_trusts(command).await.map(|trusts| (n, trusts))
        });
    }
    let mut trusted = vec![false; corpus.cases.len()];
    while let Some(done) = theirs.join_next().await {
        let (n, trusts) = done??;
        trusted[n] = trusts;
    }
    let mut watch = daemon.watch().await?;
    let mut differ = Vec::new();
    for (n, (case, theirs)) in corpus.cases.iter().zip(trusted).enumerate() {
        let settled = |tunnel: &TunnelStatus| matches!(tunnel.state, State::Up | State::Failed);
        let ours = watch.until(&format!("t{n}"), LONG, settled).await?;
        if (ours.state == State::Up) != theirs {
            let error = ours.last_error.map(|error| error.message);
            let case = &case.description;
            differ.push(format!("{case}: ssh trusts: {theirs}, tunneld: {error:?}"));
        }
    }
    assert!(differ.is_empty(), "{differ:#?}");
    Ok(())
}

/// The command that runs the real ssh with the files of a case.
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
        // The host key decides, not the login: sshd refuses the method `none`.
        "PreferredAuthentications=none",
        &format!("UserKnownHostsFile={}", files.join(" ")),
    ] {
        command.args(["-o", option]);
    }
    command.args(["-p", &case.port.to_string()]);
    command
        .arg(format!("{}@127.0.0.1", sshd::current_user()?))
        .arg("true");
    Ok(command)
}

/// Whether ssh trusted the host: then it got as far as the login, which fails. Any other output is an error.
async fn openssh_trusts(mut command: Command) -> Result<bool> {
    let output = command.output().await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let trusted = stderr.contains("Permission denied");
    let refused =
        stderr.contains("Host key verification failed") || stderr.contains("has been revoked");
    anyhow::ensure!(trusted != refused, "unexpected output of ssh: {stderr}");
    Ok(trusted)
}
