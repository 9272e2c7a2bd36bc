//! EMR and Session Manager, with a program of the name `aws`.

use anyhow::{Context, Result};
use tunneld_proto::status::{ForwardKind, State, TunnelStatus};
use tunneld_tests::daemon::{Daemon, listen};
use tunneld_tests::home::Home;
use tunneld_tests::sshd::{Sshd, user};
use tunneld_tests::target::{Manner, Target};
use tunneld_tests::wait::{LONG, within};
use tunneld_tests::{keys, payload, process};

use super::{alive, block, gone, means, program, start, with};
use crate::fixture::{renewed, tcp};

/// Whether the last error holds these words.
fn says(words: &str) -> impl Fn(&TunnelStatus) -> bool + '_ {
    move |tunnel| {
        let error = tunnel.last_error.as_ref();
        tunnel.state == State::Waiting && error.is_some_and(|error| error.message.contains(words))
    }
}

const DESCRIBE: &str = "[ \"$*\" = 'emr describe-cluster --cluster-id j-2AL4XXXXXX5T9 --query Cluster.MasterPublicDnsName --output text' ] || { echo \"fake aws: $*\" >&2; exit 252; }
read -r said <cluster
[ \"$said\" != fails ] || { echo 'An error occurred (ThrottlingException) when calling the DescribeCluster operation' >&2; exit 254; }
echo \"$said\"
";

#[tokio::test]
async fn emr_waits_for_the_cluster_and_forwards_curl() -> Result<()> {
    let server = Sshd::start().await?;
    let page = Target::start(Manner::Http("all applications\n".into())).await?;
    let home = Home::new()?;
    program(&home, "aws", DESCRIBE)?;
    let cluster = |said: &str| std::fs::write(home.path("cluster"), format!("{said}\n"));
    cluster("fails")?;
    let text = block("emr.md", "toml", "host_command")?;
    let text = with(
        &text,
        "user = \"hadoop\"",
        &format!("user = \"{}\"", user()?),
    );
    let text = with(&text, "identity_file = \"~/mykeypair.pem\"\n", "");
    let text = with(&text, "dynamic_forward = 8157", "dynamic_forward = 0");
    let text = with(&text, "\"8088 ", "\"0 ");
    let text = with(&text, "\"18080 ", "\"0 ");
    let login = means(&server.tunnel("emr")?);
    home.write(
        "emr.toml",
        &format!("{text}port = {}\n{login}", server.port()),
    )?;

    let daemon = start(&home).await?;
    let tunnel = daemon
        .wait_for("emr", LONG, says("ThrottlingException"))
        .await?;
    let error = tunnel.last_error.context("an error")?;
    assert_eq!(error.kind.as_str(), "host_command", "{error:?}");
    cluster("None")?;
    let tunnel = daemon.wait_for("emr", LONG, says("None")).await?;
    let error = tunnel.last_error.context("an error")?;
    assert_eq!(error.kind.as_str(), "host_command", "{error:?}");
    cluster("127.0.0.1")?;
    let tunnel = daemon.wait_up("emr").await?;

    let proxy = format!("socks5h://{}", listen(&tunnel, ForwardKind::Dynamic)?);
    let url = format!("http://localhost:{}/cluster", page.port());
    let got = keys::run("curl", &["-sS", "-m", "20", "--proxy", &proxy, &url]).await?;
    assert_eq!(got, "all applications\n");
    Ok(())
}

/// `aws ssm start-session`: its plugin is a child that pipes to the server, and ends with 0 whatever happens. The
/// folder holds what the test says (`expired`, `closed`, `lingers`) and what it wants to know (`aws`, `plugin`).
fn session_manager(port: u16) -> String {
    format!(
        "[ \"$*\" = 'ssm start-session --target i-0123456789abcdef0 --document-name AWS-StartSSHSession --parameters portNumber=22' ] || {{ echo \"fake aws: $*\" >&2; exit 0; }}
while [ -e closed ]; do sleep 0.05; done
if [ -e expired ]; then
    echo >&2
    echo 'An error occurred (ExpiredTokenException) when calling the StartSession operation: The security token included in the request is expired' >&2
    exit 0
fi
exec 3<&0
sh -c '
printf \"\\nStarting session with SessionId: x-0123\\n\\n\"
socat - TCP:127.0.0.1:{port}
[ ! -e lingers ] || exec sleep 600
printf \"\\n\\nExiting session with sessionId: x-0123.\\n\\n\"
' <&3 3<&- &
echo $! >plugin
echo $$ >aws
wait
exit 0
"
    )
}

async fn ssm(server: &Sshd, forward: &str) -> Result<(Home, Daemon)> {
    let home = Home::new()?;
    program(&home, "aws", &session_manager(server.port()))?;
    let text = block("session-manager.md", "toml", "proxy_command")?;
    let host = format!("{}@i-0123456789abcdef0", user()?);
    let text = with(&text, "ec2-user@i-0123456789abcdef0", &host);
    let text = with(&text, "identity_file = \"~/mykeypair.pem\"\n", "");
    let text = with(
        &text,
        "\"5432 db.internal:5432\"",
        &format!("\"0 {forward}\""),
    );
    let known = home.path("known_hosts");
    let line = server.known_hosts_at(server.port())?;
    let line = line.replace(
        &format!("[127.0.0.1]:{}", server.port()),
        "i-0123456789abcdef0",
    );
    std::fs::write(&known, line)?;
    let (key, known) = (server.user_key(), known.display().to_string());
    home.write(
        "ssm.toml",
        &format!(
            "{text}identity_file = \"{}\"\nuser_known_hosts_file = \"{known}\"\n",
            key.display()
        ),
    )?;
    let daemon = start(&home).await?;
    Ok((home, daemon))
}

fn pid(home: &Home, name: &str) -> Result<u32> {
    Ok(std::fs::read_to_string(home.path(name))?.trim().parse()?)
}

#[tokio::test]
async fn session_manager_reconnects_and_holds_connections() -> Result<()> {
    let server = Sshd::start().await?;
    let target = Target::echo().await?;
    let (home, daemon) = ssm(&server, &format!("127.0.0.1:{}", target.port())).await?;
    let before = daemon.wait_up("ssm").await?;
    let addr = listen(&before, ForwardKind::Local)?;
    payload::ping(&mut tcp(addr).await?, b"first").await?;
    let greeting = "Starting session with SessionId: x-0123";
    daemon.log().wait(greeting, LONG).await?;

    std::fs::write(home.path("closed"), "")?;
    server.kill_sessions()?;
    let away = |tunnel: &TunnelStatus| tunnel.state != State::Up;
    let tunnel = daemon.wait_for("ssm", LONG, away).await?;
    let error = tunnel.last_error.context("an error")?;
    assert_eq!(error.kind.as_str(), "proxy", "{error:?}");
    let mut stream = tcp(addr).await?;
    let held = |tunnel: &TunnelStatus| tunnel.forwards[0].held == 1;
    daemon.wait_for("ssm", LONG, held).await?;
    std::fs::remove_file(home.path("closed"))?;
    within(LONG, "the held echo", payload::ping(&mut stream, b"held")).await??;
    daemon.wait_for("ssm", LONG, renewed(&before)).await?;
    Ok(())
}

#[tokio::test]
async fn session_manager_leaves_no_plugin_process() -> Result<()> {
    let server = Sshd::start().await?;
    let target = Target::echo().await?;
    let (home, daemon) = ssm(&server, &format!("127.0.0.1:{}", target.port())).await?;
    let tunnel = daemon.wait_up("ssm").await?;
    let (aws, plugin) = (pid(&home, "aws")?, pid(&home, "plugin")?);
    std::fs::write(home.path("lingers"), "")?;
    let pipes = process::descendants(plugin);
    assert!(!pipes.is_empty(), "the plugin has no child");
    process::signal(aws, rustix::process::Signal::KILL)?;
    gone(&[aws]).await?;
    let addr = listen(&tunnel, ForwardKind::Local)?;
    payload::ping(&mut tcp(addr).await?, b"the plugin goes on").await?;
    assert!(alive(plugin));
    home.ctl(&["down", "ssm"]).await?.expect(0)?;
    gone(&[plugin]).await?;
    gone(&pipes).await
}

#[tokio::test]
async fn expired_credentials_are_reported_in_the_words_of_aws() -> Result<()> {
    let server = Sshd::start().await?;
    let (home, daemon) = ssm(&server, "127.0.0.1:9").await?;
    let before = daemon.wait_up("ssm").await?;
    std::fs::write(home.path("expired"), "")?;
    server.kill_sessions()?;
    let tunnel = daemon.wait_for("ssm", LONG, says("ExpiredToken")).await?;
    let error = tunnel.last_error.context("an error")?;
    assert_eq!(error.kind.as_str(), "proxy", "{error:?}");
    let hint = error.hint.clone().context("a hint")?;
    let said = home.ctl(&["status", "ssm"]).await?;
    assert!(said.stdout.contains("security token included"), "{said:#?}");
    assert!(said.stdout.contains(&hint), "{said:#?}");
    assert!(hint.contains("proxy_command"), "{hint}");
    std::fs::remove_file(home.path("expired"))?;
    daemon.wait_for("ssm", LONG, renewed(&before)).await?;
    Ok(())
}
