//! Makes one tunnel out of what all authorities say: TOML over ssh_config over tunneld's own defaults.

use std::path::PathBuf;
use std::time::Duration;

use crate::diagnostic::{At, Diagnostic};
use crate::env::Env;
use crate::layer::{Jump, Layer};
use crate::model::{
    Agent, Auth, Crypto, Forward, Forwarding, HostKeyChecking, HostKeys, Lifecycle, Liveness,
    Route, UpdateHostKeys, Via,
};
use crate::parse::destination::{Destination, check_host, check_user};
use crate::parse::values;
use crate::ssh_config::tokens::{self, Facts, Keyword, ServerKey};

/// What ssh_config says of a host, where it says more than ssh's own defaults.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SshOptions {
    /// The real host name.
    pub host: String,
    /// Its keywords, as the keys that they are.
    pub spec: Layer,
    /// What it asks for and tunneld cannot do.
    pub notes: Vec<String>,
}

/// A tunnel but for its jump hosts, each of which is resolved by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// The route; its `via` is [`Via::Direct`] where `hops` has any.
    pub route: Route,
    /// The jump hosts, nearest first.
    pub hops: Vec<Destination>,
    /// The forwards.
    pub forwards: Vec<Forward>,
    /// How forwards behave.
    pub forwarding: Forwarding,
    /// When it runs.
    pub life: Lifecycle,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Whom a spec is about, as `ssh -G` is asked: the host as it was written, user and port where they were.
pub fn asked(name: &str, spec: &Layer) -> Destination {
    let host = spec.host.as_ref().map(|host| &host.value);
    Destination {
        host: host.map_or(name, |host| &host.host).to_owned(),
        user: host
            .and_then(|host| host.user.clone())
            .or_else(|| spec.user.as_ref().map(|user| user.value.clone())),
        port: host
            .and_then(|host| host.port)
            .or_else(|| spec.port.as_ref().map(|port| port.value)),
    }
}

/// Resolves a tunnel or a jump host.
///
/// # Errors
/// All that is wrong with it.
pub fn resolve(
    name: &str,
    toml: &Layer,
    ssh: Option<&SshOptions>,
    env: &Env,
) -> Result<Resolved, Vec<Diagnostic>> {
    let asked = asked(name, toml);
    let none = Layer::default();
    let theirs = ssh.map_or(&none, |ssh| &ssh.spec);
    let mut spec = toml.clone().or(theirs);
    // Either of the two, written here, does away with both of theirs.
    if toml.proxy_jump.is_some() || toml.proxy_command.is_some() {
        spec.proxy_jump = toml.proxy_jump.clone();
        spec.proxy_command = toml.proxy_command.clone();
    }
    let user = asked
        .user
        .or_else(|| theirs.user.as_ref().map(|user| user.value.clone()));
    let user = user.unwrap_or_else(|| env.user.clone());
    let port = asked
        .port
        .or_else(|| theirs.port.as_ref().map(|port| port.value))
        .unwrap_or(22);
    let host = value(&toml.host_name)
        .or_else(|| ssh.map(|ssh| ssh.host.clone()))
        .unwrap_or_else(|| asked.host.clone());
    let jump = jump_text(&spec);
    let mut work = Work {
        facts: Facts {
            env,
            alias: &asked.host,
            host: &host,
            port,
            user: &user,
            key_alias: spec
                .host_key_alias
                .as_ref()
                .map_or(&asked.host, |alias| &alias.value),
            jump: &jump,
        },
        problems: Vec::new(),
        notes: ssh.map(|ssh| ssh.notes.clone()).unwrap_or_default(),
    };
    let at = toml.host.as_ref().and_then(|host| host.at);
    for checked in [
        check_host(&asked.host),
        check_host(&host),
        check_user(&user),
    ] {
        if let Err(error) = checked {
            work.problems.push(Diagnostic::new(at, error));
        }
    }
    let (via, hops) = work.via(&spec);
    let route = Route {
        alias: asked.host.clone(),
        host: host.clone(),
        port,
        user: user.clone(),
        host_command: value(&spec.host_command).unwrap_or_default(),
        address_family: value(&spec.address_family).unwrap_or_default(),
        bind_address: value(&spec.bind_address),
        bind_interface: value(&spec.bind_interface),
        connect_timeout: value(&spec.connect_timeout).unwrap_or(Duration::from_secs(20)),
        via,
        auth: work.auth(&spec),
        host_keys: work.host_keys(&spec),
        crypto: crypto(&spec),
        liveness: work.liveness(&spec),
    };
    let forwards = work.forwards(toml, theirs);
    if work.problems.is_empty() {
        Ok(Resolved {
            route,
            hops,
            forwards,
            forwarding: forwarding(&spec),
            life: life(&spec),
            notes: work.notes,
        })
    } else {
        Err(work.problems)
    }
}

fn value<T: Clone>(at: &Option<At<T>>) -> Option<T> {
    at.as_ref().map(|at| at.value.clone())
}

/// `%j`: the chain as it would be written.
fn jump_text(spec: &Layer) -> String {
    let Some(At {
        value: Jump::Hops(hops),
        ..
    }) = &spec.proxy_jump
    else {
        return String::new();
    };
    hops.last().map(|hop| hop.host.clone()).unwrap_or_default()
}

pub(crate) struct Work<'a> {
    pub(crate) facts: Facts<'a>,
    pub(crate) problems: Vec<Diagnostic>,
    pub(crate) notes: Vec<String>,
}

impl Work<'_> {
    pub(crate) fn path(&mut self, key: &str, text: &At<String>) -> Option<PathBuf> {
        match tokens::path(&text.value, &self.facts) {
            Ok(path) => Some(path),
            Err(error) => {
                let message = format!("{key}: \"{}\": {error}", text.value);
                self.problems.push(Diagnostic::new(text.at, message));
                None
            }
        }
    }

    fn paths(&mut self, key: &str, texts: &Option<At<Vec<At<String>>>>) -> Option<Vec<PathBuf>> {
        let texts = texts.as_ref()?;
        Some(
            texts
                .value
                .iter()
                .filter_map(|text| self.path(key, text))
                .collect(),
        )
    }

    fn home(&self, names: &[&str]) -> Vec<PathBuf> {
        names
            .iter()
            .map(|name| self.facts.env.home.join(".ssh").join(name))
            .collect()
    }

    /// Proves that a command's tokens can be expanded; that is done when it is run.
    fn command(
        &mut self,
        key: &str,
        keyword: Keyword,
        command: &At<Option<String>>,
    ) -> Option<String> {
        let text = command.value.as_ref()?;
        if let Err(error) = tokens::expand(keyword, text, &self.facts, &ServerKey::default()) {
            self.problems
                .push(Diagnostic::new(command.at, format!("{key}: {error}")));
        }
        Some(text.clone())
    }

    fn via(&mut self, spec: &Layer) -> (Via, Vec<Destination>) {
        match spec.proxy_jump.as_ref().map(|jump| &jump.value) {
            Some(Jump::Tunnel(name)) => return (Via::Tunnel(name.clone()), Vec::new()),
            Some(Jump::Hops(hops)) => return (Via::Direct, hops.clone()),
            Some(Jump::None) | None => {}
        }
        let command = spec
            .proxy_command
            .as_ref()
            .and_then(|command| self.command("proxy_command", Keyword::Proxy, command));
        (command.map_or(Via::Direct, Via::Command), Vec::new())
    }

    fn auth(&mut self, spec: &Layer) -> Auth {
        let explicit = self.paths("identity_file", &spec.identity_file);
        let agent = match spec.identity_agent.as_ref() {
            None => Agent::Environment,
            Some(at) => self.agent(at),
        };
        Auth {
            identity_files_explicit: explicit.is_some(),
            identity_files: explicit.unwrap_or_else(|| {
                self.home(&[
                    "id_rsa",
                    "id_ecdsa",
                    "id_ecdsa_sk",
                    "id_ed25519",
                    "id_ed25519_sk",
                ])
            }),
            identities_only: value(&spec.identities_only).unwrap_or(false),
            agent,
            certificate_files: self
                .paths("certificate_file", &spec.certificate_file)
                .unwrap_or_default(),
            preferred: self.methods(spec),
            password_prompts: value(&spec.number_of_password_prompts).unwrap_or(3),
            password_command: value(&spec.password_command).unwrap_or_default(),
            passphrase_command: value(&spec.passphrase_command).unwrap_or_default(),
            answers: value(&spec.answers).unwrap_or_default(),
            pubkey_algorithms: value(&spec.pubkey_accepted_algorithms).unwrap_or_default(),
            add_keys_to_agent: value(&spec.add_keys_to_agent).unwrap_or_default(),
        }
    }

    fn agent(&mut self, at: &At<String>) -> Agent {
        let text = at.value.as_str();
        if text.eq_ignore_ascii_case("none") {
            return Agent::None;
        }
        if text == "SSH_AUTH_SOCK" {
            return Agent::Environment;
        }
        let whole = text
            .strip_prefix("${")
            .and_then(|name| name.strip_suffix('}'));
        let name = whole.or_else(|| text.strip_prefix('$')).filter(|name| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        });
        match name {
            Some(name) => Agent::Variable(name.to_owned()),
            None => self
                .path("identity_agent", at)
                .map_or(Agent::None, Agent::Socket),
        }
    }

    fn methods(&mut self, spec: &Layer) -> Vec<String> {
        let off = |switch: &Option<At<bool>>| switch.as_ref().is_some_and(|on| !on.value);
        let mut methods = value(&spec.preferred_authentications).unwrap_or_else(|| {
            values::METHODS
                .iter()
                .map(|name| (*name).to_owned())
                .collect()
        });
        methods.retain(|method| {
            !off(match method.as_str() {
                "publickey" => &spec.pubkey_authentication,
                "password" => &spec.password_authentication,
                _ => &spec.kbd_interactive_authentication,
            })
        });
        if methods.is_empty() {
            let at = spec.preferred_authentications.as_ref().and_then(|at| at.at);
            let message = "preferred_authentications: no method of login is left";
            self.problems.push(
                Diagnostic::new(at, message)
                    .help("allow at least one of publickey, keyboard-interactive and password"),
            );
        }
        methods
    }

    fn host_keys(&mut self, spec: &Layer) -> HostKeys {
        let user = self.paths("user_known_hosts_file", &spec.user_known_hosts_file);
        let global = self.paths("global_known_hosts_file", &spec.global_known_hosts_file);
        HostKeys {
            checking: value(&spec.strict_host_key_checking).unwrap_or(HostKeyChecking::Ask),
            user_files: user.unwrap_or_else(|| self.home(&["known_hosts", "known_hosts2"])),
            global_files: global.unwrap_or_else(|| {
                let names = ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"];
                names.iter().map(PathBuf::from).collect()
            }),
            revoked_files: self
                .paths("revoked_host_keys", &spec.revoked_host_keys)
                .unwrap_or_default(),
            command: spec.known_hosts_command.as_ref().and_then(|command| {
                self.command("known_hosts_command", Keyword::KnownHostsCommand, command)
            }),
            alias: value(&spec.host_key_alias),
            hash: value(&spec.hash_known_hosts).unwrap_or(false),
            // As in OpenSSH: on by default, but not for known_hosts files that the user has put elsewhere.
            update: value(&spec.update_host_keys).unwrap_or(
                if spec.user_known_hosts_file.is_some() {
                    UpdateHostKeys::No
                } else {
                    UpdateHostKeys::Yes
                },
            ),
            algorithms: value(&spec.host_key_algorithms).unwrap_or_default(),
        }
    }

    fn liveness(&mut self, spec: &Layer) -> Liveness {
        let interval = value(&spec.server_alive_interval).unwrap_or(Duration::from_secs(15));
        if interval.is_zero() {
            self.notes.push(
                "server_alive_interval = 0: a server that falls silent is not noticed".to_owned(),
            );
        }
        let initial = value(&spec.backoff_initial).unwrap_or(Duration::from_secs(1));
        let max = value(&spec.backoff_max);
        if max.is_some_and(|max| initial > max) {
            let at = spec.backoff_initial.as_ref().and_then(|at| at.at);
            let at = at.or_else(|| spec.backoff_max.as_ref().and_then(|at| at.at));
            self.problems
                .push(Diagnostic::new(at, "backoff: initial is longer than max"));
        }
        Liveness {
            interval: Some(interval).filter(|interval| !interval.is_zero()),
            count_max: value(&spec.server_alive_count_max).unwrap_or(3),
            tcp_keep_alive: value(&spec.tcp_keep_alive).unwrap_or(true),
            backoff_initial: initial,
            backoff_max: max.unwrap_or(Duration::from_secs(60)).max(initial),
        }
    }
}

fn crypto(spec: &Layer) -> Crypto {
    Crypto {
        ciphers: value(&spec.ciphers).unwrap_or_default(),
        macs: value(&spec.macs).unwrap_or_default(),
        kex: value(&spec.kex_algorithms).unwrap_or_default(),
        compression: value(&spec.compression).unwrap_or(false),
        rekey: value(&spec.rekey_limit).unwrap_or_default(),
    }
}

fn forwarding(spec: &Layer) -> Forwarding {
    Forwarding {
        exit_on_failure: value(&spec.exit_on_forward_failure).unwrap_or(false),
        unlink_socket: value(&spec.stream_local_bind_unlink).unwrap_or(false),
        socket_mask: value(&spec.stream_local_bind_mask).unwrap_or(0o177),
        permit_remote_open: value(&spec.permit_remote_open).unwrap_or_default(),
    }
}

fn life(spec: &Layer) -> Lifecycle {
    Lifecycle {
        autostart: value(&spec.autostart).unwrap_or(true),
        hold: value(&spec.hold).unwrap_or(Duration::from_secs(30)),
        on_needs_input: value(&spec.on_needs_input).unwrap_or_default(),
    }
}
