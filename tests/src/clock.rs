//! The clock of the day as one program sees it, set forward and back while it runs.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::home::Home;

/// A clock that can be set.
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// The clock of whatever is started in `home` from now on; it is right.
    ///
    /// # Errors
    /// Where there is no C compiler.
    pub async fn of(home: Home) -> Result<(Self, Home)> {
        let (source, library) = (home.path("clock_shift.c"), home.path("clock_shift.so"));
        std::fs::write(&source, include_str!("clock_shift.c"))?;
        let (from, to) = (
            source.to_str().context("UTF-8")?,
            library.to_str().context("UTF-8")?,
        );
        crate::keys::run("cc", &["-shared", "-fPIC", "-o", to, from, "-ldl"]).await?;
        let clock = Self {
            file: home.path("clock_shift"),
        };
        std::fs::write(&clock.file, 0_i64.to_ne_bytes())?;
        let home = home
            .var("LD_PRELOAD", library)
            .var("CLOCK_SHIFT", &clock.file);
        Ok((clock, home))
    }

    /// Sets it to so many seconds after the true time.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn set(&self, seconds: i64) -> Result<()> {
        // In place: the programs have it mapped.
        let mut file = std::fs::OpenOptions::new().write(true).open(&self.file)?;
        Ok(file.write_all(&seconds.to_ne_bytes())?)
    }
}
