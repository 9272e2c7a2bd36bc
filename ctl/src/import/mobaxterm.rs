//! MobaXterm's SSH bookmarks, in `MobaXterm.ini` or a `.mxtsessions` export.
//!
//! The format has no public description; the fields here are those that users worked out: type, host, port and user, the
//! SSH gateway at 8 to 10, the key at 14. The list of MobaSSHTunnel is not described anywhere and is not read.

use super::{Import, ImportedTunnel};
use crate::exit::Exit;

/// The type of an SSH bookmark.
const SSH: &str = "109";

/// Reads either file.
///
/// # Errors
/// The text has no bookmarks.
pub(crate) fn read(text: &str) -> Result<Import, Exit> {
    let mut import = Import::default();
    let mut section = "";
    let mut has_bookmarks = false;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            section = name;
            has_bookmarks |= is_bookmarks(section);
            if section.to_ascii_lowercase().contains("tunnel") {
                import.note(format!("the section [{section}] could not be read: its format is not public; write its forwards by hand"));
            }
        } else if is_bookmarks(section)
            && let Some((name, value)) = line.split_once('=')
            && name != "SubRep"
            && name != "ImgNum"
        {
            bookmark(&mut import, name.trim(), value.trim());
        }
    }
    if !has_bookmarks {
        return Err(Exit::usage("the file has no bookmarks of MobaXterm")
            .hint("give MobaXterm.ini, or export them: Sessions, User sessions, Export to file"));
    }
    if !import.tunnels.is_empty() {
        import.note(
            "MobaXterm keeps its tunnels apart from the bookmarks, in a format that is not public:",
        );
        import.note("add the forwards of MobaSSHTunnel to each tunnel");
    }
    Ok(import)
}

fn is_bookmarks(section: &str) -> bool {
    section == "Bookmarks" || section.starts_with("Bookmarks_")
}

/// `name=#109#0%HOST%PORT%USER%…#MobaFont%…`
fn bookmark(import: &mut Import, name: &str, value: &str) {
    let mut parts = value.trim_start().split('#');
    let kind = parts.nth(1).unwrap_or_default();
    let fields: Vec<&str> = parts.next().unwrap_or_default().split('%').collect();
    let get = |at: usize| fields.get(at).copied().unwrap_or_default().trim();
    if kind != SSH || get(1).is_empty() {
        import.note(format!(
            "left out: the bookmark {name} is not an SSH session"
        ));
        return;
    }
    let mut tunnel = ImportedTunnel::new(name);
    tunnel.incomplete = Some("add the forwards");
    tunnel.set("host", get(1));
    match get(2).parse::<u16>() {
        Ok(22 | 0) | Err(_) => {}
        Ok(port) => tunnel.set("port", port),
    }
    match get(3) {
        "" | "<default>" => {}
        user if user.starts_with('[') => {
            tunnel.note(format!(
                "the user is in MobaXterm's stored credentials {user}: write it here"
            ));
            tunnel.disable("user", "USER");
        }
        user => tunnel.set("user", user),
    }
    if !get(14).is_empty() {
        tunnel.set_identity(get(14));
    }
    // Several gateways, and their users, are not told apart in any description.
    if !get(8).is_empty() {
        let user = if get(10).is_empty() {
            String::new()
        } else {
            format!("{}@", get(10))
        };
        let port = if matches!(get(9), "" | "22") {
            String::new()
        } else {
            format!(":{}", get(9))
        };
        tunnel.note("proxy_jump is MobaXterm's SSH gateway: check it, then remove its #");
        tunnel.disable("proxy_jump", format!("{user}{}{port}", get(8)));
    }
    tunnel.disable("dynamic_forward", 8157);
    import.push(tunnel);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const INI: &str = "[Misc]\r\nPassword=secret\r\n[Bookmarks]\r\nSubRep=\r\nImgNum=42\r\n\
        Bastion é= #109#0%198.51.100.7%2222%ec2-user%%-1%-1%%jump.example%22%you%0%0%0%C:\\keys\\emr.pem%%-1#MobaFont%10#0# #-1\r\n\
        Windows=#91#4%10.0.0.9%3389%me\r\n[Bookmarks_1]\r\nSubRep=EMR\r\nImgNum=41\r\nmaster=#109#0%m.internal%22%[stored]%\r\n\
        [SSHTunnels]\r\nx=y\r\n[Passwords]\r\nssh22:me@h=secret\r\n";

    #[test]
    fn ssh_bookmarks_come_over_and_the_rest_is_named() {
        let import = read(INI).unwrap();
        let tunnel = &import.tunnels[0];
        assert_eq!(tunnel.name, "Bastion");
        assert_eq!(tunnel.keys["host"], "198.51.100.7");
        assert_eq!(tunnel.keys["user"], "ec2-user");
        assert_eq!(tunnel.keys["port"], 2222);
        assert_eq!(tunnel.disabled["proxy_jump"], "you@jump.example");
        assert_eq!(
            Value::Object(import.tunnels[1].keys.clone()),
            json!({"host": "m.internal"})
        );
        assert!(import.tunnels[1].notes[0].contains("[stored]"));
        let notes = import.notes.join("\n");
        assert!(notes.contains("Windows is not an SSH session"), "{notes}");
        assert!(notes.contains("[SSHTunnels] could not be read"), "{notes}");
        assert!(!format!("{import:?}").contains("secret"));
    }

    #[test]
    fn files_of_something_else_are_one_error() {
        for text in ["", "[Misc]\na=b", "#109#0%h%22%u", "[", "[Bookmarks"] {
            assert!(
                read(text)
                    .unwrap_err()
                    .message
                    .unwrap()
                    .contains("no bookmarks"),
                "{text}"
            );
        }
        for line in [
            "a=",
            "a=#",
            "a=#109",
            "a=#109#",
            "a=#109#0",
            "a=#109#0%",
            "=",
            "a=#109#0%%22",
        ] {
            let import = read(&format!("[Bookmarks]\n{line}\n")).unwrap();
            assert!(import.tunnels.is_empty(), "{line}");
            assert_eq!(import.notes.len(), 1, "{line}");
        }
    }
}
