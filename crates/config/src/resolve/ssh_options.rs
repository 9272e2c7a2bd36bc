//! What `ssh -G` prints, read into the keys of `[tunnel.NAME]`: honoured, passed over, or told as impossible.

use std::time::Duration;

use crate::addr;
use crate::diagnostic::At;
use crate::env::Env;
use crate::layer::{Jump, Layer};
use crate::model::{AddressFamily, Forward, UpdateHostKeys};
use crate::parse::destination::{self, Destination, check_alias};
use crate::parse::forward::{self, Kind};
use crate::parse::values;
use crate::resolve::tunnel::SshOptions;
use crate::ssh_config::output::EffectiveConfig;
use crate::ssh_config::tokens::{self, Facts, Keyword, ServerKey};
use tunneld_proto::duration;

/// Keywords that tunneld cannot honour, when they are wishes, and what to do instead.
const IMPOSSIBLE: &[(&str, &[&str], &str)] = &[
    (
        "gssapiauthentication",
        &["no"],
        "GSSAPIAuthentication: tunneld logs in without Kerberos",
    ),
    (
        "hostbasedauthentication",
        &["no", "false"],
        "HostbasedAuthentication: tunneld has no such login",
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
        "ProxyUseFdpass: the ProxyCommand must carry the bytes itself",
    ),
    (
        "verifyhostkeydns",
        &["no", "false"],
        "VerifyHostKeyDNS: host keys are not looked up in DNS",
    ),
    (
        "nohostauthenticationforlocalhost",
        &["no"],
        "NoHostAuthenticationForLocalhost: the host key is checked all the same",
    ),
    (
        "tunnel",
        &["no", "false"],
        "Tunnel: tunneld has no tun device",
    ),
    (
        "requiredrsasize",
        &[],
        "RequiredRSASize: small RSA keys are not refused",
    ),
    (
        "casignaturealgorithms",
        &[],
        "CASignatureAlgorithms: tunneld's own list holds",
    ),
];

/// Reads a host's options.
///
/// # Errors
/// The keyword whose value cannot be used.
pub fn read(
    sources: EffectiveConfig<'_>,
    asked: &Destination,
    env: &Env,
) -> Result<SshOptions, String> {
    let host = sources
        .host
        .one("hostname")
        .unwrap_or(&asked.host)
        .to_owned();
    let mut options = SshOptions {
        host,
        ..SshOptions::default()
    };
    let spec = &mut options.spec;
    destination(sources, spec)?;
    authentication(sources, spec)?;
    host_keys(sources, spec)?;
    session(sources, spec)?;
    let jump = sources
        .one("proxyjump")
        .map(|text| self::jump(text, sources, asked, env))
        .transpose()?;
    spec.proxy_jump = jump.map(at);
    if spec.proxy_jump.is_none() {
        spec.proxy_command = sources.one("proxycommand").map(|text| at(none_word(text)));
    }
    forwards(sources, &mut options);
    for (keyword, fine, note) in IMPOSSIBLE {
        if sources
            .wished(keyword)
            .is_some_and(|value| !fine.contains(&value))
        {
            options.notes.push(format!(
                "ssh_config asks for what tunneld cannot do: {note}"
            ));
        }
    }
    Ok(options)
}

fn at<T>(value: T) -> At<T> {
    At { value, at: None }
}

fn none_word(text: &str) -> Option<String> {
    (!text.eq_ignore_ascii_case("none")).then(|| text.to_owned())
}

fn flag(sources: EffectiveConfig<'_>, keyword: &str) -> Option<At<bool>> {
    let word = sources.one(keyword)?;
    Some(at(!matches!(word, "no" | "false" | "none")))
}

fn text(sources: EffectiveConfig<'_>, keyword: &str) -> Option<At<String>> {
    sources
        .one(keyword)
        .filter(|text| !text.eq_ignore_ascii_case("none"))
        .map(|text| at(text.to_owned()))
}

fn number<T: std::str::FromStr>(
    sources: EffectiveConfig<'_>,
    keyword: &str,
) -> Result<Option<At<T>>, String> {
    let Some(text) = sources.one(keyword) else {
        return Ok(None);
    };
    text.parse()
        .map(|number| Some(at(number)))
        .map_err(|_| wrong(keyword, text))
}

fn wrong(keyword: &str, text: &str) -> String {
    format!("{keyword} {text}: not understood")
}

fn time(sources: EffectiveConfig<'_>, keyword: &str) -> Result<Option<At<Duration>>, String> {
    match sources.one(keyword) {
        None | Some("none") => Ok(None),
        Some(text) => duration::parse(text)
            .map(|time| Some(at(time)))
            .map_err(|error| format!("{keyword} {text}: {error}")),
    }
}

/// One path a line, or several in one line; "none" for none.
fn paths(
    sources: EffectiveConfig<'_>,
    keyword: &str,
    several: bool,
) -> Option<At<Vec<At<String>>>> {
    let lines = sources.said(keyword)?;
    let paths = lines.iter().flat_map(|line| {
        if several {
            split_paths(line)
        } else {
            vec![line.clone()]
        }
    });
    Some(at(paths
        .filter(|path| !path.eq_ignore_ascii_case("none"))
        .map(at)
        .collect()))
}

/// `ssh -G` prints several paths without quotation marks: a word that begins like no path goes on with the last.
fn split_paths(line: &str) -> Vec<String> {
    let begins = |word: &str| word.starts_with(['/', '~', '%', '$']) || word.get(1..2) == Some(":");
    let mut paths: Vec<String> = Vec::new();
    for word in line.split(' ') {
        match paths.last_mut() {
            Some(last) if begins(last) && !begins(word) => {
                last.push(' ');
                last.push_str(word);
            }
            _ => paths.push(word.to_owned()),
        }
    }
    paths
}

/// A list as ssh has worked it out.
fn algorithms(sources: EffectiveConfig<'_>, keyword: &str) -> Option<At<Vec<String>>> {
    sources
        .one(keyword)
        .map(|text| at(text.split(',').map(str::to_owned).collect()))
}

fn destination(sources: EffectiveConfig<'_>, spec: &mut Layer) -> Result<(), String> {
    spec.user = text(sources, "user");
    spec.port = number(sources, "port")?;
    spec.address_family = sources.one("addressfamily").map(|word| {
        at(match word {
            "inet" => AddressFamily::Inet,
            "inet6" => AddressFamily::Inet6,
            _ => AddressFamily::Any,
        })
    });
    spec.bind_address = text(sources, "bindaddress");
    spec.bind_interface = text(sources, "bindinterface");
    spec.connect_timeout = time(sources, "connecttimeout")?.filter(|time| !time.value.is_zero());
    Ok(())
}

fn authentication(sources: EffectiveConfig<'_>, spec: &mut Layer) -> Result<(), String> {
    spec.identity_file = paths(sources, "identityfile", false);
    spec.identities_only = flag(sources, "identitiesonly");
    spec.identity_agent = sources.one("identityagent").map(|text| at(text.to_owned()));
    spec.certificate_file = paths(sources, "certificatefile", false);
    spec.preferred_authentications = sources
        .one("preferredauthentications")
        .map(|text| {
            // Methods that tunneld lacks are passed over, as ssh passes over those that it was built without.
            let known = text
                .split(',')
                .map(str::trim)
                .filter(|name| values::METHODS.contains(name));
            values::methods(&known.collect::<Vec<_>>().join(","))
        })
        .transpose()
        .map_err(|_| "PreferredAuthentications leaves no method that tunneld has".to_owned())?
        .map(at);
    spec.pubkey_authentication = flag(sources, "pubkeyauthentication");
    spec.password_authentication = flag(sources, "passwordauthentication");
    spec.kbd_interactive_authentication = flag(sources, "kbdinteractiveauthentication");
    spec.number_of_password_prompts = number(sources, "numberofpasswordprompts")?;
    spec.pubkey_accepted_algorithms = algorithms(sources, "pubkeyacceptedalgorithms");
    spec.add_keys_to_agent = sources
        .one("addkeystoagent")
        .map(|text| {
            values::add_keys(text)
                .map(at)
                .map_err(|_| wrong("addkeystoagent", text))
        })
        .transpose()?;
    Ok(())
}

fn host_keys(sources: EffectiveConfig<'_>, spec: &mut Layer) -> Result<(), String> {
    spec.strict_host_key_checking = sources
        .one("stricthostkeychecking")
        .map(|word| {
            values::checking(word)
                .map(at)
                .ok_or_else(|| wrong("stricthostkeychecking", word))
        })
        .transpose()?;
    spec.user_known_hosts_file = paths(sources, "userknownhostsfile", true);
    spec.global_known_hosts_file = paths(sources, "globalknownhostsfile", true);
    spec.revoked_host_keys = paths(sources, "revokedhostkeys", true);
    spec.known_hosts_command = sources
        .one("knownhostscommand")
        .map(|text| at(none_word(text)));
    spec.host_key_alias = text(sources, "hostkeyalias");
    if let Some(alias) = &spec.host_key_alias {
        check_alias(&alias.value).map_err(|error| format!("HostKeyAlias: {error}"))?;
    }
    spec.host_key_algorithms = algorithms(sources, "hostkeyalgorithms");
    spec.hash_known_hosts = flag(sources, "hashknownhosts");
    spec.update_host_keys = sources.one("updatehostkeys").map(|word| {
        at(match word {
            "ask" => UpdateHostKeys::Ask,
            "no" | "false" => UpdateHostKeys::No,
            _ => UpdateHostKeys::Yes,
        })
    });
    Ok(())
}

fn session(sources: EffectiveConfig<'_>, spec: &mut Layer) -> Result<(), String> {
    spec.ciphers = algorithms(sources, "ciphers");
    spec.macs = algorithms(sources, "macs");
    spec.kex_algorithms = algorithms(sources, "kexalgorithms");
    spec.compression = flag(sources, "compression");
    spec.rekey_limit = sources
        .one("rekeylimit")
        .map(|text| {
            values::rekey(text)
                .map(at)
                .map_err(|error| format!("rekeylimit: {error}"))
        })
        .transpose()?;
    spec.server_alive_interval = time(sources, "serveraliveinterval")?;
    spec.server_alive_count_max = number(sources, "serveralivecountmax")?
        .map(|count: At<u32>| at(count.value.clamp(1, 1_000)));
    spec.tcp_keep_alive = flag(sources, "tcpkeepalive");
    spec.gateway_ports = flag(sources, "gatewayports");
    spec.clear_all_forwardings = flag(sources, "clearallforwardings");
    spec.exit_on_forward_failure = flag(sources, "exitonforwardfailure");
    spec.stream_local_bind_unlink = flag(sources, "streamlocalbindunlink");
    spec.stream_local_bind_mask = sources
        .one("streamlocalbindmask")
        .map(|text| {
            u32::from_str_radix(text, 8)
                .map(at)
                .map_err(|_| wrong("streamlocalbindmask", text))
        })
        .transpose()?;
    spec.permit_remote_open = sources
        .one("permitremoteopen")
        .map(|text| values::permit_remote_open(text).map(at))
        .transpose()
        .map_err(|error| format!("permitremoteopen: {error}"))?;
    Ok(())
}

fn jump(
    chain: &str,
    sources: EffectiveConfig<'_>,
    asked: &Destination,
    env: &Env,
) -> Result<Jump, String> {
    if chain.eq_ignore_ascii_case("none") {
        return Ok(Jump::None);
    }
    let facts = Facts {
        env,
        alias: &asked.host,
        host: sources.host.one("hostname").unwrap_or(&asked.host),
        port: asked
            .port
            .or_else(|| sources.host.one("port")?.parse().ok())
            .unwrap_or(22),
        user: asked
            .user
            .as_deref()
            .or_else(|| sources.host.one("user"))
            .unwrap_or(&env.user),
        key_alias: "",
        jump: "",
    };
    let mut hops = Vec::new();
    for hop in chain.split(',') {
        let hop = tokens::expand(Keyword::Proxy, hop.trim(), &facts, &ServerKey::default())
            .map_err(|error| format!("ProxyJump {chain}: {error}"))?;
        hops.push(destination::parse(&hop).map_err(|error| format!("ProxyJump {chain}: {error}"))?);
    }
    Ok(Jump::Hops(hops))
}

/// LocalForward, RemoteForward and DynamicForward. One that cannot be read costs a note, not the tunnel.
fn forwards(sources: EffectiveConfig<'_>, options: &mut SshOptions) {
    let mut of = |keyword: &str, kind: Kind| {
        let lines = sources.said(keyword)?;
        let mut forwards = Vec::new();
        for line in lines {
            match forward::parse(kind, line.trim_end_matches(" [socks]:0")) {
                Ok(forward) => forwards.push(at(final_paths(forward))),
                Err(error) => options.notes.push(format!(
                    "ssh_config's {keyword} {line} is left out: {error}"
                )),
            }
        }
        Some(at(forwards))
    };
    let local = of("localforward", Kind::Local);
    let remote = of("remoteforward", Kind::Remote);
    let dynamic = of("dynamicforward", Kind::Dynamic);
    options.spec.local_forward = local;
    // ssh -G prints a LocalForward to a Unix socket a second time, as a DynamicForward.
    let dynamic = dynamic.map(|mut dynamic| {
        dynamic
            .value
            .retain(|forward| !printed_twice(&forward.value, options.spec.local_forward.as_ref()));
        dynamic
    });
    options.spec.remote_forward = remote;
    options.spec.dynamic_forward = dynamic;
}

fn printed_twice(dynamic: &Forward, local: Option<&At<Vec<At<Forward>>>>) -> bool {
    let Forward::Dynamic { listen } = dynamic else {
        return false;
    };
    local.is_some_and(|local| {
        local.value.iter().any(|forward| {
            matches!(&forward.value, Forward::Local { listen: other, to: addr::Endpoint::Unix(_) } if other == listen)
        })
    })
}

/// ssh has expanded the tokens of forwards; a percent sign that is left is one.
fn final_paths(forward: Forward) -> Forward {
    let plain = |path: std::path::PathBuf| path.to_string_lossy().replace('%', "%%").into();
    let listen = |listen| match listen {
        addr::ListenAddr::Unix(path) => addr::ListenAddr::Unix(plain(path)),
        tcp @ addr::ListenAddr::Tcp { .. } => tcp,
    };
    let to = |to| match to {
        addr::Endpoint::Unix(path) => addr::Endpoint::Unix(plain(path)),
        tcp @ addr::Endpoint::Tcp(_) => tcp,
    };
    match forward {
        Forward::Local {
            listen: at,
            to: target,
        } => Forward::Local {
            listen: listen(at),
            to: to(target),
        },
        Forward::Remote {
            listen: at,
            to: target,
        } => Forward::Remote {
            listen: listen(at),
            to: target.map(to),
        },
        Forward::Dynamic { listen: at } => Forward::Dynamic { listen: listen(at) },
    }
}
