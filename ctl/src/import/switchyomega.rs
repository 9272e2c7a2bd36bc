//! SwitchyOmega (and ZeroOmega): its backup, `OmegaOptions.bak`, which is JSON, and its rule lists.

use serde_json::{Map, Value};

use super::proxy_rules::{MAX_RULES, Order, Rule, add_rules, check_number, tunnel};
use super::rule_subject::Subject;
use super::url_rule::UrlRule;
use super::{Import, rule_list};
use crate::exit::Exit;

/// The port of SwitchyOmega's first profile, for a list that names none.
const DEFAULT_PORT: &str = "1080";

/// The most profiles of a backup: each proxy is compared with each switch.
const MAX_PROFILES: usize = 64;

/// Reads a backup or a rule list.
///
/// # Errors
/// The text is neither.
pub(crate) fn read(text: &str) -> Result<Import, Exit> {
    if text.trim_start().starts_with('{') {
        return backup(text);
    }
    let rules: Vec<Rule> = rule_list::read(text)?
        .into_iter()
        .map(|(rule, _)| rule)
        .collect();
    check_number(rules.len())?;
    if !rules.iter().any(|rule| rule.rule.is_ok()) {
        return Err(
            Exit::usage("the file is neither a backup nor a rule list of SwitchyOmega")
                .hint("export it in SwitchyOmega: Import/Export, Make backup"),
        );
    }
    let mut import = Import::default();
    if let Ok(mut tunnel) = tunnel("switchyomega", "localhost", DEFAULT_PORT) {
        tunnel.note(format!("a rule list does not name the port of its proxy: {DEFAULT_PORT} is SwitchyOmega's default"));
        add_rules(&mut tunnel, rules, Order::FirstWins);
        import.push(tunnel);
    }
    Ok(import)
}

fn backup(text: &str) -> Result<Import, Exit> {
    let root: Map<String, Value> = serde_json::from_str(text).map_err(|err| {
        Exit::usage("the file is not a backup of SwitchyOmega")
            .caused_by(&err)
            .hint("give the .bak file as it is")
    })?;
    let profiles: Vec<&Map<String, Value>> = root
        .iter()
        .filter(|(key, _)| key.starts_with('+'))
        .filter_map(|(_, value)| value.as_object())
        .collect();
    if profiles.len() > MAX_PROFILES {
        return Err(
            Exit::usage(format!("the file has more than {MAX_PROFILES} profiles"))
                .hint("remove those that you do not need, and export it again"),
        );
    }
    if profiles.is_empty() {
        return Err(Exit::usage("the file has no profile of SwitchyOmega")
            .hint("export it in SwitchyOmega: Import/Export, Make backup"));
    }
    let mut import = Import::default();
    let mut number = 0;
    for profile in profiles
        .iter()
        .filter(|profile| text_of(profile, "profileType") == "FixedProfile")
    {
        number += proxy(&mut import, profile, &profiles)?;
        // The rules of all proxies together: each proxy may use the same list.
        check_number(number)?;
    }
    if import.tunnels.is_empty() && import.notes.is_empty() {
        import.note("no profile has a SOCKS proxy");
    }
    Ok(import)
}

fn text_of<'a>(map: &'a Map<String, Value>, key: &str) -> &'a str {
    map.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Makes the tunnel of a proxy, with the rules of every switch profile that select it. Returns the number of rules.
fn proxy(
    import: &mut Import,
    profile: &Map<String, Value>,
    all: &[&Map<String, Value>],
) -> Result<usize, Exit> {
    let name = text_of(profile, "name");
    let servers = ["fallbackProxy", "proxyForHttp", "proxyForHttps"];
    let server = servers
        .iter()
        .find_map(|key| profile.get(*key)?.as_object());
    let Some(server) = server.filter(|server| text_of(server, "scheme").starts_with("socks"))
    else {
        import.note(format!(
            "not carried over: the profile {name}: it is not a SOCKS proxy"
        ));
        return Ok(0);
    };
    let port = server
        .get("port")
        .map(|port| port.to_string().trim_matches('"').to_owned());
    match tunnel(name, text_of(server, "host"), &port.unwrap_or_default()) {
        Err(reason) => import.note(format!("not carried over: the profile {name}: {reason}")),
        Ok(mut tunnel) => {
            let has_password = profile.get("auth").is_some_and(|auth| !auth.is_null());
            if has_password {
                tunnel.note_password("the profile in SwitchyOmega");
            }
            let rules = rules_of(name, profile, all)?;
            let number = rules.len();
            add_rules(&mut tunnel, rules, Order::FirstWins);
            import.push(tunnel);
            return Ok(number);
        }
    }
    Ok(0)
}

/// The rules of every switch that selects the proxy; without any, what the proxy itself is not used for.
fn rules_of(
    name: &str,
    profile: &Map<String, Value>,
    all: &[&Map<String, Value>],
) -> Result<Vec<Rule>, Exit> {
    let mut rules = Vec::new();
    let mut looked_at = 0;
    for switch in all {
        let found = rules_for(name, switch)?;
        looked_at += found.len();
        check_number(looked_at)?;
        // A switch that never selects the proxy says nothing about it.
        if found.iter().any(|rule| !rule.excludes) {
            rules.extend(found);
        }
    }
    if rules.is_empty() {
        rules.extend(bypassed(profile));
    }
    check_number(rules.len())?;
    Ok(rules)
}

/// The rules of a switch profile, in its order: those that select `name`, and those that select another one, which exclude.
fn rules_for(name: &str, switch: &Map<String, Value>) -> Result<Vec<Rule>, Exit> {
    let mut rules = Vec::new();
    match text_of(switch, "profileType") {
        "SwitchProfile" => {
            let items = switch
                .get("rules")
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            for item in items.filter_map(Value::as_object).take(MAX_RULES + 1) {
                rules.push(rule(item, text_of(item, "profileName") != name));
            }
            if text_of(switch, "defaultProfileName") == name {
                let all = UrlRule::wildcard("*", Subject::Host, "*", false);
                rules.push(Rule {
                    shown: "*".to_owned(),
                    rule: all,
                    excludes: false,
                });
            }
        }
        "RuleListProfile" => {
            let selected = text_of(switch, "matchProfileName");
            for (mut rule, profile) in rule_list::read(text_of(switch, "ruleList"))? {
                rule.excludes |= profile.as_deref().unwrap_or(selected) != name;
                rules.push(rule);
            }
        }
        _ => {}
    }
    Ok(rules)
}

fn rule(item: &Map<String, Value>, excludes: bool) -> Rule {
    let empty = Map::new();
    let condition = item
        .get("condition")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    let kind = text_of(condition, "conditionType").trim_end_matches("Condition");
    let pattern = match condition.get("ip").and_then(Value::as_str) {
        Some(ip) => {
            let prefix = condition
                .get("prefixLength")
                .map(Value::to_string)
                .unwrap_or_default();
            format!("{ip}/{prefix}")
        }
        None => text_of(condition, "pattern").to_owned(),
    };
    Rule {
        rule: rule_list::condition(kind, &pattern),
        shown: if pattern.is_empty() {
            kind.to_owned()
        } else {
            pattern
        },
        excludes,
    }
}

fn bypassed(profile: &Map<String, Value>) -> Vec<Rule> {
    let items = profile
        .get("bypassList")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    items
        .filter_map(Value::as_object)
        .map(|item| {
            let pattern = text_of(item, "pattern").to_owned();
            Rule {
                rule: rule_list::condition("Bypass", &pattern),
                shown: pattern,
                excludes: true,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn backup_of(rules: Value) -> String {
        json!({
            "schemaVersion": 2, "-startupProfileName": "auto",
            "+emr": {"profileType": "FixedProfile", "name": "emr", "auth": {"fallbackProxy": {"password": "secret"}},
                "fallbackProxy": {"scheme": "socks5", "host": "127.0.0.1", "port": 8157},
                "bypassList": [{"conditionType": "BypassCondition", "pattern": "localhost"}]},
            "+web": {"profileType": "FixedProfile", "name": "web",
                "fallbackProxy": {"scheme": "http", "host": "10.1.1.1", "port": 3128}},
            "+auto": {"profileType": "SwitchProfile", "name": "auto", "defaultProfileName": "direct", "rules": rules}
        })
        .to_string()
    }

    fn condition(kind: &str, pattern: &str, profile: &str) -> Value {
        json!({"condition": {"conditionType": kind, "pattern": pattern}, "profileName": profile})
    }

    #[test]
    fn a_backup_has_proxies_and_the_rules_that_select_them() {
        let import = read(&backup_of(json!([
            condition("HostWildcardCondition", "bastion.compute.internal", "direct"),
            condition("HostWildcardCondition", "*.compute.internal", "emr"),
            condition("HostWildcardCondition", "late.compute.internal", "direct"),
            condition("UrlWildcardCondition", "*://10.*/*", "emr"),
            condition("KeywordCondition", "word", "emr"),
            {"condition": {"conditionType": "IpCondition", "ip": "192.168.0.0", "prefixLength": 16}, "profileName": "emr"},
        ])))
        .unwrap();
        let tunnel = &import.tunnels[0];
        assert_eq!(tunnel.name, "emr");
        assert_eq!(
            tunnel.keys["proxy_for"],
            json!([
                "!bastion.compute.internal",
                "compute.internal",
                "*.compute.internal",
                "10.0.0.0/8",
                "192.168.0.0/16"
            ])
        );
        let notes = tunnel.notes.join("\n");
        assert!(
            notes.contains("!late.compute.internal: a rule before it"),
            "{notes}"
        );
        assert!(
            notes.contains("word: a condition of the type Keyword"),
            "{notes}"
        );
        assert!(!format!("{import:?}").contains("secret"));
        assert!(import.notes[0].contains("web: it is not a SOCKS proxy"));
    }

    #[test]
    fn rule_lists_of_both_formats_are_read() {
        let own = "[SwitchyOmega Conditions]\n; note\n!bastion.a.example\n*.a.example\nUrlWildcard: *://b.example/*\nKeyword: x\n";
        let auto = "[AutoProxy 0.2.9]\n! note\n@@||bastion.a.example\n||a.example\n|http://b.example/\nkeyword\n";
        for (text, last) in [(own, json!("b.example")), (auto, json!("b.example"))] {
            let import = read(text).unwrap();
            let tunnel = &import.tunnels[0];
            let list = tunnel.keys["proxy_for"].as_array().unwrap();
            assert!(list.contains(&json!("!bastion.a.example")), "{tunnel:?}");
            assert!(list.contains(&json!("*.a.example")), "{tunnel:?}");
            assert_eq!(list.last(), Some(&last), "{tunnel:?}");
            assert!(
                tunnel
                    .notes
                    .iter()
                    .any(|note| note.contains("not carried over")),
                "{tunnel:?}"
            );
        }
    }

    #[test]
    fn files_of_something_else_are_one_error() {
        for (text, part) in [
            ("", "neither a backup"),
            ("{", "not a backup"),
            ("{}", "no profile"),
            ("{\"+a\": 1}", "no profile"),
            ("W0F1dG9Qcm94eSAwLjIuOV0K", "base64"),
            ("; only a comment\n", "neither a backup"),
        ] {
            let exit = read(text).unwrap_err();
            assert!(exit.message.as_deref().unwrap().contains(part), "{exit:?}");
            assert_eq!(exit.code, 2);
        }
    }
}
