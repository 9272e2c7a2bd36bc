//! One tunnel that is resolved by itself, outside a reading of all files.

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

/// One tunnel that is to be resolved, with all that this needs: the loader is free for other work meanwhile.
#[derive(Debug)]
pub struct TunnelJob {
    env: Env,
    programs: Arc<dyn RunProgram>,
    request: ResolveRequest,
}

impl TunnelJob {
    /// Asks `ssh -G` and resolves the tunnel with its present answer.
    ///
    /// # Errors
    /// Every error, without a place: it may be in a file's defaults, whose text is not at hand.
    pub async fn resolve(self) -> Result<Tunnel, Vec<ConfigFault>> {
        let resolver = TunnelResolver::new(&self.env, &self.programs);
        let resolved = resolver.tunnel(&self.request).await;
        resolved.map_err(|diagnostics| to_faults(&self.request.name, diagnostics))
    }
}

fn to_faults(name: &str, diagnostics: Vec<Diagnostic>) -> Vec<ConfigFault> {
    let source = SourceText::new(format!("tunnel {name}"), "");
    let without_place = diagnostics.into_iter().map(|diagnostic| Diagnostic {
        span: None,
        ..diagnostic
    });
    without_place
        .map(|diagnostic| source.to_fault(&diagnostic))
        .collect()
}

/// Resolves a tunnel of the command line as part of a reading: `keys` are those of `[tunnel.NAME]` as JSON, over
/// tunneld.toml's `[defaults]`. The loader does not remember it.
///
/// # Errors
/// Every error in it.
pub async fn ad_hoc(
    name: &str,
    keys: &serde_json::Value,
    loader: &Loader,
) -> Result<Tunnel, Vec<ConfigFault>> {
    let mut job = loader.ad_hoc_job(name, keys)?;
    job.programs = Arc::clone(&loader.reading_programs);
    job.resolve().await
}

impl Loader {
    /// Prepares to resolve a tunnel of the command line, as [`ad_hoc`] does.
    ///
    /// # Errors
    /// Every error that shows without asking `ssh -G`.
    pub fn ad_hoc_job(
        &self,
        name: &str,
        keys: &serde_json::Value,
    ) -> Result<TunnelJob, Vec<ConfigFault>> {
        let (layer, mut diagnostics) = file::from_json(name, keys);
        if let Some(unread) = &self.unread_defaults {
            let message = format!(
                "{} could not be read: its [defaults] apply to this tunnel too",
                unread.display()
            );
            diagnostics.push(Diagnostic::new(None, message).help("see: tunnelctl check"));
        }
        if !diagnostics.is_empty() {
            return Err(to_faults(name, diagnostics));
        }
        let request = ResolveRequest {
            name: name.to_owned(),
            layer: layer.clone(),
            defaults: self.main_defaults(),
        };
        let alone = ParsedFile {
            tunnels: vec![NamedLayer {
                name: name.to_owned(),
                span: None,
                layer,
            }],
            ..ParsedFile::default()
        };
        let source = SourceText::new(format!("tunnel {name}"), "");
        Claims::default()
            .add(&source, &alone)
            .map_err(|diagnostics| to_faults(name, diagnostics))?;
        Ok(self.job(request))
    }

    fn job(&self, request: ResolveRequest) -> TunnelJob {
        TunnelJob {
            env: self.env.clone(),
            programs: Arc::clone(&self.programs),
            request,
        }
    }

    /// Prepares to resolve one tunnel again, as its file defines it or, for a tunnel of the command line, as `ad_hoc`
    /// does; `None` if it was resolved just now or does not exist.
    pub fn refresh_job(
        &self,
        name: &str,
        ad_hoc: Option<&serde_json::Value>,
        now: Instant,
    ) -> Option<TunnelJob> {
        let age = |at: Instant| now.saturating_duration_since(at);
        let fresh = self.read_at.is_some_and(|at| age(at) < FRESH_FOR);
        if fresh || self.unread_defaults.is_some() {
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
        Some(self.job(request))
    }

    /// A tunnel of the last load, as its file defines it.
    fn request_of_file(&self, name: &str) -> Option<ResolveRequest> {
        self.last.get(name)?;
        let mut files = self.files.values().filter_map(|known| known.good.as_ref());
        files.find_map(|good| {
            let mut tunnels = good.parsed.tunnels.iter();
            let tunnel = tunnels.find(|tunnel| tunnel.name == name)?;
            let main = good.copied_defaults.clone();
            let main = main.unwrap_or_else(|| self.main_defaults());
            let defaults = good.parsed.defaults.clone().or(&main);
            Some(ResolveRequest::of(tunnel, &defaults))
        })
    }
}
