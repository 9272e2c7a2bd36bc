//! Resolves one tunnel or jump host: TOML over ssh_config over tunneld's defaults. `resolve::route` adds the jump hosts.

use std::path::PathBuf;
use std::time::Duration;

use crate::addr::Destination;
use crate::diagnostic::{Diagnostic, Spanned};
use crate::env::Env;
use crate::layer::{Jump, Layer};
use crate::model::{
    Agent, Auth, Crypto, DEFAULT_MAX_CONNECTIONS, Forward, Forwarding, HostKeyChecking, HostKeys,
    Lifecycle, Liveness, ProxyLogin, Route, UpdateHostKeys, Via,
};
use crate::parse::destination::{check_host, check_user, needs_command};
use crate::parse::values;
use crate::proxy_for::ProxyPattern;
use crate::resolve::expand::Expander;
use crate::resolve::forwards;
use crate::resolve::proxy;
use crate::resolve::ssh_options::SshOptions;
use crate::ssh_config::tokens::{Keyword, TokenValues};

const DEFAULT_PORT: u16 = 22;
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longer than a second factor waits for its phone: 60 s with Duo.
const DEFAULT_LOGIN_TIMEOUT: Duration = Duration::from_secs(120);
const DEFAULT_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
const DEFAULT_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
const DEFAULT_HOLD: Duration = Duration::from_secs(30);

/// ssh's default identities, in its order (ssh_config(5), IdentityFile).
const DEFAULT_IDENTITIES: &[&str] = &[
    "id_rsa",
    "id_ecdsa",
    "id_ecdsa_sk",
    "id_ed25519",
    "id_ed25519_sk",
];

/// A tunnel without its jump hosts, each of which is resolved by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// The route. Its `via` is [`Via::Direct`] if there are `hops`, until they are resolved.
    pub route: Route,
    /// The jump hosts, nearest first.
    pub hops: Vec<Destination>,
    /// The forwards, in the configuration's order.
    pub forwards: Vec<Forward>,
    /// How the forwards behave: options that all of them share.
    pub forwarding: Forwarding,
    /// What browsers use the proxy for.
    pub proxy_for: Vec<ProxyPattern>,
    /// When the tunnel runs and waits.
    pub life: Lifecycle,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// The destination to ask `ssh -G` about: the host as it is written, user and port only if the TOML sets them.
pub fn query_destination(name: &str, layer: &Layer) -> Destination {
    let host = layer.host.as_ref().map(|host| &host.value);
    Destination {
        host: host.map_or(name, |host| &host.host).to_owned(),
        user: host
            .and_then(|host| host.user.clone())
            .or_else(|| layer.user.as_ref().map(|user| user.value.clone())),
        port: host
            .and_then(|host| host.port)
            .or_else(|| layer.port.as_ref().map(|port| port.value)),
    }
}

/// Where a tunnel or jump host leads to.
struct SshTarget {
    /// The host as it is written.
    alias: String,
    /// The host name or address to dial.
    host: String,
    port: u16,
    user: String,
}

impl SshTarget {
    fn of(name: &str, toml: &Layer, ssh: Option<&SshOptions>, env: &Env) -> Self {
        let written = query_destination(name, toml);
        let ssh_layer = ssh.map(|ssh| &ssh.layer);
        Self {
            host: value(&toml.host_name)
                .or_else(|| ssh.map(|ssh| ssh.host.clone()))
                .unwrap_or_else(|| written.host.clone()),
            port: written
                .port
                .or_else(|| ssh_layer.and_then(|layer| value(&layer.port)))
                .unwrap_or(DEFAULT_PORT),
            user: written
                .user
                .or_else(|| ssh_layer.and_then(|layer| value(&layer.user)))
                .unwrap_or_else(|| env.user.clone()),
            alias: written.host,
        }
    }

    /// Checks the characters again although the parser did: the values may come from ssh_config, after its expansions.
    fn unsafe_parts(&self) -> impl Iterator<Item = String> {
        [
            check_host(&self.alias),
            check_host(&self.host),
            check_user(&self.user),
        ]
        .into_iter()
        .filter_map(Result::err)
    }
}

/// Resolves a tunnel or a jump host; `ssh` is `None` if ssh_config is not read.
///
/// # Errors
/// Every error in it.
pub fn resolve(
    name: &str,
    toml: &Layer,
    ssh: Option<&SshOptions>,
    env: &Env,
) -> Result<Resolved, Vec<Diagnostic>> {
    let no_layer = Layer::default();
    let ssh_layer = ssh.map_or(&no_layer, |ssh| &ssh.layer);
    let layer = merge(toml, ssh_layer);
    let target = SshTarget::of(name, toml, ssh, env);
    let jump_host = last_hop(&layer);
    let mut expander = Expander {
        values: TokenValues {
            env,
            alias: &target.alias,
            host: &target.host,
            port: target.port,
            user: &target.user,
            key_alias: layer
                .host_key_alias
                .as_ref()
                .map_or(&target.alias, |alias| &alias.value),
            jump: &jump_host,
        },
        diagnostics: Vec::new(),
        notes: ssh.map(|ssh| ssh.notes.clone()).unwrap_or_default(),
    };
    let span = toml.host.as_ref().and_then(|host| host.span);
    // On the final values: HostName in ssh_config may be anything, and the host reaches a shell in ProxyCommand.
    for error in target.unsafe_parts() {
        expander.diagnostics.push(Diagnostic::new(span, error));
    }
    if env.user_is_uid && target.user == env.user {
        let message = format!(
            "no login name: the user database does not have uid {}, and USER is not set",
            env.uid
        );
        let help = "set user = \"NAME\", or USER in tunneld's environment";
        let diagnostic = Diagnostic::new(span, message).help(help);
        expander.diagnostics.push(diagnostic);
    }
    let (route, hops) = route(&mut expander, &layer, &target);
    if needs_command(&route.host).is_some() && !matches!(route.via, Via::Command(_)) {
        let message = format!("the host `{}` can only be reached by a command", route.host);
        expander
            .diagnostics
            .push(Diagnostic::new(span, message).help("set proxy_command"));
    }
    // Not from the merged layer, as the forwards of both are added up.
    let forwards = forwards::resolve(&mut expander, toml, ssh_layer);
    let proxy_for = proxy::proxy_for(&mut expander, &layer, &forwards);
    let proxy_login = proxy::proxy_login(&mut expander, &layer, &forwards);
    // All errors are collected first, so that the user sees them at once.
    if expander.diagnostics.is_empty() {
        Ok(Resolved {
            route,
            hops,
            forwards,
            forwarding: forwarding(&layer, proxy_login),
            proxy_for,
            life: life(&layer),
            notes: expander.notes,
        })
    } else {
        Err(expander.diagnostics)
    }
}

/// Makes the route, and the jump hosts that are still to be resolved.
fn route(
    expander: &mut Expander<'_>,
    layer: &Layer,
    target: &SshTarget,
) -> (Route, Vec<Destination>) {
    let (via, hops) = via(expander, layer);
    let route = Route {
        alias: target.alias.clone(),
        host: target.host.clone(),
        port: target.port,
        user: target.user.clone(),
        host_command: value(&layer.host_command).unwrap_or_default(),
        address_family: value(&layer.address_family).unwrap_or_default(),
        bind_address: value(&layer.bind_address),
        bind_interface: value(&layer.bind_interface),
        connect_timeout: value(&layer.connect_timeout).unwrap_or(DEFAULT_CONNECT_TIMEOUT),
        login_timeout: value(&layer.login_timeout).unwrap_or(DEFAULT_LOGIN_TIMEOUT),
        via,
        auth: auth(expander, layer),
        host_keys: host_keys(expander, layer),
        crypto: crypto(layer),
        liveness: liveness(expander, layer),
    };
    (route, hops)
}

/// The upper layer over the lower one. If the upper sets `proxy_jump` or `proxy_command`, it replaces both of the
/// lower: each of the two says alone how the host is reached.
pub(crate) fn merge(upper: &Layer, lower: &Layer) -> Layer {
    let mut layer = upper.clone().or(lower);
    // The two are one setting: an upper layer's ProxyJump must not be combined with a lower layer's ProxyCommand.
    if upper.proxy_jump.is_some() || upper.proxy_command.is_some() {
        layer.proxy_jump = upper.proxy_jump.clone();
        layer.proxy_command = upper.proxy_command.clone();
    }
    layer
}

fn value<T: Clone>(spanned: &Option<Spanned<T>>) -> Option<T> {
    spanned.as_ref().map(|spanned| spanned.value.clone())
}

/// `%j`: the host of the last hop; empty without jump hosts.
fn last_hop(layer: &Layer) -> String {
    let Some(Spanned {
        value: Jump::Hops(hops),
        ..
    }) = &layer.proxy_jump
    else {
        return String::new();
    };
    hops.last().map(|hop| hop.host.clone()).unwrap_or_default()
}

fn via(expander: &mut Expander<'_>, layer: &Layer) -> (Via, Vec<Destination>) {
    match layer.proxy_jump.as_ref().map(|jump| &jump.value) {
        Some(Jump::Tunnel(name)) => return (Via::Tunnel(name.clone()), Vec::new()),
        Some(Jump::Hops(hops)) => return (Via::Direct, hops.clone()),
        Some(Jump::None) | None => {}
    }
    let command = layer
        .proxy_command
        .as_ref()
        .and_then(|command| expander.command("proxy_command", Keyword::Proxy, command));
    (command.map_or(Via::Direct, Via::Command), Vec::new())
}

fn auth(expander: &mut Expander<'_>, layer: &Layer) -> Auth {
    let explicit = expander.paths("identity_file", &layer.identity_file);
    let agent = match layer.identity_agent.as_ref() {
        None => Agent::Environment,
        Some(text) => agent(expander, text),
    };
    Auth {
        identity_files_explicit: explicit.is_some(),
        identity_files: explicit.unwrap_or_else(|| expander.in_ssh_folder(DEFAULT_IDENTITIES)),
        identities_only: value(&layer.identities_only).unwrap_or(false),
        agent,
        certificate_files: expander
            .paths("certificate_file", &layer.certificate_file)
            .unwrap_or_default(),
        preferred: auth_methods(expander, layer),
        password_prompts: value(&layer.number_of_password_prompts).unwrap_or(3),
        password_command: value(&layer.password_command).unwrap_or_default(),
        passphrase_command: value(&layer.passphrase_command).unwrap_or_default(),
        answers: value(&layer.answers).unwrap_or_default(),
        pubkey_algorithms: value(&layer.pubkey_accepted_algorithms).unwrap_or_default(),
        add_keys_to_agent: value(&layer.add_keys_to_agent).unwrap_or_default(),
    }
}

fn agent(expander: &mut Expander<'_>, spanned: &Spanned<String>) -> Agent {
    let text = spanned.value.as_str();
    if text.eq_ignore_ascii_case("none") {
        return Agent::None;
    }
    if text == "SSH_AUTH_SOCK" {
        return Agent::Environment;
    }
    // A variable alone is looked up at each dial: the agent's socket may move while the daemon runs. Within a path it
    // is expanded here, as every other.
    let braced = text
        .strip_prefix("${")
        .and_then(|name| name.strip_suffix('}'));
    let name = braced.or_else(|| text.strip_prefix('$')).filter(|name| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    });
    match name {
        Some(name) => Agent::Variable(name.to_owned()),
        None => expander
            .path("identity_agent", spanned)
            .map_or(Agent::None, Agent::Socket),
    }
}

fn auth_methods(expander: &mut Expander<'_>, layer: &Layer) -> Vec<String> {
    let is_off = |switch: &Option<Spanned<bool>>| switch.as_ref().is_some_and(|on| !on.value);
    let mut methods = value(&layer.preferred_authentications).unwrap_or_else(|| {
        values::AUTH_METHODS
            .iter()
            .map(|name| (*name).to_owned())
            .collect()
    });
    // Both settings count, as in ssh: a method has to be enabled and preferred.
    methods.retain(|method| {
        !is_off(match method.as_str() {
            "publickey" => &layer.pubkey_authentication,
            "password" => &layer.password_authentication,
            _ => &layer.kbd_interactive_authentication,
        })
    });
    if methods.is_empty() {
        let preferred = layer.preferred_authentications.as_ref();
        let message = "preferred_authentications: no login method is left";
        expander.diagnostics.push(
            Diagnostic::new(preferred.and_then(|preferred| preferred.span), message)
                .help("enable at least one of publickey, keyboard-interactive and password"),
        );
    }
    methods
}

fn host_keys(expander: &mut Expander<'_>, layer: &Layer) -> HostKeys {
    let user = expander.paths("user_known_hosts_file", &layer.user_known_hosts_file);
    let global = expander.paths("global_known_hosts_file", &layer.global_known_hosts_file);
    HostKeys {
        checking: value(&layer.strict_host_key_checking).unwrap_or(HostKeyChecking::Ask),
        user_files: user
            .unwrap_or_else(|| expander.in_ssh_folder(&["known_hosts", "known_hosts2"])),
        global_files: global.unwrap_or_else(|| {
            let names = ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"];
            names.iter().map(PathBuf::from).collect()
        }),
        revoked_files: expander
            .paths("revoked_host_keys", &layer.revoked_host_keys)
            .unwrap_or_default(),
        command: layer.known_hosts_command.as_ref().and_then(|command| {
            expander.command("known_hosts_command", Keyword::KnownHostsCommand, command)
        }),
        alias: value(&layer.host_key_alias),
        hash: value(&layer.hash_known_hosts).unwrap_or(false),
        // As OpenSSH: on by default, but not for known_hosts files in another place.
        update: value(&layer.update_host_keys).unwrap_or(
            if layer.user_known_hosts_file.is_some() {
                UpdateHostKeys::Never
            } else {
                UpdateHostKeys::Always
            },
        ),
        algorithms: value(&layer.host_key_algorithms).unwrap_or_default(),
        min_rsa_bits: value(&layer.required_rsa_size),
    }
}

fn liveness(expander: &mut Expander<'_>, layer: &Layer) -> Liveness {
    let interval = value(&layer.server_alive_interval).unwrap_or(DEFAULT_ALIVE_INTERVAL);
    if interval.is_zero() {
        expander
            .notes
            .push("server_alive_interval = 0: a dead connection is not detected".to_owned());
    }
    let (default_initial, default_max) = DEFAULT_BACKOFF;
    let initial = value(&layer.backoff_initial).unwrap_or(default_initial);
    let max = value(&layer.backoff_max);
    // The parser has compared the two of one table; here they may come from two.
    if max.is_some_and(|max| initial > max) {
        let initial_span = layer.backoff_initial.as_ref().and_then(|it| it.span);
        let span = initial_span.or_else(|| layer.backoff_max.as_ref().and_then(|it| it.span));
        expander
            .diagnostics
            .push(Diagnostic::new(span, "backoff: initial is longer than max"));
    }
    Liveness {
        interval: Some(interval).filter(|interval| !interval.is_zero()),
        count_max: value(&layer.server_alive_count_max).unwrap_or(3),
        tcp_keep_alive: value(&layer.tcp_keep_alive).unwrap_or(true),
        backoff_initial: initial,
        // A long `initial` alone raises the default maximum; only an explicit one that is smaller is an error.
        backoff_max: max.unwrap_or(default_max).max(initial),
    }
}

fn crypto(layer: &Layer) -> Crypto {
    Crypto {
        ciphers: value(&layer.ciphers).unwrap_or_default(),
        macs: value(&layer.macs).unwrap_or_default(),
        kex: value(&layer.kex_algorithms).unwrap_or_default(),
        compression: value(&layer.compression).unwrap_or(false),
        rekey: value(&layer.rekey_limit).unwrap_or_default(),
    }
}

fn forwarding(layer: &Layer, proxy_login: Option<ProxyLogin>) -> Forwarding {
    Forwarding {
        exit_on_failure: value(&layer.exit_on_forward_failure).unwrap_or(false),
        unlink_socket: value(&layer.stream_local_bind_unlink).unwrap_or(false),
        socket_mask: value(&layer.stream_local_bind_mask).unwrap_or(0o177),
        max_connections: value(&layer.max_connections).unwrap_or(DEFAULT_MAX_CONNECTIONS),
        permit_remote_open: value(&layer.permit_remote_open).unwrap_or_default(),
        proxy_login,
    }
}

fn life(layer: &Layer) -> Lifecycle {
    Lifecycle {
        autostart: value(&layer.autostart).unwrap_or(true),
        hold: value(&layer.hold).unwrap_or(DEFAULT_HOLD),
        on_needs_input: value(&layer.on_needs_input).unwrap_or_default(),
    }
}
