//! Listens at the far side and brings each connection from there to this one: `ssh -R`. What the far side says never chooses
//! where a connection leads: the configuration does, or with reverse SOCKS the client behind the connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::connect::dial;
use super::context::{CONNECTIONS, ForwardContext};
use super::dynamic::{self, Greeted};
use super::forward_state::{BoundAddr, ForwardCell, is_exposed};
use super::local::retries;
use super::relay::{Ending, Relay};
use super::ssh_session::{IncomingChannel, SshSession};
use crate::dynamic::{ConnectReply, ConnectRequest, Host};
use crate::failure::{Failure, FailureKind};
use tunneld_config::addr::{BindAddr, Endpoint, HostPort, ListenAddr};
use tunneld_config::model::Forward;

/// How long the server may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// The longest pause between two: a port that a session of ours held, which died unseen, is free at a time of the
/// server's own, and asking is one message.
const LONGEST: Duration = Duration::from_secs(5);

/// One session, as the remote forwards use it.
pub(super) struct Attached<L> {
    /// The session.
    pub(super) link: L,
    /// Ends all that is asked of it.
    pub(super) cancel: CancellationToken,
    /// What is being given up: a forward at the same place is asked for after that.
    pub(super) giving_up: TaskTracker,
}

impl<L: SshSession> Attached<L> {
    pub(super) fn new(link: L) -> Self {
        let giving_up = TaskTracker::new();
        giving_up.close();
        Self {
            link,
            cancel: CancellationToken::new(),
            giving_up,
        }
    }

    /// Asks for a forward until it is granted, beside everything else; `answered` hears when the first answer came.
    pub(super) fn ask(
        &self,
        ground: &Arc<ForwardContext<L>>,
        facts: &Arc<ForwardCell>,
        removed: &CancellationToken,
    ) -> oneshot::Receiver<()> {
        let (answered, first_answer) = oneshot::channel();
        let (link, giving_up) = (self.link.clone(), self.giving_up.clone());
        let (ground_, facts) = (Arc::clone(ground), Arc::clone(facts));
        let (session, removed) = (self.cancel.clone(), removed.clone());
        ground.spawn(async move {
            let asked = async {
                giving_up.wait().await;
                if ask_once(&ground_, &link, &facts).await {
                    return;
                }
                drop(answered);
                for delay in retries() {
                    tokio::time::sleep(delay.min(LONGEST)).await;
                    if ask_once(&ground_, &link, &facts).await {
                        return;
                    }
                }
            };
            tokio::select! {
                () = asked => {}
                () = session.cancelled() => {}
                () = removed.cancelled() => {}
            }
        });
        first_answer
    }

    /// Gives a forward up.
    pub(super) fn give_up(&self, ground: &ForwardContext<L>, listen: &ListenAddr) {
        let (link, listen, tunnel) = (self.link.clone(), listen.clone(), ground.tunnel.clone());
        let (kill, session) = (ground.kill.clone(), self.cancel.clone());
        self.giving_up.spawn(async move {
            let cancelled = tokio::select! {
                cancelled = timeout(ANSWER, link.cancel_forward(&listen)) => cancelled,
                () = kill.cancelled() => return,
                () = session.cancelled() => return,
            };
            match cancelled {
                Ok(Ok(())) => debug!(tunnel, %listen, "the server listens there no more"),
                Ok(Err(failure)) => warn!(tunnel, %listen, "cannot give the remote forward up: {failure}"),
                Err(_) => warn!(tunnel, %listen, "cannot give the remote forward up: no answer within {ANSWER:?}"),
            }
        });
    }
}

/// Asks once, and writes down how that went.
async fn ask_once<L: SshSession>(
    ground: &ForwardContext<L>,
    link: &L,
    facts: &ForwardCell,
) -> bool {
    let listen = facts.listen();
    let answer = timeout(ANSWER, link.request_forward(listen)).await;
    let failure = match answer {
        Ok(Ok(port)) => {
            let place = place(listen, port);
            info!(
                tunnel = ground.tunnel,
                listen = place.listen,
                "the server listens"
            );
            facts.listens(place);
            return true;
        }
        Ok(Err(failure)) => failure,
        Err(_) => Failure::new(
            FailureKind::RemoteForwardRefused,
            format!("asked the server to listen on {listen}: no answer within {ANSWER:?}"),
        ),
    };
    // The end of the session is told elsewhere, and no trouble of this forward.
    if link.is_closed() {
        return false;
    }
    if facts.failure().as_ref() != Some(&failure) {
        warn!(tunnel = ground.tunnel, "{failure}; trying again");
    }
    facts.fails(failure);
    false
}

/// Where the server listens now.
fn place(listen: &ListenAddr, bound: u16) -> BoundAddr {
    let real = match listen {
        ListenAddr::Tcp { bind, .. } => ListenAddr::Tcp {
            bind: bind.clone(),
            port: bound,
        },
        ListenAddr::Unix(path) => ListenAddr::Unix(path.clone()),
    };
    BoundAddr {
        listen: match &real {
            // The server decides which addresses its localhost has.
            ListenAddr::Tcp {
                bind: BindAddr::Loopback,
                port,
            } => format!("localhost:{port}"),
            other => other.to_string(),
        },
        port: bound,
        exposed: is_exposed(&real),
    }
}

/// Takes what the far side opens until the session ends. Never waits for a connection.
pub(super) async fn take<L: SshSession>(
    ground: Arc<ForwardContext<L>>,
    link: L,
    session: CancellationToken,
    mut incoming: mpsc::Receiver<L::Incoming>,
) {
    while let Some(Some(arrival)) = session.run_until_cancelled(incoming.recv()).await {
        let facts = find(&ground.remotes.borrow(), arrival.listen(), arrival.port());
        let Some(facts) = facts else {
            ground.complain(
                "the server opened a connection for a forward that is not asked for; refused",
            );
            continue;
        };
        let Some(place) = ground.place() else {
            ground.complain(&format!(
                "more than {CONNECTIONS} connections: new ones are refused"
            ));
            continue;
        };
        let counted = facts.connection();
        let (ground_, link) = (Arc::clone(&ground), link.clone());
        ground.spawn(async move {
            let _kept = (place, counted);
            let Forward::Remote { to, .. } = &facts.forward else {
                return;
            };
            match to {
                Some(to) => to_target::<L>(&ground_, &facts, &link, to, arrival).await,
                None => to_wherever::<L>(&ground_, &facts, &link, arrival).await,
            }
        });
    }
}

/// The forward that a connection belongs to. Several may have asked for any port: then the port tells.
fn find(remotes: &[Arc<ForwardCell>], listen: &ListenAddr, port: u16) -> Option<Arc<ForwardCell>> {
    let mut alike = remotes.iter().filter(|facts| facts.listen() == listen);
    let by_port = alike
        .clone()
        .find(|facts| facts.place().is_some_and(|place| place.port == port));
    by_port.or_else(|| alike.next()).cloned()
}

async fn to_target<L: SshSession>(
    ground: &ForwardContext<L>,
    facts: &ForwardCell,
    link: &L,
    to: &Endpoint,
    arrival: L::Incoming,
) {
    let dialled = tokio::select! {
        dialled = dial(to) => dialled,
        () = link.closed() => return,
    };
    let near = match dialled {
        Ok(near) => near,
        Err(error) => {
            info!(tunnel = ground.tunnel, listen = %facts.listen(), "a connection is refused: cannot connect to {to}: {error}");
            return arrival.refuse(&reason(&error)).await;
        }
    };
    let Ok(far) = arrival.accept().await else {
        return;
    };
    let pump = Relay {
        near: &near,
        far,
        link,
        first_out: Vec::new(),
        first_in: Vec::new(),
        counters: &facts.counters,
    };
    if pump.run().await == Ending::InOrder {
        near.close();
    }
}

/// What the far side is told; the address stays with us.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "Connection refused".to_owned(),
        io::ErrorKind::TimedOut => "Connection timed out".to_owned(),
        _ => "connect failed".to_owned(),
    }
}

async fn to_wherever<L: SshSession>(
    ground: &ForwardContext<L>,
    facts: &ForwardCell,
    link: &L,
    arrival: L::Incoming,
) {
    let Ok(mut far) = arrival.accept().await else {
        return;
    };
    let greeted = tokio::select! {
        greeted = dynamic::greet(&ground.greeters, &mut far) => greeted,
        () = link.closed() => return,
    };
    let Some(Greeted { request, payload }) = greeted else {
        return;
    };
    let dialled = tokio::select! {
        dialled = dial_permitted(ground, &request) => dialled,
        () = link.closed() => return,
    };
    match dialled {
        Ok(near) => {
            if far
                .write_all(&request.encode_reply(ConnectReply::Granted))
                .await
                .is_err()
            {
                return near.close();
            }
            let pump = Relay {
                near: &near,
                far,
                link,
                first_out: Vec::new(),
                first_in: payload,
                counters: &facts.counters,
            };
            if pump.run().await == Ending::InOrder {
                near.close();
            }
        }
        Err(error) => {
            debug!(tunnel = ground.tunnel, listen = %facts.listen(), "a request of reverse SOCKS failed: {error}");
            let answer = request.encode_reply(ConnectReply::from_io_error(&error));
            if far.write_all(&answer).await.is_ok() {
                // The channel's CLOSE follows; its EOF only makes the answer's end plain.
                let _ = far.shutdown().await;
            }
        }
    }
}

async fn dial_permitted<L: SshSession>(
    ground: &ForwardContext<L>,
    request: &ConnectRequest,
) -> io::Result<super::local_socket::Socket> {
    let host = match &request.host {
        Host::Ip(ip) => ip.to_string(),
        Host::Name(name) => String::from_utf8(name.clone())
            .map_err(|_| io::Error::new(io::ErrorKind::NotFound, "the name is not UTF-8"))?,
    };
    let to = HostPort {
        host,
        port: request.port,
    };
    let permitted = is_permitted(&ground.options.borrow().forwarding.permit_remote_open, &to);
    if !permitted {
        let why = "permit_remote_open does not name it";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    dial(&Endpoint::Tcp(to)).await
}

/// ssh_config's PermitRemoteOpen: names are compared as they are written, `*` stands for any host or port.
fn is_permitted(permits: &[String], to: &HostPort) -> bool {
    permits.is_empty()
        || permits.iter().any(|permit| {
            let Some((host, port)) = permit.rsplit_once(':') else {
                return permit == "any";
            };
            let host = host
                .strip_prefix('[')
                .and_then(|host| host.strip_suffix(']'))
                .unwrap_or(host);
            (host == "*" || host.eq_ignore_ascii_case(&to.host))
                && (port == "*" || port.parse() == Ok(to.port))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_permitted_is_dialled() {
        let to = |host: &str, port| HostPort {
            host: host.to_owned(),
            port,
        };
        let permits = |all: &[&str]| all.iter().map(|&s| s.to_owned()).collect::<Vec<_>>();
        assert!(is_permitted(&[], &to("anywhere", 1)));
        assert!(is_permitted(&permits(&["any"]), &to("anywhere", 1)));
        assert!(!is_permitted(&permits(&["none"]), &to("anywhere", 1)));
        let some = permits(&["db:5432", "[::1]:*", "*:443"]);
        assert!(is_permitted(&some, &to("DB", 5432)));
        assert!(!is_permitted(&some, &to("db", 5433)));
        assert!(is_permitted(&some, &to("::1", 7)));
        assert!(is_permitted(&some, &to("x", 443)));
        assert!(!is_permitted(&some, &to("db.evil", 5432)));
    }
}
