//! The client against a scripted daemon.
#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers outside of test functions fail with it"
)]

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tunneld_proto::client::{Client, ClientError, Incoming, Notification};
use tunneld_proto::codec::CodecError;
use tunneld_proto::endpoint::{Endpoint, Listener, Stream, listen};
use tunneld_proto::error::{ErrorKind, RpcError};
use tunneld_proto::message::{Connect, EventBody, method};
use tunneld_proto::paths::Env;
use tunneld_proto::version::MAX_LINE;

struct Daemon {
    stream: BufReader<Stream>,
}

impl Daemon {
    async fn accept(listener: &Listener) -> Self {
        Self {
            stream: BufReader::new(listener.accept().await.unwrap()),
        }
    }

    async fn accept_and_welcome(listener: &Listener) -> Self {
        let mut daemon = Self::accept(listener).await;
        let hello = daemon.read_call().await;
        assert_eq!(hello["method"], "hello");
        assert_eq!(hello["params"]["protocol"], json!([1]));
        daemon
            .send(&json!({"jsonrpc": "2.0", "id": hello["id"], "result": {"version": "9", "protocol": 1, "pid": 7, "new": true}}))
            .await;
        daemon
    }

    async fn read_call(&mut self) -> Value {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }

    async fn send(&mut self, message: &Value) {
        self.send_bytes(format!("{message}\n").as_bytes()).await;
    }

    async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).await.unwrap();
    }
}

fn setup() -> (TempDir, Endpoint, Listener) {
    let dir = TempDir::new().unwrap();
    let endpoint = Endpoint::resolve(Some(&dir.path().join("s")), &Env::default()).unwrap();
    let listener = listen(&endpoint).unwrap();
    (dir, endpoint, listener)
}

async fn pair() -> (TempDir, Client, Daemon) {
    let (dir, endpoint, listener) = setup();
    let (client, daemon) = tokio::join!(
        Client::connect(&endpoint, "test"),
        Daemon::accept_and_welcome(&listener)
    );
    (dir, client.unwrap(), daemon)
}

#[tokio::test]
async fn replies_match_their_calls_and_events_are_buffered() {
    let (_dir, mut client, mut daemon) = pair().await;
    assert_eq!(
        (client.welcome().pid, client.welcome().version.as_str()),
        (7, "9")
    );
    let params = json!({"a": 1});
    let (got, ()) = tokio::join!(client.call::<Value>("x", &params), async {
        let call = daemon.read_call().await;
        assert_eq!(call["params"], json!({"a": 1}));
        daemon
            .send(&json!({"jsonrpc": "2.0", "method": "event", "params": {"seq": 4, "at": "2026-01-01T00:00:00Z", "kind": "bye", "extra": 1}}))
            .await;
        daemon
            .send(&json!({"jsonrpc": "2.0", "method": "event", "params": {"seq": 5, "at": "2026-01-01T00:00:00Z", "kind": "brand_new", "of": {}}}))
            .await;
        daemon
            .send(&json!({"jsonrpc": "2.0", "id": 99, "result": 0}))
            .await;
        daemon
            .send(&json!({"jsonrpc": "2.0", "id": call["id"], "result": [1, 2]}))
            .await;
    });
    assert_eq!(got.unwrap(), json!([1, 2]));
    let mut bodies = Vec::new();
    for _ in 0..2 {
        match client.notification().await.unwrap() {
            Some(Notification::Event(event)) => bodies.push(event.body),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bodies, [EventBody::Bye, EventBody::Unknown]);
    drop(daemon);
    assert_eq!(client.notification().await.unwrap(), None);
}

#[tokio::test]
async fn an_error_keeps_its_kind_and_hint() {
    let (_dir, mut client, mut daemon) = pair().await;
    let sent =
        RpcError::new(ErrorKind::TunnelNotFound, "no tunnel db").hint("see tunnelctl status");
    let (got, ()) = tokio::join!(client.call::<Value>("x", &Value::Null), async {
        let call = daemon.read_call().await;
        assert_eq!(call.get("params"), None);
        daemon
            .send(&json!({"jsonrpc": "2.0", "id": call["id"], "error": sent}))
            .await;
    });
    match got {
        Err(ClientError::Rpc(err)) => assert_eq!(err, sent),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_version_error_names_both_versions() {
    let (_dir, endpoint, listener) = setup();
    let (client, ()) = tokio::join!(Client::connect(&endpoint, "test"), async {
        let mut daemon = Daemon::accept(&listener).await;
        let hello = daemon.read_call().await;
        let err = RpcError::new(ErrorKind::UnsupportedProtocol, "no")
            .causes(["2".to_owned(), "3".to_owned()]);
        daemon
            .send(&json!({"jsonrpc": "2.0", "id": hello["id"], "error": err}))
            .await;
    });
    let err = client.unwrap_err();
    assert!(matches!(err, ClientError::Version { .. }), "{err:?}");
    assert_eq!(
        err.to_string(),
        "the daemon supports protocol 2, 3, this program 1"
    );
}

#[tokio::test]
async fn an_error_without_an_id_fails_the_call() {
    let (_dir, endpoint, listener) = setup();
    let (client, ()) = tokio::join!(Client::connect(&endpoint, "test"), async {
        let mut daemon = Daemon::accept(&listener).await;
        daemon
            .send(&json!({"jsonrpc": "2.0", "id": null, "error": RpcError::new(ErrorKind::Busy, "64 clients")}))
            .await;
    });
    match client {
        Err(ClientError::Rpc(err)) => assert_eq!(err.data.kind, ErrorKind::Busy),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_hung_daemon_times_out() {
    let (_dir, endpoint, listener) = setup();
    let (client, _held) = tokio::join!(Client::connect(&endpoint, "test"), listener.accept());
    assert!(
        matches!(client, Err(ClientError::Hung { .. })),
        "{client:?}"
    );
}

#[tokio::test]
async fn invalid_and_too_long_messages_are_errors() {
    let (_dir, mut client, mut daemon) = pair().await;
    daemon.send_bytes(b"no json\n").await;
    assert!(matches!(
        client.next().await,
        Err(ClientError::Garbled { .. })
    ));
    let long = vec![b'x'; MAX_LINE + 2];
    let (got, ()) = tokio::join!(client.next(), daemon.send_bytes(&long));
    assert!(
        matches!(got, Err(ClientError::Io(CodecError::TooLong(_)))),
        "{got:?}"
    );
}

#[tokio::test]
async fn connect_keeps_the_bytes_that_came_with_the_reply() {
    let (_dir, client, mut daemon) = pair().await;
    let params = Connect {
        name: "db".into(),
        host: "h".into(),
        port: 1,
    };
    let (stream, ()) = tokio::join!(
        client.into_stream(&params, Duration::from_secs(30)),
        async {
            let call = daemon.read_call().await;
            assert_eq!(call["method"], method::CONNECT);
            let reply = format!(
                "{}\nSSH-2.0-early\r\n",
                json!({"jsonrpc": "2.0", "id": call["id"], "result": {}})
            );
            daemon.send_bytes(reply.as_bytes()).await;
        }
    );
    let mut stream = stream.unwrap();
    stream.write_all(b"ours").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = String::new();
    daemon.stream.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "ours");
    daemon.send_bytes(b"late").await;
    drop(daemon);
    let mut got = String::new();
    stream.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "SSH-2.0-early\r\nlate");
}

#[tokio::test]
async fn the_reply_to_a_sent_call_comes_among_the_events() {
    let (_dir, mut client, mut daemon) = pair().await;
    let id = client.send("slow", &json!({})).await.unwrap();
    let call = daemon.read_call().await;
    daemon
        .send(&json!({"jsonrpc": "2.0", "method": "of_the_future", "params": 1}))
        .await;
    daemon
        .send(&json!({"jsonrpc": "2.0", "id": call["id"], "result": null}))
        .await;
    assert_eq!(
        client.next().await.unwrap(),
        Some(Incoming::Notification(Notification::Unknown(
            "of_the_future".into()
        )))
    );
    let result = Ok(Value::Null);
    assert_eq!(
        client.next().await.unwrap(),
        Some(Incoming::Reply { id, result })
    );
}
