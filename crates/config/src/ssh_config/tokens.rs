//! Expands `%`-tokens, `${NAME}` and `~` (ssh_config(5), TOKENS) in one pass: the value of a token is never expanded
//! again.

use std::path::PathBuf;

use crate::env::Env;

/// The kinds of keywords, by the tokens that they accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keyword {
    /// HostName, which knows only `%%` and `%h`, the host as it was written.
    HostName,
    /// ProxyCommand and ProxyJump: `%% %h %n %p %r`.
    Proxy,
    /// IdentityFile, CertificateFile, IdentityAgent, UserKnownHostsFile, RevokedHostKeys, LocalForward and
    /// RemoteForward: `%% %C %d %h %i %j %k %L %l %n %p %r %u`, and `${NAME}`.
    Path,
    /// KnownHostsCommand: those of a path, and `%f %H %I %K %t`.
    KnownHostsCommand,
}

/// The values of the tokens for one destination.
#[derive(Debug, Clone, Copy)]
pub struct TokenValues<'a> {
    /// The local user and host.
    pub env: &'a Env,
    /// `%n`: the host as it is written in the configuration.
    pub alias: &'a str,
    /// `%h`: the host name or address that is dialled.
    pub host: &'a str,
    /// `%p`: the SSH port to dial.
    pub port: u16,
    /// `%r`: the user to log in as.
    pub user: &'a str,
    /// `%k`: HostKeyAlias, else the host as it is written.
    pub key_alias: &'a str,
    /// `%j`: the last host of ProxyJump; empty without one.
    pub jump: &'a str,
}

/// The values of the tokens that only KnownHostsCommand has.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServerKey<'a> {
    /// `%f`: the fingerprint of the server's host key.
    pub fingerprint: &'a str,
    /// `%H`: the name that is looked up.
    pub lookup: &'a str,
    /// `%I`: the reason for the look-up: ADDRESS, HOSTNAME or ORDER.
    pub reason: &'a str,
    /// `%K`: the host key in base64.
    pub key: &'a str,
    /// `%t`: the type of the host key.
    pub kind: &'a str,
}

/// Why a text cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// A token that does not exist, or not for this keyword.
    #[error("the token `%{0}` is not supported here; write `%%` for a percent sign")]
    Unknown(char),
    /// A percent sign at the end.
    #[error("the text ends with a single `%`; write `%%` for a percent sign")]
    Incomplete,
    /// A `${` without the closing `}`.
    #[error("`${{` is not closed")]
    Unclosed,
    /// A variable that is not set.
    #[error("the environment variable {0} is not set")]
    NoVariable(String),
    /// The home of another user, which is not looked up.
    #[error("`~{0}` is another user's home; write its path instead")]
    OtherHome(String),
}

/// Expands the tokens that `keyword` accepts.
///
/// # Errors
/// The first token that cannot be expanded.
pub fn expand(
    keyword: Keyword,
    text: &str,
    values: &TokenValues<'_>,
    server: &ServerKey<'_>,
) -> Result<String, ExpandError> {
    let variables = matches!(keyword, Keyword::Path | Keyword::KnownHostsCommand);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['%', '$']) {
        let (before, special) = rest.split_at(at);
        out.push_str(before);
        if let Some(after) = special.strip_prefix("${").filter(|_| variables) {
            let (name, after) = after.split_once('}').ok_or(ExpandError::Unclosed)?;
            let value = values
                .env
                .variable(name)
                .ok_or_else(|| ExpandError::NoVariable(name.to_owned()))?;
            out.push_str(&value);
            rest = after;
        } else if let Some(after) = special.strip_prefix('%') {
            let token = after.chars().next().ok_or(ExpandError::Incomplete)?;
            out.push_str(
                &value(keyword, token, values, server).ok_or(ExpandError::Unknown(token))?,
            );
            rest = after.get(token.len_utf8()..).unwrap_or_default();
        } else {
            out.push('$');
            rest = special.get(1..).unwrap_or_default();
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn value(
    keyword: Keyword,
    token: char,
    values: &TokenValues<'_>,
    server: &ServerKey<'_>,
) -> Option<String> {
    let allowed = match keyword {
        Keyword::HostName => "%h",
        Keyword::Proxy => "%hnpr",
        Keyword::Path => "%CdhijkLlnpru",
        Keyword::KnownHostsCommand => "%CdhijkLlnprufHIKt",
    };
    if !allowed.contains(token) {
        return None;
    }
    Some(match token {
        '%' => "%".to_owned(),
        'C' => connection_hash(values),
        'd' => values.env.home.to_string_lossy().into_owned(),
        'h' => values.host.to_owned(),
        'i' => values.env.uid.to_string(),
        'j' => values.jump.to_owned(),
        'k' => values.key_alias.to_owned(),
        'L' => values.env.short_hostname().to_owned(),
        'l' => values.env.hostname.clone(),
        'n' => values.alias.to_owned(),
        'p' => values.port.to_string(),
        'r' => values.user.to_owned(),
        'u' => values.env.user.clone(),
        'f' => server.fingerprint.to_owned(),
        'H' => server.lookup.to_owned(),
        'I' => server.reason.to_owned(),
        'K' => server.key.to_owned(),
        't' => server.kind.to_owned(),
        _ => return None,
    })
}

/// `%C`: SHA-1 of `%l%h%p%r%j` in hexadecimal. It makes short file names and protects nothing, so SHA-1 is fine.
fn connection_hash(values: &TokenValues<'_>) -> String {
    let text = format!(
        "{}{}{}{}{}",
        values.env.hostname, values.host, values.port, values.user, values.jump
    );
    aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        text.as_bytes(),
    )
    .as_ref()
    .iter()
    .map(|byte| format!("{byte:02x}"))
    .collect()
}

/// Expands a leading `~` or `~USER` of this user to the home directory.
///
/// # Errors
/// [`ExpandError::OtherHome`] for the home of another user.
pub fn tilde(text: &str, env: &Env) -> Result<String, ExpandError> {
    let Some(rest) = text.strip_prefix('~') else {
        return Ok(text.to_owned());
    };
    let (user, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if user.is_empty() || user == env.user {
        Ok(format!("{}{path}", env.home.display()))
    } else {
        Err(ExpandError::OtherHome(user.to_owned()))
    }
}

/// Expands `~`, tokens and variables of a path.
///
/// # Errors
/// The first part that cannot be expanded.
pub fn path(text: &str, values: &TokenValues<'_>) -> Result<PathBuf, ExpandError> {
    let text = tilde(text, values.env)?;
    expand(Keyword::Path, &text, values, &ServerKey::default()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn env() -> Env {
        Env::for_tests("/home/me")
    }
    fn values<'a>(env: &'a Env, host: &'a str) -> TokenValues<'a> {
        TokenValues {
            env,
            alias: "mahuika",
            host,
            port: 2222,
            user: "cwal219",
            key_alias: "kk",
            jump: "lander",
        }
    }

    #[test]
    fn every_token_of_a_path_is_expanded() {
        let env = env();
        let values = values(&env, "login.example");
        for (text, expected) in [
            (
                "~/.ssh/%r@%h:%p",
                "/home/me/.ssh/cwal219@login.example:2222",
            ),
            ("%d/%u/%i/%n/%k/%j", "/home/me/me/1000/mahuika/kk/lander"),
            ("%L %l", "box box.example"),
            ("100%%", "100%"),
            ("${XDG}/x", "/run/user/1000/x"),
            ("~me/x", "/home/me/x"),
            ("$HOME", "$HOME"),
            // sha1("box.example" "login.example" "2222" "cwal219" "lander")
            ("%C", "536747b9dae7421bfaad90bf7259c535dede5448"),
        ] {
            assert_eq!(path(text, &values), Ok(expected.into()), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_expanded_is_an_error() {
        let env = env();
        let values = values(&env, "h");
        for (text, why) in [
            ("%x", ExpandError::Unknown('x')),
            ("%H", ExpandError::Unknown('H')),
            ("a%", ExpandError::Incomplete),
            ("${A", ExpandError::Unclosed),
            ("${NOT_SET}", ExpandError::NoVariable("NOT_SET".into())),
            ("~other/x", ExpandError::OtherHome("other".into())),
        ] {
            assert_eq!(path(text, &values), Err(why), "{text}");
        }
        let proxy = |text| expand(Keyword::Proxy, text, &values, &ServerKey::default());
        assert_eq!(
            proxy("ssh -W %h:%p %r@lander"),
            Ok("ssh -W h:2222 cwal219@lander".into())
        );
        assert_eq!(proxy("%d"), Err(ExpandError::Unknown('d')));
        assert_eq!(proxy("${XDG}"), Ok("${XDG}".into()));
    }

    proptest! {
        /// The value of a token is never expanded again, whatever it contains.
        #[test]
        fn values_are_not_expanded_again(host in "[%${}a-z~]{0,12}", text in "[a-z%h ]{0,20}") {
            let env = env();
            let values = values(&env, &host);
            if let Ok(out) = expand(Keyword::HostName, &text, &values, &ServerKey::default()) {
                let empty_host = TokenValues { host: "", ..values };
                let without = expand(Keyword::HostName, &text, &empty_host, &ServerKey::default()).unwrap();
                let times = text.replace("%%", "").matches("%h").count();
                prop_assert_eq!(out.len(), without.len() + times * host.len());
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let env = env();
            let _ = path(&text, &values(&env, "h"));
        }
    }
}
