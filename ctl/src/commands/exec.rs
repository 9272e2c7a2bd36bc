//! `tunnelctl exec`: runs a program with the tunnel up and the proxy variables set.

use std::ffi::OsString;
use std::process::ExitStatus;

use tokio::process::Child;
use tunneld_proto::client::Client;
use tunneld_proto::message::{ProxyOf, ProxyPassword, Remove, method};
use zeroize::Zeroizing;

use super::bring_up::{UpTunnel, bring_up, proxy_address, take_down};
use super::proxy_env::{Extras, Login, variables};
use crate::cli::Exec;
use crate::daemon::Context;
use crate::exit::{Exit, FAILED};
use crate::signals;

/// The tunnel did not come up; the program was not started (as env(1) and timeout(1) do).
const TUNNEL_FAILED: u8 = 125;
/// The program was found and cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// The program was not found.
const NOT_FOUND: u8 = 127;

/// Brings the tunnel up, runs the program, and stops the tunnel again if it was down before. The exit code is the
/// program's own; 128 + N if signal N ended it.
pub(crate) async fn run(context: &Context, args: &Exec) -> Result<(), Exit> {
    let mut client = context.connect_or_start().await?;
    let added = super::up::add_described(context, &mut client, &args.ad_hoc, &args.names).await?;
    let name = match (&added, args.names.as_slice()) {
        (Some(name), _) => name.clone(),
        (None, [name]) => name.clone(),
        (None, _) => {
            return Err(Exit::usage("exec needs the name of one tunnel")
                .hint("for example: tunnelctl exec emr -- curl http://master.internal:8088"));
        }
    };
    let ended = match bring_up(context, &mut client, &name).await {
        Ok(tunnel) => {
            let ended = match proxy_variables(context, &mut client, args, &tunnel).await {
                Ok(variables) => run_program(variables, &args.command).await,
                Err(exit) => Err(exit),
            };
            if tunnel.was_down && added.is_none() {
                take_down(context, &mut client, &name).await;
            }
            ended
        }
        Err(exit) => Err(Exit {
            code: TUNNEL_FAILED,
            ..exit
        }),
    };
    if added.is_some() {
        remove(&mut client, &name).await;
    }
    match ended?.code() {
        Some(0) => Ok(()),
        Some(code) => Err(Exit::silent(u8::try_from(code).unwrap_or(FAILED))),
        None => Err(Exit::silent(FAILED)),
    }
}

/// Removes the ad-hoc tunnel. If that fails, the daemon has ended, and the tunnel with it.
async fn remove(client: &mut Client, name: &str) {
    let remove = Remove {
        name: name.to_owned(),
    };
    let _: Result<serde_json::Value, _> = client.call(method::REMOVE, &remove).await;
}

/// Returns the proxy variables of the tunnel; none without a dynamic forward. The password of a proxy that requires one is
/// in them only if the user asked for that.
async fn proxy_variables(
    context: &Context,
    client: &mut Client,
    args: &Exec,
    tunnel: &UpTunnel,
) -> Result<Vec<(String, String)>, Exit> {
    let name = &tunnel.status.name;
    let Some(address) = proxy_address(&tunnel.status) else {
        return Ok(Vec::new());
    };
    let Some(user) = &tunnel.status.proxy_user else {
        return Ok(variables(name, &address, None, Extras::default()));
    };
    let mut password = None;
    if args.with_proxy_password {
        let params = ProxyOf { name: name.clone() };
        let login: ProxyPassword =
            client
                .call(method::PROXY_PASSWORD, &params)
                .await
                .map_err(|error| Exit {
                    code: TUNNEL_FAILED,
                    ..error.into()
                })?;
        password = Some(Zeroizing::new(login.password));
    } else {
        context.ui.info(format!(
            "the proxy of {name} requires a password, which the program does not get; to give it: \
             tunnelctl exec {name} --with-proxy-password -- PROGRAM"
        ));
    }
    let login = Login {
        user,
        password: password.as_ref().map(|password| password.as_str()),
    };
    Ok(variables(name, &address, Some(login), Extras::default()))
}

/// Runs the program with these variables added to its environment.
async fn run_program(
    variables: Vec<(String, String)>,
    argv: &[OsString],
) -> Result<ProgramEnd, Exit> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err(Exit::usage("exec needs a program behind --"));
    };
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).envs(variables);
    let mut child = command.spawn().map_err(|err| {
        let code = if err.kind() == std::io::ErrorKind::NotFound {
            NOT_FOUND
        } else {
            NOT_EXECUTABLE
        };
        Exit::new(code, format!("running {} failed", program.display())).caused_by(&err)
    })?;
    let status = wait(&mut child).await?;
    Ok(ProgramEnd(status))
}

/// How the program ended.
struct ProgramEnd(ExitStatus);

impl ProgramEnd {
    /// The exit code as shells give it: 128 + N after signal N.
    fn code(&self) -> Option<i32> {
        #[cfg(unix)]
        {
            use std::os::unix::process::ExitStatusExt as _;
            self.0.code().or(self.0.signal().map(|signal| 128 + signal))
        }
        #[cfg(not(unix))]
        self.0.code()
    }
}

/// Waits for the program and passes signals on to it.
async fn wait(child: &mut Child) -> Result<ExitStatus, Exit> {
    let mut passed_on = signals::take_over()?;
    loop {
        tokio::select! {
            status = child.wait() => return Ok(status?),
            signal = passed_on.next() => signals::send(child, signal),
        }
    }
}
