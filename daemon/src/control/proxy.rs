//! The method `proxy.password`: what a program must send to the proxy of a tunnel with `proxy_user`.

use std::time::Duration;

use secrecy::ExposeSecret as _;
use serde_json::Value;
use tokio::time::timeout;
use tunneld_platform::subprocess;
use tunneld_proto::error::{ErrorKind, RpcError};
use tunneld_proto::message::{ProxyOf, ProxyPassword};

use super::context::ControlContext;
use super::reading::{READ_LIMIT, read_changes};
use super::result::json;

/// How long `proxy.password` waits for its command, such as until a person has unlocked the keyring.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs the tunnel's proxy_user_password_command. The result has the password; only a client of the user's own calls this.
pub(super) async fn password(context: &ControlContext, call: ProxyOf) -> Result<Value, RpcError> {
    let name = call.name;
    read_changes(context, std::slice::from_ref(&name), READ_LIMIT).await?;
    let Some(login) = context.supervisor.proxy_login(&name)? else {
        let message = format!("the proxy of the tunnel {name} has no password");
        return Err(RpcError::new(ErrorKind::InvalidParams, message)
            .hint("set proxy_user and proxy_user_password_command"));
    };
    let read = timeout(
        COMMAND_TIMEOUT,
        subprocess::first_line(&login.password_command),
    );
    let read = read
        .await
        .unwrap_or_else(|_| Err("it has not ended within a minute".to_owned()));
    let password = read.map_err(|why| {
        RpcError::new(
            ErrorKind::Internal,
            format!("reading the proxy's password failed: proxy_user_password_command: {why}"),
        )
        .hint("run the command by hand and correct it")
    })?;
    json(&ProxyPassword {
        user: login.user,
        password: password.expose_secret().to_owned(),
    })
}
