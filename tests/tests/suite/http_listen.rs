//! `[daemon] http_listen`: health checks, metrics and the PAC file for programs, and who may not read them.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tunneld_proto::status::ForwardKind;
use tunneld_tests::daemon::{Daemon, listen_addr};
use tunneld_tests::home::Home;
use tunneld_tests::process::run_tool;
use tunneld_tests::sshd::Sshd;
use tunneld_tests::target::Target;
use tunneld_tests::wait::{LONG, within};
use tunneld_tests::{payload, ports};

use crate::fixture::{local_forward_to, tcp};

/// What curl got: the status, and the body.
async fn get(url: &str, args: &[&str]) -> Result<(u16, String)> {
    let common = ["-s", "-m", "20", "-w", "\n%{http_code}", url];
    let output = run_tool("curl", &[&common, args].concat()).await?;
    let (body, code) = output.rsplit_once('\n').context("no status")?;
    Ok((code.parse()?, body.to_owned()))
}

/// Runs promtool's check over a text of metrics, and returns what it complains about.
async fn check_metrics(text: &str) -> Result<String> {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = promtool.stdin.take().context("no stdin")?;
    stdin.write_all(text.as_bytes()).await?;
    drop(stdin);
    let output = promtool.wait_with_output().await?;
    let complaints = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&complaints).into_owned())
}

/// A home with an http_listen, a tunnel `t` that comes up and one, `away`, that does not.
fn home_with(listen: &str, server: &Sshd, target: &Target) -> Result<Home> {
    let home = Home::new()?;
    home.write(
        "daemon.toml",
        &format!("[daemon]\nhttp_listen = {listen}\nmetrics = true\n"),
    )?;
    let forwards = local_forward_to(target) + "\ndynamic_forward = \"0\"\nproxy_for = \"*.far\"\n";
    home.write("t.toml", &(server.tunnel_toml("t")? + &forwards))?;
    let closed = ports::free()?;
    let away = format!("[tunnel.away]\nhost = \"u@127.0.0.1:{closed}\"\nssh_config = false\n");
    home.write("away.toml", &away)?;
    Ok(home)
}

#[tokio::test]
async fn health_pac_and_metrics_are_served_to_programs_and_to_no_web_site() -> Result<()> {
    let (server, target) = (Sshd::start().await?, Target::echo().await?);
    let port = ports::free()?;
    let home = home_with(&port.to_string(), &server, &target)?;
    let daemon = Daemon::start(&home).await?;
    let tunnel = daemon.wait_up("t").await?;
    let failed = |tunnel: &tunneld_proto::status::TunnelStatus| tunnel.last_error.is_some();
    daemon.wait_for("away", LONG, failed).await?;
    let mut stream = tcp(listen_addr(&tunnel, ForwardKind::Local)?).await?;
    payload::ping(&mut stream, b"12345678").await?;

    let url = |path: &str| format!("http://127.0.0.1:{port}{path}");
    assert_eq!(get(&url("/healthz"), &[]).await?, (200, "ok\n".to_owned()));
    let (code, text) = get(&url("/readyz"), &[]).await?;
    assert_eq!(code, 503);
    assert!(text.starts_with("not ready: away "), "{text}");
    assert_eq!(get(&url("/readyz/t"), &[]).await?, (200, "up\n".to_owned()));
    assert_eq!(get(&url("/readyz/away"), &[]).await?.0, 503);
    assert_eq!(get(&url("/readyz/none"), &[]).await?.0, 404);
    let (code, pac) = get(&url("/proxy.pac"), &[]).await?;
    assert!(code == 200 && pac.contains("FindProxyForURL"), "{pac}");

    let (code, metrics) = get(&url("/metrics"), &[]).await?;
    assert_eq!(code, 200);
    for line in [
        "tunneld_tunnel_up{tunnel=\"t\"} 1",
        "tunneld_tunnel_up{tunnel=\"away\"} 0",
        "tunneld_tunnel_wanted{tunnel=\"away\"} 1",
        "tunneld_tunnel_failures_total{tunnel=\"away\",reason=\"connect_refused\"} ",
        "tunneld_config_last_reload_successful 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let port_of = listen_addr(&tunnel, ForwardKind::Local)?.port();
    let sent =
        format!("tunneld_forward_sent_bytes_total{{tunnel=\"t\",forward=\"L {port_of}\"}} 8");
    assert!(metrics.contains(&sent), "{sent} is not in\n{metrics}");
    assert_eq!(check_metrics(&metrics).await?, "");
    let accept = ["-H", "Accept: application/openmetrics-text; version=1.0.0"];
    let (_, open) = get(&url("/metrics"), &accept).await?;
    assert!(open.ends_with("# EOF\n"), "{open}");
    let printed = home.ctl(&["metrics"]).await?.expect_exit(0)?.stdout;
    assert_eq!(check_metrics(&printed).await?, "");
    let file = home.path("tunneld.prom");
    let path = file.to_str().context("a path")?;
    home.ctl(&["metrics", "--write", path])
        .await?
        .expect_exit(0)?;
    assert!(std::fs::read_to_string(file)?.contains("tunneld_tunnel_up"));

    for refused in [
        &["-H", "Host: evil.example"][..],
        &["-H", "Sec-Fetch-Site: cross-site"],
        &["-H", "Sec-Fetch-Site: same-site"],
    ] {
        assert_eq!(
            get(&url("/proxy.pac"), refused).await?.0,
            403,
            "{refused:?}"
        );
        assert_eq!(get(&url("/readyz"), refused).await?.0, 403, "{refused:?}");
    }
    assert_eq!(get(&url("/healthz"), &["-d", "x"]).await?.0, 405);
    assert_eq!(get(&url("/other"), &[]).await?.0, 404);
    let (_, head) = get(&url("/healthz"), &["-I"]).await?;
    for field in [
        "x-content-type-options: nosniff",
        "cross-origin-resource-policy: same-origin",
    ] {
        assert!(head.contains(field), "{field} is not in\n{head}");
    }
    Ok(())
}

#[tokio::test]
async fn http_listen_moves_to_a_unix_socket_by_a_change_of_the_file() -> Result<()> {
    let (server, target) = (Sshd::start().await?, Target::echo().await?);
    let port = ports::free()?;
    let home = home_with(&format!("\"127.0.0.1:{port}\""), &server, &target)?;
    let daemon = Daemon::start(&home).await?;
    daemon.log().wait("http_listen: listening", LONG).await?;
    let url = format!("http://127.0.0.1:{port}/healthz");
    assert_eq!(get(&url, &[]).await?.0, 200);
    let socket = home.path("http.sock");
    let text = format!("[daemon]\nhttp_listen = \"{}\"\n", socket.display());
    home.write("daemon.toml", &text)?;
    daemon.log().wait("http.sock", LONG).await?;
    let over_socket = async |path: &str| {
        let socket = socket.to_str().context("a path")?;
        get(&format!("http://any{path}"), &["--unix-socket", socket]).await
    };
    assert_eq!(over_socket("/healthz").await?.0, 200);
    let (code, text) = over_socket("/metrics").await?;
    assert!(code == 404 && text.contains("metrics = true"), "{text}");
    let mode = |path: &Path| {
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions())
    };
    assert_eq!(mode(&socket) & 0o777, 0o600);
    assert!(
        tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_err()
    );
    home.write("daemon.toml", "[daemon]\n")?;
    within(LONG, "the socket to be removed", async {
        while socket.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// The names of metrics in a text: what follows `tunneld_`.
fn names_in(text: &str) -> std::collections::BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_part(c))
        .filter(|word| word.starts_with("tunneld_"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn alert_rules_and_dashboard_use_metrics_that_exist() -> Result<()> {
    let contrib = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib");
    let rules = contrib.join("alerts.yml");
    let path = rules.to_str().context("a path")?;
    let checked = run_tool("promtool", &["check", "rules", path]).await?;
    assert!(checked.contains("SUCCESS"), "{checked}");
    let (server, target) = (Sshd::start().await?, Target::echo().await?);
    let home = home_with(&ports::free()?.to_string(), &server, &target)?;
    let daemon = Daemon::start(&home).await?;
    daemon.wait_up("t").await?;
    let failed = |tunnel: &tunneld_proto::status::TunnelStatus| tunnel.retry_at.is_some();
    daemon.wait_for("away", LONG, failed).await?;
    let existing = names_in(&home.ctl(&["metrics"]).await?.expect_exit(0)?.stdout);
    let dashboard = std::fs::read_to_string(contrib.join("grafana.json"))?;
    let parsed: serde_json::Value = serde_json::from_str(&dashboard)?;
    assert!(
        parsed["panels"]
            .as_array()
            .is_some_and(|panels| panels.len() > 4)
    );
    let used = names_in(&(dashboard + &std::fs::read_to_string(rules)?));
    let missing: Vec<_> = used.difference(&existing).collect();
    assert!(missing.is_empty(), "{missing:?} are not in {existing:?}");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/monitoring.md");
    let documented = names_in(&std::fs::read_to_string(page)?);
    // The first measurement of the round trip takes a while.
    let expected: Vec<_> = existing.difference(&documented).collect();
    assert!(expected.is_empty(), "{expected:?} are not documented");
    Ok(())
}
