//! The variables by which programs find a proxy, and how the shells write them.

use std::fmt::Write as _;

use clap::ValueEnum;
use zeroize::Zeroizing;

/// Destinations that programs must not ask the proxy for: they are on this machine.
const NO_PROXY: &str = "localhost,127.0.0.1,::1";

/// A shell that `env` writes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Shell {
    /// sh, bash, zsh, dash, ksh
    #[default]
    Sh,
    /// fish
    Fish,
    /// PowerShell
    Powershell,
}

/// What else than the usual variables is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Extras {
    /// `JAVA_TOOL_OPTIONS`: Java prints a line on stderr when it reads it.
    pub(crate) java: bool,
    /// `GIT_SSH_COMMAND`: git over SSH through the tunnel.
    pub(crate) git: bool,
}

/// The login that a proxy with `proxy_user` requires.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Login<'a> {
    pub(crate) user: &'a str,
    /// `None` where the program is not to get it.
    pub(crate) password: Option<&'a str>,
}

impl Login<'_> {
    /// Returns what a URL has before the host, such as `alice@`.
    fn in_url(self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(encoded(self.user));
        if let Some(password) = self.password {
            text.push(':');
            text.push_str(&Zeroizing::new(encoded(password)));
        }
        text.push('@');
        text
    }
}

/// Encodes all characters but the unreserved ones of RFC 3986 §2.3.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(3 * text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Returns the variables for the proxy at `address` (`HOST:PORT`) of the tunnel `name`, in a stable order.
///
/// Both cases of each name, because programs differ. `http` for the web variables: many programs know no SOCKS there.
pub(crate) fn variables(
    name: &str,
    address: &str,
    login: Option<Login<'_>>,
    extras: Extras,
) -> Vec<(String, String)> {
    let login = login.map(Login::in_url).unwrap_or_default();
    let http = format!("http://{}{address}", *login);
    let socks = format!("socks5h://{}{address}", *login);
    let mut variables = Vec::new();
    for (variable, value) in [
        ("http_proxy", http.as_str()),
        ("https_proxy", &http),
        ("all_proxy", &socks),
        ("no_proxy", NO_PROXY),
    ] {
        variables.push((variable.to_owned(), value.to_owned()));
        variables.push((variable.to_ascii_uppercase(), value.to_owned()));
    }
    // Node.js reads the variables above from version 22.21 and 24 on, if this one is set.
    variables.push(("NODE_USE_ENV_PROXY".to_owned(), "1".to_owned()));
    if extras.java
        && let Some((host, port)) = address.rsplit_once(':')
    {
        let host = host.trim_matches(['[', ']']);
        let options: Vec<String> = ["http", "https"]
            .iter()
            .map(|scheme| format!("-D{scheme}.proxyHost={host} -D{scheme}.proxyPort={port}"))
            .collect();
        let value = format!(
            "{} -Dhttp.nonProxyHosts=localhost|127.*|[::1]",
            options.join(" ")
        );
        variables.push(("JAVA_TOOL_OPTIONS".to_owned(), value));
    }
    if extras.git {
        let value = format!("ssh -o ProxyCommand='tunnelctl connect {name} %h:%p'");
        variables.push(("GIT_SSH_COMMAND".to_owned(), value));
    }
    variables
}

/// Returns the line that sets and exports a variable.
pub(crate) fn line(shell: Shell, name: &str, value: &str) -> String {
    match shell {
        Shell::Sh => format!("export {name}='{}'", value.replace('\'', r"'\''")),
        Shell::Fish => {
            let value = value.replace('\\', r"\\").replace('\'', r"\'");
            format!("set -gx {name} '{value}'")
        }
        Shell::Powershell => format!("$env:{name} = '{}'", value.replace('\'', "''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_for_each_shell() {
        let value = r"it's a \ $HOME";
        for (shell, expected) in [
            (Shell::Sh, r"export V='it'\''s a \ $HOME'"),
            (Shell::Fish, r"set -gx V 'it\'s a \\ $HOME'"),
            (Shell::Powershell, r"$env:V = 'it''s a \ $HOME'"),
        ] {
            assert_eq!(line(shell, "V", value), expected);
        }
    }

    #[test]
    fn a_login_is_encoded_into_the_urls() {
        let value = |password| {
            let login = Login {
                user: "a@b",
                password,
            };
            let all = variables("emr", "127.0.0.1:1", Some(login), Extras::default());
            let (_, value) = all
                .into_iter()
                .find(|(name, _)| name == "all_proxy")
                .unwrap();
            value
        };
        assert_eq!(value(None), "socks5h://a%40b@127.0.0.1:1");
        assert_eq!(
            value(Some("x y:/ü'$")),
            "socks5h://a%40b:x%20y%3A%2F%C3%BC%27%24@127.0.0.1:1"
        );
    }

    #[test]
    fn both_cases_are_set_and_extras_only_if_wanted() {
        let names = |extras| -> Vec<String> {
            let all = variables("emr", "127.0.0.1:8157", None, extras);
            all.into_iter().map(|(name, _)| name).collect()
        };
        let usual = names(Extras::default());
        for name in ["http_proxy", "HTTPS_PROXY", "all_proxy", "NO_PROXY"] {
            assert!(usual.iter().any(|has| has == name), "{name}");
        }
        let extras = Extras {
            java: true,
            git: true,
        };
        let all = names(extras);
        assert_eq!(all.len(), usual.len() + 2, "{all:?}");
        let java = variables("emr", "[::1]:8157", None, extras);
        let java = java.iter().find(|(name, _)| name == "JAVA_TOOL_OPTIONS");
        assert!(
            java.unwrap()
                .1
                .contains("-Dhttps.proxyHost=::1 -Dhttps.proxyPort=8157")
        );
    }
}
