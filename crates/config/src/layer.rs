//! What one table says, proved value by value; `None` where it is silent, for the next authority to speak.

use std::time::Duration;

use crate::diagnostic::At;
use crate::model::{
    AddKeysToAgent, AddressFamily, Answer, Forward, HostKeyChecking, Rekey, UpdateHostKeys,
};
use crate::parse::destination::Destination;

/// `ssh_config`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SshConfig {
    /// Read as ssh reads it.
    Yes,
    /// Not read.
    No,
    /// This file alone.
    File(String),
}

/// `proxy_jump`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Jump {
    /// None, not even ssh_config's.
    None,
    /// Over another tunnel's session.
    Tunnel(String),
    /// Over these, nearest first.
    Hops(Vec<Destination>),
}

macro_rules! spec {
    ($($(#[$doc:meta])* $key:ident: $kind:ty,)*) => {
        /// One `[tunnel.NAME]` or `[defaults]`.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct Layer {
            $($(#[$doc])* pub $key: Option<At<$kind>>,)*
        }
        impl Layer {
            /// The names of the fields.
            #[cfg(test)]
            pub(crate) const FIELDS: &[&str] = &[$(stringify!($key)),*];

            /// The same with what a lower authority says where this one is silent.
            #[must_use]
            pub fn or(self, lower: &Self) -> Self {
                Self { $($key: self.$key.or_else(|| lower.$key.clone()),)* }
            }
        }
    };
}

spec! {
    /// `host`.
    host: Destination,
    /// `host_name`.
    host_name: String,
    /// `user`.
    user: String,
    /// `port`.
    port: u16,
    /// `host_command`.
    host_command: Vec<String>,
    /// `ssh_config`.
    ssh_config: SshConfig,
    /// `address_family`.
    address_family: AddressFamily,
    /// `bind_address`.
    bind_address: String,
    /// `bind_interface`.
    bind_interface: String,
    /// `connect_timeout`.
    connect_timeout: Duration,
    /// `proxy_jump`.
    proxy_jump: Jump,
    /// `proxy_command`; none for the word "none".
    proxy_command: Option<String>,
    /// `identity_file`, not yet expanded; empty for the word "none".
    identity_file: Vec<At<String>>,
    /// `identities_only`.
    identities_only: bool,
    /// `identity_agent`, not yet expanded.
    identity_agent: String,
    /// `certificate_file`, not yet expanded.
    certificate_file: Vec<At<String>>,
    /// `preferred_authentications`.
    preferred_authentications: Vec<String>,
    /// `pubkey_authentication`.
    pubkey_authentication: bool,
    /// `password_authentication`.
    password_authentication: bool,
    /// `kbd_interactive_authentication`.
    kbd_interactive_authentication: bool,
    /// `pubkey_accepted_algorithms`.
    pubkey_accepted_algorithms: Vec<String>,
    /// `add_keys_to_agent`.
    add_keys_to_agent: AddKeysToAgent,
    /// `number_of_password_prompts`.
    number_of_password_prompts: u32,
    /// `password_command`.
    password_command: Vec<String>,
    /// `passphrase_command`.
    passphrase_command: Vec<String>,
    /// `answers`.
    answers: Vec<Answer>,
    /// `strict_host_key_checking`.
    strict_host_key_checking: HostKeyChecking,
    /// `user_known_hosts_file`, not yet expanded.
    user_known_hosts_file: Vec<At<String>>,
    /// `global_known_hosts_file`, not yet expanded.
    global_known_hosts_file: Vec<At<String>>,
    /// `revoked_host_keys`, not yet expanded.
    revoked_host_keys: Vec<At<String>>,
    /// `known_hosts_command`; none for the word "none".
    known_hosts_command: Option<String>,
    /// `host_key_alias`.
    host_key_alias: String,
    /// `host_key_algorithms`.
    host_key_algorithms: Vec<String>,
    /// `hash_known_hosts`.
    hash_known_hosts: bool,
    /// `update_host_keys`.
    update_host_keys: UpdateHostKeys,
    /// `ciphers`.
    ciphers: Vec<String>,
    /// `macs`.
    macs: Vec<String>,
    /// `kex_algorithms`.
    kex_algorithms: Vec<String>,
    /// `compression`.
    compression: bool,
    /// `rekey_limit`.
    rekey_limit: Rekey,
    /// `server_alive_interval`.
    server_alive_interval: Duration,
    /// `server_alive_count_max`.
    server_alive_count_max: u32,
    /// `tcp_keep_alive`.
    tcp_keep_alive: bool,
    /// `backoff.initial`.
    backoff_initial: Duration,
    /// `backoff.max`.
    backoff_max: Duration,
    /// `local_forward`, `remote_forward` and `dynamic_forward`, in the order of the keys.
    local_forward: Vec<At<Forward>>,
    /// `remote_forward`.
    remote_forward: Vec<At<Forward>>,
    /// `dynamic_forward`.
    dynamic_forward: Vec<At<Forward>>,
    /// `gateway_ports`.
    gateway_ports: bool,
    /// `clear_all_forwardings`: whether ssh_config's forwards are left out.
    clear_all_forwardings: bool,
    /// `exit_on_forward_failure`.
    exit_on_forward_failure: bool,
    /// `stream_local_bind_unlink`.
    stream_local_bind_unlink: bool,
    /// `stream_local_bind_mask`.
    stream_local_bind_mask: u32,
    /// `permit_remote_open`.
    permit_remote_open: Vec<String>,
    /// `autostart`.
    autostart: bool,
    /// `hold`.
    hold: Duration,
    /// `on_needs_input`.
    on_needs_input: Vec<String>,
    /// `description`.
    description: String,
    /// `tags`.
    tags: Vec<String>,
}

impl Layer {
    /// The forwards that it names, in the order local, remote, dynamic.
    pub fn forwards(&self) -> impl Iterator<Item = &At<Forward>> {
        [
            &self.local_forward,
            &self.remote_forward,
            &self.dynamic_forward,
        ]
        .into_iter()
        .flatten()
        .flat_map(|list| &list.value)
    }

    /// What a jump host takes from the defaults: all but where the tunnel leads and how it gets there.
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
            host_key_alias: None,
            ..self.clone()
        }
    }
}
