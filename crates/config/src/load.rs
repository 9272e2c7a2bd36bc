//! Loads the configuration directory: scans the files, replaces each that has errors by its last good state, decides
//! between files that claim the same name or port, and resolves all tunnels.

mod copies;
mod single;
mod sources;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tunneld_platform::program::RunProgram;
use tunneld_proto::message::ConfigFault;

pub use self::single::{TunnelJob, ad_hoc};
use self::sources::{Sources, SshConfigFaults, bad_carriers};
use crate::diagnostic::file_fault;
use crate::env::Env;
use crate::last_good::{CopyFolder, CopyJob};
use crate::layer::Layer;
use crate::model::{DaemonConfig, Tunnel};
use crate::resolve::route::{ResolveRequest, TunnelResolver};
use crate::scan::{Candidate, Draft, KnownFile, MAIN_FILE, Scan, Scanned, stale_candidates};
use crate::settle::settle_claims;
pub use crate::try_again::TryAgain;

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
    /// Runs `ssh -G` for one tunnel.
    programs: Arc<dyn RunProgram>,
    /// Runs `ssh -G` for a reading of all files.
    reading_programs: Arc<dyn RunProgram>,
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

impl Loader {
    /// A loader of `dir` that has read nothing yet.
    pub fn new(dir: PathBuf, env: Env, programs: Arc<dyn RunProgram>) -> Self {
        Self {
            dir,
            env,
            reading_programs: Arc::clone(&programs),
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

    /// Runs `ssh -G` with these programs when all files are read, or tunnels are restored. They may give up waiting for
    /// an answer sooner ([`ProgramError::NotYet`]).
    ///
    /// [`ProgramError::NotYet`]: tunneld_platform::program::ProgramError::NotYet
    #[must_use]
    pub fn reading_programs(mut self, programs: Arc<dyn RunProgram>) -> Self {
        self.reading_programs = programs;
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
            let resolver = TunnelResolver::new(&self.env, &self.reading_programs);
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
        let resolver = TunnelResolver::new(&self.env, &self.reading_programs);
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

    /// tunneld.toml's `[defaults]` in their last good state; empty if there are none.
    fn main_defaults(&self) -> Layer {
        self.files
            .get(&self.dir.join(MAIN_FILE))
            .and_then(|known| known.good.as_ref())
            .map(|good| good.parsed.defaults.clone())
            .unwrap_or_default()
    }
}

#[cfg(unix)]
#[cfg(test)]
pub(crate) mod tests;
