//! Known vulnerabilities of the locked dependencies, from the snapshot `tests/advisories.toml`. It works without the
//! network; what was published after the snapshot, only `cargo deny check advisories` finds.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use semver::{Version, VersionReq};

use super::{root, rules};

/// The affected versions of one crate, as RUSTSEC describes them: all that are neither patched nor unaffected.
struct Advisory {
    id: String,
    package: String,
    title: String,
    /// The ranges of the patched and of the unaffected versions.
    safe: Vec<VersionReq>,
}

impl Advisory {
    fn read(table: &toml::Value) -> Result<Self> {
        let mut safe = Vec::new();
        for key in ["patched", "unaffected"] {
            let ranges = table.get(key).and_then(toml::Value::as_array);
            for range in ranges.map(Vec::as_slice).unwrap_or_default() {
                safe.push(range.as_str().context("a range is not a text")?.parse()?);
            }
        }
        Ok(Self {
            id: text(table, "id")?,
            package: text(table, "package")?,
            title: text(table, "title")?,
            safe,
        })
    }

    /// Whether `version` is affected. A prerelease is, unless a range names a prerelease of the same version: it may
    /// have been published before the fix.
    fn affects(&self, version: &Version) -> bool {
        !self.safe.iter().any(|range| range.matches(version))
    }
}

fn text(table: &toml::Value, key: &str) -> Result<String> {
    let value = table.get(key).and_then(toml::Value::as_str);
    Ok(value.with_context(|| format!("no {key}"))?.to_owned())
}

fn tables<'a>(file: &'a toml::Table, key: &str) -> &'a [toml::Value] {
    let list = file.get(key).and_then(toml::Value::as_array);
    list.map(Vec::as_slice).unwrap_or_default()
}

/// The accepted advisories with their reasons.
fn exceptions(snapshot: &toml::Table) -> Result<BTreeMap<String, String>> {
    let list = tables(snapshot, "exceptions").iter();
    list.map(|table| Ok((text(table, "id")?, text(table, "reason")?)))
        .collect()
}

/// The names and versions in the text of a lock file.
fn locked(lock: &str) -> Result<Vec<(String, Version)>> {
    let lock: toml::Table = lock.parse()?;
    let packages = tables(&lock, "package").iter();
    packages
        .map(|table| Ok((text(table, "name")?, text(table, "version")?.parse()?)))
        .collect()
}

/// Compares lock files with a snapshot. Returns a line for each affected version without an exception, for each
/// exception that no locked version needs, and for each exception without a reason.
fn violations(locks: &[&str], snapshot: &str) -> Result<Vec<String>> {
    let snapshot: toml::Table = snapshot.parse()?;
    let exceptions = exceptions(&snapshot)?;
    let mut packages = Vec::new();
    for lock in locks {
        packages.extend(locked(lock)?);
    }
    let (mut found, mut needed) = (BTreeSet::new(), BTreeSet::new());
    for table in tables(&snapshot, "advisories") {
        let advisory = Advisory::read(table).with_context(|| format!("in {table}"))?;
        for (name, version) in &packages {
            if *name != advisory.package || !advisory.affects(version) {
                continue;
            }
            let Advisory { id, title, .. } = &advisory;
            needed.insert(id.clone());
            if !exceptions.contains_key(id) {
                found.insert(format!("{name} {version}: {id}, {title}"));
            }
        }
    }
    for (id, reason) in &exceptions {
        if !needed.contains(id) {
            found.insert(format!("{id}: an exception that is not needed"));
        }
        if reason.trim().is_empty() {
            found.insert(format!("{id}: an exception without a reason"));
        }
    }
    Ok(found.into_iter().collect())
}

fn snapshot() -> Result<String> {
    Ok(std::fs::read_to_string(
        root().join("tests/advisories.toml"),
    )?)
}

#[test]
fn no_locked_version_has_a_known_advisory_without_an_exception() -> Result<()> {
    let lock = std::fs::read_to_string(root().join("Cargo.lock"))?;
    let fuzz = std::fs::read_to_string(root().join("fuzz/Cargo.lock"))?;
    let violations = violations(&[&lock, &fuzz], &snapshot()?)?;
    ensure!(violations.is_empty(), "{violations:#?}");
    Ok(())
}

#[test]
fn cargo_deny_ignores_the_advisories_that_have_an_exception() -> Result<()> {
    let ignored = rules()?["advisories"]["ignore"].clone();
    let ignored = ignored.as_array().context("no list")?.iter();
    let ignored: BTreeSet<String> = ignored
        .map(|table| text(table, "id"))
        .collect::<Result<_>>()?;
    let accepted: BTreeSet<String> = exceptions(&snapshot()?.parse()?)?.into_keys().collect();
    assert_eq!(ignored, accepted);
    Ok(())
}

/// A snapshot with one advisory for the crate `leaky`, fixed in 1.2.3, and these exceptions.
fn made_up(exceptions: &str) -> String {
    format!(
        r#"{exceptions}
        [[advisories]]
        id = "RUSTSEC-2020-9999"
        package = "leaky"
        title = "Leaks"
        patched = [">= 1.2.3, < 2.0.0", ">= 2.0.1"]
        unaffected = ["< 0.5.0"]
        "#
    )
}

fn lock(name: &str, version: &str) -> String {
    format!("version = 4\n[[package]]\nname = {name:?}\nversion = {version:?}\n")
}

const EXCEPTION: &str = "[[exceptions]]\nid = \"RUSTSEC-2020-9999\"\nreason = \"only in tests\"";

#[test]
fn an_affected_version_is_a_violation() -> Result<()> {
    for version in ["0.5.0", "1.2.2", "2.0.0", "1.2.3-rc.1", "2.0.1-rc.1"] {
        assert_eq!(
            violations(&[&lock("leaky", version)], &made_up(""))?,
            [format!("leaky {version}: RUSTSEC-2020-9999, Leaks")]
        );
    }
    Ok(())
}

#[test]
fn patched_and_unaffected_versions_and_other_crates_are_no_violation() -> Result<()> {
    for version in [
        "0.4.9",
        "1.2.3",
        "1.9.0",
        "2.0.1",
        "2.0.1+metadata",
        "3.0.0",
    ] {
        let found = violations(&[&lock("leaky", version)], &made_up(""))?;
        assert!(found.is_empty(), "{version}: {found:?}");
    }
    assert!(violations(&[&lock("other", "1.0.0")], &made_up(""))?.is_empty());
    Ok(())
}

#[test]
fn every_lock_file_is_compared() -> Result<()> {
    let (patched, affected) = (lock("leaky", "3.0.0"), lock("leaky", "1.0.0"));
    assert_eq!(violations(&[&patched, &affected], &made_up(""))?.len(), 1);
    Ok(())
}

#[test]
fn an_exception_needs_an_affected_version_and_a_reason() -> Result<()> {
    assert!(violations(&[&lock("leaky", "1.0.0")], &made_up(EXCEPTION))?.is_empty());
    assert_eq!(
        violations(&[&lock("leaky", "1.2.3")], &made_up(EXCEPTION))?,
        ["RUSTSEC-2020-9999: an exception that is not needed"]
    );
    let unexplained = EXCEPTION.replace("only in tests", " ");
    assert_eq!(
        violations(&[&lock("leaky", "1.0.0")], &made_up(&unexplained))?,
        ["RUSTSEC-2020-9999: an exception without a reason"]
    );
    Ok(())
}
