//! `tunnelctl web`: the page in a real Chromium, and who may not use its port.

use anyhow::{Context as _, Result};
use serde_json::json;
use tunneld_proto::status::State;
use tunneld_tests::daemon::Daemon;
use tunneld_tests::home::Home;
use tunneld_tests::process::run_tool;
use tunneld_tests::prompting_server::{AuthFactor, PromptingServer};
use tunneld_tests::unprivileged;
use tunneld_tests::wait::LONG;
use tunneld_tests::webdriver::Browser;

/// A daemon of the ordinary user whose browser opens the page.
async fn start(home: &Home) -> Result<Daemon> {
    unprivileged::hand_over(&home.path("")).await?;
    let command = home.command_with_prefix(&unprivileged::command_prefix(), "tunneld")?;
    Daemon::start_with(home, command).await
}

/// The address of the page with a new one-time key.
async fn address(home: &Home) -> Result<String> {
    let mut command = home.command_with_prefix(&unprivileged::command_prefix(), "tunnelctl")?;
    let printed = command.args(["web", "--no-browser"]).output().await?;
    let text = String::from_utf8_lossy(&printed.stdout);
    anyhow::ensure!(printed.status.success(), "{printed:?}");
    Ok(text.trim().to_owned())
}

/// What curl got from the page's port: the status, and the body.
async fn curl(url: &str, args: &[&str]) -> Result<(u16, String)> {
    let common = ["-s", "-m", "20", "-w", "\n%{http_code}", url];
    let output = run_tool("curl", &[&common, args].concat()).await?;
    let (body, code) = output.rsplit_once('\n').context("no status")?;
    Ok((code.parse()?, body.to_owned()))
}

/// The script that returns whether the card of a tunnel shows this state.
fn shows(name: &str, state: &str) -> String {
    format!(
        "const card = document.querySelector('article[data-name=\"{name}\"]');
         return !!card && card.querySelector('.state').textContent.startsWith('{state}');"
    )
}

#[tokio::test]
async fn the_page_shows_starts_stops_and_asks() -> Result<()> {
    // The password contains markup, as the description below does.
    let server = PromptingServer::start(vec![AuthFactor::Password("pw <b>")]).await?;
    let home = Home::new()?;
    home.write("t.toml", &server.tunnel_toml("asks")?)?;
    home.write(
        "markup.toml",
        "[tunnel.stopped]\nhost = \"u@192.0.2.1\"\nautostart = false\ndescription = \"<img src=x onerror=alert(1)>\"\n",
    )?;
    let mut daemon = start(&home).await?;
    let browser = Browser::start(&home.path("browser")).await?;
    // First visit: the key is traded, and gone from the address.
    let url = address(&home).await?;
    browser.open(&url).await?;
    browser.until(&shows("asks", "needs input")).await?;
    browser.until("return location.hash === ''").await?;
    browser.until(&shows("stopped", "stopped")).await?;
    // A description is text, whatever it looks like.
    browser
        .until(
            "return document.querySelectorAll('article img').length === 0 && \
             document.body.innerText.includes('<img src=x onerror=alert(1)>')",
        )
        .await?;
    // A question is answered in the page.
    browser
        .until("return document.querySelector('#prompts input[type=password]') !== null")
        .await?;
    browser
        .run(
            "const form = document.querySelector('#prompts form');
             form.querySelector('input').value = 'pw <b>';
             form.querySelector('.send').click();",
        )
        .await?;
    browser.until(&shows("asks", "up")).await?;
    browser
        .until("return document.querySelectorAll('#prompts form').length === 0")
        .await?;
    // The buttons work, and say what they do to a screen reader.
    browser
        .run("document.querySelector('[aria-label=\"Stop asks\"]').click()")
        .await?;
    browser.until(&shows("asks", "stopped")).await?;
    let stopped = |tunnel: &tunneld_proto::status::TunnelStatus| tunnel.state == State::Stopped;
    daemon.wait_for("asks", LONG, stopped).await?;
    browser
        .run("document.querySelector('[aria-label=\"Start asks\"]').click()")
        .await?;
    // The daemon still has the password.
    browser.until(&shows("asks", "up")).await?;
    // A live change, and the log.
    home.write(
        "new.toml",
        "[tunnel.late]\nhost = \"u@192.0.2.1\"\nautostart = false\n",
    )?;
    browser.until(&shows("late", "stopped")).await?;
    home.remove("new.toml")?;
    browser
        .until("return document.querySelector('article[data-name=late]') === null")
        .await?;
    browser
        .run("document.querySelector('#log-box summary').click()")
        .await?;
    browser
        .until("return document.querySelector('#log').textContent.includes('configuration read')")
        .await?;
    // The browser keeps its session over a reload of the page; the one-time key is used.
    browser
        .open(url.split('#').next().unwrap_or_default())
        .await?;
    browser.until(&shows("stopped", "stopped")).await?;
    browser.run("localStorage.clear()").await?;
    browser.open("about:blank").await?;
    browser.open(&url).await?;
    browser
        .until("return document.querySelector('#notice').textContent.includes('tunnelctl web')")
        .await?;
    // Without the daemon the page says so, and a new daemon does not know the old session.
    browser.open(&address(&home).await?).await?;
    browser.until(&shows("stopped", "stopped")).await?;
    daemon.terminate(LONG).await?;
    browser
        .until("return document.querySelector('#notice').textContent.includes('does not answer')")
        .await
}

#[tokio::test]
async fn two_hundred_tunnels_are_painted_and_changed_at_once() -> Result<()> {
    let home = Home::new()?;
    let table = |number: u32| {
        format!(
            "[tunnel.t{number}]\nhost = \"u@192.0.2.1\"\nautostart = false\nlocal_forward = \"{} h:1\"\n",
            20_000 + number
        )
    };
    home.write("t.toml", &(0..200).map(table).collect::<String>())?;
    let _daemon = start(&home).await?;
    let browser = Browser::start(&home.path("browser")).await?;
    browser.open(&address(&home).await?).await?;
    browser
        .until("return document.querySelectorAll('article').length === 200")
        .await?;
    // In the order of the numbers, all of them reachable by the keyboard.
    browser
        .until(
            "const names = [...document.querySelectorAll('article')].map(card => card.dataset.name);
             return names[2] === 't2' && names[10] === 't10' && names[199] === 't199';",
        )
        .await?;
    browser
        .run("const field = document.querySelector('#filter'); field.value = 't19'; field.dispatchEvent(new Event('input'));")
        .await?;
    browser
        .until("return [...document.querySelectorAll('article')].filter(card => !card.hidden).length === 11")
        .await
}

#[tokio::test]
async fn nobody_else_can_use_the_port_of_the_page() -> Result<()> {
    let home = Home::new()?;
    let daemon = Daemon::start(&home).await?;
    let opened = daemon.call("web.open", json!({})).await?;
    let file = opened["file"].as_str().context("no file")?;
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(file)?.permissions());
    assert_eq!(mode & 0o777, 0o600, "the redirect file");
    let url = opened["url"].as_str().context("no url")?;
    assert!(std::fs::read_to_string(file)?.contains(url));
    let (root, key) = url.split_once("/#key=").context("no key")?;
    let json_type = "Content-Type: application/json";
    let session = format!("{root}/session");
    let body = format!("{{\"key\":\"{key}\"}}");
    // The page itself needs no key and has no data. It runs only its own script.
    let (code, head) = curl(&format!("{root}/"), &["-I"]).await?;
    assert_eq!(code, 200);
    assert!(
        head.contains("default-src 'none'; script-src 'sha256-"),
        "{head}"
    );
    assert!(
        !head.contains("unsafe-inline") && head.contains("frame-ancestors 'none'"),
        "{head}"
    );
    assert!(!head.to_lowercase().contains("set-cookie"), "{head}");
    assert_eq!(
        curl(&format!("{root}/"), &["-H", "Host: evil.example"])
            .await?
            .0,
        403
    );
    // Other origins, other ports and rebound names trade no key, also with the right one.
    for refused in [
        &["-H", "Origin: http://evil.example"][..],
        &["-H", "Origin: http://127.0.0.1:1"],
        &["-H", "Origin: null"],
        &["-H", "Sec-Fetch-Site: cross-site"],
        &["-H", "Sec-Fetch-Site: same-site"],
        &["-H", "Host: evil.example"],
    ] {
        let args = [&["-H", json_type, "-d", &body], refused].concat();
        assert_eq!(curl(&session, &args).await?.0, 403, "{refused:?}");
    }
    // A form of another site can send this type without asking.
    assert_eq!(curl(&session, &["-d", &body]).await?.0, 415);
    assert_eq!(curl(&session, &["-H", json_type, "-d", "{"]).await?.0, 400);
    let large = "x".repeat(100_000);
    assert_eq!(
        curl(&session, &["-H", json_type, "-d", &large]).await?.0,
        400
    );
    assert_eq!(
        curl(&session, &["-H", json_type, "-d", "{\"key\":\"AAAA\"}"])
            .await?
            .0,
        401
    );
    let (code, traded) = curl(&session, &["-H", json_type, "-d", &body]).await?;
    assert_eq!(code, 200);
    let traded: serde_json::Value = serde_json::from_str(&traded)?;
    let bearer = format!(
        "Authorization: Bearer {}",
        traded["session"].as_str().context("no session")?
    );
    assert_eq!(
        curl(&session, &["-H", json_type, "-d", &body]).await?.0,
        401,
        "used"
    );
    let call = format!("{root}/call");
    let status = "{\"method\":\"tunnel.status\",\"params\":{}}";
    assert_eq!(curl(&call, &["-H", json_type, "-d", status]).await?.0, 401);
    assert_eq!(curl(&format!("{root}/events"), &[]).await?.0, 401);
    let (code, answer) = curl(&call, &["-H", json_type, "-H", &bearer, "-d", status]).await?;
    assert!(code == 200 && answer.contains("\"tunnels\":[]"), "{answer}");
    for method in [
        "tunnel.add",
        "daemon.shutdown",
        "log.set_level",
        "web.open",
        "connect",
    ] {
        let body = format!("{{\"method\":\"{method}\",\"params\":{{}}}}");
        let (_, answer) = curl(&call, &["-H", json_type, "-H", &bearer, "-d", &body]).await?;
        assert!(answer.contains("may not call"), "{method}: {answer}");
    }
    // The key is in no log.
    let log = daemon.log().text();
    assert!(!log.contains(key), "{log}");
    // Another user of the machine gets nothing, not even the page.
    if rustix::process::geteuid().is_root() {
        let uid = unprivileged::NOBODY.to_string();
        let args = [
            "--reuid",
            &uid,
            "--clear-groups",
            "curl",
            "-s",
            "-m",
            "20",
            &format!("{root}/"),
        ];
        assert!(
            run_tool("setpriv", &args).await.is_err(),
            "another user got an answer"
        );
    }
    Ok(())
}
