//! Resolves tunnels with all that they pass through: each jump host is a route of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt as _;
use tunneld_platform::program::RunProgram;

use crate::diagnostic::{At, Diagnostic};
use crate::env::Env;
use crate::layer::{Layer, SshConfig};
use crate::model::{Route, Tunnel, Via};
use crate::parse::destination::Destination;
use crate::resolve::ssh_options;
use crate::resolve::tunnel::{self, Resolved, SshOptions};
use crate::ssh_config::output::{EffectiveConfig, SshGOutput};
use crate::ssh_config::query::{Files, QueryError, SshG, SshGQuery};
use crate::ssh_config::tokens;

/// The longest chain of jump hosts.
const MOST_HOPS: usize = 8;
/// How many tunnels are resolved at once.
const AT_ONCE: usize = 8;

/// A tunnel to be resolved.
#[derive(Debug, Clone)]
pub(crate) struct ResolveRequest {
    /// Its name.
    pub(crate) name: String,
    /// What its own table says.
    pub(crate) spec: Layer,
    /// What the defaults say.
    pub(crate) defaults: Layer,
}

/// Resolves the tunnels of one load.
#[derive(Debug)]
pub(crate) struct TunnelResolver<'a> {
    env: &'a Env,
    query: Option<SshG>,
    unanswered: AtomicBool,
}

/// What became of each tunnel.
pub(crate) type Results = BTreeMap<String, Result<Tunnel, Vec<Diagnostic>>>;

impl<'a> TunnelResolver<'a> {
    /// A resolver for this side.
    pub(crate) fn new(env: &'a Env, programs: &Arc<dyn RunProgram>) -> Self {
        let query = |ssh: &PathBuf| SshG::new(ssh, Arc::clone(programs));
        Self {
            env,
            query: env.ssh.as_ref().map(query),
            unanswered: AtomicBool::new(false),
        }
    }

    /// Whether ssh has left a question unanswered that it may answer another time.
    pub(crate) fn left_unanswered(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// Resolves all, and tells what a person should know about the whole.
    pub(crate) async fn all(&self, wanted: Vec<ResolveRequest>) -> (Results, Vec<String>) {
        let unread = self.unread(&wanted).await;
        let results = futures_util::stream::iter(wanted)
            .map(|tunnel| async move {
                let result = self.tunnel(&tunnel).await;
                (tunnel.name, result)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        (results, unread.into_iter().collect())
    }

    /// Resolves one.
    pub(crate) async fn one(&self, wanted: &ResolveRequest) -> Result<Tunnel, Vec<Diagnostic>> {
        self.tunnel(wanted).await
    }

    /// The note on a ~/.ssh/config that is there and is not read.
    async fn unread(&self, wanted: &[ResolveRequest]) -> Option<String> {
        let config = self.env.home.join(".ssh").join("config");
        if wanted.is_empty() || !config.exists() {
            return None;
        }
        let config = config.display();
        if self.baseline(&Files::None).await == Err(QueryError::Absent) {
            return Some(format!(
                "{config} is not read: there is no ssh program to ask; install OpenSSH's client"
            ));
        }
        let (without, with): (Vec<&ResolveRequest>, Vec<&ResolveRequest>) = wanted
            .iter()
            .filter(|tunnel| !matches!(ssh_config(tunnel), Some(SshConfig::File(_))))
            .partition(|tunnel| ssh_config(tunnel) == Some(&SshConfig::No));
        if let (Some(passwd_home), false) = (&self.env.passwd_home, with.is_empty())
            && !same(passwd_home, &self.env.home)
        {
            return Some(format!(
                "{config} is not read: ssh reads {} whatever HOME says; to have the other, write ssh_config = \"{config}\"",
                passwd_home.join(".ssh").join("config").display()
            ));
        }
        let names: Vec<&str> = without.iter().map(|tunnel| tunnel.name.as_str()).collect();
        (!names.is_empty()).then(|| {
            format!(
                "{config} is not read for {}: ssh_config = false",
                names.join(", ")
            )
        })
    }

    async fn tunnel(&self, wanted: &ResolveRequest) -> Result<Tunnel, Vec<Diagnostic>> {
        let ResolveRequest {
            name,
            spec,
            defaults,
        } = wanted;
        let spec = over(spec, defaults);
        let resolved = self.resolve(name, &spec).await?;
        let mut notes = resolved.notes;
        let mut route = resolved.route;
        let at = spec.proxy_jump.as_ref().and_then(|jump| jump.at);
        if !resolved.hops.is_empty() {
            let mut chain = Chain {
                resolver: self,
                defaults: defaults.for_hop(),
                ssh_config: spec.ssh_config.clone(),
                seen: vec![seen(&route)],
                notes: &mut notes,
            };
            let routes = chain
                .routes(&resolved.hops)
                .await
                .map_err(|message| vec![Diagnostic::new(at, format!("proxy_jump: {message}"))])?;
            route.via = Via::Jump(routes);
        }
        Ok(Tunnel {
            name: name.clone(),
            description: spec.description.as_ref().map(|text| text.value.clone()),
            tags: spec
                .tags
                .as_ref()
                .map(|tags| tags.value.clone())
                .unwrap_or_default(),
            notes,
            route,
            forwards: resolved.forwards,
            forwarding: resolved.forwarding,
            life: resolved.life,
        })
    }

    async fn resolve(&self, name: &str, spec: &Layer) -> Result<Resolved, Vec<Diagnostic>> {
        let ssh = self.ssh(&tunnel::asked(name, spec), spec, None).await;
        let ssh = ssh.map_err(|problems| of_tunnel(name, problems))?;
        tunnel::resolve(name, spec, ssh.as_ref(), self.env)
    }

    /// What ssh_config says of a destination; nothing where it is not read.
    async fn ssh(
        &self,
        asked: &Destination,
        spec: &Layer,
        over: Option<&Destination>,
    ) -> Result<Option<SshOptions>, Vec<Diagnostic>> {
        let at = spec.ssh_config.as_ref().and_then(|config| config.at);
        let problem = |message: String| vec![Diagnostic::new(at, format!("ssh_config: {message}"))];
        let files = match spec.ssh_config.as_ref().map(|config| &config.value) {
            Some(SshConfig::No) => return Ok(None),
            Some(SshConfig::File(path)) => {
                let path =
                    tokens::tilde(path, self.env).map_err(|error| problem(error.to_string()))?;
                Files::One(PathBuf::from(path))
            }
            Some(SshConfig::Yes) | None => Files::Usual,
        };
        let Some(query) = &self.query else {
            return self.without_ssh(&files).map_err(problem);
        };
        let question = SshGQuery {
            files,
            to: asked.clone(),
            over: over.cloned(),
        };
        match query.ask(&question).await {
            Ok(text) => {
                let host = SshGOutput::parse(&text);
                let none = self
                    .baseline(&Files::None)
                    .await
                    .map_err(|error| problem(error.to_string()))?;
                let system = match &question.files {
                    // Where the system has no file, there is nothing that it says.
                    Files::Usual => self
                        .baseline(&Files::One(PathBuf::from("/etc/ssh/ssh_config")))
                        .await
                        .unwrap_or_else(|_| none.clone()),
                    Files::One(_) | Files::None => none.clone(),
                };
                let sources = EffectiveConfig {
                    host: &host,
                    none: &none,
                    system: &system,
                };
                ssh_options::read(sources, asked, self.env)
                    .map(Some)
                    .map_err(problem)
            }
            Err(QueryError::Absent) => self.without_ssh(&question.files).map_err(problem),
            Err(error) => {
                if matches!(error, QueryError::Timeout | QueryError::Failed(_)) {
                    self.unanswered.store(true, Ordering::Relaxed);
                }
                Err(problem(error.to_string()))
            }
        }
    }

    /// Without an ssh the TOML is the whole truth, unless it names a file that only ssh can read.
    fn without_ssh(&self, files: &Files) -> Result<Option<SshOptions>, String> {
        match files {
            Files::One(path) => Err(format!(
                "{} cannot be read: there is no ssh program to ask; install OpenSSH's client",
                path.display()
            )),
            Files::Usual | Files::None => Ok(None),
        }
    }

    /// What ssh prints of a host that these files say nothing special of.
    async fn baseline(&self, files: &Files) -> Result<SshGOutput, QueryError> {
        let query = self.query.as_ref().ok_or(QueryError::Absent)?;
        let question = SshGQuery {
            files: files.clone(),
            to: Destination {
                user: None,
                host: "tunneld.invalid".to_owned(),
                port: None,
            },
            over: None,
        };
        Ok(SshGOutput::parse(&query.ask(&question).await?))
    }
}

/// A tunnel's own words over the defaults. What a table says of how the host is reached, it says alone.
fn over(own: &Layer, defaults: &Layer) -> Layer {
    let reached = own.proxy_jump.is_some() || own.proxy_command.is_some();
    let mut spec = own.clone().or(defaults);
    if reached {
        spec.proxy_jump = own.proxy_jump.clone();
        spec.proxy_command = own.proxy_command.clone();
    }
    spec
}

type Seen = (String, u16, String);

fn seen(route: &Route) -> Seen {
    (route.alias.clone(), route.port, route.user.clone())
}

/// A chain that is being followed.
struct Chain<'c, 'e> {
    resolver: &'c TunnelResolver<'e>,
    defaults: Layer,
    ssh_config: Option<At<SshConfig>>,
    seen: Vec<Seen>,
    notes: &'c mut Vec<String>,
}

impl Chain<'_, '_> {
    /// The routes of these hops, nearest first. What leads to the nearest of them, by its own configuration,
    /// goes before it, and so on outwards; the others are reached over the hop before them, as ssh does it.
    async fn routes(&mut self, hops: &[Destination]) -> Result<Vec<Route>, String> {
        let mut chain: Vec<Route> = Vec::new();
        let mut pending = hops.to_vec();
        while !pending.is_empty() {
            if chain.len() + pending.len() > MOST_HOPS {
                return Err(format!("the chain has more than {MOST_HOPS} hops"));
            }
            let mut part = Vec::with_capacity(pending.len());
            let mut outer = Vec::new();
            for (place, hop) in pending.iter().enumerate() {
                let over = place.checked_sub(1).and_then(|before| pending.get(before));
                let mut resolved = self.hop(hop, over).await?;
                if place == 0 {
                    outer = resolved.hops;
                } else {
                    resolved.route.via = Via::Direct;
                }
                part.push(resolved.route);
            }
            part.append(&mut chain);
            chain = part;
            pending = outer;
        }
        Ok(chain)
    }

    /// One hop, by ssh_config where it speaks and by the defaults where it does not: the tunnel's own keys are
    /// about its own host.
    async fn hop(
        &mut self,
        hop: &Destination,
        over: Option<&Destination>,
    ) -> Result<Resolved, String> {
        let told = |problems: Vec<Diagnostic>| {
            let told: Vec<String> = problems
                .into_iter()
                .map(|problem| problem.message)
                .collect();
            format!("hop {}: {}", hop.host, told.join("; "))
        };
        let spec = Layer {
            host: Some(At {
                value: hop.clone(),
                at: None,
            }),
            ssh_config: self.ssh_config.clone(),
            ..Layer::default()
        };
        let ssh = self.resolver.ssh(hop, &spec, over).await.map_err(told)?;
        let mut ssh = ssh.unwrap_or_else(|| SshOptions {
            host: hop.host.clone(),
            ..SshOptions::default()
        });
        ssh.spec = Layer {
            local_forward: None,
            remote_forward: None,
            dynamic_forward: None,
            ..ssh.spec
        }
        .or(&self.defaults);
        let resolved =
            tunnel::resolve(&hop.host, &spec, Some(&ssh), self.resolver.env).map_err(told)?;
        let this = seen(&resolved.route);
        if self.seen.contains(&this) {
            let mut path: Vec<&str> = self.seen.iter().map(|(alias, ..)| alias.as_str()).collect();
            path.push(&hop.host);
            return Err(format!("the chain runs in a circle: {}", path.join(" -> ")));
        }
        self.seen.push(this);
        for note in &resolved.notes {
            self.notes.push(format!("{}: {note}", hop.host));
        }
        Ok(resolved)
    }
}

/// These problems, each telling the tunnel: the place where it is written may be everybody's.
fn of_tunnel(name: &str, problems: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let told = |problem: Diagnostic| Diagnostic {
        message: format!("{name}: {}", problem.message),
        ..problem
    };
    problems.into_iter().map(told).collect()
}

/// What the tunnel's table or the defaults say of ssh_config.
fn ssh_config(tunnel: &ResolveRequest) -> Option<&SshConfig> {
    let own = tunnel.spec.ssh_config.as_ref();
    own.or(tunnel.defaults.ssh_config.as_ref())
        .map(|own| &own.value)
}

/// Whether two paths are one folder.
fn same(one: &Path, other: &Path) -> bool {
    one == other || one.canonicalize().ok() == other.canonicalize().ok()
}
