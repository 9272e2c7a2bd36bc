//! DNS: a name server that does not answer, does not know the name, or returns another address than before.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tunneld_tests::process::bind_mount_prefix;
use tunneld_tests::two_hosts::{SERVER_INTERFACE, SERVER_IP};

use super::NetworkFixture;
use crate::fixture::{has_error, secs, without_key};

/// How the name server replies to a query for a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DnsReply {
    NoReply,
    NoSuchName,
    Address(Ipv4Addr),
}

/// A name server on port 53 of the client host.
struct NameServer {
    zone: Arc<Mutex<Zone>>,
    _task: JoinSet<()>,
}

#[derive(Default)]
struct Zone {
    /// Names without an entry do not exist.
    replies: BTreeMap<String, DnsReply>,
    /// The number of queries so far.
    queries: usize,
}

impl NameServer {
    fn start(fixture: &NetworkFixture) -> Result<Self> {
        let socket = fixture
            .hosts
            .client_socket(|| std::net::UdpSocket::bind("127.0.0.1:53"))?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        let zone = Arc::new(Mutex::new(Zone::default()));
        let served = zone.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut query = vec![0; 1500];
            while let Ok((n, from)) = socket.recv_from(&mut query).await {
                let answer = {
                    let mut zone = served.lock().unwrap_or_else(PoisonError::into_inner);
                    zone.queries += 1;
                    answer(&query[..n], &zone.replies)
                };
                if let Some(answer) = answer {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Ok(Self { zone, _task: task })
    }

    fn set(&self, name: &str, reply: DnsReply) {
        let mut zone = self.zone.lock().unwrap_or_else(PoisonError::into_inner);
        zone.replies.insert(name.to_owned(), reply);
    }

    fn queries(&self) -> usize {
        self.zone
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .queries
    }
}

/// The answer to a query with one question (RFC 1035 §4), `None` for no answer. Only A records exist: a query for AAAA
/// gets an empty answer.
fn answer(query: &[u8], replies: &BTreeMap<String, DnsReply>) -> Option<Vec<u8>> {
    // The question follows the header of 12 bytes: labels with their lengths, then type and class.
    let mut at = 12;
    let mut labels = Vec::new();
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).into_owned());
        at = end;
    }
    let (question, kind) = (&query[12..at + 5], query[at + 2]);
    let reply = replies.get(&labels.join(".")).copied();
    let code = match reply {
        Some(DnsReply::NoReply) => return None,
        Some(DnsReply::Address(_)) => 0,
        Some(DnsReply::NoSuchName) | None => 3,
    };
    let address = match reply {
        Some(DnsReply::Address(address)) if kind == 1 => Some(address),
        _ => None,
    };
    let mut answer = query[..2].to_vec();
    answer.extend([
        0x81,
        0x80 | code,
        0,
        1,
        0,
        u8::from(address.is_some()),
        0,
        0,
        0,
        0,
    ]);
    answer.extend(question);
    if let Some(address) = address {
        // A pointer to the name in the question, type A, class IN, a lifetime of 0 s, 4 bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

#[tokio::test]
async fn names_that_hang_fail_or_change_affect_only_their_tunnel() -> Result<()> {
    let fixture = NetworkFixture::up_with("", &[], |home| {
        std::fs::write(home.path("resolv.conf"), "nameserver 127.0.0.1\n")?;
        Ok(bind_mount_prefix(&[(
            home.path("resolv.conf"),
            "/etc/resolv.conf",
        )]))
    });
    let Some((mut fixture, _)) = fixture.await? else {
        return Ok(());
    };
    let names = NameServer::start(&fixture)?;
    let server_ip: Ipv4Addr = SERVER_IP.parse()?;
    names.set("hangs.example", DnsReply::NoReply);
    names.set("moves.example", DnsReply::NoSuchName);
    let known = fixture.home.path("known");
    let key = std::fs::read_to_string(fixture.server.host_key("ed25519"))?;
    std::fs::write(&known, format!("lab {key}"))?;
    let tunnel = |name: &str| -> Result<String> {
        let text = fixture.server.tunnel_toml(name)?;
        let text = text.replace(SERVER_IP, &format!("{name}.example"));
        let lines = without_key(&text, "user_known_hosts_file");
        let known = known.display();
        Ok(format!(
            "{lines}host_key_alias = \"lab\"\nuser_known_hosts_file = \"{known}\"\n"
        ))
    };
    let text = format!("{}{}", tunnel("hangs")?, tunnel("moves")?);
    fixture.home.write("names.toml", &text)?;

    let tunnel = fixture
        .daemon
        .wait_for("moves", secs(20), has_error)
        .await?;
    assert_eq!(
        tunnel
            .last_error
            .map(|error| error.kind.to_string())
            .as_deref(),
        Some("resolve")
    );
    names.set("moves.example", DnsReply::Address(server_ip));
    let before = fixture.daemon.wait_up("moves").await?;

    // The host moves: it has another address, and the name resolves to that one.
    let new_ip = Ipv4Addr::new(10, 213, 7, 4);
    fixture.server.stop().await?;
    fixture.server.options_mut().listen_ip = new_ip.to_string();
    fixture
        .hosts
        .run_on_server(&format!("ip addr add {new_ip}/24 dev {SERVER_INTERFACE}"))
        .await?;
    fixture.server.start_again().await?;
    names.set("moves.example", DnsReply::Address(new_ip));
    fixture
        .daemon
        .wait_for(
            "moves",
            secs(20),
            crate::fixture::reconnected_since(&before),
        )
        .await?;

    // Restarts share one lookup at a time: two queries, A and AAAA, and their repetitions.
    let queries_before = names.queries();
    for _ in 0..5 {
        fixture.home.ctl(&["restart", "hangs", "--no-wait"]).await?;
    }
    assert!(
        names.queries() - queries_before < 12,
        "{} queries",
        names.queries() - queries_before
    );
    fixture.neighbour.check_undisturbed()?;
    // Stopping does not wait for the name server.
    let ended = fixture.daemon.terminate(secs(8)).await?;
    assert!(ended.success(), "{ended}");
    Ok(())
}
