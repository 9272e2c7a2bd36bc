//! Transports to a host: chains of jump hosts, proxy commands, local addresses and host commands.

use anyhow::Result;
use tunneld::failure::FailureKind;
use tunneld_config::model::Via;
use tunneld_tests::payload;
use tunneld_tests::sshd::Sshd;
use tunneld_tests::target::Target;
use tunneld_tests::wait::{LONG, within};

use super::{connect, refused, route};

#[tokio::test]
async fn a_jump_chain_ends_as_one_and_errors_name_the_hop() -> Result<()> {
    let (one, two, end) = (
        Sshd::start().await?,
        Sshd::start().await?,
        Sshd::start().await?,
    );
    let target = Target::echo().await?;
    let hops = vec![route(&one), route(&two)];
    let mut route = route(&end);
    route.via = Via::Jump(hops);
    let session = connect(&route).await?.session;
    let mut channel = session
        .open_direct_tcpip("127.0.0.1", target.port(), None)
        .await?;
    payload::ping(&mut channel, b"through two").await?;
    one.kill_sessions()?;
    let failure = within(LONG, "the end of the session", session.closed()).await?;
    assert!(failure.message.contains("jump host"), "{failure:?}");
    for server in [&two, &end] {
        within(LONG, "the sessions behind the hop to end", async {
            while !server.session_pids().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await?;
    }

    std::fs::write(two.dir().join("authorized_keys"), "")?;
    let failure = refused(&route).await;
    assert_eq!(failure.kind, FailureKind::AuthRefused, "{failure:?}");
    assert!(
        failure.message.contains("jump host") && failure.message.contains(&two.port().to_string())
    );
    Ok(())
}

#[tokio::test]
async fn proxy_command_output_and_failures_are_handled() -> Result<()> {
    let server = Sshd::start().await?;
    let mut route = route(&server);
    let script = server.dir().join("proxy.sh");
    // A server may send lines before its identification (RFC 4253 §4.2), and aws's plugin prints such lines.
    std::fs::write(
        &script,
        "echo; echo Starting session; echo; exec socat - TCP:$1:$2\n",
    )?;
    route.via = Via::Command(format!("sh {} %h %p", script.display()));
    let session = connect(&route).await?.session;
    server.kill_sessions()?;
    within(LONG, "the end of the session", session.closed()).await?;

    route.via = Via::Command("sh -c 'echo vault sealed >&2; exit 3'".into());
    let failure = refused(&route).await;
    assert_eq!(failure.kind, FailureKind::Proxy, "{failure:?}");
    assert!(failure.message.contains("vault sealed"), "{failure:?}");
    route.via = Via::Command("echo Exceeded MaxStartups".into());
    let failure = refused(&route).await;
    assert!(
        failure.message.contains("Exceeded MaxStartups"),
        "{failure:?}"
    );
    route.via = Via::Command("cat %x".into());
    assert_eq!(refused(&route).await.kind, FailureKind::Config);
    Ok(())
}

#[tokio::test]
async fn bind_address_and_bind_interface_choose_the_local_address() -> Result<()> {
    let server = Sshd::start().await?;
    let mut route = route(&server);
    route.bind_address = Some("127.0.0.7".into());
    let session = connect(&route).await?.session;
    assert_eq!(
        session.info().local_addr.unwrap().ip().to_string(),
        "127.0.0.7"
    );
    route.bind_address = None;
    route.bind_interface = Some("lo".into());
    connect(&route).await?;
    route.bind_interface = Some("nosuch0".into());
    let failure = refused(&route).await;
    assert_eq!(failure.kind, FailureKind::BindFailed, "{failure:?}");
    Ok(())
}

#[tokio::test]
async fn host_command_output_is_validated_and_used_as_host() -> Result<()> {
    let server = Sshd::start().await?;
    let mut route = route(&server);
    route.host = "unused.invalid".into();
    route.host_command = ["echo", "127.0.0.1"].map(str::to_owned).to_vec();
    connect(&route).await?;
    for (stdout, message) in [
        ("-oProxyCommand=x", "which is not a host name"),
        ("", "printed no usable line"),
        ("a b", "not a host name"),
    ] {
        route.host_command = ["echo", stdout].map(str::to_owned).to_vec();
        let failure = refused(&route).await;
        assert_eq!(failure.kind, FailureKind::HostCommand, "{failure:?}");
        assert!(failure.message.contains(message), "{failure:?}");
    }
    Ok(())
}
