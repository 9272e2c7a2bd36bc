//! The connection over a stream in memory with a paused clock, and the server over a real socket.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, ReadHalf,
    WriteHalf,
};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tunneld_proto::message::{EventBody, ReloadReport};
use tunneld_proto::status::Desired;

use super::*;
use tunneld_config::env::Env;
use tunneld_config::load::Loader;
use tunneld_platform::subprocess::TokioPrograms;

const HELLO: &str =
    r#"{"jsonrpc":"2.0","id":0,"method":"hello","params":{"client":"a test","protocol":[1]}}"#;

/// A daemon without its process: everything behind the socket.
struct Bench {
    context: Arc<Context>,
    tasks: JoinSet<()>,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("config");
        std::fs::create_dir(&dir).unwrap();
        let mut loader = Loader::new(dir.clone(), Env::from_process(), Arc::new(TokioPrograms));
        let first = crate::reload::load(&mut loader).await;
        let store = Arc::new(StateFile::open(folder.path().join("state.json")));
        let mut tasks = JoinSet::new();
        let supervisor = Supervisor::start(16, store.clone(), &mut tasks);
        let (reloader, reloading) = ReloadHandle::new(
            dir.clone(),
            loader,
            &first,
            None,
            store.clone(),
            supervisor.clone(),
        );
        let watcher = crate::reload::watcher::Watcher::new(&dir);
        tasks.spawn(reloading.run(watcher));
        let context = Arc::new(Context {
            supervisor,
            reloader,
            store,
            log: Log::in_memory(),
            socket: "here".into(),
            notes: vec!["a note".into()],
            since: Timestamp::now(),
            clients: AtomicUsize::new(0),
            stopping: CancellationToken::new(),
            stopped: CancellationToken::new(),
        });
        Self {
            context,
            tasks,
            _folder: folder,
        }
    }

    /// A client over a pipe of `room` bytes; `hung_up` says whether it has gone.
    fn client(&mut self, room: usize, hung_up: Arc<AtomicBool>) -> Client {
        let (near, far) = tokio::io::duplex(room);
        let context = self.context.clone();
        self.tasks.spawn(connection::serve(near, context, move || {
            hung_up.load(Ordering::Relaxed)
        }));
        let (reader, writer) = tokio::io::split(far);
        Client {
            reader: BufReader::new(reader),
            writer,
        }
    }

    async fn greeted(&mut self) -> Client {
        let mut client = self.client(1 << 20, Arc::default());
        client.say(HELLO).await;
        assert_eq!(client.hear().await["result"]["protocol"], 1);
        client
    }

    /// A tunnel to a port where nobody listens.
    async fn hopeless_tunnel(&self, name: &str) {
        let spec = json!({"host": "127.0.0.1", "port": 1, "user": "u", "ssh_config": false});
        let tunnel = self.context.reloader.prove(name, &spec).await.unwrap();
        self.context.supervisor.restore(tunnel).await.unwrap();
    }
}

struct Client {
    reader: BufReader<ReadHalf<DuplexStream>>,
    writer: WriteHalf<DuplexStream>,
}

impl Client {
    async fn say(&mut self, line: &str) {
        self.writer
            .write_all(format!("{line}\n").as_bytes())
            .await
            .unwrap();
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        self.say(&request.to_string()).await;
        self.hear().await
    }

    async fn hear(&mut self) -> Value {
        let mut line = String::new();
        assert_ne!(
            self.reader.read_line(&mut line).await.unwrap(),
            0,
            "the connection ended"
        );
        serde_json::from_str(&line).unwrap()
    }

    async fn rest(mut self) -> String {
        let mut rest = String::new();
        self.reader.read_to_string(&mut rest).await.unwrap();
        rest
    }
}

fn kind(reply: &Value) -> &str {
    reply["error"]["data"]["kind"].as_str().unwrap_or("none")
}

#[tokio::test]
async fn hello_comes_first_and_may_be_said_better() {
    let mut bench = Bench::new().await;
    let mut client = bench.client(1 << 16, Arc::default());
    assert_eq!(
        kind(&client.call("daemon.status", json!({})).await),
        "invalid_request"
    );
    let other = client
        .call("hello", json!({"client": "x", "protocol": [9]}))
        .await;
    assert_eq!(kind(&other), "unsupported_protocol");
    assert_eq!(other["error"]["data"]["causes"], json!(["1"]));
    client.say(HELLO).await;
    assert_eq!(client.hear().await["result"]["pid"], std::process::id());
    let status = client.call("daemon.status", json!({})).await;
    assert_eq!(status["result"]["notes"], json!(["a note"]));
    assert_eq!(status["result"]["socket"], "here");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_say_hello_is_dropped_after_ten_seconds() {
    let mut bench = Bench::new().await;
    let begun = Instant::now();
    let mut client = bench.client(1 << 16, Arc::default());
    client.writer.write_all(b"{\"jsonrpc\"").await.unwrap();
    assert_eq!(client.rest().await, "");
    assert_eq!(begun.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_greeted_client_may_be_silent() {
    let mut bench = Bench::new().await;
    let mut client = bench.greeted().await;
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert!(client.call("tunnel.status", json!({})).await["result"]["tunnels"].is_array());
}

#[tokio::test]
async fn what_is_no_request_gets_an_error_and_the_next_line_counts() {
    let mut bench = Bench::new().await;
    let mut client = bench.greeted().await;
    client.writer.write_all(b"\xff\xfe{\n").await.unwrap();
    assert_eq!(kind(&client.hear().await), "parse_error");
    client.say(&"[".repeat(100_000)).await;
    assert_eq!(kind(&client.hear().await), "parse_error");
    let unknown = client.call("no.such", json!({})).await;
    assert_eq!(kind(&unknown), "unknown_method");
    assert!(
        unknown["error"]["data"]["hint"]
            .as_str()
            .unwrap()
            .contains("tunnel.up")
    );
    let misfit = client.call("tunnel.up", json!({"names": 3})).await;
    assert_eq!(kind(&misfit), "invalid_params");
}

#[tokio::test]
async fn a_line_that_is_too_long_ends_the_connection() {
    let mut bench = Bench::new().await;
    let Client { reader, mut writer } = bench.greeted().await;
    let endless = async {
        let chunk = vec![b'x'; 1 << 16];
        while writer.write_all(&chunk).await.is_ok() {}
    };
    let client = Client {
        reader,
        writer: tokio::io::split(tokio::io::duplex(1).0).1,
    };
    let (rest, ()) = tokio::join!(client.rest(), endless);
    assert_eq!(kind(&serde_json::from_str(&rest).unwrap()), "line_too_long");
}

#[tokio::test]
async fn a_notification_gets_no_reply_and_a_half_closed_client_gets_all_of_its() {
    let mut bench = Bench::new().await;
    let mut client = bench.greeted().await;
    client
        .say(r#"{"jsonrpc":"2.0","method":"tunnel.status"}"#)
        .await;
    client
        .say(r#"{"jsonrpc":"2.0","id":"a","method":"tunnel.status"}"#)
        .await;
    // The last line lacks its end.
    client
        .writer
        .write_all(br#"{"jsonrpc":"2.0","id":"b","method":"tunnel.status"}"#)
        .await
        .unwrap();
    client.writer.shutdown().await.unwrap();
    let rest = client.rest().await;
    let ids: Vec<Value> = rest
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone())
        .collect();
    assert_eq!(ids, ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_pipelines_and_never_reads_is_not_read_from_and_dropped() {
    let mut bench = Bench::new().await;
    let mut client = bench.client(4096, Arc::default());
    client.say(HELLO).await;
    let begun = Instant::now();
    let mut taken = 0;
    for id in 0..100_000 {
        let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"no.such\"}}\n");
        if client.writer.write_all(line.as_bytes()).await.is_err() {
            break;
        }
        taken += 1;
    }
    // 64 KiB of replies, and what the pipe and the reader's buffer hold.
    assert!(taken < 1000, "{taken}");
    assert_eq!(begun.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn a_slow_follower_is_told_what_it_missed_and_gets_a_fresh_snapshot() {
    let mut bench = Bench::new().await;
    let mut client = bench.client(4096, Arc::default());
    client.say(HELLO).await;
    client.hear().await;
    let snapshot = client.call("events.subscribe", json!({})).await;
    let first = snapshot["result"]["seq"].as_u64().unwrap();
    let big = ReloadReport {
        added: vec!["x".repeat(200); 50],
        ..ReloadReport::default()
    };
    for _ in 0..1000 {
        bench.context.supervisor.announce_reload(big.clone());
        tokio::task::yield_now().await;
    }
    let mut seq = first;
    let missed = loop {
        let told = client.hear().await;
        let params = &told["params"];
        if told["method"] == "lagged" {
            assert!(params["tunnels"].is_array());
            assert_eq!(params["seq"], first + 1000);
            break params["missed"].as_u64().unwrap();
        }
        seq += 1;
        assert_eq!(params["seq"], seq);
        assert_eq!(params["kind"], "config");
    };
    assert!(missed >= 600 && seq + missed <= first + 1000, "{missed}");
    bench
        .context
        .supervisor
        .announce_reload(ReloadReport::default());
    assert_eq!(client.hear().await["params"]["seq"], first + 1001);
}

#[tokio::test]
async fn followers_hear_bye_and_then_the_end() {
    let mut bench = Bench::new().await;
    let mut client = bench.greeted().await;
    client.call("events.subscribe", json!({})).await;
    let mut shutting = bench.greeted().await;
    assert_eq!(
        shutting.call("daemon.shutdown", json!({})).await["result"],
        json!({})
    );
    bench.context.stopping.cancelled().await;
    assert_eq!(
        kind(&shutting.call("config.reload", json!({})).await),
        "stopping"
    );
    bench.context.supervisor.stop().await;
    bench.context.stopped.cancel();
    let rest = client.rest().await;
    let last: Value = serde_json::from_str(rest.lines().last().unwrap()).unwrap();
    assert_eq!(
        last["params"]["kind"],
        serde_json::to_value(EventBody::Bye).unwrap()["kind"]
    );
}

#[tokio::test]
async fn up_names_what_is_missing_and_waits_no_longer_than_told() {
    let mut bench = Bench::new().await;
    let mut client = bench.greeted().await;
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
    bench.hopeless_tunnel("dead").await;
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
    assert_eq!(bench.context.store.desired("dead"), Some(Desired::Down));
}

#[tokio::test]
async fn a_client_that_has_gone_ends_its_wait() {
    let mut bench = Bench::new().await;
    bench.hopeless_tunnel("dead").await;
    let hung_up = Arc::new(AtomicBool::new(false));
    let mut client = bench.client(1 << 16, hung_up.clone());
    client.say(HELLO).await;
    client.hear().await;
    client
        .say(r#"{"jsonrpc":"2.0","id":1,"method":"tunnel.up","params":{"names":["dead"],"wait":true,"timeout_ms":3600000}}"#)
        .await;
    hung_up.store(true, Ordering::Relaxed);
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn a_tunnel_is_made_kept_and_removed() {
    let mut bench = Bench::new().await;
    let mut client = bench.greeted().await;
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
    assert!(bench.context.store.is_ad_hoc("quick"));
    let twice = client
        .call("tunnel.add", json!({"name": "quick", "spec": spec}))
        .await;
    assert_eq!(kind(&twice), "tunnel_exists");
    assert_eq!(
        client.call("tunnel.remove", json!({"name": "quick"})).await["result"],
        json!({})
    );
    assert!(!bench.context.store.is_ad_hoc("quick"));
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
    assert!(!bench.context.store.is_ad_hoc("kept"));

    // What stands is changed where it stands, and what would break the others is not written.
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
    assert!(bench.context.reloader.faults().is_empty());

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
    assert!(!bench.context.store.is_ad_hoc("quick"));
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
async fn sixty_four_clients_are_let_in_and_the_next_is_told() {
    use tokio::net::UnixStream;
    use tunneld_proto::endpoint::{Endpoint, listen};
    let mut bench = Bench::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.sock");
    let endpoint =
        Endpoint::resolve(Some(&path), &tunneld_proto::paths::Env::from_process()).unwrap();
    bench
        .tasks
        .spawn(serve(listen(&endpoint).unwrap(), bench.context.clone()));
    let mut clients = Vec::new();
    for _ in 0..64 {
        clients.push(UnixStream::connect(&path).await.unwrap());
    }
    let mut told = String::new();
    UnixStream::connect(&path)
        .await
        .unwrap()
        .read_to_string(&mut told)
        .await
        .unwrap();
    assert_eq!(kind(&serde_json::from_str(&told).unwrap()), "busy");
    // One that goes makes room for one that comes.
    clients.pop();
    let mut reply = String::new();
    while !reply.contains("result") {
        let mut client = UnixStream::connect(&path).await.unwrap();
        // A client that is told `busy` may find the socket closed already.
        let _ = client.write_all(format!("{HELLO}\n").as_bytes()).await;
        let _ = client.shutdown().await;
        reply.clear();
        let _ = client.read_to_string(&mut reply).await;
    }
    bench.context.stopped.cancel();
    drop(clients);
    while path.exists() {
        tokio::task::yield_now().await;
    }
}
