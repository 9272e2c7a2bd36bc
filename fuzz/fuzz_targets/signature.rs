//! `cargo +nightly fuzz run signature`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tunneld_ssh::fuzz::run("signature", bytes);
});
