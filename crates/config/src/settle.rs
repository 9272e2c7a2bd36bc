//! Decides which state of each file a load uses when two files claim the same tunnel name or address.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tunneld_proto::message::ConfigFault;

use crate::conflict::Claims;
use crate::parse::file::ParsedFile;
use crate::scan::{Candidate, Draft, GoodFile, KnownFile, report};

/// Decides between files that claim the same tunnel name or address: unchanged files first, so that the error is
/// reported for the file that was edited.
pub(crate) fn settle_claims(
    mut candidates: Vec<Candidate>,
    faults: &mut Vec<ConfigFault>,
    files: &mut BTreeMap<PathBuf, KnownFile>,
    drafts: &mut Vec<Draft>,
) -> Vec<Candidate> {
    for draft in drafts.iter() {
        // Checked against itself only: while a file has errors, what it would take from others is not final.
        if let Err(diagnostics) = Claims::default().add(&draft.source, &draft.parsed) {
            report(&draft.source, &diagnostics, faults);
        }
    }
    // A stable sort: within both groups the order of the paths stays.
    candidates.sort_by_key(|candidate| !candidate.unchanged);
    let mut claims = Claims::default();
    let mut accepted = Vec::new();
    for candidate in candidates {
        let Err(diagnostics) = claims.add(&candidate.file.source, &candidate.file.parsed) else {
            if let Some(known) = files.get_mut(&candidate.path) {
                known.good = Some(candidate.file.clone());
            }
            accepted.push(candidate);
            continue;
        };
        report(&candidate.file.source, &diagnostics, faults);
        drafts.push(Draft {
            id: candidate.id,
            source: candidate.file.source.clone(),
            parsed: candidate.file.parsed.clone(),
        });
        let last_good = files
            .get(&candidate.path)
            .and_then(|known| known.good.clone());
        if let Some(file) = last_good.filter(|_| !candidate.unchanged) {
            accepted.push(without_claimed(&mut claims, candidate, file));
        }
    }
    accepted.sort_by(|a, b| a.path.cmp(&b.path));
    accepted
}

/// The last good state of a file, without the tunnels whose name or address another file has claimed since.
fn without_claimed(claims: &mut Claims, candidate: Candidate, mut file: GoodFile) -> Candidate {
    let tunnels = std::mem::take(&mut file.parsed.tunnels);
    // Another file may have `[daemon]` now; an old copy of it must not come back.
    file.parsed.daemon = None;
    for tunnel in tunnels {
        let alone = ParsedFile {
            tunnels: vec![tunnel],
            ..ParsedFile::default()
        };
        if claims.add(&file.source, &alone).is_ok() {
            file.parsed.tunnels.extend(alone.tunnels);
        }
    }
    Candidate {
        file,
        unchanged: true,
        stale: true,
        ..candidate
    }
}
