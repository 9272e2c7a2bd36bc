//! Reads the keys of `[tunnel.NAME]` and `[defaults]` into a [`Layer`]. `parse::auth` has those about the login.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::diagnostic::{Diagnostic, Spanned};
use crate::keys::{self, RESERVED_KEYS};
use crate::layer::{Jump, Layer, SshConfigSource};
use crate::model::{AddressFamily, Forward};
use crate::parse::auth;
use crate::parse::destination::{self, check_host, check_user};
use crate::parse::forward;
use crate::parse::lists::{flatten, narrow};
use crate::parse::table::{Table, ValueError, boolean, expected, integer, short_time, string};
use crate::parse::tree::{Node, TableEntry, Value};
use crate::parse::values;
use crate::proxy_for;

const YEAR: Duration = Duration::from_secs(365 * 86_400);
const DAY: Duration = Duration::from_secs(86_400);
const SECOND: Duration = Duration::from_secs(1);
/// The shortest delay between attempts: with less, a server that refuses would be flooded.
const MIN_BACKOFF: Duration = Duration::from_millis(100);
/// The range of `[daemon] max_concurrent_connects`.
pub(crate) const CONCURRENT_CONNECTS: RangeInclusive<i64> = 1..=1_024;
/// The longest chain of `proxy_jump`.
const MAX_HOPS: usize = 8;
/// The longest `proxy_user`, in bytes.
const MAX_PROXY_USER: usize = 255;
/// The longest `description`, in bytes.
const MAX_DESCRIPTION: usize = 1_024;

/// Which table is read: `[defaults]` may not have every key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableKind {
    Tunnel,
    Defaults,
}

/// Reads `[tunnel.NAME]` or `[defaults]` and reports every error in it.
pub(crate) fn layer(
    kind: TableKind,
    title: &str,
    entries: &[TableEntry],
    diagnostics: &mut Vec<Diagnostic>,
) -> Layer {
    let known = keys::tunnel_keys().map(|key| key.name);
    let known = known.chain(RESERVED_KEYS.iter().copied());
    let mut table = Table::new(title, known, entries, diagnostics);
    let mut layer = Layer::default();
    if kind == TableKind::Defaults {
        for key in keys::tunnel_keys().filter(|key| key.tunnel_only) {
            // A key such as `host` in `[defaults]` would apply to every tunnel at once.
            table.reject_misplaced(key.name, "[tunnel.NAME]");
        }
    }
    destination(&mut table, &mut layer);
    reach(&mut table, &mut layer);
    auth::authentication(&mut table, &mut layer);
    auth::host_keys(&mut table, &mut layer);
    auth::crypto(&mut table, &mut layer);
    liveness(&mut table, &mut layer);
    forwards(&mut table, &mut layer);
    proxy_patterns(&mut table, &mut layer);
    life(&mut table, &mut layer);
    for key in RESERVED_KEYS {
        table.reject_reserved(key);
    }
    table.finish();
    layer
}

fn destination(table: &mut Table<'_, '_>, layer: &mut Layer) {
    layer.host = table.text("host", destination::parse);
    layer.host_name = table.text("host_name", |host| {
        check_host(host).map(|()| host.to_owned())
    });
    layer.user = table.text("user", |user| check_user(user).map(|()| user.to_owned()));
    layer.port = narrow(table.integer("port", 1..=65_535));
    layer.host_command = table.argv("host_command");
    layer.ssh_config = table.value("ssh_config", ssh_config_source);
    layer.address_family = table.choice(
        "address_family",
        &[
            ("any", AddressFamily::Any),
            ("inet", AddressFamily::Inet),
            ("inet6", AddressFamily::Inet6),
        ],
    );
    layer.bind_address = table.text("bind_address", |text| {
        check_host(text).map(|()| text.to_owned())
    });
    layer.bind_interface = table.text("bind_interface", |text| {
        check_host(text).map(|()| text.to_owned())
    });
    layer.connect_timeout = table.duration("connect_timeout", SECOND..=DAY);
    layer.login_timeout = table.duration("login_timeout", SECOND..=DAY);
    let host = layer.host.as_ref().map(|host| &host.value);
    let host_has_user = host.is_some_and(|host| host.user.is_some());
    let host_has_port = host.is_some_and(|host| host.port.is_some());
    if let Some(user) = layer.user.as_ref().filter(|_| host_has_user) {
        let diagnostic = Diagnostic::new(user.span, "user: host already contains a user");
        table.report(diagnostic.help("remove one of the two"));
    }
    if let Some(port) = layer.port.as_ref().filter(|_| host_has_port) {
        let diagnostic = Diagnostic::new(port.span, "port: host already contains a port");
        table.report(diagnostic.help("remove one of the two"));
    }
}

fn ssh_config_source(node: &Node) -> Result<SshConfigSource, ValueError> {
    match &node.value {
        Value::String(path) if !matches!(path.as_str(), "yes" | "no" | "true" | "false") => {
            string(node)?;
            Ok(SshConfigSource::File(path.clone()))
        }
        Value::Bool(_) | Value::String(_) => Ok(if boolean(node)? {
            SshConfigSource::Usual
        } else {
            SshConfigSource::Nothing
        }),
        _ => Err(expected("true, false or a path", node)),
    }
}

fn reach(table: &mut Table<'_, '_>, layer: &mut Layer) {
    layer.proxy_jump = table.value("proxy_jump", jump);
    layer.proxy_command = table.text("proxy_command", |text| {
        Ok((!text.eq_ignore_ascii_case("none")).then(|| text.to_owned()))
    });
    if let (Some(_), Some(command)) = (&layer.proxy_jump, &layer.proxy_command) {
        table.report(
            Diagnostic::new(
                command.span,
                "proxy_command: the same table also sets proxy_jump",
            )
            .help("remove one of the two"),
        );
    }
}

fn jump(node: &Node) -> Result<Jump, ValueError> {
    let items = match &node.value {
        Value::Array(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    };
    let mut hops = Vec::new();
    for item in items {
        for hop in string(item)
            .map_err(|error| error.at(item.span))?
            .split(',')
            .map(str::trim)
        {
            if hop.eq_ignore_ascii_case("none") && items.len() == 1 {
                return Ok(Jump::None);
            }
            if let Some(name) = hop.strip_prefix("tunnel:") {
                destination::check_name(name)?;
                if items.len() > 1 || string(item)? != hop {
                    return Err(ValueError::from(
                        "\"tunnel:NAME\" cannot be part of a chain".to_owned(),
                    )
                    .help("set proxy_jump of the tunnel NAME to the rest of the chain"));
                }
                return Ok(Jump::Tunnel(name.to_owned()));
            }
            let hop =
                destination::parse(hop).map_err(|error| ValueError::from(error).at(item.span))?;
            hops.push(hop);
        }
    }
    match hops.len() {
        0 => Err("the chain is empty".to_owned().into()),
        1..=MAX_HOPS => Ok(Jump::Hops(hops)),
        more => Err(format!("the chain has {more} hops; at most {MAX_HOPS} are allowed").into()),
    }
}

fn liveness(table: &mut Table<'_, '_>, layer: &mut Layer) {
    layer.server_alive_interval = table.duration("server_alive_interval", Duration::ZERO..=YEAR);
    layer.server_alive_count_max = narrow(table.integer("server_alive_count_max", 1..=1_000));
    layer.tcp_keep_alive = table.boolean("tcp_keep_alive");
    let Some(node) = table.node("backoff") else {
        return;
    };
    let Value::Table(entries) = &node.value else {
        let error = expected("{ initial = \"1s\", max = \"60s\" }", node);
        table.report_value("backoff", node.span, error);
        return;
    };
    let mut backoff = table.nested("backoff", &["initial", "max"], entries);
    let initial = backoff.value("initial", |node| short_time(node, &(MIN_BACKOFF..=DAY)));
    let max = backoff.value("max", |node| short_time(node, &(MIN_BACKOFF..=DAY)));
    if let (Some(initial), Some(max)) = (&initial, &max)
        && initial.value > max.value
    {
        backoff.report(
            Diagnostic::new(initial.span, "backoff: initial is longer than max")
                .help("initial is the first delay, max the longest"),
        );
    }
    backoff.finish();
    layer.backoff_initial = initial;
    layer.backoff_max = max;
}

fn forwards(table: &mut Table<'_, '_>, layer: &mut Layer) {
    layer.gateway_ports = table.boolean("gateway_ports");
    layer.local_forward = forward_list(table, "local_forward", forward::ForwardGrammar::Local);
    layer.remote_forward = forward_list(table, "remote_forward", forward::ForwardGrammar::Remote);
    layer.dynamic_forward =
        forward_list(table, "dynamic_forward", forward::ForwardGrammar::Dynamic);
    layer.dns_listen = forward_list(table, "dns_listen", forward::ForwardGrammar::Dns);
    layer.dns_server = table.value("dns_server", |node| {
        forward::parse_dns_server(string(node)?).map_err(|error| {
            ValueError::from(error.to_string()).help("for example \"10.0.0.2\" or \"[fd00::2]:53\"")
        })
    });
    layer.clear_all_forwardings = table.boolean("clear_all_forwardings");
    layer.exit_on_forward_failure = table.boolean("exit_on_forward_failure");
    layer.stream_local_bind_unlink = table.boolean("stream_local_bind_unlink");
    layer.stream_local_bind_mask = table.value("stream_local_bind_mask", |node| {
        match &node.value {
            // A string is octal, as in ssh_config; a TOML integer can be written as 0o177.
            Value::String(text) => match u32::from_str_radix(text, 8) {
                Ok(mask) if mask <= 0o777 => Ok(mask),
                _ => {
                    Err(format!("expected an octal mask from 000 to 777, found \"{text}\"").into())
                }
            },
            _ => Ok(u32::try_from(integer(node, &(0..=0o777))?).unwrap_or_default()),
        }
    });
    layer.max_connections = narrow(table.integer("max_connections", 1..=65_536));
    layer.permit_remote_open = table
        .list("permit_remote_open", |node| {
            values::permit_remote_open(string(node)?).map_err(ValueError::from)
        })
        .map(flatten);
}

fn proxy_patterns(table: &mut Table<'_, '_>, layer: &mut Layer) {
    layer.proxy_for = table
        .list("proxy_for", |node| {
            proxy_for::parse(string(node)?)
                .map(|pattern| vec![pattern])
                .map_err(ValueError::from)
        })
        .map(flatten);
    layer.proxy_user = table.text("proxy_user", check_proxy_user);
    layer.proxy_user_password_command = table.argv("proxy_user_password_command");
}

/// HTTP Basic ends the user name at the first colon (RFC 7617 §2), and SOCKS5 has one length byte for it (RFC 1929 §2).
fn check_proxy_user(user: &str) -> Result<String, String> {
    if user.is_empty() || user.len() > MAX_PROXY_USER {
        return Err(format!("expected 1 to {MAX_PROXY_USER} bytes"));
    }
    if user.contains(':') || user.contains(char::is_control) {
        return Err("a user name of a proxy has no `:` and no control characters".to_owned());
    }
    Ok(user.to_owned())
}

fn forward_list(
    table: &mut Table<'_, '_>,
    key: &'static str,
    kind: forward::ForwardGrammar,
) -> Option<Spanned<Vec<Spanned<Forward>>>> {
    table.list(key, |node| {
        let text = match &node.value {
            Value::Integer(port) if kind != forward::ForwardGrammar::Local => port.to_string(),
            Value::String(text) => text.clone(),
            _ => return Err(expected("a forward as a string", node).help(kind.grammar())),
        };
        forward::parse(kind, &text)
            .map_err(|error| ValueError::from(error.to_string()).help(kind.grammar()))
    })
}

fn life(table: &mut Table<'_, '_>, layer: &mut Layer) {
    layer.autostart = table.boolean("autostart");
    layer.hold = table.duration("hold", Duration::ZERO..=DAY);
    layer.on_needs_input = table.argv("on_needs_input");
    layer.description = table.text("description", |text| match text.len() {
        0..=MAX_DESCRIPTION => Ok(text.to_owned()),
        _ => Err(format!("is longer than {MAX_DESCRIPTION} bytes")),
    });
    layer.tags = table
        .list("tags", |node| match string(node)? {
            // Tags have the grammar of names, so that both can be given on a command line.
            tag if destination::check_name(tag).is_ok() => Ok(vec![tag.to_owned()]),
            _ => Err(
                "a tag has letters, digits, `.`, `_` and `-`, at most 64 characters"
                    .to_owned()
                    .into(),
            ),
        })
        .map(flatten);
}
