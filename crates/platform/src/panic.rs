//! Panics by which libraries report a failed system call: a thread that cannot be created, a socket pair for signals. They
//! become errors, which say what was being done.

use std::any::Any;
use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};

thread_local! {
    static IS_EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Makes panics inside of [`catch`] print nothing. Called once, at the start of the program.
pub fn install_hook() {
    let report = take_hook();
    set_hook(Box::new(move |panic| {
        if !IS_EXPECTED.get() {
            report(panic);
        }
    }));
}

/// Runs `work` and returns a panic in it as an error with its message.
///
/// # Errors
/// `work` panicked.
pub fn catch<T>(work: impl FnOnce() -> T) -> io::Result<T> {
    let before = IS_EXPECTED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    IS_EXPECTED.set(before);
    outcome.map_err(|payload| io::Error::other(message(&*payload)))
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("a library stopped without a reason")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_with_its_message() {
        assert_eq!(catch(|| 7).ok(), Some(7));
        let number = 3;
        let formatted = catch(|| panic!("no thread {number}")).unwrap_err();
        assert_eq!(formatted.to_string(), "no thread 3");
        let plain = catch(|| panic!("no thread")).unwrap_err();
        assert_eq!(plain.to_string(), "no thread");
    }
}
