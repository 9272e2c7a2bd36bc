//! Logins: which keys are offered, which prompts are shown, and what a refusal reports.

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
use tunneld_platform::testing::make_fifo;
use tunneld_proto::status::PromptKind;
use tunneld_tests::agent::Agent;
use tunneld_tests::keys;
use tunneld_tests::process::write_script;
use tunneld_tests::sshd::Sshd;

use super::{ScriptedUser, connect, connect_with, refused, route};

#[tokio::test]
async fn a_passphrase_is_prompted_until_it_is_right_and_remembered() -> Result<()> {
    let server = Sshd::start().await?;
    let key = server.dir().join("locked");
    keys::generate_encrypted(&key, "ed25519", "open sesame").await?;
    std::fs::copy(
        key.with_extension("pub"),
        server.dir().join("authorized_keys"),
    )?;
    let mut route = route(&server);
    route.auth.identity_files = vec![key];
    let user = ScriptedUser::answering(&[Some("wrong"), Some("open sesame")]);
    let session = connect_with(&route, &user).await?.session;
    let prompts = user.prompts();
    assert_eq!(prompts.len(), 2);
    assert_eq!(prompts[0].kind, PromptKind::Passphrase);
    assert!(prompts[0].text.contains("/locked") && !prompts[0].fields[0].echo);
    assert!(prompts[1].note.contains("wrong"), "{prompts:?}");
    assert!(
        session.info().auth.contains("file"),
        "{}",
        session.info().auth
    );
    // The next dial does not ask again: the decrypted key is kept in memory.
    connect_with(&route, &user).await?;
    assert_eq!(user.prompts().len(), 2);
    Ok(())
}

#[tokio::test]
async fn a_key_that_the_server_does_not_accept_is_not_unlocked() -> Result<()> {
    let server = Sshd::start().await?;
    let key = server.dir().join("locked");
    keys::generate_encrypted(&key, "ed25519", "open sesame").await?;
    let mut route = route(&server);
    route.auth.identity_files = vec![key, server.user_key()];
    let user = ScriptedUser::answering(&[]);
    connect_with(&route, &user).await?;
    assert!(user.prompts().is_empty(), "{:?}", user.prompts());
    Ok(())
}

#[tokio::test]
async fn a_cancelled_prompt_uses_no_login_attempt() -> Result<()> {
    let server =
        Sshd::start_with_lines(&["PasswordAuthentication yes", "PubkeyAuthentication no"]).await?;
    let mut route = route(&server);
    let failure = refused(&route).await;
    assert_eq!(failure.kind, FailureKind::NotAnswered, "{failure:?}");
    assert!(!server.log()?.text().contains("Failed password"));

    let user = ScriptedUser::answering(&[Some("a"), Some("b"), Some("c")]);
    let failure = connect_with(&route, &user).await.err().unwrap();
    assert_eq!(failure.kind, FailureKind::AuthRefused, "{failure:?}");
    let prompts = user.prompts();
    assert_eq!(prompts.len(), 3);
    assert!(prompts[1].note.contains("wrong"), "{prompts:?}");

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
    make_fifo(&fifo);
    // A sparse file: it takes no space on the disk.
    std::fs::File::create(&big)?.set_len(1 << 30)?;
    std::fs::write(&junk, "no key")?;
    std::fs::set_permissions(&junk, PermissionsExt::from_mode(0o600))?;
    for (path, message) in [
        (open, "chmod 600"),
        (folder, "not a regular file"),
        (fifo, "not a regular file"),
        (big, "larger than 1 MiB"),
        (junk, "not a private key"),
        (dir.join("missing"), "does not exist"),
    ] {
        route.auth.identity_files = vec![path.clone()];
        let failure = refused(&route).await;
        // What is in the file's place may change without the user's help: a retry, unlike the content of a file.
        let kind = match message {
            "not a regular file" => FailureKind::Unreadable,
            _ => FailureKind::NoCredentials,
        };
        assert_eq!(failure.kind, kind, "{failure:?}");
        assert!(failure.message.contains(message), "{failure:?}");
        assert!(
            failure.message.contains(path.to_str().unwrap()),
            "{failure:?}"
        );
    }
    // Without PAM sshd offers keyboard-interactive and then sends no prompt. The failure must still name the key files.
    let server = Sshd::start_with_lines(&["KbdInteractiveAuthentication yes"]).await?;
    let mut second_route = super::route(&server);
    second_route.auth.identity_files = route.auth.identity_files;
    let failure = refused(&second_route).await;
    assert_eq!(failure.kind, FailureKind::NoCredentials, "{failure:?}");
    assert!(failure.hint.unwrap().starts_with("fix the keys"));
    Ok(())
}

#[tokio::test]
async fn the_configured_file_is_tried_first_and_too_many_agent_keys_are_refused() -> Result<()> {
    let server = Sshd::start_with_lines(&["MaxAuthTries 3"]).await?;
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

/// Serves an agent that lists the key of this file and refuses to sign with it.
fn declining_agent(socket: &Path, key: &Path) -> Result<JoinSet<Result<()>>> {
    let string = |bytes: &[u8]| {
        let len = u32::try_from(bytes.len()).unwrap_or(0);
        [&len.to_be_bytes(), bytes].concat()
    };
    let key = load_public_key(key.with_extension("pub"))?.public_key_bytes();
    // SSH_AGENT_IDENTITIES_ANSWER with one key, and SSH_AGENT_FAILURE.
    let list = [&[12, 0, 0, 0, 1][..], &string(&key), &string(b"held")].concat();
    let (list, failure) = (string(&list), string(&[5]));
    let listener = UnixListener::bind(socket)?;
    let mut task = JoinSet::new();
    task.spawn(async move {
        loop {
            let mut stream = listener.accept().await?.0;
            while let Ok(len) = stream.read_u32().await {
                let mut request = vec![0; usize::try_from(len)?];
                stream.read_exact(&mut request).await?;
                // SSH_AGENTC_REQUEST_IDENTITIES.
                let asks_for_list = request.first() == Some(&11);
                stream
                    .write_all(if asks_for_list { &list } else { &failure })
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
    let missing = server.dir().join("missing");
    let empty = Agent::start().await?;
    let declining = server.dir().join("declining");
    let _agent = declining_agent(&declining, &server.user_key())?;
    for socket in [missing, empty.socket(), declining] {
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
    // Longer than the connect timeout below.
    write_script(&askpass, "sleep 5")?;
    let agent = Agent::start_with_askpass(&askpass).await?;
    agent.add_with_options(&["-c"], &server.user_key()).await?;
    let mut route = route(&server);
    route.auth.identity_files = Vec::new();
    route.auth.agent = Where::Socket(agent.socket());
    route.connect_timeout = Duration::from_secs(2);
    let session = connect(&route).await?.session;
    let auth = &session.info().auth;
    assert!(auth.contains("agent"), "{auth}");
    Ok(())
}
