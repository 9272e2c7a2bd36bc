//! A dynamic forward with `proxy_user`: SOCKS5 and HTTP clients must log in, for each tunnel with its own password.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tunneld_proto::status::{ForwardKind, TunnelStatus};
use tunneld_tests::chromium;
use tunneld_tests::daemon::listen_addr;
use tunneld_tests::process::run_tool;
use tunneld_tests::socks::{self, Destination};
use tunneld_tests::sshd::Sshd;
use tunneld_tests::target::{Target, TargetBehavior};
use tunneld_tests::wait::LONG;

use crate::fixture::{Fixture, forward_of};

const PASSWORD: &str = "pass word:1";

/// The lines of a tunnel whose proxy has the user `alice`. The command counts its runs in `folder` and prints the file
/// `password` there.
fn protected(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "dynamic_forward = 0\nproxy_user = \"alice\"\n\
         proxy_user_password_command = [\"sh\", \"-c\", \"echo run >>{folder}/runs; cat {folder}/password\"]"
    )
}

struct Lab {
    fixture: Fixture,
    tunnel: TunnelStatus,
    proxy: SocketAddr,
    folder: tempfile::TempDir,
    target: Target,
}

impl Lab {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::write(
            folder.path().join("password"),
            format!("{PASSWORD}\nsecond line\n"),
        )?;
        let target = Target::start(TargetBehavior::HttpResponse("through".into())).await?;
        let (fixture, tunnel) = Fixture::up(&protected(folder.path())).await?;
        let proxy = listen_addr(&tunnel, ForwardKind::Dynamic)?;
        Ok(Self {
            fixture,
            tunnel,
            proxy,
            folder,
            target,
        })
    }

    /// Runs curl and returns its body and the status codes: of the response, and of the one to CONNECT.
    async fn curl(&self, scheme: &str, login: Option<&str>, more: &[&str]) -> Result<String> {
        let proxy = format!("{scheme}://{}", self.proxy);
        let url = format!("http://127.0.0.1:{}/", self.target.port());
        let mut args = vec!["-s", "--noproxy", "", "-m", "20", "-x", &proxy, &url];
        args.extend(["-o", "-", "-w", " %{http_code} %{http_connect} %{exitcode}"]);
        if let Some(login) = login {
            args.extend(["--proxy-user", login]);
        }
        args.extend(more);
        // curl fails where a login is refused; its exit code is in the text.
        let script = [&["-c", "curl \"$@\" || true", "curl"][..], &args].concat();
        run_tool("sh", &script).await
    }

    fn runs(&self) -> Result<usize> {
        let runs = std::fs::read_to_string(self.folder.path().join("runs"));
        Ok(runs.unwrap_or_default().lines().count())
    }

    async fn refusal(&self) -> Result<String> {
        let status = self.fixture.daemon.status("t").await?;
        let forward = forward_of(&status, ForwardKind::Dynamic).context("no forward")?;
        Ok(forward
            .refused
            .as_ref()
            .map(|refused| refused.message.clone())
            .unwrap_or_default())
    }
}

#[tokio::test]
async fn http_clients_must_log_in_and_the_origin_sees_no_login() -> Result<()> {
    let mut lab = Lab::start().await?;
    let right = format!("alice:{PASSWORD}");
    let text = lab.curl("http", None, &["-D", "-"]).await?;
    assert!(text.starts_with("HTTP/1.1 407"), "{text}");
    assert!(
        text.contains("Proxy-Authenticate: Basic realm=\"tunneld t\"\r\n")
            || text.contains("proxy-authenticate: Basic realm=\"tunneld t\"\r\n"),
        "{text}"
    );
    assert_eq!(lab.runs()?, 0, "nobody has sent a password yet");
    for wrong in [
        "alice:wrong",
        "bob:pass word:1",
        "alice:",
        "alice:pass word:12",
    ] {
        let text = lab.curl("http", Some(wrong), &[]).await?;
        assert!(text.ends_with(" 407 000 0"), "{wrong}: {text}");
        let text = lab.curl("http", Some(wrong), &["-p"]).await?;
        assert!(text.ends_with(" 000 407 56"), "{wrong}: {text}");
    }
    assert_eq!(lab.target.accepted(), 0);
    assert!(
        lab.refusal().await?.contains("proxy_user"),
        "{}",
        lab.refusal().await?
    );
    let text = lab.curl("http", Some(&right), &[]).await?;
    assert_eq!(text, "through 200 000 0");
    let seen = lab.target.next_end(LONG).await?.received;
    let seen = String::from_utf8(seen)?.to_ascii_lowercase();
    assert!(!seen.contains("authorization"), "{seen}");
    assert_eq!(
        lab.curl("http", Some(&right), &["-p"]).await?,
        "through 200 200 0"
    );
    // A body is not lost with a refusal, and a client that asks first sends it once.
    let post = lab
        .curl("http", Some(&right), &["--proxy-anyauth", "-d", "body"])
        .await?;
    assert_eq!(post, "through 200 000 0");
    // The same for CONNECT: the second request follows on the connection of the refused one.
    let connect = lab
        .curl("http", Some(&right), &["--proxy-anyauth", "-p"])
        .await?;
    assert_eq!(connect, "through 200 200 0");
    assert_eq!(lab.runs()?, 1, "the password is read once");
    let body = lab.folder.path().join("body");
    std::fs::write(&body, vec![b'x'; 3 << 20])?;
    let data = format!("@{}", body.display());
    let more = ["-H", "Expect:", "--data-binary", &data];
    let text = lab.curl("http", Some("alice:wrong"), &more).await?;
    assert!(text.contains(" 407 "), "{text}");
    Ok(())
}

#[tokio::test]
async fn socks5_clients_must_log_in_and_socks4_is_refused() -> Result<()> {
    let lab = Lab::start().await?;
    let right = format!("alice:{PASSWORD}");
    assert_eq!(
        lab.curl("socks5h", Some(&right), &[]).await?,
        "through 200 000 0"
    );
    for wrong in ["alice:wrong", "bob:pass word:1", "alice:"] {
        let text = lab.curl("socks5h", Some(wrong), &[]).await?;
        assert!(text.ends_with(" 000 000 97"), "{wrong}: {text}");
    }
    let exchange = async |request: &[u8]| -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect(lab.proxy).await?;
        stream.write_all(request).await?;
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).await?;
        Ok(reply)
    };
    // No login offered; a wrong login and everything else at once; a login of another version.
    assert_eq!(exchange(&[5, 1, 0]).await?, [5, 0xff]);
    let sent = b"\x05\x02\x00\x02\x01\x05alice\x01x\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x01";
    assert_eq!(exchange(sent).await?, [5, 2, 1, 1]);
    assert_eq!(exchange(&[5, 1, 2, 5, 1, 97, 1, 97]).await?, [5, 2]);
    // SOCKS4 has a user name and no password.
    let socks4 = b"\x04\x01\x00\x50\x7f\x00\x00\x01alice\x00";
    assert_eq!(exchange(socks4).await?, [0, 91, 0, 0, 0, 0, 0, 0]);
    assert!(
        lab.refusal().await?.contains("sent no login"),
        "{}",
        lab.refusal().await?
    );
    Ok(())
}

#[tokio::test]
async fn chromium_asks_for_the_login_and_sends_it() -> Result<()> {
    let lab = Lab::start().await?;
    let proxy = lab.proxy.to_string();
    let url = format!("http://127.0.0.1:{}/", lab.target.port());
    let found = chromium::text_with_login(&proxy, ("alice", PASSWORD), &url).await?;
    let asked = "Proxy basic tunneld t".to_owned();
    assert_eq!(found, (asked, "through".to_owned()));
    // This Chromium has no window in which to ask.
    let folder = tempfile::tempdir()?;
    let program = chromium::write_program(folder.path())?
        .display()
        .to_string();
    let args = [
        "browse",
        "t",
        &url,
        "--far-localhost",
        "--browser",
        &program,
    ];
    let output = lab.fixture.home.ctl(&args).await?.expect_exit(0)?;
    assert!(
        output.stderr.contains("the user name is alice"),
        "{output:#?}"
    );
    Ok(())
}

#[tokio::test]
async fn the_pages_of_the_proxy_itself_need_no_login() -> Result<()> {
    let lab = Lab::start().await?;
    for path in ["proxy.pac", ""] {
        let url = format!("http://{}/{path}", lab.proxy);
        run_tool("curl", &["-sS", "-f", "--noproxy", "*", &url]).await?;
    }
    assert_eq!(lab.runs()?, 0);
    Ok(())
}

#[tokio::test]
async fn a_reload_reads_the_password_again() -> Result<()> {
    let lab = Lab::start().await?;
    let right = format!("alice:{PASSWORD}");
    assert!(
        lab.curl("http", Some(&right), &[])
            .await?
            .starts_with("through")
    );
    std::fs::write(lab.folder.path().join("password"), "new\n")?;
    assert!(
        lab.curl("http", Some(&right), &[])
            .await?
            .starts_with("through")
    );
    lab.fixture.home.ctl(&["reload"]).await?.expect_exit(0)?;
    assert!(lab.curl("http", Some(&right), &[]).await?.contains(" 407 "));
    assert!(
        lab.curl("socks5h", Some("alice:new"), &[])
            .await?
            .starts_with("through")
    );
    assert_eq!(lab.runs()?, 2);
    let since = lab.tunnel.session.as_ref().map(|session| session.since);
    let status = lab.fixture.daemon.status("t").await?;
    assert_eq!(
        status.session.map(|session| session.since),
        since,
        "the session stays"
    );
    Ok(())
}

#[tokio::test]
async fn the_login_can_be_turned_off_and_on_while_the_session_stays() -> Result<()> {
    let lab = Lab::start().await?;
    let listen = format!("dynamic_forward = {}", lab.proxy.port());
    let reload = async |lines: &str| -> Result<()> {
        lab.fixture.rewrite_tunnel(lines)?;
        lab.fixture.home.ctl(&["reload"]).await?.expect_exit(0)?;
        Ok(())
    };
    reload(&listen).await?;
    assert_eq!(lab.curl("socks4a", None, &[]).await?, "through 200 000 0");
    let with_login = protected(lab.folder.path()).replace("dynamic_forward = 0", &listen);
    reload(&with_login).await?;
    assert!(lab.curl("http", None, &[]).await?.contains(" 407 "));
    let status = lab.fixture.daemon.status("t").await?;
    let since = lab.tunnel.session.as_ref().map(|session| session.since);
    assert_eq!(status.session.map(|session| session.since), since);
    assert_eq!(status.proxy_user.as_deref(), Some("alice"));
    Ok(())
}

#[tokio::test]
async fn clients_that_log_in_together_wait_for_one_run_of_the_command() -> Result<()> {
    let lab = Lab::start().await?;
    let file = lab.folder.path().join("password");
    std::fs::remove_file(&file)?;
    let path = file.display().to_string();
    run_tool("mkfifo", &[&path]).await?;
    let login = format!("alice:{PASSWORD}");
    let socks = lab.curl("socks5h", Some(&login), &[]);
    let http = lab.curl("http", Some(&login), &[]);
    // Opening a FIFO for writing waits for the command that reads it.
    let line = format!("printf '%s\\n' '{PASSWORD}' >{path}");
    let args = ["-c", line.as_str()];
    let (socks, http, written) = tokio::join!(socks, http, run_tool("sh", &args));
    written?;
    assert_eq!([socks?, http?], ["through 200 000 0", "through 200 000 0"]);
    assert_eq!(lab.runs()?, 1);
    Ok(())
}

#[tokio::test]
async fn a_login_is_refused_and_explained_while_the_command_fails() -> Result<()> {
    let lab = Lab::start().await?;
    std::fs::remove_file(lab.folder.path().join("password"))?;
    let text = lab.curl("http", Some("alice:"), &[]).await?;
    assert!(text.contains(" 503 "), "{text}");
    assert!(
        text.contains("tunnelctl status t") && !text.contains("No such file"),
        "{text}"
    );
    let text = lab.curl("socks5h", Some("alice:"), &[]).await?;
    assert!(text.ends_with(" 97"), "{text}");
    let refusal = lab.refusal().await?;
    assert!(
        refusal.contains("proxy_user_password_command") && refusal.contains("No such file"),
        "{refusal}"
    );
    lab.fixture
        .daemon
        .log()
        .wait("proxy_user_password_command", LONG)
        .await?;
    assert_eq!(lab.runs()?, 1, "clients cannot make it run at any rate");
    Ok(())
}

#[tokio::test]
async fn reverse_socks_of_the_same_tunnel_needs_no_login() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let target = Target::start(TargetBehavior::Echo).await?;
    let lines = format!(
        "{}\nremote_forward = \"127.0.0.1:0\"",
        protected(folder.path())
    );
    let (_fixture, tunnel) = Fixture::up_on(Sshd::start().await?, &lines).await?;
    let socks = listen_addr(&tunnel, ForwardKind::Remote)?;
    let dest = Destination::Ip(target.addr().ip());
    let stream = socks::connect_v5(socks, &dest, target.port()).await?;
    assert!(stream.is_ok(), "{stream:?}");
    Ok(())
}

#[tokio::test]
async fn env_and_exec_give_the_password_only_to_a_program_that_is_to_have_it() -> Result<()> {
    let lab = Lab::start().await?;
    let home = &lab.fixture.home;
    let output = home.ctl(&["env", "t"]).await?.expect_exit(0)?;
    let line = format!("export https_proxy='http://alice@{}'\n", lab.proxy);
    assert!(output.stdout.contains(&line), "{output:#?}");
    assert!(
        output.stderr.contains("proxy_user_password_command"),
        "{output:#?}"
    );
    let script = format!(
        "no_proxy= NO_PROXY= curl -s -w '%{{http_code}}' http://127.0.0.1:{}/",
        lab.target.port()
    );
    let output = home
        .ctl(&["exec", "t", "--", "sh", "-c", &script])
        .await?
        .expect_exit(0)?;
    assert!(output.stdout.ends_with("407"), "{output:#?}");
    assert!(
        output.stderr.contains("--with-proxy-password"),
        "{output:#?}"
    );
    let args = [
        "exec",
        "t",
        "--with-proxy-password",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let output = home.ctl(&args).await?.expect_exit(0)?;
    assert_eq!(output.stdout, "through200");
    assert!(!output.stderr.contains("password"), "{output:#?}");
    let log = lab.fixture.daemon.log().text();
    assert!(!log.contains("pass word"), "{log}");
    Ok(())
}
