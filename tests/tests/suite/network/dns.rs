//! Names: a name server that is silent, knows nothing, or has learnt something new.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tunneld_proto::status::TunnelStatus;
use tunneld_tests::process::mounting;
use tunneld_tests::two_hosts::FAR;

use super::Field;
use crate::fixture::secs;

/// What the name server says of a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    Nothing,
    NoSuchName,
    Address(Ipv4Addr),
}

/// A name server of the near host.
struct NameServer {
    book: Arc<Mutex<Book>>,
    _task: JoinSet<()>,
}

#[derive(Default)]
struct Book {
    names: BTreeMap<String, Says>,
    asked: usize,
}

impl NameServer {
    fn start(field: &Field) -> Result<Self> {
        let socket = field
            .net
            .near_socket(|| std::net::UdpSocket::bind("127.0.0.1:53"))?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        let book = Arc::new(Mutex::new(Book::default()));
        let read = book.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut query = vec![0; 1500];
            while let Ok((n, from)) = socket.recv_from(&mut query).await {
                let answer = {
                    let mut book = read.lock().unwrap_or_else(PoisonError::into_inner);
                    book.asked += 1;
                    answer(&query[..n], &book.names)
                };
                if let Some(answer) = answer {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Ok(Self { book, _task: task })
    }

    fn say(&self, name: &str, says: Says) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.names.insert(name.to_owned(), says);
    }

    fn asked(&self) -> usize {
        self.book
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .asked
    }
}

/// The answer to a query for A or AAAA records; the latter has none.
fn answer(query: &[u8], names: &BTreeMap<String, Says>) -> Option<Vec<u8>> {
    let mut at = 12;
    let mut labels = Vec::new();
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).into_owned());
        at = end;
    }
    let (question, kind) = (&query[12..at + 5], query[at + 2]);
    let says = names.get(&labels.join(".")).copied();
    let code = match says {
        Some(Says::Nothing) => return None,
        Some(Says::Address(_)) => 0,
        Some(Says::NoSuchName) | None => 3,
    };
    let address = match says {
        Some(Says::Address(address)) if kind == 1 => Some(address),
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
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

#[tokio::test]
async fn names_that_hang_fail_or_change_affect_only_their_tunnel() -> Result<()> {
    let field = Field::with("", &[], |home| {
        std::fs::write(home.path("resolv.conf"), "nameserver 127.0.0.1\n")?;
        Ok(mounting(&[(home.path("resolv.conf"), "/etc/resolv.conf")]))
    });
    let Some((mut field, _)) = field.await? else {
        return Ok(());
    };
    let names = NameServer::start(&field)?;
    let far: Ipv4Addr = FAR.parse()?;
    names.say("hangs.example", Says::Nothing);
    names.say("moves.example", Says::NoSuchName);
    let known = field.home.path("known");
    let key = std::fs::read_to_string(field.server.host_key("ed25519"))?;
    std::fs::write(&known, format!("lab {key}"))?;
    let tunnel = |name: &str| -> Result<String> {
        let text = field.server.tunnel(name)?;
        let text = text.replace(FAR, &format!("{name}.example"));
        let lines = text.lines().filter(|line| !line.starts_with("user_known"));
        let lines: String = lines.map(|line| format!("{line}\n")).collect();
        let known = known.display();
        Ok(format!(
            "{lines}host_key_alias = \"lab\"\nuser_known_hosts_file = \"{known}\"\n"
        ))
    };
    let text = format!("{}{}", tunnel("hangs")?, tunnel("moves")?);
    field.home.write("names.toml", &text)?;

    let failed = |tunnel: &TunnelStatus| tunnel.last_error.is_some();
    let tunnel = field.daemon.wait_for("moves", secs(20), failed).await?;
    assert_eq!(
        tunnel
            .last_error
            .map(|error| error.kind.to_string())
            .as_deref(),
        Some("resolve")
    );
    names.say("moves.example", Says::Address(far));
    let before = field.daemon.wait_up("moves").await?;

    // The host moves: the name leads to another address, the old one is gone.
    let elsewhere = Ipv4Addr::new(10, 213, 7, 4);
    field.server.stop().await?;
    field.server.setup_mut().ip = elsewhere.to_string();
    field
        .net
        .far(&format!("ip addr add {elsewhere}/24 dev far0"))
        .await?;
    field.server.resume().await?;
    names.say("moves.example", Says::Address(elsewhere));
    field
        .daemon
        .wait_for("moves", secs(20), crate::fixture::renewed(&before))
        .await?;

    // One lookup at a time, each of two questions and their repetitions, whatever the tunnel does meanwhile.
    let asked = names.asked();
    for _ in 0..5 {
        field.home.ctl(&["restart", "hangs", "--no-wait"]).await?;
    }
    assert!(
        names.asked() - asked < 12,
        "{} questions",
        names.asked() - asked
    );
    field.neighbour.unharmed()?;
    // Nobody waits for the name server to end.
    let ended = field.daemon.terminate(secs(8)).await?;
    assert!(ended.success(), "{ended}");
    Ok(())
}
