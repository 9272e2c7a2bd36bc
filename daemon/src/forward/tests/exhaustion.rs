//! A process with few file descriptors. It is a child process of the test because the limit applies to a whole process.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::task::JoinSet;

use super::*;

const LIMIT: u64 = 64;

/// The child process: serves one forward and keeps every connection open.
#[tokio::test]
#[ignore = "the child of the test below"]
async fn child() {
    let limit = Rlimit {
        current: Some(LIMIT),
        maximum: Some(LIMIT),
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut fixture = Fixture::new(&[local(0)]).await;
    let mut server = fixture.attach().await;
    println!("\nport {}", fixture.address(0).port());
    let mut relayed = JoinSet::new();
    let stdin = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    let serve = async {
        loop {
            let mut peer = server.next_open_request().await.accept();
            // The reserve is still free, however many connections arrive.
            let files: Vec<_> = (0..16).map(|_| std::fs::File::open("/dev/null")).collect();
            assert!(files.iter().all(Result::is_ok));
            relayed.spawn(async move {
                peer.send_data(b"!").await;
                peer.receive_to_eof().await
            });
        }
    };
    tokio::select! {
        () = serve => {}
        _ = stdin => {}
    }
}

struct Running {
    child: Child,
    port: u16,
    /// Kept open because the child continues to write to it.
    _stdout: BufReader<ChildStdout>,
}

fn start() -> Running {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "forward::tests::exhaustion::child",
            "--ignored",
            "--nocapture",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let port = stdout
        .by_ref()
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("port ")?.parse().ok());
    Running {
        child,
        port: port.expect("the child listens"),
        _stdout: stdout,
    }
}

/// Returns a connection that is relayed; `None` if it is reset.
async fn try_one(port: u16) -> Option<TcpStream> {
    let mut client = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let mut byte = [0];
    let read = tokio::time::timeout(Duration::from_secs(10), client.read_exact(&mut byte));
    read.await
        .expect("no connection hangs")
        .ok()
        .map(|_| client)
}

#[tokio::test]
async fn excess_connections_are_reset_and_service_recovers() {
    let mut running = start();
    let port = running.port;
    let mut relayed = Vec::new();
    for _ in 0..100 {
        relayed.extend(try_one(port).await);
    }
    let count = relayed.len();
    assert!(
        (8..=32).contains(&count),
        "{count} of 100 connections are relayed, with 32 descriptors in reserve"
    );
    drop(relayed);
    let served = async { while try_one(port).await.is_none() {} };
    let back = tokio::time::timeout(Duration::from_secs(10), served);
    back.await.expect("service recovers");
    drop(running.child.stdin.take());
    assert!(running.child.wait().unwrap().success());
}
