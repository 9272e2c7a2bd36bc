//! The named pipe: one daemon per pipe, both directions, the SID of the user in its name.
#![cfg(windows)]

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tunneld_proto::endpoint::{ConnectError, Endpoint, ListenError, connect, listen};
use tunneld_proto::paths::Env;

fn env(dir: &TempDir) -> Env {
    Env {
        local_appdata: Some(dir.path().into()),
        ..Env::from_process()
    }
}

#[tokio::test]
async fn one_daemon_per_pipe_and_bytes_in_both_directions() {
    let dir = TempDir::new().unwrap();
    let name = format!("tunneld-test-{}", std::process::id());
    let endpoint = Endpoint::resolve(Some(name.as_ref()), &env(&dir)).unwrap();
    assert!(matches!(
        connect(&endpoint).await,
        Err(ConnectError::NoDaemon { .. })
    ));
    let listener = listen(&endpoint).unwrap();
    assert!(matches!(
        listen(&endpoint),
        Err(ListenError::Running { .. })
    ));

    let (client, server) = tokio::join!(connect(&endpoint), listener.accept());
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    client.write_all(b"there").await.unwrap();
    let mut heard = [0; 5];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"there");
    server.write_all(b"and back").await.unwrap();
    server.flush().await.unwrap();
    let mut back = [0; 8];
    client.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"and back");
    drop(server);
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
}

#[test]
fn the_name_of_the_pipe_contains_the_sid() {
    let dir = TempDir::new().unwrap();
    let env = Env {
        tunneld_socket: None,
        ..env(&dir)
    };
    let endpoint = Endpoint::resolve(None, &env).unwrap();
    let name = endpoint.path().to_string_lossy().into_owned();
    assert!(name.starts_with(r"\\.\pipe\tunneld-S-1-"), "{name}");
    assert_eq!(endpoint.state_dir(), dir.path().join("tunneld"));
}
