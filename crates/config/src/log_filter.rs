//! The grammar of log filters: levels between commas, each for everything (`info`) or for one module and those below it
//! (`tunneld=debug`). `[daemon] log`, `--log` and `RUST_LOG` share it.

use tracing_subscriber::filter::Targets;

use crate::diagnostic::did_you_mean;

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Parses a log filter.
///
/// # Errors
/// The part that is not a level or `MODULE=LEVEL`, with the level that was probably meant.
pub fn parse(text: &str) -> Result<Targets, String> {
    check_levels(text)?;
    text.parse()
        .map_err(|error| format!("\"{text}\" is not a log filter: {error}"))
}

/// Checks that each word without `=` is a level.
///
/// # Errors
/// The first word that is not, with the level that was probably meant.
pub fn check_levels(text: &str) -> Result<(), String> {
    for directive in text.split(',').map(str::trim) {
        // The filter's own parser takes a lone word for a module's name: `debg` would silence everything else.
        if directive.contains(['=', '[', ':'])
            || directive.starts_with("tunneld")
            || LEVELS
                .iter()
                .any(|level| directive.eq_ignore_ascii_case(level))
        {
            continue;
        }
        let hint = match did_you_mean(directive, LEVELS) {
            Some(level) => format!("did you mean \"{level}\"?"),
            None => format!("the levels are {}", LEVELS.join(", ")),
        };
        return Err(format!("\"{directive}\" is not a log level: {hint}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_word_must_be_a_level() {
        for filter in [
            "info",
            "WARN",
            "off",
            "info,tunneld=debug",
            "tunneld::session=trace,russh=error",
        ] {
            assert!(parse(filter).is_ok(), "{filter}");
        }
        let error = parse("debg").unwrap_err();
        assert!(error.contains("did you mean \"debug\"?"), "{error}");
        let error = parse("loud").unwrap_err();
        assert!(error.contains("error, warn, info"), "{error}");
        assert!(parse("tunneld=loud").is_err());
    }
}
