//! The recipe for a compute cluster with a login node: the ssh_config that computing centres hand out, one login with two
//! factors, and a batch job.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result};
use tokio::process::Command;
use tunneld_proto::status::ForwardKind;
use tunneld_tests::daemon::listen_addr;
use tunneld_tests::home::{DEFAULTS, Home};
use tunneld_tests::prompting_server::{AuthFactor, PromptRound, PromptingServer};
use tunneld_tests::sshd::Sshd;
use tunneld_tests::target::Target;
use tunneld_tests::wait::{LONG, within};
use tunneld_tests::{payload, ports, process, rpc};

use super::{add_program, block, blocks, credentials, search_path, start, with};
use crate::fixture::{secs, tcp};

/// A home whose tunnels read this ssh_config, and the path of that file.
fn home_with_ssh_config(ssh_config: &str) -> Result<(Home, PathBuf)> {
    let home = Home::without_config()?;
    let file = home.path("ssh_config");
    std::fs::write(&file, ssh_config)?;
    let defaults = with(
        DEFAULTS,
        "ssh_config = false",
        &format!("ssh_config = \"{}\"", file.display()),
    );
    home.write("tunneld.toml", &defaults)?;
    Ok((home, file))
}

#[tokio::test]
async fn an_empty_table_takes_mahuika_from_ssh_config() -> Result<()> {
    let (lander, mahuika) = (Sshd::start().await?, Sshd::start().await?);
    let target = Target::echo().await?;
    let (home, file) = home_with_ssh_config(&lander.ssh_config_host("lander")?)?;
    let port = ports::free()?;
    let config = format!(
        "{}  ProxyCommand ssh -F {} -W %h:%p lander\n  ForwardX11 yes\n  ForwardX11Trusted yes\n  ServerAliveInterval 300\n  ServerAliveCountMax 2\n  LocalForward {port} 127.0.0.1:{}\n  ExitOnForwardFailure yes\n{}",
        mahuika.ssh_config_host("mahuika")?,
        file.display(),
        target.port(),
        lander.ssh_config_host("lander")?,
    );
    std::fs::write(&file, config)?;
    let text = blocks("hpc.md", "toml")?
        .into_iter()
        .find(|block| block.ends_with("\n[tunnel.mahuika]\n"));
    home.write("hpc.toml", &text.context("the empty tunnel")?)?;
    let daemon = start(&home).await?;
    let tunnel = daemon.wait_up("mahuika").await?;
    assert_eq!(tunnel.forwards.len(), 1, "{tunnel:#?}");
    assert_eq!(listen_addr(&tunnel, ForwardKind::Local)?.port(), port);
    payload::ping(&mut tcp(ports::local(port)).await?, b"mahuika").await?;
    assert_eq!(lander.log()?.count_after(0, "Accepted publickey"), 1);
    Ok(())
}

#[tokio::test]
async fn one_two_factor_login_serves_all_tunnels_over_it() -> Result<()> {
    // The two factors come in separate rounds, as the recipe describes.
    let round = |prompt| PromptRound {
        instructions: "",
        prompts: vec![(
            prompt,
            false,
            if prompt == "First Factor: " {
                "pw"
            } else {
                "123456"
            },
        )],
    };
    let rounds = vec![round("First Factor: "), round("Second Factor (optional): ")];
    let lander = PromptingServer::start(vec![AuthFactor::KeyboardInteractive(rounds)]).await?;
    let mahuika = Sshd::start().await?;
    let target = Target::echo().await?;
    let (home, _) = home_with_ssh_config(&format!(
        "{}  ProxyCommand tunnelctl connect lander %h:%p\n  LocalForward {} 127.0.0.1:{}\n",
        mahuika.ssh_config_host("mahuika")?,
        ports::free()?,
        target.port()
    ))?;
    let command = "[ \"$*\" = 'show hpc/password' ] && echo pw\n";
    add_program(&home, "pass", command)?;
    let command = "[ \"$*\" = '--totp --base32 @/home/cwal219/.hpc-totp' ] && echo 123456\n";
    add_program(&home, "oathtool", command)?;
    let text = block("hpc.md", "toml", "answers = [")?;
    let host = format!("someone@127.0.0.1:{}", lander.port());
    let text = with(&text, "cwal219@lander.example.org", &host);
    let login = credentials(&lander.tunnel_toml("lander")?);
    let jumped = mahuika.tunnel_toml("jumped")?;
    home.write(
        "hpc.toml",
        &format!(
            "{text}{login}[tunnel.mahuika]\n{jumped}proxy_jump = \"tunnel:lander\"\nlocal_forward = \"0 127.0.0.1:{}\"\n",
            target.port()
        ),
    )?;
    let daemon = start(&home).await?;
    for name in ["mahuika", "jumped"] {
        let tunnel = daemon.wait_up(name).await?;
        let mut stream = tcp(listen_addr(&tunnel, ForwardKind::Local)?).await?;
        payload::ping(&mut stream, name.as_bytes()).await?;
    }
    assert_eq!(lander.attempts(), ["keyboard right"]);
    Ok(())
}

#[tokio::test]
async fn the_reverse_tunnel_of_a_batch_job_ends_with_the_job() -> Result<()> {
    let server = Sshd::start().await?;
    let target = Target::echo().await?;
    let (home, _) = home_with_ssh_config(&server.ssh_config_host("login")?)?;
    std::fs::create_dir(home.path("tmp"))?;
    let remote = ports::free()?;
    let script = block("hpc.md", "sh", "#SBATCH")?;
    let forward = format!("{remote}:localhost:{}", target.port());
    let script = with(&script, "6676:localhost:6676", &forward);
    let mut job = Command::new("bash")
        .args([
            "-c",
            &format!("{script}\necho serving $XDG_RUNTIME_DIR\nread -r _\n"),
        ])
        .env_clear()
        .env("PATH", search_path(&home)?)
        .env("HOME", home.user_dir())
        .env("TMPDIR", home.path("tmp"))
        .env("TUNNELD_CONFIG_DIR", home.config_dir())
        .env("SLURM_SUBMIT_HOST", "login")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    // The script prints the folder of its daemon and then waits for the test.
    let out = tokio::io::BufReader::new(job.stdout.take().context("stdout")?);
    let mut lines = tokio::io::AsyncBufReadExt::lines(out);
    let folder = within(LONG * 2, "the job to serve", async {
        while let Some(line) = lines.next_line().await? {
            if let Some(folder) = line.strip_prefix("serving ") {
                return Ok(PathBuf::from(folder));
            }
        }
        anyhow::bail!("the job ended")
    })
    .await??;
    let socket = folder.join("tunneld/control.sock");
    let status = rpc::call_once(&socket, "daemon.status", serde_json::json!({})).await;
    let echo = async { payload::ping(&mut tcp(ports::local(remote)).await?, b"job").await };
    let echo = echo.await;
    // The job is ended before any result is checked: a failed check must not leave its daemon running.
    drop(job.stdin.take());
    let ended = within(secs(20), "the job to end", job.wait()).await?;
    echo?;
    let daemon = u32::try_from(status?["pid"].as_u64().context("a pid")?)?;
    ended?;
    process::wait_gone(&[daemon]).await?;
    assert!(!folder.exists(), "the folder of the job still exists");
    assert!(
        tcp(ports::local(remote)).await.is_err(),
        "the remote forward still listens"
    );
    Ok(())
}
