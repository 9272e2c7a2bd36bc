//! The files that a reading uses, as the places that errors are shown at.

use std::collections::BTreeMap;

use tunneld_proto::message::ConfigFault;

use crate::conflict;
use crate::diagnostic::{Diagnostic, file_fault};
use crate::layer::Layer;
use crate::parse::file::NamedLayer;
use crate::scan::{Candidate, MAIN_FILE};

/// The errors in ssh_config files, each with the tunnels that have it.
#[derive(Debug, Default)]
pub(super) struct SshConfigFaults(BTreeMap<(String, String), Vec<String>>);

impl SshConfigFaults {
    pub(super) fn add(&mut self, diagnostic: &Diagnostic, tunnel: &str) {
        let file = diagnostic.ssh_config.clone().unwrap_or_default();
        let tunnels = self.0.entry((file, diagnostic.message.clone()));
        tunnels.or_default().push(tunnel.to_owned());
    }

    pub(super) fn into_faults(self) -> impl Iterator<Item = ConfigFault> {
        self.0.into_iter().map(|((file, message), tunnels)| {
            let help = format!("fix it; these tunnels wait for it: {}", tunnels.join(", "));
            file_fault(&file, &message, &help)
        })
    }
}

/// A tunnel with its file and the defaults that apply to it.
pub(super) type TunnelOfFile<'a> = (&'a Candidate, &'a NamedLayer, Layer);

/// Checks which tunnels carry which, now that all are known; returns an error for each with a carrier that is wrong.
pub(super) fn bad_carriers(tunnels: &[TunnelOfFile<'_>]) -> BTreeMap<String, Diagnostic> {
    let with_carriers: Vec<_> = tunnels
        .iter()
        .map(|(_, tunnel, defaults)| {
            let own = tunnel.layer.proxy_jump.as_ref();
            let inherited = defaults.proxy_jump.as_ref();
            let jump = own.or(inherited.filter(|_| tunnel.layer.proxy_command.is_none()));
            (*tunnel, conflict::carrier(jump.map(|jump| &jump.value)))
        })
        .collect();
    conflict::check_carriers(&with_carriers)
}

/// The files that a load uses.
#[derive(Clone, Copy)]
pub(super) struct Sources<'a>(pub(super) &'a [Candidate]);

impl<'a> Sources<'a> {
    pub(super) fn tunnels(self) -> Vec<TunnelOfFile<'a>> {
        let main = self
            .0
            .iter()
            .find(|candidate| {
                let name = candidate.path.file_name();
                name.is_some_and(|name| name == MAIN_FILE)
            })
            .map(|candidate| candidate.file.parsed.defaults.clone())
            .unwrap_or_default();
        let mut tunnels = Vec::new();
        for candidate in self.0 {
            let file = &candidate.file;
            let main = file.copied_defaults.as_ref().unwrap_or(&main);
            let defaults = file.parsed.defaults.clone().or(main);
            for tunnel in &candidate.file.parsed.tunnels {
                tunnels.push((candidate, tunnel, defaults.clone()));
            }
        }
        tunnels
    }

    /// Renders an error of a tunnel at its place, which may be in another file's defaults; an error without a place is
    /// shown at the tunnel.
    pub(super) fn to_fault(
        self,
        candidate: &Candidate,
        tunnel: &NamedLayer,
        mut diagnostic: Diagnostic,
    ) -> ConfigFault {
        let file = diagnostic.span.and_then(|span| {
            let mut candidates = self.0.iter();
            candidates.find(|candidate| candidate.id == span.file)
        });
        if file.is_none() {
            diagnostic.span = tunnel.span;
            diagnostic.message = format!("{}: {}", tunnel.name, diagnostic.message);
        }
        let source = &file.unwrap_or(candidate).file.source;
        source.to_fault(&diagnostic)
    }
}
