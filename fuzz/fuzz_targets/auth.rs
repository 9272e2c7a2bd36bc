//! `cargo +nightly fuzz run auth`, in the root of the repository.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tunneld_ssh::fuzz::run("auth", bytes);
});
