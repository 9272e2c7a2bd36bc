//! A FIFO, made by the system's own program: not every system's library call is wrapped.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

/// Makes one that its owner alone may use.
pub fn make(path: &Path) -> Result<()> {
    let made = Command::new("mkfifo")
        .args(["-m", "600"])
        .arg(path)
        .status()?;
    ensure!(made.success(), "mkfifo {}", path.display());
    Ok(())
}
