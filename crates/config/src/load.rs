//! Loads the configuration directory: scans the files, replaces each that has errors by its last good state, decides
//! between files that claim the same name or port, and resolves all tunnels.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tunneld_platform::program::RunProgram;
use tunneld_proto::message::ConfigFault;

use crate::conflict::{self, Claims};
use crate::diagnostic::{Diagnostic, SourceText, file_fault};
use crate::env::Env;
use crate::last_good::{CopyFolder, CopyJob, FileCopy};
use crate::layer::Layer;
use crate::model::{DaemonConfig, Tunnel};
use crate::parse::file::{self, NamedLayer, ParsedFile};
use crate::resolve::route::{ResolveRequest, TunnelResolver};
use crate::scan::{Candidate, Draft, KnownFile, MAIN_FILE, Scan, Scanned, stale_candidates};
use crate::settle::settle_claims;
pub use crate::try_again::TryAgain;

/// A tunnel whose directory was read less than this long ago is not resolved again.
const FRESH_FOR: Duration = Duration::from_secs(2);

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
    /// When something that failed may succeed without a change of the files.
    pub try_again: TryAgain,
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
    /// Where copies of good files are kept for the next daemon; `None` to keep none.
    copies: Option<CopyFolder>,
    /// The copies that the last load asks for.
    pending_copies: Option<CopyJob>,
    /// tunneld.toml, or the directory, if it may have `[defaults]` that could not be read and of which no earlier
    /// state is known. No tunnel is resolved then: it could connect without its jump host or host key policy.
    unread_defaults: Option<PathBuf>,
}

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
            copies: None,
            pending_copies: None,
            unread_defaults: None,
        }
    }

    /// Sets whether a missing directory is an error: the user named it, rather than leave it at the default.
    #[must_use]
    pub fn dir_required(mut self, required: bool) -> Self {
        self.dir_required = required;
        self
    }

    /// Keeps copies of good files in the state folder, and starts with them where a file has errors.
    #[must_use]
    pub fn keep_copies(mut self) -> Self {
        self.copies = Some(CopyFolder::of(&self.env));
        self
    }

    /// Returns the copies that are to be written after a load; `None` if there are none. A thread that may block runs
    /// the job.
    pub fn copy_job(&mut self) -> Option<CopyJob> {
        self.pending_copies.take()
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
            unlisted: false,
            copies: self.copies.clone(),
            try_again: TryAgain::default(),
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
            unlisted,
            try_again,
            ..
        } = scanned.0;
        self.files = files;
        self.next_id = next_id;
        let mut loaded = Loaded {
            faults,
            try_again,
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
        if loaded.try_again == TryAgain::OnChange {
            self.pending_copies = self.copies_of(&accepted);
        }
        let mut ssh_faults = SshConfigFaults::default();
        self.unread_defaults = self.unread_defaults(&accepted, &drafts, unlisted);
        match self.unread_defaults.clone() {
            Some(unread) => self.keep_waiting(&unread, &accepted, &mut loaded),
            None => {
                self.resolve(&accepted, &mut loaded, &mut ssh_faults).await;
            }
        }
        self.keep_broken(&accepted, &mut loaded);
        self.check_drafts(drafts, &mut loaded, &mut ssh_faults)
            .await;
        loaded.faults.extend(ssh_faults.into_faults());
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
            "tunneld reads it again within seconds; if the cause stays, raise the limits of threads and open files",
        ));
        scan.try_again = TryAgain::Soon;
        scan.candidates = stale_candidates(&self.files);
        self.finish(Scanned(scan), now).await
    }

    /// The copies of these files. Those that are not in their present state are left as they are on disk.
    fn copies_of(&self, accepted: &[Candidate]) -> Option<CopyJob> {
        let folder = self.copies.clone()?;
        let main = self.dir.join(MAIN_FILE);
        let main_text = match accepted.iter().find(|candidate| candidate.path == main) {
            // With defaults that are not the present ones, a copy would not be what the next start reads.
            Some(candidate) if candidate.stale => return None,
            Some(candidate) => candidate.file.source.text(),
            None if self.files.contains_key(&main) => return None,
            None => "",
        };
        let good = accepted
            .iter()
            .filter(|candidate| !candidate.stale && candidate.file.parsed.broken.is_empty());
        let copies = good.map(|candidate| FileCopy {
            path: candidate.path.clone(),
            text: candidate.file.source.text().to_owned(),
            main_text: main_text.to_owned(),
        });
        Some(CopyJob {
            folder,
            env: self.env.clone(),
            dir: self.dir.clone(),
            existing: self.files.keys().cloned().collect(),
            copies: copies.collect(),
        })
    }

    /// The file or directory whose `[defaults]` for all files are not known; `None` if they are, or do not exist.
    fn unread_defaults(
        &self,
        accepted: &[Candidate],
        drafts: &[Draft],
        unlisted: bool,
    ) -> Option<PathBuf> {
        let main = self.dir.join(MAIN_FILE);
        let Some(known) = self.files.get(&main) else {
            return (unlisted && self.files.is_empty()).then(|| self.dir.clone());
        };
        if accepted.iter().any(|candidate| candidate.path == main) {
            return None;
        }
        let without_defaults = drafts
            .iter()
            .any(|draft| draft.id == known.id && !draft.parsed.may_have_defaults);
        (!without_defaults).then_some(main)
    }

    /// Keeps the last good state of the tunnels whose own table has an error.
    fn keep_broken(&self, accepted: &[Candidate], loaded: &mut Loaded) {
        for candidate in accepted {
            for name in &candidate.file.parsed.broken {
                let is_defined = loaded.tunnels.iter().any(|tunnel| tunnel.name == *name);
                if let (false, Some(mut last)) = (is_defined, self.last.get(name).cloned()) {
                    last.stale_file = Some(candidate.path.clone());
                    loaded.tunnels.push(last);
                }
            }
        }
    }

    /// Keeps the tunnels that ran before, and reports those that cannot start while `unread` is not mended.
    fn keep_waiting(&self, unread: &Path, accepted: &[Candidate], loaded: &mut Loaded) {
        let mut waiting = Vec::new();
        for candidate in accepted {
            for tunnel in &candidate.file.parsed.tunnels {
                let Some(mut last) = self.last.get(&tunnel.name).cloned() else {
                    waiting.push(tunnel.name.as_str());
                    continue;
                };
                last.stale_file = Some(unread.to_owned());
                loaded.tunnels.push(last);
            }
        }
        if waiting.is_empty() {
            return;
        }
        let verb = if waiting.len() == 1 {
            "does not start"
        } else {
            "do not start"
        };
        let message = format!(
            "{} {verb} until this file is mended: its [defaults] apply to every file",
            waiting.join(", ")
        );
        let file = unread.display().to_string();
        loaded
            .faults
            .push(file_fault(&file, &message, "fix the errors of this file"));
    }

    /// Reports what else is wrong in files with errors, so that fixing one error does not uncover the next.
    async fn check_drafts(
        &self,
        drafts: Vec<Draft>,
        loaded: &mut Loaded,
        ssh_faults: &mut SshConfigFaults,
    ) {
        let main_file = self.dir.join(MAIN_FILE).display().to_string();
        for draft in drafts {
            let Draft { id, source, parsed } = draft;
            if self.unread_defaults.is_some() && source.name() != main_file {
                // Without the defaults, values that they set would be reported as missing.
                continue;
            }
            let defaults = parsed.defaults.clone().or(&self.main_defaults());
            let requests = parsed
                .tunnels
                .iter()
                .map(|tunnel| ResolveRequest::of(tunnel, &defaults));
            let resolver = TunnelResolver::new(&self.env, &self.programs);
            let (mut results, _) = resolver.all(requests.collect()).await;
            loaded.try_again = loaded.try_again.max(resolver.try_again());
            for tunnel in &parsed.tunnels {
                let Some(Err(diagnostics)) = results.remove(&tunnel.name) else {
                    continue;
                };
                for mut diagnostic in diagnostics {
                    if diagnostic.ssh_config.is_some() {
                        ssh_faults.add(&diagnostic, &tunnel.name);
                        continue;
                    }
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

    async fn resolve(
        &mut self,
        accepted: &[Candidate],
        loaded: &mut Loaded,
        ssh_faults: &mut SshConfigFaults,
    ) {
        let sources = Sources(accepted);
        let tunnels = sources.tunnels();
        let mut bad_carriers = bad_carriers(&tunnels);
        let requests: Vec<ResolveRequest> = tunnels
            .iter()
            .filter(|(_, tunnel, _)| !bad_carriers.contains_key(&tunnel.name))
            .map(|(_, tunnel, defaults)| ResolveRequest::of(tunnel, defaults))
            .collect();
        let resolver = TunnelResolver::new(&self.env, &self.programs);
        let (mut results, notes) = resolver.all(requests).await;
        loaded.notes.extend(notes);
        loaded.try_again = loaded.try_again.max(resolver.try_again());
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
                    let mut wrong_file = candidate.path.clone();
                    for diagnostic in diagnostics {
                        if let Some(file) = &diagnostic.ssh_config {
                            wrong_file = PathBuf::from(file);
                            ssh_faults.add(&diagnostic, &tunnel.name);
                        } else {
                            let fault = sources.to_fault(candidate, tunnel, diagnostic);
                            loaded.faults.push(fault);
                        }
                    }
                    if let Some(mut last) = self.last.get(&tunnel.name).cloned() {
                        last.stale_file = Some(wrong_file);
                        loaded.tunnels.push(last);
                    }
                }
            }
        }
    }

    /// Prepares to resolve one tunnel again, as its file defines it or, for a tunnel of the command line, as `ad_hoc`
    /// does; `None` if it was resolved just now or does not exist.
    pub fn refresh_job(
        &self,
        name: &str,
        ad_hoc: Option<&serde_json::Value>,
        now: Instant,
    ) -> Option<RefreshJob> {
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
        Some(RefreshJob {
            env: self.env.clone(),
            programs: Arc::clone(&self.programs),
            request,
        })
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

    /// tunneld.toml's `[defaults]` in their last good state; empty if there are none.
    fn main_defaults(&self) -> Layer {
        self.files
            .get(&self.dir.join(MAIN_FILE))
            .and_then(|known| known.good.as_ref())
            .map(|good| good.parsed.defaults.clone())
            .unwrap_or_default()
    }
}

/// The errors in ssh_config files, each with the tunnels that have it.
#[derive(Debug, Default)]
struct SshConfigFaults(BTreeMap<(String, String), Vec<String>>);

impl SshConfigFaults {
    fn add(&mut self, diagnostic: &Diagnostic, tunnel: &str) {
        let file = diagnostic.ssh_config.clone().unwrap_or_default();
        let tunnels = self.0.entry((file, diagnostic.message.clone()));
        tunnels.or_default().push(tunnel.to_owned());
    }

    fn into_faults(self) -> impl Iterator<Item = ConfigFault> {
        self.0.into_iter().map(|((file, message), tunnels)| {
            let help = format!("fix it; these tunnels wait for it: {}", tunnels.join(", "));
            file_fault(&file, &message, &help)
        })
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
            let inherited = defaults.proxy_jump.as_ref();
            let jump = own.or(inherited.filter(|_| tunnel.layer.proxy_command.is_none()));
            (*tunnel, conflict::carrier(jump.map(|jump| &jump.value)))
        })
        .collect();
    conflict::check_carriers(&with_carriers)
}

/// The files that a load uses.
#[derive(Clone, Copy)]
struct Sources<'a>(&'a [Candidate]);

impl<'a> Sources<'a> {
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
    let (layer, mut diagnostics) = file::from_json(name, keys);
    if let Some(unread) = &loader.unread_defaults {
        let message = format!(
            "{} could not be read: its [defaults] apply to this tunnel too",
            unread.display()
        );
        diagnostics.push(Diagnostic::new(None, message).help("see: tunnelctl check"));
    }
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
    Claims::default().add(&source, &alone).map_err(to_faults)?;
    TunnelResolver::new(&loader.env, &loader.programs)
        .tunnel(&request)
        .await
        .map_err(to_faults)
}

#[cfg(unix)]
#[cfg(test)]
pub(crate) mod tests;
