//! The child processes of this process, and of others.

use anyhow::{Context as _, Result};
use procfs::process::Process;

/// Returns the PIDs of children that are not reaped yet.
pub(super) fn children() -> Result<Vec<u32>> {
    let own = Process::myself().context("can't find this process in /proc")?;
    children_of(&own)
}

/// The same of another process.
pub(super) fn children_of(process: &Process) -> Result<Vec<u32>> {
    let tasks = process
        .tasks()
        .context("can't list the threads of a process")?;
    // A thread that ends now passes its children on, or has none.
    let children = tasks.filter_map(|task| task.ok()?.children().ok());
    Ok(children.flatten().collect())
}
