//! The status of 100 tunnels as JSON, which the daemon sends for `tunnelctl status` and the client reads.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails panics")]

use divan::Bencher;
use divan::counter::BytesCount;
use tunneld_proto::status::TunnelStatus;

const TUNNELS: usize = 100;

/// A tunnel that is up, with two forwards.
const TUNNEL: &str = r#"{
    "name": "db", "state": "up", "phase": null, "since": "2026-01-01T00:00:03Z",
    "host": "deploy@db.example.org:22", "via": ["jump.example.org"], "tags": ["work"],
    "description": "the database", "desired": "up", "attempt": 1, "retry_at": null,
    "last_error": null, "prompt": null, "reconnects": 3,
    "session": {
        "since": "2026-01-01T00:00:04Z", "server": "SSH-2.0-OpenSSH_9.2p1", "kex": "curve25519-sha256",
        "host_key": "ssh-ed25519 SHA256:abc", "cipher": "aes128-gcm@openssh.com", "mac": null,
        "auth": "publickey (agent, ED25519 SHA256:def)", "rtt_ms": 12.5, "offences": 0
    },
    "forwards": [
        {"kind": "local", "listen": "127.0.0.1:5432", "to": "localhost:5432", "state": "listening", "error": null,
         "exposed": false, "connections": 2, "held": 0, "total": 30, "bytes_in": 4000, "bytes_out": 500},
        {"kind": "dynamic", "listen": "127.0.0.1:1080", "to": null, "state": "listening", "error": null,
         "exposed": false, "connections": 2, "held": 0, "total": 30, "bytes_in": 4000, "bytes_out": 500}
    ]
}"#;

fn main() {
    divan::main();
}

fn tunnels() -> Vec<TunnelStatus> {
    let tunnel: TunnelStatus = serde_json::from_str(TUNNEL).unwrap();
    (0..TUNNELS)
        .map(|n| TunnelStatus {
            name: format!("tunnel-{n}"),
            ..tunnel.clone()
        })
        .collect()
}

#[divan::bench]
fn serialise(bencher: Bencher) {
    let tunnels = tunnels();
    let length = serde_json::to_vec(&tunnels).unwrap().len();
    bencher
        .counter(BytesCount::new(length))
        .bench_local(|| serde_json::to_vec(divan::black_box(&tunnels)).unwrap());
}

#[divan::bench]
fn parse(bencher: Bencher) {
    let json = serde_json::to_vec(&tunnels()).unwrap();
    let count = BytesCount::new(json.len());
    bencher.counter(count).bench_local(|| -> Vec<TunnelStatus> {
        serde_json::from_slice(divan::black_box(&json)).unwrap()
    });
}
