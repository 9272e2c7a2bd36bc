//! Ways to a host: chains of jump hosts, proxy commands, local addresses.

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
    let mut way = route(&end);
    way.via = Via::Jump(vec![route(&one), route(&two)]);
    let session = connect(&way).await?.session;
    let mut channel = session
        .open_direct_tcpip("127.0.0.1", target.port(), None)
        .await?;
    payload::ping(&mut channel, b"through two").await?;
    one.kill_sessions()?;
    let why = within(LONG, "the end", session.closed()).await?;
    assert!(why.message.contains("jump host"), "{why:?}");
    for server in [&two, &end] {
        within(LONG, "no session", async {
            while !server.sessions().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await?;
    }

    std::fs::write(two.dir().join("authorized_keys"), "")?;
    let failure = refused(&way).await;
    assert_eq!(failure.kind, FailureKind::AuthRefused, "{failure:?}");
    assert!(
        failure.message.contains("jump host") && failure.message.contains(&two.port().to_string())
    );
    Ok(())
}

#[tokio::test]
async fn proxy_command_output_and_failures_are_handled() -> Result<()> {
    let server = Sshd::start().await?;
    let mut way = route(&server);
    let script = server.dir().join("proxy.sh");
    std::fs::write(
        &script,
        "echo; echo Starting session; echo; exec socat - TCP:$1:$2\n",
    )?;
    way.via = Via::Command(format!("sh {} %h %p", script.display()));
    let session = connect(&way).await?.session;
    server.kill_sessions()?;
    within(LONG, "the end", session.closed()).await?;

    way.via = Via::Command("sh -c 'echo vault sealed >&2; exit 3'".into());
    let failure = refused(&way).await;
    assert_eq!(failure.kind, FailureKind::Proxy, "{failure:?}");
    assert!(failure.message.contains("vault sealed"), "{failure:?}");
    way.via = Via::Command("echo Exceeded MaxStartups".into());
    let failure = refused(&way).await;
    assert!(
        failure.message.contains("Exceeded MaxStartups"),
        "{failure:?}"
    );
    way.via = Via::Command("cat %x".into());
    assert_eq!(refused(&way).await.kind, FailureKind::Config);
    Ok(())
}

#[tokio::test]
async fn bind_address_and_bind_interface_choose_the_local_address() -> Result<()> {
    let server = Sshd::start().await?;
    let mut way = route(&server);
    way.bind_address = Some("127.0.0.7".into());
    let session = connect(&way).await?.session;
    assert_eq!(
        session.info().local_addr.unwrap().ip().to_string(),
        "127.0.0.7"
    );
    way.bind_address = None;
    way.bind_interface = Some("lo".into());
    connect(&way).await?;
    way.bind_interface = Some("nosuch0".into());
    let failure = refused(&way).await;
    assert_eq!(failure.kind, FailureKind::BindFailed, "{failure:?}");
    Ok(())
}

#[tokio::test]
async fn host_command_output_is_validated_and_used_as_host() -> Result<()> {
    let server = Sshd::start().await?;
    let mut way = route(&server);
    way.host = "unused.invalid".into();
    way.host_command = ["echo", "127.0.0.1"].map(str::to_owned).to_vec();
    connect(&way).await?;
    for (said, told) in [
        ("-oProxyCommand=x", "which is no host"),
        ("", "printed no usable line"),
        ("a b", "no host"),
    ] {
        way.host_command = ["echo", said].map(str::to_owned).to_vec();
        let failure = refused(&way).await;
        assert_eq!(failure.kind, FailureKind::HostCommand, "{failure:?}");
        assert!(failure.message.contains(told), "{failure:?}");
    }
    Ok(())
}
