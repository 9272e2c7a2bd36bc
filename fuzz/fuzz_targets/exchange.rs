//! `cargo +nightly fuzz run exchange`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tunneld_ssh::fuzz::run("exchange", bytes);
});
