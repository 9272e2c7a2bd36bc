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

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use crate::load::tests::{Dir, now};

    #[tokio::test]
    async fn half_a_proxy_login_is_an_error() {
        let command = "proxy_user_password_command = [\"x\"]\n";
        for (lines, message) in [
            (
                "dynamic_forward = 1\nproxy_user = \"a\"\n".to_owned(),
                "proxy_user needs proxy_user_password_command",
            ),
            (
                format!("dynamic_forward = 1\n{command}"),
                "proxy_user_password_command needs proxy_user",
            ),
            (
                format!("local_forward = \"1 h:1\"\nproxy_user = \"a\"\n{command}"),
                "proxy_user needs a dynamic_forward",
            ),
            (
                format!("dynamic_forward = 1\nproxy_user = \"a:b\"\n{command}"),
                "proxy_user: a user name of a proxy has no `:`",
            ),
        ] {
            let dir = Dir::new();
            dir.write(
                "t.toml",
                format!("[tunnel.t]\nhost = \"h\"\nssh_config = false\n{lines}"),
            );
            let loaded = dir.loader().load(now()).await;
            let messages: Vec<&str> = loaded.faults.iter().map(|fault| &*fault.message).collect();
            assert!(
                messages.len() == 1 && messages[0].contains(message),
                "{lines}: {messages:?}"
            );
            assert!(loaded.faults[0].line.is_some(), "{lines}");
        }
    }

    #[tokio::test]
    async fn jump_hosts_have_no_proxy_login() {
        let text = "[defaults]\nssh_config = false\nproxy_user = \"a\"\nproxy_user_password_command = [\"x\"]\n\
                    [tunnel.t]\ndynamic_forward = 1\nproxy_jump = \"hop\"\n";
        let dir = Dir::new();
        dir.write("t.toml", text);
        let loaded = dir.loader().load(now()).await;
        assert_eq!(loaded.faults, []);
        assert!(loaded.tunnels[0].forwarding.proxy_login.is_some());
    }
}
