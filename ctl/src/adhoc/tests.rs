use super::*;
use crate::cli::{Cli, Command};
use clap::Parser as _;
use serde_json::json;

fn add(args: &[&str]) -> Result<Add, Exit> {
    let cli = Cli::try_parse_from([&["tunnelctl", "up"], args].concat()).unwrap();
    let Command::Up(up) = cli.command else {
        unreachable!()
    };
    assert!(up.ad_hoc.is_given());
    let made = up
        .ad_hoc
        .to_add(&up.selection.names, Some(Path::new("/here")));
    made.map(|(add, _)| add)
}

#[test]
fn flags_of_ssh_become_keys() {
    let got = add(&[
        "-NfL",
        "8088:localhost:80",
        "-L",
        "/tmp/s:/run/s",
        "-R9000:localhost:9",
        "-D",
        "1080",
        "-J",
        "a,b@c:7",
        "-i",
        "key.pem",
        "-i",
        "~/k",
        "-p",
        "2222",
        "-l",
        "me",
        "-4C",
        "-o",
        "ServerAliveInterval=15",
        "--save",
        "you@db.example.org:22",
    ]);
    let got = got.unwrap();
    assert_eq!((got.name.as_str(), got.save), ("db.example.org", true));
    assert_eq!(
        got.spec,
        json!({
            "host": "db.example.org", "user": "me", "port": 2222, "proxy_jump": "a,b@c:7", "address_family": "inet",
            "compression": true, "identity_file": [Path::new("/here").join("key.pem").display().to_string(), "~/k"],
            "local_forward": ["8088:localhost:80", "/tmp/s:/run/s"], "remote_forward": ["9000:localhost:9"],
            "dynamic_forward": ["1080"], "server_alive_interval": "15",
        })
    );
}

#[test]
fn pasted_ssh_command_lines_are_accepted() {
    let spec = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        add(&words).unwrap().spec
    };
    let expected = json!({"host": "u@h", "local_forward": ["1:a:2"]});
    for line in [
        "-fNT -L 1:a:2 u@h",
        "-qfnNT -L 1:a:2 u@h",
        "-vvv -N -L 1:a:2 u@h -N",
        "-AXYaxkMy -tt -S /s -e none -E /l -L 1:a:2 u@h",
        "-o BatchMode=yes -oLogLevel=ERROR -o ControlMaster=no -oControlPath=none -L1:a:2 u@h",
    ] {
        assert_eq!(spec(line), expected, "{line}");
    }
    assert_eq!(
        spec("-b 10.0.0.1 -B eth0 -c aes128-ctr -m hmac-sha2-256 -F cfg -o HostName=%h.example h"),
        json!({"host": "h", "host_name": "h.example", "bind_address": "10.0.0.1", "bind_interface": "eth0",
            "ciphers": "aes128-ctr", "macs": "hmac-sha2-256", "ssh_config": Path::new("/here").join("cfg").display().to_string()})
    );
    assert_eq!(spec("-F none h"), json!({"host": "h", "ssh_config": false}));
}

#[test]
fn a_destination_keeps_the_parts_that_no_flag_replaces() {
    let host = |args: &[&str]| add(args).unwrap().spec.get("host").cloned().unwrap();
    assert_eq!(host(&["-D1", "me@h:7"]), "me@h:7");
    assert_eq!(host(&["-D1", "-p", "8", "me@h:7"]), "me@h");
    assert_eq!(host(&["-D1", "ssh://me@[::1]:7/"]), "me@[::1]:7");
    assert_eq!(host(&["-D1", "-l", "you", "::1"]), "::1");
    assert_eq!(
        add(&["-D1", "me@[fe80::1%eth0]:7"]).unwrap().name,
        "fe80--1-eth0"
    );
    assert_eq!(add(&["-D1", "--name", "x", "h"]).unwrap().name, "x");
}

#[test]
fn an_invalid_destination_is_refused() {
    for args in [
        &["-D1"][..],
        &["-D1", "@h"],
        &["-D1", ""],
        &["-D1", "--name", "a b", "h"],
        &["-D1", "::"],
    ] {
        assert_eq!(add(args).unwrap_err().code, 2, "{args:?}");
    }
}

#[test]
fn a_command_behind_the_destination_is_ignored_with_a_note() {
    let cli = Cli::try_parse_from(["tunnelctl", "up", "-D", "1080", "h", "sleep", "60"]).unwrap();
    let Command::Up(up) = cli.command else {
        unreachable!()
    };
    let (add, notes) = up.ad_hoc.to_add(&up.selection.names, None).unwrap();
    assert_eq!(add.name, "h");
    assert!(
        notes.iter().any(|note| note.contains("sleep 60")),
        "{notes:?}"
    );
}

#[test]
fn a_forward_on_all_addresses_needs_the_flag_of_ssh() {
    let exit = add(&["-L", "*:8080:localhost:80", "h"]).unwrap_err();
    assert_eq!(exit.code, 2);
    assert!(exit.hint.unwrap().contains("-g"));
    assert!(add(&["-g", "-L", "*:8080:localhost:80", "h"]).is_ok());
}
