//! `cargo +nightly fuzz run private_key`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tunneld_keys::fuzz::run("private_key", bytes);
});
