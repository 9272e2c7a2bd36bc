//! Resolves one tunnel by itself: again for a reconnect, or from the keys of a command line.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tunneld_platform::program::RunProgram;
use tunneld_proto::message::ConfigFault;

use super::Loader;
use crate::conflict::Claims;
use crate::diagnostic::{Diagnostic, SourceText};
use crate::env::Env;
use crate::model::Tunnel;
use crate::parse::file::{self, NamedLayer, ParsedFile};
use crate::resolve::route::{ResolveRequest, TunnelResolver};

/// A tunnel whose directory was read less than this long ago is not resolved again.
const FRESH_FOR: Duration = Duration::from_secs(2);

/// One tunnel that is to be resolved again, without reading its file again.
#[derive(Debug)]
pub struct RefreshJob {
    env: Env,
    programs: Arc<dyn RunProgram>,
    request: ResolveRequest,
}

impl RefreshJob {
    /// Asks `ssh -G` again and resolves the tunnel with its present answer.
    ///
    /// # Errors
    /// Every error, as one text.
    pub async fn resolve(self) -> Result<Tunnel, String> {
        TunnelResolver::new(&self.env, &self.programs)
            .tunnel(&self.request)
            .await
            .map_err(|diagnostics| Diagnostic::join(&diagnostics))
    }
}

impl Loader {
    /// Prepares to resolve one tunnel again, as its file defines it or, for a tunnel of the command line, as `ad_hoc`
    /// does; `None` if it was resolved just now or does not exist.
    pub fn refresh_job(
        &self,
        name: &str,
        ad_hoc: Option<&serde_json::Value>,
        now: Instant,
    ) -> Option<RefreshJob> {
        let age = |at: Instant| now.saturating_duration_since(at);
        // A reconnect right after a reload would ask `ssh -G` twice for the same answer.
        if self.read_at.is_some_and(|at| age(at) < FRESH_FOR) {
            return None;
        }
        let request = match ad_hoc {
            None => self.request_of_file(name)?,
            Some(keys) => {
                let (layer, diagnostics) = file::from_json(name, keys);
                diagnostics.is_empty().then_some(())?;
                ResolveRequest {
                    name: name.to_owned(),
                    layer,
                    defaults: self.main_defaults(),
                }
            }
        };
        Some(RefreshJob {
            env: self.env.clone(),
            programs: Arc::clone(&self.programs),
            request,
        })
    }

    /// A tunnel of the last load, as its file defines it.
    fn request_of_file(&self, name: &str) -> Option<ResolveRequest> {
        // A tunnel that was never resolved has no session to refresh.
        self.last.get(name)?;
        let mut files = self.files.values().filter_map(|known| known.good.as_ref());
        files.find_map(|good| {
            let mut tunnels = good.parsed.tunnels.iter();
            let tunnel = tunnels.find(|tunnel| tunnel.name == name)?;
            let defaults = good.parsed.defaults.clone().or(&self.main_defaults());
            Some(ResolveRequest::of(tunnel, &defaults))
        })
    }
}

/// Resolves a tunnel of the command line: `keys` are those of `[tunnel.NAME]` as JSON, over tunneld.toml's
/// `[defaults]`. The loader does not remember it.
///
/// # Errors
/// Every error in it.
pub async fn ad_hoc(
    name: &str,
    keys: &serde_json::Value,
    loader: &Loader,
) -> Result<Tunnel, Vec<ConfigFault>> {
    let source = SourceText::new(format!("tunnel {name}"), "");
    // Without spans: an error may be in a file's defaults, whose text is not at hand.
    let to_faults = |diagnostics: Vec<Diagnostic>| -> Vec<ConfigFault> {
        diagnostics
            .into_iter()
            .map(|diagnostic| {
                source.to_fault(&Diagnostic {
                    span: None,
                    ..diagnostic
                })
            })
            .collect()
    };
    let (layer, diagnostics) = file::from_json(name, keys);
    if !diagnostics.is_empty() {
        return Err(to_faults(diagnostics));
    }
    let request = ResolveRequest {
        name: name.to_owned(),
        layer: layer.clone(),
        defaults: loader.main_defaults(),
    };
    let alone = ParsedFile {
        tunnels: vec![NamedLayer {
            name: name.to_owned(),
            span: None,
            layer,
        }],
        ..ParsedFile::default()
    };
    // Against itself only: conflicts with the files' tunnels show when the port is bound.
    Claims::default().add(&source, &alone).map_err(to_faults)?;
    TunnelResolver::new(&loader.env, &loader.programs)
        .tunnel(&request)
        .await
        .map_err(to_faults)
}
