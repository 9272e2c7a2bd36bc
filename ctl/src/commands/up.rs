//! `tunnelctl up`: starts tunnels, or adds an ad-hoc tunnel and starts it. Starts the daemon if none runs.

use std::time::Duration;

use jiff::Timestamp;
use tunneld_proto::client::Client;
use tunneld_proto::message::{Add, Added, method};

use super::mirror::Mirror;
use super::resolve::{check_selection, resolve_names};
use super::wait::{self, Command};
use crate::adhoc::AdHocArgs;
use crate::cli::Up;
use crate::daemon::Context;
use crate::exit::{Exit, NO_TUNNEL};
use crate::output::line::{Line, Style};
use crate::select::{is_pattern, require_selection};

/// How long the daemon may take to check a new tunnel: it runs `ssh -G` for every host on the way.
const ADD_TIMEOUT: Duration = Duration::from_secs(60);

/// Starts the selected tunnels. Without `--no-wait` it returns when each is up or idle, has failed (exit 1), or the
/// limit has passed (exit 6).
pub(crate) async fn run(context: &Context, up: &Up) -> Result<(), Exit> {
    // Checked before a daemon is started: wrong usage must have no effect.
    if up.ad_hoc.is_given() && (up.selection.all || !up.selection.tag.is_empty()) {
        return Err(Exit::usage(
            "--all and --tag select existing tunnels, but ssh's flags add a new one",
        )
        .hint("use one or the other"));
    }
    let add = ad_hoc_tunnel(context, &up.ad_hoc, &up.selection.names)?;
    if add.is_none() {
        require_selection(&up.selection)?;
    }
    let mut client = context.connect_or_start().await?;
    let mirror = Mirror::subscribe(&mut client).await?;
    let begun = Timestamp::now();
    let names = match add {
        Some(add) => vec![add_tunnel(context, &mut client, &add).await?],
        None => match resolve_names(&mut client, &mirror.all(), &up.selection).await {
            Err(exit) if exit.code == NO_TUNNEL => {
                vec![add_alias(context, &mut client, &up.selection.names, exit).await?]
            }
            names => names?,
        },
    };
    if names.is_empty() {
        context.ui.info(
            "no tunnel is configured; add one with: tunnelctl up -L 8088:localhost:80 user@host",
        );
        return check_selection(context, &mut client, &up.selection, Ok(())).await;
    }
    let command = Command {
        prints_result: true,
        method: method::UP,
        fresh: false,
        names,
        limit: up.wait.limit(),
        begun,
    };
    let outcome = wait::run(context, &mut client, mirror, command).await;
    check_selection(context, &mut client, &up.selection, outcome).await
}

/// Adds the tunnel that ssh's flags describe and returns its name. `None` if there are no such flags.
///
/// # Errors
/// The flags describe no valid tunnel, or the daemon refuses it.
pub(super) async fn add_described(
    context: &Context,
    client: &mut Client,
    ad_hoc: &AdHocArgs,
    names: &[String],
) -> Result<Option<String>, Exit> {
    match ad_hoc_tunnel(context, ad_hoc, names)? {
        Some(add) => add_tunnel(context, client, &add).await.map(Some),
        None => Ok(None),
    }
}

/// Returns the tunnel that ssh's flags describe; `None` if there are none.
fn ad_hoc_tunnel(
    context: &Context,
    ad_hoc: &AdHocArgs,
    names: &[String],
) -> Result<Option<Add>, Exit> {
    if !ad_hoc.is_given() {
        return Ok(None);
    }
    let (add, notes) = ad_hoc.to_add(names, context.env.cwd.as_deref())?;
    for note in notes {
        context
            .ui
            .info(Line::of(Style::Warn, "note").and(": ").and(note));
    }
    Ok(Some(add))
}

async fn add_tunnel(context: &Context, client: &mut Client, add: &Add) -> Result<String, Exit> {
    let added: Added = client.call_within(method::ADD, add, ADD_TIMEOUT).await?;
    if let Some(file) = added.file {
        context.ui.info(format!("saved {} to {file}", added.name));
    }
    Ok(added.name)
}

/// Adds the only name on the command line as an ad-hoc tunnel if ssh_config has an alias of that name with forwards.
///
/// # Errors
/// `missing`, the error for the unknown name, in every other case.
async fn add_alias(
    context: &Context,
    client: &mut Client,
    names: &[String],
    missing: Exit,
) -> Result<String, Exit> {
    let [name] = names else { return Err(missing) };
    if is_pattern(name) || name.contains(['@', ':', '/']) {
        return Err(missing);
    }
    let add = Add {
        name: name.clone(),
        spec: serde_json::json!({"host": name}),
        save: false,
    };
    match client
        .call_within::<Added>(method::ADD, &add, ADD_TIMEOUT)
        .await
    {
        Ok(added) => {
            context.ui.info(format!(
                "{name} is a host of ssh_config; started with its forwards, as an ad-hoc tunnel"
            ));
            Ok(added.name)
        }
        Err(_) => Err(missing),
    }
}
