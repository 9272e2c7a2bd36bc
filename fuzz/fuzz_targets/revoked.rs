//! `cargo +nightly fuzz run revoked`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tunneld_keys::fuzz::run("revoked", bytes);
});
