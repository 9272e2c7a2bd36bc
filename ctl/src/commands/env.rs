//! `tunnelctl env`: prints the lines that make a shell's programs use the tunnel's proxy.

use super::bring_up::proxy_address;
use super::proxy_env::{Extras, Login, line, variables};
use super::resolve::no_proxy;
use crate::cli::EnvArgs;
use crate::daemon::Context;
use crate::exit::{Exit, NO_TUNNEL};
use crate::output::line::Line;

/// Prints one line per variable; the tunnel may be up or not, as its listener holds connections.
pub(crate) async fn run(context: &Context, args: &EnvArgs) -> Result<(), Exit> {
    let mut client = context.connect().await?;
    let tunnels = super::tunnels(&mut client).await?;
    let status = tunnels.into_iter().find(|tunnel| tunnel.name == args.name);
    let status = status.ok_or_else(|| {
        Exit::new(NO_TUNNEL, format!("there is no tunnel {}", args.name))
            .hint("list the tunnels: tunnelctl status")
    })?;
    let address = proxy_address(&status).ok_or_else(|| no_proxy(&args.name))?;
    let extras = Extras {
        java: args.java,
        git: args.git,
    };
    let login = status.proxy_user.as_deref().map(|user| {
        // Printed lines end up in terminals, histories and files.
        context.ui.info(format!(
            "the proxy of {} requires a password, which is not printed: put what proxy_user_password_command prints \
             behind the user name in the URLs, or run: tunnelctl exec {0} --with-proxy-password -- PROGRAM",
            args.name
        ));
        Login {
            user,
            password: None,
        }
    });
    let variables = variables(&args.name, &address, login, extras);
    if context.ui.json {
        let object: serde_json::Map<String, serde_json::Value> = variables
            .into_iter()
            .map(|(name, value)| (name, value.into()))
            .collect();
        return context.ui.json(&object);
    }
    let lines: Vec<Line> = variables
        .iter()
        .map(|(name, value)| Line::from(line(args.shell, name, value)))
        .collect();
    context.ui.data(&lines)
}
