//! The processes that this one has started.

use anyhow::{Context as _, Result};
use procfs::process::Process;

/// Those that were not waited for yet, by number.
pub(super) fn children() -> Result<Vec<u32>> {
    let tasks = Process::myself().and_then(|process| process.tasks());
    let tasks = tasks.context("can't list the threads of this process")?;
    // A thread that ends now gives its children to another, or has none.
    let children = tasks.filter_map(|task| task.ok()?.children().ok());
    Ok(children.flatten().collect())
}
