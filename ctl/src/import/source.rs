//! Reads the file of another program, with a limit on its size.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::exit::Exit;

/// The largest file that is read, in bytes: 16 MiB. An export of a few thousand rules has less than one.
pub(crate) const MAX_SIZE: u64 = 16 << 20;

/// Reads a file, or stdin for `-`.
///
/// # Errors
/// It cannot be read, or is larger than [`MAX_SIZE`].
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Exit> {
    let failed = |error: std::io::Error| {
        Exit::usage(format!("reading {} failed", path.display()))
            .caused_by(&error)
            .hint("check the path and that you can read the file")
    };
    let mut bytes = Vec::new();
    let limit = MAX_SIZE + 1;
    if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
    } else {
        let file = File::open(path).map_err(failed)?;
        file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    }
    if bytes.len() as u64 > MAX_SIZE {
        return Err(
            Exit::usage(format!("{} is larger than 16 MiB", path.display()))
                .hint("give the file that the program exported"),
        );
    }
    Ok(bytes)
}
