//! The client against a scripted daemon.
#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test's helpers fail with it"
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

    async fn greeted(listener: &Listener) -> Self {
        let mut daemon = Self::accept(listener).await;
        let hello = daemon.hear().await;
        assert_eq!(hello["method"], "hello");
        assert_eq!(hello["params"]["protocol"], json!([1]));
        daemon
            .say(&json!({"jsonrpc": "2.0", "id": hello["id"], "result": {"version": "9", "protocol": 1, "pid": 7, "new": true}}))
            .await;
        daemon
    }

    async fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }

    async fn say(&mut self, message: &Value) {
        self.raw(format!("{message}\n").as_bytes()).await;
    }

    async fn raw(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).await.unwrap();
    }
}

fn place() -> (TempDir, Endpoint, Listener) {
    let dir = TempDir::new().unwrap();
    let endpoint = Endpoint::resolve(Some(&dir.path().join("s")), &Env::default()).unwrap();
    let listener = listen(&endpoint).unwrap();
    (dir, endpoint, listener)
}

async fn pair() -> (TempDir, Client, Daemon) {
    let (dir, endpoint, listener) = place();
    let (client, daemon) = tokio::join!(
        Client::connect(&endpoint, "test"),
        Daemon::greeted(&listener)
    );
    (dir, client.unwrap(), daemon)
}

#[tokio::test]
async fn replies_find_their_calls_and_events_wait_their_turn() {
    let (_dir, mut client, mut daemon) = pair().await;
    assert_eq!(
        (client.welcome().pid, client.welcome().version.as_str()),
        (7, "9")
    );
    let params = json!({"a": 1});
    let (got, ()) = tokio::join!(client.call::<Value>("x", &params), async {
        let call = daemon.hear().await;
        assert_eq!(call["params"], json!({"a": 1}));
        daemon
            .say(&json!({"jsonrpc": "2.0", "method": "event", "params": {"seq": 4, "at": "2026-01-01T00:00:00Z", "kind": "bye", "extra": 1}}))
            .await;
        daemon
            .say(&json!({"jsonrpc": "2.0", "method": "event", "params": {"seq": 5, "at": "2026-01-01T00:00:00Z", "kind": "brand_new", "of": {}}}))
            .await;
        daemon
            .say(&json!({"jsonrpc": "2.0", "id": 99, "result": 0}))
            .await;
        daemon
            .say(&json!({"jsonrpc": "2.0", "id": call["id"], "result": [1, 2]}))
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
        let call = daemon.hear().await;
        assert_eq!(call.get("params"), None);
        daemon
            .say(&json!({"jsonrpc": "2.0", "id": call["id"], "error": sent}))
            .await;
    });
    match got {
        Err(ClientError::Rpc(err)) => assert_eq!(err, sent),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn another_protocol_is_told_with_both_versions() {
    let (_dir, endpoint, listener) = place();
    let (client, ()) = tokio::join!(Client::connect(&endpoint, "test"), async {
        let mut daemon = Daemon::accept(&listener).await;
        let hello = daemon.hear().await;
        let err = RpcError::new(ErrorKind::UnsupportedProtocol, "no")
            .causes(["2".to_owned(), "3".to_owned()]);
        daemon
            .say(&json!({"jsonrpc": "2.0", "id": hello["id"], "error": err}))
            .await;
    });
    let err = client.unwrap_err();
    assert!(matches!(err, ClientError::Version { .. }), "{err:?}");
    assert_eq!(
        err.to_string(),
        "the daemon speaks protocol 2, 3, this program 1"
    );
}

#[tokio::test]
async fn busy_is_heard_although_it_answers_no_call() {
    let (_dir, endpoint, listener) = place();
    let (client, ()) = tokio::join!(Client::connect(&endpoint, "test"), async {
        let mut daemon = Daemon::accept(&listener).await;
        daemon
            .say(&json!({"jsonrpc": "2.0", "id": null, "error": RpcError::new(ErrorKind::Busy, "64 clients")}))
            .await;
    });
    match client {
        Err(ClientError::Rpc(err)) => assert_eq!(err.data.kind, ErrorKind::Busy),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_daemon_that_hangs_is_given_up() {
    let (_dir, endpoint, listener) = place();
    let (client, _held) = tokio::join!(Client::connect(&endpoint, "test"), listener.accept());
    assert!(
        matches!(client, Err(ClientError::Hung { .. })),
        "{client:?}"
    );
}

#[tokio::test]
async fn what_is_no_message_and_what_is_too_long_are_errors() {
    let (_dir, mut client, mut daemon) = pair().await;
    daemon.raw(b"no json\n").await;
    assert!(matches!(
        client.next().await,
        Err(ClientError::Garbled { .. })
    ));
    let long = vec![b'x'; MAX_LINE + 2];
    let (got, ()) = tokio::join!(client.next(), daemon.raw(&long));
    assert!(
        matches!(got, Err(ClientError::Io(CodecError::TooLong(_)))),
        "{got:?}"
    );
}

#[tokio::test]
async fn a_connect_loses_no_byte_that_came_with_the_reply() {
    let (_dir, client, mut daemon) = pair().await;
    let params = Connect {
        name: "db".into(),
        host: "h".into(),
        port: 1,
    };
    let (stream, ()) = tokio::join!(
        client.into_stream(&params, Duration::from_secs(30)),
        async {
            let call = daemon.hear().await;
            assert_eq!(call["method"], method::CONNECT);
            let reply = format!(
                "{}\nSSH-2.0-early\r\n",
                json!({"jsonrpc": "2.0", "id": call["id"], "result": {}})
            );
            daemon.raw(reply.as_bytes()).await;
        }
    );
    let mut stream = stream.unwrap();
    stream.write_all(b"ours").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = String::new();
    daemon.stream.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "ours");
    daemon.raw(b"late").await;
    drop(daemon);
    let mut got = String::new();
    stream.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "SSH-2.0-early\r\nlate");
}

#[tokio::test]
async fn a_call_sent_ahead_is_answered_among_the_events() {
    let (_dir, mut client, mut daemon) = pair().await;
    let id = client.send("slow", &json!({})).await.unwrap();
    let call = daemon.hear().await;
    daemon
        .say(&json!({"jsonrpc": "2.0", "method": "of_the_future", "params": 1}))
        .await;
    daemon
        .say(&json!({"jsonrpc": "2.0", "id": call["id"], "result": null}))
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
