//! The torture run: a daemon plays a scripted life while one of its system calls fails once.
//! The life must go on, late if need be, or the daemon must refuse to start with one clear line.
//!
//! strace makes the call fail (`-e inject`). It counts calls per thread, so `when=3` is the third such call of each thread.
//! Which errors a call can return is in `errors`, which of them are not played and why in `excluded`, what counts as wrong
//! in `judge`.

mod actor;
mod config;
mod errors;
mod excluded;
mod hit;
mod injection;
mod judge;
mod life;
mod run;
mod script;

pub use injection::{Injection, plan};
pub use judge::Verdict;
pub use life::{Life, Stage};
pub use run::{Tally, run};
