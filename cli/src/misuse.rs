//! Command lines that can be parsed, and ask for what nobody can do.

use ironclaw_client::Address;
use thiserror::Error;

/// What is wrong with the words.
#[derive(Debug, Error)]
pub(crate) enum Misuse {
    /// Neither the image nor the command line says what to run.
    #[error(
        "the image says nothing of what to run: give a command, as in `ironclaw run --image SOURCE -- sh`"
    )]
    NothingToRun,
    /// A daemon is named, and something asked for that only this process can do.
    #[error(
        "{what} takes a VM of this process, and not of the daemon on {address}: say --host none, or leave it out"
    )]
    NotByDaemon {
        /// What is asked for.
        what: String,
        /// The daemon.
        address: Address,
    },
}
