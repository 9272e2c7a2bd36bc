//! Carries out the methods that do not change the connection itself: parses the parameters, calls the supervisor, the
//! reload task or the log, and builds the result.

use std::sync::atomic::Ordering;

use secrecy::SecretString;
use serde_json::Value;
use tokio::sync::oneshot;
use tunneld_proto::error::{ErrorKind, RpcError};
use tunneld_proto::message::{
    Add, Added, Answer, Cancel, Connect, DaemonStatus, Metrics, Names, Pac, Prompts, Remove,
    SetLevel, StatusParams, Tunnels, WebOpened, method,
};
use tunneld_proto::version::VERSION;

use super::context::ControlContext;
use super::proxy;
use super::reading::{READ_LIMIT, contains, read_changes};
use super::request::params;
use super::result::{empty_object, json};
use super::wait::{self, Goal};
use crate::session::{Channel, OpenError};
use crate::web::metrics::Format;
use tunneld_config::model::Via;
use tunneld_config::save::ADDED_KEYS;

/// Returns whether a method may be called while the daemon stops: methods that only read, and `hello` and
/// `daemon.shutdown`, so that a client can watch the stop.
pub(super) fn is_allowed_while_stopping(name: &str) -> bool {
    matches!(
        name,
        method::HELLO
            | method::STATUS
            | method::PROMPT_LIST
            | method::LOG_TAIL
            | method::SUBSCRIBE
            | method::DAEMON_STATUS
            | method::SHUTDOWN
    )
}

/// Returns the error for a command that arrives after the daemon began to stop.
pub(super) fn stopping_error() -> RpcError {
    RpcError::new(ErrorKind::Stopping, "the daemon is stopping")
        .hint("start the daemon again and repeat the command")
}

/// Carries out one call and returns its result.
pub(crate) async fn call(
    context: &ControlContext,
    name: &str,
    call_params: Value,
) -> Result<Value, RpcError> {
    if context.stopping.is_cancelled() && !is_allowed_while_stopping(name) {
        return Err(stopping_error());
    }
    match name {
        method::UP => up(context, params(name, call_params)?, Goal::Up).await,
        method::RESTART => up(context, params(name, call_params)?, Goal::Fresh).await,
        method::DOWN => down(context, params(name, call_params)?).await,
        method::ADD => add(context, params(name, call_params)?).await,
        method::REMOVE => remove(context, params(name, call_params)?).await,
        method::STATUS => {
            let filter: StatusParams = params(name, call_params)?;
            read_changes(context, &filter.names, READ_LIMIT).await?;
            json(&statuses(context, &filter.names)?)
        }
        method::PROMPT_LIST => json(&Prompts {
            prompts: context.supervisor.prompts(),
        }),
        method::PROMPT_ANSWER => answer(context, params(name, call_params)?).await,
        method::PROMPT_CANCEL => {
            let cancel: Cancel = params(name, call_params)?;
            context.supervisor.cancel(cancel.id).await?;
            Ok(empty_object())
        }
        method::RELOAD => json(&context.reloader.reload().await?),
        method::LOG_SET_LEVEL => set_level(context, &params(name, call_params)?),
        method::PAC => {
            read_changes(context, &[], READ_LIMIT).await?;
            json(&Pac {
                file: context.supervisor.pac(),
            })
        }
        method::METRICS => json(&Metrics {
            text: context.sources().metrics(Format::Prometheus),
        }),
        method::WEB_OPEN => json(&open_web_page(context).await?),
        method::PROXY_PASSWORD => proxy::password(context, params(name, call_params)?).await,
        method::DAEMON_STATUS => json(&daemon_status(context)),
        _ => Err(unknown_method(name)),
    }
}

async fn open_web_page(context: &ControlContext) -> Result<WebOpened, RpcError> {
    let (reply, opened) = oneshot::channel();
    let sent = context.web.send(reply).await;
    sent.map_err(|_| stopping_error())?;
    opened.await.map_err(|_| stopping_error())?
}

fn unknown_method(name: &str) -> RpcError {
    let message = format!("unknown method `{}`", tunneld_proto::text::escape(name));
    let known = [
        method::HELLO,
        method::UP,
        method::DOWN,
        method::RESTART,
        method::ADD,
        method::REMOVE,
        method::STATUS,
        method::PROMPT_LIST,
        method::PROMPT_ANSWER,
        method::PROMPT_CANCEL,
        method::PROMPT_ATTEND,
        method::RELOAD,
        method::LOG_TAIL,
        method::LOG_SET_LEVEL,
        method::CONNECT,
        method::DAEMON_STATUS,
        method::PAC,
        method::METRICS,
        method::WEB_OPEN,
        method::PROXY_PASSWORD,
        method::SHUTDOWN,
        method::SUBSCRIBE,
    ];
    RpcError::new(ErrorKind::UnknownMethod, message)
        .hint(format!("tunneld {VERSION} has: {}", known.join(", ")))
}

/// Starts or, with [`Goal::Fresh`], restarts tunnels.
async fn up(context: &ControlContext, call: Names, goal: Goal) -> Result<Value, RpcError> {
    let Names {
        names,
        wait,
        timeout_ms,
    } = call;
    read_changes(context, &names, READ_LIMIT).await?;
    let supervisor = &context.supervisor;
    let command = async {
        match goal {
            Goal::Fresh => supervisor.restart(&names).await,
            Goal::Up | Goal::Down => supervisor.up(&names).await,
        }
    };
    if wait {
        wait::until(supervisor, &names, goal, timeout_ms, command).await?;
    } else {
        command.await?;
    }
    statuses_after(context, &names)
}

async fn down(context: &ControlContext, call: Names) -> Result<Value, RpcError> {
    let Names {
        names,
        wait,
        timeout_ms,
    } = call;
    read_changes(context, &names, READ_LIMIT).await?;
    let supervisor = &context.supervisor;
    let command = supervisor.down(&names);
    if wait {
        wait::until(supervisor, &names, Goal::Down, timeout_ms, command).await?;
    } else {
        command.await?;
    }
    statuses_after(context, &names)
}

/// Returns the statuses of the tunnels that a command named. A tunnel that was removed meanwhile is left out.
fn statuses_after(context: &ControlContext, names: &[String]) -> Result<Value, RpcError> {
    let mut tunnels = context.supervisor.statuses();
    tunnels.retain(|status| names.contains(&status.name));
    json(&Tunnels { tunnels })
}

fn statuses(context: &ControlContext, names: &[String]) -> Result<Tunnels, RpcError> {
    let mut tunnels = context.supervisor.statuses();
    if names.is_empty() {
        return Ok(Tunnels { tunnels });
    }
    let missing: Vec<String> = names
        .iter()
        .filter(|name| !contains(&tunnels, name))
        .map(|name| tunneld_proto::text::escape(name))
        .collect();
    if !missing.is_empty() {
        let message = format!("no such tunnel: {}", missing.join(", "));
        return Err(RpcError::new(ErrorKind::TunnelNotFound, message).hint("run: tunnelctl status"));
    }
    tunnels.retain(|status| names.contains(&status.name));
    Ok(Tunnels { tunnels })
}

async fn add(context: &ControlContext, call: Add) -> Result<Value, RpcError> {
    let Add { name, spec, save } = call;
    read_changes(context, &[], READ_LIMIT).await?;
    let tunnels = context.supervisor.statuses();
    let spec = if save && contains(&tunnels, &name) {
        saved_keys(context, &name, spec)
    } else {
        spec
    };
    if contains(&tunnels, &name) && !save {
        let message = format!(
            "a tunnel named {} exists already",
            tunneld_proto::text::escape(&name)
        );
        return Err(RpcError::new(ErrorKind::TunnelExists, message)
            .hint("choose another name with --name, or change the existing tunnel with --save"));
    }
    let reloader = &context.reloader;
    let tunnel = reloader.check_tunnel(&name, &spec).await?;
    // A name alone is an alias of ssh_config, whose forwards make it a tunnel. Without forwards it is rather a typing error.
    let is_name_alone = spec.as_object().is_some_and(|keys| {
        keys.len() == 1 && keys.get("host").and_then(Value::as_str) == Some(&name)
    });
    if is_name_alone && tunnel.forwards.is_empty() && !contains(&tunnels, &name) {
        let name = tunneld_proto::text::escape(&name);
        let message = format!("there is no tunnel {name}");
        return Err(
            RpcError::new(ErrorKind::TunnelNotFound, message).hint(format!(
                "to add one, say what it forwards: tunnelctl up -L 8088:localhost:80 {name}"
            )),
        );
    }
    // The configuration as a whole is checked only when it is read, so a jump tunnel that does not exist would pass.
    if let Via::Tunnel(carrier) = &tunnel.route.via
        && (*carrier == name || !contains(&tunnels, carrier))
    {
        let message = format!("proxy_jump: no other tunnel is named {carrier}");
        return Err(RpcError::new(ErrorKind::Config, message).hint("run: tunnelctl status"));
    }
    let file = if save {
        // The reload inside `save` gives the tunnel to the supervisor. An ad-hoc tunnel of the same name is a configured
        // one from then on.
        let file = reloader.save(&name, &spec).await?;
        context.state_file.remove_ad_hoc(&name);
        Some(file)
    } else {
        context.supervisor.add(tunnel, spec).await?;
        None
    };
    json(&Added { name, file })
}

/// Returns the keys to write for a tunnel that exists: those in `spec`, for an ad-hoc tunnel those that it runs with and
/// those in `spec`.
fn saved_keys(context: &ControlContext, name: &str, mut spec: Value) -> Value {
    // The destination on the command line was the tunnel's name, which is not its host.
    if let Value::Object(keys) = &mut spec
        && keys.get("host").and_then(Value::as_str) == Some(name)
    {
        keys.remove("host");
    }
    let (Some(Value::Object(mut running)), Value::Object(keys)) =
        (context.state_file.ad_hoc().remove(name), &spec)
    else {
        return spec;
    };
    let items = |value: Value| match value {
        Value::Array(items) => items,
        single => vec![single],
    };
    for (key, value) in keys {
        let value = match running.remove(key) {
            Some(before) if ADDED_KEYS.contains(&key.as_str()) => {
                let mut list = items(before);
                for item in items(value.clone()) {
                    if !list.contains(&item) {
                        list.push(item);
                    }
                }
                Value::Array(list)
            }
            _ => value.clone(),
        };
        running.insert(key.clone(), value);
    }
    Value::Object(running)
}

async fn remove(context: &ControlContext, call: Remove) -> Result<Value, RpcError> {
    context.supervisor.remove(&call.name).await?;
    Ok(empty_object())
}

async fn answer(context: &ControlContext, call: Answer) -> Result<Value, RpcError> {
    let answers = call.answers.into_iter().map(SecretString::from).collect();
    context.supervisor.answer(call.id, answers).await?;
    Ok(empty_object())
}

fn set_level(context: &ControlContext, call: &SetLevel) -> Result<Value, RpcError> {
    context.log.set_filter(&call.filter).map_err(|error| {
        RpcError::new(ErrorKind::InvalidParams, format!("{error:#}"))
            .hint("a level (error, warn, info, debug, trace), or pairs such as info,tunneld=debug")
    })?;
    Ok(empty_object())
}

fn daemon_status(context: &ControlContext) -> DaemonStatus {
    DaemonStatus {
        version: VERSION.into(),
        pid: std::process::id(),
        since: context.started_at,
        config_dir: context.reloader.dir().display().to_string(),
        socket: context.socket.clone(),
        config_errors: context.reloader.faults(),
        log_dropped: context.log.dropped(),
        clients: context.client_count.load(Ordering::Relaxed) as u64,
        notes: [context.notes.clone(), context.reloader.notes()].concat(),
    }
}

/// How many characters of a host an error repeats: the longest name of DNS.
const SHOWN_HOST_LIMIT: usize = 255;

/// Opens the direct-tcpip channel (RFC 4254 §7.2) for the method `connect`.
///
/// # Errors
/// `invalid_params` if the host cannot be one, `not_up` if the tunnel has no session and gets none within its `hold`
/// time, `open_failed` if the server refuses the channel or does not answer in time.
pub(super) async fn connect(context: &ControlContext, call: Connect) -> Result<Channel, RpcError> {
    if context.stopping.is_cancelled() {
        return Err(stopping_error());
    }
    let Connect { name, host, port } = call;
    read_changes(context, std::slice::from_ref(&name), READ_LIMIT).await?;
    let opened = loop {
        let session = context.supervisor.held_session(&name).await?;
        match session.open_direct_tcpip(&host, port, None).await {
            // The session ended meanwhile: the next one serves the client, as it would at a listener. Without this wait
            // the loop would spin on the ended one.
            Err(OpenError::SessionLost(_)) => drop(session.closed().await),
            opened => break opened,
        }
    };
    opened.map_err(|error| {
        let kind = match error {
            OpenError::SessionLost(_) => ErrorKind::NotUp,
            OpenError::InvalidHost => ErrorKind::InvalidParams,
            OpenError::Refused { .. } | OpenError::Timeout(_) => ErrorKind::OpenFailed,
        };
        // The reply must not repeat a host that no name can be.
        let shown: String = host.chars().take(SHOWN_HOST_LIMIT).collect();
        let target = tunneld_proto::text::escape(&shown);
        RpcError::new(
            kind,
            format!("{name}: cannot open {target}:{port}: {error}"),
        )
        .hint("the server resolves the name and makes the connection: try it from there")
    })
}
