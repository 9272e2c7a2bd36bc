//! A tunnel's forwards: those of the TOML, then those of ssh_config; tokens, `gateway_ports`, what is exposed.

use std::path::{Path, PathBuf};

use crate::addr::{BindAddr, Endpoint, ListenAddr};
use crate::diagnostic::{At, Diagnostic, Span};
use crate::layer::Layer;
use crate::model::Forward;
use crate::parse::forward::LONGEST_SOCKET_PATH;
use crate::resolve::tunnel::Work;

impl Work<'_> {
    /// Those of the TOML, then those of ssh_config that are not the same ones again.
    pub(crate) fn forwards(&mut self, toml: &Layer, theirs: &Layer) -> Vec<Forward> {
        let merged = toml
            .gateway_ports
            .as_ref()
            .or(theirs.gateway_ports.as_ref());
        let gateway = merged.is_some_and(|gateway| gateway.value);
        let clear = toml
            .clear_all_forwardings
            .as_ref()
            .or(theirs.clear_all_forwardings.as_ref());
        let clear = clear.is_some_and(|clear| clear.value);
        let own = toml.forwards().map(|forward| (forward, true));
        let more = theirs
            .forwards()
            .filter(|_| !clear)
            .map(|forward| (forward, false));
        let mut forwards = Vec::new();
        for (written, own) in own.chain(more) {
            if own && !gateway && local_bind(&written.value) == Some(&BindAddr::Any) {
                let message = format!("{} would listen on every address", shown(&written.value));
                self.problems.push(
                    Diagnostic::new(written.at, message)
                        .help("write gateway_ports = true for that, or the address that you mean"),
                );
            }
            let Some(forward) = self.forward(written, gateway) else {
                continue;
            };
            if !forwards.contains(&forward) {
                self.note_ephemeral(&forward);
                forwards.push(forward);
            }
        }
        forwards
    }

    fn forward(&mut self, written: &At<Forward>, gateway: bool) -> Option<Forward> {
        let at = written.at;
        Some(match &written.value {
            Forward::Local { listen, to } => Forward::Local {
                listen: self.listen("local_forward", at, listen, gateway)?,
                to: self.endpoint("local_forward", at, to)?,
            },
            Forward::Remote { listen, to } => Forward::Remote {
                listen: self.listen("remote_forward", at, listen, false)?,
                to: match to {
                    Some(to) => Some(self.endpoint("remote_forward", at, to)?),
                    None => None,
                },
            },
            Forward::Dynamic { listen } => Forward::Dynamic {
                listen: self.listen("dynamic_forward", at, listen, gateway)?,
            },
        })
    }

    fn listen(
        &mut self,
        key: &str,
        at: Option<Span>,
        listen: &ListenAddr,
        gateway: bool,
    ) -> Option<ListenAddr> {
        Some(match listen {
            ListenAddr::Unix(path) => ListenAddr::Unix(self.socket(key, at, path)?),
            ListenAddr::Tcp { bind, port } => ListenAddr::Tcp {
                port: *port,
                bind: match bind {
                    BindAddr::Loopback if gateway => BindAddr::Any,
                    BindAddr::Host(host) if host.eq_ignore_ascii_case("localhost") => {
                        BindAddr::Loopback
                    }
                    bind => bind.clone(),
                },
            },
        })
    }

    fn endpoint(&mut self, key: &str, at: Option<Span>, to: &Endpoint) -> Option<Endpoint> {
        Some(match to {
            Endpoint::Tcp(to) => Endpoint::Tcp(to.clone()),
            Endpoint::Unix(path) => Endpoint::Unix(self.socket(key, at, path)?),
        })
    }

    fn socket(&mut self, key: &str, at: Option<Span>, path: &Path) -> Option<PathBuf> {
        let value = path.to_string_lossy().into_owned();
        let path = self.path(key, &At { value, at })?;
        if path.as_os_str().len() > LONGEST_SOCKET_PATH {
            let message = format!(
                "{key}: the socket's path {} has {} bytes; a Unix socket's address holds {LONGEST_SOCKET_PATH}",
                path.display(),
                path.as_os_str().len()
            );
            self.problems.push(Diagnostic::new(at, message));
            return None;
        }
        Some(path)
    }

    fn note_ephemeral(&mut self, forward: &Forward) {
        let (Forward::Local { listen, .. } | Forward::Dynamic { listen }) = forward else {
            return;
        };
        let (ListenAddr::Tcp { port, .. }, Some(range)) = (listen, &self.facts.env.ephemeral)
        else {
            return;
        };
        if range.contains(port) {
            self.notes.push(format!(
                "port {port} lies among those that outgoing connections take ({} to {}): now and then it may be taken",
                range.start(),
                range.end()
            ));
        }
    }
}

fn local_bind(forward: &Forward) -> Option<&BindAddr> {
    match forward {
        Forward::Local {
            listen: ListenAddr::Tcp { bind, .. },
            ..
        }
        | Forward::Dynamic {
            listen: ListenAddr::Tcp { bind, .. },
        } => Some(bind),
        _ => None,
    }
}

/// A forward as `status` and messages tell it.
pub(crate) fn shown(forward: &Forward) -> String {
    match forward {
        Forward::Local { listen, to } => format!("local_forward {listen} to {to}"),
        Forward::Remote {
            listen,
            to: Some(to),
        } => format!("remote_forward {listen} to {to}"),
        Forward::Remote { listen, to: None } => format!("remote_forward {listen}"),
        Forward::Dynamic { listen } => format!("dynamic_forward {listen}"),
    }
}
