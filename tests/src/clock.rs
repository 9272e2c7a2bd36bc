//! A wall clock (CLOCK_REALTIME) that a test can shift for one program while it runs.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::home::Home;

/// The shifted clock of the programs of one [`Home`].
pub struct ShiftedClock {
    offset_file: PathBuf,
}

impl ShiftedClock {
    /// Installs a shifted clock for every program that is started in the returned home; its offset is 0 at first.
    /// It is a preloaded library that replaces `clock_gettime`.
    ///
    /// # Errors
    /// If no C compiler is installed.
    pub async fn install(home: Home) -> Result<(Self, Home)> {
        let (source, library) = (home.path("clock_shift.c"), home.path("clock_shift.so"));
        std::fs::write(&source, include_str!("clock_shift.c"))?;
        let (source, target) = (
            source.to_str().context("the path is not UTF-8")?,
            library.to_str().context("the path is not UTF-8")?,
        );
        let args = ["-shared", "-fPIC", "-o", target, source, "-ldl"];
        crate::process::run_tool("cc", &args).await?;
        let clock = Self {
            offset_file: home.path("clock_shift"),
        };
        std::fs::write(&clock.offset_file, 0_i64.to_ne_bytes())?;
        let home = home
            .with_var("LD_PRELOAD", library)
            .with_var("CLOCK_SHIFT", &clock.offset_file);
        Ok((clock, home))
    }

    /// Sets the clock to the true time plus `seconds`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn set_offset(&self, seconds: i64) -> Result<()> {
        // Written in place and not replaced: the programs have this very file mapped.
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .open(&self.offset_file)?;
        Ok(file.write_all(&seconds.to_ne_bytes())?)
    }
}
