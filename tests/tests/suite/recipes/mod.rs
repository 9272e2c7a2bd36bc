//! The recipes of docs/recipes as they stand there: each block of TOML proves, and the ways they describe carry bytes,
//! with a program that speaks as `aws` and its Session Manager plugin do before a real server.

mod aws;
mod hpc;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use tunneld_tests::daemon::Daemon;
use tunneld_tests::home::{Home, built};
use tunneld_tests::wait::{LONG, within};

/// The fenced blocks of this language in a page.
pub(super) fn blocks(page: &str, language: &str) -> Result<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recipes");
    let text = std::fs::read_to_string(path.join(page)).with_context(|| page.to_owned())?;
    let parts = text.split("```").skip(1).step_by(2);
    let blocks = parts.filter_map(|part| part.strip_prefix(language)?.strip_prefix('\n'));
    Ok(blocks.map(str::to_owned).collect())
}

/// The block with one of its phrases changed, which must be there.
pub(super) fn with(block: &str, phrase: &str, other: &str) -> String {
    assert!(block.contains(phrase), "{phrase:?} is not in:\n{block}");
    block.replace(phrase, other)
}

/// The block of the page that holds `phrase`.
pub(super) fn block(page: &str, language: &str, phrase: &str) -> Result<String> {
    let found = blocks(page, language)?
        .into_iter()
        .find(|block| block.contains(phrase));
    found.with_context(|| format!("{page} has no {language} with {phrase:?}"))
}

/// The lines of a tunnel of the lab that say neither its name nor its host.
pub(super) fn means(tunnel: &str) -> String {
    let lines = tunnel.lines().skip(2);
    lines.map(|line| format!("{line}\n")).collect()
}

/// Puts a shell script into the home's bin folder.
pub(super) fn program(home: &Home, name: &str, script: &str) -> Result<()> {
    std::fs::create_dir_all(home.path("bin"))?;
    let path = home.path("bin").join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}"))?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700))?;
    Ok(())
}

/// The PATH that has the home's bin folder first, then the project's programs.
pub(super) fn path(home: &Home) -> Result<String> {
    let ours = built("tunnelctl")?;
    let ours = ours.parent().context("a folder")?.display().to_string();
    let rest = std::env::var("PATH")?;
    Ok(format!("{}:{ours}:{rest}", home.path("bin").display()))
}

pub(super) async fn start(home: &Home) -> Result<Daemon> {
    let mut command = home.command("tunneld")?;
    command.env("PATH", path(home)?);
    Daemon::launch(home, command).await
}

pub(super) fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

pub(super) async fn gone(pids: &[u32]) -> Result<()> {
    let what = format!("the end of {pids:?}");
    within(LONG, &what, async {
        while pids.iter().any(|pid| alive(*pid)) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}

#[tokio::test]
async fn every_toml_block_is_a_valid_configuration() -> Result<()> {
    let mut proved = 0;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recipes");
    for entry in std::fs::read_dir(folder)? {
        let page = entry?.file_name().into_string().expect("UTF-8");
        for block in blocks(&page, "toml")? {
            let first = block.lines().next().unwrap_or_default();
            let name = first.strip_prefix("# ~/.config/tunneld/");
            let name =
                name.with_context(|| format!("{page}: a block without its file: {first}"))?;
            let home = Home::bare()?;
            home.write(name, &block)?;
            for (program, args) in [("tunneld", &["check"][..]), ("tunnelctl", &["check"])] {
                let said = home.run(program, args).await?;
                let said = said
                    .expect(0)
                    .with_context(|| format!("{page}:\n{block}"))?;
                assert!(!said.stderr.contains("warning"), "{page}: {said:#?}");
            }
            proved += 1;
        }
    }
    assert!(proved >= 9, "only {proved} blocks were found");
    Ok(())
}
