//! The log filter: a level, or pairs `TARGET=LEVEL`, between commas.

use tracing_subscriber::filter::Targets;
use tunneld_config::parse::values;

/// Parses a log filter such as `info` or `info,tunneld=debug`. A lone word must be a level: `tracing_subscriber` would
/// take any other word for a target and silence everything else.
///
/// # Errors
/// The word that is not a level with the level that was probably meant, or the pair that does not parse.
pub(super) fn parse(text: &str) -> Result<Targets, String> {
    values::log_filter(text)?;
    text.parse()
        .map_err(|error| format!("\"{text}\" is not a log filter: {error}"))
}
