//! Asks the server at the far side: opens one SSH channel to it when there is a query, sends all queries over it without
//! waiting for answers, and opens another when it ends. One task per forward owns the queries that have no answer yet.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::OptionFuture;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info};
use tunneld_proto::text::escape;

use super::datagrams::send_answer;
use super::{ClientQuery, QUERY_TIMEOUT, QUEUE_LEN, QuerySender, ReplyPath, StreamAnswer};
use crate::dns::{ExtendedError, InFlight, Query, ResponseCode, Waiting};
use crate::forward::context::ForwardContext;
use crate::forward::counters::CountGuard;
use crate::forward::forward_state::ForwardCell;
use crate::forward::ssh_session::{ChannelTarget, SshChannel, SshChannelReader, SshSession};
use crate::session::OpenError;
use tunneld_config::model::Forward;

/// The bytes of queries that are written at once.
const WRITE_LEN: usize = 16 * 1024;
/// The bytes of answers that are read at once.
const READ_LEN: usize = 64 * 1024;
/// The bytes of answers that wait for slow clients over TCP, all clients of a forward together.
const MAX_UNWRITTEN: usize = 4 * 1024 * 1024;

/// The resolver of one DNS forward.
pub(in crate::forward) struct Resolver<S: SshSession> {
    context: Arc<ForwardContext<S>>,
    cell: Arc<ForwardCell>,
    target: ChannelTarget,
    /// The server as it is configured, for messages.
    server: String,
    queries: mpsc::Receiver<ClientQuery>,
    in_flight: InFlight<Reply>,
    unwritten: Arc<Semaphore>,
}

struct Reply {
    path: ReplyPath,
    /// Counts the query as held until it is sent. `None` if there was a session when it arrived.
    held: Option<CountGuard>,
}

enum Event {
    Query(ClientQuery),
    /// The time of the oldest query is over.
    Deadline,
}

/// What happened on the channel to the server.
enum ChannelEvent {
    Received,
    Sent(usize),
    Ended,
    Other(Event),
}

impl<S: SshSession> Resolver<S> {
    /// Returns the resolver of a DNS forward and the sender for its queries. `None` for the other kinds of forwards.
    pub(in crate::forward) fn new(
        context: &Arc<ForwardContext<S>>,
        cell: &Arc<ForwardCell>,
    ) -> Option<(Self, QuerySender)> {
        let Forward::Dns { server, .. } = &cell.forward else {
            return None;
        };
        let (sender, queries) = mpsc::channel(QUEUE_LEN);
        let resolver = Self {
            context: Arc::clone(context),
            cell: Arc::clone(cell),
            target: ChannelTarget::Tcp {
                host: server.host.clone().into_bytes(),
                port: server.port,
            },
            server: server.to_string(),
            queries,
            in_flight: InFlight::new(),
            unwritten: Arc::new(Semaphore::new(MAX_UNWRITTEN)),
        };
        Some((resolver, sender))
    }

    /// Answers queries, for ever.
    pub(in crate::forward) async fn run(mut self) {
        loop {
            if self.in_flight.is_empty() {
                let event = self.next_event().await;
                self.handle(event);
            } else if let Some((session, channel)) = self.open().await {
                self.exchange(&session, channel).await;
            }
        }
    }

    /// Opens a channel to the server, over the current session or the next one. `None` if it cannot be opened, or if no
    /// query is left.
    async fn open(&mut self) -> Option<(S, S::Channel)> {
        let context = Arc::clone(&self.context);
        let session = match context.live_session() {
            Some(session) => session,
            None => match self.while_waiting(wait_for_session(&context)).await? {
                Some(session) => session,
                None => {
                    let why = self.away();
                    self.fail_all(&why);
                    return None;
                }
            },
        };
        let target = self.target.clone();
        let opened = self.while_waiting(session.open(&target, None)).await?;
        match opened {
            Ok(channel) => return Some((session, channel)),
            // `live_session` may return a dying session until its end is published; without this wait the loop would
            // spin on it.
            Err(OpenError::SessionLost(_)) => {
                self.while_waiting(session.closed()).await?;
            }
            Err(error) => {
                match &error {
                    OpenError::Refused { code, text } => {
                        self.cell.record_refusal(Some(*code), text);
                    }
                    other => self.cell.record_refusal(None, &other.to_string()),
                }
                info!(tunnel = self.context.tunnel, listen = %self.cell.listen(), "no DNS server: {error}");
                let error = escape(&error.to_string());
                self.fail_all(&format!("no connection to {}: {error}", self.server));
            }
        }
        None
    }

    /// Waits for `work`. Takes new queries meanwhile and answers those that run out of time; `None` once no query is left.
    async fn while_waiting<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        while !self.in_flight.is_empty() {
            tokio::select! {
                done = &mut work => return Some(done),
                event = self.next_event() => {
                    self.handle(event);
                }
            }
        }
        None
    }

    /// Sends queries and receives answers until the channel ends. It stays open without queries.
    async fn exchange(&mut self, session: &S, channel: S::Channel) {
        let (mut reader, mut writer) = channel.split();
        let mut output = BytesMut::new();
        let mut input = BytesMut::new();
        let mut pieces: Vec<Bytes> = Vec::new();
        let is_given_up = loop {
            if output.is_empty() {
                self.take_unsent(&mut output);
            }
            let event = tokio::select! {
                more = reader.next_pieces(&mut pieces, READ_LEN) => match more {
                    Ok(true) => ChannelEvent::Received,
                    Ok(false) | Err(_) => ChannelEvent::Ended,
                },
                sent = writer.write(&output), if !output.is_empty() => match sent {
                    Ok(len) => ChannelEvent::Sent(len),
                    Err(_) => ChannelEvent::Ended,
                },
                event = self.next_event() => ChannelEvent::Other(event),
            };
            match event {
                ChannelEvent::Received => {
                    self.take_answers(pieces.drain(..), &mut input);
                    // A server that never pauses must not keep the thread from the other tunnels.
                    tokio::task::consume_budget().await;
                }
                ChannelEvent::Sent(len) => {
                    self.cell.counters.add_out(len);
                    output.advance(len);
                }
                ChannelEvent::Other(event) => {
                    if self.handle(event) {
                        debug!(
                            tunnel = self.context.tunnel,
                            server = self.server,
                            "the DNS server is silent; connecting again"
                        );
                        break true;
                    }
                }
                ChannelEvent::Ended => break false,
            }
        };
        let is_servers_fault = !is_given_up && !session.is_closed();
        let failed = self.in_flight.connection_ended(is_servers_fault);
        if !failed.is_empty() {
            let why = format!("{} ended the connection without an answer", self.server);
            self.cell.record_refusal(None, &why);
            self.fail(failed, &why);
        }
    }

    /// Appends queries to `output`, about [`WRITE_LEN`] bytes.
    fn take_unsent(&mut self, output: &mut BytesMut) {
        let now = Instant::now();
        while output.len() < WRITE_LEN
            && let Some((message, reply)) = self.in_flight.next_to_send(now)
        {
            reply.held = None;
            output.extend_from_slice(&message);
        }
    }

    /// Takes the answers that are whole with `pieces`; the start of the next one stays in `input`.
    fn take_answers(&mut self, pieces: impl Iterator<Item = Bytes>, input: &mut BytesMut) {
        for piece in pieces {
            input.extend_from_slice(&piece);
            while let Some(message) = next_message(input) {
                self.take_answer(message);
            }
        }
    }

    fn take_answer(&mut self, message: Vec<u8>) {
        match self.in_flight.take_answered(message) {
            Some((waiting, answer)) => self.reply(waiting.reply.path, &waiting.query, answer),
            None => debug!(
                tunnel = self.context.tunnel,
                server = self.server,
                "ignoring a DNS message that answers no query"
            ),
        }
    }

    /// Waits for a query, or for the time of one to be over. Cancel-safe.
    async fn next_event(&mut self) -> Event {
        let deadline = self.in_flight.next_deadline().map(sleep_until);
        tokio::select! {
            Some(query) = self.queries.recv() => Event::Query(query),
            Some(()) = OptionFuture::from(deadline) => Event::Deadline,
            // The sender of the listening task lives as long as this resolver.
            else => std::future::pending().await,
        }
    }

    /// Returns whether the connection to the server is silent for too long and has to be replaced.
    fn handle(&mut self, event: Event) -> bool {
        match event {
            Event::Query(query) => {
                self.take_query(query);
                false
            }
            Event::Deadline => {
                let expired = self.in_flight.expire(Instant::now());
                let away = self.away();
                let silent = format!("{} does not answer", self.server);
                for waiting in expired.queries {
                    if waiting.is_sent() {
                        self.cell.record_refusal(None, &silent);
                        self.fail([waiting], &silent);
                    } else {
                        self.fail([waiting], &away);
                    }
                }
                expired.is_connection_silent
            }
        }
    }

    fn take_query(&mut self, query: ClientQuery) {
        let ClientQuery {
            query,
            client,
            reply,
        } = query;
        let has_session = self.context.live_session().is_some();
        if !has_session && !self.context.may_serve() {
            let away = self.away();
            return self.servfail(reply, &query, &away);
        }
        let hold = self.context.options.borrow().hold;
        let time: Duration = if has_session {
            QUERY_TIMEOUT
        } else {
            QUERY_TIMEOUT.min(hold)
        };
        let reply = Reply {
            path: reply,
            held: (!has_session).then(|| self.cell.count_held()),
        };
        let inserted = self
            .in_flight
            .insert(query, client, Instant::now() + time, reply);
        if let Err((query, reply)) = inserted {
            self.servfail(reply.path, &query, "too many queries at a time");
        }
    }

    /// Says why there is no session.
    fn away(&self) -> String {
        let summary = self.context.summary.borrow();
        match &summary.reason {
            Some(reason) => format!("the tunnel {} is away: {}", summary.name, escape(reason)),
            None => format!("the tunnel {} is away", summary.name),
        }
    }

    fn fail_all(&mut self, why: &str) {
        let all = self.in_flight.take_all();
        self.fail(all, why);
    }

    fn fail(&self, failed: impl IntoIterator<Item = Waiting<Reply>>, why: &str) {
        for waiting in failed {
            self.servfail(waiting.reply.path, &waiting.query, why);
        }
    }

    fn servfail(&self, path: ReplyPath, query: &Query, why: &str) {
        let answer = servfail(query, why);
        self.reply(path, query, answer);
    }

    /// Sends the answer to the client. A client that is gone gets none.
    fn reply(&self, path: ReplyPath, query: &Query, answer: Vec<u8>) {
        match path {
            ReplyPath::Datagram { socket, peer, .. } => {
                send_answer(&socket, peer, query, answer, &self.cell.counters);
            }
            ReplyPath::Stream(answers) => {
                let len = u32::try_from(answer.len()).unwrap_or(u32::MAX);
                let memory = Arc::clone(&self.unwritten).try_acquire_many_owned(len);
                let answer = match memory {
                    Ok(memory) => StreamAnswer {
                        message: answer,
                        _memory: Some(memory),
                    },
                    Err(_) => StreamAnswer {
                        message: servfail(query, "too many answers wait for slow clients"),
                        _memory: None,
                    },
                };
                // The queue has room for an answer to each query that its client may have.
                let _ = answers.try_send(answer);
            }
        }
    }
}

fn servfail(query: &Query, why: &str) -> Vec<u8> {
    let why = format!("tunneld: {why}");
    query.error(
        ResponseCode::ServerFailure,
        Some(ExtendedError::network(&why)),
    )
}

/// Waits for a live session; `None` if none will come without the user.
async fn wait_for_session<S: SshSession>(context: &ForwardContext<S>) -> Option<S> {
    let mut expected = context.session_expected.subscribe();
    let mut sessions = context.session.subscribe();
    let is_live = |session: &Option<S>| session.as_ref().is_some_and(|s| !s.is_closed());
    tokio::select! {
        biased;
        found = sessions.wait_for(is_live) => found.ok().and_then(|session| session.clone()),
        _ = expected.wait_for(|expected| !expected) => None,
    }
}

/// Takes the next whole message, without its length in front.
fn next_message(input: &mut BytesMut) -> Option<Vec<u8>> {
    let len = usize::from(u16::from_be_bytes(*input.first_chunk()?));
    let message = input.get(2..2 + len)?.to_vec();
    input.advance(2 + len);
    Some(message)
}

#[cfg(test)]
mod tests;
