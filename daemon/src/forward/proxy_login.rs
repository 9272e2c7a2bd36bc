//! The login of a dynamic forward with `proxy_user`: compares what clients send with it.

use secrecy::ExposeSecret as _;
use tunneld_config::model::ProxyLogin;

use super::context::ForwardContext;
use super::forward_state::ForwardCell;
use super::proxy_password::Outcome;
use super::ssh_session::SshSession;
use crate::dynamic::ClientLogin;

/// The result of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoginResult {
    Accepted,
    /// The user name or the password is wrong.
    Wrong,
    /// The password to compare with cannot be read.
    Unavailable,
}

/// Checks the logins of one forward's clients, and records the refused ones for the status.
pub(super) struct LoginCheck<'a, S: SshSession> {
    context: &'a ForwardContext<S>,
    cell: &'a ForwardCell,
    login: ProxyLogin,
}

impl<'a, S: SshSession> LoginCheck<'a, S> {
    /// Returns the check for clients of `cell`; `None` if they need no login.
    pub(super) fn of(context: &'a ForwardContext<S>, cell: &'a ForwardCell) -> Option<Self> {
        let login = context.options.borrow().forwarding.proxy_login.clone()?;
        Some(Self {
            context,
            cell,
            login,
        })
    }

    /// Compares what a client sent with the right login.
    pub(super) async fn check(&self, sent: &ClientLogin) -> LoginResult {
        let command = &self.login.password_command;
        // Before the user name is looked at, so that the time says nothing about it.
        match self
            .context
            .proxy_password
            .read(&self.context.tunnel, command, |run| self.context.spawn(run))
            .await
        {
            Outcome::Password(password) => {
                if sent.is(&self.login.user, password.expose_secret()) {
                    return LoginResult::Accepted;
                }
                self.refused("a client sent a wrong user name or password (proxy_user)");
                LoginResult::Wrong
            }
            Outcome::Failed { why, .. } => {
                self.cell
                    .record_refusal(None, &format!("proxy_user_password_command: {why}"));
                LoginResult::Unavailable
            }
        }
    }

    /// Records a SOCKS client that cannot log in or does not.
    pub(super) fn missing(&self) {
        self.refused("a SOCKS client sent no login; proxy_user is set, so use SOCKS5 with its user name and password");
    }

    fn refused(&self, why: &str) {
        self.cell.record_refusal(None, why);
        let listen = self.cell.listen();
        self.context
            .warn_throttled(&format!("a login to the proxy {listen} is refused: {why}"));
    }
}
