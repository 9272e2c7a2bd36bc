//! `cargo +nightly fuzz run socks`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tunneld::dynamic::fuzz::socks(bytes);
});
