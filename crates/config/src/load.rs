//! Loads the configuration directory: scans the files, replaces each that has errors by its last good state, decides
//! between files that claim the same name or port, and resolves all tunnels.

mod refresh;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tunneld_platform::program::RunProgram;
use tunneld_proto::message::ConfigFault;

use crate::conflict;
use crate::diagnostic::{Diagnostic, file_fault};
use crate::env::Env;
use crate::layer::Layer;
use crate::model::{DaemonConfig, Tunnel};
use crate::parse::file::NamedLayer;
use crate::resolve::route::{ResolveRequest, TunnelResolver};
use crate::scan::{Candidate, Draft, KnownFile, Scan, Scanned, stale_candidates};
use crate::settle::settle_claims;
pub use refresh::{RefreshJob, ad_hoc};

/// Name of the file whose `[defaults]` apply to the tunnels of all files.
const MAIN_FILE: &str = "tunneld.toml";

/// The content of the directory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loaded {
    /// The tunnels, sorted by name; those of a file with errors in their last good state.
    pub tunnels: Vec<Tunnel>,
    /// `[daemon]`, or its defaults if no file has it.
    pub daemon: DaemonConfig,
    /// Every error of every file.
    pub faults: Vec<ConfigFault>,
    /// What the user should know about the configuration as a whole.
    pub notes: Vec<String>,
    /// Whether something failed that may succeed later without a change of the files: `ssh -G` did not answer.
    pub try_again: bool,
}

/// Reads the directory again and again, and keeps the last good state of each file.
#[derive(Debug)]
pub struct Loader {
    dir: PathBuf,
    env: Env,
    programs: Arc<dyn RunProgram>,
    files: BTreeMap<PathBuf, KnownFile>,
    /// The tunnels of the last load, for those that cannot be resolved in the next.
    last: BTreeMap<String, Tunnel>,
    next_id: usize,
    dir_required: bool,
    read_at: Option<Instant>,
}

impl Loader {
    /// A loader of `dir` that has read nothing yet.
    pub fn new(dir: PathBuf, env: Env, programs: Arc<dyn RunProgram>) -> Self {
        Self {
            dir,
            env,
            programs,
            files: BTreeMap::new(),
            last: BTreeMap::new(),
            next_id: 0,
            dir_required: false,
            read_at: None,
        }
    }

    /// Sets whether a missing directory is an error: the user named it, rather than leave it at the default.
    #[must_use]
    pub fn dir_required(mut self, required: bool) -> Self {
        self.dir_required = required;
        self
    }

    /// The environment that tunnels are resolved in.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Reads everything, the files on the calling thread. `now` is the time of the reading.
    pub async fn load(&mut self, now: Instant) -> Loaded {
        let scanned = self.scan().run();
        self.finish(scanned, now).await
    }

    /// Returns the blocking part of a load, for a runtime to run on a thread that may block. Its result goes to
    /// [`Loader::finish`]. If it is lost, because the thread panicked, the loader still has all that it knew.
    pub fn scan(&self) -> Scan {
        Scan {
            dir: self.dir.clone(),
            env: self.env.clone(),
            files: self.files.clone(),
            next_id: self.next_id,
            dir_required: self.dir_required,
            faults: Vec::new(),
            candidates: Vec::new(),
            drafts: Vec::new(),
        }
    }

    /// Resolves what a scan has read.
    pub async fn finish(&mut self, scanned: Scanned, now: Instant) -> Loaded {
        let Scan {
            files,
            next_id,
            faults,
            candidates,
            mut drafts,
            ..
        } = scanned.0;
        // Only now: a scan that was lost in a panic has changed nothing.
        self.files = files;
        self.next_id = next_id;
        let mut loaded = Loaded {
            faults,
            ..Loaded::default()
        };
        let accepted = settle_claims(candidates, &mut loaded.faults, &mut self.files, &mut drafts);
        // `Claims` lets only one file have it.
        loaded.daemon = accepted
            .iter()
            .find_map(|candidate| candidate.file.parsed.daemon.as_ref())
            .map(|daemon| daemon.value.clone())
            .unwrap_or_default();
        self.read_at = Some(now);
        self.resolve(&accepted, &mut loaded).await;
        // After the accepted tunnels: their errors come first, and `ssh -G` is asked for them first.
        self.check_drafts(drafts, &mut loaded).await;
        // The order of files must not show: a renamed file would look like a change.
        loaded.tunnels.sort_by(|a, b| a.name.cmp(&b.name));
        // Tunnels in their last good state are kept too, for as long as their file has errors.
        self.last = loaded
            .tunnels
            .iter()
            .map(|tunnel| (tunnel.name.clone(), tunnel.clone()))
            .collect();
        loaded
    }

    /// The result of a load whose scan was lost: every file in its last good state, and an error.
    pub async fn finish_without(&mut self, error: &str, now: Instant) -> Loaded {
        let mut scan = self.scan();
        let dir = self.dir.display().to_string();
        scan.faults.push(file_fault(
            &dir,
            &format!("could not be read: {error}"),
            "this is a bug in tunneld: please report it",
        ));
        scan.candidates = stale_candidates(&self.files);
        self.finish(Scanned(scan), now).await
    }

    /// Reports what else is wrong in files with errors, so that fixing one error does not uncover the next.
    async fn check_drafts(&self, drafts: Vec<Draft>, loaded: &mut Loaded) {
        for draft in drafts {
            let Draft { id, source, parsed } = draft;
            let defaults = parsed.defaults.clone().or(&self.main_defaults());
            let requests = parsed
                .tunnels
                .iter()
                .map(|tunnel| ResolveRequest::of(tunnel, &defaults));
            let resolver = TunnelResolver::new(&self.env, &self.programs);
            let (mut results, _) = resolver.all(requests.collect()).await;
            loaded.try_again |= resolver.left_unanswered();
            for tunnel in &parsed.tunnels {
                let Some(Err(diagnostics)) = results.remove(&tunnel.name) else {
                    continue;
                };
                for mut diagnostic in diagnostics {
                    // An error in the defaults of another file is shown at the tunnel.
                    if diagnostic.span.is_none_or(|span| span.file != id) {
                        diagnostic.span = tunnel.span;
                    }
                    let fault = source.to_fault(&diagnostic);
                    if !loaded.faults.contains(&fault) {
                        loaded.faults.push(fault);
                    }
                }
            }
        }
    }

    async fn resolve(&mut self, accepted: &[Candidate], loaded: &mut Loaded) {
        let sources = AcceptedFiles(accepted);
        let tunnels = sources.tunnels();
        let mut bad_carriers = bad_carriers(&tunnels);
        let requests: Vec<ResolveRequest> = tunnels
            .iter()
            // They fail in any case: `ssh -G` need not be asked about them.
            .filter(|(_, tunnel, _)| !bad_carriers.contains_key(&tunnel.name))
            .map(|(_, tunnel, defaults)| ResolveRequest::of(tunnel, defaults))
            .collect();
        let resolver = TunnelResolver::new(&self.env, &self.programs);
        let (mut results, notes) = resolver.all(requests).await;
        loaded.notes.extend(notes);
        loaded.try_again |= resolver.left_unanswered();
        for (candidate, tunnel, _) in tunnels {
            let result = match bad_carriers.remove(&tunnel.name) {
                Some(diagnostic) => Err(vec![diagnostic]),
                None => results
                    .remove(&tunnel.name)
                    .unwrap_or_else(|| Err(Vec::new())),
            };
            match result {
                Ok(mut resolved) => {
                    resolved.stale_file = candidate.stale.then(|| candidate.path.clone());
                    loaded.tunnels.push(resolved);
                }
                Err(diagnostics) => {
                    let faults = diagnostics
                        .into_iter()
                        .map(|diagnostic| sources.to_fault(candidate, tunnel, diagnostic));
                    loaded.faults.extend(faults);
                    // A tunnel that cannot be resolved keeps running as it was; the fault says why its change is not
                    // applied.
                    if let Some(mut last) = self.last.get(&tunnel.name).cloned() {
                        last.stale_file = Some(candidate.path.clone());
                        loaded.tunnels.push(last);
                    }
                }
            }
        }
    }

    /// tunneld.toml's `[defaults]` in their last good state; empty if there are none.
    fn main_defaults(&self) -> Layer {
        self.files
            .get(&self.dir.join(MAIN_FILE))
            .and_then(|known| known.good.as_ref())
            .map(|good| good.parsed.defaults.clone())
            .unwrap_or_default()
    }
}

/// A tunnel with its file and the defaults that apply to it.
type TunnelOfFile<'a> = (&'a Candidate, &'a NamedLayer, Layer);

/// Checks which tunnels carry which, now that all are known; returns an error for each with a carrier that is wrong.
fn bad_carriers(tunnels: &[TunnelOfFile<'_>]) -> BTreeMap<String, Diagnostic> {
    let with_carriers: Vec<_> = tunnels
        .iter()
        .map(|(_, tunnel, defaults)| {
            let own = tunnel.layer.proxy_jump.as_ref();
            // The same rule as in `resolve::tunnel::merge`: a `proxy_command` of the tunnel replaces an inherited jump.
            let inherited = defaults.proxy_jump.as_ref();
            let jump = own.or(inherited.filter(|_| tunnel.layer.proxy_command.is_none()));
            (*tunnel, conflict::carrier(jump.map(|jump| &jump.value)))
        })
        .collect();
    conflict::check_carriers(&with_carriers)
}

/// The files that a load uses.
#[derive(Clone, Copy)]
struct AcceptedFiles<'a>(&'a [Candidate]);

impl<'a> AcceptedFiles<'a> {
    fn tunnels(self) -> Vec<TunnelOfFile<'a>> {
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
            let defaults = candidate.file.parsed.defaults.clone().or(&main);
            for tunnel in &candidate.file.parsed.tunnels {
                tunnels.push((candidate, tunnel, defaults.clone()));
            }
        }
        tunnels
    }

    /// Renders an error of a tunnel at its place, which may be in another file's defaults; an error without a place is
    /// shown at the tunnel.
    fn to_fault(
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

#[cfg(unix)]
#[cfg(test)]
pub(crate) mod tests;
