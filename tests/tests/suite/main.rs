//! The suite: the whole product against real servers, one module a subject.
#![cfg(unix)]

mod lab;
mod supply;
