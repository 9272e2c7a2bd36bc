//! `cargo +nightly fuzz run dns`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tunneld::dns::fuzz::dns(bytes);
});
