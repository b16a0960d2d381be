//! What a daemon leaves that is killed: memory of sandboxes that nobody goes on from.

use std::collections::HashSet;
use std::path::PathBuf;

use ironclaw_orchestrator::vm::snapshot::{Kind, SnapshotError, SnapshotStore};

use crate::database::Database;

/// Deletes the checkpoints of `owner` that the database does not know. Those that it knows are kept,
/// whether they can be used or not.
pub(crate) fn sweep(path: PathBuf, database: &Database, owner: &str) -> Result<(), String> {
    let known = database.run("list the checkpoints of", |connection| {
        let query =
            "SELECT checkpoint FROM paused_sandbox UNION SELECT snapshot FROM sandbox_checkpoint";
        let mut query = connection.prepare(query)?;
        let rows = query.query_map([], |row| row.get(0))?;
        rows.collect::<rusqlite::Result<HashSet<String>>>()
    });
    let known = known.map_err(|error| error.to_string())?;
    let store = SnapshotStore::open(path).map_err(|error| error.to_string())?;
    let all = store.checkpoints().map_err(|error| error.to_string())?;
    for entry in all {
        let is_ours = |kind: &Kind| match kind {
            Kind::Checkpoint(checkpoint) => checkpoint.owner == owner,
            _ => false,
        };
        let manifest = entry.state.as_ref();
        if known.contains(&entry.id.to_string()) || !manifest.is_ok_and(|m| is_ours(&m.kind)) {
            continue;
        }
        match store.delete_checkpoint(entry.id, owner) {
            Ok(()) => tracing::info!(id = %entry.id, "what a former daemon left is deleted"),
            // A VM of it may take a moment to end.
            Err(SnapshotError::InUse { .. } | SnapshotError::NotFound { .. }) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}
