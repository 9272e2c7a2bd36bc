//! Resolves the keys of the proxy that a dynamic forward is: what browsers use it for, and the login of its clients.

use crate::addr::ListenAddr;
use crate::diagnostic::Diagnostic;
use crate::layer::Layer;
use crate::model::{Forward, ProxyLogin};
use crate::proxy_for::ProxyPattern;
use crate::resolve::expand::Expander;

/// Returns the patterns of `proxy_for`, which need a dynamic forward on a TCP port to lead to.
pub(super) fn proxy_for(
    expander: &mut Expander<'_>,
    layer: &Layer,
    forwards: &[Forward],
) -> Vec<ProxyPattern> {
    let Some(patterns) = &layer.proxy_for else {
        return Vec::new();
    };
    let is_proxy = |forward: &Forward| {
        matches!(
            forward,
            Forward::Dynamic {
                listen: ListenAddr::Tcp { .. }
            }
        )
    };
    if !patterns.value.is_empty() && !forwards.iter().any(is_proxy) {
        let message = "proxy_for needs a dynamic_forward on a TCP port";
        let diagnostic = Diagnostic::new(patterns.span, message)
            .help("set dynamic_forward, for example to 8157");
        expander.diagnostics.push(diagnostic);
    }
    patterns.value.clone()
}

/// Returns the login of the proxy, which needs both of its keys and a dynamic forward to protect.
pub(super) fn proxy_login(
    expander: &mut Expander<'_>,
    layer: &Layer,
    forwards: &[Forward],
) -> Option<ProxyLogin> {
    let (user, command) = (&layer.proxy_user, &layer.proxy_user_password_command);
    let span = match (user, command) {
        (None, None) => return None,
        (Some(user), _) => user.span,
        (None, Some(command)) => command.span,
    };
    let is_dynamic = |forward: &Forward| matches!(forward, Forward::Dynamic { .. });
    // A login that protects nothing, or half of one, is a mistake that would leave a proxy open.
    let (message, help) = match (user, command) {
        (Some(user), Some(command)) if forwards.iter().any(is_dynamic) => {
            return Some(ProxyLogin {
                user: user.value.clone(),
                password_command: command.value.clone(),
            });
        }
        (Some(_), None) => (
            "proxy_user needs proxy_user_password_command",
            "set proxy_user_password_command, for example to [\"pass\", \"show\", \"proxy\"]",
        ),
        (None, _) => (
            "proxy_user_password_command needs proxy_user",
            "set proxy_user to the user name that clients send",
        ),
        (Some(_), Some(_)) => (
            "proxy_user needs a dynamic_forward",
            "set dynamic_forward, for example to 8157",
        ),
    };
    let diagnostic = Diagnostic::new(span, message).help(help);
    expander.diagnostics.push(diagnostic);
    None
}
