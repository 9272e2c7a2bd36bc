//! The path of the control socket, its lock file, and files that block its path.
#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    reason = "helpers outside of test functions fail with it"
)]

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tunneld_proto::endpoint::{ConnectError, Endpoint, ListenError, connect, listen};
use tunneld_proto::paths::{Env, PathError};

fn env(home: &Path) -> Env {
    Env {
        home: Some(home.to_owned()),
        cwd: Some(home.to_owned()),
        run_user: home.join("no-such-run"),
        ..Env::default()
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o777
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn at(dir: &TempDir) -> Endpoint {
    Endpoint::resolve(Some(&dir.path().join("s.sock")), &env(dir.path())).unwrap()
}

fn resolved_path(env: &Env) -> PathBuf {
    Endpoint::resolve(None, env).unwrap().path().to_owned()
}

#[test]
fn the_socket_is_found_in_the_documented_order() {
    let home = TempDir::new().unwrap();
    let mut env = env(home.path());
    assert_eq!(
        resolved_path(&env),
        home.path().join(".local/state/tunneld/run/control.sock")
    );

    let uid = rustix::process::geteuid().as_raw().to_string();
    env.run_user = home.path().join("run");
    std::fs::create_dir_all(env.run_user.join(&uid)).unwrap();
    let in_run = env.run_user.join(&uid).join("tunneld/control.sock");
    assert_eq!(resolved_path(&env), in_run);

    let xdg = home.path().join("xdg");
    std::fs::create_dir(&xdg).unwrap();
    chmod(&xdg, 0o700);
    env.xdg_runtime_dir = Some(xdg.clone().into());
    assert_eq!(resolved_path(&env), xdg.join("tunneld/control.sock"));

    env.tunneld_socket = Some("rel/own.sock".into());
    assert_eq!(resolved_path(&env), home.path().join("rel/own.sock"));
    let explicit = Endpoint::resolve(Some(Path::new("/x/y.sock")), &env).unwrap();
    assert_eq!(explicit.path(), Path::new("/x/y.sock"));
    assert_eq!(explicit.state_dir(), Path::new("/x"));
    assert_eq!(explicit.beside("log"), Path::new("/x/y.sock.log"));
}

#[test]
fn a_runtime_directory_that_is_not_private_is_skipped_with_the_reason() {
    let home = TempDir::new().unwrap();
    let xdg = home.path().join("xdg");
    std::fs::create_dir(&xdg).unwrap();
    chmod(&xdg, 0o755);
    for (value, why) in [
        (xdg.as_path(), "mode is 755"),
        (Path::new("relative"), "not an absolute path"),
        (Path::new("/no/such/folder"), "No such file"),
    ] {
        let env = Env {
            xdg_runtime_dir: Some(value.into()),
            ..env(home.path())
        };
        let endpoint = Endpoint::resolve(None, &env).unwrap();
        assert!(
            endpoint.path().starts_with(home.path().join(".local")),
            "{endpoint}"
        );
        assert!(endpoint.notes()[0].contains(why), "{:?}", endpoint.notes());
    }
}

#[test]
fn a_path_that_is_too_long_for_a_socket_is_an_error() {
    let home = TempDir::new().unwrap();
    let long = Path::new("/").join("x".repeat(120));
    let err = Endpoint::resolve(Some(&long), &env(home.path())).unwrap_err();
    assert!(matches!(err, PathError::TooLong { .. }), "{err}");
    assert!(err.to_string().contains("121 bytes"), "{err}");
}

#[tokio::test]
async fn the_directory_is_made_private_and_a_half_close_works() {
    let home = TempDir::new().unwrap();
    let endpoint = Endpoint::resolve(None, &env(home.path())).unwrap();
    let listener = listen(&endpoint).unwrap();
    assert_eq!(mode(endpoint.state_dir()), 0o700);
    assert_eq!(mode(endpoint.path()), 0o600);

    let mut client = connect(&endpoint).await.unwrap();
    let mut server = listener.accept().await.unwrap();
    assert_eq!(server.peer().unwrap().pid, Some(std::process::id()));
    client.write_all(b"to the end").await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = String::new();
    server.read_to_string(&mut heard).await.unwrap();
    server.write_all(b"and back").await.unwrap();
    drop(server);
    let mut back = String::new();
    client.read_to_string(&mut back).await.unwrap();
    assert_eq!((heard.as_str(), back.as_str()), ("to the end", "and back"));

    drop(listener);
    assert!(!endpoint.path().exists());
    assert!(matches!(
        connect(&endpoint).await,
        Err(ConnectError::NoDaemon { .. })
    ));
}

#[tokio::test]
async fn a_second_daemon_fails_with_the_pid_and_the_first_keeps_its_socket() {
    let dir = TempDir::new().unwrap();
    let endpoint = at(&dir);
    let first = listen(&endpoint).unwrap();
    match listen(&endpoint) {
        Err(err @ ListenError::Running { .. }) => {
            assert!(
                err.to_string()
                    .contains(&format!("(pid {})", std::process::id())),
                "{err}"
            );
        }
        other => panic!("{other:?}"),
    }
    let client = connect(&endpoint).await.unwrap();
    first.accept().await.unwrap();
    drop(client);
}

#[tokio::test]
async fn the_socket_of_a_dead_daemon_is_replaced() {
    let dir = TempDir::new().unwrap();
    let endpoint = at(&dir);
    drop(std::os::unix::net::UnixListener::bind(endpoint.path()).unwrap());
    std::fs::write(endpoint.beside("lock"), "999999\n").unwrap();
    assert!(matches!(
        connect(&endpoint).await,
        Err(ConnectError::NoDaemon { .. })
    ));
    let listener = listen(&endpoint).unwrap();
    connect(&endpoint).await.unwrap();
    listener.accept().await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_not_a_socket_is_kept() {
    let dir = TempDir::new().unwrap();
    let endpoint = at(&dir);
    let path = endpoint.path();
    let refused = |what: &str| match listen(&endpoint) {
        Err(err @ ListenError::InTheWay { .. }) => assert!(err.to_string().contains(what), "{err}"),
        other => panic!("{other:?}"),
    };
    std::fs::write(path, "precious").unwrap();
    refused("a file");
    assert_eq!(std::fs::read(path).unwrap(), b"precious");
    std::fs::remove_file(path).unwrap();
    symlink("/elsewhere", path).unwrap();
    refused("a symbolic link");
    std::fs::remove_file(path).unwrap();
    std::fs::create_dir(path).unwrap();
    refused("a directory");
}

#[tokio::test]
async fn a_file_in_place_of_the_directory_is_refused_as_such() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("run");
    std::fs::write(&file, "").unwrap();
    let endpoint = Endpoint::resolve(Some(&file.join("s.sock")), &env(dir.path())).unwrap();
    match listen(&endpoint) {
        Err(err @ ListenError::UnsafeFolder { .. }) => {
            assert!(err.to_string().contains("not a directory"), "{err}");
        }
        other => panic!("{:?}", other.err()),
    }
}

#[tokio::test]
async fn a_directory_that_others_can_write_to_is_refused() {
    let dir = TempDir::new().unwrap();
    chmod(dir.path(), 0o777);
    match listen(&at(&dir)) {
        Err(err @ ListenError::UnsafeFolder { .. }) => {
            assert!(err.to_string().contains("mode 777"), "{err}")
        }
        other => panic!("{other:?}"),
    }
    let real = TempDir::new().unwrap();
    let link = real.path().join("link");
    symlink(dir.path(), &link).unwrap();
    let endpoint = Endpoint::resolve(Some(&link.join("s.sock")), &env(dir.path())).unwrap();
    assert!(matches!(
        listen(&endpoint),
        Err(ListenError::UnsafeFolder { .. })
    ));
}

#[tokio::test]
async fn a_deleted_socket_is_detected_and_bound_again() {
    let dir = TempDir::new().unwrap();
    let endpoint = at(&dir);
    let mut listener = listen(&endpoint).unwrap();
    assert!(listener.is_in_place());
    std::fs::remove_file(endpoint.path()).unwrap();
    assert!(!listener.is_in_place());
    std::fs::write(endpoint.path(), "").unwrap();
    assert!(listener.rebind().is_err());
    std::fs::remove_file(endpoint.path()).unwrap();
    std::fs::remove_file(endpoint.beside("lock")).unwrap();
    listener.rebind().unwrap();
    assert!(listener.is_in_place());
    connect(&endpoint).await.unwrap();
    listener.accept().await.unwrap();
    assert!(matches!(
        listen(&endpoint),
        Err(ListenError::Running { .. })
    ));
}

#[tokio::test]
async fn dropping_a_replaced_listener_keeps_the_new_socket() {
    let dir = TempDir::new().unwrap();
    let endpoint = at(&dir);
    let listener = listen(&endpoint).unwrap();
    std::fs::remove_file(endpoint.path()).unwrap();
    let other = std::os::unix::net::UnixListener::bind(endpoint.path()).unwrap();
    drop(listener);
    assert!(endpoint.path().exists());
    drop(other);
}

#[tokio::test]
async fn a_full_close_is_a_hangup_and_a_half_close_is_not() {
    let dir = TempDir::new().unwrap();
    let endpoint = at(&dir);
    let listener = listen(&endpoint).unwrap();
    let mut client = connect(&endpoint).await.unwrap();
    let server = listener.accept().await.unwrap();
    let eye = server.hangup().unwrap();
    assert!(!eye.is_hung_up());
    client.shutdown().await.unwrap();
    assert!(!eye.is_hung_up());
    drop(client);
    assert!(eye.is_hung_up());
}
