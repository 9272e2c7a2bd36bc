//! `cargo +nightly fuzz run ident`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tunneld_ssh::fuzz::run("ident", bytes);
});
