//! launchd's property lists in XML whose ProgramArguments run ssh, autossh or sshuttle (launchd.plist(5)).

use super::{Import, command_line, xml};
use crate::exit::Exit;

/// Reads a property list.
///
/// # Errors
/// It is not one, or its program makes no tunnel.
pub(crate) fn read(text: &str) -> Result<Import, Exit> {
    if text.starts_with("bplist") {
        return Err(Exit::usage("the property list is binary")
            .hint("convert it first: plutil -convert xml1 FILE"));
    }
    let root = xml::parse(text)?;
    let dict = root
        .child("dict")
        .filter(|_| root.name == "plist")
        .ok_or_else(|| {
            Exit::usage("the file is not a property list")
                .hint("give a file of ~/Library/LaunchAgents")
        })?;
    let words: Vec<String> = match value(dict, "ProgramArguments") {
        Some(list) => list
            .children("string")
            .map(|word| word.text.clone())
            .collect(),
        None => Vec::new(),
    };
    // Program replaces the file that is run, not the first argument.
    let program = value(dict, "Program").map(|program| program.text.clone());
    let words = match (program, words.split_first()) {
        (Some(program), Some((_, rest))) => [vec![program], rest.to_vec()].concat(),
        (Some(program), None) => vec![program],
        (None, _) => words,
    };
    if words.is_empty() {
        return Err(Exit::usage("the property list has no ProgramArguments")
            .hint("give an agent that runs ssh, autossh or sshuttle"));
    }
    let mut tunnel = command_line::tunnel(&words, None)?;
    if let Some(user) = value(dict, "UserName") {
        tunnel.note(format!(
            "launchd ran it as the user {}: paths such as ~ are now yours",
            user.text
        ));
    }
    if let Some(folder) = value(dict, "WorkingDirectory") {
        tunnel.note(format!("relative paths were below {}", folder.text));
    }
    let label = value(dict, "Label").map_or("LABEL", |label| &label.text);
    tunnel.note(format!(
        "stop the agent before you start the tunnel: launchctl bootout gui/$(id -u)/{label}"
    ));
    let mut import = Import::default();
    import.push(tunnel);
    Ok(import)
}

/// The value behind `<key>NAME</key>`.
fn value<'a>(dict: &'a xml::Element, name: &str) -> Option<&'a xml::Element> {
    let mut children = dict.children.iter();
    children.find(|child| child.name == "key" && child.text.trim() == name)?;
    children.next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn plist(body: &str) -> String {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \
             \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n<plist version=\"1.0\"><dict>{body}</dict></plist>"
        )
    }

    fn arguments(words: &[&str]) -> String {
        let words: String = words
            .iter()
            .map(|word| format!("<string>{word}</string>"))
            .collect();
        plist(&format!(
            "<key>Label</key><string>my.tunnel</string><key>KeepAlive</key><true/>\
                        <key>ProgramArguments</key><array>{words}</array>"
        ))
    }

    #[test]
    fn the_program_of_an_agent_becomes_a_tunnel() {
        let text = arguments(&[
            "/usr/bin/ssh",
            "-N",
            "-L",
            "8088:localhost:8088",
            "-o",
            "User=a&amp;b",
            "emr",
        ]);
        let tunnel = read(&text).unwrap().tunnels.remove(0);
        assert_eq!(
            Value::Object(tunnel.keys),
            json!({"host": "emr", "user": "a&b", "local_forward": ["8088:localhost:8088"]})
        );
        assert!(tunnel.notes[0].contains("my.tunnel"));
    }

    #[test]
    fn files_of_something_else_are_one_error() {
        for (text, part) in [
            ("bplist00".to_owned(), "binary"),
            ("<a/>".to_owned(), "not a property list"),
            (plist(""), "no ProgramArguments"),
            (plist("<key>ProgramArguments</key>"), "no ProgramArguments"),
            (arguments(&["/bin/true"]), "it runs true"),
            (arguments(&["ssh", "-L"]), "no value"),
            ("{}".to_owned(), "ends before"),
        ] {
            let exit = read(&text).unwrap_err();
            assert!(exit.message.as_deref().unwrap().contains(part), "{exit:?}");
        }
    }
}
