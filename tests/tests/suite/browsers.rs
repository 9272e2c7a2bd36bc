//! Browsers and programs through the proxy of a dynamic forward: proxy.pac, `browse`, `env` and `exec`.

use std::fmt::Write as _;

use anyhow::Result;
use tunneld_proto::status::{Desired, ForwardKind};
use tunneld_tests::chromium;
use tunneld_tests::daemon::listen_addr;
use tunneld_tests::firefox;
use tunneld_tests::nginx::Nginx;
use tunneld_tests::process::run_tool;
use tunneld_tests::sshd::Sshd;
use tunneld_tests::target::{Target, TargetBehavior};

use crate::fixture::{Fixture, forward_of, start_daemon};

/// The lines of the tunnels `one` and `two` of [`URLS`].
const ONE: &str = "dynamic_forward = 0\n\
    proxy_for = [\"*.ec2.internal\", \"!bastion.ec2.internal\", \"10.0.0.0/8\", \"fd00::/8\"]\n";
const TWO: &str = "dynamic_forward = 0\n\
    proxy_for = [\"xn--bcher-kva.example\", \"hue.test:8888\", \".under.test\"]\n";

/// URLs and the tunnel whose proxy serves them; `direct` for none.
const URLS: &[(&str, &str)] = &[
    ("http://ip-10-0-0-1.ec2.internal/", "one"),
    ("http://IP-10-0-0-1.EC2.Internal:8088/cluster?a=b#c", "one"),
    ("http://ip-10-0-0-1.ec2.internal./", "one"),
    ("http://user:password@a.ec2.internal/", "one"),
    ("http://ec2.internal/", "direct"),
    ("http://ec2.internal.evil.example/", "direct"),
    ("http://evil.example/?.ec2.internal", "direct"),
    ("http://evil.example/a@b.ec2.internal:80/", "direct"),
    ("http://bastion.ec2.internal/", "direct"),
    ("http://10.200.0.1/", "one"),
    ("http://9.255.255.255/", "direct"),
    ("http://11.0.0.0/", "direct"),
    ("http://0x0a.1/", "one"),
    ("http://[fd00:1::7]/", "one"),
    ("http://[fe00::1]/", "direct"),
    ("http://[::ffff:10.0.0.1]/", "direct"),
    ("http://xn--bcher-kva.example/", "two"),
    ("http://bücher.example/", "two"),
    ("http://hue.test:8888/", "two"),
    ("http://hue.test/", "direct"),
    ("http://a_b.under.test/", "two"),
];

/// A page that fetches every URL and shows which of the two tunnels, or none, answered.
fn page() -> String {
    let mut list = String::new();
    for (url, _) in URLS {
        let _ = write!(list, "{:?},", url.replace("user:password@", ""));
    }
    format!(
        "<meta charset=utf-8><body><script>
         const name = text => /tunnel one/.test(text) ? 'one' : /tunnel two/.test(text) ? 'two' : text;
         Promise.all([{list}].map(url => fetch(url).then(r => r.text()).then(name, error => '' + error)))
           .then(found => document.body.textContent = 'found ' + found.join(' ') + ' end');
         </script></body>"
    )
}

#[tokio::test]
async fn chromium_follows_the_pac_file() -> Result<()> {
    let direct = Nginx::start().await?;
    for path in ["index.html", "cluster", "a@b.ec2.internal:80"] {
        let file = direct.root().join(path);
        if path.contains('@') {
            std::fs::create_dir_all(&file)?;
            std::fs::write(file.join("index.html"), "direct")?;
        } else {
            std::fs::write(file, "direct")?;
        }
    }
    std::fs::write(direct.root().join("urls.html"), page())?;
    // No destination is permitted, so each proxy answers with its failure page, which names the tunnel.
    let server = Sshd::start_with_lines(&["PermitOpen 127.0.0.1:1"]).await?;
    let one = server.tunnel_toml("one")?;
    let two = server.tunnel_toml("two")?;
    let (_home, daemon) = start_daemon(&format!("{one}{ONE}{two}{TWO}")).await?;
    let proxy = listen_addr(&daemon.wait_up("one").await?, ForwardKind::Dynamic)?;
    daemon.wait_up("two").await?;
    let folder = tempfile::tempdir()?;
    let profile = folder.path().join("profile");
    std::fs::create_dir(&profile)?;
    rustix::fs::chmod(folder.path(), 0o755.into())?;
    let program = chromium::write_program(folder.path())?;
    let arguments = [
        format!("--user-data-dir={}", profile.display()),
        format!("--proxy-pac-url=http://{proxy}/proxy.pac"),
        // What is DIRECT reaches nginx, whatever its name. Read across origins, which pages of the web cannot.
        format!(
            "--host-resolver-rules=MAP * 127.0.0.1:{}, EXCLUDE 127.0.0.1",
            direct.port()
        ),
        "--disable-web-security".to_owned(),
        "--virtual-time-budget=15000".to_owned(),
        "http://start.test/urls.html".to_owned(),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let dom = run_tool(&program.display().to_string(), &arguments).await?;
    let found = dom
        .split_once("found ")
        .and_then(|(_, rest)| rest.split_once(" end"));
    let found: Vec<&str> = found
        .map_or(dom.as_str(), |(found, _)| found)
        .split(' ')
        .collect();
    let wrong: Vec<_> = std::iter::zip(URLS, &found)
        .filter(|((_, expected), found)| expected != *found)
        .collect();
    assert_eq!(wrong, vec![], "{dom}");
    assert_eq!(found.len(), URLS.len(), "{dom}");
    Ok(())
}

#[tokio::test]
async fn firefox_follows_the_pac_file() -> Result<()> {
    let server = Sshd::start().await?;
    let one = server.tunnel_toml("one")?;
    let two = server.tunnel_toml("two")?;
    let (_home, daemon) = start_daemon(&format!("{one}{ONE}{two}{TWO}")).await?;
    let one = listen_addr(&daemon.wait_up("one").await?, ForwardKind::Dynamic)?;
    let two = listen_addr(&daemon.wait_up("two").await?, ForwardKind::Dynamic)?;
    let preferences = [
        ("network.proxy.type", 2.into()),
        (
            "network.proxy.autoconfig_url",
            format!("http://{one}/proxy.pac").into(),
        ),
    ];
    let urls: Vec<&str> = URLS.iter().map(|(url, _)| *url).collect();
    let found = firefox::proxies_for(&preferences, &urls).await?;
    let expected: Vec<String> = URLS
        .iter()
        .map(|(_, tunnel)| match *tunnel {
            "one" => format!("http {one}"),
            "two" => format!("http {two}"),
            direct => direct.to_owned(),
        })
        .collect();
    assert_eq!(found, expected, "{urls:?}");
    Ok(())
}

#[tokio::test]
async fn browse_opens_firefox_with_the_proxy_and_leaves_nothing_behind() -> Result<()> {
    let nginx = Nginx::start().await?;
    let page = "<body><script>fetch('/seen-' + (1 + 1)).then(() => window.close())</script></body>";
    std::fs::write(nginx.root().join("index.html"), page)?;
    std::fs::write(nginx.root().join("seen-2"), "")?;
    let url = format!("http://localhost:{}/", nginx.port());
    for proxy_for in ["", "proxy_for = \"localhost\"\n"] {
        let (fixture, _) = Fixture::up(&format!("dynamic_forward = 0\n{proxy_for}")).await?;
        let folder = tempfile::tempdir()?;
        let temporary = folder.path().join("tmp");
        std::fs::create_dir(&temporary)?;
        for open in [folder.path(), &temporary] {
            rustix::fs::chmod(open, 0o755.into())?;
        }
        let program = firefox::write_program(folder.path())?.display().to_string();
        let home = fixture.home.with_var("TMPDIR", &temporary);
        let before = nginx.requests()?.len();
        let args = [
            "browse",
            "t",
            &url,
            "--far-localhost",
            "--browser",
            &program,
        ];
        home.ctl(&args).await?.expect_exit(0)?;
        let requests = nginx.requests()?.split_off(before);
        assert!(
            requests.iter().any(|line| line.contains("GET /seen-2 ")),
            "{requests:#?}"
        );
        let status = fixture.daemon.status("t").await?;
        let forward = forward_of(&status, ForwardKind::Dynamic).expect("a dynamic forward");
        assert!(forward.bytes_in > 0, "{proxy_for}: {forward:?}");
        let left: Vec<_> = std::fs::read_dir(&temporary)?.flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
    Ok(())
}

#[tokio::test]
async fn browse_shows_a_page_of_the_far_side_and_leaves_nothing_behind() -> Result<()> {
    let nginx = Nginx::start().await?;
    let page = "<body><script>document.body.textContent = 'far ' + 'page'</script>";
    std::fs::write(nginx.root().join("index.html"), page)?;
    let server = Sshd::start().await?;
    let toml = format!(
        "{}dynamic_forward = 0\nautostart = false\n",
        server.tunnel_toml("t")?
    );
    let (home, daemon) = start_daemon(&toml).await?;
    let folder = tempfile::tempdir()?;
    let program = chromium::write_program(folder.path())?
        .display()
        .to_string();
    let url = format!("localhost:{}/", nginx.port());
    let args = [
        "browse",
        "t",
        &url,
        "--far-localhost",
        "--browser",
        &program,
    ];
    let output = home.ctl(&args).await?.expect_exit(0)?;
    assert!(output.stdout.contains("far page"), "{output:#?}");
    assert!(output.stderr.contains("opening "), "{output:#?}");
    let status = daemon.status("t").await?;
    assert_eq!(status.desired, Desired::Down, "it was down before");
    let forward = forward_of(&status, ForwardKind::Dynamic).expect("a dynamic forward");
    assert!(forward.bytes_in > 0, "{forward:?}");
    let left = std::fs::read_dir(std::env::temp_dir())?
        .flatten()
        .any(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().starts_with("tunneld-browser-")
        });
    assert!(!left, "the profile is removed");
    Ok(())
}

#[tokio::test]
async fn browse_refuses_what_is_no_web_page_and_a_tunnel_without_a_proxy() -> Result<()> {
    let (fixture, _) = Fixture::up("local_forward = \"0 127.0.0.1:1\"").await?;
    let folder = tempfile::tempdir()?;
    let program = chromium::write_program(folder.path())?
        .display()
        .to_string();
    for url in [
        "file:///etc/passwd",
        "javascript:alert(1)",
        "chrome://settings",
    ] {
        let args = ["browse", "t", url, "--browser", &program];
        fixture.home.ctl(&args).await?.expect_exit(2)?;
    }
    let output = fixture
        .home
        .ctl(&["browse", "t", "--browser", &program])
        .await?;
    let output = output.expect_exit(1)?;
    assert!(output.stderr.contains("set dynamic_forward"), "{output:#?}");
    Ok(())
}

#[tokio::test]
async fn exec_sets_the_proxy_and_ends_as_its_program_does() -> Result<()> {
    let target = Target::start(TargetBehavior::HttpResponse("through".into())).await?;
    let server = Sshd::start().await?;
    let toml = format!(
        "{}dynamic_forward = 0\nautostart = false\n",
        server.tunnel_toml("t")?
    );
    let (home, daemon) = start_daemon(&toml).await?;
    // `localhost` is in no_proxy, and no other name leads here.
    let url = format!("http://127.0.0.1:{}/", target.port());
    let script = format!("no_proxy= NO_PROXY= curl -sS {url}");
    let output = home.ctl(&["exec", "t", "--", "sh", "-c", &script]).await?;
    assert_eq!(output.expect_exit(0)?.stdout, "through");
    let status = daemon.status("t").await?;
    assert_eq!(status.desired, Desired::Down, "it was down before");
    let forward = forward_of(&status, ForwardKind::Dynamic).expect("a dynamic forward");
    assert_eq!(forward.total, 1, "{forward:?}");
    for (script, code) in [("exit 7", 7), ("kill -TERM $$", 143)] {
        let args = ["exec", "t", "--", "sh", "-c", script];
        home.ctl(&args).await?.expect_exit(code)?;
    }
    home.ctl(&["exec", "t", "--", "/nonexistent"])
        .await?
        .expect_exit(127)?;
    home.ctl(&["exec", "t", "--", "/etc/passwd"])
        .await?
        .expect_exit(126)?;
    home.ctl(&["exec", "none", "--", "true"])
        .await?
        .expect_exit(125)?;
    // A tunnel that was up stays up.
    home.ctl(&["up", "t"]).await?.expect_exit(0)?;
    home.ctl(&["exec", "t", "--", "true"])
        .await?
        .expect_exit(0)?;
    assert_eq!(daemon.status("t").await?.desired, Desired::Up);
    Ok(())
}

#[tokio::test]
async fn env_and_pac_are_printed_and_written() -> Result<()> {
    let (fixture, tunnel) = Fixture::up("dynamic_forward = 0\nproxy_for = \"*.internal\"").await?;
    let proxy = listen_addr(&tunnel, ForwardKind::Dynamic)?;
    let lines = fixture
        .home
        .ctl(&["env", "t"])
        .await?
        .expect_exit(0)?
        .stdout;
    assert!(
        lines.contains(&format!("export https_proxy='http://{proxy}'\n")),
        "{lines}"
    );
    assert!(
        lines.contains(&format!("export ALL_PROXY='socks5h://{proxy}'\n")),
        "{lines}"
    );
    let printed = fixture.home.ctl(&["pac"]).await?.expect_exit(0)?.stdout;
    assert!(
        printed.contains(&format!("return \"PROXY {proxy}\";")),
        "{printed}"
    );
    let url = format!("http://{proxy}/proxy.pac");
    let served = run_tool("curl", &["-sS", "--noproxy", "*", "-D-", &url]).await?;
    assert!(served.ends_with(&printed), "{served}");
    assert!(
        served.contains("application/x-ns-proxy-autoconfig"),
        "{served}"
    );
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("proxy.pac");
    let args = ["pac", "--write", &file.display().to_string()];
    fixture.home.ctl(&args).await?.expect_exit(0)?;
    assert_eq!(std::fs::read_to_string(&file)?, printed);
    // A tunnel that is down never turns into DIRECT: names would be resolved here.
    fixture.home.ctl(&["down", "t"]).await?.expect_exit(0)?;
    let printed = fixture.home.ctl(&["pac"]).await?.expect_exit(0)?.stdout;
    assert!(
        printed.contains("return \"PROXY 127.0.0.1:1\";"),
        "{printed}"
    );
    Ok(())
}
