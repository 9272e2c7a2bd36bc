//! Expands the paths and commands of one tunnel, and collects what goes wrong while it is resolved.

use std::path::PathBuf;

use crate::diagnostic::{Diagnostic, Spanned};
use crate::ssh_config::tokens::{self, Keyword, ServerKey, TokenValues};

/// The tokens' values for one destination, and the errors and notes found so far.
pub(crate) struct Expander<'a> {
    pub(crate) values: TokenValues<'a>,
    pub(crate) diagnostics: Vec<Diagnostic>,
    pub(crate) notes: Vec<String>,
}

impl Expander<'_> {
    /// Expands a path; reports it under the key's name and returns `None` if that fails.
    pub(crate) fn path(&mut self, key: &str, text: &Spanned<String>) -> Option<PathBuf> {
        match tokens::path(&text.value, &self.values) {
            Ok(path) => Some(path),
            Err(error) => {
                let message = format!("{key}: \"{}\": {error}", text.value);
                self.diagnostics.push(Diagnostic::new(text.span, message));
                None
            }
        }
    }

    /// Expands a list of paths; `None` if the key is not set.
    pub(crate) fn paths(
        &mut self,
        key: &str,
        texts: &Option<Spanned<Vec<Spanned<String>>>>,
    ) -> Option<Vec<PathBuf>> {
        let texts = texts.as_ref()?;
        let paths = texts.value.iter().filter_map(|text| self.path(key, text));
        Some(paths.collect())
    }

    /// The paths of these files in `~/.ssh`.
    pub(crate) fn in_ssh_folder(&self, names: &[&str]) -> Vec<PathBuf> {
        let folder = self.values.env.home.join(".ssh");
        names.iter().map(|name| folder.join(name)).collect()
    }

    /// Checks that a command's tokens can be expanded, and returns it as written: the values of some are known only
    /// when it runs.
    pub(crate) fn command(
        &mut self,
        key: &str,
        keyword: Keyword,
        command: &Spanned<Option<String>>,
    ) -> Option<String> {
        let text = command.value.as_ref()?;
        if let Err(error) = tokens::expand(keyword, text, &self.values, &ServerKey::default()) {
            let message = format!("{key}: {error}");
            self.diagnostics
                .push(Diagnostic::new(command.span, message));
        }
        Some(text.clone())
    }
}
