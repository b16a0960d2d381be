//! Whether a link continues.

/// The state of a link after it was served.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It continues.
    Kept,
    /// It is over and can be closed.
    Over,
}
