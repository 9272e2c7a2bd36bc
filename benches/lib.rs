//! Benchmarks of pure code; the package has no library code. `cargo bench -p tunneld-benches` runs all of
//! them, `cargo bench -p tunneld-benches --bench packets -- aes128` those whose name contains a text.
