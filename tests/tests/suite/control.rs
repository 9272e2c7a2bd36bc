//! The control protocol on the wire: hello, methods, errors, events and streams. Clients that break the protocol are in
//! `control_clients`.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::time::Instant;
use tunneld_tests::daemon::Daemon;
use tunneld_tests::home::Home;
use tunneld_tests::payload;
use tunneld_tests::rpc::Rpc;
use tunneld_tests::sshd::Sshd;
use tunneld_tests::target::Target;
use tunneld_tests::wait::{LONG, within};

use crate::fixture::{
    Fixture, error_kind_of_reply, local_forward_to, secs, start_with_stopped_tunnel,
};

#[tokio::test]
async fn only_the_user_can_access_the_socket() -> Result<()> {
    let (home, _daemon) = start_with_stopped_tunnel().await?;
    let mode = |path: &std::path::Path| -> Result<u32> {
        Ok(std::fs::symlink_metadata(path)?.permissions().mode() & 0o777)
    };
    assert_eq!(mode(&home.socket())?, 0o600);
    assert_eq!(mode(home.socket().parent().context("a folder")?)?, 0o700);
    Ok(())
}

#[tokio::test]
async fn hello_is_required_first_and_negotiates_the_version() -> Result<()> {
    let (home, daemon) = start_with_stopped_tunnel().await?;
    let mut rpc = Rpc::connect(&home.socket()).await?;
    rpc.send_line(r#"{"jsonrpc":"2.0","id":1,"method":"daemon.status","params":{}}"#)
        .await?;
    assert_eq!(
        error_kind_of_reply(&rpc.next_object(LONG).await?),
        "invalid_request"
    );

    let mut rpc = Rpc::connect(&home.socket()).await?;
    let future = json!({"client": "lab", "protocol": [98, 99]});
    let error = rpc
        .call("hello", future)
        .await?
        .expect_err("no such version");
    assert_eq!(error.data.kind.as_str(), "unsupported_protocol");
    assert!(
        error.data.causes.iter().any(|cause| cause.contains('1')),
        "{error:?}"
    );

    let mut rpc = Rpc::connect(&home.socket()).await?;
    // A client of a later version: it also speaks version 1 and sends a field that this daemon does not know.
    let newer = json!({"client": "lab", "protocol": [99, 1], "a_new_field": true});
    let welcome = rpc.call("hello", newer).await??;
    assert_eq!(welcome["protocol"], 1);
    assert_eq!(welcome["pid"], daemon.process().pid());
    assert!(welcome["version"].is_string() && welcome["features"].is_array());
    Ok(())
}

#[tokio::test]
async fn unknown_methods_and_wrong_parameters_get_distinct_errors() -> Result<()> {
    let (_home, daemon) = start_with_stopped_tunnel().await?;
    let mut rpc = daemon.rpc().await?;
    let error = rpc
        .call("tunnel.fly", json!({}))
        .await?
        .expect_err("unknown");
    assert_eq!(
        (error.code, error.data.kind.as_str()),
        (-32601, "unknown_method")
    );
    for (method, params) in [
        ("tunnel.up", json!({"names": "t"})),
        ("tunnel.add", json!({"name": 7})),
        ("prompt.answer", json!({})),
        ("connect", json!({"name": "t", "host": "h", "port": 99999})),
        ("events.subscribe", json!({"since_seq": -1})),
    ] {
        let error = rpc.call(method, params.clone()).await?.expect_err("wrong");
        assert_eq!(
            error.data.kind.as_str(),
            "invalid_params",
            "{method} {params}"
        );
    }
    let names = json!({"names": ["nobody"]});
    for method in [
        "tunnel.up",
        "tunnel.down",
        "tunnel.restart",
        "tunnel.status",
    ] {
        let error = rpc.call(method, names.clone()).await?.expect_err("unknown");
        assert_eq!(error.data.kind.as_str(), "tunnel_not_found", "{method}");
    }
    let error = rpc
        .call("prompt.answer", json!({"id": 77, "answers": ["x"]}))
        .await?;
    assert_eq!(
        error.expect_err("no prompt").data.kind.as_str(),
        "prompt_not_found"
    );
    let connect = json!({"name": "t", "host": "h", "port": 1});
    let error = rpc.call("connect", connect).await?.expect_err("not up");
    assert_eq!(error.data.kind.as_str(), "not_up");
    Ok(())
}

#[tokio::test]
async fn a_subscriber_gets_every_change_with_consecutive_numbers() -> Result<()> {
    let target = Target::echo().await?;
    let lines = local_forward_to(&target);
    let (fixture, _) = Fixture::up(&lines).await?;
    let mut rpc = fixture.daemon.rpc().await?;
    let snapshot = rpc.call("events.subscribe", json!({})).await??;
    let first = snapshot["seq"].as_u64().context("a number")?;
    assert_eq!(snapshot["tunnels"][0]["state"], "up");
    fixture
        .daemon
        .call("tunnel.down", json!({"names": ["t"]}))
        .await?;
    let mut seq = first;
    loop {
        let event = rpc.next_notification(LONG).await?;
        assert_eq!(event["method"], "event");
        seq += 1;
        assert_eq!(event["params"]["seq"], seq, "{event}");
        if event["params"]["tunnel"]["state"] == "stopped" {
            break;
        }
    }
    // A second subscriber that has seen `first` can continue from there.
    let mut late = fixture.daemon.rpc().await?;
    late.call("events.subscribe", json!({"since_seq": first}))
        .await??;
    Ok(())
}

#[tokio::test]
async fn up_and_down_are_idempotent_and_the_last_call_wins() -> Result<()> {
    let (fixture, _) = Fixture::up("").await?;
    let mut rpc = fixture.daemon.rpc().await?;
    let names = json!({"names": ["t"]});
    // Repeated calls must not open further sessions.
    for _ in 0..200 {
        rpc.call("tunnel.up", names.clone()).await??;
    }
    assert_eq!(
        fixture.server.log()?.count_after(0, "Accepted publickey"),
        1
    );
    let mut races = tokio::task::JoinSet::new();
    for n in 0..20 {
        let mut rpc = fixture.daemon.rpc().await?;
        let names = names.clone();
        races.spawn(async move {
            let method = if n % 2 == 0 {
                "tunnel.up"
            } else {
                "tunnel.down"
            };
            rpc.call(method, names).await?.map(drop)?;
            anyhow::Ok(())
        });
    }
    while let Some(one) = races.join_next().await {
        one??;
    }
    rpc.call("tunnel.down", names.clone()).await??;
    let stopped = |tunnel: &tunneld_proto::status::TunnelStatus| tunnel.state.as_str() == "stopped";
    fixture.daemon.wait_for("t", LONG, stopped).await?;
    rpc.call("tunnel.up", names).await??;
    fixture.daemon.wait_up("t").await?;
    Ok(())
}

#[tokio::test]
async fn an_ad_hoc_tunnel_can_be_added_and_removed() -> Result<()> {
    let server = Sshd::start().await?;
    let home = Home::new()?;
    let daemon = Daemon::start(&home).await?;
    let text: toml::Table = server.tunnel_toml("x")?.parse()?;
    let spec = serde_json::to_value(&text["tunnel"]["x"])?;
    let add = json!({"name": "x", "spec": spec});
    daemon.call("tunnel.add", add.clone()).await?;
    let mut rpc = daemon.rpc().await?;
    let error = rpc.call("tunnel.add", add).await?.expect_err("twice");
    assert_eq!(error.data.kind.as_str(), "tunnel_exists");
    let up = json!({"names": ["x"], "wait": true, "timeout_ms": 20000});
    let tunnels = rpc.call("tunnel.up", up).await??;
    assert_eq!(tunnels["tunnels"][0]["state"], "up");
    let wrong = json!({"name": "y", "spec": {"hots": "h"}});
    let error = rpc.call("tunnel.add", wrong).await?.expect_err("a typo");
    assert_eq!(error.data.kind.as_str(), "config");
    rpc.call("tunnel.remove", json!({"name": "x"})).await??;
    let all = rpc.call("tunnel.status", json!({})).await??;
    assert_eq!(all["tunnels"], json!([]));
    let error = rpc.call("tunnel.remove", json!({"name": "x"})).await?;
    assert_eq!(
        error.expect_err("gone").data.kind.as_str(),
        "tunnel_not_found"
    );
    Ok(())
}

#[tokio::test]
async fn a_waiting_up_returns_a_timeout_when_its_limit_passes() -> Result<()> {
    let (_home, daemon) = start_with_stopped_tunnel().await?;
    let mut rpc = daemon.rpc().await?;
    let began = Instant::now();
    // Nothing listens on port 1, so the tunnel cannot come up.
    let up = json!({"names": ["t"], "wait": true, "timeout_ms": 700});
    let error = rpc
        .call("tunnel.up", up)
        .await?
        .expect_err("nothing listens there");
    assert_eq!(error.data.kind.as_str(), "timeout", "{error:?}");
    assert!(began.elapsed() >= Duration::from_millis(600));
    Ok(())
}

#[tokio::test]
async fn connect_turns_the_control_connection_into_the_stream() -> Result<()> {
    let target = Target::echo().await?;
    let (fixture, _) = Fixture::up("").await?;
    let stream = tokio::net::UnixStream::connect(fixture.home.socket()).await?;
    let (read, mut write) = stream.into_split();
    let mut read = tokio::io::BufReader::new(read);
    let lines = format!(
        "{}\n{}\n",
        json!({"jsonrpc": "2.0", "id": 1, "method": "hello", "params": {"client": "lab", "protocol": [1]}}),
        json!({"jsonrpc": "2.0", "id": 2, "method": "connect", "params": {"name": "t", "host": "127.0.0.1", "port": target.port()}}),
    );
    tokio::io::AsyncWriteExt::write_all(&mut write, lines.as_bytes()).await?;
    for id in [1, 2] {
        let mut line = String::new();
        within(
            LONG,
            "a reply",
            tokio::io::AsyncBufReadExt::read_line(&mut read, &mut line),
        )
        .await??;
        let reply: Value = serde_json::from_str(&line)?;
        assert_eq!(
            (reply["id"].clone(), reply.get("error")),
            (json!(id), None),
            "{reply}"
        );
    }
    let data = payload::random(50, 1 << 20);
    let got = payload::exchange(tokio::io::join(read, write), &data);
    payload::same(&data, &within(LONG, "the echo", got).await??)
}

#[tokio::test]
async fn shutdown_sends_bye_to_subscribers() -> Result<()> {
    let (home, mut daemon) = start_with_stopped_tunnel().await?;
    let mut rpc = daemon.rpc().await?;
    rpc.call("events.subscribe", json!({})).await??;
    daemon.call("daemon.shutdown", json!({})).await?;
    let mut bye = false;
    while let Some(line) = rpc.next_line(LONG).await? {
        bye |= line.contains("\"bye\"");
    }
    assert!(bye, "the daemon sent no bye");
    daemon.terminate(secs(6)).await.ok();
    assert!(!home.socket().exists());
    Ok(())
}

#[tokio::test]
async fn log_lines_can_be_read_and_the_level_can_be_set() -> Result<()> {
    let (fixture, _) = Fixture::up("").await?;
    let mut rpc = fixture.daemon.rpc().await?;
    let lines = rpc.call("log.tail", json!({"name": "t"})).await??;
    let lines = lines["lines"].as_array().context("lines")?.clone();
    assert!(!lines.is_empty());
    assert!(lines.iter().all(|line| line["tunnel"] == "t"), "{lines:?}");
    rpc.call("log.set_level", json!({"filter": "debug"}))
        .await??;
    let error = rpc.call("log.set_level", json!({"filter": "=[=,"})).await?;
    assert_eq!(
        error.expect_err("no filter").data.kind.as_str(),
        "invalid_params"
    );
    Ok(())
}
