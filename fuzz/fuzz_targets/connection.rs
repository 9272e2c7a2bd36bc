//! `cargo +nightly fuzz run connection`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tunneld_ssh::fuzz::run("connection", bytes);
});
