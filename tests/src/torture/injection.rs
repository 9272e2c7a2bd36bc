//! Which system calls fail, and with which errors.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context as _, Result, ensure};

use super::errors::{CALLS_WITHOUT_ERRORS, ERRORS};
use super::excluded::EXCLUDED;

/// One failure: the `when`th call of `call` in each thread fails with `error`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injection {
    /// The name of the system call, as strace prints it.
    pub call: String,
    /// The name of the error, such as `EMFILE`.
    pub error: String,
    /// Which call of a thread fails, from 1.
    pub when: u32,
}

impl fmt::Display for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, error, when } = self;
        write!(f, "{call}:error={error}:when={when}")
    }
}

impl std::str::FromStr for Injection {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split(':');
        let mut next = |prefix: &str| {
            let part = parts.next().and_then(|part| part.strip_prefix(prefix));
            part.with_context(|| format!("`{text}` is not CALL:error=ERROR:when=N"))
        };
        Ok(Self {
            call: next("")?.to_owned(),
            error: next("error=")?.to_owned(),
            when: next("when=")?.parse()?,
        })
    }
}

/// Returns the errors that `call` can return, in the order of the table. `None` if the table does not have the call.
fn errors_of(call: &str) -> Option<impl Iterator<Item = &'static str>> {
    let errors = if words(CALLS_WITHOUT_ERRORS, call) {
        ""
    } else {
        family(call)?.1
    };
    Some(errors.split_whitespace())
}

/// The row of the table that has `call`.
fn family(call: &str) -> Option<(&'static str, &'static str)> {
    ERRORS.iter().copied().find(|(names, _)| words(names, call))
}

/// Whether `list`, a list of words, has `word`.
fn words(list: &str, word: &str) -> bool {
    list.split_whitespace().any(|one| one == word)
}

/// Returns why the pair is not played; `None` if it is.
fn exclusion(call: &str, error: &str) -> Option<&'static str> {
    let usual = family(call)?.0.split_whitespace().next()?;
    EXCLUDED
        .iter()
        .find(|(calls, errors, _)| words(calls, usual) && (*errors == "*" || words(errors, error)))
        .map(|(.., reason)| *reason)
}

/// Returns the failures for the calls of a trace that `strace -f` wrote: for each call and error the first ones, and
/// others spread evenly, at most `max_per_call` of each. One life of each pair comes before the second of any, so that a run
/// that is cut short has played each pair.
///
/// # Errors
/// If the daemon makes a call whose errors the table does not have.
pub fn plan(trace: &str, max_per_call: u32) -> Result<Vec<Injection>> {
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for line in trace.lines() {
        // `PID TIME CALL(…`; resumed calls and signals have another form.
        let mut fields = line.split_whitespace();
        if let (Some(thread), Some(_), Some(rest)) = (fields.next(), fields.next(), fields.next())
            && let Some((call, _)) = rest.split_once('(')
        {
            *counts.entry((call, thread)).or_default() += 1;
        }
    }
    let mut most: BTreeMap<&str, u32> = BTreeMap::new();
    for ((call, _), count) in counts {
        let most = most.entry(call).or_default();
        *most = count.max(*most);
    }
    let unknown: Vec<&str> = most
        .keys()
        .copied()
        .filter(|call| errors_of(call).is_none())
        .collect();
    ensure!(
        unknown.is_empty(),
        "the daemon makes calls without a row in tests/src/torture/errors.rs: {}",
        unknown.join(", ")
    );
    let mut ranked = Vec::new();
    for (call, count) in most {
        let errors = errors_of(call).into_iter().flatten();
        for error in errors.filter(|error| exclusion(call, error).is_none()) {
            let injections = occurrences(count, max_per_call).map(|when| Injection {
                call: call.to_owned(),
                error: error.to_owned(),
                when,
            });
            ranked.extend(injections.enumerate());
        }
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    Ok(ranked.into_iter().map(|(_, injection)| injection).collect())
}

/// The occurrences to try of a call that is made `count` times: all, or the first half of `max` and the rest evenly.
fn occurrences(count: u32, max: u32) -> impl Iterator<Item = u32> {
    let first = if count <= max { count } else { max / 2 };
    let rest = count - first;
    let spread = if count <= max { 0 } else { max - first };
    (1..=first).chain((1..=spread).map(move |step| first + step * rest / spread.max(1)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A trace with one call of each name in the table.
    fn trace_of_all_calls() -> String {
        let names = ERRORS
            .iter()
            .flat_map(|(names, _)| names.split_whitespace());
        let names = names.chain(CALLS_WITHOUT_ERRORS.split_whitespace());
        names
            .map(|name| format!("10 1.5 {name}(0) = 0\n"))
            .collect()
    }

    #[test]
    fn a_plan_has_the_first_occurrences_and_some_of_the_others() {
        let trace = "10 1.5 openat(AT_FDCWD, …) = 3\n10 1.6 close(3) = 0\n".repeat(100)
            + "11 1.7 openat(AT_FDCWD, …) = 4\n12 1.8 <... read resumed>) = 0\n";
        let whens: Vec<u32> = plan(&trace, 4)
            .unwrap()
            .iter()
            .filter(|injection| injection.error == "EIO")
            .map(|injection| injection.when)
            .collect();
        assert_eq!(whens, [1, 2, 51, 100]);
        let first = plan(&trace, 4).unwrap();
        let first: BTreeSet<_> = first.iter().take(3).map(|one| &one.error).collect();
        assert_eq!(first.len(), 3);
    }

    #[test]
    fn each_pair_is_either_played_or_excluded_with_a_reason() {
        let played = plan(&trace_of_all_calls(), 1).unwrap();
        let played: BTreeSet<_> = played
            .iter()
            .map(|injection| (injection.call.as_str(), injection.error.as_str()))
            .collect();
        let mut all = BTreeSet::new();
        for (names, errors) in ERRORS {
            for call in names.split_whitespace() {
                all.extend(errors.split_whitespace().map(|error| (call, error)));
            }
        }
        for (call, error) in &all {
            let reason = exclusion(call, error);
            assert_ne!(
                reason.is_some(),
                played.contains(&(call, error)),
                "{call} {error}"
            );
            assert!(
                reason.is_none_or(|reason| reason.len() > 20),
                "{call} {error}"
            );
        }
        assert!(played.is_subset(&all));
    }

    #[test]
    fn each_excluded_pair_is_named_once_and_would_be_played_otherwise() {
        let mut seen = BTreeSet::new();
        for (calls, excluded, _) in EXCLUDED {
            for call in calls.split_whitespace() {
                let (names, errors) = family(call).unwrap_or_else(|| panic!("{call} is unknown"));
                assert_eq!(
                    names.split_whitespace().next(),
                    Some(call),
                    "not the usual name"
                );
                let named = if *excluded == "*" { errors } else { *excluded };
                for error in named.split_whitespace() {
                    assert!(words(errors, error), "{call} does not return {error}");
                    assert!(seen.insert((call, error)), "{call} {error} twice");
                }
            }
        }
    }

    #[test]
    fn each_call_has_one_row() {
        let mut seen = BTreeSet::new();
        for (names, _) in ERRORS.iter().chain(&[(CALLS_WITHOUT_ERRORS, "")]) {
            for name in names.split_whitespace() {
                assert!(seen.insert(name), "{name} twice");
            }
        }
        assert!(plan("10 1.5 reboot(0) = 0\n", 1).is_err());
    }

    #[test]
    fn an_injection_is_written_as_it_is_read() {
        let text = "openat:error=EMFILE:when=5";
        assert_eq!(text.parse::<Injection>().unwrap().to_string(), text);
        assert!("openat:EMFILE".parse::<Injection>().is_err());
    }
}
