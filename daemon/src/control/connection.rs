//! One client: its lines in, its replies and what it follows out. Requests are answered in their order; none is
//! read while the answers to earlier ones wait unread.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf};
use tokio::sync::broadcast;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::codec::FramedRead;
use tunneld_proto::codec::{CodecError, LineCodec, Prefixed};
use tunneld_proto::error::{ErrorKind, RpcError};
use tunneld_proto::message::{
    Attend, Event, Hello, LogLine, LogLines, LogTail, Subscribe, Welcome, method,
};
use tunneld_proto::version::{MAX_LINE, PROTOCOLS, VERSION};

use super::dispatch::json;
use super::outbox::{Gone, Outbox, send_all};
use super::request::{Call, params, parse};
use super::{Context, dispatch, stream, subscriptions};
use crate::session::Channel;
use crate::tunnel::interactive_clients::ClientGuard;

/// A client that has not said a good `hello` by then is dropped.
const GREETING: Duration = Duration::from_secs(10);
/// How often is looked whether a client that waits still lives.
const LOOK: Duration = Duration::from_millis(500);
/// How long the last words to a client may take.
const PARTING: Duration = Duration::from_secs(1);
/// Log lines of one reply hold at most so many bytes; older ones are left out.
const TAIL: usize = MAX_LINE / 2;

/// Serves one client to its end. `hung_up` tells whether it has closed both ways: the end of its requests alone may
/// be a client that still reads.
pub(super) async fn serve<S, H>(stream: S, context: Arc<Context>, hung_up: H)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
    H: Fn() -> bool + Send + Sync,
{
    let (reader, writer) = tokio::io::split(stream);
    let hung_up = Arc::new(hung_up);
    let (outbox, entries) = Outbox::new();
    let mut sending = pin!(send_all(writer, entries));
    let mut client = Client {
        lines: FramedRead::new(reader, LineCodec::default()),
        outbox,
        followers: JoinSet::new(),
        greeted: false,
        context: context.clone(),
        hung_up: hung_up.clone(),
        attending: None,
    };
    let end = tokio::select! {
        end = client.talk() => end,
        // The client takes nothing any more.
        _ = &mut sending => return,
    };
    let Client {
        mut lines,
        outbox,
        mut followers,
        ..
    } = client;
    drop(outbox);
    // They send what they have and end by themselves where the daemon stops.
    let parting = async {
        while followers.join_next().await.is_some() {}
        sending.await
    };
    let Some(channel) = end else {
        let _ = timeout(PARTING, parting).await;
        return;
    };
    if let Ok(writer) = parting.await {
        let rest = lines.read_buffer_mut().split().freeze();
        let near = tokio::io::join(Prefixed::new(rest, lines.into_inner()), writer);
        let left = async {
            gone(&*hung_up).await;
            // Its last bytes may still be under way.
            sleep(PARTING).await;
        };
        stream::carry(near, channel, left, &context.stopped).await;
    }
}

struct Client<S, H> {
    lines: FramedRead<ReadHalf<S>, LineCodec>,
    outbox: Outbox,
    followers: JoinSet<()>,
    greeted: bool,
    context: Arc<Context>,
    hung_up: Arc<H>,
    /// Where it asks prompts of a person.
    attending: Option<ClientGuard>,
}

/// What a call leads to once it is answered.
enum Then {
    Nothing,
    Events(broadcast::Receiver<Event>),
    Log(Option<String>, broadcast::Receiver<Arc<LogLine>>),
    Stream(Box<Channel>),
    Stop,
}

type Outcome = Result<(Value, Then), RpcError>;

impl<S, H> Client<S, H>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
    H: Fn() -> bool + Send + Sync,
{
    /// Answers requests until there are no more; the channel, where the connection becomes a byte stream.
    async fn talk(&mut self) -> Option<Box<Channel>> {
        let mut greeting = pin!(sleep(GREETING));
        let stopped = self.context.stopped.clone();
        loop {
            let line = tokio::select! {
                biased;
                () = stopped.cancelled() => return None,
                () = &mut greeting, if !self.greeted => return None,
                line = self.lines.next() => line,
            };
            match line {
                Some(Ok(line)) => match self.answer(&line).await {
                    Ok(None) => {}
                    Ok(Some(channel)) => return Some(channel),
                    Err(Gone) => return None,
                },
                Some(Err(CodecError::TooLong(limit))) => {
                    let message =
                        format!("a line is longer than {limit} bytes; the connection ends");
                    let error = RpcError::new(ErrorKind::LineTooLong, message);
                    let _ = self.outbox.reply(Value::Null, Err(error)).await;
                    return None;
                }
                Some(Err(CodecError::Io(_))) => return None,
                None => {
                    self.linger().await;
                    return None;
                }
            }
        }
    }

    /// The client says no more, but may still follow.
    async fn linger(&mut self) {
        let stopped = self.context.stopped.clone();
        if self.followers.is_empty() {
            return;
        }
        tokio::select! {
            () = gone(&*self.hung_up) => {}
            () = stopped.cancelled() => {}
            _ = self.followers.join_next() => {}
        }
        if !stopped.is_cancelled() {
            self.followers.abort_all();
        }
    }

    async fn answer(&mut self, line: &[u8]) -> Result<Option<Box<Channel>>, Gone> {
        let Call { id, method, params } = match parse(line) {
            Ok(call) => call,
            Err(refusal) => {
                let (id, error) = *refusal;
                self.outbox.reply(id, Err(error)).await?;
                return Ok(None);
            }
        };
        let stopping = self.context.stopping.clone();
        let hung_up = self.hung_up.clone();
        let outcome = tokio::select! {
            biased;
            outcome = self.perform(&method, params) => outcome,
            () = gone(&*hung_up) => return Err(Gone),
            () = stopping.cancelled(), if !dispatch::is_harmless(&method) => Err(dispatch::stopping()),
        };
        let (result, then) = match outcome {
            Ok((result, then)) => (Ok(result), then),
            Err(error) => (Err(error), Then::Nothing),
        };
        if let Some(id) = id {
            self.outbox.reply(id, result).await?;
        }
        Ok(self.go_on(then))
    }

    fn go_on(&mut self, then: Then) -> Option<Box<Channel>> {
        let stopped = self.context.stopped.clone();
        let outbox = self.outbox.clone();
        match then {
            Then::Nothing => {}
            Then::Events(events) => {
                let supervisor = self.context.supervisor.clone();
                self.followers
                    .spawn(subscriptions::events(supervisor, events, outbox, stopped));
            }
            Then::Log(tunnel, lines) => {
                self.followers
                    .spawn(subscriptions::log(tunnel, lines, outbox, stopped));
            }
            Then::Stop => self.context.stopping.cancel(),
            Then::Stream(channel) => return Some(channel),
        }
        None
    }

    async fn perform(&mut self, name: &str, given: Value) -> Outcome {
        if !self.greeted && name != method::HELLO {
            let message = "the first call of a connection is hello";
            let hint = "send {\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"hello\",\
                        \"params\":{\"client\":\"by hand\",\"protocol\":[1]}}";
            return Err(RpcError::new(ErrorKind::InvalidRequest, message).hint(hint));
        }
        let context = self.context.clone();
        match name {
            method::HELLO => {
                let welcome = greet(&params(name, given)?)?;
                self.greeted = true;
                Ok((json(&welcome)?, Then::Nothing))
            }
            method::SUBSCRIBE => {
                // A snapshot says all that older events could: `since_seq` needs nothing more.
                let _: Subscribe = params(name, given)?;
                self.may_follow()?;
                let (snapshot, events) = context.supervisor.subscribe();
                Ok((json(&snapshot)?, Then::Events(events)))
            }
            method::PROMPT_ATTEND => {
                let attend: Attend = params(name, given)?;
                self.attending = Some(context.supervisor.attend(attend.names));
                Ok((Value::Object(serde_json::Map::new()), Then::Nothing))
            }
            method::LOG_TAIL => {
                let tail: LogTail = params(name, given)?;
                if tail.follow {
                    self.may_follow()?;
                }
                self.tail(tail)
            }
            method::CONNECT => {
                if !self.followers.is_empty() {
                    let message = "connect turns the connection into a byte stream, and this one follows something";
                    return Err(RpcError::new(ErrorKind::InvalidRequest, message)
                        .hint("open another connection for it"));
                }
                let channel = dispatch::connect(&context, params(name, given)?).await?;
                Ok((
                    Value::Object(serde_json::Map::new()),
                    Then::Stream(Box::new(channel)),
                ))
            }
            method::SHUTDOWN => Ok((Value::Object(serde_json::Map::new()), Then::Stop)),
            _ => Ok((dispatch::call(&context, name, given).await?, Then::Nothing)),
        }
    }

    /// A client may follow a few things, not endlessly many.
    fn may_follow(&mut self) -> Result<(), RpcError> {
        while self.followers.try_join_next().is_some() {}
        if self.followers.len() < 8 {
            return Ok(());
        }
        let message = "this connection follows eight things already";
        Err(RpcError::new(ErrorKind::InvalidRequest, message))
    }

    fn tail(&self, tail: LogTail) -> Outcome {
        let (name, since) = (tail.name.as_deref(), tail.since);
        let (mut lines, feed) = self.context.log.ring().follow(name, since);
        let mut room = TAIL;
        let fits = |line: &&LogLine| {
            let size = line.message.len() * 2 + 160;
            room = room.saturating_sub(size);
            room > 0
        };
        let kept = lines.iter().rev().take_while(fits).count();
        lines.drain(..lines.len() - kept);
        let then = if tail.follow {
            Then::Log(tail.name, feed)
        } else {
            Then::Nothing
        };
        Ok((json(&LogLines { lines })?, then))
    }
}

/// Returns when the client has closed both ways.
async fn gone(hung_up: &impl Fn() -> bool) {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick comes at once.
    look.tick().await;
    while !hung_up() {
        look.tick().await;
    }
}

fn greet(hello: &Hello) -> Result<Welcome, RpcError> {
    let common = PROTOCOLS
        .iter()
        .find(|version| hello.protocol.contains(version));
    let Some(protocol) = common else {
        let message = format!(
            "this is tunneld {VERSION}, which speaks version {PROTOCOLS:?} of the protocol, \
             and {} speaks {:?}",
            tunneld_proto::text::escape(&hello.client),
            hello.protocol
        );
        return Err(RpcError::new(ErrorKind::UnsupportedProtocol, message)
            .hint("use tunnelctl and tunneld of the same version; restart the daemon after an upgrade")
            .causes(PROTOCOLS.iter().map(u32::to_string)));
    };
    tracing::debug!(client = %hello.client, "a client said hello");
    Ok(Welcome {
        version: VERSION.into(),
        protocol: *protocol,
        pid: std::process::id(),
        features: Vec::new(),
    })
}
