//! The commands of `ironclaw snapshot`.

use clap::{Args, Subcommand};
use ironclaw_orchestrator::vm::snapshot::SnapshotId;

use crate::help;
use crate::which::TemplateOptions;

/// A command of `ironclaw snapshot`.
#[derive(Debug, Subcommand)]
pub enum SnapshotTask {
    /// Boot the template and take a snapshot of it.
    #[command(after_help = help::SNAPSHOT_CREATE_EXAMPLES)]
    Create {
        /// What its VM boots from.
        #[command(flatten)]
        template: TemplateOptions,
    },
    /// Show the snapshots on disk.
    #[command(after_help = help::SNAPSHOT_LIST_EXAMPLES)]
    List,
    /// Compare the content of snapshots with what was published. Exits with 1 on a difference.
    #[command(after_help = help::SNAPSHOT_VERIFY_EXAMPLES)]
    Verify(Snapshots),
    /// Delete snapshots that no VM uses; checkpoints, which can't be made again, by their ids.
    #[command(after_help = help::SNAPSHOT_DELETE_EXAMPLES)]
    Delete(Snapshots),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Snapshots {
    /// Ids, as `ironclaw snapshot list` shows them.
    #[arg(value_name = "ID")]
    pub ids: Vec<SnapshotId>,
    /// All snapshots; of what is deleted, those that a pool can make again.
    #[arg(long)]
    pub all: bool,
}
