//! The child processes of this process.

use anyhow::{Context as _, Result};
use procfs::process::Process;

/// Returns the PIDs of children that are not reaped yet.
pub(super) fn children() -> Result<Vec<u32>> {
    let tasks = Process::myself().and_then(|process| process.tasks());
    let tasks = tasks.context("can't list the threads of this process")?;
    // A thread that ends now passes its children on, or has none.
    let children = tasks.filter_map(|task| task.ok()?.children().ok());
    Ok(children.flatten().collect())
}
