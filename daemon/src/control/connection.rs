//! One client of the control socket: reads its requests, sends replies and the notifications that it subscribed to.
//!
//! Requests are carried out one at a time, in their order, and the next one is read only when the reply to the last is
//! queued. The methods that change the connection itself (`hello`, subscriptions, `connect`) are carried out here, all
//! others in `dispatch`.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

use super::context::ControlContext;
use super::outbox::{Disconnected, Outbox, send_all};
use super::reading::{READ_LIMIT, read_changes};
use super::request::{Call, params, parse};
use super::result::{empty_object, json};
use super::{dispatch, stream, subscriptions};
use crate::session::Channel;
use crate::tunnel::interactive_clients::ClientGuard;

/// Time in which a client must send a valid `hello`.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval at which a connection that waits is checked for a hangup.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Time in which a client must take its last messages.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Estimated size of the log lines in one reply, in bytes; older lines are left out. Half of the line limit, because
/// the estimate may be too low.
const TAIL_BYTES: usize = MAX_LINE / 2;
/// Subscriptions that one connection may have at the same time.
const MAX_SUBSCRIPTIONS: usize = 8;

/// Serves a client that is not connected by the control socket, such as a viewer of the web page, and that was checked in
/// another way.
pub(crate) async fn serve_stream<S, H>(stream: S, context: Arc<ControlContext>, hung_up: H)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
    H: Fn() -> bool + Send + Sync,
{
    serve(stream, context, Arc::default(), hung_up).await;
}

/// Serves one client until it disconnects or the daemon stops. Sets `greeted` when the client has sent a valid `hello`.
///
/// `hung_up` returns whether the client has closed both directions. The end of its requests alone does not mean that:
/// a client may close its sending side and still read.
pub(super) async fn serve<S, H>(
    stream: S,
    context: Arc<ControlContext>,
    greeted: Arc<AtomicBool>,
    hung_up: H,
) where
    S: AsyncRead + AsyncWrite + Send + 'static,
    H: Fn() -> bool + Send + Sync,
{
    let (reader, writer) = tokio::io::split(stream);
    let hung_up = Arc::new(hung_up);
    let (outbox, queued_lines) = Outbox::new();
    let mut sending = pin!(send_all(writer, queued_lines));
    let mut client = Connection {
        lines: FramedRead::new(reader, LineCodec::default()),
        outbox,
        subscriptions: JoinSet::new(),
        greeted,
        context: context.clone(),
        hung_up: hung_up.clone(),
        interactive: None,
    };
    let end = tokio::select! {
        end = client.answer_requests() => end,
        // The client reads no longer, so that no reply can reach it.
        _ = &mut sending => return,
    };
    let Connection {
        mut lines,
        outbox,
        mut subscriptions,
        ..
    } = client;
    drop(outbox);
    // Subscriptions hold the last handles to the outbox. They end by themselves when the daemon stops, after they
    // have queued what is left, and `sending` ends after them.
    let finishing = async {
        while subscriptions.join_next().await.is_some() {}
        sending.await
    };
    let Some(channel) = end else {
        let _ = timeout(CLOSE_TIMEOUT, finishing).await;
        return;
    };
    if let Ok(writer) = finishing.await {
        // Bytes that the client sent right after its `connect` request were read into the line buffer.
        let unread = lines.read_buffer_mut().split().freeze();
        let local = tokio::io::join(Prefixed::new(unread, lines.into_inner()), writer);
        let client_gone = async {
            wait_for_hangup(&*hung_up).await;
            // The client's last bytes may still be on their way to the channel.
            sleep(CLOSE_TIMEOUT).await;
        };
        stream::relay(local, channel, client_gone, &context.stopped).await;
    }
}

struct Connection<S, H> {
    lines: FramedRead<ReadHalf<S>, LineCodec>,
    outbox: Outbox,
    subscriptions: JoinSet<()>,
    /// Whether a valid `hello` was received.
    greeted: Arc<AtomicBool>,
    context: Arc<ControlContext>,
    hung_up: Arc<H>,
    /// Set by `prompt.attend`: the client shows prompts to a user.
    interactive: Option<ClientGuard>,
}

/// What happens to the connection after the reply to a request was queued.
enum AfterReply {
    Continue,
    SendEvents(broadcast::Receiver<Event>),
    SendLog {
        tunnel: Option<String>,
        lines: broadcast::Receiver<Arc<LogLine>>,
    },
    /// The connection becomes a byte stream of this channel.
    Relay(Box<Channel>),
    StopDaemon,
}

type Outcome = Result<(Value, AfterReply), RpcError>;

impl<S, H> Connection<S, H>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
    H: Fn() -> bool + Send + Sync,
{
    /// Answers requests until the client sends no more or the daemon has stopped. Returns the channel if the
    /// connection becomes a byte stream.
    async fn answer_requests(&mut self) -> Option<Box<Channel>> {
        let mut hello_timeout = pin!(sleep(HELLO_TIMEOUT));
        let stopped = self.context.stopped.clone();
        loop {
            let line = tokio::select! {
                biased;
                () = stopped.cancelled() => return None,
                () = &mut hello_timeout, if !self.greeted.load(Ordering::Relaxed) => return None,
                line = self.lines.next() => line,
            };
            match line {
                Some(Ok(line)) => match self.answer(&line).await {
                    Ok(None) => {}
                    Ok(Some(channel)) => return Some(channel),
                    Err(Disconnected) => return None,
                },
                Some(Err(CodecError::TooLong(limit))) => {
                    // The end of the long line is unknown, so the next request cannot be found.
                    let message =
                        format!("a line is longer than {limit} bytes; the connection is closed");
                    let error = RpcError::new(ErrorKind::LineTooLong, message);
                    let _ = self.outbox.reply(Value::Null, Err(error)).await;
                    return None;
                }
                Some(Err(CodecError::Io(_))) => return None,
                None => {
                    self.serve_subscriptions().await;
                    return None;
                }
            }
        }
    }

    /// After the end of the client's requests: waits until the client disconnects, a subscription ends, or the daemon
    /// has stopped.
    async fn serve_subscriptions(&mut self) {
        let stopped = self.context.stopped.clone();
        if self.subscriptions.is_empty() {
            return;
        }
        tokio::select! {
            () = wait_for_hangup(&*self.hung_up) => {}
            () = stopped.cancelled() => {}
            _ = self.subscriptions.join_next() => {}
        }
        // When the daemon stops, subscriptions still send their last events, such as `bye`.
        if !stopped.is_cancelled() {
            self.subscriptions.abort_all();
        }
    }

    async fn answer(&mut self, line: &[u8]) -> Result<Option<Box<Channel>>, Disconnected> {
        let Call { id, method, params } = match parse(line) {
            Ok(call) => call,
            Err(invalid) => {
                let (id, error) = *invalid;
                self.outbox.reply(id, Err(error)).await?;
                return Ok(None);
            }
        };
        let stopping = self.context.stopping.clone();
        let hung_up = self.hung_up.clone();
        // Biased: a call that is done is reported as done, even if the daemon begins to stop at the same moment.
        let outcome = tokio::select! {
            biased;
            outcome = self.perform(&method, params) => outcome,
            () = wait_for_hangup(&*hung_up) => return Err(Disconnected),
            () = stopping.cancelled(), if !dispatch::is_allowed_while_stopping(&method) => {
                Err(dispatch::stopping_error())
            }
        };
        let (result, after) = match outcome {
            Ok((result, after)) => (Ok(result), after),
            Err(error) => (Err(error), AfterReply::Continue),
        };
        if let Some(id) = id {
            self.outbox.reply(id, result).await?;
        }
        Ok(self.after_reply(after))
    }

    /// Starts what the request asked for. This happens after the reply was queued, so that the reply comes before the
    /// first notification or byte.
    fn after_reply(&mut self, after: AfterReply) -> Option<Box<Channel>> {
        let stopped = self.context.stopped.clone();
        let outbox = self.outbox.clone();
        match after {
            AfterReply::Continue => {}
            AfterReply::SendEvents(events) => {
                let supervisor = self.context.supervisor.clone();
                self.subscriptions
                    .spawn(subscriptions::events(supervisor, events, outbox, stopped));
            }
            AfterReply::SendLog { tunnel, lines } => {
                self.subscriptions
                    .spawn(subscriptions::log(tunnel, lines, outbox, stopped));
            }
            AfterReply::StopDaemon => self.context.stopping.cancel(),
            AfterReply::Relay(channel) => return Some(channel),
        }
        None
    }

    async fn perform(&mut self, name: &str, call_params: Value) -> Outcome {
        if !self.greeted.load(Ordering::Relaxed) && name != method::HELLO {
            return Err(hello_required());
        }
        let context = self.context.clone();
        match name {
            method::HELLO => {
                let welcome = negotiate(&params(name, call_params)?)?;
                self.greeted.store(true, Ordering::Relaxed);
                Ok((json(&welcome)?, AfterReply::Continue))
            }
            method::SUBSCRIBE => {
                // `since_seq` is not needed: the snapshot contains the result of all older events.
                let _: Subscribe = params(name, call_params)?;
                self.check_subscription_limit()?;
                // tunnelctl selects tunnels by this snapshot: one whose file was saved just before must be in it.
                read_changes(&context, &[], READ_LIMIT).await?;
                let (snapshot, events) = context.supervisor.subscribe();
                Ok((json(&snapshot)?, AfterReply::SendEvents(events)))
            }
            method::PROMPT_ATTEND => {
                let attend: Attend = params(name, call_params)?;
                self.interactive = Some(context.supervisor.attend(attend.names));
                Ok((empty_object(), AfterReply::Continue))
            }
            method::LOG_TAIL => {
                let tail: LogTail = params(name, call_params)?;
                if tail.follow {
                    self.check_subscription_limit()?;
                }
                self.tail(tail)
            }
            method::CONNECT => {
                // Notifications between the bytes of the stream would corrupt it.
                if !self.subscriptions.is_empty() {
                    let message = "connect turns the connection into a byte stream, but this connection has subscriptions";
                    return Err(RpcError::new(ErrorKind::InvalidRequest, message)
                        .hint("use a second connection for connect"));
                }
                let channel = dispatch::connect(&context, params(name, call_params)?).await?;
                Ok((empty_object(), AfterReply::Relay(Box::new(channel))))
            }
            method::SHUTDOWN => Ok((empty_object(), AfterReply::StopDaemon)),
            _ => {
                let result = dispatch::call(&context, name, call_params).await?;
                Ok((result, AfterReply::Continue))
            }
        }
    }

    fn check_subscription_limit(&mut self) -> Result<(), RpcError> {
        while self.subscriptions.try_join_next().is_some() {}
        if self.subscriptions.len() < MAX_SUBSCRIPTIONS {
            return Ok(());
        }
        let message =
            format!("this connection has {MAX_SUBSCRIPTIONS} subscriptions, which is the limit");
        Err(RpcError::new(ErrorKind::InvalidRequest, message))
    }

    fn tail(&self, tail: LogTail) -> Outcome {
        let (name, since) = (tail.name.as_deref(), tail.since);
        let (mut lines, feed) = self.context.log.ring().follow(name, since);
        let mut room = TAIL_BYTES;
        let fits = |line: &&LogLine| {
            // Twice the message for escapes in JSON, and the other fields.
            let size = line.message.len() * 2 + 160;
            room = room.saturating_sub(size);
            room > 0
        };
        let kept = lines.iter().rev().take_while(fits).count();
        lines.drain(..lines.len() - kept);
        let after = if tail.follow {
            AfterReply::SendLog {
                tunnel: tail.name,
                lines: feed,
            }
        } else {
            AfterReply::Continue
        };
        Ok((json(&LogLines { lines })?, after))
    }
}

/// Returns when the client has closed both directions. The state of the socket is polled: while the daemon does not
/// read, tokio reports nothing about it.
async fn wait_for_hangup(hung_up: &impl Fn() -> bool) {
    let mut poll = interval(POLL_INTERVAL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick completes immediately.
    poll.tick().await;
    while !hung_up() {
        poll.tick().await;
    }
}

fn hello_required() -> RpcError {
    let message = "the first call of a connection must be hello";
    let hint = "send {\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"hello\",\
                \"params\":{\"client\":\"by hand\",\"protocol\":[1]}}";
    RpcError::new(ErrorKind::InvalidRequest, message).hint(hint)
}

/// Chooses the protocol version that both sides have.
fn negotiate(hello: &Hello) -> Result<Welcome, RpcError> {
    let common = PROTOCOLS
        .iter()
        .find(|version| hello.protocol.contains(version));
    let Some(protocol) = common else {
        let message = format!(
            "tunneld {VERSION} supports the protocol versions {PROTOCOLS:?}, but {} supports {:?}",
            tunneld_proto::text::escape(&hello.client),
            hello.protocol
        );
        return Err(RpcError::new(ErrorKind::UnsupportedProtocol, message)
            .hint("use the same version of tunnelctl and tunneld; restart the daemon after an upgrade")
            .causes(PROTOCOLS.iter().map(u32::to_string)));
    };
    tracing::debug!(client = %hello.client, "a client connected");
    Ok(Welcome {
        version: VERSION.into(),
        protocol: *protocol,
        pid: std::process::id(),
        features: Vec::new(),
    })
}
