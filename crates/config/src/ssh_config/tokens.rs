//! `%`-tokens, `${NAME}` and `~` (ssh_config(5) TOKENS): one pass, so that what was put in is never read again.

use std::path::PathBuf;

use crate::env::Env;

/// Which tokens a keyword accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keyword {
    /// HostName: `%% %h`.
    HostName,
    /// ProxyCommand and ProxyJump: `%% %h %n %p %r`.
    Proxy,
    /// IdentityFile, CertificateFile, IdentityAgent, UserKnownHostsFile, RevokedHostKeys, LocalForward and
    /// RemoteForward: `%% %C %d %h %i %j %k %L %l %n %p %r %u`, and `${NAME}`.
    Path,
    /// KnownHostsCommand: those of a path, and `%f %H %I %K %t`.
    KnownHostsCommand,
}

/// What the tokens of a destination stand for.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// This side.
    pub env: &'a Env,
    /// `%n`: the host as it was written.
    pub alias: &'a str,
    /// `%h`: the real host.
    pub host: &'a str,
    /// `%p`.
    pub port: u16,
    /// `%r`.
    pub user: &'a str,
    /// `%k`: HostKeyAlias, else the host as it was written.
    pub key_alias: &'a str,
    /// `%j`: ProxyJump, empty where there is none.
    pub jump: &'a str,
}

/// What KnownHostsCommand's own tokens stand for.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServerKey<'a> {
    /// `%f`: the fingerprint of the server's host key.
    pub fingerprint: &'a str,
    /// `%H`: the name that is looked up.
    pub lookup: &'a str,
    /// `%I`: why: ADDRESS, HOSTNAME or ORDER.
    pub reason: &'a str,
    /// `%K`: the host key in base64.
    pub key: &'a str,
    /// `%t`: its type.
    pub kind: &'a str,
}

/// Why a text cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// A token that there is not, or not here.
    #[error("the token `%{0}` has no meaning here; write `%%` for a percent sign")]
    Unknown(char),
    /// A percent sign at the end.
    #[error("a lone `%` stands at the end; write `%%` for a percent sign")]
    Lone,
    /// `${` without `}`.
    #[error("`${{` is not closed")]
    Open,
    /// A variable that is not set.
    #[error("the environment variable {0} is not set")]
    NoVariable(String),
    /// Another user's home.
    #[error("`~{0}` is another user's home; write the path")]
    OtherHome(String),
}

/// Expands the tokens that `keyword` accepts.
///
/// # Errors
/// The first token that cannot be expanded.
pub fn expand(
    keyword: Keyword,
    text: &str,
    facts: &Facts<'_>,
    server: &ServerKey<'_>,
) -> Result<String, BadToken> {
    let variables = matches!(keyword, Keyword::Path | Keyword::KnownHostsCommand);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['%', '$']) {
        let (before, special) = rest.split_at(at);
        out.push_str(before);
        if let Some(after) = special.strip_prefix("${").filter(|_| variables) {
            let (name, after) = after.split_once('}').ok_or(BadToken::Open)?;
            let value = facts
                .env
                .variable(name)
                .ok_or_else(|| BadToken::NoVariable(name.to_owned()))?;
            out.push_str(&value);
            rest = after;
        } else if let Some(after) = special.strip_prefix('%') {
            let token = after.chars().next().ok_or(BadToken::Lone)?;
            out.push_str(&value(keyword, token, facts, server).ok_or(BadToken::Unknown(token))?);
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
    facts: &Facts<'_>,
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
        'C' => connection_hash(facts),
        'd' => facts.env.home.to_string_lossy().into_owned(),
        'h' => facts.host.to_owned(),
        'i' => facts.env.uid.to_string(),
        'j' => facts.jump.to_owned(),
        'k' => facts.key_alias.to_owned(),
        'L' => facts.env.short_hostname().to_owned(),
        'l' => facts.env.hostname.clone(),
        'n' => facts.alias.to_owned(),
        'p' => facts.port.to_string(),
        'r' => facts.user.to_owned(),
        'u' => facts.env.user.clone(),
        'f' => server.fingerprint.to_owned(),
        'H' => server.lookup.to_owned(),
        'I' => server.reason.to_owned(),
        'K' => server.key.to_owned(),
        't' => server.kind.to_owned(),
        _ => return None,
    })
}

/// `%C`: SHA-1 of `%l%h%p%r%j` in hexadecimal. A name for sockets, no protection of anything.
fn connection_hash(facts: &Facts<'_>) -> String {
    let text = format!(
        "{}{}{}{}{}",
        facts.env.hostname, facts.host, facts.port, facts.user, facts.jump
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

/// Puts the home in for a leading `~`.
///
/// # Errors
/// [`BadToken::OtherHome`] for `~user`.
pub fn tilde(text: &str, env: &Env) -> Result<String, BadToken> {
    let Some(rest) = text.strip_prefix('~') else {
        return Ok(text.to_owned());
    };
    let (user, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if user.is_empty() || user == env.user {
        Ok(format!("{}{path}", env.home.display()))
    } else {
        Err(BadToken::OtherHome(user.to_owned()))
    }
}

/// A path: `~`, tokens and variables expanded.
///
/// # Errors
/// The first part that cannot be expanded.
pub fn path(text: &str, facts: &Facts<'_>) -> Result<PathBuf, BadToken> {
    let text = tilde(text, facts.env)?;
    expand(Keyword::Path, &text, facts, &ServerKey::default()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn env() -> Env {
        Env::for_tests("/home/me")
    }
    fn facts<'a>(env: &'a Env, host: &'a str) -> Facts<'a> {
        Facts {
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
    fn every_token_of_a_path() {
        let env = env();
        let facts = facts(&env, "login.example");
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
            assert_eq!(path(text, &facts), Ok(expected.into()), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_expanded_is_told() {
        let env = env();
        let facts = facts(&env, "h");
        for (text, why) in [
            ("%x", BadToken::Unknown('x')),
            ("%H", BadToken::Unknown('H')),
            ("a%", BadToken::Lone),
            ("${A", BadToken::Open),
            ("${NOT_SET}", BadToken::NoVariable("NOT_SET".into())),
            ("~other/x", BadToken::OtherHome("other".into())),
        ] {
            assert_eq!(path(text, &facts), Err(why), "{text}");
        }
        let proxy = |text| expand(Keyword::Proxy, text, &facts, &ServerKey::default());
        assert_eq!(
            proxy("ssh -W %h:%p %r@lander"),
            Ok("ssh -W h:2222 cwal219@lander".into())
        );
        assert_eq!(proxy("%d"), Err(BadToken::Unknown('d')));
        assert_eq!(proxy("${XDG}"), Ok("${XDG}".into()));
    }

    proptest! {
        /// What a token stands for is never read again, whatever it holds.
        #[test]
        fn one_pass(host in "[%${}a-z~]{0,12}", text in "[a-z%h ]{0,20}") {
            let env = env();
            let facts = facts(&env, &host);
            if let Ok(out) = expand(Keyword::HostName, &text, &facts, &ServerKey::default()) {
                let plain = Facts { host: "", ..facts };
                let without = expand(Keyword::HostName, &text, &plain, &ServerKey::default()).unwrap();
                let times = text.replace("%%", "").matches("%h").count();
                prop_assert_eq!(out.len(), without.len() + times * host.len());
            }
        }

        #[test]
        fn any_text_is_an_answer(text in ".{0,40}") {
            let env = env();
            let _ = path(&text, &facts(&env, "h"));
        }
    }
}
