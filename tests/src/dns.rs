//! DNS messages and a DNS server over TCP that answers when a test says so.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::wait::within;

/// The query for the IPv4 address of `name`, with recursion.
pub fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap_or_default());
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// The answer to a query without EDNS, with this address.
pub fn answer(query: &[u8], address: [u8; 4]) -> Vec<u8> {
    let mut message = query.to_vec();
    for (at, byte) in [(2, 0x81), (3, 0x80), (7, 1)] {
        if let Some(place) = message.get_mut(at) {
            *place = byte;
        }
    }
    message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    message.extend(address);
    message
}

/// Sends queries over UDP from one socket and returns the answers by their ids.
///
/// # Errors
/// If an answer has not arrived within `limit`.
pub async fn ask_over_udp(
    server: SocketAddr,
    queries: Vec<Vec<u8>>,
    limit: Duration,
) -> Result<HashMap<u16, Vec<u8>>> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.connect(server).await?;
    for query in &queries {
        socket.send(query).await?;
    }
    let mut answers = HashMap::new();
    within(limit, "an answer to each query", async {
        let mut buffer = [0; 4096];
        while answers.len() < queries.len() {
            let len = socket.recv(&mut buffer).await?;
            let message = buffer.get(..len).context("a message")?;
            let id = message.first_chunk().context("an answer with an id")?;
            answers.insert(u16::from_be_bytes(*id), message.to_vec());
        }
        anyhow::Ok(())
    })
    .await??;
    Ok(answers)
}

/// A DNS server over TCP that keeps queries until it may answer them: with the address 192.0.2.7, the last one first. It ends
/// on drop.
pub struct HoldingServer {
    port: u16,
    received: watch::Receiver<usize>,
    may_answer: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl HoldingServer {
    /// Starts it on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// If no port can be bound.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (count, received) = watch::channel(0);
        let (may_answer, may) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (count, may) = (count.clone(), may.clone());
                connections.spawn(async move {
                    // It ends with its connection, in whatever way.
                    let _ = serve(stream, count, may).await;
                });
            }
        });
        Ok(Self {
            port,
            received,
            may_answer,
            _tasks: tasks,
        })
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits until it has received `count` queries, on all connections together.
    ///
    /// # Errors
    /// If that takes longer than `limit`.
    pub async fn wait_received(&mut self, count: usize, limit: Duration) -> Result<()> {
        let received = self.received.wait_for(|received| *received >= count);
        within(limit, &format!("{count} queries"), received).await??;
        Ok(())
    }

    /// Answers what it has received, and from now on every query at once.
    pub fn answer_all(&self) {
        self.may_answer.send_replace(true);
    }
}

async fn serve(
    mut stream: TcpStream,
    count: watch::Sender<usize>,
    mut may: watch::Receiver<bool>,
) -> Result<()> {
    let (mut input, mut held) = (Vec::new(), Vec::<Vec<u8>>::new());
    loop {
        while let Some(message) = take_message(&mut input) {
            held.push(message);
            count.send_modify(|count| *count += 1);
        }
        let answering = *may.borrow_and_update();
        while answering && let Some(query) = held.pop() {
            let message = answer(&query, [192, 0, 2, 7]);
            stream.write_u16(u16::try_from(message.len())?).await?;
            stream.write_all(&message).await?;
        }
        tokio::select! {
            read = stream.read_buf(&mut input) => ensure!(read? > 0, "the client has closed"),
            changed = may.changed(), if !answering => changed?,
        }
    }
}

/// Takes the next whole message, without its length in front.
fn take_message(input: &mut Vec<u8>) -> Option<Vec<u8>> {
    let len = usize::from(u16::from_be_bytes(*input.first_chunk()?));
    let message = input.get(2..2 + len)?.to_vec();
    input.drain(..2 + len);
    Some(message)
}
