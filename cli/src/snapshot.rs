//! `ironclaw snapshot`

use anyhow::Result;
use ironclaw_console::output::{self, blocking, mebibytes, milliseconds};
use ironclaw_console::progress::Reporter;
use ironclaw_orchestrator::vm::snapshot::{
    Defect, Entry, Manifest, Owners, SnapshotError, SnapshotId, SnapshotStore,
};
use ironclaw_orchestrator::vm::{Config, Launcher};
use serde::Serialize;

use crate::args::{SnapshotTask, Snapshots};
use crate::each::{self, Done, Name};

#[derive(Debug, Serialize)]
struct Made {
    id: SnapshotId,
    boot_ms: f64,
    write_ms: f64,
    publish_ms: f64,
    disk_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Row {
    id: SnapshotId,
    disk_bytes: u64,
    in_use: bool,
    /// The processes that use it, as far as they can be seen.
    owners: Owners,
    /// When it was published, in seconds since 1970.
    created: Option<u64>,
    /// The file of that name, if it can be used.
    manifest: Option<Manifest>,
    /// Why it can't be used.
    error: Option<String>,
}

/// Makes, lists, verifies or deletes snapshots.
pub(crate) async fn perform(config: &Config, task: SnapshotTask, json: bool) -> Result<u8> {
    match task {
        SnapshotTask::Create => create(config, json).await?,
        SnapshotTask::List => list(config, json).await?,
        SnapshotTask::Verify(selection) => return verify(config, selection, json).await,
        SnapshotTask::Delete(selection) => return delete(config, selection, json).await,
    }
    Ok(0)
}

async fn create(config: &Config, json: bool) -> Result<()> {
    let reporter = Reporter::new();
    let launcher = Launcher::open(config, reporter.progress()).await?;
    let created = launcher.create_snapshot().await?;
    reporter.clear();
    let made = Made {
        id: created.snapshot.id(),
        boot_ms: milliseconds(created.boot),
        write_ms: milliseconds(created.write),
        publish_ms: milliseconds(created.publish),
        disk_bytes: created.disk_bytes,
    };
    if json {
        return output::json(&made);
    }
    output::line(&format!(
        "{}  {} on disk; boot {:.0} ms, write {:.0} ms, publish {:.0} ms",
        made.id,
        mebibytes(made.disk_bytes),
        made.boot_ms,
        made.write_ms,
        made.publish_ms
    ))
}

async fn list(config: &Config, json: bool) -> Result<()> {
    let entries = owned(config).await?;
    if json {
        let rows: Vec<_> = entries.into_iter().map(Row::from).collect();
        return output::json(&rows);
    }
    let rows = entries.into_iter().map(|(entry, owners)| {
        let (made_by, age) = match &entry.state {
            Ok(manifest) => (manifest.vmm.to_string(), output::age(manifest.created)),
            Err(defect) => (defect.to_string(), String::new()),
        };
        let in_use = used_by(entry.in_use, &owners);
        [
            entry.id.to_string(),
            age,
            mebibytes(entry.disk_bytes),
            in_use,
            made_by,
        ]
    });
    output::table(
        ["SNAPSHOT", "AGE", "ON DISK", "IN USE", "MADE BY"],
        rows.collect(),
    )
}

impl From<(Entry, Owners)> for Row {
    fn from((entry, owners): (Entry, Owners)) -> Self {
        let (manifest, error) = match entry.state {
            Ok(manifest) => (Some(manifest), None),
            Err(defect) => (None, Some(defect.to_string())),
        };
        let Entry {
            id,
            disk_bytes,
            in_use,
            ..
        } = entry;
        Self {
            id,
            disk_bytes,
            in_use,
            owners,
            created: manifest
                .as_ref()
                .map(|manifest| manifest.created.unix_seconds),
            manifest,
            error,
        }
    }
}

/// The snapshots on disk.
pub(crate) async fn entries(config: &Config) -> Result<Vec<Entry>> {
    let path = config.snapshot_path.clone();
    blocking(move || SnapshotStore::open(path)?.list()).await
}

/// Whether a snapshot is in use, for people.
pub(crate) fn used_by(in_use: bool, owners: &Owners) -> String {
    match in_use {
        true => format!("by {owners}"),
        false => "no".to_owned(),
    }
}

/// The snapshots on disk, each with the processes that use it.
pub(crate) async fn owned(config: &Config) -> Result<Vec<(Entry, Owners)>> {
    let path = config.snapshot_path.clone();
    blocking(move || -> Result<_, SnapshotError> {
        let store = SnapshotStore::open(path)?;
        let entries = store.list()?.into_iter().map(|entry| {
            let owners = match entry.in_use {
                // Deleted since: nobody uses it.
                true => store.owners(entry.id).unwrap_or_default(),
                false => Owners::default(),
            };
            (entry, owners)
        });
        Ok(entries.collect())
    })
    .await
}

async fn verify(config: &Config, selection: Snapshots, json: bool) -> Result<u8> {
    let done = for_each(config, selection, "verifying", |store, id| {
        Ok(Some(store.verify(id)?.hashed_bytes))
    });
    each::verified(&done.await?, json)
}

async fn delete(config: &Config, selection: Snapshots, json: bool) -> Result<u8> {
    let done = for_each(config, selection, "deleting", |store, id| {
        store.delete(id)?;
        Ok(None)
    });
    each::deleted(&done.await?, "snapshots", json)
}

/// Does `action` to every chosen snapshot, whether or not it failed for others.
async fn for_each(
    config: &Config,
    selection: Snapshots,
    doing: &'static str,
    action: impl Fn(&SnapshotStore, SnapshotId) -> Result<Option<u64>> + Send + 'static,
) -> Result<Vec<Done>> {
    let reporter = Reporter::new();
    let path = config.snapshot_path.clone();
    blocking(move || -> Result<_> {
        let store = SnapshotStore::open(path)?;
        let ids = if selection.all {
            let all = store.list()?.into_iter();
            // What is somebody's has the name of a snapshot by chance.
            all.filter(|entry| entry.state != Err(Defect::NotOurs))
                .map(|entry| entry.id)
                .collect()
        } else {
            selection.ids
        };
        Ok(each::each(
            ids,
            Name::Id,
            doing,
            |text| reporter.stage(text, false),
            |id| action(&store, *id),
        ))
    })
    .await
}
