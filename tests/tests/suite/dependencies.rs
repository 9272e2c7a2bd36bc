//! What the project is made of: licences, sources and bans of `deny.toml`, proved from `cargo metadata` alone.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

fn root() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the workspace's folder")
}

fn metadata() -> Result<Value> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked"])
        .current_dir(root())
        .output()?;
    ensure!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(serde_json::from_slice(&out.stdout)?)
}

fn rules() -> Result<toml::Table> {
    Ok(std::fs::read_to_string(root().join("deny.toml"))?.parse()?)
}

fn words(value: &toml::Value) -> BTreeSet<String> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .filter_map(|item| item.as_str().or_else(|| item.get("crate")?.as_str()))
        .map(str::to_owned)
        .collect()
}

/// Whether an SPDX expression is met by the allowed licences: `AND` binds closer than `OR`.
fn allowed(expression: &str, allow: &BTreeSet<String>) -> bool {
    let text = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let tokens: Vec<&str> = text.split_whitespace().collect();
    let mut at = 0;
    either(&tokens, &mut at, allow) && at == tokens.len()
}

fn either(tokens: &[&str], at: &mut usize, allow: &BTreeSet<String>) -> bool {
    let mut met = both(tokens, at, allow);
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        met |= both(tokens, at, allow);
    }
    met
}

fn both(tokens: &[&str], at: &mut usize, allow: &BTreeSet<String>) -> bool {
    let mut met = single(tokens, at, allow);
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        met &= single(tokens, at, allow);
    }
    met
}

fn single(tokens: &[&str], at: &mut usize, allow: &BTreeSet<String>) -> bool {
    let Some(token) = tokens.get(*at) else {
        return false;
    };
    *at += 1;
    if *token == "(" {
        let met = either(tokens, at, allow);
        let closed = tokens.get(*at) == Some(&")");
        *at += 1;
        return met && closed;
    }
    let mut name = (*token).to_owned();
    if tokens.get(*at) == Some(&"WITH") {
        name = format!("{name} WITH {}", tokens.get(*at + 1).unwrap_or(&""));
        *at += 2;
    }
    allow.contains(&name)
}

#[test]
fn spdx_expressions_are_evaluated_by_the_spdx_rules() {
    let allow = BTreeSet::from(["MIT".into(), "ISC".into(), "A WITH B".into()]);
    for good in [
        "MIT",
        "GPL-3.0 OR MIT",
        "GPL-3.0/MIT",
        "(MIT OR GPL-3.0) AND ISC",
        "A WITH B",
        "GPL-3.0 OR MIT AND ISC",
    ] {
        assert!(allowed(good, &allow), "{good}");
    }
    for bad in [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "A",
        "A WITH C",
        "(MIT",
        "MIT ISC",
    ] {
        assert!(!allowed(bad, &allow), "{bad}");
    }
}

#[test]
fn every_dependency_has_an_allowed_licence_source_and_name() -> Result<()> {
    let (metadata, rules) = (metadata()?, rules()?);
    let licences = words(&rules["licenses"]["allow"]);
    let banned = words(&rules["bans"]["deny"]);
    let sources = words(&rules["sources"]["allow-registry"]);
    let mut faults = Vec::new();
    let packages = metadata["packages"].as_array().context("no packages")?;
    for package in packages {
        let name = package["name"].as_str().context("no name")?;
        let licence = package["license"].as_str().unwrap_or("");
        if !allowed(licence, &licences) {
            faults.push(format!("{name}: licence {licence:?}"));
        }
        if banned.contains(name) {
            faults.push(format!("{name}: banned"));
        }
        if let Some(source) = package["source"].as_str() {
            let registry = source.strip_prefix("registry+").unwrap_or(source);
            if !sources.contains(registry) {
                faults.push(format!("{name}: source {source}"));
            }
        }
    }
    ensure!(packages.len() > 50, "only {} packages", packages.len());
    ensure!(faults.is_empty(), "{faults:#?}");
    Ok(())
}
