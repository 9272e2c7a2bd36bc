//! What each call does: parameters in, supervisor, configuration or log, result out.

use std::sync::atomic::Ordering;

use secrecy::SecretString;
use serde_json::Value;
use tunneld_proto::error::{ErrorKind, RpcError};
use tunneld_proto::message::{
    Add, Added, Answer, Cancel, Connect, DaemonStatus, Names, Prompts, Remove, SetLevel,
    StatusParams, Tunnels, method,
};
use tunneld_proto::status::TunnelStatus;
use tunneld_proto::version::VERSION;

use super::Context;
use super::request::params;
use super::wait::{self, Goal};
use crate::session::{Channel, OpenError};
use tunneld_config::model::Via;

/// Whether a method may be called while the daemon stops.
pub(super) fn is_harmless(name: &str) -> bool {
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

/// The answer to a command that comes too late.
pub(super) fn stopping() -> RpcError {
    RpcError::new(ErrorKind::Stopping, "the daemon is stopping")
        .hint("start it again and repeat the command")
}

/// Carries out one call.
pub(super) async fn call(context: &Context, name: &str, given: Value) -> Result<Value, RpcError> {
    if context.stopping.is_cancelled() && !is_harmless(name) {
        return Err(stopping());
    }
    match name {
        method::UP => up(context, params(name, given)?, Goal::Up).await,
        method::RESTART => up(context, params(name, given)?, Goal::Anew).await,
        method::DOWN => down(context, params(name, given)?).await,
        method::ADD => add(context, params(name, given)?).await,
        method::REMOVE => remove(context, params(name, given)?).await,
        method::STATUS => {
            let wanted: StatusParams = params(name, given)?;
            json(&statuses(context, &wanted.names)?)
        }
        method::PROMPT_LIST => json(&Prompts {
            prompts: context.supervisor.prompts(),
        }),
        method::PROMPT_ANSWER => answer(context, params(name, given)?).await,
        method::PROMPT_CANCEL => {
            let cancel: Cancel = params(name, given)?;
            context.supervisor.cancel(cancel.id).await?;
            Ok(nothing())
        }
        method::RELOAD => json(&context.reloader.reload().await?),
        method::LOG_SET_LEVEL => set_level(context, &params(name, given)?),
        method::DAEMON_STATUS => json(&daemon_status(context)),
        _ => Err(unknown(name)),
    }
}

fn nothing() -> Value {
    Value::Object(serde_json::Map::new())
}

fn unknown(name: &str) -> RpcError {
    let message = format!("there is no method `{}`", tunneld_proto::text::escape(name));
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
        method::SHUTDOWN,
        method::SUBSCRIBE,
    ];
    RpcError::new(ErrorKind::UnknownMethod, message)
        .hint(format!("tunneld {VERSION} knows: {}", known.join(", ")))
}

async fn up(context: &Context, call: Names, goal: Goal) -> Result<Value, RpcError> {
    let Names {
        names,
        wait,
        timeout_ms,
    } = call;
    let supervisor = &context.supervisor;
    let command = async {
        match goal {
            Goal::Anew => supervisor.restart(&names).await,
            Goal::Up | Goal::Down => supervisor.up(&names).await,
        }
    };
    if wait {
        wait::until(supervisor, &names, goal, timeout_ms, command).await?;
    } else {
        command.await?;
    }
    told(context, &names)
}

async fn down(context: &Context, call: Names) -> Result<Value, RpcError> {
    let Names {
        names,
        wait,
        timeout_ms,
    } = call;
    let supervisor = &context.supervisor;
    let command = supervisor.down(&names);
    if wait {
        wait::until(supervisor, &names, Goal::Down, timeout_ms, command).await?;
    } else {
        command.await?;
    }
    told(context, &names)
}

/// How the commanded tunnels stand; one that has gone meanwhile is left out.
fn told(context: &Context, names: &[String]) -> Result<Value, RpcError> {
    let mut tunnels = context.supervisor.statuses();
    tunnels.retain(|status| names.contains(&status.name));
    json(&Tunnels { tunnels })
}

fn statuses(context: &Context, names: &[String]) -> Result<Tunnels, RpcError> {
    let mut tunnels = context.supervisor.statuses();
    if names.is_empty() {
        return Ok(Tunnels { tunnels });
    }
    let missing: Vec<String> = names
        .iter()
        .filter(|name| !has(&tunnels, name))
        .map(|name| tunneld_proto::text::escape(name))
        .collect();
    if !missing.is_empty() {
        let message = format!("no such tunnel: {}", missing.join(", "));
        return Err(RpcError::new(ErrorKind::TunnelNotFound, message).hint("run: tunnelctl status"));
    }
    tunnels.retain(|status| names.contains(&status.name));
    Ok(Tunnels { tunnels })
}

fn has(tunnels: &[TunnelStatus], name: &str) -> bool {
    tunnels.iter().any(|status| status.name == name)
}

async fn add(context: &Context, call: Add) -> Result<Value, RpcError> {
    let Add { name, spec, save } = call;
    let tunnels = context.supervisor.statuses();
    if has(&tunnels, &name) && !save {
        let message = format!(
            "a tunnel named {} exists",
            tunneld_proto::text::escape(&name)
        );
        return Err(RpcError::new(ErrorKind::TunnelExists, message)
            .hint("choose another name with --name, or change that one with --save"));
    }
    let reloader = &context.reloader;
    let tunnel = reloader.prove(&name, &spec).await?;
    if let Via::Tunnel(carrier) = &tunnel.route.via
        && (*carrier == name || !has(&tunnels, carrier))
    {
        let message = format!("proxy_jump: there is no other tunnel named {carrier}");
        return Err(RpcError::new(ErrorKind::Config, message).hint("run: tunnelctl status"));
    }
    let file = if save {
        let file = reloader.save(&name, &spec).await?;
        context.store.remove_ad_hoc(&name);
        Some(file)
    } else {
        context.supervisor.add(tunnel, spec).await?;
        None
    };
    json(&Added { name, file })
}

async fn remove(context: &Context, call: Remove) -> Result<Value, RpcError> {
    context.supervisor.remove(&call.name).await?;
    Ok(nothing())
}

async fn answer(context: &Context, call: Answer) -> Result<Value, RpcError> {
    let answers = call.answers.into_iter().map(SecretString::from).collect();
    context.supervisor.answer(call.id, answers).await?;
    Ok(nothing())
}

fn set_level(context: &Context, call: &SetLevel) -> Result<Value, RpcError> {
    context.log.set_filter(&call.filter).map_err(|error| {
        RpcError::new(ErrorKind::InvalidParams, format!("{error:#}"))
            .hint("a level (error, warn, info, debug, trace), or pairs such as info,tunneld=debug")
    })?;
    Ok(nothing())
}

fn daemon_status(context: &Context) -> DaemonStatus {
    DaemonStatus {
        version: VERSION.into(),
        pid: std::process::id(),
        since: context.since,
        config_dir: context.reloader.dir().display().to_string(),
        socket: context.socket.clone(),
        config_errors: context.reloader.faults(),
        log_dropped: context.log.dropped(),
        clients: context.clients.load(Ordering::Relaxed) as u64,
        notes: [context.notes.clone(), context.reloader.notes()].concat(),
    }
}

/// Opens the channel of `connect`.
pub(super) async fn connect(context: &Context, call: Connect) -> Result<Channel, RpcError> {
    if context.stopping.is_cancelled() {
        return Err(stopping());
    }
    let Connect { name, host, port } = call;
    let session = context.supervisor.session(&name)?;
    let opened = session.open_direct_tcpip(&host, port, None).await;
    opened.map_err(|error| {
        let kind = match error {
            OpenError::SessionLost(_) => ErrorKind::NotUp,
            OpenError::Refused { .. } | OpenError::Timeout(_) => ErrorKind::OpenFailed,
        };
        let target = tunneld_proto::text::escape(&host);
        RpcError::new(
            kind,
            format!("{name}: cannot open {target}:{port}: {error}"),
        )
        .hint("the far end resolves and reaches the host: try it from there")
    })
}

/// A result as the reply bears it.
pub(super) fn json(value: &impl serde::Serialize) -> Result<Value, RpcError> {
    serde_json::to_value(value).map_err(|error| {
        RpcError::new(
            ErrorKind::Internal,
            format!("the answer has no JSON form: {error}"),
        )
    })
}
