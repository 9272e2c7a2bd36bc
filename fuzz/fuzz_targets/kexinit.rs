//! `cargo +nightly fuzz run kexinit`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tunneld_ssh::fuzz::run("kexinit", bytes);
});
