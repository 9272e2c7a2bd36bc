//! What `ssh -G` prints, by keyword, and which of it ssh_config sets explicitly.
//!
//! `ssh -G` prints ssh's own defaults too. A value that it also prints without any file counts as not set, so that
//! tunneld's default applies there.

use std::collections::BTreeMap;

/// The values of every keyword, in the order they were printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SshGOutput(BTreeMap<String, Vec<String>>);

impl SshGOutput {
    /// Parses the output of `ssh -G`: one keyword and value per line.
    pub fn parse(text: &str) -> Self {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in text.lines() {
            let (keyword, value) = line.split_once(' ').unwrap_or((line, ""));
            values
                .entry(keyword.to_ascii_lowercase())
                .or_default()
                .push(value.to_owned());
        }
        Self(values)
    }

    /// All values of a keyword in lower case; empty if it was not printed.
    pub(crate) fn all(&self, keyword: &str) -> &[String] {
        self.0.get(keyword).map_or(&[], Vec::as_slice)
    }

    /// The first value of a keyword in lower case; `None` if it was not printed.
    pub(crate) fn first(&self, keyword: &str) -> Option<&str> {
        self.all(keyword).first().map(String::as_str)
    }
}

/// The output for a host, with the outputs to compare it with.
#[derive(Debug, Clone, Copy)]
pub struct EffectiveConfig<'a> {
    /// The output for the host.
    pub host: &'a SshGOutput,
    /// The output without any file: ssh's own defaults.
    pub built_in: &'a SshGOutput,
    /// The output with the system's file only, for a host that it does not mention.
    pub system: &'a SshGOutput,
}

impl<'a> EffectiveConfig<'a> {
    /// The values of a keyword that a file sets; `None` if they are ssh's defaults.
    pub(crate) fn explicit(&self, keyword: &str) -> Option<&'a [String]> {
        let values = self.host.all(keyword);
        (!values.is_empty() && values != self.built_in.all(keyword)).then_some(values)
    }

    /// The first value of a keyword that is set for this host; `None` if the system's file sets it for all hosts, as
    /// Debian's sets GSSAPIAuthentication.
    pub(crate) fn host_specific(&self, keyword: &str) -> Option<&'a str> {
        let values = self.explicit(keyword)?;
        if values == self.system.all(keyword) {
            return None;
        }
        values.first().map(String::as_str)
    }
}
