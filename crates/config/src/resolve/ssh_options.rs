//! What `ssh -G` prints about a host, as the keys of `[tunnel.NAME]`. Keywords without a key are ignored, but for those
//! in `UNSUPPORTED`, which get a note. docs/ssh_config.md lists all of them.

use std::path::PathBuf;

use tunneld_proto::text::escape;
use tunneld_ssh::algorithm::Kind;

use crate::addr::{Destination, Endpoint, ListenAddr};
use crate::diagnostic::Spanned;
use crate::env::Env;
use crate::keys;
use crate::layer::{Jump, Layer};
use crate::model::{AddressFamily, Forward, UpdateHostKeys};
use crate::parse::destination::{self, check_alias};
use crate::parse::forward::{self, ForwardGrammar};
use crate::parse::lists::narrow;
use crate::parse::values;
use crate::resolve::ssh_values::{Values, unless_none, unspanned};
use crate::ssh_config::output::EffectiveConfig;
use crate::ssh_config::tokens::{self, Keyword, ServerKey, TokenValues};

/// What ssh_config says about a host, other than ssh's own defaults.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SshOptions {
    /// The host name to dial.
    pub host: String,
    /// Its keywords, as the keys with the same meaning.
    pub layer: Layer,
    /// What it asks for and tunneld does not support.
    pub notes: Vec<String>,
}

/// Keywords that tunneld does not support and whose absence the user may notice: the keyword, the values that ask for
/// nothing, the note.
const UNSUPPORTED: &[(&str, &[&str], &str)] = &[
    (
        "gssapiauthentication",
        &["no"],
        "GSSAPIAuthentication: tunneld cannot log in with Kerberos",
    ),
    (
        "hostbasedauthentication",
        &["no", "false"],
        "HostbasedAuthentication: tunneld does not have this login method",
    ),
    (
        "pkcs11provider",
        &["none"],
        "PKCS11Provider: use the token through the agent (ssh-add -s)",
    ),
    (
        "securitykeyprovider",
        &["internal", "none"],
        "SecurityKeyProvider: use the security key through the agent",
    ),
    (
        "proxyusefdpass",
        &["no"],
        "ProxyUseFdpass: the ProxyCommand must transfer the bytes itself",
    ),
    (
        "verifyhostkeydns",
        &["no", "false"],
        "VerifyHostKeyDNS: host keys are not looked up in DNS",
    ),
    (
        "nohostauthenticationforlocalhost",
        &["no"],
        "NoHostAuthenticationForLocalhost: the host key of localhost is checked too",
    ),
    (
        "tunnel",
        &["no", "false"],
        "Tunnel: tunneld does not have tun devices",
    ),
    (
        "casignaturealgorithms",
        &[],
        "CASignatureAlgorithms: tunneld's own list applies",
    ),
];

/// Reads the options of a host.
///
/// # Errors
/// The first keyword whose value cannot be used, and why.
pub fn read(
    config: EffectiveConfig<'_>,
    destination: &Destination,
    env: &Env,
) -> Result<SshOptions, String> {
    let host = config
        .host
        .first("hostname")
        .unwrap_or(&destination.host)
        .to_owned();
    let mut options = SshOptions {
        host,
        ..SshOptions::default()
    };
    let values = Values(config);
    let layer = &mut options.layer;
    read_destination(values, layer)?;
    read_authentication(values, layer)?;
    read_host_keys(values, layer)?;
    read_session(values, layer)?;
    layer.proxy_jump = values
        .first("proxy_jump")
        .map(|chain| jump(chain, config, destination, env))
        .transpose()?
        .map(unspanned);
    if layer.proxy_jump.is_none() {
        layer.proxy_command = values
            .first("proxy_command")
            .map(|text| unspanned(unless_none(text)));
    }
    read_forwards(values, &mut options);
    options.notes.extend(unknown_algorithms(values));
    for (keyword, harmless, note) in UNSUPPORTED {
        if config
            .host_specific(keyword)
            .is_some_and(|value| !harmless.contains(&value))
        {
            options.notes.push(format!(
                "ssh_config sets what tunneld does not support: {note}"
            ));
        }
    }
    Ok(options)
}

fn read_destination(values: Values<'_>, layer: &mut Layer) -> Result<(), String> {
    layer.user = values.text("user");
    layer.port = values.number("port")?;
    layer.address_family = values.first("address_family").map(|word| {
        unspanned(match word {
            "inet" => AddressFamily::Inet,
            "inet6" => AddressFamily::Inet6,
            _ => AddressFamily::Any,
        })
    });
    layer.bind_address = values.text("bind_address");
    layer.bind_interface = values.text("bind_interface");
    // ssh takes 0 as no limit, so tunneld's default applies.
    layer.connect_timeout = values
        .time("connect_timeout")?
        .filter(|time| !time.value.is_zero());
    Ok(())
}

fn read_authentication(config: Values<'_>, layer: &mut Layer) -> Result<(), String> {
    layer.identity_file = config.paths("identity_file", false);
    layer.identities_only = config.flag("identities_only");
    layer.identity_agent = config
        .first("identity_agent")
        .map(|text| unspanned(text.to_owned()));
    layer.certificate_file = config.paths("certificate_file", false);
    layer.preferred_authentications = config.parse("preferred_authentications", |text| {
        // As ssh skips the methods that it was built without.
        let known = text
            .split(',')
            .map(str::trim)
            .filter(|name| values::AUTH_METHODS.contains(name));
        values::auth_methods(&known.collect::<Vec<_>>().join(","))
            .map_err(|_| "none of these methods is supported".to_owned())
    })?;
    layer.pubkey_authentication = config.flag("pubkey_authentication");
    layer.password_authentication = config.flag("password_authentication");
    layer.kbd_interactive_authentication = config.flag("kbd_interactive_authentication");
    layer.number_of_password_prompts = config.number("number_of_password_prompts")?;
    layer.pubkey_accepted_algorithms = config.algorithms("pubkey_accepted_algorithms");
    layer.add_keys_to_agent = config.parse("add_keys_to_agent", values::add_keys_to_agent)?;
    Ok(())
}

fn read_host_keys(config: Values<'_>, layer: &mut Layer) -> Result<(), String> {
    layer.strict_host_key_checking = config.parse("strict_host_key_checking", |word| {
        values::host_key_checking(word).ok_or_else(|| "is not a known value".to_owned())
    })?;
    layer.user_known_hosts_file = config.paths("user_known_hosts_file", true);
    layer.global_known_hosts_file = config.paths("global_known_hosts_file", true);
    layer.revoked_host_keys = config.paths("revoked_host_keys", true);
    layer.known_hosts_command = config
        .first("known_hosts_command")
        .map(|text| unspanned(unless_none(text)));
    layer.host_key_alias = config.text("host_key_alias");
    if let Some(alias) = &layer.host_key_alias {
        check_alias(&alias.value).map_err(|error| format!("HostKeyAlias: {error}"))?;
    }
    layer.host_key_algorithms = config.algorithms("host_key_algorithms");
    // ssh accepts any number; the key has a range.
    let (least, most) = values::RSA_BITS.into_inner();
    let clamp = |bits: Spanned<i64>| unspanned(bits.value.clamp(least, most));
    layer.required_rsa_size = narrow(config.number("required_rsa_size")?.map(clamp));
    layer.hash_known_hosts = config.flag("hash_known_hosts");
    // ssh's default depends on UserKnownHostsFile, so that its answer is not compared with that for other files.
    let update_host_keys = match layer.user_known_hosts_file {
        Some(_) => config.0.host.first("updatehostkeys"),
        None => config.first("update_host_keys"),
    };
    layer.update_host_keys = update_host_keys.map(|word| {
        unspanned(match word {
            "ask" => UpdateHostKeys::Ask,
            "no" | "false" => UpdateHostKeys::Never,
            _ => UpdateHostKeys::Always,
        })
    });
    Ok(())
}

fn read_session(config: Values<'_>, layer: &mut Layer) -> Result<(), String> {
    layer.ciphers = config.algorithms("ciphers");
    layer.macs = config.algorithms("macs");
    layer.kex_algorithms = config.algorithms("kex_algorithms");
    layer.compression = config.flag("compression");
    layer.rekey_limit = config.parse("rekey_limit", values::rekey_limit)?;
    layer.server_alive_interval = config.time("server_alive_interval")?;
    // ssh accepts any number; the key has a range.
    layer.server_alive_count_max = config
        .number("server_alive_count_max")?
        .map(|count: Spanned<u32>| unspanned(count.value.clamp(1, 1_000)));
    layer.tcp_keep_alive = config.flag("tcp_keep_alive");
    layer.gateway_ports = config.flag("gateway_ports");
    layer.clear_all_forwardings = config.flag("clear_all_forwardings");
    layer.exit_on_forward_failure = config.flag("exit_on_forward_failure");
    layer.stream_local_bind_unlink = config.flag("stream_local_bind_unlink");
    layer.stream_local_bind_mask = config.parse("stream_local_bind_mask", |text| {
        u32::from_str_radix(text, 8).map_err(|_| "is not an octal number".to_owned())
    })?;
    layer.permit_remote_open = config.parse("permit_remote_open", values::permit_remote_open)?;
    Ok(())
}

/// Notes on the algorithms that the files name and tunneld does not have. Those of ssh's own list are not counted: nobody
/// asked for them.
fn unknown_algorithms(config: Values<'_>) -> impl Iterator<Item = String> {
    let lists = [
        ("ciphers", Kind::Cipher),
        ("macs", Kind::Mac),
        ("kex_algorithms", Kind::Kex),
        ("host_key_algorithms", Kind::HostKey),
    ];
    lists.into_iter().filter_map(move |(key, kind)| {
        let keyword = keys::keyword(key)?;
        let built_in = config.0.built_in.first(&keyword.to_ascii_lowercase());
        let built_in = built_in.unwrap_or_default();
        let unknown: Vec<&str> = config
            .first(key)?
            .split(',')
            .filter(|name| !built_in.split(',').any(|known| known == *name))
            .filter(|name| kind.find(name).is_none())
            .collect();
        (!unknown.is_empty()).then(|| {
            format!(
                "ssh_config's {keyword} names what tunneld does not have: {}",
                escape(&unknown.join(", "))
            )
        })
    })
}

/// Parses ProxyJump's chain. `ssh -G` leaves its tokens to the reader.
fn jump(
    chain: &str,
    config: EffectiveConfig<'_>,
    destination: &Destination,
    env: &Env,
) -> Result<Jump, String> {
    if chain.eq_ignore_ascii_case("none") {
        return Ok(Jump::None);
    }
    let values = TokenValues {
        env,
        alias: &destination.host,
        host: config.host.first("hostname").unwrap_or(&destination.host),
        port: destination
            .port
            .or_else(|| config.host.first("port")?.parse().ok())
            .unwrap_or(22),
        user: destination
            .user
            .as_deref()
            .or_else(|| config.host.first("user"))
            .unwrap_or(&env.user),
        key_alias: "",
        jump: "",
    };
    let mut hops = Vec::new();
    for hop in chain.split(',') {
        let hop = tokens::expand(Keyword::Proxy, hop.trim(), &values, &ServerKey::default())
            .map_err(|error| format!("ProxyJump {chain}: {error}"))?;
        hops.push(destination::parse(&hop).map_err(|error| format!("ProxyJump {chain}: {error}"))?);
    }
    Ok(Jump::Hops(hops))
}

/// LocalForward, RemoteForward and DynamicForward. One that cannot be parsed gets a note: the tunnel may do without.
fn read_forwards(values: Values<'_>, options: &mut SshOptions) {
    let mut read = |key: &str, kind: ForwardGrammar| {
        let mut forwards = Vec::new();
        for line in values.all(key)? {
            // ssh -G's spelling of a remote forward without a target.
            match forward::parse(kind, line.trim_end_matches(" [socks]:0")) {
                Ok(forward) => forwards.push(unspanned(escape_percent(forward))),
                Err(error) => {
                    let keyword = keys::ssh_g_keyword(key).unwrap_or_default();
                    options.notes.push(format!(
                        "ssh_config's {keyword} {line} is left out: {error}"
                    ));
                }
            }
        }
        Some(unspanned(forwards))
    };
    let local = read("local_forward", ForwardGrammar::Local);
    let remote = read("remote_forward", ForwardGrammar::Remote);
    let dynamic = read("dynamic_forward", ForwardGrammar::Dynamic);
    // ssh -G prints a LocalForward to a Unix socket a second time, as a DynamicForward.
    let dynamic = dynamic.map(|mut dynamic| {
        dynamic
            .value
            .retain(|forward| !is_printed_twice(&forward.value, local.as_ref()));
        dynamic
    });
    options.layer.local_forward = local;
    options.layer.remote_forward = remote;
    options.layer.dynamic_forward = dynamic;
}

fn is_printed_twice(dynamic: &Forward, local: Option<&Spanned<Vec<Spanned<Forward>>>>) -> bool {
    let Forward::Dynamic { listen } = dynamic else {
        return false;
    };
    local.is_some_and(|local| {
        local.value.iter().any(|forward| {
            matches!(&forward.value, Forward::Local { listen: other, to: Endpoint::Unix(_) } if other == listen)
        })
    })
}

/// ssh has already expanded the tokens of a forward: escapes the percent signs that are left, so that they stay.
fn escape_percent(forward: Forward) -> Forward {
    let escape = |path: PathBuf| path.to_string_lossy().replace('%', "%%").into();
    let listen_addr = |listen| match listen {
        ListenAddr::Unix(path) => ListenAddr::Unix(escape(path)),
        tcp @ ListenAddr::Tcp { .. } => tcp,
    };
    let endpoint = |to| match to {
        Endpoint::Unix(path) => Endpoint::Unix(escape(path)),
        tcp @ Endpoint::Tcp(_) => tcp,
    };
    match forward {
        Forward::Local { listen, to } => Forward::Local {
            listen: listen_addr(listen),
            to: endpoint(to),
        },
        Forward::Remote { listen, to } => Forward::Remote {
            listen: listen_addr(listen),
            to: to.map(endpoint),
        },
        Forward::Dynamic { listen } => Forward::Dynamic {
            listen: listen_addr(listen),
        },
        // ssh_config has no DNS listeners, and they have no path.
        dns @ Forward::Dns { .. } => dns,
    }
}
