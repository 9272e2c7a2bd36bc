//! The table of configuration keys: the one definition of each key's name, ssh_config keyword, value, default, scope
//! and documentation.
//!
//! The parser takes its lists of known and reserved keys from here, `resolve::ssh_options` its keywords, and the tables
//! of docs/configuration.md are generated from here (`UPDATE_DOCS=1 cargo test -p tunneld-config docs`). How a value is
//! parsed is in `parse/`, what it becomes in `model`.

/// What a change of a key affects, and so whether a reload needs a new session to apply it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Where the values of other keys come from: a change counts as a change of each value that it alters.
    Source,
    /// How the session is reached, authenticated or protected: a change reconnects.
    Session,
    /// Read at the next dial only: a live session stays.
    DialPolicy,
    /// Listeners and how forwards behave: listeners open and close, the session stays.
    Forwards,
    /// Applied in place: touches neither the session nor a listener.
    Metadata,
    /// `[daemon]`: applies to the daemon, not to a tunnel.
    Daemon,
}

impl Scope {
    /// The word for docs/configuration.md: whether a change of the key reconnects a live tunnel.
    pub fn reconnects(self) -> &'static str {
        match self {
            Self::Source => "if a value changes that does",
            Self::Session => "yes",
            Self::DialPolicy => "no, next dial",
            Self::Forwards | Self::Metadata | Self::Daemon => "no",
        }
    }
}

/// One configuration key: everything about it that is not code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// The name in TOML, in snake_case.
    pub name: &'static str,
    /// The ssh_config keyword with the same meaning, as ssh_config(5) spells it; `None` for tunneld's own keys.
    pub keyword: Option<&'static str>,
    /// The form of the value, in words for the documentation.
    pub value: &'static str,
    /// The default, in words for the documentation.
    pub default: &'static str,
    /// What a change of it affects.
    pub scope: Scope,
    /// Whether the key is allowed in `[tunnel.NAME]` only, not in `[defaults]`.
    pub tunnel_only: bool,
    /// What it does, one sentence.
    pub doc: &'static str,
}

/// The keys of one section of docs/configuration.md, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// The name of the section, which marks its table in the page.
    pub name: &'static str,
    /// The keys, in the order of the page.
    pub keys: &'static [Key],
}

/// Row: `NAME KEYWORD [tunnel]? Scope "value" | "default" "documentation";`, with `_` where ssh has no such keyword and
/// `[tunnel]` where `[defaults]` may not contain the key.
macro_rules! sections {
    ($($section:ident { $($name:ident $keyword:tt $([$only:ident])? $scope:ident $value:literal | $default:literal $doc:literal;)* })*) => {
        /// All keys, by section of docs/configuration.md.
        pub const SECTIONS: &[Section] = &[$(Section {
            name: stringify!($section),
            keys: &[$(Key {
                name: stringify!($name),
                keyword: sections!(@keyword $keyword),
                value: $value,
                default: $default,
                scope: Scope::$scope,
                tunnel_only: sections!(@only $($only)?),
                doc: $doc,
            }),*],
        }),*];
    };
    (@keyword _) => { None };
    (@keyword $keyword:ident) => { Some(stringify!($keyword)) };
    (@only tunnel) => { true };
    (@only) => { false };
}

sections! {
    destination {
        host _ [tunnel] Session "`[user@]host[:port]`, an IPv6 address in brackets, or an ssh_config alias" | "the tunnel's name"
            "The destination.";
        host_name HostName [tunnel] Session "name or address" | "ssh_config's HostName, else the host"
            "The name or address that is dialled and looked up in known_hosts.";
        user User Session "string" | "ssh_config's, else your own"
            "The user to log in as.";
        port Port Session "1 to 65535" | "ssh_config's, else 22"
            "The SSH port.";
        host_command _ [tunnel] Session "command" | "none"
            "Runs at each dial; the first line of its output is the host.";
        ssh_config _ Source "true, false or a path" | "true"
            "Whether `ssh -G` is asked; a path is read instead of the usual files. See [ssh_config](ssh_config.md).";
        address_family AddressFamily Session "any, inet, inet6" | "any"
            "Which addresses of the host are tried.";
        bind_address BindAddress Session "address" | "none"
            "The local address to dial from.";
        bind_interface BindInterface Session "name" | "none"
            "The network interface to dial from.";
        connect_timeout ConnectTimeout DialPolicy "1s to 1d" | "20s"
            "Limit for DNS, TCP and key exchange together; time spent waiting for a person does not count.";
        login_timeout _ DialPolicy "1s to 1d" | "120s"
            "Limit for the login, such as until a phone is tapped; time spent waiting for a person here does not count.";
    }
    reach {
        proxy_jump ProxyJump Session "list of `[user@]host[:port]`, `\"tunnel:NAME\"`, or `\"none\"`" | "ssh_config's"
            "Jump hosts, nearest first, at most 8; or another tunnel whose session carries this one.";
        proxy_command ProxyCommand Session "string, or `\"none\"`" | "ssh_config's"
            "A command whose stdin and stdout are the connection; run by `$SHELL -c` as ssh does (without a usable `$SHELL`: `/bin/sh`), tokens `%% %h %n %p %r`.";
    }
    authentication {
        identity_file IdentityFile Session "list of paths, or `\"none\"`" | "`~/.ssh/id_rsa`, `id_ecdsa`, `id_ecdsa_sk`, `id_ed25519`, `id_ed25519_sk`"
            "The private keys to log in with.";
        identities_only IdentitiesOnly Session "boolean" | "false"
            "Whether the agent's other keys are not tried.";
        identity_agent IdentityAgent Session "path, `SSH_AUTH_SOCK`, `$VARIABLE`, none" | "`SSH_AUTH_SOCK`"
            "The socket of the SSH agent, looked up at each dial.";
        certificate_file CertificateFile Session "list of paths" | "none"
            "Certificates in addition to `KEY-cert.pub`.";
        add_keys_to_agent AddKeysToAgent DialPolicy "boolean, ask, confirm, a time" | "false"
            "Whether a key that was decrypted is added to the agent.";
        preferred_authentications PreferredAuthentications Session "list" | "publickey, keyboard-interactive, password"
            "The login methods, in the order they are tried.";
        pubkey_authentication PubkeyAuthentication Session "boolean" | "true"
            "Enables the method publickey.";
        password_authentication PasswordAuthentication Session "boolean" | "true"
            "Enables the method password.";
        kbd_interactive_authentication KbdInteractiveAuthentication Session "boolean" | "true"
            "Enables the method keyboard-interactive.";
        pubkey_accepted_algorithms PubkeyAcceptedAlgorithms Session "algorithms" | "all of tunneld's"
            "The signature algorithms for publickey.";
        number_of_password_prompts NumberOfPasswordPrompts DialPolicy "0 to 100" | "3"
            "How many times a password is asked for.";
        // Another source of the same user's secret: who is logged in, and how, stays the same.
        password_command _ DialPolicy "command" | "none"
            "The first line of its output is the password.";
        passphrase_command _ DialPolicy "command" | "none"
            "The first line of its output is the passphrase of the key.";
        answers _ DialPolicy "list of `{ prompt = \"regex\", command = [...] }`" | "none"
            "Commands that answer keyboard-interactive prompts; the first match is used.";
    }
    host_keys {
        // The key of a live session was accepted by the old rules: a change must check it by the new ones.
        strict_host_key_checking StrictHostKeyChecking Session "ask, yes, accept-new, no" | "ask"
            "What happens with an unknown host key; no means accept-new; a changed key is always refused.";
        user_known_hosts_file UserKnownHostsFile Session "list of paths" | "`~/.ssh/known_hosts`, `~/.ssh/known_hosts2`"
            "Files with known host keys; new keys are written to the first.";
        global_known_hosts_file GlobalKnownHostsFile Session "list of paths" | "`/etc/ssh/ssh_known_hosts`, `/etc/ssh/ssh_known_hosts2`"
            "Files with known host keys that are never written.";
        revoked_host_keys RevokedHostKeys Session "list of paths" | "none"
            "Files with host keys that are never trusted.";
        known_hosts_command KnownHostsCommand Session "string, or `\"none\"`" | "none"
            "A command that prints more known_hosts lines.";
        host_key_alias HostKeyAlias Session "name" | "none"
            "The name to look up in known_hosts instead of the host.";
        host_key_algorithms HostKeyAlgorithms Session "algorithms" | "all of tunneld's"
            "The host key algorithms that are offered.";
        required_rsa_size RequiredRSASize Session "1024 to 16384" | "2048; 1024 for `ssh-rsa`"
            "The bits that an RSA key, of the server or the user, must have at least.";
        hash_known_hosts HashKnownHosts DialPolicy "boolean" | "false"
            "Whether host names in new entries are hashed.";
        update_host_keys UpdateHostKeys DialPolicy "boolean, ask" | "true; false with a `user_known_hosts_file` of your own"
            "Whether further host keys that the server proves it has are saved.";
    }
    crypto {
        ciphers Ciphers Session "algorithms" | "tunneld's"
            "Ciphers, in order of preference.";
        macs MACs Session "algorithms" | "tunneld's"
            "Message authentication codes, in order of preference.";
        kex_algorithms KexAlgorithms Session "algorithms" | "tunneld's"
            "Key exchange methods, in order of preference.";
        compression Compression Session "boolean" | "false"
            "Whether zlib@openssh.com is offered.";
        rekey_limit RekeyLimit Session "`\"1G 1h\"`: bytes with K, M, G, or default; a time, or none" | "default none"
            "How much data or time passes before new session keys are agreed on.";
    }
    liveness {
        // The SSH client takes these at the handshake and has no way to change them later, so a change reconnects.
        server_alive_interval ServerAliveInterval Session "0s to 1 year" | "15s"
            "How long the server may be silent before a keepalive is sent; 0 = never, which `status` notes.";
        server_alive_count_max ServerAliveCountMax Session "1 to 1000" | "3"
            "Unanswered keepalives after which the session counts as lost.";
        tcp_keep_alive TCPKeepAlive Session "boolean" | "true"
            "Whether the kernel sends TCP keepalive probes.";
        backoff _ DialPolicy "`{ initial = \"1s\", max = \"60s\" }`, each 100ms to 1d" | "as shown"
            "Delays between attempts; only here `\"200ms\"` is a time too.";
    }
    forwards {
        local_forward LocalForward [tunnel] Forwards "list of `\"[bind:]port host:hostport\"`, a `/path` for either side; ssh's `-L` form too" | "none"
            "Listens on this machine and connects from the server; port 0 = a free one.";
        remote_forward RemoteForward Forwards "list of the same; or `\"[bind:]port\"` for reverse SOCKS" | "none"
            "Listens on the server and connects from this machine; port 0 = the server chooses.";
        dynamic_forward DynamicForward [tunnel] Forwards "port, `\"[bind:]port\"`, or a list" | "none"
            "A SOCKS4, 4a and 5 proxy on this machine.";
        gateway_ports GatewayPorts Forwards "boolean" | "false"
            "Whether a listener without an address listens on all addresses; `*` requires it.";
        clear_all_forwardings ClearAllForwardings Forwards "boolean" | "false"
            "Whether ssh_config's forwards are left out.";
        exit_on_forward_failure ExitOnForwardFailure Forwards "boolean" | "false"
            "Whether the session ends if a forward fails.";
        stream_local_bind_unlink StreamLocalBindUnlink Forwards "boolean" | "false"
            "Whether an existing socket file is removed before listening.";
        stream_local_bind_mask StreamLocalBindMask Forwards "octal string, or integer" | "`\"0177\"`"
            "The umask of socket files.";
        max_connections _ Forwards "1 to 65536" | "1024"
            "How many connections each forward may have open at a time; further ones are refused. The limit on open files counts too.";
        permit_remote_open PermitRemoteOpen Forwards "list of `host:port`, any, none" | "any"
            "The targets that reverse SOCKS may connect to.";
        proxy_for _ Metadata "list of hosts, globs, `.suffix`, networks; `:PORT` behind, `!` before to exclude" | "none"
            "What browsers use the proxy of the dynamic forward for; `/proxy.pac` is made from it, see [Browsers](browsers.md).";
        proxy_user _ Forwards "name without `:`" | "none"
            "The user name that SOCKS5 and HTTP clients of the dynamic forward must send; see [Browsers](browsers.md#a-proxy-with-a-password).";
        proxy_user_password_command _ Forwards "command" | "none"
            "The first line of its output is the password of `proxy_user`; it runs when a client first sends one, and again after a reload.";
    }
    life {
        autostart _ Metadata "boolean" | "true"
            "Whether the tunnel starts with the daemon.";
        hold _ Metadata "0s to 1d" | "30s"
            "How long a new connection waits for a lost session to come back; 0 = it is reset at once, as every new connection of a `failed` tunnel is.";
        on_needs_input _ Metadata "command" | "none"
            "Runs when a prompt waits for an answer; see [Prompts](#prompts).";
        description _ [tunnel] Metadata "text" | "none"
            "Shown in `status`.";
        tags _ Metadata "list of names" | "none"
            "Names for `--tag`.";
    }
    daemon {
        log _ Daemon "a level, or levels by module, as `info,tunneld=debug`" | "info"
            "What is logged.";
        max_concurrent_connects _ Daemon "1 to 1024" | "16"
            "How many tunnels log in at the same time, and how many `host_command`s and `proxy_command`s are started. What only waits does not count: for a host or a server that does not answer, an agent, a person.";
        http_listen _ Daemon "`[address:]port`, or the path of a Unix socket" | "off"
            "Where `/proxy.pac`, `/healthz`, `/readyz` and `/metrics` are served; see [Monitoring](monitoring.md).";
        metrics _ Daemon "boolean" | "false"
            "Whether `http_listen` serves `/metrics`.";
    }
}

/// Keys of `[tunnel.NAME]` and `[defaults]` that are reserved for a later version: refused by name, not as unknown.
pub const RESERVED_KEYS: &[&str] = &[
    "on_demand",
    "idle_timeout",
    "sessions",
    "before_connect",
    "on_up",
    "on_down",
    "proxy_password_command",
    "dns_listen",
    "dns_server",
];

/// The keys of `[tunnel.NAME]`, which are those of `[defaults]` too but for the ones marked `tunnel_only`.
pub fn tunnel_keys() -> impl Iterator<Item = &'static Key> {
    all().filter(|key| key.scope != Scope::Daemon)
}

/// The keys of `[daemon]`, without the reserved ones.
pub fn daemon_keys() -> impl Iterator<Item = &'static Key> {
    all().filter(|key| key.scope == Scope::Daemon)
}

/// The keyword that `ssh -G` prints for a key, in lower case as it prints them; `None` for tunneld's own keys.
pub fn ssh_g_keyword(name: &str) -> Option<String> {
    Some(keyword(name)?.to_ascii_lowercase())
}

/// The keyword of ssh_config(5) with the meaning of a key, as the manual writes it; `None` if there is none.
pub(crate) fn keyword(name: &str) -> Option<&'static str> {
    all().find(|key| key.name == name)?.keyword
}

fn all() -> impl Iterator<Item = &'static Key> {
    SECTIONS.iter().flat_map(|section| section.keys)
}

#[cfg(unix)]
#[cfg(test)]
mod tests;
