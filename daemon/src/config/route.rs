//! Resolves tunnels with all that they pass through: each jump host is a route of its own.

use std::collections::BTreeMap;

use super::destination::Destination;
use super::env::Env;
use super::fault::{At, Problem};
use super::model::{Route, Tunnel, Via};
use super::resolve::{self, Resolved, SshOptions};
use super::spec::{Spec, SshConfig};

/// The longest chain of jump hosts.
pub(super) const MOST_HOPS: usize = 8;

/// A tunnel to be resolved.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Its name.
    pub(super) name: String,
    /// What its own table says.
    pub(super) spec: Spec,
    /// What the defaults say.
    pub(super) defaults: Spec,
}

/// Resolves the tunnels of one load.
#[derive(Debug)]
pub(super) struct Resolver<'a> {
    env: &'a Env,
}

/// What became of each tunnel.
pub(super) type Results = BTreeMap<String, Result<Tunnel, Vec<Problem>>>;

impl<'a> Resolver<'a> {
    /// A resolver for this side.
    pub(super) fn new(env: &'a Env) -> Self {
        Self { env }
    }

    /// Resolves all, and tells what a person should know about the whole.
    pub(super) async fn all(&self, wanted: Vec<Wanted>) -> (Results, Vec<String>) {
        let mut results = Results::new();
        for tunnel in wanted {
            let result = self.tunnel(&tunnel).await;
            results.insert(tunnel.name, result);
        }
        (results, Vec::new())
    }

    async fn tunnel(&self, wanted: &Wanted) -> Result<Tunnel, Vec<Problem>> {
        let Wanted {
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
                seen: vec![seen(&route)],
                notes: &mut notes,
            };
            let routes = chain
                .routes(&resolved.hops)
                .await
                .map_err(|message| vec![Problem::new(at, format!("proxy_jump: {message}"))])?;
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

    async fn resolve(&self, name: &str, spec: &Spec) -> Result<Resolved, Vec<Problem>> {
        let ssh = self.ssh(&resolve::asked(name, spec), spec).await?;
        resolve::resolve(name, spec, ssh.as_ref(), self.env)
    }

    async fn ssh(
        &self,
        _asked: &Destination,
        spec: &Spec,
    ) -> Result<Option<SshOptions>, Vec<Problem>> {
        match spec.ssh_config.as_ref().map(|at| &at.value) {
            Some(SshConfig::No) => Ok(None),
            _ => Ok(None),
        }
    }
}

/// A tunnel's own words over the defaults. What a table says of how the host is reached, it says alone.
fn over(own: &Spec, defaults: &Spec) -> Spec {
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
    resolver: &'c Resolver<'e>,
    defaults: Spec,
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
            bounded(chain.len() + pending.len())?;
            let mut part = Vec::with_capacity(pending.len());
            let mut outer = Vec::new();
            for (place, hop) in pending.iter().enumerate() {
                let mut resolved = self.hop(hop).await?;
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

    async fn hop(&mut self, hop: &Destination) -> Result<Resolved, String> {
        let mut spec = self.defaults.clone();
        spec.host = Some(At {
            value: hop.clone(),
            at: None,
        });
        let resolved = self
            .resolver
            .resolve(&hop.host, &spec)
            .await
            .map_err(|problems| {
                let told: Vec<String> = problems
                    .into_iter()
                    .map(|problem| problem.message)
                    .collect();
                format!("hop {}: {}", hop.host, told.join("; "))
            })?;
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

fn bounded(hops: usize) -> Result<(), String> {
    if hops > MOST_HOPS {
        return Err(format!("the chain has more than {MOST_HOPS} hops"));
    }
    Ok(())
}
