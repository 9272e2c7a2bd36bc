//! Resolves tunnels with their jump hosts: each hop is asked about by itself and becomes a separate route.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt as _;
use tunneld_platform::program::RunProgram;

use crate::addr::Destination;
use crate::diagnostic::{Diagnostic, Spanned};
use crate::env::Env;
use crate::layer::{Layer, SshConfigSource};
use crate::model::{Route, Tunnel, Via};
use crate::parse::file::{self, NamedLayer};
use crate::resolve::ssh_options::{self, SshOptions};
use crate::resolve::tunnel::{self, Resolved, merge};
use crate::ssh_config::output::{EffectiveConfig, SshGOutput};
use crate::ssh_config::query::{ConfigFiles, QueryError, QueryResult, SshG, SshGQuery};
use crate::ssh_config::tokens;
use crate::try_again::TryAgain;

/// The longest chain of jump hosts.
const MAX_HOPS: usize = 8;
/// How many tunnels are resolved at the same time, each with its own `ssh -G` processes.
const MAX_CONCURRENT: usize = 8;
/// A host that no file mentions: what `ssh -G` prints about it is what the files say about all hosts.
const UNMENTIONED_HOST: &str = "tunneld.invalid";

/// The file that ssh reads for all users.
const SYSTEM_CONFIG: &str = "/etc/ssh/ssh_config";

/// A tunnel to resolve, with the layers that it is made of.
#[derive(Debug, Clone)]
pub(crate) struct ResolveRequest {
    pub(crate) name: String,
    /// The keys of its own table.
    pub(crate) layer: Layer,
    /// The `[defaults]` that apply to it.
    pub(crate) defaults: Layer,
}

impl ResolveRequest {
    pub(crate) fn of(tunnel: &NamedLayer, defaults: &Layer) -> Self {
        Self {
            name: tunnel.name.clone(),
            layer: tunnel.layer.clone(),
            defaults: defaults.clone(),
        }
    }

    fn ssh_config(&self) -> Option<&SshConfigSource> {
        let own = self.layer.ssh_config.as_ref();
        own.or(self.defaults.ssh_config.as_ref())
            .map(|source| &source.value)
    }
}

/// Resolves the tunnels of one load, and asks `ssh -G` each question once.
#[derive(Debug)]
pub(crate) struct TunnelResolver<'a> {
    env: &'a Env,
    /// `None` if ssh_config is not read at all.
    ssh: Option<SshG>,
    /// `ssh -G` did not answer a question.
    unanswered: AtomicBool,
    /// An ssh_config file could not be read, ssh refused it, or ssh could not be run now.
    unusable: AtomicBool,
}

/// Per tunnel name, the tunnel or every error in it.
pub(crate) type Results = BTreeMap<String, Result<Tunnel, Vec<Diagnostic>>>;

impl<'a> TunnelResolver<'a> {
    pub(crate) fn new(env: &'a Env, programs: &Arc<dyn RunProgram>) -> Self {
        let ssh = |ssh: &PathBuf| SshG::new(ssh, Arc::clone(programs));
        Self {
            env,
            ssh: env.ssh.as_ref().map(ssh),
            unanswered: AtomicBool::new(false),
            unusable: AtomicBool::new(false),
        }
    }

    /// When to ask again what `ssh -G` did not answer.
    pub(crate) fn try_again(&self) -> TryAgain {
        if self.unusable.load(Ordering::Relaxed) {
            // The files that ssh includes are not watched: only asking again shows that they are mended.
            TryAgain::Soon
        } else if self.unanswered.load(Ordering::Relaxed) {
            TryAgain::Backoff
        } else {
            TryAgain::OnChange
        }
    }

    /// Resolves these tunnels; also returns what the user should know about the configuration as a whole.
    pub(crate) async fn all(&self, requests: Vec<ResolveRequest>) -> (Results, Vec<String>) {
        let note = self.note_on_unread_ssh_config(&requests).await;
        let results = futures_util::stream::iter(requests)
            .map(|request| async move {
                let result = self.tunnel(&request).await;
                (request.name, result)
            })
            // A hanging `ssh -G` delays the tunnels that wait for its answer, not the others.
            .buffer_unordered(MAX_CONCURRENT)
            .collect()
            .await;
        (results, note.into_iter().collect())
    }

    /// The note about a `~/.ssh/config` that exists and is not read; `None` if it is read or does not exist.
    async fn note_on_unread_ssh_config(&self, requests: &[ResolveRequest]) -> Option<String> {
        let config = self.env.home.join(".ssh").join("config");
        if requests.is_empty() || !config.exists() {
            return None;
        }
        let config = config.display();
        if let Err(why @ (QueryError::NotFound | QueryError::UnknownUser(_))) =
            self.baseline(&ConfigFiles::Nothing).await
        {
            let remedy = remedy_without_ssh(&why);
            return Some(format!("{config} is not read: {why}; {remedy}"));
        }
        let (without, with): (Vec<&ResolveRequest>, Vec<&ResolveRequest>) = requests
            .iter()
            .filter(|request| !matches!(request.ssh_config(), Some(SshConfigSource::File(_))))
            .partition(|request| request.ssh_config() == Some(&SshConfigSource::Nothing));
        // ssh takes the home from the user database, tunneld takes it from $HOME.
        if let (Some(passwd_home), false) = (&self.env.passwd_home, with.is_empty())
            && !same_folder(passwd_home, &self.env.home)
        {
            return Some(format!(
                "{config} is not read: ssh reads {} whatever HOME is; to read this one, set ssh_config = \"{config}\"",
                passwd_home.join(".ssh").join("config").display()
            ));
        }
        let names: Vec<&str> = without
            .iter()
            .map(|request| request.name.as_str())
            .collect();
        (!names.is_empty()).then(|| {
            format!(
                "{config} is not read for {}: ssh_config = false",
                names.join(", ")
            )
        })
    }

    /// Resolves one tunnel with its jump hosts.
    ///
    /// # Errors
    /// Every error in it.
    pub(crate) async fn tunnel(&self, request: &ResolveRequest) -> Result<Tunnel, Vec<Diagnostic>> {
        let name = &request.name;
        let layer = merge(&request.layer, &request.defaults);
        let destination = tunnel::query_destination(name, &layer);
        let ssh = self.ssh_options(&destination, &layer, None).await;
        let ssh = ssh.map_err(|diagnostics| name_tunnel(name, diagnostics))?;
        let resolved = tunnel::resolve(name, &layer, ssh.as_ref(), self.env)?;
        let mut notes = resolved.notes;
        let mut route = resolved.route;
        if !resolved.hops.is_empty() {
            let mut chain = JumpChain {
                resolver: self,
                defaults: request.defaults.for_hop(),
                keys: layer.keys(),
                ssh_config: layer.ssh_config.clone(),
                visited: vec![HopIdentity::of(&route)],
                notes: &mut notes,
            };
            let span = layer.proxy_jump.as_ref().and_then(|jump| jump.span);
            let routes = chain
                .routes(&resolved.hops)
                .await
                .map_err(|message| vec![Diagnostic::new(span, format!("proxy_jump: {message}"))])?;
            route.via = Via::Jump(routes);
        }
        Ok(Tunnel {
            name: name.clone(),
            description: layer.description.map(|text| text.value),
            tags: layer.tags.map(|tags| tags.value).unwrap_or_default(),
            notes,
            stale_file: None,
            route,
            forwards: resolved.forwards,
            forwarding: resolved.forwarding,
            proxy_for: resolved.proxy_for,
            life: resolved.life,
        })
    }

    /// The files that ssh reads for this setting; `None` if ssh_config is not read.
    fn files(&self, source: Option<&SshConfigSource>) -> Result<Option<ConfigFiles>, String> {
        Ok(match source {
            Some(SshConfigSource::Nothing) => None,
            Some(SshConfigSource::File(path)) => {
                let path = tokens::tilde(path, self.env).map_err(|error| error.to_string())?;
                Some(ConfigFiles::Only(PathBuf::from(path)))
            }
            Some(SshConfigSource::Usual) | None => Some(ConfigFiles::Usual),
        })
    }

    /// What ssh_config says about a destination, reached over `jump` if that is given; `None` if it is not read.
    async fn ssh_options(
        &self,
        destination: &Destination,
        layer: &Layer,
        jump: Option<&Destination>,
    ) -> Result<Option<SshOptions>, Vec<Diagnostic>> {
        let span = layer.ssh_config.as_ref().and_then(|source| source.span);
        let error = |message: String| vec![Diagnostic::new(span, format!("ssh_config: {message}"))];
        let source = layer.ssh_config.as_ref().map(|source| &source.value);
        let Some(files) = self.files(source).map_err(error)? else {
            return Ok(None);
        };
        let Some(ssh) = &self.ssh else {
            return without_ssh(&files, &QueryError::NotFound).map_err(error);
        };
        let file = match &files {
            ConfigFiles::Only(path) => path.clone(),
            ConfigFiles::Usual | ConfigFiles::Nothing => user_config(self.env),
        };
        let of_file = |path: &Path, message: String| {
            vec![Diagnostic {
                ssh_config: Some(path.display().to_string()),
                ..Diagnostic::new(span, format!("ssh_config: {message}"))
            }]
        };
        if let Err((path, why)) = self.check_readable(&files) {
            self.unusable.store(true, Ordering::Relaxed);
            return Err(of_file(&path, why));
        }
        let query = SshGQuery {
            files,
            destination: destination.clone(),
            jump: jump.cloned(),
        };
        match self.ask(ssh, &query).await {
            Ok(text) => {
                let host = SshGOutput::parse(&text);
                // Cached by `SshG`: asked once per load, not once per tunnel.
                let unanswered = |why: QueryError| {
                    self.record(&why);
                    error(why.to_string())
                };
                let built_in = self.baseline(&ConfigFiles::Nothing).await;
                let built_in = built_in.map_err(unanswered)?;
                let system = match &query.files {
                    ConfigFiles::Usual => {
                        let only_system = ConfigFiles::Only(PathBuf::from(SYSTEM_CONFIG));
                        match self.baseline(&only_system).await {
                            // A system without this file, which ssh refuses, says nothing about any host.
                            Err(QueryError::Refused(_)) => built_in.clone(),
                            system => system.map_err(unanswered)?,
                        }
                    }
                    ConfigFiles::Only(_) | ConfigFiles::Nothing => built_in.clone(),
                };
                let config = EffectiveConfig {
                    host: &host,
                    built_in: &built_in,
                    system: &system,
                };
                ssh_options::read(config, destination, self.env)
                    .map(Some)
                    .map_err(error)
            }
            Err(why @ (QueryError::NotFound | QueryError::UnknownUser(_))) => {
                without_ssh(&query.files, &why).map_err(|message| {
                    self.record(&why);
                    error(message)
                })
            }
            Err(why) => {
                self.record(&why);
                Err(match why {
                    QueryError::Refused(_) => of_file(&file, why.to_string()),
                    _ => error(why.to_string()),
                })
            }
        }
    }

    /// Checks that the files can be read. ssh ignores those that it cannot open, and a tunnel would then connect without
    /// its jump host. Returns the first such file and why.
    fn check_readable(&self, files: &ConfigFiles) -> Result<(), (PathBuf, String)> {
        if *files != ConfigFiles::Usual {
            // ssh itself refuses a file of `-F` that it cannot open.
            return Ok(());
        }
        for path in [user_config(self.env), PathBuf::from(SYSTEM_CONFIG)] {
            let mut byte = [0];
            let error = match file::open(&path).and_then(|mut file| file.read(&mut byte)) {
                Ok(_) => continue,
                Err(error) => error,
            };
            let absent = matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::WouldBlock
            );
            // A link without its target may point into a file system that is not mounted yet.
            if !absent || path.is_symlink() {
                let why = format!("{} cannot be read: {error}", path.display());
                return Err((path, why));
            }
        }
        Ok(())
    }

    /// Records that a question has no answer, for [`Self::try_again`].
    fn record(&self, why: &QueryError) {
        match why {
            // A program that is missing may be installed, and is for a moment while its package is upgraded.
            QueryError::Timeout
            | QueryError::NotYet
            | QueryError::NotFound
            | QueryError::UnknownUser(_) => {
                self.unanswered.store(true, Ordering::Relaxed);
            }
            // A system call failed or a file is wrong: asking again costs little, unlike a question that hangs.
            QueryError::Failed(_) | QueryError::Refused(_) => {
                self.unusable.store(true, Ordering::Relaxed);
            }
            QueryError::UnsafeDestination(_) => {}
        }
    }

    /// What ssh prints about a host that these files do not mention.
    async fn baseline(&self, files: &ConfigFiles) -> Result<SshGOutput, QueryError> {
        let ssh = self.ssh.as_ref().ok_or(QueryError::NotFound)?;
        let query = SshGQuery {
            files: files.clone(),
            destination: Destination {
                user: None,
                host: UNMENTIONED_HOST.to_owned(),
                port: None,
            },
            jump: None,
        };
        Ok(SshGOutput::parse(&self.ask(ssh, &query).await?))
    }

    /// Asks, and recognizes a user whom ssh refuses.
    ///
    /// Not if the user database had the user when the daemon started: it may be a directory service that is away now,
    /// and without ssh_config a tunnel would connect without its jump host.
    async fn ask(&self, ssh: &SshG, query: &SshGQuery) -> QueryResult {
        match ssh.ask(query).await {
            Err(QueryError::Refused(text))
                if self.env.passwd_home.is_none() && text.contains("No user exists for uid") =>
            {
                Err(QueryError::UnknownUser(self.env.uid))
            }
            result => result,
        }
    }
}

/// The user's own file, which ssh looks for in the home of the user database.
fn user_config(env: &Env) -> PathBuf {
    let home = env.passwd_home.as_ref().unwrap_or(&env.home);
    home.join(".ssh").join("config")
}

/// How the user makes ssh usable.
fn remedy_without_ssh(why: &QueryError) -> &'static str {
    match why {
        QueryError::UnknownUser(_) => "add the user to /etc/passwd",
        _ => "install the OpenSSH client",
    }
}

/// Without a usable ssh program only the TOML counts, unless it names a file that only ssh can read.
fn without_ssh(files: &ConfigFiles, why: &QueryError) -> Result<Option<SshOptions>, String> {
    match files {
        ConfigFiles::Only(path) => Err(format!(
            "{} cannot be read: {why}; {}",
            path.display(),
            remedy_without_ssh(why)
        )),
        ConfigFiles::Usual | ConfigFiles::Nothing => Ok(None),
    }
}

/// What makes two hops of a chain the same hop.
#[derive(Debug, PartialEq, Eq)]
struct HopIdentity {
    alias: String,
    port: u16,
    user: String,
}

impl HopIdentity {
    fn of(route: &Route) -> Self {
        Self {
            alias: route.alias.clone(),
            port: route.port,
            user: route.user.clone(),
        }
    }
}

/// A chain of jump hosts that is being followed.
struct JumpChain<'c, 'e> {
    resolver: &'c TunnelResolver<'e>,
    defaults: Layer,
    /// The tunnel's own keys, for hops that have none by ssh_config or `[defaults]`.
    keys: Layer,
    ssh_config: Option<Spanned<SshConfigSource>>,
    visited: Vec<HopIdentity>,
    notes: &'c mut Vec<String>,
}

impl JumpChain<'_, '_> {
    /// The routes of these hops, nearest first. The nearest may itself need jump hosts, which come before it, and so
    /// on. The others are reached over the hop before them, whatever ssh_config says about them, as in ssh.
    async fn routes(&mut self, hops: &[Destination]) -> Result<Vec<Route>, String> {
        let mut chain: Vec<Route> = Vec::new();
        let mut pending = hops.to_vec();
        while !pending.is_empty() {
            if chain.len() + pending.len() > MAX_HOPS {
                return Err(format!("the chain has more than {MAX_HOPS} hops"));
            }
            let mut part = Vec::with_capacity(pending.len());
            let mut before = Vec::new();
            for (index, hop) in pending.iter().enumerate() {
                let jump = index.checked_sub(1).and_then(|index| pending.get(index));
                let mut resolved = self.hop(hop, jump).await?;
                if index == 0 {
                    before = resolved.hops;
                } else {
                    resolved.route.via = Via::Direct;
                }
                part.push(resolved.route);
            }
            part.append(&mut chain);
            chain = part;
            pending = before;
        }
        Ok(chain)
    }

    /// Resolves one hop: ssh_config over `[defaults]`. The options of the tunnel's table are about its own host and do not
    /// apply, except its identities: without them a pasted `-J bastion -i key` would have nothing to log in with.
    async fn hop(
        &mut self,
        hop: &Destination,
        jump: Option<&Destination>,
    ) -> Result<Resolved, String> {
        let error = |diagnostics: Vec<Diagnostic>| {
            format!("hop {}: {}", hop.host, Diagnostic::join(&diagnostics))
        };
        let layer = Layer {
            host: Some(Spanned {
                value: hop.clone(),
                span: None,
            }),
            ssh_config: self.ssh_config.clone(),
            ..Layer::default()
        };
        let ssh = self.resolver.ssh_options(hop, &layer, jump).await;
        let mut ssh = ssh.map_err(error)?.unwrap_or_else(|| SshOptions {
            host: hop.host.clone(),
            ..SshOptions::default()
        });
        // A jump host's own forwards belong to a session with it, not to one through it.
        ssh.layer = Layer {
            local_forward: None,
            remote_forward: None,
            dynamic_forward: None,
            dns_listen: None,
            ..ssh.layer
        }
        .or(&Layer {
            // Passwords and answers are for the destination alone: a jump host never receives them.
            password_command: None,
            answers: None,
            ..self.defaults.clone()
        });
        // As a whole: the tunnel's `identities_only` must not be combined with the hop's own keys.
        if ssh.layer.identity_file.is_none() && ssh.layer.identity_agent.is_none() {
            ssh.layer = ssh.layer.or(&self.keys);
        }
        let resolved =
            tunnel::resolve(&hop.host, &layer, Some(&ssh), self.resolver.env).map_err(error)?;
        let identity = HopIdentity::of(&resolved.route);
        if self.visited.contains(&identity) {
            let mut path: Vec<&str> = self.visited.iter().map(|hop| hop.alias.as_str()).collect();
            path.push(&hop.host);
            return Err(format!("the chain is a loop: {}", path.join(" -> ")));
        }
        self.visited.push(identity);
        for note in &resolved.notes {
            self.notes.push(format!("{}: {note}", hop.host));
        }
        Ok(resolved)
    }
}

/// Puts the tunnel's name before each message: its span may be in `[defaults]`, which all tunnels share.
fn name_tunnel(name: &str, diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let named = |diagnostic: Diagnostic| Diagnostic {
        message: match diagnostic.ssh_config {
            Some(_) => diagnostic.message,
            None => format!("{name}: {}", diagnostic.message),
        },
        ..diagnostic
    };
    diagnostics.into_iter().map(named).collect()
}

fn same_folder(one: &Path, other: &Path) -> bool {
    one == other || one.canonicalize().ok() == other.canonicalize().ok()
}
