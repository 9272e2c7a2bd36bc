//! The recipes in docs/recipes, read from there: every TOML block is a valid configuration, and the tunnels that they
//! describe carry bytes. Shell scripts replace `aws` and its Session Manager plugin, in front of a real server.

mod aws;
mod hpc;

use std::path::Path;

use anyhow::{Context, Result};
use tunneld_tests::daemon::Daemon;
use tunneld_tests::home::{Home, program_path};
use tunneld_tests::process::write_script;

/// The fenced code blocks of this language in a page of docs/recipes.
pub(super) fn blocks(page: &str, language: &str) -> Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recipes");
    let text = std::fs::read_to_string(path.join(page)).with_context(|| page.to_owned())?;
    let parts = text.split("```").skip(1).step_by(2);
    let blocks = parts.filter_map(|part| part.strip_prefix(language)?.strip_prefix('\n'));
    Ok(blocks.map(str::to_owned).collect())
}

/// The block with `phrase` replaced. Panics if the block does not contain it: then the page has changed.
pub(super) fn with(block: &str, phrase: &str, replacement: &str) -> String {
    assert!(block.contains(phrase), "{phrase:?} is not in:\n{block}");
    block.replace(phrase, replacement)
}

/// The first block of the page that contains `phrase`.
pub(super) fn block(page: &str, language: &str, phrase: &str) -> Result<String> {
    let found = blocks(page, language)?
        .into_iter()
        .find(|block| block.contains(phrase));
    found.with_context(|| format!("{page} has no {language} with {phrase:?}"))
}

/// The lines of the lab's tunnel table without its name and host: the key and known_hosts.
pub(super) fn credentials(tunnel_toml: &str) -> String {
    let lines = tunnel_toml.lines().skip(2);
    lines.map(|line| format!("{line}\n")).collect()
}

/// Writes a shell script to the home's bin folder.
pub(super) fn add_program(home: &Home, name: &str, script: &str) -> Result<()> {
    std::fs::create_dir_all(home.path("bin"))?;
    write_script(&home.path("bin").join(name), script)
}

/// A PATH with the home's bin folder, then the project's programs, then the PATH of the tests.
pub(super) fn search_path(home: &Home) -> Result<String> {
    let program = program_path("tunnelctl")?;
    let programs = program.parent().context("no folder")?.display();
    let rest = std::env::var("PATH")?;
    Ok(format!("{}:{programs}:{rest}", home.path("bin").display()))
}

/// Starts a daemon with [`search_path`].
pub(super) async fn start(home: &Home) -> Result<Daemon> {
    let mut command = home.command("tunneld")?;
    command.env("PATH", search_path(home)?);
    Daemon::start_with(home, command).await
}

#[tokio::test]
async fn every_toml_block_is_a_valid_configuration() -> Result<()> {
    let mut checked = 0;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recipes");
    for entry in std::fs::read_dir(folder)? {
        let page = entry?.file_name().into_string().expect("UTF-8");
        for block in blocks(&page, "toml")? {
            let first = block.lines().next().unwrap_or_default();
            let name = first.strip_prefix("# ~/.config/tunneld/");
            let name =
                name.with_context(|| format!("{page}: a block without its file: {first}"))?;
            let home = Home::without_config()?;
            home.write(name, &block)?;
            for (program, args) in [("tunneld", &["check"][..]), ("tunnelctl", &["check"])] {
                let output = home.run(program, args).await?;
                let output = output
                    .expect_exit(0)
                    .with_context(|| format!("{page}:\n{block}"))?;
                assert!(!output.stderr.contains("warning"), "{page}: {output:#?}");
            }
            checked += 1;
        }
    }
    assert!(checked >= 9, "only {checked} blocks were found");
    Ok(())
}
