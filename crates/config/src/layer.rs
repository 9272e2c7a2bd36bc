//! The keys that one table or ssh_config sets, typed but not yet merged or expanded: `None` where it does not set one,
//! so that a layer of lower priority applies.

use std::time::Duration;

use crate::addr::{Destination, HostPort};
use crate::diagnostic::Spanned;
use crate::model::{
    AddKeysToAgent, AddressFamily, Answer, Forward, HostKeyChecking, Rekey, UpdateHostKeys,
};
use crate::proxy_for::ProxyPattern;

/// Which ssh_config is read: the key `ssh_config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SshConfigSource {
    /// The user's and the system's, as ssh reads them.
    Usual,
    /// No file: only the TOML counts.
    Nothing,
    /// Only this file, its tilde not yet expanded.
    File(String),
}

/// What the session is reached over: the key `proxy_jump`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Jump {
    /// No jump host, not even ssh_config's.
    None,
    /// The session of another tunnel, by its name.
    Tunnel(String),
    /// Jump hosts, nearest first, 1 to 8.
    Hops(Vec<Destination>),
}

/// Makes the struct and the functions that name every field. The field names are those of `keys`, where the keys are
/// documented; only `backoff` has two fields, because either may come from another layer.
macro_rules! layer {
    ($($key:ident: $kind:ty,)*) => {
        /// The keys of one `[tunnel.NAME]` or `[defaults]`, or what `ssh -G` says about one host.
        ///
        /// Paths and commands are as written: `~`, tokens and variables are expanded when the tunnel is resolved.
        #[derive(Debug, Clone, Default, PartialEq)]
        #[expect(missing_docs, reason = "the fields are the keys, which the key table documents")]
        pub struct Layer {
            $(pub $key: Option<Spanned<$kind>>,)*
        }
        impl Layer {
            /// The names of the fields.
            #[cfg(test)]
            pub(crate) const FIELDS: &[&str] = &[$(stringify!($key)),*];

            /// Fills in from `lower` the keys that this layer does not set.
            #[must_use]
            pub fn or(self, lower: &Self) -> Self {
                Self { $($key: self.$key.or_else(|| lower.$key.clone()),)* }
            }
        }
    };
}

layer! {
    host: Destination,
    host_name: String,
    user: String,
    port: u16,
    host_command: Vec<String>,
    ssh_config: SshConfigSource,
    address_family: AddressFamily,
    bind_address: String,
    bind_interface: String,
    connect_timeout: Duration,
    login_timeout: Duration,
    proxy_jump: Jump,
    // The inner `None` is the word "none": no command, not even ssh_config's.
    proxy_command: Option<String>,
    // Of the lists of paths: empty for the word "none".
    identity_file: Vec<Spanned<String>>,
    identities_only: bool,
    identity_agent: String,
    certificate_file: Vec<Spanned<String>>,
    preferred_authentications: Vec<String>,
    pubkey_authentication: bool,
    password_authentication: bool,
    kbd_interactive_authentication: bool,
    pubkey_accepted_algorithms: Vec<String>,
    add_keys_to_agent: AddKeysToAgent,
    number_of_password_prompts: u32,
    password_command: Vec<String>,
    passphrase_command: Vec<String>,
    answers: Vec<Answer>,
    strict_host_key_checking: HostKeyChecking,
    user_known_hosts_file: Vec<Spanned<String>>,
    global_known_hosts_file: Vec<Spanned<String>>,
    revoked_host_keys: Vec<Spanned<String>>,
    known_hosts_command: Option<String>,
    host_key_alias: String,
    host_key_algorithms: Vec<String>,
    required_rsa_size: u32,
    hash_known_hosts: bool,
    update_host_keys: UpdateHostKeys,
    ciphers: Vec<String>,
    macs: Vec<String>,
    kex_algorithms: Vec<String>,
    compression: bool,
    rekey_limit: Rekey,
    server_alive_interval: Duration,
    server_alive_count_max: u32,
    tcp_keep_alive: bool,
    backoff_initial: Duration,
    backoff_max: Duration,
    local_forward: Vec<Spanned<Forward>>,
    remote_forward: Vec<Spanned<Forward>>,
    dynamic_forward: Vec<Spanned<Forward>>,
    gateway_ports: bool,
    clear_all_forwardings: bool,
    exit_on_forward_failure: bool,
    stream_local_bind_unlink: bool,
    stream_local_bind_mask: u32,
    max_connections: u32,
    permit_remote_open: Vec<String>,
    proxy_for: Vec<ProxyPattern>,
    proxy_user: String,
    proxy_user_password_command: Vec<String>,
    // Each with the default server, which `resolve` replaces by `dns_server`.
    dns_listen: Vec<Spanned<Forward>>,
    dns_server: HostPort,
    autostart: bool,
    hold: Duration,
    on_needs_input: Vec<String>,
    description: String,
    tags: Vec<String>,
}

impl Layer {
    /// The forwards of the layer, in the order local, remote, dynamic, DNS.
    pub fn forwards(&self) -> impl Iterator<Item = &Spanned<Forward>> {
        [
            &self.local_forward,
            &self.remote_forward,
            &self.dynamic_forward,
            &self.dns_listen,
        ]
        .into_iter()
        .flatten()
        .flat_map(|list| &list.value)
    }

    /// The identities of the layer alone, which serve its jump hosts too.
    #[must_use]
    pub fn keys(&self) -> Self {
        Self {
            identity_file: self.identity_file.clone(),
            identities_only: self.identities_only.clone(),
            identity_agent: self.identity_agent.clone(),
            certificate_file: self.certificate_file.clone(),
            passphrase_command: self.passphrase_command.clone(),
            ..Self::default()
        }
    }

    /// The part of `[defaults]` that applies to a jump host: all but the destination, its forwards and the way there.
    #[must_use]
    pub fn for_hop(&self) -> Self {
        Self {
            host: None,
            host_name: None,
            host_command: None,
            proxy_jump: None,
            proxy_command: None,
            local_forward: None,
            remote_forward: None,
            dynamic_forward: None,
            proxy_for: None,
            proxy_user: None,
            proxy_user_password_command: None,
            dns_listen: None,
            dns_server: None,
            // An alias names one host key: with it, a jump host would be checked against the target's key.
            host_key_alias: None,
            ..self.clone()
        }
    }
}
