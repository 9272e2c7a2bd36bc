//! Reads the keys of logging in: authentication, host keys, crypto.

use tunneld_ssh::algorithm::Kind;

use crate::diagnostic::{At, Diagnostic};
use crate::layer::Layer;
use crate::model::{Answer, UpdateHostKeys};
use crate::parse::destination::check_alias;
use crate::parse::lists::{algorithms, flat, narrow, paths};
use crate::parse::table::{Table, ValueError, argv, boolean, expected, string};
use crate::parse::tree::Value;
use crate::parse::values;

pub(crate) fn authentication(table: &mut Table<'_, '_>, spec: &mut Layer) {
    spec.identity_file = paths(table, "identity_file");
    spec.identities_only = table.boolean("identities_only");
    spec.identity_agent = table.text("identity_agent", |text| Ok(text.to_owned()));
    spec.certificate_file = paths(table, "certificate_file");
    spec.preferred_authentications = table
        .list("preferred_authentications", |node| {
            values::methods(string(node)?).map_err(ValueError::from)
        })
        .map(flat);
    spec.pubkey_authentication = table.boolean("pubkey_authentication");
    spec.password_authentication = table.boolean("password_authentication");
    spec.kbd_interactive_authentication = table.boolean("kbd_interactive_authentication");
    spec.pubkey_accepted_algorithms =
        algorithms(table, "pubkey_accepted_algorithms", Kind::HostKey);
    spec.add_keys_to_agent = table.proved("add_keys_to_agent", |node| {
        Ok(match &node.value {
            Value::Bool(true) => values::add_keys("yes")?,
            Value::Bool(false) => values::add_keys("no")?,
            _ => values::add_keys(string(node)?)?,
        })
    });
    spec.number_of_password_prompts = narrow(table.integer("number_of_password_prompts", 0..=100));
    spec.password_command = table.argv("password_command");
    spec.passphrase_command = table.argv("passphrase_command");
    spec.answers = answers(table);
}

fn answers(table: &mut Table<'_, '_>) -> Option<At<Vec<Answer>>> {
    let node = table.node("answers")?;
    let Value::Array(items) = &node.value else {
        let wrong = expected("a list of { prompt = \"regex\", command = [...] }", node);
        return table.refused("answers", node.at, wrong);
    };
    let mut answers = Vec::new();
    for item in items {
        let Value::Table(entries) = &item.value else {
            let wrong = expected("{ prompt = \"regex\", command = [...] }", item);
            table.refuse("answers", item.at, wrong);
            continue;
        };
        let mut inner = table.inner("answers", entries);
        let prompt = inner.text("prompt", |text| match regex::Regex::new(text) {
            Ok(_) => Ok(text.to_owned()),
            Err(_) => Err(format!("`{text}` is no regular expression")),
        });
        let command = inner.proved("command", argv);
        for (key, present) in [("prompt", prompt.is_some()), ("command", command.is_some())] {
            if !present && !entries.iter().any(|entry| entry.key == key) {
                inner.problem(Diagnostic::new(
                    item.at,
                    format!("answers: {key} is missing"),
                ));
            }
        }
        inner.finish();
        if let (Some(prompt), Some(command)) = (prompt, command) {
            answers.push(Answer {
                prompt: prompt.value,
                command: command.value,
            });
        }
    }
    Some(At {
        value: answers,
        at: node.at,
    })
}

pub(crate) fn host_keys(table: &mut Table<'_, '_>, spec: &mut Layer) {
    spec.strict_host_key_checking = table.proved("strict_host_key_checking", |node| {
        let word = match &node.value {
            Value::Bool(true) => "yes",
            Value::Bool(false) => "no",
            _ => string(node)?,
        };
        values::checking(word).ok_or_else(|| {
            format!("expected \"ask\", \"yes\", \"accept-new\" or \"no\", found \"{word}\"").into()
        })
    });
    spec.user_known_hosts_file = paths(table, "user_known_hosts_file");
    spec.global_known_hosts_file = paths(table, "global_known_hosts_file");
    spec.revoked_host_keys = paths(table, "revoked_host_keys");
    spec.known_hosts_command = table.text("known_hosts_command", |text| {
        Ok((!text.eq_ignore_ascii_case("none")).then(|| text.to_owned()))
    });
    spec.host_key_alias = table.text("host_key_alias", |text| {
        check_alias(text).map(|()| text.to_owned())
    });
    spec.host_key_algorithms = algorithms(table, "host_key_algorithms", Kind::HostKey);
    spec.hash_known_hosts = table.boolean("hash_known_hosts");
    spec.update_host_keys = table.proved("update_host_keys", |node| match &node.value {
        Value::String(text) if text == "ask" => Ok(UpdateHostKeys::Ask),
        _ => Ok(if boolean(node)? {
            UpdateHostKeys::Yes
        } else {
            UpdateHostKeys::No
        }),
    });
}

pub(crate) fn crypto(table: &mut Table<'_, '_>, spec: &mut Layer) {
    spec.ciphers = algorithms(table, "ciphers", Kind::Cipher);
    spec.macs = algorithms(table, "macs", Kind::Mac);
    spec.kex_algorithms = algorithms(table, "kex_algorithms", Kind::Kex);
    spec.compression = table.boolean("compression");
    spec.rekey_limit = table.proved("rekey_limit", |node| match &node.value {
        Value::Integer(bytes) => Ok(values::rekey(&bytes.to_string())?),
        _ => Ok(values::rekey(string(node)?)?),
    });
}
