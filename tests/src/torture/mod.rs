//! The torture run: a daemon plays a scripted life while one of its system calls fails once.
//! The life must go on, late if need be, or the daemon must refuse to start with one clear line.
//!
//! strace makes the call fail (`-e inject`). It counts calls per thread, so `when=3` is the third such call of each thread.

mod injection;
mod life;
mod run;
mod script;

pub use injection::{Injection, plan};
pub use life::{Life, Stage};
pub use run::{Tally, run};
