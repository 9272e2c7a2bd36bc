//! Prepares the raw arguments for clap: forms that other programs accept and that would mean something else here.

use std::ffi::OsString;

use crate::time::parse_duration;

/// Returns the arguments with `--wait 5s` as `--wait=5s`, and without the monitoring port of autossh (`-M 0`, autossh(1)).
///
/// `--wait` alone is valid too, so clap takes a value only after `=`; `-M` is a flag without a value in ssh(1).
pub(crate) fn normalize(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut normal: Vec<OsString> = Vec::new();
    let mut args = args.into_iter().peekable();
    let mut may_wait = false;
    while let Some(arg) = args.next() {
        let text = arg.to_str().unwrap_or_default();
        if text == "--" || text == "run-detached" {
            normal.push(arg);
            normal.extend(args);
            return normal;
        }
        may_wait |= matches!(text, "up" | "start" | "restart");
        let next = args.peek().and_then(|next| next.to_str());
        match (text, next) {
            ("--wait", Some(value)) if may_wait && parse_duration(value).is_ok() => {
                normal.push(format!("--wait={value}").into());
                args.next();
            }
            ("-M", Some(value)) if may_wait && is_port(value) => {
                normal.push(arg);
                args.next();
            }
            _ if may_wait && text.strip_prefix("-M").is_some_and(is_port) => {
                normal.push("-M".into());
            }
            _ => normal.push(arg),
        }
    }
    normal
}

/// Whether the text is autossh's `PORT` or `PORT:ECHO_PORT`.
fn is_port(text: &str) -> bool {
    let mut parts = text.split(':');
    let numbers = parts
        .by_ref()
        .take(2)
        .all(|part| part.parse::<u16>().is_ok());
    numbers && parts.next().is_none()
}

/// Returns the command to use instead of one that does not exist; `None` if clap's own suggestion is right.
pub(crate) fn suggestion(command: &str) -> Option<&'static str> {
    match command {
        "rm" | "remove" | "delete" | "del" => Some("tunnelctl down --remove NAME"),
        "kill" | "quit" | "exit" | "close" | "disconnect" => Some("tunnelctl down NAME"),
        "add" | "new" | "create" | "open" | "ssh" => {
            Some("tunnelctl up -L 8088:localhost:80 user@host")
        }
        "log" | "journal" => Some("tunnelctl logs"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(args: &str) -> String {
        let args = normalize(args.split(' ').map(OsString::from));
        let args: Vec<_> = args.iter().filter_map(|arg| arg.to_str()).collect();
        args.join(" ")
    }

    #[test]
    fn a_time_after_wait_is_its_value_and_a_name_is_not() {
        for (args, expected) in [
            ("tunnelctl up --wait 5s db", "tunnelctl up --wait=5s db"),
            (
                "tunnelctl -v restart --wait 1m db",
                "tunnelctl -v restart --wait=1m db",
            ),
            ("tunnelctl up --wait db", "tunnelctl up --wait db"),
            ("tunnelctl up --wait=5s 7s", "tunnelctl up --wait=5s 7s"),
            ("tunnelctl up -- --wait 5s", "tunnelctl up -- --wait 5s"),
            ("tunnelctl up --wait", "tunnelctl up --wait"),
        ] {
            assert_eq!(normal(args), expected);
        }
    }

    #[test]
    fn the_monitoring_port_of_autossh_is_dropped() {
        for (args, expected) in [
            ("tunnelctl up -M 0 -N h", "tunnelctl up -M -N h"),
            ("tunnelctl up -M20000:7 h", "tunnelctl up -M h"),
            ("tunnelctl up -M h", "tunnelctl up -M h"),
        ] {
            assert_eq!(normal(args), expected);
        }
    }
}
