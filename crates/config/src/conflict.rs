//! What two tunnels, or two forwards of one, cannot both have: a name, a listener, each other as their carrier.

use std::collections::BTreeMap;

use crate::addr::{BindAddr, Endpoint, ListenAddr};
use crate::diagnostic::{Diagnostic, Source, Span, did_you_mean};
use crate::layer::Jump;
use crate::model::Forward;
use crate::parse::file::{Named, Parsed};
use crate::resolve::forwards::shown;

/// What the files taken so far lay claim to.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    names: BTreeMap<String, String>,
    listeners: Vec<Listener>,
    daemon: Option<String>,
}

#[derive(Debug, Clone)]
struct Listener {
    on: ListenAddr,
    tunnel: String,
    what: String,
    place: String,
}

impl Claims {
    /// Takes a file in, or tells why it cannot be: then nothing is taken.
    ///
    /// # Errors
    /// Every claim that another holds already.
    pub(crate) fn take(&mut self, source: &Source, parsed: &Parsed) -> Result<(), Vec<Diagnostic>> {
        let mut problems = Vec::new();
        let held = self.listeners.len();
        let mut names = Vec::new();
        for tunnel in &parsed.tunnels {
            let place = placed(source, tunnel.at);
            if let Some(first) = self.names.get(&tunnel.name) {
                let message = format!(
                    "the tunnel \"{}\" is defined twice: also at {first}",
                    tunnel.name
                );
                problems.push(Diagnostic::new(tunnel.at, message).help("rename one, or remove it"));
            } else {
                self.names.insert(tunnel.name.clone(), place);
                names.push(tunnel.name.clone());
            }
            self.listeners_of(source, tunnel, &mut problems);
            loops(tunnel, &mut problems);
        }
        if let Some(daemon) = &parsed.daemon {
            match &self.daemon {
                Some(first) => problems.push(
                    Diagnostic::new(daemon.at, format!("[daemon] stands twice: also at {first}"))
                        .help("keep one, best in tunneld.toml"),
                ),
                None if problems.is_empty() => self.daemon = Some(placed(source, daemon.at)),
                None => {}
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        self.listeners.truncate(held);
        for name in names {
            self.names.remove(&name);
        }
        Err(problems)
    }

    fn listeners_of(&mut self, source: &Source, tunnel: &Named, problems: &mut Vec<Diagnostic>) {
        let gateway = tunnel
            .spec
            .gateway_ports
            .as_ref()
            .is_some_and(|on| on.value);
        for forward in tunnel.spec.forwards() {
            let (Forward::Local { listen, .. } | Forward::Dynamic { listen }) = &forward.value
            else {
                continue;
            };
            let mut on = listen.clone();
            if let ListenAddr::Tcp {
                bind: bind @ BindAddr::Loopback,
                ..
            } = &mut on
                && gateway
            {
                *bind = BindAddr::Any;
            }
            let what = shown(&forward.value);
            if let Some(other) = self.listeners.iter().find(|other| overlap(&other.on, &on)) {
                let message = format!(
                    "two forwards listen on one address: \"{what}\" of {} and \"{}\" of {}, at {}",
                    tunnel.name, other.what, other.tunnel, other.place
                );
                problems.push(
                    Diagnostic::new(forward.at, message).help("give one of them another port"),
                );
            }
            self.listeners.push(Listener {
                on,
                tunnel: tunnel.name.clone(),
                what,
                place: placed(source, forward.at),
            });
        }
    }
}

fn placed(source: &Source, at: Option<Span>) -> String {
    at.map_or_else(|| source.name().to_owned(), |at| source.place(at.start))
}

/// Whether both cannot be bound at once.
pub fn overlap(a: &ListenAddr, b: &ListenAddr) -> bool {
    match (a, b) {
        (ListenAddr::Unix(a), ListenAddr::Unix(b)) => a == b,
        (ListenAddr::Tcp { bind: a, port: p }, ListenAddr::Tcp { bind: b, port: q }) => {
            p == q && *p != 0 && same_address(a, b)
        }
        _ => false,
    }
}

fn same_address(a: &BindAddr, b: &BindAddr) -> bool {
    match (a, b) {
        (BindAddr::Any, _) | (_, BindAddr::Any) => true,
        (BindAddr::Loopback, BindAddr::Loopback) => true,
        (BindAddr::Loopback, BindAddr::Host(host)) | (BindAddr::Host(host), BindAddr::Loopback) => {
            is_loopback(host) || is_any(host)
        }
        (BindAddr::Host(a), BindAddr::Host(b)) => {
            a.eq_ignore_ascii_case(b)
                || is_any(a)
                || is_any(b)
                || (is_loopback(a) && is_loopback(b) && (a == "localhost" || b == "localhost"))
        }
    }
}

fn is_loopback(host: &str) -> bool {
    matches!(host, "127.0.0.1" | "::1") || host.eq_ignore_ascii_case("localhost")
}
fn is_any(host: &str) -> bool {
    matches!(host, "0.0.0.0" | "::")
}

/// A connection that would come back to where it started.
fn loops(tunnel: &Named, problems: &mut Vec<Diagnostic>) {
    let spec = &tunnel.spec;
    let own: Vec<(&ListenAddr, String)> = spec
        .forwards()
        .filter_map(|forward| match &forward.value {
            Forward::Local { listen, .. } | Forward::Dynamic { listen } => {
                Some((listen, shown(&forward.value)))
            }
            Forward::Remote { .. } => None,
        })
        .collect();
    let direct = spec.proxy_jump.is_none() && spec.proxy_command.is_none();
    if let Some(host) = spec.host.as_ref().filter(|_| direct) {
        let port = host
            .value
            .port
            .or_else(|| spec.port.as_ref().map(|port| port.value));
        let target = endpoint(&host.value.host, port.unwrap_or(22));
        if let Some((_, what)) = own.iter().find(|(listen, _)| reaches(&target, listen)) {
            let message = format!("the tunnel would be reached through its own \"{what}\"");
            problems.push(
                Diagnostic::new(host.at, message)
                    .help("that forward listens at the tunnel's own host and port"),
            );
        }
    }
    for remote in spec.forwards() {
        let Forward::Remote {
            listen: there,
            to: Some(to),
        } = &remote.value
        else {
            continue;
        };
        for local in spec.forwards() {
            let Forward::Local {
                listen: here,
                to: back,
            } = &local.value
            else {
                continue;
            };
            if reaches(to, here) && reaches(back, there) {
                let message = format!(
                    "\"{}\" and \"{}\" lead into each other",
                    shown(&remote.value),
                    shown(&local.value)
                );
                problems.push(
                    Diagnostic::new(remote.at, message)
                        .help("a connection to either would go round for ever"),
                );
            }
        }
    }
}

fn endpoint(host: &str, port: u16) -> Endpoint {
    Endpoint::Tcp(crate::addr::HostPort {
        host: host.to_owned(),
        port,
    })
}

/// Whether a connection to `to` arrives at `listen`, as far as names tell.
fn reaches(to: &Endpoint, listen: &ListenAddr) -> bool {
    match (to, listen) {
        (Endpoint::Unix(to), ListenAddr::Unix(listen)) => to == listen,
        (Endpoint::Tcp(to), ListenAddr::Tcp { bind, port }) => {
            to.port == *port
                && match bind {
                    BindAddr::Loopback | BindAddr::Any => is_loopback(&to.host),
                    BindAddr::Host(host) => {
                        host.eq_ignore_ascii_case(&to.host)
                            || (is_loopback(host) && to.host == "localhost")
                    }
                }
        }
        _ => false,
    }
}

/// `proxy_jump = "tunnel:NAME"`: names that there are not, and tunnels that would carry themselves.
/// Given all tunnels with their carriers, the problem of each that has one.
pub(crate) fn carriers(tunnels: &[(&Named, Option<&str>)]) -> BTreeMap<String, Diagnostic> {
    let carrier_of: BTreeMap<&str, Option<&str>> = tunnels
        .iter()
        .map(|(tunnel, carrier)| (tunnel.name.as_str(), *carrier))
        .collect();
    let mut problems = BTreeMap::new();
    for (tunnel, carrier) in tunnels {
        let Some(carrier) = carrier else { continue };
        let at = tunnel.spec.proxy_jump.as_ref().and_then(|jump| jump.at);
        if !carrier_of.contains_key(carrier) {
            let mut problem =
                Diagnostic::new(at, format!("proxy_jump: there is no tunnel \"{carrier}\""));
            if let Some(meant) = did_you_mean(carrier, carrier_of.keys().copied()) {
                problem = problem.help(format!("did you mean \"tunnel:{meant}\"?"));
            }
            problems.insert(tunnel.name.clone(), problem);
            continue;
        }
        let mut chain = vec![tunnel.name.as_str()];
        let mut next = Some(*carrier);
        while let Some(name) = next {
            chain.push(name);
            if name == tunnel.name {
                let message = format!(
                    "proxy_jump: the tunnel would carry itself: {}",
                    chain.join(" -> ")
                );
                problems.insert(
                    tunnel.name.clone(),
                    Diagnostic::new(at, message).help("break the circle"),
                );
                break;
            }
            if chain.len() > 9 {
                let message = format!(
                    "proxy_jump: the chain has more than 8 hops: {}",
                    chain.join(" -> ")
                );
                problems.insert(tunnel.name.clone(), Diagnostic::new(at, message));
                break;
            }
            next = carrier_of.get(name).copied().flatten();
        }
    }
    problems
}

/// The tunnel that carries this one.
pub(crate) fn carrier(jump: Option<&Jump>) -> Option<&str> {
    match jump {
        Some(Jump::Tunnel(name)) => Some(name),
        _ => None,
    }
}
