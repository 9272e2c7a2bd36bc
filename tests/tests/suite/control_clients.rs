//! Clients of the control socket that send garbage, stay silent, do not read or are not allowed: each one affects only
//! itself.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tokio::time::Instant;
use tunneld_tests::daemon::Daemon;
use tunneld_tests::process;
use tunneld_tests::root;
use tunneld_tests::rpc::Rpc;
use tunneld_tests::wait::{LONG, within};

use crate::fixture::{error_kind_of_reply, secs, start_with_stopped_tunnel};

/// Checks that the daemon still answers, and within two seconds.
async fn check_responsive(daemon: &Daemon) -> Result<()> {
    let began = Instant::now();
    daemon.call("daemon.status", json!({})).await?;
    assert!(
        began.elapsed() < secs(2),
        "answered after {:?}",
        began.elapsed()
    );
    Ok(())
}

#[tokio::test]
async fn an_invalid_request_line_gets_an_error_and_the_connection_stays_open() -> Result<()> {
    let (_home, daemon) = start_with_stopped_tunnel().await?;
    let mut rpc = daemon.rpc().await?;
    // Nested more deeply than a recursive parser survives.
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let lines: &[&[u8]] = &[
        b"no json",
        b"{",
        b"[]",
        b"7",
        b"null",
        b"\"text\"",
        b"{\"a\":NaN}",
        b"{\"jsonrpc\":\"2.0\",\"id\":1e999,\"method\":\"daemon.status\"}",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\\ud800\"}",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\xfe\"}",
        b"{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"daemon.status\"}",
        b"{\"jsonrpc\":\"2.0\",\"id\":1}",
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":7}",
        deep.as_bytes(),
    ];
    for line in lines {
        rpc.send(line).await?;
        rpc.send(b"\n").await?;
        let reply = rpc.next_object(LONG).await?;
        let start = String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
        let (code, kind) = (reply["error"]["code"].clone(), error_kind_of_reply(&reply));
        assert!(
            matches!(kind, "parse_error" | "invalid_request"),
            "{start}: {reply}"
        );
        assert!(code == -32700 || code == -32600, "{start}: {reply}");
    }
    rpc.call("daemon.status", json!({})).await??;
    Ok(())
}

#[tokio::test]
async fn a_line_over_the_size_limit_closes_the_connection_and_uses_no_extra_memory() -> Result<()> {
    let (_home, daemon) = start_with_stopped_tunnel().await?;
    let pid = daemon.process().pid();
    let before = process::resident_bytes(pid)?;
    let mut rpc = daemon.rpc().await?;
    let part = vec![b'x'; 64 * 1024];
    // 64 MiB without a newline; the daemon closes the connection long before the end.
    for _ in 0..1024 {
        if rpc.send(&part).await.is_err() {
            break;
        }
    }
    let rest = rpc.wait_closed(LONG).await?;
    let rest = String::from_utf8_lossy(&rest);
    assert!(rest.is_empty() || rest.contains("line_too_long"), "{rest}");
    let grown = process::resident_bytes(pid)?.saturating_sub(before);
    assert!(grown < 16 << 20, "grew by {grown} bytes");
    check_responsive(&daemon).await
}

#[tokio::test]
async fn clients_that_do_not_complete_a_line_are_disconnected() -> Result<()> {
    let (home, daemon) = start_with_stopped_tunnel().await?;
    let began = Instant::now();
    let mut silent = Rpc::connect(&home.socket()).await?;
    let mut dribbling = Rpc::connect(&home.socket()).await?;
    // A line that never ends, a byte each half second: the limit is for the whole hello, not for a pause.
    let dribble = async {
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            tick.tick().await;
            if dribbling.send(b"{").await.is_err() {
                return;
            }
        }
    };
    within(secs(15), "the end of the slow client", dribble).await?;
    silent.wait_closed(secs(5)).await?;
    assert!(began.elapsed() >= secs(4), "{:?}", began.elapsed());
    check_responsive(&daemon).await
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() -> Result<()> {
    let (_home, daemon) = start_with_stopped_tunnel().await?;
    let mut rpc = daemon.rpc().await?;
    let mut text = String::new();
    for id in 1000..1100 {
        text += &format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"daemon.status\",\"params\":{{}}}}\n"
        );
    }
    rpc.send(text.as_bytes()).await?;
    for id in 1000..1100 {
        assert_eq!(rpc.next_object(LONG).await?["id"], id);
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_does_not_read_replies_blocks_only_itself() -> Result<()> {
    let (_home, daemon) = start_with_stopped_tunnel().await?;
    let before = process::resident_bytes(daemon.process().pid())?;
    let mut rpc = daemon.rpc().await?;
    let line = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"daemon.status\",\"params\":{}}\n";
    let flood = line.repeat(100);
    let blocked = async {
        loop {
            if rpc.send(flood.as_bytes()).await.is_err() {
                return;
            }
        }
    };
    // Either the socket is full and the send blocks, or the daemon disconnects.
    let _ = tokio::time::timeout(secs(2), blocked).await;
    check_responsive(&daemon).await?;
    let grown = process::resident_bytes(daemon.process().pid())?.saturating_sub(before);
    assert!(grown < 16 << 20, "grew by {grown} bytes");
    Ok(())
}

#[tokio::test]
async fn a_request_is_answered_after_half_close() -> Result<()> {
    let (home, _daemon) = start_with_stopped_tunnel().await?;
    let mut rpc = Rpc::connect(&home.socket()).await?;
    let text = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"hello\",\"params\":{\"client\":\"lab\",\"protocol\":[1]}}\n\
        {\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"daemon.status\",\"params\":{}}\n";
    rpc.send(text.as_bytes()).await?;
    rpc.close_write().await?;
    assert_eq!(rpc.next_object(LONG).await?["id"], 1);
    assert_eq!(rpc.next_object(LONG).await?["id"], 2);
    rpc.wait_closed(LONG).await?;
    Ok(())
}

#[tokio::test]
async fn sixty_four_clients_that_say_nothing_keep_nobody_out() -> Result<()> {
    let (home, daemon) = start_with_stopped_tunnel().await?;
    let mut talking = daemon.rpc().await?;
    let mut silent = Vec::new();
    for _ in 0..63 {
        silent.push(Rpc::connect(&home.socket()).await?);
    }
    home.ctl(&["status"]).await?.expect_exit(0)?;
    // The oldest silent client made room. The one that said hello stays.
    silent.remove(0).wait_closed(LONG).await?;
    let status = talking.call("daemon.status", json!({})).await?;
    assert!(status.is_ok(), "{status:?}");
    Ok(())
}

#[tokio::test]
async fn the_sixty_fifth_client_gets_the_error_busy() -> Result<()> {
    let (home, daemon) = start_with_stopped_tunnel().await?;
    let mut clients = Vec::new();
    // The daemon's limit of clients.
    for _ in 0..64 {
        clients.push(daemon.rpc().await?);
    }
    let mut rpc = Rpc::connect(&home.socket()).await?;
    let _ = rpc
        .send_line(
            r#"{"jsonrpc":"2.0","id":1,"method":"hello","params":{"client":"lab","protocol":[1]}}"#,
        )
        .await;
    let reply = rpc.next_object(LONG).await?;
    assert_eq!(error_kind_of_reply(&reply), "busy", "{reply}");
    rpc.wait_closed(LONG).await?;
    clients.truncate(60);
    within(LONG, "room for another client", async {
        while Rpc::hello(&home.socket()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

#[tokio::test]
async fn file_descriptors_sent_by_a_client_are_closed() -> Result<()> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::os::fd::AsFd;
    let (home, daemon) = start_with_stopped_tunnel().await?;
    let pid = daemon.process().pid();
    check_responsive(&daemon).await?;
    let before = process::open_file_count(pid)?;
    let stream = std::os::unix::net::UnixStream::connect(home.socket())?;
    let file = std::fs::File::open("/dev/null")?;
    // A message that is not complete, with a hundred descriptors that the kernel hands to the daemon.
    let fds = vec![file.as_fd(); 100];
    let mut space = vec![std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(100))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let data = [rustix::io::IoSlice::new(b"{\"jsonrpc\":\"2.0\"")];
    sendmsg(&stream, &data, &mut control, SendFlags::empty())?;
    check_responsive(&daemon).await?;
    let during = process::open_file_count(pid)?;
    // The daemon may open a few of its own meanwhile.
    assert!(during <= before + 10, "{during} files, {before} before");
    Ok(())
}

#[tokio::test]
async fn a_client_of_another_user_is_disconnected_before_any_reply() -> Result<()> {
    if !root::available("run a client as another user")? {
        return Ok(());
    }
    let (home, daemon) = start_with_stopped_tunnel().await?;
    let mut path = home.socket();
    // The socket and every folder above it are opened to all users: the daemon must check the peer's user id itself.
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777))?;
    while path.starts_with(home.path("")) && path.pop() {
        if path != std::env::temp_dir() {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
        }
        if path == home.path("") {
            break;
        }
    }
    let hello = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"hello\",\"params\":{\"client\":\"x\",\"protocol\":[1]}}";
    let script = format!(
        "printf '%s\\n' '{hello}' | socat -t5 - UNIX-CONNECT:{}",
        home.socket().display()
    );
    let out = tokio::process::Command::new("setpriv")
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "sh",
            "-c",
            &script,
        ])
        .output()
        .await?;
    assert_eq!(String::from_utf8_lossy(&out.stdout), "");
    check_responsive(&daemon).await
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_blocks_only_itself_and_gets_the_number_of_missed_events()
-> Result<()> {
    let (_home, daemon) = start_with_stopped_tunnel().await?;
    let mut rpc = daemon.rpc().await?;
    rpc.call("events.subscribe", json!({})).await??;
    let mut commands = daemon.rpc().await?;
    // Enough events to fill the socket and the daemon's queue for this subscriber.
    for _ in 0..600 {
        for method in ["tunnel.up", "tunnel.down"] {
            commands.call(method, json!({"names": ["t"]})).await??;
        }
    }
    check_responsive(&daemon).await?;
    let missed = within(LONG, "lagged, or the end of the connection", async {
        loop {
            match rpc.next_line(LONG).await? {
                None => return anyhow::Ok(true),
                Some(line) => {
                    let object: Value = serde_json::from_str(&line)?;
                    if object["method"] == "lagged" {
                        return Ok(object["params"]["missed"].as_u64() > Some(0));
                    }
                }
            }
        }
    });
    assert!(missed.await??);
    Ok(())
}
