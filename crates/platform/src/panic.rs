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
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    in_words(text.unwrap_or("a library stopped without a reason"))
}

/// Replaces the Debug output of a system error, which `expect` puts behind its message, by its usual words.
fn in_words(text: &str) -> String {
    let found = text.split_once("Os { code: ").and_then(|(before, rest)| {
        let (code, rest) = rest.split_once(", ")?;
        let (_, after) = rest.split_once(" }")?;
        let error = io::Error::from_raw_os_error(code.parse().ok()?);
        Some(format!("{before}{error}{after}"))
    });
    found.unwrap_or_else(|| text.to_owned())
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

    #[test]
    fn an_error_of_the_system_in_a_panic_is_written_in_words() {
        for code in [24, 4] {
            let error = io::Error::from_raw_os_error(code);
            let words = catch(|| panic!("failed to create a socket: {error:?}")).unwrap_err();
            assert_eq!(
                words.to_string(),
                format!("failed to create a socket: {error}")
            );
        }
        for text in [
            "Os { code: x, kind: A }",
            "Os { code: 5, kind",
            "Os { code: ",
        ] {
            assert_eq!(catch(|| panic!("{text}")).unwrap_err().to_string(), text);
        }
    }
}
