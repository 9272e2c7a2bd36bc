//! FoxyProxy's exports: XML of version 4, JSON of versions 6 and 7 (proxies by id) and of version 8 (a list).

use std::cell::Cell;

use serde_json::{Map, Value};

use super::proxy_rules::{MAX_RULES, Order, Rule, add_rules, check_number, tunnel};
use super::rule_subject::Subject;
use super::url_rule::{UrlRule, regex_of};
use super::{Import, xml};
use crate::exit::Exit;

/// One proxy of the export.
#[derive(Debug, Default)]
struct Proxy {
    title: String,
    is_socks: bool,
    /// No proxy at all ("Default", "Direct"): left out without a note.
    is_direct: bool,
    host: String,
    port: String,
    has_password: bool,
    rules: Vec<Rule>,
}

/// Reads an export of any version.
///
/// # Errors
/// The text is not such a file.
pub(crate) fn read(text: &str) -> Result<Import, Exit> {
    let start = text.trim_start();
    let budget = Cell::new(MAX_RULES);
    let proxies = if start.starts_with('<') {
        proxies_of_xml(&xml::parse(text)?, &budget)
    } else {
        proxies_of_json(text, &budget)?
    };
    if proxies.is_empty() {
        return Err(Exit::usage("the file has no proxy of FoxyProxy")
            .hint("export it in FoxyProxy: Options, Export (.json), in version 4 File, Export Settings (.xml)"));
    }
    if budget.get() == 0 {
        check_number(MAX_RULES + 1)?;
    }
    let mut import = Import::default();
    for proxy in proxies {
        if proxy.is_direct {
            continue;
        }
        let made = if proxy.is_socks {
            tunnel(&proxy.title, &proxy.host, &proxy.port)
        } else {
            Err("it is not a SOCKS proxy".to_owned())
        };
        match made {
            Ok(mut tunnel) => {
                if proxy.has_password {
                    tunnel.note_password("the proxy in FoxyProxy");
                }
                add_rules(&mut tunnel, proxy.rules, Order::ExclusionWins);
                import.push(tunnel);
            }
            Err(reason) => import.note(format!(
                "not carried over: the proxy {}: {reason}",
                proxy.title
            )),
        }
    }
    Ok(import)
}

/// Version 4: a wildcard or a regular expression for the whole URL.
fn proxies_of_xml(root: &xml::Element, budget: &Cell<usize>) -> Vec<Proxy> {
    let list = root.child("proxies").unwrap_or(root);
    let is = |element: &xml::Element, name: &str| element.get(name) == "true";
    let proxy = |element: &xml::Element| {
        let conf = element.child("manualconf");
        let get = |name: &str| conf.map_or("", |conf| conf.get(name)).to_owned();
        let matches = element
            .child("matches")
            .into_iter()
            .flat_map(|list| list.children("match"));
        let rule = |found: &xml::Element| {
            let pattern = found.get("pattern");
            let case = is(found, "caseSensitive");
            Rule {
                shown: pattern.to_owned(),
                rule: if is(found, "isRegEx") {
                    UrlRule::regex(pattern, Subject::Url, pattern, case)
                } else {
                    UrlRule::wildcard(pattern, Subject::Url, pattern, case)
                },
                excludes: is(found, "isBlackList"),
            }
        };
        Proxy {
            title: element.get("name").to_owned(),
            is_socks: get("isSocks") == "true",
            is_direct: element.get("mode") != "manual" || is(element, "lastresort"),
            host: get("host"),
            port: get("port"),
            has_password: !get("password").is_empty(),
            rules: matches
                .filter(|found| found.get("enabled") != "false" && take_one(budget))
                .map(rule)
                .collect(),
        }
    };
    list.children("proxy").map(proxy).collect()
}

fn proxies_of_json(text: &str, budget: &Cell<usize>) -> Result<Vec<Proxy>, Exit> {
    let root: Value = serde_json::from_str(text).map_err(|err| {
        Exit::usage("the file is neither JSON nor XML of FoxyProxy")
            .caused_by(&err)
            .hint("give the file that FoxyProxy exported, as it is")
    })?;
    let Value::Object(root) = root else {
        return Ok(Vec::new());
    };
    if let Some(Value::Array(list)) = root.get("data") {
        return Ok(list
            .iter()
            .filter_map(Value::as_object)
            .map(|proxy| proxy_of_8(proxy, budget))
            .collect());
    }
    let mut proxies: Vec<&Map<String, Value>> =
        root.values().filter_map(Value::as_object).collect();
    if let Some(Value::Array(list)) = root.get("proxySettings") {
        proxies.extend(list.iter().filter_map(Value::as_object));
    }
    proxies.retain(|proxy| proxy.contains_key("whitePatterns") || proxy.contains_key("address"));
    Ok(proxies
        .into_iter()
        .map(|proxy| proxy_of_6(proxy, budget))
        .collect())
}

/// Whether one more rule may be read. What is left is the rules of all proxies together, so 0 means too many.
fn take_one(budget: &Cell<usize>) -> bool {
    budget.set(budget.get().saturating_sub(1));
    budget.get() > 0
}

/// A text or a number as text.
fn text(map: &Map<String, Value>, key: &str) -> String {
    match map.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn rules(
    map: &Map<String, Value>,
    lists: [&str; 2],
    budget: &Cell<usize>,
    rule: impl Fn(&Map<String, Value>, &str) -> Result<UrlRule, String>,
) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (key, excludes) in lists.into_iter().zip([false, true]) {
        let items = map.get(key).and_then(Value::as_array).into_iter().flatten();
        for item in items.filter_map(Value::as_object) {
            if item.get("active") == Some(&Value::Bool(false)) || !take_one(budget) {
                continue;
            }
            let shown = text(item, "pattern");
            rules.push(Rule {
                rule: rule(item, &shown),
                shown,
                excludes,
            });
        }
    }
    rules
}

/// Versions 6 and 7: patterns for the host. `*.` at the start is for the domain itself too, `**` for any text before.
fn proxy_of_6(map: &Map<String, Value>, budget: &Cell<usize>) -> Proxy {
    let kind = map.get("type").and_then(Value::as_u64);
    let rule = |item: &Map<String, Value>, pattern: &str| {
        let rule = rule_of_6(item, pattern)?;
        Ok(match item.get("protocols").and_then(Value::as_u64) {
            Some(2) => rule.only("http"),
            Some(4) => rule.only("https"),
            _ => rule,
        })
    };
    Proxy {
        title: text(map, "title"),
        // 1 HTTP, 2 HTTPS, 3 SOCKS5, 4 SOCKS4, 5 none, 6 PAC, 7 WPAD, 8 the system's
        is_socks: matches!(kind, Some(3 | 4)),
        is_direct: !matches!(kind, Some(1..=4)),
        host: text(map, "address"),
        port: text(map, "port"),
        has_password: !text(map, "password").is_empty(),
        rules: rules(map, ["whitePatterns", "blackPatterns"], budget, rule),
    }
}

fn rule_of_6(item: &Map<String, Value>, pattern: &str) -> Result<UrlRule, String> {
    if text(item, "type") == "2" {
        return UrlRule::regex(pattern, Subject::Host, pattern, false);
    }
    match pattern.strip_prefix("*.") {
        Some(domain) if !domain.contains(['*', '?']) => UrlRule::domain(pattern, domain),
        Some(rest) => {
            let meaning = format!("^(?:.+\\.)?{}$", regex_of(rest));
            let shapes = vec![pattern.to_owned(), rest.to_owned()];
            UrlRule::shaped(pattern, Subject::Host, &meaning, shapes)
        }
        None => {
            let glob = pattern.replace("**", "*");
            let glob = if glob.starts_with('.') {
                format!("*{glob}")
            } else {
                glob
            };
            UrlRule::wildcard(pattern, Subject::Host, &glob, false)
        }
    }
}

/// Version 8: expressions that may match anywhere in the URL; `://*.` is for the domain itself too.
fn proxy_of_8(map: &Map<String, Value>, budget: &Cell<usize>) -> Proxy {
    let kind = text(map, "type");
    let rule = |item: &Map<String, Value>, pattern: &str| {
        if text(item, "type") == "regex" {
            return UrlRule::regex(pattern, Subject::Url, pattern, false);
        }
        let open = |glob: String| {
            let front = if glob.starts_with('*') || glob.starts_with("http") {
                ""
            } else {
                "*"
            };
            let back = if glob.ends_with('*') { "" } else { "*" };
            format!("{front}{glob}{back}")
        };
        let meaning = regex_of(pattern).replace("://.*\\.", "://(.*\\.)?");
        let mut shapes = vec![open(pattern.to_owned())];
        if pattern.contains("://*.") {
            shapes.push(open(pattern.replacen("://*.", "://", 1)));
        }
        UrlRule::shaped(pattern, Subject::Url, &meaning, shapes)
    };
    Proxy {
        title: text(map, "title"),
        is_socks: kind.starts_with("socks"),
        is_direct: kind == "direct",
        host: text(map, "hostname"),
        port: text(map, "port"),
        has_password: !text(map, "password").is_empty(),
        rules: rules(map, ["include", "exclude"], budget, rule),
    }
}

#[cfg(test)]
mod tests;
