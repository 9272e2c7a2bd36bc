//! Logins: what is asked, what is tried, what is told.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use russh::keys::{PublicKeyBase64 as _, load_public_key};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tunneld::failure::{FailureKind, Recovery};
use tunneld_config::model::{AddKeysToAgent, Agent as Where};
use tunneld_proto::status::PromptKind;
use tunneld_tests::agent::Agent;
use tunneld_tests::keys;
use tunneld_tests::sshd::Sshd;

use super::{Person, connect, connect_with, refused, route};

#[tokio::test]
async fn a_passphrase_is_prompted_until_it_is_right_and_remembered() -> Result<()> {
    let server = Sshd::start().await?;
    let key = server.dir().join("locked");
    keys::generate_with(&key, "ed25519", "open sesame").await?;
    std::fs::copy(
        key.with_extension("pub"),
        server.dir().join("authorized_keys"),
    )?;
    let mut route = route(&server);
    route.auth.identity_files = vec![key];
    let person = Person::who_says(&[Some("wrong"), Some("open sesame")]);
    let session = connect_with(&route, &person).await?.session;
    let asked = person.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].kind, PromptKind::Passphrase);
    assert!(asked[0].text.contains("/locked") && !asked[0].fields[0].echo);
    assert!(asked[1].note.contains("wrong"), "{asked:?}");
    assert!(
        session.info().auth.contains("file"),
        "{}",
        session.info().auth
    );
    // The next dial asks nobody.
    connect(&route).await?;
    Ok(())
}

#[tokio::test]
async fn a_key_that_the_server_does_not_accept_is_not_unlocked() -> Result<()> {
    let server = Sshd::start().await?;
    let key = server.dir().join("locked");
    keys::generate_with(&key, "ed25519", "open sesame").await?;
    let mut route = route(&server);
    route.auth.identity_files = vec![key, server.user_key()];
    let person = Person::who_says(&[]);
    connect_with(&route, &person).await?;
    assert!(person.asked().is_empty(), "{:?}", person.asked());
    Ok(())
}

#[tokio::test]
async fn a_cancelled_prompt_uses_no_login_attempt() -> Result<()> {
    let server =
        Sshd::with_lines(&["PasswordAuthentication yes", "PubkeyAuthentication no"]).await?;
    let mut route = route(&server);
    let failure = refused(&route).await;
    assert_eq!(failure.kind, FailureKind::NotAnswered, "{failure:?}");
    assert!(!server.log()?.text().contains("Failed password"));

    let person = Person::who_says(&[Some("a"), Some("b"), Some("c")]);
    let failure = connect_with(&route, &person).await.err().unwrap();
    assert_eq!(failure.kind, FailureKind::AuthRefused, "{failure:?}");
    let asked = person.asked();
    assert_eq!(asked.len(), 3);
    assert!(asked[1].note.contains("wrong"), "{asked:?}");

    route.auth.password_command = ["sh", "-c", "echo hunter2"].map(str::to_owned).to_vec();
    let failure = refused(&route).await;
    assert_eq!(failure.kind, FailureKind::AuthRefused, "{failure:?}");
    assert!(!format!("{failure:?}").contains("hunter2"));
    Ok(())
}

#[tokio::test]
async fn unusable_key_files_are_named_with_the_remedy() -> Result<()> {
    let server = Sshd::start().await?;
    let dir = server.dir();
    let mut route = route(&server);
    let open = dir.join("open_to_all");
    keys::generate(&open, "ed25519").await?;
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o644))?;
    let (folder, fifo, big, junk) = (
        dir.join("folder"),
        dir.join("fifo"),
        dir.join("big"),
        dir.join("junk"),
    );
    std::fs::create_dir(&folder)?;
    keys::run("mkfifo", &[fifo.to_str().unwrap()]).await?;
    std::fs::File::create(&big)?.set_len(1 << 30)?;
    std::fs::write(&junk, "no key")?;
    std::fs::set_permissions(&junk, PermissionsExt::from_mode(0o600))?;
    for (path, told) in [
        (open, "chmod 600"),
        (folder, "no regular file"),
        (fifo, "no regular file"),
        (big, "larger than 1 MiB"),
        (junk, "no private key"),
        (dir.join("missing"), "does not exist"),
    ] {
        route.auth.identity_files = vec![path.clone()];
        let failure = refused(&route).await;
        assert_eq!(failure.kind, FailureKind::NoCredentials, "{failure:?}");
        assert!(failure.message.contains(told), "{failure:?}");
        assert!(
            failure.message.contains(path.to_str().unwrap()),
            "{failure:?}"
        );
    }
    // Without PAM sshd offers keyboard-interactive and asks nothing: that hides no cause.
    let server = Sshd::with_lines(&["KbdInteractiveAuthentication yes"]).await?;
    let mut other = super::route(&server);
    other.auth.identity_files = route.auth.identity_files;
    let failure = refused(&other).await;
    assert_eq!(failure.kind, FailureKind::NoCredentials, "{failure:?}");
    assert!(failure.hint.unwrap().starts_with("mend"));
    Ok(())
}

#[tokio::test]
async fn the_configured_file_is_tried_first_and_too_many_agent_keys_are_refused() -> Result<()> {
    let server = Sshd::with_lines(&["MaxAuthTries 3"]).await?;
    let agent = Agent::start().await?;
    for n in 0..8 {
        let key = server.dir().join(format!("agent{n}"));
        keys::generate(&key, "ed25519").await?;
        agent.add(&key).await?;
    }
    let mut route = route(&server);
    route.auth.agent = Where::Socket(agent.socket().to_owned());
    connect(&route).await?;
    route.auth.identity_files = Vec::new();
    let failure = refused(&route).await;
    assert_eq!(failure.kind, FailureKind::AuthRefused, "{failure:?}");
    assert!(failure.hint.unwrap().contains("identities_only"));
    route.auth.identities_only = true;
    assert_eq!(refused(&route).await.kind, FailureKind::NoCredentials);
    Ok(())
}

/// An agent that holds the key of this file, and declines to sign with it.
fn declining_agent(socket: &Path, key: &Path) -> Result<JoinSet<Result<()>>> {
    let string = |bytes: &[u8]| {
        let len = u32::try_from(bytes.len()).unwrap_or(0);
        [&len.to_be_bytes(), bytes].concat()
    };
    let key = load_public_key(key.with_extension("pub"))?.public_key_bytes();
    let held = [&[12, 0, 0, 0, 1][..], &string(&key), &string(b"held")].concat();
    let (held, declined) = (string(&held), string(&[5]));
    let listener = UnixListener::bind(socket)?;
    let mut task = JoinSet::new();
    task.spawn(async move {
        loop {
            let mut stream = listener.accept().await?.0;
            while let Ok(len) = stream.read_u32().await {
                let mut request = vec![0; usize::try_from(len)?];
                stream.read_exact(&mut request).await?;
                let lists = request.first() == Some(&11);
                stream
                    .write_all(if lists { &held } else { &declined })
                    .await?;
            }
        }
    });
    Ok(task)
}

#[tokio::test]
async fn an_agent_without_a_usable_key_is_retried_slowly() -> Result<()> {
    let server = Sshd::start().await?;
    let mut route = route(&server);
    route.auth.identity_files = Vec::new();
    let away = server.dir().join("away");
    let empty = Agent::start().await?;
    let declines = server.dir().join("declines");
    let _agent = declining_agent(&declines, &server.user_key())?;
    for socket in [away, empty.socket(), declines] {
        route.auth.agent = Where::Socket(socket);
        let failure = refused(&route).await;
        assert_eq!(failure.kind, FailureKind::Agent, "{failure:?}");
        assert_eq!(failure.recovery(), Recovery::RetrySlowly);
    }
    Ok(())
}

#[tokio::test]
async fn add_keys_to_agent_adds_the_key() -> Result<()> {
    let server = Sshd::start().await?;
    let agent = Agent::start().await?;
    let mut route = route(&server);
    route.auth.agent = Where::Socket(agent.socket().to_owned());
    route.auth.add_keys_to_agent = AddKeysToAgent::Always {
        confirm: false,
        lifetime: None,
    };
    let first = connect(&route).await?.session;
    assert!(first.info().auth.contains("file"), "{}", first.info().auth);
    let second = connect(&route).await?.session;
    assert!(
        second.info().auth.contains("agent"),
        "{}",
        second.info().auth
    );
    Ok(())
}

#[tokio::test]
async fn a_confirmation_at_the_agent_may_take_longer_than_the_connect_timeout() -> Result<()> {
    let server = Sshd::start().await?;
    let askpass = server.dir().join("askpass");
    // Longer than the dial, and what the core waits for an answer, may take.
    std::fs::write(&askpass, "#!/bin/sh\nsleep 5\n")?;
    std::fs::set_permissions(&askpass, PermissionsExt::from_mode(0o700))?;
    let agent = Agent::with_askpass(&askpass).await?;
    agent.add_with(&["-c"], &server.user_key()).await?;
    let mut route = route(&server);
    route.auth.identity_files = Vec::new();
    route.auth.agent = Where::Socket(agent.socket());
    route.connect_timeout = Duration::from_secs(2);
    let session = connect(&route).await?.session;
    let how = &session.info().auth;
    assert!(how.contains("agent"), "{how}");
    Ok(())
}
