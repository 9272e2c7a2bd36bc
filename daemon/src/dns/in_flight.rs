//! The queries of one DNS forward that have no answer yet. Each gets an id that no other has, as the ids of the clients
//! may be equal; the answers arrive in any order (RFC 7766 §6.2.1.1). All queries use one connection to the server, and what
//! it leaves unanswered when it ends is asked again.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::{Query, Response};

/// Queries at a time.
const MAX_QUERIES: usize = 2048;
/// Queries of one client address at a time, so that one machine cannot use up all of them.
const MAX_OF_CLIENT: usize = 1536;
/// How often a query is sent on connections that end without answering anything: it is asked again once.
const MAX_FRUITLESS: u8 = 2;
/// How often a query is sent at all. Servers that answer some queries of a connection and then close it (dnsmasq: 100) let
/// those at the end of a long queue come back this often.
const MAX_SENT: u8 = 40;

/// How long a connection that does not answer a query may bring nothing until it counts as dead. Shorter than the time of a
/// query, and long enough that one that was opened just now is not replaced for the queries of the one before.
const SILENCE: Duration = Duration::from_secs(2);

/// A query with the way its answer goes back.
#[derive(Debug)]
pub(crate) struct Waiting<R> {
    pub(crate) query: Query,
    pub(crate) reply: R,
    deadline: Instant,
    client: IpAddr,
    /// `None` while it is not sent.
    sent_on_connection: Option<SentOnConnection>,
    sent: u8,
    fruitless: u8,
}

/// How a query was sent on the current connection.
#[derive(Debug, Clone, Copy)]
struct SentOnConnection {
    at: Instant,
    /// The number of answers that the connection had brought by then.
    answers: u64,
}

impl<R> Waiting<R> {
    /// Returns whether it was sent on the connection that was the current one last.
    pub(crate) fn is_sent(&self) -> bool {
        self.sent_on_connection.is_some()
    }
}

/// Queries without an answer, by the id that the server knows them by.
#[derive(Debug)]
pub(crate) struct InFlight<R> {
    queries: HashMap<u16, Waiting<R>>,
    unsent: VecDeque<u16>,
    deadlines: BTreeSet<(Instant, u16)>,
    clients: HashMap<IpAddr, usize>,
    next_id: u16,
    /// Answers that the current connection has brought.
    answers: u64,
}

/// The queries that ran out of time.
pub(crate) struct Expired<R> {
    pub(crate) queries: Vec<Waiting<R>>,
    /// Whether the current connection has brought nothing since one of them was sent on it: it may be dead.
    pub(crate) is_connection_silent: bool,
}

impl<R> InFlight<R> {
    pub(crate) fn new() -> Self {
        Self {
            queries: HashMap::new(),
            unsent: VecDeque::new(),
            deadlines: BTreeSet::new(),
            clients: HashMap::new(),
            next_id: 0,
            answers: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queries.is_empty()
    }

    /// Adds a query of the client at `client`.
    ///
    /// # Errors
    /// Too many queries wait, in all or of this client: the query and `reply` are returned.
    pub(crate) fn insert(
        &mut self,
        query: Query,
        client: IpAddr,
        deadline: Instant,
        reply: R,
    ) -> Result<(), (Query, R)> {
        let client = client.to_canonical();
        let of_client = self.clients.get(&client).copied().unwrap_or_default();
        if self.queries.len() >= MAX_QUERIES || of_client >= MAX_OF_CLIENT {
            return Err((query, reply));
        }
        // Ends: there are far more ids than queries.
        while self.queries.contains_key(&self.next_id) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = self.next_id;
        // The next query gets another id even if this one is answered first: an answer that is sent twice finds none.
        self.next_id = id.wrapping_add(1);
        let waiting = Waiting {
            query,
            reply,
            deadline,
            client,
            sent_on_connection: None,
            sent: 0,
            fruitless: 0,
        };
        self.queries.insert(id, waiting);
        self.unsent.push_back(id);
        self.deadlines.insert((deadline, id));
        *self.clients.entry(client).or_default() += 1;
        Ok(())
    }

    /// Takes the next query to send: its message for the server, and the way its answer goes back.
    pub(crate) fn next_to_send(&mut self, now: Instant) -> Option<(Vec<u8>, &mut R)> {
        let id = self.unsent.pop_front()?;
        let waiting = self.queries.get_mut(&id)?;
        waiting.sent_on_connection = Some(SentOnConnection {
            at: now,
            answers: self.answers,
        });
        waiting.sent = waiting.sent.saturating_add(1);
        Some((waiting.query.framed_with_id(id), &mut waiting.reply))
    }

    /// Takes the query that a message from the server answers. `None` if it answers none of them, or one that was not sent
    /// on this connection.
    pub(crate) fn take_answered(&mut self, message: Vec<u8>) -> Option<(Waiting<R>, Vec<u8>)> {
        let response = Response::parse(message)?;
        let id = response.id();
        let waiting = self.queries.get(&id)?;
        if !waiting.is_sent() || !response.answers(&waiting.query) {
            return None;
        }
        self.answers += 1;
        let waiting = self.remove(id)?;
        let message = response.into_message(waiting.query.id());
        Some((waiting, message))
    }

    /// When the next query runs out of time; `None` without queries.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Takes the queries whose deadline has passed.
    pub(crate) fn expire(&mut self, now: Instant) -> Expired<R> {
        let mut expired = Expired {
            queries: Vec::new(),
            is_connection_silent: false,
        };
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            let Some(waiting) = self.remove(id) else {
                break;
            };
            expired.is_connection_silent |= waiting.sent_on_connection.is_some_and(|sent| {
                sent.answers == self.answers && now.duration_since(sent.at) >= SILENCE
            });
            expired.queries.push(waiting);
        }
        // Expired queries that were never sent are the oldest, at the front.
        self.unsent.retain(|id| self.queries.contains_key(id));
        expired
    }

    /// Records that the connection has ended. What was sent on it is sent again on the next one; the queries for which that
    /// has been tried often enough are returned. With `is_servers_fault` false (the session was lost, or
    /// the connection was given up) the attempt does not count.
    pub(crate) fn connection_ended(&mut self, is_servers_fault: bool) -> Vec<Waiting<R>> {
        let is_fruitless = self.answers == 0;
        self.answers = 0;
        let mut again = Vec::new();
        let mut failed = Vec::new();
        for (&id, waiting) in &mut self.queries {
            if waiting.sent_on_connection.take().is_none() {
                continue;
            }
            if is_servers_fault && is_fruitless {
                waiting.fruitless = waiting.fruitless.saturating_add(1);
            }
            if waiting.fruitless >= MAX_FRUITLESS || waiting.sent >= MAX_SENT {
                failed.push(id);
            } else {
                again.push((waiting.deadline, id));
            }
        }
        // The oldest first, and before those that were not sent yet.
        again.sort_unstable();
        for (_, id) in again.into_iter().rev() {
            self.unsent.push_front(id);
        }
        failed
            .into_iter()
            .filter_map(|id| self.remove(id))
            .collect()
    }

    /// Takes all queries.
    pub(crate) fn take_all(&mut self) -> Vec<Waiting<R>> {
        self.unsent.clear();
        self.deadlines.clear();
        self.clients.clear();
        self.queries.drain().map(|(_, waiting)| waiting).collect()
    }

    fn remove(&mut self, id: u16) -> Option<Waiting<R>> {
        let waiting = self.queries.remove(&id)?;
        self.deadlines.remove(&(waiting.deadline, id));
        if let Some(count) = self.clients.get_mut(&waiting.client) {
            *count -= 1;
            if *count == 0 {
                self.clients.remove(&waiting.client);
            }
        }
        Some(waiting)
    }
}

#[cfg(test)]
mod tests;
