//! What two tunnels, or two forwards of one tunnel, cannot both have: a name, a listening address, each other as the
//! carrier.

use std::collections::BTreeMap;

use crate::addr::{BindAddr, Endpoint, HostPort, ListenAddr};
use crate::diagnostic::{Diagnostic, SourceText, did_you_mean};
use crate::layer::Jump;
use crate::model::Forward;
use crate::parse::file::{NamedLayer, ParsedFile};

/// The longest chain of tunnels that carry each other.
const MAX_CARRIERS: usize = 8;

/// The names and addresses that the files accepted so far use.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// Per tunnel name, where it is defined.
    names: BTreeMap<String, String>,
    listeners: Vec<ClaimedListener>,
    /// Where `[daemon]` is defined; `None` if no file has it yet.
    daemon: Option<String>,
}

#[derive(Debug, Clone)]
struct ClaimedListener {
    listen: ListenAddr,
    tunnel: String,
    forward: String,
    location: String,
}

impl Claims {
    /// Adds the claims of a file. If one of them is taken, none is added.
    ///
    /// # Errors
    /// Every claim that is taken, and every loop between the file's own forwards.
    pub(crate) fn add(
        &mut self,
        source: &SourceText,
        parsed: &ParsedFile,
    ) -> Result<(), Vec<Diagnostic>> {
        let mut diagnostics = Vec::new();
        let listeners_before = self.listeners.len();
        let mut names = Vec::new();
        for tunnel in &parsed.tunnels {
            if let Some(first) = self.names.get(&tunnel.name) {
                let message = format!(
                    "the tunnel \"{}\" is defined twice: also at {first}",
                    tunnel.name
                );
                diagnostics
                    .push(Diagnostic::new(tunnel.span, message).help("rename or remove one"));
            } else {
                self.names
                    .insert(tunnel.name.clone(), source.location(tunnel.span));
                names.push(tunnel.name.clone());
            }
            self.add_listeners(source, tunnel, &mut diagnostics);
            check_loops(tunnel, &mut diagnostics);
        }
        if let Some(daemon) = &parsed.daemon {
            match &self.daemon {
                Some(first) => diagnostics.push(
                    Diagnostic::new(
                        daemon.span,
                        format!("[daemon] is defined twice: also at {first}"),
                    )
                    .help("keep one, preferably in tunneld.toml"),
                ),
                None if diagnostics.is_empty() => {
                    self.daemon = Some(source.location(daemon.span));
                }
                None => {}
            }
        }
        if diagnostics.is_empty() {
            return Ok(());
        }
        // Undone, so that a refused file does not hold names and ports that the next file may claim.
        self.listeners.truncate(listeners_before);
        for name in names {
            self.names.remove(&name);
        }
        Err(diagnostics)
    }

    fn add_listeners(
        &mut self,
        source: &SourceText,
        tunnel: &NamedLayer,
        diagnostics: &mut Vec<Diagnostic>,
    ) {
        let gateway = tunnel
            .layer
            .gateway_ports
            .as_ref()
            .is_some_and(|on| on.value);
        for forward in tunnel.layer.forwards() {
            let (Forward::Local { listen, .. }
            | Forward::Dynamic { listen }
            | Forward::Dns { listen, .. }) = &forward.value
            else {
                continue;
            };
            // `gateway_ports` changes what is bound, and so what it conflicts with.
            let mut listen = listen.clone();
            if let ListenAddr::Tcp {
                bind: bind @ BindAddr::Loopback,
                ..
            } = &mut listen
                && gateway
                && !matches!(forward.value, Forward::Dns { .. })
            {
                *bind = BindAddr::Any;
            }
            let claimed = ClaimedListener {
                listen,
                tunnel: tunnel.name.clone(),
                forward: forward.value.to_string(),
                location: source.location(forward.span),
            };
            let mut others = self.listeners.iter();
            if let Some(other) = others.find(|other| overlap(&other.listen, &claimed.listen)) {
                let message = format!(
                    "two forwards listen on one address: \"{}\" of {} and \"{}\" of {}, at {}",
                    claimed.forward, claimed.tunnel, other.forward, other.tunnel, other.location
                );
                diagnostics.push(
                    Diagnostic::new(forward.span, message).help("change the port of one of them"),
                );
            }
            // Also after a conflict: a third forward on the port is reported, too.
            self.listeners.push(claimed);
        }
    }
}

/// Whether two listeners cannot be bound at the same time. Names are compared as text, not resolved.
pub fn overlap(a: &ListenAddr, b: &ListenAddr) -> bool {
    match (a, b) {
        (ListenAddr::Unix(a), ListenAddr::Unix(b)) => a == b,
        (
            ListenAddr::Tcp { bind: a, port },
            ListenAddr::Tcp {
                bind: b,
                port: other,
            },
        ) => {
            // Port 0 is a free port, another one for each listener.
            port == other && *port != 0 && same_address(a, b)
        }
        _ => false,
    }
}

fn same_address(a: &BindAddr, b: &BindAddr) -> bool {
    match (a, b) {
        // The wildcard address takes the port on every address.
        (BindAddr::Any, _) | (_, BindAddr::Any) => true,
        (BindAddr::Loopback, BindAddr::Loopback) => true,
        (BindAddr::Loopback, BindAddr::Host(host)) | (BindAddr::Host(host), BindAddr::Loopback) => {
            is_loopback(host) || is_any(host)
        }
        (BindAddr::Host(a), BindAddr::Host(b)) => {
            a.eq_ignore_ascii_case(b)
                || is_any(a)
                || is_any(b)
                // `localhost` is both 127.0.0.1 and ::1; those two do not conflict with each other.
                || (is_loopback(a) && is_loopback(b) && (a == "localhost" || b == "localhost"))
        }
    }
}

/// The addresses that [`BindAddr::Loopback`] binds. 127.0.0.2 and others are other addresses.
fn is_loopback(host: &str) -> bool {
    matches!(host, "127.0.0.1" | "::1") || host.eq_ignore_ascii_case("localhost")
}
fn is_any(host: &str) -> bool {
    matches!(host, "0.0.0.0" | "::")
}

/// Reports connections that would come back to where they started, as far as the addresses show it.
fn check_loops(tunnel: &NamedLayer, diagnostics: &mut Vec<Diagnostic>) {
    check_own_destination(tunnel, diagnostics);
    for remote in tunnel.layer.forwards() {
        let Forward::Remote {
            listen: remote_listen,
            to: Some(remote_to),
        } = &remote.value
        else {
            continue;
        };
        for local in tunnel.layer.forwards() {
            let Forward::Local {
                listen: local_listen,
                to: local_to,
            } = &local.value
            else {
                continue;
            };
            if reaches(remote_to, local_listen) && reaches(local_to, remote_listen) {
                let message = format!("\"{}\" and \"{}\" form a loop", remote.value, local.value);
                diagnostics.push(
                    Diagnostic::new(remote.span, message)
                        .help("a connection to either would be forwarded back to it for ever"),
                );
            }
        }
    }
}

/// Reports a tunnel whose SSH port is one of its own listeners.
fn check_own_destination(tunnel: &NamedLayer, diagnostics: &mut Vec<Diagnostic>) {
    let layer = &tunnel.layer;
    // Behind a jump host the same name and port are another machine's.
    let direct = layer.proxy_jump.is_none() && layer.proxy_command.is_none();
    let Some(host) = layer.host.as_ref().filter(|_| direct) else {
        return;
    };
    let port = host
        .value
        .port
        .or_else(|| layer.port.as_ref().map(|port| port.value));
    let destination = Endpoint::Tcp(HostPort {
        host: host.value.host.clone(),
        port: port.unwrap_or(22),
    });
    let own = layer.forwards().find(|forward| match &forward.value {
        Forward::Local { listen, .. }
        | Forward::Dynamic { listen }
        | Forward::Dns { listen, .. } => reaches(&destination, listen),
        Forward::Remote { .. } => false,
    });
    if let Some(own) = own {
        let message = format!("the tunnel would connect through its own \"{}\"", own.value);
        diagnostics.push(
            Diagnostic::new(host.span, message)
                .help("change the forward's port: it listens on the tunnel's own host and port"),
        );
    }
}

/// Whether a connection to `to` arrives at `listen`. Names are compared as text, not resolved.
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

/// Checks `proxy_jump = "tunnel:NAME"` of all tunnels, given with their carriers: reports names that do not exist and
/// tunnels that would carry themselves, at most one error per tunnel.
pub(crate) fn check_carriers(
    tunnels: &[(&NamedLayer, Option<&str>)],
) -> BTreeMap<String, Diagnostic> {
    let carrier_of: BTreeMap<&str, Option<&str>> = tunnels
        .iter()
        .map(|(tunnel, carrier)| (tunnel.name.as_str(), *carrier))
        .collect();
    let mut diagnostics = BTreeMap::new();
    for (tunnel, carrier) in tunnels {
        let Some(carrier) = carrier else { continue };
        let span = tunnel.layer.proxy_jump.as_ref().and_then(|jump| jump.span);
        let mut report = |diagnostic| diagnostics.insert(tunnel.name.clone(), diagnostic);
        if !carrier_of.contains_key(carrier) {
            let mut diagnostic = Diagnostic::new(
                span,
                format!("proxy_jump: there is no tunnel \"{carrier}\""),
            );
            if let Some(name) = did_you_mean(carrier, carrier_of.keys().copied()) {
                diagnostic = diagnostic.help(format!("did you mean \"tunnel:{name}\"?"));
            }
            report(diagnostic);
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
                report(Diagnostic::new(span, message).help("change one of these proxy_jump keys"));
                break;
            }
            // Also ends at a loop that this tunnel leads into without being part of it.
            if chain.len() > MAX_CARRIERS + 1 {
                let message = format!(
                    "proxy_jump: the chain has more than {MAX_CARRIERS} hops: {}",
                    chain.join(" -> ")
                );
                report(Diagnostic::new(span, message));
                break;
            }
            next = carrier_of.get(name).copied().flatten();
        }
    }
    diagnostics
}

/// The tunnel that carries the one with this `proxy_jump`; `None` if no tunnel does.
pub(crate) fn carrier(jump: Option<&Jump>) -> Option<&str> {
    match jump {
        Some(Jump::Tunnel(name)) => Some(name),
        _ => None,
    }
}
