//! The grammars of single values that TOML and ssh_config share.

use std::ops::RangeInclusive;
use std::time::Duration;

use tunneld_proto::duration;

use crate::model::{AddKeysToAgent, HostKeyChecking, Rekey};

/// The bits that `required_rsa_size` may ask for: the SSH core verifies no shorter key, and the longest is ssh-keygen's.
pub const RSA_BITS: RangeInclusive<i64> = 1024..=16_384;

/// The login methods that tunneld supports, in OpenSSH's order.
pub const AUTH_METHODS: &[&str] = &["publickey", "keyboard-interactive", "password"];

/// Parses PreferredAuthentications: names between commas. OpenSSH's other two methods are accepted and left out: ssh too
/// skips methods that it was built without.
///
/// # Errors
/// The first unknown name.
pub fn auth_methods(text: &str) -> Result<Vec<String>, String> {
    let mut methods: Vec<String> = Vec::new();
    for name in text.split(',').map(str::trim) {
        if matches!(name, "gssapi-with-mic" | "hostbased") {
            continue;
        }
        if !AUTH_METHODS.contains(&name) {
            return Err(format!(
                "unknown method \"{name}\"; the methods are publickey, keyboard-interactive and password"
            ));
        }
        if !methods.iter().any(|known| known == name) {
            methods.push(name.to_owned());
        }
    }
    Ok(methods)
}

/// Parses StrictHostKeyChecking; `None` for an unknown word. `ssh -G` prints true, false and off.
pub fn host_key_checking(word: &str) -> Option<HostKeyChecking> {
    Some(match word.to_ascii_lowercase().as_str() {
        "ask" => HostKeyChecking::Ask,
        "yes" | "true" => HostKeyChecking::Strict,
        // ssh's `no` also accepts changed keys; tunneld never does.
        "accept-new" | "no" | "false" | "off" => HostKeyChecking::AcceptNew,
        _ => return None,
    })
}

/// Parses AddKeysToAgent: yes, no, ask, confirm, a time, or confirm and a time.
///
/// # Errors
/// The word that is none of these.
pub fn add_keys_to_agent(text: &str) -> Result<AddKeysToAgent, String> {
    let mut confirm = false;
    let mut lifetime = None;
    for word in text.split_whitespace() {
        match word.to_ascii_lowercase().as_str() {
            "no" | "false" => return Ok(AddKeysToAgent::Never),
            "ask" => return Ok(AddKeysToAgent::Ask),
            "yes" | "true" => {}
            "confirm" => confirm = true,
            time => {
                lifetime = Some(duration::parse(time).map_err(|_| {
                    format!("expected yes, no, ask, confirm or a time, found \"{word}\"")
                })?);
            }
        }
    }
    Ok(AddKeysToAgent::Always {
        confirm,
        lifetime: lifetime.filter(|time| !time.is_zero()),
    })
}

/// Parses RekeyLimit: bytes with K, M or G, or `default`; then optionally a time, or `none`.
///
/// # Errors
/// What is wrong with which word.
pub fn rekey_limit(text: &str) -> Result<Rekey, String> {
    let mut words = text.split_whitespace();
    let mut rekey = Rekey::default();
    match words.next() {
        None => return Err("expected bytes and optionally a time, as in \"1G 1h\"".into()),
        Some("default" | "0") => {}
        Some(size) => rekey.bytes = Some(bytes(size)?),
    }
    match words.next() {
        None | Some("none") => {}
        Some(time) => {
            let time = duration::parse(time).map_err(|error| format!("\"{time}\": {error}"))?;
            rekey.time = Some(time).filter(|time| *time >= Duration::from_secs(1));
        }
    }
    match words.next() {
        None => Ok(rekey),
        Some(more) => Err(format!(
            "unexpected \"{more}\" after bytes and a time, as in \"1G 1h\""
        )),
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (text.get(..at), 1 << 10),
        Some((at, 'm' | 'M')) => (text.get(..at), 1 << 20),
        Some((at, 'g' | 'G')) => (text.get(..at), 1 << 30),
        _ => (Some(text), 1_u64),
    };
    let number: Option<u64> = digits
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok());
    match number.and_then(|number| number.checked_mul(unit)) {
        // OpenSSH's minimum: below it a session would do nothing but exchange keys.
        Some(bytes) if bytes >= 16 => Ok(bytes),
        Some(_) => Err(format!("\"{text}\" is too small; the minimum is 16 bytes")),
        None => Err(format!(
            "\"{text}\" is not a number of bytes; write for example 500M or 1G"
        )),
    }
}

/// Parses PermitRemoteOpen: `host:port` words, `any` or `none`. The result is empty for any target; for `none` it is a
/// word that matches no target.
///
/// # Errors
/// The first word that is not `host:port`.
pub fn permit_remote_open(text: &str) -> Result<Vec<String>, String> {
    let mut permits = Vec::new();
    for word in text.split_whitespace() {
        match word {
            "any" => return Ok(Vec::new()),
            "none" => return Ok(vec!["none".to_owned()]),
            word => match word.rsplit_once(':') {
                Some((host, port))
                    if !host.is_empty() && (port == "*" || port.parse::<u16>().is_ok()) =>
                {
                    permits.push(word.to_owned());
                }
                _ => return Err(format!("\"{word}\" is not host:port")),
            },
        }
    }
    Ok(permits)
}

/// Splits a text into words as ssh_config does: at white space, except within single or double quotes. A backslash
/// makes a quotation mark, a backslash, or a space outside quotes literal.
///
/// # Errors
/// A quotation mark that is not closed.
pub fn split_words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' => {
                let escaped = |next: &char| {
                    matches!(next, '\'' | '"' | '\\') || (*next == ' ' && quote.is_none())
                };
                let literal = rest.next_if(escaped).unwrap_or('\\');
                word.get_or_insert_default().push(literal);
            }
            '\'' | '"' if quote.is_none_or(|open| open == c) => {
                quote = if quote.is_none() { Some(c) } else { None };
                word.get_or_insert_default();
            }
            c if c.is_whitespace() && quote.is_none() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quotation mark is not closed".into());
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rekey_limits_are_parsed() {
        let limit = |bytes, time: Option<u64>| {
            Ok(Rekey {
                bytes,
                time: time.map(Duration::from_secs),
            })
        };
        for (text, expected) in [
            ("1G 1h", limit(Some(1 << 30), Some(3_600))),
            ("default none", limit(None, None)),
            ("0 0", limit(None, None)),
            ("1073741824 3600", limit(Some(1 << 30), Some(3_600))),
            ("500m", limit(Some(500 << 20), None)),
        ] {
            assert_eq!(rekey_limit(text), expected, "{text}");
        }
        for text in [
            "",
            "x",
            "1T",
            "-1",
            "99999999999G",
            "1",
            "1G 1y",
            "1G 1h 1",
            "G",
        ] {
            assert!(rekey_limit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn add_keys_to_agent_is_parsed() {
        let always = |confirm, seconds: Option<u64>| {
            Ok(AddKeysToAgent::Always {
                confirm,
                lifetime: seconds.map(Duration::from_secs),
            })
        };
        assert_eq!(add_keys_to_agent("yes"), always(false, None));
        assert_eq!(add_keys_to_agent("confirm 5m"), always(true, Some(300)));
        assert_eq!(add_keys_to_agent("1h"), always(false, Some(3_600)));
        assert_eq!(add_keys_to_agent("false"), Ok(AddKeysToAgent::Never));
        assert_eq!(add_keys_to_agent("ask"), Ok(AddKeysToAgent::Ask));
        assert!(add_keys_to_agent("maybe").is_err());
    }

    #[test]
    fn permitted_targets_and_quoted_words_are_parsed() {
        assert_eq!(
            permit_remote_open("a:1 b:*"),
            Ok(vec!["a:1".into(), "b:*".into()])
        );
        assert_eq!(permit_remote_open("any"), Ok(vec![]));
        assert!(permit_remote_open("a").is_err());
        assert_eq!(
            split_words("~/a \"~/b c\" d"),
            Ok(vec!["~/a".into(), "~/b c".into(), "d".into()])
        );
    }

    #[test]
    fn words_are_quoted_as_in_ssh_config() {
        for (text, words) in [
            (r"'/run/my db.sock' h:1", &["/run/my db.sock", "h:1"][..]),
            (r#""it's" 'a "b"'"#, &["it's", "a \"b\""]),
            (r"a\ b c\d \' \\", &["a b", r"c\d", "'", r"\"]),
            ("''", &[""]),
        ] {
            assert_eq!(split_words(text).unwrap(), words, "{text}");
        }
        assert!(split_words("'a").is_err() && split_words("\"a'").is_err());
    }
}
