//! `tunnelctl pac`: prints the proxy auto-configuration file, or writes it.

use std::io::Write as _;

use tunneld_proto::message::{self, method};

use crate::cli::Pac;
use crate::daemon::Context;
use crate::exit::Exit;
use crate::output::file::write_file;

/// Prints the file on stdout, or writes it to `--write`, which is replaced in one step.
pub(crate) async fn run(context: &Context, args: &Pac) -> Result<(), Exit> {
    let mut client = context.connect().await?;
    let pac: message::Pac = client.call(method::PAC, &serde_json::Value::Null).await?;
    match &args.write {
        None if context.ui.json => context.ui.json(&pac),
        None => Ok(std::io::stdout().lock().write_all(pac.file.as_bytes())?),
        Some(path) => write_file(path, &pac.file),
    }
}
