//! Command lines that can be parsed, and ask for what nobody can do.

use thiserror::Error;

/// What is wrong with the words.
#[derive(Debug, Error)]
pub(crate) enum Misuse {
    /// Neither the image nor the command line says what to run.
    #[error(
        "the image says nothing of what to run: give a command, as in `ironclaw run --image SOURCE -- sh`"
    )]
    NothingToRun,
}
