//! `cargo +nightly fuzz run known_hosts`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tunneld_keys::fuzz::run("known_hosts", bytes);
});
