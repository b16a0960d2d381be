//! Whether a link goes on.

/// What became of a line after it was served.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes on.
    Kept,
    /// It is over and can be closed.
    Over,
}
