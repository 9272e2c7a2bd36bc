//! The rules of `deny.toml` (licences, sources, banned crates) for every dependency, read from `cargo metadata`. cargo-deny
//! is not needed, and nothing is downloaded. Known vulnerabilities are in `advisories`, what no crate may link in `walls`.

mod advisories;
mod walls;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

fn root() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the workspace's folder")
}

fn metadata() -> Result<Value> {
    // Without the filter cargo also wants the crates of other systems, which no build here has downloaded; with
    // `--offline` it never tries. cargo-deny, if installed, checks
    // all systems in .ci/run.
    let platform = format!("--filter-platform={}", target_platform()?);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .arg(platform)
        .current_dir(root())
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The target triple that the tests are built for: that of cargo, since the tests run where they are built.
fn target_platform() -> Result<String> {
    let output = Command::new(env!("CARGO")).arg("-vV").output()?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("cargo -vV prints no host")?.to_owned())
}

fn rules() -> Result<toml::Table> {
    Ok(std::fs::read_to_string(root().join("deny.toml"))?.parse()?)
}

/// The strings of a list in deny.toml.
fn strings(value: &toml::Value) -> BTreeSet<String> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .filter_map(toml::Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// The crates that deny.toml bans, with their `wrappers`: the crates that may depend on them nevertheless.
fn bans(rules: &toml::Table) -> BTreeMap<String, BTreeSet<String>> {
    let list = rules["bans"]["deny"].as_array();
    let list = list.map(Vec::as_slice).unwrap_or_default().iter();
    list.filter_map(|ban| {
        let name = ban.get("crate")?.as_str()?.to_owned();
        Some((name, ban.get("wrappers").map(strings).unwrap_or_default()))
    })
    .collect()
}

/// The packages of the graph that depend on each package, by name.
fn dependents(metadata: &Value) -> Result<BTreeMap<&str, BTreeSet<&str>>> {
    let packages = metadata["packages"].as_array().context("no packages")?;
    let names: BTreeMap<_, _> = packages
        .iter()
        .filter_map(|package| Some((package["id"].as_str()?, package["name"].as_str()?)))
        .collect();
    let name_of = |id: &Value| names.get(id.as_str().unwrap_or("")).copied();
    let mut dependents: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for node in metadata["resolve"]["nodes"]
        .as_array()
        .context("no graph")?
    {
        let dependent = name_of(&node["id"]).context("an unknown package")?;
        for id in node["dependencies"].as_array().into_iter().flatten() {
            let name = name_of(id).context("an unknown dependency")?;
            dependents.entry(name).or_default().insert(dependent);
        }
    }
    Ok(dependents)
}

/// Whether the allowed licences satisfy an SPDX expression, in which `AND` binds closer than `OR`. `/` is the old way to
/// write `OR`.
fn allowed(expression: &str, allow: &BTreeSet<String>) -> bool {
    let text = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let tokens: Vec<&str> = text.split_whitespace().collect();
    let mut at = 0;
    alternatives(&tokens, &mut at, allow) && at == tokens.len()
}

/// One or more alternatives with `OR` between them.
fn alternatives(tokens: &[&str], at: &mut usize, allow: &BTreeSet<String>) -> bool {
    let mut satisfied = conjunction(tokens, at, allow);
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        satisfied |= conjunction(tokens, at, allow);
    }
    satisfied
}

/// One or more terms with `AND` between them.
fn conjunction(tokens: &[&str], at: &mut usize, allow: &BTreeSet<String>) -> bool {
    let mut satisfied = term(tokens, at, allow);
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        satisfied &= term(tokens, at, allow);
    }
    satisfied
}

/// One licence, perhaps `WITH` an exception, or an expression in parentheses.
fn term(tokens: &[&str], at: &mut usize, allow: &BTreeSet<String>) -> bool {
    let Some(token) = tokens.get(*at) else {
        return false;
    };
    *at += 1;
    if *token == "(" {
        let satisfied = alternatives(tokens, at, allow);
        let closed = tokens.get(*at) == Some(&")");
        *at += 1;
        return satisfied && closed;
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
    let licences = strings(&rules["licenses"]["allow"]);
    let (bans, dependents) = (bans(&rules), dependents(&metadata)?);
    let sources = strings(&rules["sources"]["allow-registry"]);
    let mut violations = Vec::new();
    let packages = metadata["packages"].as_array().context("no packages")?;
    for package in packages {
        let name = package["name"].as_str().context("no name")?;
        let licence = package["license"].as_str().unwrap_or("");
        if !allowed(licence, &licences) {
            violations.push(format!("{name}: licence {licence:?}"));
        }
        if let Some(wrappers) = bans.get(name) {
            for dependent in dependents.get(name).into_iter().flatten() {
                if !wrappers.contains(*dependent) {
                    violations.push(format!("{name}: banned from {dependent}"));
                }
            }
        }
        if let Some(source) = package["source"].as_str() {
            let registry = source.strip_prefix("registry+").unwrap_or(source);
            if !sources.contains(registry) {
                violations.push(format!("{name}: source {source}"));
            }
        }
    }
    // Checks of the test itself: the metadata includes the dependencies and the graph.
    ensure!(packages.len() > 50, "only {} packages", packages.len());
    ensure!(dependents["russh"].contains("tunneld-demo"));
    ensure!(violations.is_empty(), "{violations:#?}");
    Ok(())
}
