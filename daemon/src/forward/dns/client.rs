//! DNS over TCP (RFC 7766): several queries on one connection, whose answers are written as they arrive.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::{ClientQuery, QuerySender, ReplyPath, StreamAnswer};
use crate::dns::{MAX_QUERY_LEN, Query, QueryOutcome};
use crate::forward::forward_state::ForwardCell;
use crate::forward::local_socket::LocalSocket;

/// How long a connection without a query that waits may stay open, and how long a query may take to arrive.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to receive an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Queries of one connection that may wait for their answers. Further ones stay in the socket until then.
const MAX_PIPELINED: usize = 16;
/// The room for one read, in bytes; most queries have less than 100.
const READ_LEN: usize = 1024;

/// One client's connection.
struct Client<'a> {
    socket: LocalSocket,
    cell: &'a ForwardCell,
    queries: QuerySender,
    answers: mpsc::Sender<StreamAnswer>,
    /// What has arrived of the next query.
    input: BytesMut,
    /// Queries without an answer.
    waiting: usize,
    /// Whether no more queries are taken: the client has sent EOF, or something that is no query.
    is_input_ended: bool,
}

/// Serves a client until it is done, is idle for too long, or the forward is removed.
pub(in crate::forward) async fn serve_client(
    cell: &ForwardCell,
    socket: LocalSocket,
    queries: QuerySender,
) {
    let (sender, mut answers) = mpsc::channel(MAX_PIPELINED);
    let mut client = Client {
        socket,
        cell,
        queries,
        answers: sender,
        input: BytesMut::new(),
        waiting: 0,
        is_input_ended: false,
    };
    let mut idle_at = Instant::now() + IDLE_TIMEOUT;
    loop {
        let before = client.waiting;
        if client.take_queries().await.is_none() {
            return;
        }
        if client.waiting != before {
            idle_at = Instant::now() + IDLE_TIMEOUT;
        }
        if client.is_input_ended && client.waiting == 0 {
            return client.socket.close();
        }
        let may_read = !client.is_input_ended && client.waiting < MAX_PIPELINED;
        client.input.reserve(if may_read { READ_LEN } else { 0 });
        tokio::select! {
            Some(answer) = answers.recv() => {
                if client.write(&answer).await.is_none() {
                    return;
                }
                idle_at = Instant::now() + IDLE_TIMEOUT;
            }
            read = client.socket.read_buf(&mut client.input), if may_read => match read {
                Ok(0) => client.is_input_ended = true,
                Ok(_) => {}
                Err(_) => return,
            },
            () = sleep_until(idle_at), if client.waiting == 0 => return client.socket.close(),
            () = client.queries.closed() => return,
        }
    }
}

impl Client<'_> {
    /// Passes the queries that have arrived whole to the resolver. `None` if the forward is removed.
    async fn take_queries(&mut self) -> Option<()> {
        while !self.is_input_ended && self.waiting < MAX_PIPELINED {
            let Some(&len) = self.input.first_chunk() else {
                break;
            };
            let len = usize::from(u16::from_be_bytes(len));
            if len > MAX_QUERY_LEN {
                // To skip it would take as long as the client likes.
                self.is_input_ended = true;
                break;
            }
            let Some(message) = self.input.get(2..2 + len) else {
                break;
            };
            let outcome = Query::parse(message);
            self.input.advance(2 + len);
            match outcome {
                QueryOutcome::Forward(query) => {
                    let peer = self.socket.peer()?;
                    let query = ClientQuery {
                        query,
                        client: peer.ip(),
                        reply: ReplyPath::Stream(self.answers.clone()),
                    };
                    self.queries.send(query).await.ok()?;
                    self.waiting += 1;
                }
                QueryOutcome::Answer(message) => {
                    let answer = StreamAnswer {
                        message,
                        _memory: None,
                    };
                    // There is room for one answer to each query that waits.
                    self.answers.try_send(answer).ok()?;
                    self.waiting += 1;
                }
                QueryOutcome::Ignore => self.is_input_ended = true,
            }
        }
        Some(())
    }

    /// Writes an answer. `None` if the client does not take it.
    async fn write(&mut self, answer: &StreamAnswer) -> Option<()> {
        let len = u16::try_from(answer.message.len()).ok()?;
        let mut framed = Vec::with_capacity(2 + answer.message.len());
        framed.extend(len.to_be_bytes());
        framed.extend(&answer.message);
        let written = timeout(WRITE_TIMEOUT, self.socket.write_all(&framed)).await;
        written.ok()?.ok()?;
        self.cell.counters.add_in(answer.message.len());
        self.waiting = self.waiting.saturating_sub(1);
        Some(())
    }
}
