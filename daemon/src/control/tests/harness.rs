//! A daemon without its process, and clients that talk to it over pipes in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, ReadHalf,
    WriteHalf,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::super::connection;
use super::super::context::ControlContext;
use crate::log::Log;
use crate::reload::{ConfigReader, ReloadContext, ReloadTask};
use crate::state_file::StateFile;
use crate::supervisor::Supervisor;

pub(super) const HELLO: &str =
    r#"{"jsonrpc":"2.0","id":0,"method":"hello","params":{"client":"a test","protocol":[1]}}"#;

/// Everything behind the control socket of a daemon, without the process, with an empty configuration.
pub(super) struct TestDaemon {
    pub(super) context: Arc<ControlContext>,
    pub(super) tasks: JoinSet<()>,
    _folder: tempfile::TempDir,
}

impl TestDaemon {
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("config");
        std::fs::create_dir(&dir).unwrap();
        let mut reader = ConfigReader::new(dir.clone(), |loader| loader);
        let first = reader.read_first().await;
        let state_file = Arc::new(StateFile::open(folder.path().join("state.json")));
        let mut tasks = JoinSet::new();
        let supervisor = Supervisor::start(16, state_file.clone(), &mut tasks);
        let reload = ReloadContext {
            dir: dir.clone(),
            reader,
            log: None,
            state_file: state_file.clone(),
            supervisor: supervisor.clone(),
            daemon: tokio::sync::watch::channel(first.daemon.clone()).0,
        };
        let (reloader, reload_task) = ReloadTask::new(reload, &first);
        let watcher = crate::reload::watcher::Watcher::new(&dir);
        tasks.spawn(reload_task.run(watcher));
        let context = Arc::new(ControlContext {
            supervisor,
            reloader,
            state_file,
            log: Log::in_memory(),
            socket: "here".into(),
            notes: vec!["a note".into()],
            started_at: Timestamp::now(),
            client_count: AtomicUsize::new(0),
            stopping: CancellationToken::new(),
            stopped: CancellationToken::new(),
            web: tokio::sync::mpsc::channel(1).0,
        });
        Self {
            context,
            tasks,
            _folder: folder,
        }
    }

    /// Connects a client over a pipe that holds `capacity` bytes; `hung_up` is what the connection sees as a hangup.
    pub(super) fn client(&mut self, capacity: usize, hung_up: Arc<AtomicBool>) -> TestClient {
        let (server, client) = tokio::io::duplex(capacity);
        let context = self.context.clone();
        self.tasks.spawn(connection::serve(
            server,
            context,
            Arc::default(),
            move || hung_up.load(Ordering::Relaxed),
        ));
        let (reader, writer) = tokio::io::split(client);
        TestClient {
            reader: BufReader::new(reader),
            writer,
        }
    }

    /// Connects a client and sends its `hello`.
    pub(super) async fn greeted_client(&mut self) -> TestClient {
        let mut client = self.client(1 << 20, Arc::default());
        client.send(HELLO).await;
        assert_eq!(client.receive().await["result"]["protocol"], 1);
        client
    }

    /// Adds a tunnel to port 1, where no server listens.
    pub(super) async fn unreachable_tunnel(&self, name: &str) {
        let spec = json!({"host": "127.0.0.1", "port": 1, "user": "u", "ssh_config": false});
        let tunnel = self
            .context
            .reloader
            .check_tunnel(name, &spec)
            .await
            .unwrap();
        self.context.supervisor.restore(tunnel).await.unwrap();
    }
}

/// The client's end of a connection.
pub(super) struct TestClient {
    pub(super) reader: BufReader<ReadHalf<DuplexStream>>,
    pub(super) writer: WriteHalf<DuplexStream>,
}

impl TestClient {
    /// Sends one line.
    pub(super) async fn send(&mut self, line: &str) {
        self.writer
            .write_all(format!("{line}\n").as_bytes())
            .await
            .unwrap();
    }

    /// Sends a request and returns the next line received.
    pub(super) async fn call(&mut self, method: &str, params: Value) -> Value {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        self.send(&request.to_string()).await;
        self.receive().await
    }

    /// Receives one line.
    pub(super) async fn receive(&mut self) -> Value {
        let mut line = String::new();
        assert_ne!(
            self.reader.read_line(&mut line).await.unwrap(),
            0,
            "the connection ended"
        );
        serde_json::from_str(&line).unwrap()
    }

    /// Reads until the connection is closed.
    pub(super) async fn read_to_end(mut self) -> String {
        let mut rest = String::new();
        self.reader.read_to_string(&mut rest).await.unwrap();
        rest
    }
}
