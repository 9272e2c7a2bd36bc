//! Reads the keys about the login: authentication, host keys, crypto.

use tunneld_ssh::algorithm::Kind;

use crate::diagnostic::{Diagnostic, Spanned};
use crate::layer::Layer;
use crate::model::{Answer, PromptPattern, UpdateHostKeys};
use crate::parse::destination::check_alias;
use crate::parse::lists::{algorithms, flatten, narrow, paths};
use crate::parse::table::{Table, ValueError, argv, boolean, expected, string, unknown_word};
use crate::parse::tree::Value;
use crate::parse::values;

pub(crate) fn authentication(table: &mut Table<'_, '_>, layer: &mut Layer) {
    layer.identity_file = paths(table, "identity_file");
    layer.identities_only = table.boolean("identities_only");
    layer.identity_agent = table.text("identity_agent", |text| Ok(text.to_owned()));
    layer.certificate_file = paths(table, "certificate_file");
    layer.preferred_authentications = table
        .list("preferred_authentications", |node| {
            values::auth_methods(string(node)?).map_err(ValueError::from)
        })
        .map(flatten);
    layer.pubkey_authentication = table.boolean("pubkey_authentication");
    layer.password_authentication = table.boolean("password_authentication");
    layer.kbd_interactive_authentication = table.boolean("kbd_interactive_authentication");
    layer.pubkey_accepted_algorithms =
        algorithms(table, "pubkey_accepted_algorithms", Kind::HostKey);
    layer.add_keys_to_agent = table.value("add_keys_to_agent", |node| {
        Ok(match &node.value {
            Value::Bool(true) => values::add_keys_to_agent("yes")?,
            Value::Bool(false) => values::add_keys_to_agent("no")?,
            _ => values::add_keys_to_agent(string(node)?)?,
        })
    });
    layer.number_of_password_prompts = narrow(table.integer("number_of_password_prompts", 0..=100));
    layer.password_command = table.argv("password_command");
    layer.passphrase_command = table.argv("passphrase_command");
    layer.answers = answers(table);
}

/// Reads `answers`. An item with an error is reported and left out; the others are kept.
fn answers(table: &mut Table<'_, '_>) -> Option<Spanned<Vec<Answer>>> {
    let node = table.node("answers")?;
    let Value::Array(items) = &node.value else {
        let error = expected("a list of { prompt = \"regex\", command = [...] }", node);
        table.report_value("answers", node.span, error);
        return None;
    };
    let mut answers = Vec::new();
    for item in items {
        let Value::Table(entries) = &item.value else {
            let error = expected("{ prompt = \"regex\", command = [...] }", item);
            table.report_value("answers", item.span, error);
            continue;
        };
        let mut answer = table.nested("answers", &["prompt", "command"], entries);
        let prompt = answer.text("prompt", |text| {
            PromptPattern::new(text)
                .map_err(|error| format!("`{text}` is not a regular expression: {error}"))
        });
        // Both keys are read before either is missed, so that a wrong value is reported too.
        let command = answer.value("command", argv);
        for key in ["prompt", "command"] {
            if !entries.iter().any(|entry| entry.key == key) {
                let message = format!("answers: {key} is missing");
                answer.report(Diagnostic::new(item.span, message));
            }
        }
        answer.finish();
        if let (Some(prompt), Some(command)) = (prompt, command) {
            answers.push(Answer {
                prompt: prompt.value,
                command: command.value,
            });
        }
    }
    Some(Spanned {
        value: answers,
        span: node.span,
    })
}

pub(crate) fn host_keys(table: &mut Table<'_, '_>, layer: &mut Layer) {
    layer.strict_host_key_checking = table.value("strict_host_key_checking", |node| {
        let word = match &node.value {
            Value::Bool(true) => "yes",
            // TOML's booleans are accepted for ssh_config's words.
            Value::Bool(false) => "no",
            _ => string(node)?,
        };
        values::host_key_checking(word)
            .ok_or_else(|| unknown_word(word, ["ask", "yes", "accept-new", "no"]))
    });
    layer.user_known_hosts_file = paths(table, "user_known_hosts_file");
    layer.global_known_hosts_file = paths(table, "global_known_hosts_file");
    layer.revoked_host_keys = paths(table, "revoked_host_keys");
    layer.known_hosts_command = table.text("known_hosts_command", |text| {
        Ok((!text.eq_ignore_ascii_case("none")).then(|| text.to_owned()))
    });
    layer.host_key_alias = table.text("host_key_alias", |text| {
        check_alias(text).map(|()| text.to_owned())
    });
    layer.host_key_algorithms = algorithms(table, "host_key_algorithms", Kind::HostKey);
    layer.required_rsa_size = narrow(table.integer("required_rsa_size", values::RSA_BITS));
    layer.hash_known_hosts = table.boolean("hash_known_hosts");
    layer.update_host_keys = table.value("update_host_keys", |node| match &node.value {
        Value::String(text) if text == "ask" => Ok(UpdateHostKeys::Ask),
        _ => Ok(if boolean(node)? {
            UpdateHostKeys::Always
        } else {
            UpdateHostKeys::Never
        }),
    });
}

pub(crate) fn crypto(table: &mut Table<'_, '_>, layer: &mut Layer) {
    layer.ciphers = algorithms(table, "ciphers", Kind::Cipher);
    layer.macs = algorithms(table, "macs", Kind::Mac);
    layer.kex_algorithms = algorithms(table, "kex_algorithms", Kind::Kex);
    layer.compression = table.boolean("compression");
    layer.rekey_limit = table.value("rekey_limit", |node| match &node.value {
        Value::Integer(bytes) => Ok(values::rekey_limit(&bytes.to_string())?),
        _ => Ok(values::rekey_limit(string(node)?)?),
    });
}
