//! The HTTP proxy of a dynamic forward: curl and wget through a real sshd to nginx.

use std::net::SocketAddr;

use anyhow::Result;
use tunneld_proto::status::ForwardKind;
use tunneld_tests::daemon::listen_addr;
use tunneld_tests::nginx::{MAX_UPLOAD, Nginx};
use tunneld_tests::payload::{MIB, random, same};
use tunneld_tests::process::run_tool;
use tunneld_tests::target::{Target, TargetBehavior};

use crate::fixture::{Fixture, forward_of};

/// Runs curl through the proxy. Returns its stdout.
async fn curl(proxy: SocketAddr, args: &[&str]) -> Result<String> {
    let proxy = format!("http://{proxy}");
    let common = ["-sS", "--noproxy", "", "-m", "20", "-x", &proxy];
    run_tool("curl", &[&common, args].concat()).await
}

async fn up() -> Result<(Fixture, SocketAddr, Nginx)> {
    let nginx = Nginx::start().await?;
    let (fixture, tunnel) = Fixture::up("dynamic_forward = 0").await?;
    let proxy = listen_addr(&tunnel, ForwardKind::Dynamic)?;
    Ok((fixture, proxy, nginx))
}

#[tokio::test]
async fn curl_downloads_ten_mebibytes_in_absolute_form_and_by_connect() -> Result<()> {
    let (fixture, proxy, nginx) = up().await?;
    let data = random(80, 10 * MIB);
    std::fs::write(nginx.root().join("file"), &data)?;
    let url = format!("http://localhost:{}/file", nginx.port());
    let saved = nginx.root().join("saved");
    let to = saved.display().to_string();
    for by in [&[][..], &["--http1.0"], &["--proxytunnel"]] {
        curl(proxy, &[by, &["-o", &to, &url]].concat()).await?;
        same(&data, &std::fs::read(&saved)?)?;
        std::fs::remove_file(&saved)?;
    }
    let status = fixture.daemon.status("t").await?;
    let forward = forward_of(&status, ForwardKind::Dynamic).expect("a dynamic forward");
    assert!(forward.bytes_in >= 3 * data.len() as u64, "{forward:?}");
    Ok(())
}

#[tokio::test]
async fn wget_follows_its_environment_and_keeps_the_connection() -> Result<()> {
    let (_fixture, proxy, nginx) = up().await?;
    std::fs::write(nginx.root().join("page"), "from there")?;
    let url = format!("http://localhost:{}/page", nginx.port());
    let proxy = format!("http_proxy=http://{proxy}");
    let args = ["no_proxy=", &proxy, "wget", "-q", "-O", "-", &url, &url];
    assert_eq!(run_tool("env", &args).await?, "from therefrom there");
    assert_eq!(nginx.requests()?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn an_upload_is_sent_only_if_the_origin_takes_it() -> Result<()> {
    let (fixture, proxy, nginx) = up().await?;
    let url = format!("http://localhost:{}/upload", nginx.port());
    let body = nginx.root().join("body");
    let data = format!("@{}", body.display());
    let code = [
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "--expect100-timeout",
        "20",
    ];
    let expect = ["-H", "Expect: 100-continue", "--data-binary", &data, &url];
    std::fs::write(&body, random(81, MAX_UPLOAD))?;
    assert_eq!(curl(proxy, &[&code[..], &expect].concat()).await?, "204");
    let sent = |status: &tunneld_proto::status::TunnelStatus| {
        forward_of(status, ForwardKind::Dynamic).map_or(0, |forward| forward.bytes_out)
    };
    let before = sent(&fixture.daemon.status("t").await?);
    std::fs::write(&body, random(82, MAX_UPLOAD + 1))?;
    assert_eq!(curl(proxy, &[&code[..], &expect].concat()).await?, "413");
    let after = sent(&fixture.daemon.status("t").await?);
    assert!(
        after - before < 10_000,
        "{} bytes were sent",
        after - before
    );
    Ok(())
}

#[tokio::test]
async fn a_kept_connection_survives_an_origin_that_closes() -> Result<()> {
    let (_fixture, proxy, nginx) = up().await?;
    std::fs::write(nginx.root().join("close/page"), "closed ")?;
    let url = format!("http://localhost:{}/close/page", nginx.port());
    // One connection to the proxy, three to the origin.
    let pages = curl(proxy, &[&url, &url, &url]).await?;
    assert_eq!(pages, "closed closed closed ");
    Ok(())
}

#[tokio::test]
async fn a_failure_has_the_matching_status_and_says_why() -> Result<()> {
    let (_fixture, proxy, _nginx) = up().await?;
    let port = tunneld_tests::ports::free()?;
    let refused = format!("http://127.0.0.1:{port}/");
    let text = curl(proxy, &["-w", " %{http_code}", &refused]).await?;
    assert!(
        text.ends_with(" 502") && text.contains("tunnel t"),
        "{text}"
    );
    let page = curl(proxy, &["-H", "Accept: text/html", &refused]).await?;
    assert!(page.starts_with("<!DOCTYPE html>"), "{page}");
    assert!(page.contains(&format!("127.0.0.1:{port}")), "{page}");
    let own = format!("http://{proxy}/");
    let page = run_tool("curl", &["-sS", "--noproxy", "*", &own]).await?;
    assert!(page.contains("tunnelctl browse t"), "{page}");
    Ok(())
}

#[tokio::test]
async fn a_request_waits_for_the_reconnect_and_then_gets_a_page() -> Result<()> {
    let target = Target::start(TargetBehavior::HttpResponse("back again".into())).await?;
    let (fixture, mut link, tunnel) =
        Fixture::up_over_link("dynamic_forward = 0\nhold = \"30s\"").await?;
    let proxy = listen_addr(&tunnel, ForwardKind::Dynamic)?;
    let url = format!("http://127.0.0.1:{}/", target.port());
    let mut watch = fixture.daemon.watch().await?;
    link.refuse_new().await?;
    link.reset_all();
    watch
        .until("t", tunneld_tests::wait::LONG, crate::fixture::is_waiting)
        .await?;
    let urls = [url.as_str()];
    let (page, held) = tokio::join!(curl(proxy, &urls), async {
        watch
            .until("t", tunneld_tests::wait::LONG, |tunnel| {
                forward_of(tunnel, ForwardKind::Dynamic).is_some_and(|forward| forward.held == 1)
            })
            .await?;
        link.accept_new().await
    });
    held?;
    assert_eq!(page?, "back again");
    Ok(())
}
