//! The values that `ssh -G` prints and ssh_config sets, looked up by the names of tunneld's keys and converted.

use std::str::FromStr;
use std::time::Duration;

use tunneld_proto::duration;

use crate::diagnostic::Spanned;
use crate::keys;
use crate::ssh_config::output::EffectiveConfig;

pub(super) fn unspanned<T>(value: T) -> Spanned<T> {
    Spanned { value, span: None }
}

pub(super) fn unless_none(text: &str) -> Option<String> {
    (!text.eq_ignore_ascii_case("none")).then(|| text.to_owned())
}

/// The values that ssh_config sets, by the names of tunneld's keys.
#[derive(Clone, Copy)]
pub(super) struct Values<'a>(pub(super) EffectiveConfig<'a>);

impl<'a> Values<'a> {
    /// All values of a key's keyword; `None` if ssh_config does not set it.
    pub(super) fn all(self, key: &str) -> Option<&'a [String]> {
        let keyword = keys::ssh_g_keyword(key);
        debug_assert!(keyword.is_some(), "{key} has no ssh_config keyword");
        self.0.explicit(&keyword?)
    }

    /// The first value of a key's keyword; `None` if ssh_config does not set it.
    pub(super) fn first(self, key: &str) -> Option<&'a str> {
        self.all(key)?.first().map(String::as_str)
    }

    pub(super) fn flag(self, key: &str) -> Option<Spanned<bool>> {
        let word = self.first(key)?;
        // `ssh -G` prints yes and no for some keywords, true and false for others.
        Some(unspanned(!matches!(word, "no" | "false" | "none")))
    }

    pub(super) fn text(self, key: &str) -> Option<Spanned<String>> {
        unless_none(self.first(key)?).map(unspanned)
    }

    /// Parses the first value; an error of `parse` is reported under ssh_config's keyword.
    pub(super) fn parse<T>(
        self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<Spanned<T>>, String> {
        let Some(text) = self.first(key) else {
            return Ok(None);
        };
        let keyword = keys::ssh_g_keyword(key).unwrap_or_default();
        parse(text)
            .map(|value| Some(unspanned(value)))
            .map_err(|error| format!("{keyword} {text}: {error}"))
    }

    pub(super) fn number<T: FromStr>(self, key: &str) -> Result<Option<Spanned<T>>, String> {
        let number = |text: &str| text.parse().map_err(|_| "is not a number".to_owned());
        self.parse(key, number)
    }

    pub(super) fn time(self, key: &str) -> Result<Option<Spanned<Duration>>, String> {
        if self.first(key) == Some("none") {
            return Ok(None);
        }
        self.parse(key, |text| {
            duration::parse(text).map_err(|error| error.to_string())
        })
    }

    /// Paths, one per line or, with `several`, also several in a line; empty for "none".
    pub(super) fn paths(self, key: &str, several: bool) -> Option<Spanned<Vec<Spanned<String>>>> {
        let paths = self.all(key)?.iter().flat_map(|line| {
            if several {
                split_paths(line)
            } else {
                vec![line.clone()]
            }
        });
        Some(unspanned(
            paths
                .filter(|path| !path.eq_ignore_ascii_case("none"))
                .map(unspanned)
                .collect(),
        ))
    }

    /// Algorithms: `ssh -G` has already applied `+`, `-` and `^`.
    pub(super) fn algorithms(self, key: &str) -> Option<Spanned<Vec<String>>> {
        self.first(key)
            .map(|text| unspanned(text.split(',').map(str::to_owned).collect()))
    }
}

/// Splits a line of paths. `ssh -G` prints them without the quotation marks around those with spaces, so a word that
/// does not begin like a path is taken as the rest of the path before it.
fn split_paths(line: &str) -> Vec<String> {
    let begins_path =
        |word: &str| word.starts_with(['/', '~', '%', '$']) || word.get(1..2) == Some(":");
    let mut paths: Vec<String> = Vec::new();
    // `ssh -G` joins several paths with blanks and does not quote them: a word that cannot begin a path continues the
    // last.
    for word in line.split(' ') {
        match paths.last_mut() {
            Some(last) if begins_path(last) && !begins_path(word) => {
                last.push(' ');
                last.push_str(word);
            }
            _ => paths.push(word.to_owned()),
        }
    }
    paths
}
