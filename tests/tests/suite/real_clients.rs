//! Programs as people run them, by `tunnelctl exec` with nothing else set up, to a far side whose name only the server
//! resolves. docs/compatibility.md has a table of what each does with the variables.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tunneld_tests::ctl::ProgramOutput;
use tunneld_tests::nginx::{NAME, Nginx};
use tunneld_tests::process::{bind_mount_prefix, run_tool};
use tunneld_tests::sshd::{Sshd, SshdOptions};

use crate::fixture::Fixture;

mod apt;
mod compiled;
mod databases;
mod git;
mod node;
mod python;

/// A web site that only the SSH server finds by its name, and the tunnel `t` to that server.
struct FarSite {
    nginx: Nginx,
    fixture: Fixture,
    folder: tempfile::TempDir,
}

impl FarSite {
    /// `None` if the user has chosen to skip the tests that need root.
    async fn start() -> Result<Option<Self>> {
        Self::start_with("").await
    }

    /// Same as [`Self::start`], with these additional lines of the tunnel.
    async fn start_with(lines: &str) -> Result<Option<Self>> {
        if !tunneld_tests::root::available("give the SSH server an /etc/hosts of its own")? {
            return Ok(None);
        }
        let folder = tempfile::tempdir()?;
        // Programs that run as an ordinary user use it too.
        rustix::fs::chmod(folder.path(), 0o755.into())?;
        let hosts = folder.path().join("hosts");
        std::fs::write(&hosts, format!("127.0.0.1 localhost {NAME}\n"))?;
        let server = Sshd::start_with(SshdOptions {
            command_prefix: bind_mount_prefix(&[(hosts, "/etc/hosts")]),
            ..SshdOptions::default()
        })
        .await?;
        let nginx = Nginx::start().await?;
        std::fs::write(nginx.root().join("page"), "far page")?;
        let (fixture, _) = Fixture::up_on(server, &format!("dynamic_forward = 0\n{lines}")).await?;
        Ok(Some(Self {
            nginx,
            fixture,
            folder,
        }))
    }

    fn http_url(&self) -> String {
        format!("http://{NAME}:{}", self.nginx.port())
    }

    fn https_url(&self) -> String {
        format!("https://{NAME}:{}", self.nginx.tls_port())
    }

    /// Runs a program by `exec`. The variables are added to its environment.
    async fn exec(&self, variables: &[(&str, &str)], argv: &[&str]) -> Result<ProgramOutput> {
        let variables: Vec<String> = variables
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let variables: Vec<&str> = variables.iter().map(String::as_str).collect();
        let argv = [&["exec", "t", "--", "env"], &variables[..], argv].concat();
        self.fixture.home.ctl(&argv).await
    }

    /// The certificate of the site, for clients that have a variable or an option for it.
    fn certificate(&self) -> String {
        self.nginx.certificate().display().to_string()
    }

    /// A file of the lab's own.
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.path(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    }
}

#[tokio::test]
async fn the_far_site_is_found_through_the_tunnel_alone() -> Result<()> {
    let Some(site) = FarSite::start().await? else {
        return Ok(());
    };
    let url = site.http_url() + "/page";
    let fetch = ["curl", "-sS", "-m", "15", &url];
    let through = site.exec(&[], &fetch).await?.expect_exit(0)?;
    assert_eq!(through.stdout, "far page");
    let direct = [&["--noproxy", "*"], &fetch[1..]].concat();
    let error = run_tool("curl", &direct)
        .await
        .expect_err("no such name here");
    assert!(error.to_string().contains("resolve host"), "{error}");
    Ok(())
}

#[tokio::test]
async fn programs_log_in_with_the_password_that_exec_gives_them() -> Result<()> {
    let lines =
        "proxy_user = \"alice\"\nproxy_user_password_command = [\"echo\", \"p@ss:w/d %41\"]";
    let Some(site) = FarSite::start_with(lines).await? else {
        return Ok(());
    };
    let (http, https) = (site.http_url() + "/page", site.https_url() + "/page");
    let certificate = site.certificate();
    let script = format!(
        "export SSL_CERT_FILE={certificate} REQUESTS_CA_BUNDLE={certificate}\n\
         curl -sSf {http} {https} && wget -qO- {http}\n\
         /usr/bin/python3 -c 'import sys, urllib.request, requests\n\
         for url in sys.argv[1:]: print(urllib.request.urlopen(url).read().decode(), requests.get(url).text)' {http} {https}"
    );
    let argv = [
        "exec",
        "t",
        "--with-proxy-password",
        "--",
        "sh",
        "-ec",
        &script,
    ];
    let printed = site.fixture.home.ctl(&argv).await?.expect_exit(0)?;
    let expected = "far page".repeat(3) + &"far page far page\n".repeat(2);
    assert_eq!(printed.stdout, expected);
    Ok(())
}

/// Whether the large programs are installed and are to be tried: `tests/run --all-clients`.
fn all_clients(what: &str) -> bool {
    let wanted = std::env::var_os("TUNNELD_TESTS_ALL_CLIENTS").is_some_and(|value| value == "1");
    if !wanted {
        eprintln!("SKIPPED: {what} is tried by tests/run --all-clients");
    }
    wanted
}

async fn shell_in(folder: &Path, script: &str) -> Result<String> {
    let script = format!("cd {} && {script}", folder.display());
    run_tool("sh", &["-ec", &script]).await
}
