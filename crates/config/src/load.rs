//! The directory: every file read, each broken one standing at its last good state, all tunnels resolved.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tunneld_platform::program::RunProgram;
use tunneld_proto::message::ConfigFault;

use crate::conflict::{self, Claims};
use crate::diagnostic::{Diagnostic, Source, unreadable};
use crate::env::Env;
use crate::layer::Layer;
use crate::model::{DaemonConfig, STALE, Tunnel};
use crate::parse::file::{self, Parsed};
use crate::resolve::route::{ResolveRequest, TunnelResolver};
use crate::scan::{Candidate, Draft, Entry, Scan, Scanned, State, stale, tell};

/// Within so long nothing is asked again.
const JUST_NOW: Duration = Duration::from_secs(2);
/// The file whose `[defaults]` hold for all.
const MAIN_FILE: &str = "tunneld.toml";

/// All that the directory says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loaded {
    /// The tunnels, sorted by name; those of a broken file in their last good state.
    pub tunnels: Vec<Tunnel>,
    /// `[daemon]`.
    pub daemon: DaemonConfig,
    /// All that is wrong.
    pub faults: Vec<ConfigFault>,
    /// What a person should know of the configuration as a whole.
    pub notes: Vec<String>,
    /// Whether something failed that may go well another time: ssh did not answer.
    pub try_again: bool,
}

/// Reads the directory again and again, and remembers what was good.
#[derive(Debug)]
pub struct Loader {
    dir: PathBuf,
    env: Env,
    programs: Arc<dyn RunProgram>,
    files: BTreeMap<PathBuf, Entry>,
    last: BTreeMap<String, Tunnel>,
    next_id: usize,
    asked_for: bool,
    read_at: Option<Instant>,
}

/// A tunnel to be resolved by itself.
#[derive(Debug)]
pub struct RefreshJob {
    env: Env,
    programs: Arc<dyn RunProgram>,
    wanted: ResolveRequest,
}

impl RefreshJob {
    /// Asks ssh once more; the rest stands as it was read.
    ///
    /// # Errors
    /// All that is wrong with it, in words.
    pub async fn resolve(self) -> Result<Tunnel, String> {
        let told = |problems: Vec<Diagnostic>| {
            let told: Vec<String> = problems
                .into_iter()
                .map(|problem| problem.message)
                .collect();
            told.join("; ")
        };
        let resolved = TunnelResolver::new(&self.env, &self.programs)
            .one(&self.wanted)
            .await;
        resolved.map_err(told)
    }
}

impl Loader {
    /// A loader of `dir` that has seen nothing yet.
    pub fn new(dir: PathBuf, env: Env, programs: Arc<dyn RunProgram>) -> Self {
        Self {
            dir,
            env,
            programs,
            files: BTreeMap::new(),
            last: BTreeMap::new(),
            next_id: 0,
            asked_for: false,
            read_at: None,
        }
    }

    /// Says that the directory was asked for by name: a missing one is a fault, and no new user's.
    #[must_use]
    pub fn asked_for(mut self, asked_for: bool) -> Self {
        self.asked_for = asked_for;
        self
    }

    /// What tunnels depend on beside the directory.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Reads everything, the files on the calling thread. `now` is the time of the reading.
    pub async fn load(&mut self, now: Instant) -> Loaded {
        let scanned = self.scan().run();
        self.finish(scanned, now).await
    }

    /// What reads and parses every file: blocking work, which a runtime gives to a thread of its own. Its result goes
    /// to [`Loader::finish`]; without one (the thread panicked) the loader still has all that it knew.
    pub fn scan(&self) -> Scan {
        Scan {
            dir: self.dir.clone(),
            env: self.env.clone(),
            files: self.files.clone(),
            next_id: self.next_id,
            asked_for: self.asked_for,
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
        self.files = files;
        self.next_id = next_id;
        let mut loaded = Loaded {
            faults,
            ..Loaded::default()
        };
        let accepted = accept(candidates, &mut loaded.faults, &mut self.files, &mut drafts);
        loaded.daemon = accepted
            .iter()
            .find_map(|taken| taken.state.parsed.daemon.as_ref())
            .map(|daemon| daemon.value.clone())
            .unwrap_or_default();
        self.read_at = Some(now);
        self.resolve(&accepted, &mut loaded).await;
        self.prove(drafts, &mut loaded).await;
        loaded.tunnels.sort_by(|a, b| a.name.cmp(&b.name));
        self.last = loaded
            .tunnels
            .iter()
            .map(|tunnel| (tunnel.name.clone(), tunnel.clone()))
            .collect();
        loaded
    }

    /// What holds where a scan did not end: every file in its last good state, and the fault.
    pub async fn finish_without(&mut self, error: &str, now: Instant) -> Loaded {
        let mut scan = self.scan();
        let dir = self.dir.display().to_string();
        scan.faults.push(unreadable(
            &dir,
            &format!("could not be read: {error}"),
            "report this defect",
        ));
        scan.candidates = stale(&self.files);
        self.finish(Scanned(scan), now).await
    }

    /// Tells what else is wrong in files that have faults already, so that one repair does not uncover the next.
    async fn prove(&self, drafts: Vec<Draft>, loaded: &mut Loaded) {
        for draft in drafts {
            let Draft { id, source, parsed } = draft;
            let defaults = parsed.defaults.clone().or(&self.defaults());
            let wanted = parsed.tunnels.iter().map(|tunnel| ResolveRequest {
                name: tunnel.name.clone(),
                spec: tunnel.spec.clone(),
                defaults: defaults.clone(),
            });
            let resolver = TunnelResolver::new(&self.env, &self.programs);
            let (mut results, _) = resolver.all(wanted.collect()).await;
            loaded.try_again |= resolver.left_unanswered();
            for tunnel in &parsed.tunnels {
                let Some(Err(problems)) = results.remove(&tunnel.name) else {
                    continue;
                };
                for mut problem in problems {
                    if problem.at.is_none_or(|at| at.file != id) {
                        problem.at = tunnel.at;
                    }
                    let fault = source.fault(&problem);
                    if !loaded.faults.contains(&fault) {
                        loaded.faults.push(fault);
                    }
                }
            }
        }
    }

    async fn resolve(&mut self, accepted: &[Candidate], loaded: &mut Loaded) {
        let main = accepted
            .iter()
            .find(|taken| taken.path.file_name().is_some_and(|name| name == MAIN_FILE))
            .map(|taken| taken.state.parsed.defaults.clone())
            .unwrap_or_default();
        let mut wanted = Vec::new();
        for taken in accepted {
            let defaults = taken.state.parsed.defaults.clone().or(&main);
            for tunnel in &taken.state.parsed.tunnels {
                wanted.push((taken, tunnel, defaults.clone()));
            }
        }
        let carried: Vec<_> = wanted
            .iter()
            .map(|(_, tunnel, defaults)| {
                let own = tunnel.spec.proxy_jump.as_ref();
                let inherited = defaults.proxy_jump.as_ref();
                let jump = own.or(inherited.filter(|_| tunnel.spec.proxy_command.is_none()));
                (*tunnel, conflict::carrier(jump.map(|jump| &jump.value)))
            })
            .collect();
        let mut circles = conflict::carriers(&carried);
        let requests: Vec<ResolveRequest> = wanted
            .iter()
            .filter(|(_, tunnel, _)| !circles.contains_key(&tunnel.name))
            .map(|(_, tunnel, defaults)| ResolveRequest {
                name: tunnel.name.clone(),
                spec: tunnel.spec.clone(),
                defaults: defaults.clone(),
            })
            .collect();
        let resolver = TunnelResolver::new(&self.env, &self.programs);
        let (mut results, notes) = resolver.all(requests).await;
        loaded.notes.extend(notes);
        loaded.try_again |= resolver.left_unanswered();
        for (taken, tunnel, _) in wanted {
            let result = match circles.remove(&tunnel.name) {
                Some(problem) => Err(vec![problem]),
                None => results
                    .remove(&tunnel.name)
                    .unwrap_or_else(|| Err(Vec::new())),
            };
            match result {
                Ok(mut tunnel) => {
                    if taken.stale {
                        tunnel.notes.push(stale_note(&taken.path));
                    }
                    loaded.tunnels.push(tunnel);
                }
                Err(problems) => {
                    for mut problem in problems {
                        let known = problem.at.and_then(|at| source_of(accepted, at.file));
                        if known.is_none() {
                            problem.at = tunnel.at;
                            problem.message = format!("{}: {}", tunnel.name, problem.message);
                        }
                        let source = known.unwrap_or(&taken.state.source);
                        loaded.faults.push(source.fault(&problem));
                    }
                    if let Some(mut last) = self.last.get(&tunnel.name).cloned() {
                        let note = stale_note(&taken.path);
                        last.notes.retain(|old| *old != note);
                        last.notes.push(note);
                        loaded.tunnels.push(last);
                    }
                }
            }
        }
    }
}

fn source_of(accepted: &[Candidate], file: usize) -> Option<&Source> {
    accepted
        .iter()
        .find(|taken| taken.id == file)
        .map(|taken| &taken.state.source)
}

fn stale_note(path: &Path) -> String {
    format!(
        "{STALE}{} has errors; this is its last good configuration",
        path.display()
    )
}

/// Lets the files in one after the other, those that have not changed first, so that the newcomer bears the blame.
fn accept(
    mut candidates: Vec<Candidate>,
    faults: &mut Vec<ConfigFault>,
    files: &mut BTreeMap<PathBuf, Entry>,
    drafts: &mut Vec<Draft>,
) -> Vec<Candidate> {
    for draft in drafts.iter() {
        // What else is wrong in a file is told by itself: what others hold shows once it is whole.
        if let Err(problems) = Claims::default().take(&draft.source, &draft.parsed) {
            tell(&draft.source, &problems, faults);
        }
    }
    candidates.sort_by_key(|candidate| !candidate.unchanged);
    let mut claims = Claims::default();
    let mut accepted = Vec::new();
    for candidate in candidates {
        match claims.take(&candidate.state.source, &candidate.state.parsed) {
            Ok(()) => {
                if let Some(entry) = files.get_mut(&candidate.path) {
                    entry.good = Some(candidate.state.clone());
                }
                accepted.push(candidate);
            }
            Err(problems) => {
                tell(&candidate.state.source, &problems, faults);
                drafts.push(Draft {
                    id: candidate.id,
                    source: candidate.state.source.clone(),
                    parsed: candidate.state.parsed.clone(),
                });
                let old = files
                    .get(&candidate.path)
                    .and_then(|entry| entry.good.clone());
                if let Some(state) = old.filter(|_| !candidate.unchanged) {
                    accepted.extend(remains(&mut claims, candidate, state));
                }
            }
        }
    }
    accepted.sort_by(|a, b| a.path.cmp(&b.path));
    accepted
}

/// Those tunnels of a file's last good state that nobody has taken over since.
fn remains(claims: &mut Claims, candidate: Candidate, mut state: State) -> Option<Candidate> {
    let tunnels = std::mem::take(&mut state.parsed.tunnels);
    state.parsed.daemon = None;
    for tunnel in tunnels {
        let alone = Parsed {
            tunnels: vec![tunnel],
            ..Parsed::default()
        };
        if claims.take(&state.source, &alone).is_ok() {
            state.parsed.tunnels.extend(alone.tunnels);
        }
    }
    Some(Candidate {
        state,
        unchanged: true,
        stale: true,
        ..candidate
    })
}

/// Makes a tunnel on the spot from the keys of `[tunnel.NAME]` as JSON, over the directory's `[defaults]`.
///
/// # Errors
/// All that is wrong with it; nothing is kept.
pub async fn ad_hoc(
    name: &str,
    spec: &serde_json::Value,
    loader: &Loader,
) -> Result<Tunnel, Vec<ConfigFault>> {
    let source = Source::new(format!("tunnel {name}"), "");
    let told = |problems: Vec<Diagnostic>| -> Vec<ConfigFault> {
        problems
            .iter()
            .map(|problem| {
                source.fault(&Diagnostic {
                    at: None,
                    ..problem.clone()
                })
            })
            .collect()
    };
    let (spec, problems) = file::from_json(name, spec);
    if !problems.is_empty() {
        return Err(told(problems));
    }
    let alone = Parsed {
        tunnels: vec![file::Named {
            name: name.to_owned(),
            at: None,
            spec: spec.clone(),
        }],
        ..Parsed::default()
    };
    Claims::default().take(&source, &alone).map_err(told)?;
    let resolver = TunnelResolver::new(&loader.env, &loader.programs);
    let wanted = ResolveRequest {
        name: name.to_owned(),
        spec,
        defaults: loader.defaults(),
    };
    let (mut results, _) = resolver.all(vec![wanted]).await;
    results
        .remove(name)
        .unwrap_or_else(|| Err(Vec::new()))
        .map_err(told)
}

impl Loader {
    /// A tunnel to be resolved again, as it stands in the files or, made on the command line, in `made`; none where it
    /// was resolved just now.
    pub fn again(
        &self,
        name: &str,
        made: Option<&serde_json::Value>,
        now: Instant,
    ) -> Option<RefreshJob> {
        let since = |at: Instant| now.saturating_duration_since(at);
        if self.read_at.is_some_and(|at| since(at) < JUST_NOW) {
            return None;
        }
        let wanted = match made {
            None => self.wanted(name)?,
            Some(spec) => {
                let (spec, problems) = file::from_json(name, spec);
                problems.is_empty().then_some(())?;
                ResolveRequest {
                    name: name.to_owned(),
                    spec,
                    defaults: self.defaults(),
                }
            }
        };
        Some(RefreshJob {
            env: self.env.clone(),
            programs: Arc::clone(&self.programs),
            wanted,
        })
    }

    /// A tunnel of the last reading, as its file has it.
    fn wanted(&self, name: &str) -> Option<ResolveRequest> {
        self.last.get(name)?;
        let mut files = self.files.values().filter_map(|entry| entry.good.as_ref());
        files.find_map(|good| {
            let mut tunnels = good.parsed.tunnels.iter();
            let tunnel = tunnels.find(|tunnel| tunnel.name == name)?;
            Some(ResolveRequest {
                name: name.to_owned(),
                spec: tunnel.spec.clone(),
                defaults: good.parsed.defaults.clone().or(&self.defaults()),
            })
        })
    }

    /// tunneld.toml's `[defaults]`, in their last good state.
    fn defaults(&self) -> Layer {
        self.files
            .get(&self.dir.join(MAIN_FILE))
            .and_then(|entry| entry.good.as_ref())
            .map(|good| good.parsed.defaults.clone())
            .unwrap_or_default()
    }
}

#[cfg(unix)]
#[cfg(test)]
pub(crate) mod tests;
