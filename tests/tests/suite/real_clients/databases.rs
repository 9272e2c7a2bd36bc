//! psql through a SOCKS wrapper.

use anyhow::{Context as _, Result};
use tokio::process::Command;
use tunneld_proto::status::ForwardKind;
use tunneld_tests::daemon::listen_addr;
use tunneld_tests::nginx::NAME;
use tunneld_tests::process::Process;
use tunneld_tests::unprivileged::{NOBODY, as_ordinary_user};
use tunneld_tests::wait::LONG;

use super::{FarSite, shell_in};

#[tokio::test]
async fn psql_reaches_a_far_server_by_proxychains() -> Result<()> {
    let Some(site) = FarSite::start().await? else {
        return Ok(());
    };
    let data = site.path("data");
    std::fs::create_dir(&data)?;
    std::os::unix::fs::chown(&data, Some(NOBODY), Some(NOBODY))?;
    let programs = std::fs::read_dir("/usr/lib/postgresql")?.flatten().next();
    let programs = programs
        .context("no PostgreSQL server is installed")?
        .path()
        .join("bin");
    let (programs, user) = (programs.display(), as_ordinary_user("/nonexistent"));
    // PostgreSQL refuses to run as root.
    let init = format!(
        "{user} {programs}/initdb --no-sync -U lab -A trust -E UTF8 --locale=C -D {}",
        data.display()
    );
    shell_in(&data, &init).await?;
    let port = tunneld_tests::ports::free()?;
    let mut server = Command::new("sh");
    let serve = format!(
        "exec {user} {programs}/postgres -D {} -p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off",
        data.display()
    );
    server.args(["-c", &serve]);
    let server = Process::start("postgres", server)?;
    server
        .log()
        .wait("ready to accept connections", LONG)
        .await?;
    let proxy = listen_addr(
        &site.fixture.daemon.status("t").await?,
        ForwardKind::Dynamic,
    )?;
    let (ip, proxy_port) = (proxy.ip(), proxy.port());
    let config = format!("strict_chain\nproxy_dns\n[ProxyList]\nsocks5 {ip} {proxy_port}\n");
    let config = site.write("proxychains.conf", &config)?;
    let address = format!("host={NAME} port={port} user=lab dbname=postgres connect_timeout=15");
    let argv = [
        "proxychains4",
        "-q",
        "-f",
        &config,
        "psql",
        "-At",
        "-c",
        "select 6 * 7, inet_server_addr()",
        &address,
    ];
    let printed = site.exec(&[], &argv).await?.expect_exit(0)?;
    assert_eq!(printed.stdout, "42|127.0.0.1\n");
    Ok(())
}
