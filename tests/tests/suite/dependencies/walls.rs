//! Which crates must not reach which: the pure crates link no runtime, and the shipped programs link one SSH
//! implementation and one cryptographic library.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{metadata, root};

/// The names of the crates that `package` links on this system, itself included: its normal dependencies, their
/// normal dependencies and so on, with the package's features as `options` select them.
fn linked(package: &str, options: &[&str]) -> Result<BTreeSet<String>> {
    // cargo metadata resolves the features of the whole workspace at once, cargo tree those of one package.
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--edges=normal"])
        .args(["--prefix=none", "--format={p}", "--package", package])
        .args(options)
        .current_dir(root())
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    let names = text.lines().filter_map(|line| line.split(' ').next());
    let names: BTreeSet<String> = names.map(str::to_owned).collect();
    // A check of the test itself.
    ensure!(names.contains(package), "{package} is not in {names:?}");
    Ok(names)
}

#[test]
fn the_pure_crates_do_not_link_tokio() -> Result<()> {
    let packages: [(&str, &[&str]); 6] = [
        ("tunneld-keys", &[]),
        ("tunneld-config", &[]),
        ("tunneld-toml", &[]),
        ("tunneld-ssh", &["--no-default-features"]),
        ("tunneld-platform", &["--no-default-features"]),
        ("tunneld-proto", &["--no-default-features"]),
    ];
    for (package, options) in packages {
        let linked = linked(package, options)?;
        ensure!(!linked.contains("tokio"), "{package} links tokio");
    }
    // A check of the test itself: it finds tokio where it is.
    ensure!(linked("tunneld-ssh", &[])?.contains("tokio"));
    Ok(())
}

#[test]
fn the_programs_without_the_demo_link_neither_russh_nor_ring() -> Result<()> {
    let programs: [(&str, &[&str]); 2] =
        [("tunneld", &["--no-default-features"]), ("tunnelctl", &[])];
    for (program, options) in programs {
        let linked = linked(program, options)?;
        for unwanted in ["russh", "ring"] {
            ensure!(
                !linked.contains(unwanted),
                "{program} links {unwanted} without the demo"
            );
        }
    }
    ensure!(linked("tunneld-demo", &[])?.contains("ring"));
    Ok(())
}

#[test]
fn only_the_demo_and_tests_depend_on_russh() -> Result<()> {
    let metadata = metadata()?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let mut users = BTreeSet::new();
    for package in packages {
        // The packages of the workspace have no source.
        if !package["source"].is_null() {
            continue;
        }
        let dependencies = package["dependencies"]
            .as_array()
            .context("no dependencies")?;
        let uses_russh = dependencies
            .iter()
            .any(|dependency| dependency["name"] == "russh" && dependency["kind"] != "dev");
        if uses_russh {
            users.insert(package["name"].as_str().context("no name")?);
        }
    }
    // The lab is the library of the package of the suite, which nothing else links.
    assert_eq!(users, BTreeSet::from(["tunneld-demo", "tunneld-tests"]));
    Ok(())
}
