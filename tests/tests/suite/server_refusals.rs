//! Servers that close the connection with a word on why, and requests that would be too large for one.

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tunneld_proto::status::{State, TunnelStatus};
use tunneld_tests::daemon::Daemon;
use tunneld_tests::faulty_link::FaultyLink;
use tunneld_tests::home::Home;
use tunneld_tests::sshd::{Sshd, SshdOptions};
use tunneld_tests::wait::{LONG, within};
use tunneld_tests::{keys, root};

use crate::fixture::{
    error_kind, has_error, reconnected_since, session_since, start_daemon, without_key,
};

fn waits(tunnel: &TunnelStatus) -> bool {
    tunnel.state == State::Waiting
}

fn message(tunnel: &TunnelStatus) -> &str {
    let error = tunnel.last_error.as_ref();
    error.map_or("", |error| error.message.as_str())
}

#[tokio::test]
async fn tunnels_to_a_server_that_turns_them_away_wait_together() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let home = Home::new()?;
    for name in ["a", "b"] {
        let text = format!("[tunnel.{name}]\nhost = \"u@127.0.0.1:{port}\"\nssh_config = false\n");
        home.write(&format!("{name}.toml"), &text)?;
    }
    let daemon = Daemon::start(&home).await?;
    // As sshd 9.8 and later does while a penalty of PerSourcePenalties lasts.
    let (mut stream, _) = listener.accept().await?;
    stream.write_all(b"Not allowed at this time\r\n").await?;
    drop(stream);
    for name in ["a", "b"] {
        let tunnel = daemon.wait_for(name, LONG, waits).await?;
        assert_eq!(error_kind(&tunnel), Some("not_allowed_now"), "{tunnel:?}");
        let words = message(&tunnel);
        assert!(words.contains("Not allowed at this time"), "{words}");
    }
    // Looks once, without waiting: both tunnels have settled.
    let second = tokio::time::timeout(std::time::Duration::ZERO, listener.accept());
    let second = second.await;
    assert!(second.is_err(), "the other tunnel has dialled too");
    Ok(())
}

#[tokio::test]
async fn the_words_before_a_reset_are_part_of_the_error() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let home = Home::new()?;
    home.write(
        "t.toml",
        &format!("[tunnel.t]\nhost = \"u@127.0.0.1:{port}\"\nssh_config = false\n"),
    )?;
    let daemon = Daemon::start(&home).await?;
    let (mut stream, _) = listener.accept().await?;
    stream.read_u8().await?;
    stream
        .write_all(b"554 mail.example\x1b no\r\nservice")
        .await?;
    // Bytes that are not read when a socket is closed make the kernel send a reset.
    drop(stream);
    let tunnel = daemon.wait_for("t", LONG, waits).await?;
    let words = message(&tunnel);
    assert!(words.contains("554 mail.example"), "{words}");
    assert!(words.ends_with(" no service"), "{words}");
    assert!(!words.contains('\x1b'), "{words}");
    Ok(())
}

#[tokio::test]
async fn a_host_that_no_packet_can_hold_fails_that_connect_alone() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    home.write("t.toml", &server.tunnel_toml("t")?)?;
    let daemon = Daemon::start(&home).await?;
    let before = daemon.wait_up("t").await?;
    for host in ["h".repeat(300_000), "h\n".to_owned(), String::new()] {
        let params = json!({ "name": "t", "host": host, "port": 22 });
        assert!(daemon.call("connect", params).await.is_err());
    }
    let after = daemon.status("t").await?;
    assert_eq!(session_since(&after), session_since(&before), "{after:?}");
    Ok(())
}

#[tokio::test]
async fn a_server_with_kerberos_alone_is_no_reason_to_set_a_key() -> Result<()> {
    let server = Sshd::start_with_lines(&[
        "GSSAPIAuthentication yes",
        "AuthenticationMethods gssapi-with-mic",
    ])
    .await?;
    let tunnel = without_key(&server.tunnel_toml("t")?, "identity_file");
    let (_home, daemon) = start_daemon(&tunnel).await?;
    let tunnel = daemon.wait_for("t", LONG, has_error).await?;
    let error = tunnel.last_error.context("an error")?;
    assert!(error.message.contains("gssapi-with-mic"), "{error:?}");
    let hint = error.hint.context("a hint")?;
    assert!(
        hint.contains("Kerberos") && !hint.contains("identity_file"),
        "{hint}"
    );
    Ok(())
}

#[tokio::test]
async fn a_key_exchange_that_never_ends_names_its_usual_causes() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let mut server = tokio::task::JoinSet::new();
    server.spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").await;
            open.push(stream);
        }
    });
    let tunnel = format!("[tunnel.t]\nhost = \"u@127.0.0.1:{port}\"\nconnect_timeout = \"1s\"\n");
    let (_home, daemon) = start_daemon(&tunnel).await?;
    let tunnel = daemon.wait_for("t", LONG, has_error).await?;
    let error = tunnel.last_error.context("an error")?;
    assert!(error.message.ends_with("(at kex)"), "{error:?}");
    let hint = error.hint.context("a hint")?;
    assert!(
        hint.contains("kex_algorithms") && hint.contains("MTU"),
        "{hint}"
    );
    Ok(())
}

/// A server of OpenSSH 10 that turns an address away after a few refused logins in a short time (PerSourcePenalties).
async fn server_with_penalties() -> Result<Option<Sshd>> {
    if !root::available("run the sshd of Debian 13 with chroot")? {
        return Ok(None);
    }
    let options = SshdOptions {
        is_openssh10: true,
        ..SshdOptions::default()
    };
    Ok(Some(Sshd::start_with(options).await?))
}

#[tokio::test]
async fn refused_logins_of_many_tunnels_cost_a_healthy_one_no_reconnect() -> Result<()> {
    let Some(server) = server_with_penalties().await? else {
        return Ok(());
    };
    // Cut from outside: a session that is killed on the server counts as a crash there, and is penalized too.
    let link = FaultyLink::to(server.addr()).await?;
    let home = Home::new()?;
    home.write("good.toml", &server.tunnel_toml_at("good", link.port())?)?;
    let daemon = Daemon::start(&home).await?;
    let before = daemon.wait_up("good").await?;
    // Ten tunnels with a key that the server does not know: 50 s of penalty if they log in at once.
    let wrong_key = home.path("wrong_key");
    keys::generate(&wrong_key, "ed25519").await?;
    for number in 0..10 {
        let name = format!("bad{number}");
        let tunnel = without_key(&server.tunnel_toml(&name)?, "identity_file");
        let line = format!("identity_file = \"{}\"\n", wrong_key.display());
        home.write(&format!("{name}.toml"), &(tunnel + &line))?;
    }
    let mut watch = daemon.watch().await?;
    // Four refusals within 15 s would already start the penalty: it is 5 s for each.
    within(LONG, "four refused logins", async {
        let is_refused = |tunnel: &&TunnelStatus| error_kind(tunnel) == Some("auth_refused");
        while watch.tunnels().values().filter(is_refused).count() < 4 {
            watch.next(LONG).await?;
        }
        anyhow::Ok(())
    })
    .await??;
    link.reset_all();
    let after = watch
        .until("good", LONG, reconnected_since(&before))
        .await?;
    assert_eq!(after.last_error.map(|error| error.kind.to_string()), None);
    let log = daemon.log().text();
    assert!(!log.contains("Not allowed at this time"), "{log}");
    Ok(())
}
