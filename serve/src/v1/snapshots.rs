//! The memory of guests on disk: bases, which pools keep, and checkpoints of sandboxes.

use axum::Json;
use axum::extract::State;
use ironclaw_orchestrator::vm::snapshot::{Entry, Kind as SnapshotKind, KindName, SnapshotStore};
use serde::Serialize;
use std::time::{Duration, UNIX_EPOCH};
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

use super::api::Api;
use super::problem::Problem;
use super::shapes::rfc3339;

/// A snapshot.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Snapshot {
    id: String,
    /// `base`, which pools share and replace, or `checkpoint`, which is its owner's.
    kind: &'static str,
    /// Whose checkpoint it is.
    owner: Option<String>,
    /// When it was published (RFC 3339), if it can be used.
    created: Option<String>,
    disk_bytes: u64,
    /// Whether a VM, a pool or a build uses it.
    in_use: bool,
    /// Whether it can be used.
    usable: bool,
}

impl From<Entry> for Snapshot {
    fn from(entry: Entry) -> Self {
        let manifest = entry.state.as_ref().ok();
        let owner = manifest.and_then(|manifest| match &manifest.kind {
            SnapshotKind::Checkpoint(checkpoint) => Some(checkpoint.owner.clone()),
            _ => None,
        });
        let created = manifest.map(|manifest| {
            let since = Duration::from_secs(manifest.created.unix_seconds);
            UNIX_EPOCH.checked_add(since).map(rfc3339)
        });
        Self {
            id: entry.id.to_string(),
            kind: match entry.kind {
                KindName::Checkpoint => "checkpoint",
                _ => "base",
            },
            owner,
            created: created.flatten(),
            disk_bytes: entry.disk_bytes,
            in_use: entry.in_use,
            usable: manifest.is_some(),
        }
    }
}

/// Lists the snapshots on this node.
#[utoipa::path(
    get, path = "/v1/snapshots", tag = "snapshots",
    responses(
        (status = 200, body = Vec<Snapshot>),
        Problem,
    )
)]
pub(super) async fn list(State(api): State<Api>) -> Result<Json<Vec<Snapshot>>, Problem> {
    let path = api.sandboxes().templates().config().snapshot_path.clone();
    let listed = spawn_blocking(move || SnapshotStore::open(path)?.list()).await;
    let entries = listed.map_err(|error| Problem::internal(&error))?;
    let entries = entries.map_err(|error| Problem::internal(&error))?;
    Ok(Json(entries.into_iter().map(Snapshot::from).collect()))
}
