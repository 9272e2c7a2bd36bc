//! When a reading that met errors is to be repeated.

/// When to read the directory again although no file in it has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TryAgain {
    /// Not before a change is noticed: what is wrong is in the text of the files.
    #[default]
    OnChange,
    /// After delays that grow: `ssh -G` does not answer, and each attempt takes seconds.
    Backoff,
    /// Within seconds: something could not be read now, or a file that is not watched is wrong.
    Soon,
}
