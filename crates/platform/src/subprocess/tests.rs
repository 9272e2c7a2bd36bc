//! Commands that are really run by `/bin/sh`.

use super::*;
use secrecy::ExposeSecret;

fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

#[tokio::test]
async fn only_the_first_line_is_returned() {
    let line = first_line(&sh("printf 'one\\r\\ntwo\\n'")).await.unwrap();
    assert_eq!(line.expose_secret(), "one");
}

#[tokio::test]
async fn an_error_contains_stderr_and_never_stdout() {
    let script = sh("echo hunter2; echo 'vault \u{1b}[1mlocked' >&2; exit 3");
    let error = first_line(&script).await.unwrap_err();
    assert_eq!(error, "/bin/sh ended with status 3: vault \\u{1b}[1mlocked");
    assert!(
        first_line(&sh("true"))
            .await
            .unwrap_err()
            .contains("printed no usable line")
    );
    let missing = first_line(&["/nonexistent/x".to_owned()])
        .await
        .unwrap_err();
    assert!(missing.contains("/nonexistent/x"), "{missing}");
}

#[tokio::test]
async fn output_up_to_four_mebibytes_is_returned_and_more_is_an_error() {
    let long = output(&sh("head -c 3000000 /dev/zero")).await.unwrap();
    assert_eq!(long.len(), 3_000_000);
    let endless = output(&sh("yes")).await.unwrap_err();
    assert!(endless.contains("more than 4 MiB"), "{endless}");
}

#[tokio::test]
async fn output_does_not_wait_for_a_background_process() {
    let script = sh("sleep 600 >/dev/null & echo $! ; echo why >&2");
    let pid = timeout(Duration::from_secs(60), first_line(&script));
    let pid = pid.await.unwrap().unwrap();
    let pid = pid.expose_secret().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    // The background process still runs; this test ends it.
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_hook_gets_its_variables_and_its_stderr_is_reported() {
    let vars = [("TUNNELD_TEST", "a b")];
    let limit = Duration::from_secs(10);
    let succeeded = run(&sh("test \"$TUNNELD_TEST\" = 'a b'"), &vars, limit).await;
    assert_eq!(succeeded, Ok(()));
    let failed = run(&sh("echo lost; echo why >&2; exit 4"), &vars, limit).await;
    assert_eq!(failed, Err("/bin/sh ended with status 4: why".into()));
}

#[tokio::test]
async fn a_hook_over_its_limit_is_killed_with_its_process_group() {
    // The grandchild has the only write end of the FIFO: the reader sees the end of file when it is killed.
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    crate::testing::make_fifo(&fifo);
    let mut reader = tokio::net::unix::pipe::OpenOptions::new()
        .open_receiver(&fifo)
        .unwrap();
    let writer = std::fs::OpenOptions::new().write(true).open(&fifo).unwrap();
    let script = format!("echo stuck >&2; sleep 600 3>'{}' & wait", fifo.display());
    let ended = run(&sh(&script), &[], Duration::from_millis(500)).await;
    let error = ended.unwrap_err();
    assert!(error.ends_with("was killed: stuck"), "{error}");
    drop(writer);
    assert_eq!(reader.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_hook_may_leave_a_process_in_the_background() {
    let ended = run(&sh("sleep 5 & exit 0"), &[], Duration::from_secs(4)).await;
    assert_eq!(ended, Ok(()));
}
