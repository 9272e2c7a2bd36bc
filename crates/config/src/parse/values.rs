//! The grammars of single values that TOML and ssh_config share.

use std::time::Duration;

use crate::diagnostic::did_you_mean;
use crate::model::{AddKeysToAgent, HostKeyChecking, Rekey};
use tunneld_proto::duration;

/// Proves a log filter: a level, or `TARGET=LEVEL`, between commas.
///
/// # Errors
/// What is wrong with it, and what was meant.
pub fn log_filter(text: &str) -> Result<(), String> {
    log_levels(text)?;
    text.parse::<tracing_subscriber::filter::Targets>()
        .map(drop)
        .map_err(|error| format!("\"{text}\" is no log filter: {error}"))
}

/// Proves that the words of a log filter that stand alone are levels.
///
/// # Errors
/// The first that is none, and what was meant.
pub fn log_levels(text: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    for directive in text.split(',').map(str::trim) {
        // A word alone would be taken for the name of a module, and everything else be silent.
        if directive.contains(['=', '[', ':'])
            || directive.starts_with("tunneld")
            || LEVELS
                .iter()
                .any(|level| directive.eq_ignore_ascii_case(level))
        {
            continue;
        }
        let meant = did_you_mean(directive, LEVELS);
        let meant = meant.map_or_else(
            || LEVELS.join(", "),
            |level| format!("did you mean \"{level}\"?"),
        );
        return Err(format!("\"{directive}\" is no level: {meant}"));
    }
    Ok(())
}

/// The methods of login that tunneld has, in OpenSSH's order.
pub const METHODS: &[&str] = &["publickey", "keyboard-interactive", "password"];

/// PreferredAuthentications: names between commas. OpenSSH's two others are left out, since no login of ours uses them.
///
/// # Errors
/// The name that nobody knows.
pub fn methods(text: &str) -> Result<Vec<String>, String> {
    let mut methods: Vec<String> = Vec::new();
    for name in text.split(',').map(str::trim) {
        if matches!(name, "gssapi-with-mic" | "hostbased") {
            continue;
        }
        if !METHODS.contains(&name) {
            return Err(format!(
                "no method \"{name}\"; there are publickey, keyboard-interactive and password"
            ));
        }
        if !methods.iter().any(|known| known == name) {
            methods.push(name.to_owned());
        }
    }
    Ok(methods)
}

/// StrictHostKeyChecking's words, those of `ssh -G` among them; `no` is accept-new.
pub fn checking(word: &str) -> Option<HostKeyChecking> {
    Some(match word.to_ascii_lowercase().as_str() {
        "ask" => HostKeyChecking::Ask,
        "yes" | "true" => HostKeyChecking::Yes,
        "accept-new" | "no" | "false" | "off" => HostKeyChecking::AcceptNew,
        _ => return None,
    })
}

/// AddKeysToAgent: yes, no, ask, confirm, a time, or confirm and a time.
///
/// # Errors
/// What is wrong with it.
pub fn add_keys(text: &str) -> Result<AddKeysToAgent, String> {
    let mut confirm = false;
    let mut lifetime = None;
    for word in text.split_whitespace() {
        match word.to_ascii_lowercase().as_str() {
            "no" | "false" => return Ok(AddKeysToAgent::No),
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
    Ok(AddKeysToAgent::Yes {
        confirm,
        lifetime: lifetime.filter(|time| !time.is_zero()),
    })
}

/// RekeyLimit: bytes with K, M or G, or `default`, then a time, or `none`.
///
/// # Errors
/// What is wrong with it.
pub fn rekey(text: &str) -> Result<Rekey, String> {
    let mut words = text.split_whitespace();
    let mut rekey = Rekey::default();
    match words.next() {
        None => return Err("expected bytes and perhaps a time, as in \"1G 1h\"".into()),
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
            "\"{more}\" is too much; bytes and a time, as in \"1G 1h\""
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
        // OpenSSH's own floor: less than that, and a session does nothing but rekey.
        Some(bytes) if bytes >= 16 => Ok(bytes),
        Some(_) => Err(format!("\"{text}\" is too small; 16 bytes are the least")),
        None => Err(format!(
            "\"{text}\" is no number of bytes; write 500M or 1G"
        )),
    }
}

/// PermitRemoteOpen: `host:port` words, `any` or `none`; empty for anywhere, a word that matches nothing for `none`.
///
/// # Errors
/// The word that is wrong.
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
                _ => return Err(format!("\"{word}\" is no host:port")),
            },
        }
    }
    Ok(permits)
}

/// Words as ssh_config splits them: at white space, double quotes holding a word together.
///
/// # Errors
/// A quotation mark without its other half.
pub fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    if quoted {
        return Err("a quotation mark is not closed".into());
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_filter_of_no_level_is_no_filter() {
        for filter in [
            "info",
            "WARN",
            "off",
            "info,tunneld=debug",
            "tunneld::session=trace,russh=error",
        ] {
            assert_eq!(log_filter(filter), Ok(()), "{filter}");
        }
        let error = log_filter("debg").unwrap_err();
        assert!(error.contains("did you mean \"debug\"?"), "{error}");
        assert!(
            log_filter("loud")
                .unwrap_err()
                .contains("error, warn, info")
        );
        assert!(log_filter("tunneld=loud").is_err());
    }

    #[test]
    fn rekey_limits() {
        let rekeyed = |bytes, time: Option<u64>| {
            Ok(Rekey {
                bytes,
                time: time.map(Duration::from_secs),
            })
        };
        for (text, expected) in [
            ("1G 1h", rekeyed(Some(1 << 30), Some(3_600))),
            ("default none", rekeyed(None, None)),
            ("0 0", rekeyed(None, None)),
            ("1073741824 3600", rekeyed(Some(1 << 30), Some(3_600))),
            ("500m", rekeyed(Some(500 << 20), None)),
        ] {
            assert_eq!(rekey(text), expected, "{text}");
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
            assert!(rekey(text).is_err(), "{text}");
        }
    }

    #[test]
    fn add_keys_words() {
        let yes = |confirm, seconds: Option<u64>| {
            Ok(AddKeysToAgent::Yes {
                confirm,
                lifetime: seconds.map(Duration::from_secs),
            })
        };
        assert_eq!(add_keys("yes"), yes(false, None));
        assert_eq!(add_keys("confirm 5m"), yes(true, Some(300)));
        assert_eq!(add_keys("1h"), yes(false, Some(3_600)));
        assert_eq!(add_keys("false"), Ok(AddKeysToAgent::No));
        assert_eq!(add_keys("ask"), Ok(AddKeysToAgent::Ask));
        assert!(add_keys("maybe").is_err());
    }

    #[test]
    fn remote_opens() {
        assert_eq!(
            permit_remote_open("a:1 b:*"),
            Ok(vec!["a:1".into(), "b:*".into()])
        );
        assert_eq!(permit_remote_open("any"), Ok(vec![]));
        assert!(permit_remote_open("a").is_err());
        assert_eq!(
            words("~/a \"~/b c\" d"),
            Ok(vec!["~/a".into(), "~/b c".into(), "d".into()])
        );
    }
}
