//! The fuzz target of the workspace folder `fuzz/` for this crate, and tests that replay its corpus on a stable
//! compiler.

use crate::parse::file;

/// The text of a configuration file: parsing does not panic, keeps the limit of tunnels and reports each error at a
/// place in the text, which messages then quote.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (parsed, diagnostics) = file::parse(0, text);
    assert!(parsed.tunnels.len() <= file::MAX_TUNNELS);
    for diagnostic in &diagnostics {
        assert!(!diagnostic.message.is_empty());
        if let Some(span) = diagnostic.span {
            assert!(
                text.get(span.start..span.end).is_some(),
                "{diagnostic:?} is not in the text"
            );
        }
    }
    assert_eq!(file::parse(0, text).1, diagnostics);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn corpus() -> Vec<Vec<u8>> {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = std::fs::read_dir(corpus.join("../../fuzz/corpus/config")).unwrap();
        files
            .map(|file| std::fs::read(file.unwrap().path()).unwrap())
            .collect()
    }

    #[test]
    fn the_corpus_passes() {
        let inputs = corpus();
        assert!(!inputs.is_empty());
        for input in inputs {
            config(&input);
        }
    }

    /// The corpus reaches what lies behind the first checks.
    #[test]
    fn the_corpus_has_tunnels() {
        let texts = corpus()
            .into_iter()
            .map(|input| String::from_utf8(input).unwrap());
        let tunnels = texts.map(|text| file::parse(0, &text).0.tunnels.len());
        assert!(tunnels.sum::<usize>() >= 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn the_varied_corpus_passes(
            pick: prop::sample::Index,
            changes in prop::collection::vec((any::<prop::sample::Index>(), 0u8..128), 1..6),
            cut: prop::sample::Index,
        ) {
            let mut bytes = pick.get(&corpus()).clone();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            config(&bytes);
            config(&bytes[..cut.index(bytes.len())]);
        }
    }
}
