//! Host keys: prompts, new entries in known_hosts, and KnownHostsCommand.

use anyhow::Result;
use tunneld::failure::FailureKind;
use tunneld_config::model::{HostKeyChecking, UpdateHostKeys};
use tunneld_tests::sshd::{Sshd, SshdOptions};
use tunneld_tests::{keys, wait};

use super::{ScriptedUser, connect, connect_with, refused, route};

#[tokio::test]
async fn an_unknown_host_is_prompted_and_saved() -> Result<()> {
    let server = Sshd::start().await?;
    let mut route = route(&server);
    let known = server.dir().join("fresh/known_hosts");
    route.host_keys.user_files = vec![known.clone()];
    let failure = refused(&route).await;
    assert_eq!(failure.kind, FailureKind::HostKeyUnknown, "{failure:?}");

    route.host_keys.checking = HostKeyChecking::Ask;
    assert_eq!(refused(&route).await.kind, FailureKind::NotAnswered);
    let user = ScriptedUser::answering(&[Some("no")]);
    let failure = connect_with(&route, &user).await.err().unwrap();
    assert_eq!(failure.kind, FailureKind::HostKeyUnknown);
    assert_eq!(server.log()?.count_after(0, "userauth-request"), 0);

    let user = ScriptedUser::answering(&[Some("maybe"), Some("yes")]);
    connect_with(&route, &user).await?;
    let fingerprint = keys::fingerprint(&server.host_key("ed25519")).await?;
    let prompts = user.prompts();
    assert_eq!(prompts.len(), 2);
    assert_eq!(
        prompts[0].fingerprint.as_deref(),
        Some(fingerprint.as_str())
    );
    assert!(prompts[0].text.contains(&fingerprint) && prompts[0].text.contains("ED25519"));
    let saved = std::fs::read_to_string(&known)?;
    assert_eq!(saved, server.known_hosts_lines(server.port())?);
    // Without a user: the host is known now.
    connect(&route).await?;
    Ok(())
}

#[tokio::test]
async fn a_changed_host_key_is_reported_with_both_fingerprints_before_any_login() -> Result<()> {
    let mut server = Sshd::start().await?;
    let mut route = route(&server);
    route.host_keys.checking = HostKeyChecking::AcceptNew;
    let before = keys::fingerprint(&server.host_key("ed25519")).await?;
    server.change_host_keys().await?;
    let now = keys::fingerprint(&server.host_key("ed25519")).await?;
    let failure = refused(&route).await;
    assert_eq!(failure.kind, FailureKind::HostKeyChanged, "{failure:?}");
    let file = route.host_keys.user_files[0].display().to_string();
    for part in [&before, &now, &format!("{file}:1")] {
        assert!(failure.message.contains(part.as_str()), "{failure:?}");
    }
    assert!(
        failure
            .hint
            .unwrap()
            .starts_with("if the host's owner confirms")
    );
    assert_eq!(server.log()?.count_after(0, "userauth-request"), 0);
    Ok(())
}

#[tokio::test]
async fn additional_host_keys_are_saved_once_they_are_proven() -> Result<()> {
    let server = Sshd::start_with(SshdOptions {
        host_keys: vec!["ed25519".into(), "ecdsa".into(), "rsa".into()],
        ..SshdOptions::default()
    })
    .await?;
    let mut route = route(&server);
    let all_lines = server.known_hosts_lines(server.port())?;
    let known = route.host_keys.user_files[0].clone();
    std::fs::write(&known, all_lines.lines().next().unwrap())?;
    route.host_keys.update = UpdateHostKeys::Always;
    let _session = connect(&route).await?;
    let saved = async {
        while std::fs::read_to_string(&known).unwrap().lines().count() < 3 {
            tokio::task::yield_now().await;
        }
    };
    wait::within(wait::LONG, "three keys", saved).await?;
    let saved = std::fs::read_to_string(&known)?;
    for line in all_lines.lines() {
        assert!(saved.contains(line), "{saved}");
    }
    Ok(())
}

#[tokio::test]
async fn known_hosts_command_supplies_keys_and_its_failure_refuses_the_host() -> Result<()> {
    let server = Sshd::start().await?;
    let mut route = route(&server);
    let known = route.host_keys.user_files[0].display().to_string();
    route.host_keys.user_files = vec![server.dir().join("none")];
    let calls = server.dir().join("calls");
    route.host_keys.command = Some(format!(
        "sh -c \"echo $0 $1 >> {}; cat {known}\" %I %t",
        calls.display()
    ));
    connect(&route).await?;
    assert_eq!(
        std::fs::read_to_string(&calls)?,
        "ORDER NONE\nHOSTNAME ssh-ed25519\n"
    );
    route.host_keys.command = Some("false".into());
    let failure = refused(&route).await;
    assert_eq!(failure.kind, FailureKind::Unreadable, "{failure:?}");
    Ok(())
}
