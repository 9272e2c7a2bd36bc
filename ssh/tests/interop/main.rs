//! The client against a real sshd: private, on loopback, with keys of its own.
#![cfg(target_os = "linux")]

mod ends;
mod lab;
mod streams;
