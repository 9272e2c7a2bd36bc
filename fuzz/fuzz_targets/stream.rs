//! `cargo +nightly fuzz run stream`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tunneld_ssh::fuzz::run("stream", bytes);
});
