//! What `ssh -G` prints, keyword by keyword, and which of it somebody has said.
//!
//! `ssh -G` prints ssh's own defaults too. What it prints without any file counts as not said, so that tunneld's
//! defaults hold there.

use std::collections::BTreeMap;

/// Every keyword with its values, in the order they were printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SshGOutput(BTreeMap<String, Vec<String>>);

impl SshGOutput {
    /// Reads what `ssh -G` printed.
    pub fn parse(text: &str) -> Self {
        let mut printed: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in text.lines() {
            let (keyword, value) = line.split_once(' ').unwrap_or((line, ""));
            printed
                .entry(keyword.to_ascii_lowercase())
                .or_default()
                .push(value.to_owned());
        }
        Self(printed)
    }

    pub(crate) fn all(&self, keyword: &str) -> &[String] {
        self.0.get(keyword).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn one(&self, keyword: &str) -> Option<&str> {
        self.all(keyword).first().map(String::as_str)
    }
}

/// What is printed for a host, and what is printed where nobody has said anything.
#[derive(Debug, Clone, Copy)]
pub struct EffectiveConfig<'a> {
    /// For the host.
    pub host: &'a SshGOutput,
    /// Without any file: ssh's own defaults.
    pub none: &'a SshGOutput,
    /// By the system's file alone: what it says for all hosts is no wish of this one.
    pub system: &'a SshGOutput,
}

impl<'a> EffectiveConfig<'a> {
    pub(crate) fn said(&self, keyword: &str) -> Option<&'a [String]> {
        let values = self.host.all(keyword);
        (!values.is_empty() && values != self.none.all(keyword)).then_some(values)
    }

    pub(crate) fn one(&self, keyword: &str) -> Option<&'a str> {
        self.said(keyword)?.first().map(String::as_str)
    }

    /// Whether the host, and not just the system, asks for it.
    pub(crate) fn wished(&self, keyword: &str) -> Option<&'a str> {
        let values = self.said(keyword)?;
        (values != self.system.all(keyword)).then(|| values.first().map(String::as_str))?
    }
}
