//! `tunnelctl pac`: prints the proxy auto-configuration file, or writes it.

use std::io::Write as _;
use std::path::Path;

use tunneld_proto::message::{self, method};

use crate::cli::Pac;
use crate::daemon::Context;
use crate::exit::{Exit, FAILED};

/// Prints the file on stdout, or writes it to `--write`, which is replaced in one step.
pub(crate) async fn run(context: &Context, args: &Pac) -> Result<(), Exit> {
    let mut client = context.connect().await?;
    let pac: message::Pac = client.call(method::PAC, &serde_json::Value::Null).await?;
    match &args.write {
        None if context.ui.json => context.ui.json(&pac),
        None => Ok(std::io::stdout().lock().write_all(pac.file.as_bytes())?),
        Some(path) => write(path, &pac.file).map_err(|err| {
            Exit::new(FAILED, format!("writing {} failed", path.display()))
                .caused_by(&err)
                .hint("name a file in a directory that you can write")
        }),
    }
}

/// Writes to a new file beside `path` first: a browser never reads half a file.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}
