//! Reads a table's keys into a [`Layer`]: which keys there are, and the grammar of each.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::diagnostic::{At, Diagnostic};
use crate::layer::{Jump, Layer, SshConfig};
use crate::model::{AddressFamily, Forward};
use crate::parse::auth;
use crate::parse::destination::{self, check_host, check_user};
use crate::parse::forward;
use crate::parse::lists::{flat, narrow};
use crate::parse::table::{Table, ValueError, boolean, expected, integer, short_time, string};
use crate::parse::tree::{Entry, Node, Value};
use crate::parse::values;

const YEAR: Duration = Duration::from_secs(365 * 86_400);
const DAY: Duration = Duration::from_secs(86_400);
const SECOND: Duration = Duration::from_secs(1);
/// A shorter delay is no delay but an attack on the server.
const SHORTEST: Duration = Duration::from_millis(100);

/// Keys of the contract that a later version brings.
const RESERVED_KEYS: &[&str] = &[
    "on_demand",
    "idle_timeout",
    "sessions",
    "before_connect",
    "on_up",
    "on_down",
    "proxy_for",
    "proxy_user",
    "proxy_password_command",
    "dns_listen",
    "dns_server",
];

/// Whose keys are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// `[tunnel.NAME]`.
    Tunnel,
    /// `[defaults]`.
    Defaults,
}

/// Reads `[tunnel.NAME]` or `[defaults]`, and notes all that is wrong with it.
pub(crate) fn spec(
    owner: Owner,
    title: &str,
    entries: &[Entry],
    problems: &mut Vec<Diagnostic>,
) -> Layer {
    let mut table = Table::new(title, entries, problems);
    let mut spec = Layer::default();
    if owner == Owner::Defaults {
        for key in [
            "host",
            "host_name",
            "host_command",
            "local_forward",
            "dynamic_forward",
            "description",
        ] {
            table.misplaced(key, "[tunnel.NAME]");
        }
    }
    destination(&mut table, &mut spec);
    auth::authentication(&mut table, &mut spec);
    auth::host_keys(&mut table, &mut spec);
    auth::crypto(&mut table, &mut spec);
    liveness(&mut table, &mut spec);
    forwards(&mut table, &mut spec);
    life(&mut table, &mut spec);
    for key in RESERVED_KEYS {
        table.unsupported(key);
    }
    table.finish();
    spec
}

fn destination(table: &mut Table<'_, '_>, spec: &mut Layer) {
    spec.host = table.text("host", destination::parse);
    spec.host_name = table.text("host_name", |host| {
        check_host(host).map(|()| host.to_owned())
    });
    spec.user = table.text("user", |user| check_user(user).map(|()| user.to_owned()));
    spec.port = narrow(table.integer("port", 1..=65_535));
    spec.host_command = table.argv("host_command");
    spec.ssh_config = table.proved("ssh_config", |node| match &node.value {
        Value::String(path) if !matches!(path.as_str(), "yes" | "no" | "true" | "false") => {
            string(node)?;
            Ok(SshConfig::File(path.clone()))
        }
        Value::Bool(_) | Value::String(_) => Ok(if boolean(node)? {
            SshConfig::Yes
        } else {
            SshConfig::No
        }),
        _ => Err(expected("true, false or a path", node)),
    });
    spec.address_family = choice(
        table,
        "address_family",
        &[
            ("any", AddressFamily::Any),
            ("inet", AddressFamily::Inet),
            ("inet6", AddressFamily::Inet6),
        ],
    );
    spec.bind_address = table.text("bind_address", |text| {
        check_host(text).map(|()| text.to_owned())
    });
    spec.bind_interface = table.text("bind_interface", |text| {
        check_host(text).map(|()| text.to_owned())
    });
    spec.connect_timeout = table.duration("connect_timeout", SECOND..=DAY);
    let jump = table.proved("proxy_jump", jump);
    let command = table.text("proxy_command", |text| {
        Ok((!text.eq_ignore_ascii_case("none")).then(|| text.to_owned()))
    });
    if let (Some(_), Some(command)) = (&jump, &command) {
        table.problem(
            Diagnostic::new(
                command.at,
                "proxy_command: proxy_jump stands in the same table",
            )
            .help("keep one of the two"),
        );
    }
    let host = spec.host.as_ref().map(|host| &host.value);
    let named_user = host.is_some_and(|host| host.user.is_some());
    let named_port = host.is_some_and(|host| host.port.is_some());
    if let Some(user) = spec.user.as_ref().filter(|_| named_user) {
        let problem = Diagnostic::new(user.at, "user: host names a user already");
        table.problem(problem.help("keep one of the two"));
    }
    if let Some(port) = spec.port.as_ref().filter(|_| named_port) {
        let problem = Diagnostic::new(port.at, "port: host names a port already");
        table.problem(problem.help("keep one of the two"));
    }
    spec.proxy_jump = jump;
    spec.proxy_command = command;
}

fn jump(node: &Node) -> Result<Jump, ValueError> {
    let items = match &node.value {
        Value::Array(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    };
    let mut hops = Vec::new();
    for item in items {
        for hop in string(item)
            .map_err(|wrong| wrong.at(item.at))?
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
                        "\"tunnel:NAME\" stands alone, not in a chain".to_owned(),
                    )
                    .help("give the chain to the tunnel NAME"));
                }
                return Ok(Jump::Tunnel(name.to_owned()));
            }
            let hop =
                destination::parse(hop).map_err(|error| ValueError::from(error).at(item.at))?;
            hops.push(hop);
        }
    }
    match hops.len() {
        0 => Err("the chain is empty".to_owned().into()),
        1..=8 => Ok(Jump::Hops(hops)),
        more => Err(format!("the chain has {more} hops; 8 are the most").into()),
    }
}

fn liveness(table: &mut Table<'_, '_>, spec: &mut Layer) {
    spec.server_alive_interval = table.duration("server_alive_interval", Duration::ZERO..=YEAR);
    spec.server_alive_count_max = narrow(table.integer("server_alive_count_max", 1..=1_000));
    spec.tcp_keep_alive = table.boolean("tcp_keep_alive");
    let Some(node) = table.node("backoff") else {
        return;
    };
    let Value::Table(entries) = &node.value else {
        let wrong = expected("{ initial = \"1s\", max = \"60s\" }", node);
        table.refuse("backoff", node.at, wrong);
        return;
    };
    let mut inner = table.inner("backoff", entries);
    let initial = inner.proved("initial", |node| short_time(node, &(SHORTEST..=DAY)));
    let max = inner.proved("max", |node| short_time(node, &(SHORTEST..=DAY)));
    if let (Some(initial), Some(max)) = (&initial, &max)
        && initial.value > max.value
    {
        inner.problem(
            Diagnostic::new(initial.at, "backoff: initial is longer than max")
                .help("initial is the first delay, max the longest"),
        );
    }
    inner.finish();
    spec.backoff_initial = initial;
    spec.backoff_max = max;
}

fn forwards(table: &mut Table<'_, '_>, spec: &mut Layer) {
    spec.gateway_ports = table.boolean("gateway_ports");
    spec.local_forward = forward_list(table, "local_forward", forward::Kind::Local);
    spec.remote_forward = forward_list(table, "remote_forward", forward::Kind::Remote);
    spec.dynamic_forward = forward_list(table, "dynamic_forward", forward::Kind::Dynamic);
    spec.clear_all_forwardings = table.boolean("clear_all_forwardings");
    spec.exit_on_forward_failure = table.boolean("exit_on_forward_failure");
    spec.stream_local_bind_unlink = table.boolean("stream_local_bind_unlink");
    spec.stream_local_bind_mask =
        table.proved("stream_local_bind_mask", |node| match &node.value {
            Value::String(text) => match u32::from_str_radix(text, 8) {
                Ok(mask) if mask <= 0o777 => Ok(mask),
                _ => {
                    Err(format!("expected an octal mask from 000 to 777, found \"{text}\"").into())
                }
            },
            _ => Ok(u32::try_from(integer(node, &(0..=0o777))?).unwrap_or_default()),
        });
    spec.permit_remote_open = table
        .list("permit_remote_open", |node| {
            values::permit_remote_open(string(node)?).map_err(ValueError::from)
        })
        .map(flat);
}

fn forward_list(
    table: &mut Table<'_, '_>,
    key: &'static str,
    kind: forward::Kind,
) -> Option<At<Vec<At<Forward>>>> {
    table.list(key, |node| {
        let text = match &node.value {
            Value::Integer(port) if kind != forward::Kind::Local => port.to_string(),
            Value::String(text) => text.clone(),
            _ => return Err(expected("a forward as a string", node).help(kind.grammar())),
        };
        forward::parse(kind, &text)
            .map_err(|error| ValueError::from(error.to_string()).help(kind.grammar()))
    })
}

fn life(table: &mut Table<'_, '_>, spec: &mut Layer) {
    spec.autostart = table.boolean("autostart");
    spec.hold = table.duration("hold", Duration::ZERO..=DAY);
    spec.on_needs_input = table.argv("on_needs_input");
    spec.description = table.text("description", |text| match text.len() {
        0..=1_024 => Ok(text.to_owned()),
        _ => Err("is longer than 1024 bytes".into()),
    });
    spec.tags = table
        .list("tags", |node| match string(node)? {
            tag if destination::check_name(tag).is_ok() => Ok(tag.to_owned()),
            _ => Err("a tag holds letters, digits, `.`, `_` and `-`, at most 64"
                .to_owned()
                .into()),
        })
        .map(|list| At {
            value: list.value.into_iter().map(|tag| tag.value).collect(),
            at: list.at,
        });
}

fn choice<T: Copy>(
    table: &mut Table<'_, '_>,
    key: &'static str,
    words: &[(&str, T)],
) -> Option<At<T>> {
    table.text(key, |text| {
        words
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, value)| *value)
            .ok_or_else(|| {
                let known: Vec<String> = words
                    .iter()
                    .map(|(word, _)| format!("\"{word}\""))
                    .collect();
                format!("expected {}, found \"{text}\"", known.join(" or "))
            })
    })
}

/// `max_concurrent_connects`'s range.
pub(crate) const CONNECTS: RangeInclusive<i64> = 1..=1_024;
