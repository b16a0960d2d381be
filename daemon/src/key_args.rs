//! The command line of `ironclaw key`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::help;

/// Which keys are made, listed or revoked.
#[derive(Debug, Args)]
pub struct KeyArgs {
    /// The directory of the daemon's database; by default `daemon`, beside that of the snapshots.
    #[arg(long, value_name = "DIR", global = true)]
    pub(crate) state: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) task: KeyTask,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyTask {
    /// Make an API key and print it, once: only its hash is kept.
    #[command(after_help = help::KEY_CREATE_EXAMPLES)]
    Create {
        /// Its name, by which it is listed and revoked.
        name: String,
    },
    /// List the API keys.
    #[command(after_help = help::KEY_LIST_EXAMPLES)]
    List,
    /// Revoke an API key: the next request with it is refused. Exits with 1 if there is none.
    #[command(after_help = help::KEY_REVOKE_EXAMPLES)]
    Revoke {
        /// Its name.
        name: String,
    },
}
