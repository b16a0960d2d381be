//! The processes that this one has started.

use std::fs;

use anyhow::{Context as _, Result};

/// Those that were not waited for yet, by number.
pub(super) fn children() -> Result<Vec<u32>> {
    let path = "/proc/self/task";
    let tasks = fs::read_dir(path).with_context(|| format!("can't list {path}"))?;
    // A thread that ends now gives its children to another, or has none.
    let lists =
        tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    Ok(lists
        .flat_map(|list| {
            let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
            pids.collect::<Vec<_>>()
        })
        .collect())
}
