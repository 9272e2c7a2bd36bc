//! `cargo +nightly fuzz run auth`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tunneld_ssh::fuzz::run("auth", bytes);
});
