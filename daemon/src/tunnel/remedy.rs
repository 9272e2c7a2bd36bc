//! Whether somebody has mended what a tunnel stands still for: the files that its login and host keys rest on.

use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::config::model::Route;

/// How often a tunnel that stands still looks.
pub const LOOK: Duration = Duration::from_secs(2);

/// The files as they were when the tunnel came to stand still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Causes(Vec<Option<(SystemTime, u64)>>);

impl Causes {
    /// The files of `route` as they are now.
    pub fn of(route: &Route) -> Self {
        let files = route
            .host_keys
            .user_files
            .iter()
            .chain(&route.host_keys.global_files)
            .chain(&route.host_keys.revoked_files)
            .chain(&route.auth.identity_files)
            .chain(&route.auth.certificate_files);
        Self(files.map(|file| stamp(file)).collect())
    }
}

fn stamp(file: &Path) -> Option<(SystemTime, u64)> {
    let meta = std::fs::metadata(file).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}
