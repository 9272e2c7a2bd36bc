//! The making of a session, from a route to a login: host_command, the way there, keys, host key, login.
//! All of it is one future; dropping it ends what it began.

use std::net::SocketAddr;
use std::sync::Mutex;

use futures_util::future::BoxFuture;
use secrecy::ExposeSecret as _;
use tokio::sync::mpsc;

use tunneld_proto::status::Phase;
use tunneld_proto::text;
use tunneld_ssh::driver::Stream;

use crate::failure::{Failure, FailureKind};
use crate::session::auth::{self, AuthContext};
use crate::session::client;
use crate::session::deadline::{PausableDeadline, Prompter};
use crate::session::host_key::HostKeyVerifier;
use crate::session::transport::proxy_command::{Proxy, StderrTail};
use crate::session::transport::tcp;
use crate::session::{DialContext, Established, OpenError, Session};
use tunneld_config::env::Env;
use tunneld_config::model::{Route, Via};
use tunneld_config::ssh_config::tokens::{self, Keyword, ServerKey, TokenValues};
use tunneld_platform::subprocess as command;

/// The way to a host, once it is open.
struct Way {
    carrier: Stream,
    local_addr: Option<SocketAddr>,
    /// The session that carries it, and the name under which that one's end is told.
    over: Option<(String, Session)>,
    complaint: Option<StderrTail>,
}

/// What all parts of one dial know.
struct Dial<'a> {
    route: &'a Route,
    host: String,
    desk: Prompter,
    phases: &'a mpsc::UnboundedSender<Phase>,
    at: Mutex<Phase>,
    tunnel: &'a str,
}

/// Makes a session along `route`.
pub(super) async fn dial(route: &Route, context: &DialContext) -> Result<Established, Failure> {
    dial_over(route, context, None).await
}

/// Makes a session along `route`; over the session that is given where there is one.
fn dial_over<'a>(
    route: &'a Route,
    context: &'a DialContext,
    over: Option<(String, Session)>,
) -> BoxFuture<'a, Result<Established, Failure>> {
    Box::pin(async move {
        let over = match (&route.via, over) {
            (_, Some(over)) => Some(over),
            (Via::Jump(hops), None) => Some(jump(hops, context).await?),
            (Via::Tunnel(name), None) => {
                let Some(carrier) = context.carrier.clone() else {
                    return Err(Failure::new(
                        FailureKind::Proxy,
                        format!(
                            "the tunnel {} that should carry this one is not up",
                            text::escape(name)
                        ),
                    ));
                };
                Some((format!("tunnel {}", text::escape(name)), carrier))
            }
            _ => None,
        };
        let budget = PausableDeadline::new(route.connect_timeout);
        let mut dial = Dial {
            route,
            host: route.host.clone(),
            desk: Prompter::new(context.asker.clone(), budget.clone()),
            phases: &context.phases,
            at: Mutex::new(Phase::Resolve),
            tunnel: &context.tunnel,
        };
        if !route.host_command.is_empty() {
            let asking = host_of(&route.host_command);
            dial.enter(Phase::HostCommand);
            dial.host = budget.spend("host_command", asking).await?;
        }
        let who = dial.who();
        let made = budget
            .spend(&format!("connecting to {who}"), dial.make(over))
            .await;
        made.map_err(|failure| match failure.kind {
            FailureKind::Timeout => Failure {
                message: format!("{} (at {})", failure.message, dial.phase().as_str()),
                ..failure
            },
            _ => failure,
        })
    })
}

/// The last session of a chain of jump hosts, each over the one before.
async fn jump(hops: &[Route], context: &DialContext) -> Result<(String, Session), Failure> {
    let mut over: Option<(String, Session)> = None;
    for hop in hops {
        let name = format!("jump host {}", text::escape(&hop.alias));
        let _told = context.phases.send(Phase::Proxy);
        // A hop's own phases would be taken for the tunnel's.
        let quiet = DialContext {
            phases: mpsc::unbounded_channel().0,
            ..context.clone()
        };
        let made = dial_over(hop, &quiet, over.take()).await;
        let made = made.map_err(|failure| Failure {
            message: format!("{name}: {}", failure.message),
            ..failure
        })?;
        over = Some((name, made.session));
    }
    over.ok_or_else(|| Failure::new(FailureKind::Config, "proxy_jump names no host"))
}

async fn host_of(argv: &[String]) -> Result<String, Failure> {
    let failed = |why: String| {
        Failure::new(FailureKind::HostCommand, format!("host_command: {why}"))
            .hint("run the command by hand: its first line of output must be the host")
    };
    let said = command::first_line(argv).await.map_err(failed)?;
    let host = said.expose_secret().trim();
    // What `aws --output text` and `jq -r` print for a name that there is not yet.
    if matches!(host, "None" | "null") {
        return Err(failed(format!("it said {host}: there is no host yet")));
    }
    let odd = |c: char| !(c.is_ascii_alphanumeric() || ".-_:%".contains(c));
    if host.is_empty() || host.len() > 255 || host.starts_with('-') || host.contains(odd) {
        return Err(failed(format!(
            "it said {:?}, which is no host",
            text::escape(host)
        )));
    }
    Ok(host.to_owned())
}

impl Dial<'_> {
    fn enter(&self, phase: Phase) {
        if let Ok(mut at) = self.at.lock() {
            *at = phase;
        }
        // A tunnel that no longer listens is about to drop this dial.
        let _told = self.phases.send(phase);
    }

    fn phase(&self) -> Phase {
        self.at.lock().map_or(Phase::Unknown, |at| *at)
    }

    fn who(&self) -> String {
        let port = self.route.port;
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        text::escape(&format!("{}@{host}:{port}", self.route.user))
    }

    async fn make(&self, over: Option<(String, Session)>) -> Result<Established, Failure> {
        let Dial {
            route,
            desk,
            tunnel,
            ..
        } = self;
        let way = self.open_way(over).await?;
        let trust = HostKeyVerifier::gather(route, &self.host, desk, tunnel).await?;
        self.enter(Phase::Kex);
        let at_host_key = || self.enter(Phase::HostKey);
        let connected = client::connect(way.carrier, route, trust, at_host_key).await;
        let mut connected = match connected {
            Ok(connected) => connected,
            Err(failure) => return Err(with_complaint(failure, way.complaint).await),
        };
        for line in connected.core.info().pre_banner.lines() {
            tracing::info!(tunnel, "said before SSH: {}", text::escape(line));
        }
        self.enter(Phase::Auth);
        let who = self.who();
        let means = AuthContext {
            auth: &route.auth,
            desk,
            who: &who,
            tunnel,
        };
        match auth::log_in(&mut connected, &means).await {
            Ok(how) => connected.establish(
                &self.host,
                how,
                way.local_addr,
                way.over,
                way.complaint.is_some(),
            ),
            Err(failure) => {
                drop(connected);
                Err(with_complaint(failure, way.complaint).await)
            }
        }
    }

    async fn open_way(&self, over: Option<(String, Session)>) -> Result<Way, Failure> {
        let route = self.route;
        if let Some((name, session)) = over {
            self.enter(Phase::Proxy);
            let opened = session
                .open_direct_tcpip(&self.host, route.port, None)
                .await;
            let channel = opened.map_err(|error| {
                let to = text::escape(&format!("{}:{}", self.host, route.port));
                let failure = Failure::new(
                    FailureKind::Proxy,
                    format!("{name}: opening {to} from there: {error}"),
                );
                match error {
                    OpenError::Refused { code: 1, .. } => failure.hint(
                        "that server forbids it: its sshd_config's AllowTcpForwarding and PermitOpen, or the options \
                         of the key in authorized_keys",
                    ),
                    _ => failure,
                }
            })?;
            return Ok(Way {
                carrier: Stream::other(channel),
                local_addr: None,
                over: Some((name, session)),
                complaint: None,
            });
        }
        if let Via::Command(template) = &route.via {
            self.enter(Phase::Proxy);
            let command = self.expand(template)?;
            let (proxy, complaint) = Proxy::start(&command, self.tunnel).map_err(|error| {
                Failure::new(
                    FailureKind::Proxy,
                    format!("starting proxy_command: {error}"),
                )
            })?;
            return Ok(Way {
                carrier: Stream::other(proxy),
                local_addr: None,
                over: None,
                complaint: Some(complaint),
            });
        }
        self.enter(Phase::Resolve);
        let addresses = tcp::resolve(&self.host, route.port, route.address_family).await?;
        self.enter(Phase::Tcp);
        let (stream, local_addr) = tcp::connect(addresses, route).await?;
        Ok(Way {
            carrier: stream.into(),
            local_addr,
            over: None,
            complaint: None,
        })
    }

    /// The tokens of a ProxyCommand (ssh_config(5)), in one pass.
    fn expand(&self, template: &str) -> Result<String, Failure> {
        let route = self.route;
        let env = Env::from_process();
        let facts = TokenValues {
            env: &env,
            alias: &route.alias,
            host: &self.host,
            port: route.port,
            user: &route.user,
            key_alias: route.host_keys.alias.as_deref().unwrap_or(&route.alias),
            jump: "",
        };
        tokens::expand(Keyword::Proxy, template, &facts, &ServerKey::default())
            .map_err(|error| Failure::new(FailureKind::Config, format!("proxy_command: {error}")))
    }
}

async fn with_complaint(failure: Failure, complaint: Option<StderrTail>) -> Failure {
    let Some(complaint) = complaint else {
        return failure;
    };
    let (kind, hint) = match failure.kind {
        FailureKind::Disconnected | FailureKind::Protocol => {
            let hint = "run proxy_command by hand: an SSH server's SSH-2.0-… must come of it";
            (FailureKind::Proxy, Some(hint.to_owned()))
        }
        kind => (kind, failure.hint),
    };
    let said = text::escape(&complaint.drain_stderr().await);
    let message = match said.is_empty() {
        true => format!("over proxy_command: {}", failure.message),
        false => format!(
            "over proxy_command: {} (the command says: {said})",
            failure.message
        ),
    };
    Failure {
        kind,
        message,
        hint,
    }
}
