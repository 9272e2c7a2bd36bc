//! The recipes for EMR and Session Manager, with shell scripts named `aws`.

use anyhow::{Context, Result};
use tunneld_proto::status::{ForwardKind, State, TunnelStatus};
use tunneld_tests::daemon::{Daemon, listen_addr};
use tunneld_tests::home::Home;
use tunneld_tests::process::run_tool;
use tunneld_tests::sshd::{Sshd, current_user};
use tunneld_tests::target::{Target, TargetBehavior};
use tunneld_tests::wait::{LONG, within};
use tunneld_tests::{payload, process};

use super::{add_program, block, credentials, start, with};
use crate::fixture::{is_waiting, reconnected_since, tcp};

/// Whether the tunnel waits after an error that contains `text`.
fn waits_after(text: &str) -> impl Fn(&TunnelStatus) -> bool + '_ {
    move |tunnel| {
        let error = tunnel.last_error.as_ref();
        is_waiting(tunnel) && error.is_some_and(|error| error.message.contains(text))
    }
}

/// `aws emr describe-cluster`: prints the content of the file `cluster`, or fails if that is `fails`.
const DESCRIBE: &str = "[ \"$*\" = 'emr describe-cluster --cluster-id j-2AL4XXXXXX5T9 --query Cluster.MasterPublicDnsName --output text' ] || { echo \"fake aws: $*\" >&2; exit 252; }
read -r cluster <cluster
[ \"$cluster\" != fails ] || { echo 'An error occurred (ThrottlingException) when calling the DescribeCluster operation' >&2; exit 254; }
echo \"$cluster\"
";

#[tokio::test]
async fn emr_waits_for_the_cluster_and_forwards_curl() -> Result<()> {
    let server = Sshd::start().await?;
    let page = Target::start(TargetBehavior::HttpResponse("all applications\n".into())).await?;
    let home = Home::new()?;
    add_program(&home, "aws", DESCRIBE)?;
    let set_cluster = |text: &str| std::fs::write(home.path("cluster"), format!("{text}\n"));
    set_cluster("fails")?;
    let text = block("emr.md", "toml", "host_command")?;
    let text = with(
        &text,
        "user = \"hadoop\"",
        &format!("user = \"{}\"", current_user()?),
    );
    let text = with(&text, "identity_file = \"~/mykeypair.pem\"\n", "");
    let text = with(&text, "dynamic_forward = 8157", "dynamic_forward = 0");
    let text = with(&text, "\"8088 ", "\"0 ");
    let text = with(&text, "\"18080 ", "\"0 ");
    let login = credentials(&server.tunnel_toml("emr")?);
    home.write(
        "emr.toml",
        &format!("{text}port = {}\n{login}", server.port()),
    )?;

    let daemon = start(&home).await?;
    let tunnel = daemon
        .wait_for("emr", LONG, waits_after("ThrottlingException"))
        .await?;
    let error = tunnel.last_error.context("an error")?;
    assert_eq!(error.kind.as_str(), "host_command", "{error:?}");
    // What the real `aws` prints while the cluster has no master yet.
    set_cluster("None")?;
    let tunnel = daemon.wait_for("emr", LONG, waits_after("None")).await?;
    let error = tunnel.last_error.context("an error")?;
    assert_eq!(error.kind.as_str(), "host_command", "{error:?}");
    set_cluster("127.0.0.1")?;
    let tunnel = daemon.wait_up("emr").await?;

    let proxy = format!("socks5h://{}", listen_addr(&tunnel, ForwardKind::Dynamic)?);
    let url = format!("http://localhost:{}/cluster", page.port());
    let body = run_tool("curl", &["-sS", "-m", "20", "--proxy", &proxy, &url]).await?;
    assert_eq!(body, "all applications\n");
    Ok(())
}

/// `aws ssm start-session`, which starts its plugin as a child and exits with 0 in every case, as the real one does. The
/// plugin relays to the server on `port`.
///
/// Files in the home control it: with `closed` it waits, with `expired` it fails, with `lingers` the plugin keeps running after
/// the connection. It writes its process ids to `aws` and `plugin`.
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

/// Starts a daemon with the tunnel `ssm` of the recipe, to `server`; `to` is the target of its local forward.
async fn start_ssm(server: &Sshd, to: &str) -> Result<(Home, Daemon)> {
    let home = Home::new()?;
    add_program(&home, "aws", &session_manager(server.port()))?;
    let text = block("session-manager.md", "toml", "proxy_command")?;
    let host = format!("{}@i-0123456789abcdef0", current_user()?);
    let text = with(&text, "ec2-user@i-0123456789abcdef0", &host);
    let text = with(&text, "identity_file = \"~/mykeypair.pem\"\n", "");
    let text = with(&text, "\"5432 db.internal:5432\"", &format!("\"0 {to}\""));
    let known = home.path("known_hosts");
    let line = server.known_hosts_lines(server.port())?;
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

/// The process id in a file of the home.
fn read_pid(home: &Home, name: &str) -> Result<u32> {
    Ok(std::fs::read_to_string(home.path(name))?.trim().parse()?)
}

#[tokio::test]
async fn session_manager_reconnects_and_holds_connections() -> Result<()> {
    let server = Sshd::start().await?;
    let target = Target::echo().await?;
    let (home, daemon) = start_ssm(&server, &format!("127.0.0.1:{}", target.port())).await?;
    let before = daemon.wait_up("ssm").await?;
    let addr = listen_addr(&before, ForwardKind::Local)?;
    payload::ping(&mut tcp(addr).await?, b"first").await?;
    let greeting = "Starting session with SessionId: x-0123";
    daemon.log().wait(greeting, LONG).await?;

    // While the file `closed` exists, `aws` does not get further, so the tunnel stays down and holds connections.
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
    daemon
        .wait_for("ssm", LONG, reconnected_since(&before))
        .await?;
    Ok(())
}

#[tokio::test]
async fn session_manager_leaves_no_plugin_process() -> Result<()> {
    let server = Sshd::start().await?;
    let target = Target::echo().await?;
    let (home, daemon) = start_ssm(&server, &format!("127.0.0.1:{}", target.port())).await?;
    let tunnel = daemon.wait_up("ssm").await?;
    let (aws, plugin) = (read_pid(&home, "aws")?, read_pid(&home, "plugin")?);
    std::fs::write(home.path("lingers"), "")?;
    let children = process::descendants(plugin);
    assert!(!children.is_empty(), "the plugin has no child");
    process::signal(aws, rustix::process::Signal::KILL)?;
    process::wait_gone(&[aws]).await?;
    let addr = listen_addr(&tunnel, ForwardKind::Local)?;
    payload::ping(&mut tcp(addr).await?, b"the plugin still relays").await?;
    assert!(process::is_alive(plugin));
    home.ctl(&["down", "ssm"]).await?.expect_exit(0)?;
    process::wait_gone(&[plugin]).await?;
    process::wait_gone(&children).await
}

#[tokio::test]
async fn expired_credentials_are_reported_in_the_words_of_aws() -> Result<()> {
    let server = Sshd::start().await?;
    let (home, daemon) = start_ssm(&server, "127.0.0.1:9").await?;
    let before = daemon.wait_up("ssm").await?;
    std::fs::write(home.path("expired"), "")?;
    server.kill_sessions()?;
    let tunnel = daemon
        .wait_for("ssm", LONG, waits_after("ExpiredToken"))
        .await?;
    let error = tunnel.last_error.context("an error")?;
    assert_eq!(error.kind.as_str(), "proxy", "{error:?}");
    let hint = error.hint.clone().context("a hint")?;
    let output = home.ctl(&["status", "ssm"]).await?;
    assert!(
        output.stdout.contains("security token included"),
        "{output:#?}"
    );
    assert!(output.stdout.contains(&hint), "{output:#?}");
    assert!(hint.contains("proxy_command"), "{hint}");
    std::fs::remove_file(home.path("expired"))?;
    daemon
        .wait_for("ssm", LONG, reconnected_since(&before))
        .await?;
    Ok(())
}
