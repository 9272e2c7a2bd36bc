//! Connections over pipes in memory with a paused clock, and the server over a real socket.

mod harness;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::time::Instant;
use tunneld_proto::message::{EventBody, ReloadReport};
use tunneld_proto::status::Desired;

use super::serve;
use harness::{HELLO, TestClient, TestDaemon};

fn kind(reply: &Value) -> &str {
    reply["error"]["data"]["kind"].as_str().unwrap_or("none")
}

#[tokio::test]
async fn the_first_call_must_be_hello_and_may_be_repeated_after_an_error() {
    let mut daemon = TestDaemon::new().await;
    let mut client = daemon.client(1 << 16, Arc::default());
    assert_eq!(
        kind(&client.call("daemon.status", json!({})).await),
        "invalid_request"
    );
    let other = client
        .call("hello", json!({"client": "x", "protocol": [9]}))
        .await;
    assert_eq!(kind(&other), "unsupported_protocol");
    assert_eq!(other["error"]["data"]["causes"], json!(["1"]));
    client.send(HELLO).await;
    assert_eq!(client.receive().await["result"]["pid"], std::process::id());
    let status = client.call("daemon.status", json!({})).await;
    assert_eq!(status["result"]["notes"], json!(["a note"]));
    assert_eq!(status["result"]["socket"], "here");
}

#[tokio::test(start_paused = true)]
async fn a_client_without_hello_is_disconnected_after_ten_seconds() {
    let mut daemon = TestDaemon::new().await;
    let started = Instant::now();
    let mut client = daemon.client(1 << 16, Arc::default());
    client.writer.write_all(b"{\"jsonrpc\"").await.unwrap();
    assert_eq!(client.read_to_end().await, "");
    assert_eq!(started.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_client_may_be_silent_after_hello() {
    let mut daemon = TestDaemon::new().await;
    let mut client = daemon.greeted_client().await;
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert!(client.call("tunnel.status", json!({})).await["result"]["tunnels"].is_array());
}

#[tokio::test]
async fn an_invalid_line_gets_an_error_and_the_next_line_is_read() {
    let mut daemon = TestDaemon::new().await;
    let mut client = daemon.greeted_client().await;
    client.writer.write_all(b"\xff\xfe{\n").await.unwrap();
    assert_eq!(kind(&client.receive().await), "parse_error");
    client.send(&"[".repeat(100_000)).await;
    assert_eq!(kind(&client.receive().await), "parse_error");
    let unknown = client.call("no.such", json!({})).await;
    assert_eq!(kind(&unknown), "unknown_method");
    assert!(
        unknown["error"]["data"]["hint"]
            .as_str()
            .unwrap()
            .contains("tunnel.up")
    );
    let invalid = client.call("tunnel.up", json!({"names": 3})).await;
    assert_eq!(kind(&invalid), "invalid_params");
}

#[tokio::test]
async fn a_line_over_the_limit_ends_the_connection() {
    let mut daemon = TestDaemon::new().await;
    let TestClient { reader, mut writer } = daemon.greeted_client().await;
    let endless = async {
        let chunk = vec![b'x'; 1 << 16];
        while writer.write_all(&chunk).await.is_ok() {}
    };
    let client = TestClient {
        reader,
        writer: tokio::io::split(tokio::io::duplex(1).0).1,
    };
    let (rest, ()) = tokio::join!(client.read_to_end(), endless);
    assert_eq!(kind(&serde_json::from_str(&rest).unwrap()), "line_too_long");
}

#[tokio::test]
async fn a_notification_gets_no_reply_and_a_half_closed_client_gets_all_replies() {
    let mut daemon = TestDaemon::new().await;
    let mut client = daemon.greeted_client().await;
    client
        .send(r#"{"jsonrpc":"2.0","method":"tunnel.status"}"#)
        .await;
    client
        .send(r#"{"jsonrpc":"2.0","id":"a","method":"tunnel.status"}"#)
        .await;
    // The last line has no line feed.
    client
        .writer
        .write_all(br#"{"jsonrpc":"2.0","id":"b","method":"tunnel.status"}"#)
        .await
        .unwrap();
    client.writer.shutdown().await.unwrap();
    let rest = client.read_to_end().await;
    let ids: Vec<Value> = rest
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone())
        .collect();
    assert_eq!(ids, ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_requests_and_never_reads_is_not_read_from_and_disconnected() {
    let mut daemon = TestDaemon::new().await;
    let mut client = daemon.client(4096, Arc::default());
    client.send(HELLO).await;
    let started = Instant::now();
    let mut accepted = 0;
    for id in 0..100_000 {
        let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"no.such\"}}\n");
        if client.writer.write_all(line.as_bytes()).await.is_err() {
            break;
        }
        accepted += 1;
    }
    // 64 KiB of replies, and the requests in the pipe and in the reader's buffer.
    assert!(accepted < 1000, "{accepted}");
    assert_eq!(started.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn a_slow_subscriber_gets_the_number_of_missed_events_and_a_new_snapshot() {
    let mut daemon = TestDaemon::new().await;
    let mut client = daemon.client(4096, Arc::default());
    client.send(HELLO).await;
    client.receive().await;
    let snapshot = client.call("events.subscribe", json!({})).await;
    let first = snapshot["result"]["seq"].as_u64().unwrap();
    let big = ReloadReport {
        added: vec!["x".repeat(200); 50],
        ..ReloadReport::default()
    };
    for _ in 0..1000 {
        daemon.context.supervisor.announce_reload(big.clone());
        tokio::task::yield_now().await;
    }
    let mut seq = first;
    let missed = loop {
        let notification = client.receive().await;
        let params = &notification["params"];
        if notification["method"] == "lagged" {
            assert!(params["tunnels"].is_array());
            assert_eq!(params["seq"], first + 1000);
            break params["missed"].as_u64().unwrap();
        }
        seq += 1;
        assert_eq!(params["seq"], seq);
        assert_eq!(params["kind"], "config");
    };
    assert!(missed >= 600 && seq + missed <= first + 1000, "{missed}");
    daemon
        .context
        .supervisor
        .announce_reload(ReloadReport::default());
    assert_eq!(client.receive().await["params"]["seq"], first + 1001);
}

#[tokio::test]
async fn subscribers_get_bye_and_then_the_connection_is_closed() {
    let mut daemon = TestDaemon::new().await;
    let mut client = daemon.greeted_client().await;
    client.call("events.subscribe", json!({})).await;
    let mut other = daemon.greeted_client().await;
    assert_eq!(
        other.call("daemon.shutdown", json!({})).await["result"],
        json!({})
    );
    daemon.context.stopping.cancelled().await;
    assert_eq!(
        kind(&other.call("config.reload", json!({})).await),
        "stopping"
    );
    daemon.context.supervisor.stop().await;
    daemon.context.stopped.cancel();
    let rest = client.read_to_end().await;
    let last: Value = serde_json::from_str(rest.lines().last().unwrap()).unwrap();
    assert_eq!(
        last["params"]["kind"],
        serde_json::to_value(EventBody::Bye).unwrap()["kind"]
    );
}

#[tokio::test]
async fn up_names_missing_tunnels_and_waits_at_most_timeout_ms() {
    let mut daemon = TestDaemon::new().await;
    let mut client = daemon.greeted_client().await;
    let missing = client
        .call("tunnel.up", json!({"names": ["nosuch"], "wait": true}))
        .await;
    assert_eq!(kind(&missing), "tunnel_not_found");
    assert!(
        missing["error"]["message"]
            .as_str()
            .unwrap()
            .contains("nosuch")
    );
    assert_eq!(
        kind(
            &client
                .call("tunnel.status", json!({"names": ["nosuch"]}))
                .await
        ),
        "tunnel_not_found"
    );
    daemon.unreachable_tunnel("dead").await;
    let late = client
        .call(
            "tunnel.up",
            json!({"names": ["dead"], "wait": true, "timeout_ms": 300}),
        )
        .await;
    assert_eq!(kind(&late), "timeout", "{late}");
    let down = client
        .call("tunnel.down", json!({"names": ["dead"], "wait": true}))
        .await;
    assert_eq!(down["result"]["tunnels"][0]["state"], "stopped");
    assert_eq!(
        daemon.context.state_file.desired("dead"),
        Some(Desired::Down)
    );
}

#[tokio::test]
async fn a_hangup_ends_the_wait_of_the_client() {
    let mut daemon = TestDaemon::new().await;
    daemon.unreachable_tunnel("dead").await;
    let hung_up = Arc::new(AtomicBool::new(false));
    let mut client = daemon.client(1 << 16, hung_up.clone());
    client.send(HELLO).await;
    client.receive().await;
    client
        .send(r#"{"jsonrpc":"2.0","id":1,"method":"tunnel.up","params":{"names":["dead"],"wait":true,"timeout_ms":3600000}}"#)
        .await;
    hung_up.store(true, Ordering::Relaxed);
    assert_eq!(client.read_to_end().await, "");
}

#[tokio::test]
async fn a_tunnel_can_be_added_saved_and_removed() {
    let mut daemon = TestDaemon::new().await;
    let mut client = daemon.greeted_client().await;
    let spec = json!({"host": "127.0.0.1", "port": 1, "ssh_config": false});
    let wrong = client
        .call(
            "tunnel.add",
            json!({"name": "quick", "spec": {"hots": "x"}}),
        )
        .await;
    assert_eq!(kind(&wrong), "config");
    let made = client
        .call("tunnel.add", json!({"name": "quick", "spec": spec}))
        .await;
    assert_eq!(made["result"], json!({"name": "quick"}), "{made}");
    assert!(daemon.context.state_file.is_ad_hoc("quick"));
    let twice = client
        .call("tunnel.add", json!({"name": "quick", "spec": spec}))
        .await;
    assert_eq!(kind(&twice), "tunnel_exists");
    assert_eq!(
        client.call("tunnel.remove", json!({"name": "quick"})).await["result"],
        json!({})
    );
    assert!(!daemon.context.state_file.is_ad_hoc("quick"));
    let saved = client
        .call(
            "tunnel.add",
            json!({"name": "kept", "spec": spec, "save": true}),
        )
        .await;
    let file = saved["result"]["file"].as_str().unwrap();
    assert!(
        std::fs::read_to_string(Path::new(file))
            .unwrap()
            .contains("[tunnel.kept]")
    );
    assert!(!daemon.context.state_file.is_ad_hoc("kept"));

    // A saved tunnel is changed in its file, and a change that would break other tunnels is not written.
    let add =
        |name: &str, spec: serde_json::Value| json!({"name": name, "spec": spec, "save": true});
    let changed =
        json!({"host": "127.0.0.1", "port": 1, "ssh_config": false, "local_forward": "2 h:1"});
    let again = client
        .call("tunnel.add", add("kept", changed.clone()))
        .await;
    assert_eq!(again["result"]["file"].as_str(), Some(file), "{again}");
    let text = std::fs::read_to_string(Path::new(file)).unwrap();
    assert!(text.contains("local_forward"), "{text}");
    let clash = client
        .call("tunnel.add", add("clash", changed.clone()))
        .await;
    assert_eq!(kind(&clash), "config", "{clash}");
    assert!(
        clash
            .to_string()
            .contains("two forwards listen on one address"),
        "{clash}"
    );
    assert!(!Path::new(file).with_file_name("clash.toml").exists());
    assert!(daemon.context.reloader.faults().is_empty());

    let quick =
        json!({"name": "quick", "spec": {"host": "127.0.0.1", "port": 1, "ssh_config": false}});
    client.call("tunnel.add", quick).await;
    let kept = client
        .call(
            "tunnel.add",
            add("quick", json!({"host": "h", "ssh_config": false})),
        )
        .await;
    assert!(kept["result"]["file"].is_string(), "{kept}");
    assert!(!daemon.context.state_file.is_ad_hoc("quick"));
    for carrier in ["lost", "nobody"] {
        let jump =
            json!({"host": "h", "ssh_config": false, "proxy_jump": format!("tunnel:{carrier}")});
        let lost = client
            .call("tunnel.add", json!({"name": "lost", "spec": jump}))
            .await;
        assert_eq!(kind(&lost), "config", "{lost}");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn sixty_four_clients_that_said_hello_are_served_and_the_next_gets_busy() {
    use tokio::net::UnixStream;
    use tunneld_proto::endpoint::{Endpoint, listen};
    let mut daemon = TestDaemon::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.sock");
    let endpoint =
        Endpoint::resolve(Some(&path), &tunneld_proto::paths::Env::from_process()).unwrap();
    daemon
        .tasks
        .spawn(serve(listen(&endpoint).unwrap(), daemon.context.clone()));
    let mut clients = Vec::new();
    for _ in 0..64 {
        let mut client = BufReader::new(UnixStream::connect(&path).await.unwrap());
        client
            .write_all(format!("{HELLO}\n").as_bytes())
            .await
            .unwrap();
        // A client counts against others once it has said hello.
        client.read_line(&mut String::new()).await.unwrap();
        clients.push(client);
    }
    let mut refusal = String::new();
    UnixStream::connect(&path)
        .await
        .unwrap()
        .read_to_string(&mut refusal)
        .await
        .unwrap();
    assert_eq!(kind(&serde_json::from_str(&refusal).unwrap()), "busy");
    // A client that disconnects makes room for another.
    clients.pop();
    let mut reply = String::new();
    while !reply.contains("result") {
        let mut client = UnixStream::connect(&path).await.unwrap();
        // The daemon may have closed the socket of a client that it refused.
        let _ = client.write_all(format!("{HELLO}\n").as_bytes()).await;
        let _ = client.shutdown().await;
        reply.clear();
        let _ = client.read_to_string(&mut reply).await;
    }
    daemon.context.stopped.cancel();
    drop(clients);
    while path.exists() {
        tokio::task::yield_now().await;
    }
}
