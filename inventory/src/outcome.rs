//! How a command ended that is no error.

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it was asked for.
    Done,
    /// What it checked is not as it should be.
    Found,
    /// Some of it could not be done, which it has said.
    Failed,
}
