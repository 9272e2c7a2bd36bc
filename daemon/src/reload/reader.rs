//! Reads the configuration files on a thread of their own, and asks `ssh -G` without waiting for one that hangs.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::time::Instant;
use tunneld_config::env::Env;
use tunneld_config::load::{Loaded, Loader, ad_hoc};
use tunneld_config::model::Tunnel;
use tunneld_platform::panic;
use tunneld_platform::subprocess::TokioPrograms;

use super::slow_programs::{Patience, SlowPrograms};
use crate::state_file::StateFile;

/// Reads the configuration directory again and again.
pub struct ConfigReader {
    loader: Loader,
    programs: Arc<SlowPrograms<TokioPrograms>>,
}

impl ConfigReader {
    /// Returns a reader of `dir` that has read nothing yet. `settings` sets the options of its loader.
    pub fn new(dir: PathBuf, settings: impl FnOnce(Loader) -> Loader) -> Self {
        let programs = SlowPrograms::new(TokioPrograms);
        let loader = Loader::new(dir, Env::from_process(), Arc::new(TokioPrograms));
        let loader = settings(loader.reading_programs(programs.clone()));
        Self { loader, programs }
    }

    /// Reads and resolves the whole configuration for the first time. Answers that take long are used by a later reading.
    pub async fn read_first(&mut self) -> Loaded {
        self.read(true, Patience::Short).await
    }

    /// Reads and resolves the whole configuration, and waits for every answer.
    pub async fn read_fully(&mut self) -> Loaded {
        self.read(true, Patience::Full).await
    }

    /// Reads and resolves the whole configuration. Without `anew` it continues the last reading: what was answered
    /// meanwhile is not asked again.
    ///
    /// The files are read on a thread of their own, because a home directory on a network file system may block.
    pub(super) async fn read(&mut self, anew: bool, patience: Patience) -> Loaded {
        self.programs.begin_reading(anew, patience);
        let loader = &mut self.loader;
        let scan = loader.scan();
        // tokio panics if it has no thread for blocking work and cannot create one.
        let scanned = match panic::catch(|| tokio::task::spawn_blocking(move || scan.run())) {
            Ok(scanned) => scanned.await.map_err(io::Error::from),
            Err(error) => Err(error),
        };
        let now = Instant::now().into_std();
        let loaded = match scanned {
            Ok(scanned) => loader.finish(scanned, now).await,
            // The scan panicked. The last good configuration stays in force.
            Err(error) => loader.finish_without(&error.to_string(), now).await,
        };
        self.programs.end_reading();
        if let Some(job) = loader.copy_job() {
            let written = tokio::task::spawn_blocking(move || job.run()).await;
            // The daemon works without the copies; only a start with a broken file needs them.
            if let Ok(Err(error)) = written {
                tracing::debug!(%error, "the last good configuration is not kept");
            }
        }
        loaded
    }

    /// Resolves the ad-hoc tunnels in the state file, except those in `present`. Faults are logged, and the tunnel is left
    /// out until the next reading.
    pub async fn restore_ad_hoc(&self, state_file: &StateFile, present: &[&str]) -> Vec<Tunnel> {
        self.programs.begin_reading(false, Patience::Short);
        let missing = state_file.ad_hoc().into_iter();
        let missing = missing.filter(|(name, _)| !present.contains(&name.as_str()));
        let resolved = missing.map(|(name, spec)| async move {
            let resolved = ad_hoc(&name, &spec, &self.loader).await;
            (name, resolved)
        });
        let mut restored = Vec::new();
        for (name, resolved) in futures_util::future::join_all(resolved).await {
            match resolved {
                Ok(tunnel) => restored.push(tunnel),
                Err(faults) => {
                    for fault in faults {
                        let error = fault.message;
                        tracing::error!(
                            tunnel = name,
                            "this tunnel of the command line cannot be restored: {error}"
                        );
                    }
                }
            }
        }
        self.programs.end_reading();
        restored
    }

    /// Waits until `ssh -G` has given an answer that a reading did not wait for. Cancel-safe.
    pub(super) async fn late_answer(&self) {
        self.programs.late_answer().await;
    }

    pub(super) fn loader(&self) -> &Loader {
        &self.loader
    }
}
