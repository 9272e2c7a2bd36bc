//! `cargo +nightly fuzz run transport`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tunneld_ssh::fuzz::run("transport", bytes);
});
