//! A tunnel's forwards: those of the TOML, then those of ssh_config. Expands paths, applies `gateway_ports`, and
//! refuses or notes what would expose a port or may not be free.

use std::path::{Path, PathBuf};

use crate::addr::{BindAddr, Endpoint, HostPort, ListenAddr};
use crate::diagnostic::{Diagnostic, Span, Spanned};
use crate::layer::Layer;
use crate::model::{AddressFamily, Forward, default_dns_server};
use crate::parse::forward::MAX_SOCKET_PATH;
use crate::resolve::expand::Expander;

/// Resolves the forwards of the TOML and then those of ssh_config, each once.
pub(crate) fn resolve(expander: &mut Expander<'_>, toml: &Layer, ssh: &Layer) -> Vec<Forward> {
    let gateway = toml.gateway_ports.as_ref().or(ssh.gateway_ports.as_ref());
    let gateway = gateway.is_some_and(|gateway| gateway.value);
    let clear = toml
        .clear_all_forwardings
        .as_ref()
        .or(ssh.clear_all_forwardings.as_ref());
    let clear = clear.is_some_and(|clear| clear.value);
    let from_toml = toml.forwards().map(|forward| (forward, true));
    let from_ssh = ssh
        .forwards()
        .filter(|_| !clear)
        .map(|forward| (forward, false));
    let family = toml.address_family.as_ref().or(ssh.address_family.as_ref());
    let family = family.map(|family| family.value).unwrap_or_default();
    let dns_server = toml.dns_server.as_ref().map(|server| server.value.clone());
    let mut resolver = ForwardResolver {
        expander,
        gateway,
        family,
        dns_server: dns_server.unwrap_or_else(default_dns_server),
    };
    let mut forwards = Vec::new();
    for (written, is_toml) in from_toml.chain(from_ssh) {
        // `ssh -G` prints `*` for what GatewayPorts has allowed already.
        if is_toml && !gateway && local_bind(&written.value) == Some(&BindAddr::Any) {
            resolver.report_exposed(written);
        }
        let Some(forward) = resolver.forward(written) else {
            continue;
        };
        // The same forward in both is one forward, not a conflict.
        if !forwards.contains(&forward) {
            resolver.note_ephemeral_port(&forward);
            forwards.push(forward);
        }
    }
    forwards
}

struct ForwardResolver<'e, 'a> {
    expander: &'e mut Expander<'a>,
    /// Whether listeners without an address listen on all addresses.
    gateway: bool,
    /// The IP versions that local listeners without an address use, as in ssh.
    family: AddressFamily,
    /// What DNS listeners ask.
    dns_server: HostPort,
}

impl ForwardResolver<'_, '_> {
    fn forward(&mut self, written: &Spanned<Forward>) -> Option<Forward> {
        let span = written.span;
        Some(match &written.value {
            Forward::Local { listen, to } => Forward::Local {
                listen: self.local_listen("local_forward", span, listen, self.gateway)?,
                to: self.endpoint("local_forward", span, to)?,
            },
            Forward::Remote { listen, to } => Forward::Remote {
                // GatewayPorts of the client is about local listeners; the server has its own.
                listen: self.listen("remote_forward", span, listen, false)?,
                to: match to {
                    Some(to) => Some(self.endpoint("remote_forward", span, to)?),
                    None => None,
                },
            },
            Forward::Dynamic { listen } => Forward::Dynamic {
                listen: self.local_listen("dynamic_forward", span, listen, self.gateway)?,
            },
            Forward::Dns { listen, .. } => Forward::Dns {
                // A resolver that every machine can use is never what `gateway_ports` is set for: it is abused for
                // attacks with forged addresses. The user has to write an address.
                listen: self.local_listen("dns_listen", span, listen, false)?,
                server: self.dns_server.clone(),
            },
        })
    }

    fn local_listen(
        &mut self,
        key: &str,
        span: Option<Span>,
        listen: &ListenAddr,
        gateway: bool,
    ) -> Option<ListenAddr> {
        let listen = self.listen(key, span, listen, gateway)?;
        let ListenAddr::Tcp { bind, port } = listen else {
            return Some(listen);
        };
        let of_family = match (&bind, self.family) {
            (BindAddr::Loopback, AddressFamily::Inet) => Some("127.0.0.1"),
            (BindAddr::Loopback, AddressFamily::Inet6) => Some("::1"),
            (BindAddr::Any, AddressFamily::Inet) => Some("0.0.0.0"),
            (BindAddr::Any, AddressFamily::Inet6) => Some("::"),
            _ => None,
        };
        let bind = of_family.map_or(bind, |address| BindAddr::Host(address.to_owned()));
        Some(ListenAddr::Tcp { bind, port })
    }

    fn listen(
        &mut self,
        key: &str,
        span: Option<Span>,
        listen: &ListenAddr,
        gateway: bool,
    ) -> Option<ListenAddr> {
        Some(match listen {
            ListenAddr::Unix(path) => ListenAddr::Unix(self.socket(key, span, path)?),
            ListenAddr::Tcp { bind, port } => ListenAddr::Tcp {
                port: *port,
                bind: match bind {
                    BindAddr::Loopback if gateway => BindAddr::Any,
                    // An explicit `localhost` stays local with `gateway_ports`, as in ssh.
                    BindAddr::Host(host) if host.eq_ignore_ascii_case("localhost") => {
                        BindAddr::Loopback
                    }
                    bind => bind.clone(),
                },
            },
        })
    }

    fn endpoint(&mut self, key: &str, span: Option<Span>, to: &Endpoint) -> Option<Endpoint> {
        Some(match to {
            Endpoint::Tcp(to) => Endpoint::Tcp(to.clone()),
            Endpoint::Unix(path) => Endpoint::Unix(self.socket(key, span, path)?),
        })
    }

    fn socket(&mut self, key: &str, span: Option<Span>, path: &Path) -> Option<PathBuf> {
        let value = path.to_string_lossy().into_owned();
        let path = self.expander.path(key, &Spanned { value, span })?;
        // The parser has checked the text; the expanded path may be longer.
        if path.as_os_str().len() > MAX_SOCKET_PATH {
            let message = format!(
                "{key}: the path of the socket {} has {} bytes; the maximum is {MAX_SOCKET_PATH}",
                path.display(),
                path.as_os_str().len()
            );
            self.expander
                .diagnostics
                .push(Diagnostic::new(span, message));
            return None;
        }
        Some(path)
    }

    fn report_exposed(&mut self, written: &Spanned<Forward>) {
        let message = format!("{} would listen on every address", written.value);
        self.expander.diagnostics.push(
            Diagnostic::new(written.span, message)
                .help("write gateway_ports = true to allow that, or a specific address"),
        );
    }

    fn note_ephemeral_port(&mut self, forward: &Forward) {
        let (Forward::Local { listen, .. }
        | Forward::Dynamic { listen }
        | Forward::Dns { listen, .. }) = forward
        else {
            return;
        };
        let range = &self.expander.values.env.ephemeral_ports;
        let (ListenAddr::Tcp { port, .. }, Some(range)) = (listen, range) else {
            return;
        };
        if range.contains(port) {
            let note = format!(
                "port {port} is in the ephemeral range ({} to {}): another program may take it",
                range.start(),
                range.end()
            );
            self.expander.notes.push(note);
        }
    }
}

/// The address that a forward binds on this machine; `None` for remote forwards and Unix sockets.
fn local_bind(forward: &Forward) -> Option<&BindAddr> {
    match forward {
        Forward::Local {
            listen: ListenAddr::Tcp { bind, .. },
            ..
        }
        | Forward::Dynamic {
            listen: ListenAddr::Tcp { bind, .. },
        }
        | Forward::Dns {
            listen: ListenAddr::Tcp { bind, .. },
            ..
        } => Some(bind),
        _ => None,
    }
}
