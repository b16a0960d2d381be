//! The command `ironclaw snapshot`.

use anyhow::Result;
use ironclaw_console::output::{self, blocking, mebibytes, milliseconds};
use ironclaw_console::progress::{self, Reporter};
use ironclaw_orchestrator::vm::snapshot::{
    Defect, Entry, Kind, KindName, Manifest, Owners, SnapshotError, SnapshotId, SnapshotStore,
};
use ironclaw_orchestrator::vm::{Config, Launcher};
use serde::Serialize;

use crate::each::{self, Done, Name};
use crate::outcome::Outcome;
use crate::snapshot_args::{SnapshotTask, Snapshots};

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
    kind: KindName,
    /// The snapshot that its VM was restored from.
    parent: Option<SnapshotId>,
    disk_bytes: u64,
    in_use: bool,
    /// The processes that use it, as far as they are visible.
    owners: Owners,
    /// The time of publication, in seconds since 1970.
    created: Option<u64>,
    /// `None` without a manifest, and for a time in the future.
    age_seconds: Option<u64>,
    /// The manifest, if the snapshot is usable.
    manifest: Option<Manifest>,
    /// The reason why it is not usable.
    error: Option<String>,
}

/// Makes, lists, verifies or deletes snapshots.
pub async fn perform(config: &Config, task: SnapshotTask, json: bool) -> Result<Outcome> {
    match task {
        SnapshotTask::Create { template } => create(&template.over(config.clone()), json).await?,
        SnapshotTask::List => list(config, json).await?,
        SnapshotTask::Verify(selection) => return verify(config, selection, json).await,
        SnapshotTask::Delete(selection) => return delete(config, selection, json).await,
    }
    Ok(Outcome::Done)
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
        let parent = parent(&entry).map_or_else(String::new, |id| id.to_string());
        let in_use = used_by(entry.in_use, &owners);
        [
            entry.id.to_string(),
            entry.kind.to_string(),
            age,
            mebibytes(entry.disk_bytes),
            in_use,
            made_by,
            parent,
        ]
    });
    let header = [
        "SNAPSHOT", "KIND", "AGE", "ON DISK", "IN USE", "MADE BY", "PARENT",
    ];
    output::table(header, rows.collect())
}

/// Returns the snapshot that its VM was restored from, if any.
pub(crate) fn parent(entry: &Entry) -> Option<SnapshotId> {
    entry.state.as_ref().ok()?.parent
}

impl From<(Entry, Owners)> for Row {
    fn from((entry, owners): (Entry, Owners)) -> Self {
        let parent = parent(&entry);
        let (manifest, error) = match entry.state {
            Ok(manifest) => (Some(manifest), None),
            Err(defect) => (None, Some(defect.to_string())),
        };
        let Entry {
            id,
            kind,
            disk_bytes,
            in_use,
            ..
        } = entry;
        let created = manifest.as_ref().map(|manifest| manifest.created);
        Self {
            id,
            kind,
            parent,
            disk_bytes,
            in_use,
            owners,
            created: created.map(|created| created.unix_seconds),
            age_seconds: created.and_then(output::seconds_since),
            manifest,
            error,
        }
    }
}

/// Formats the use of a snapshot, for people.
pub(crate) fn used_by(in_use: bool, owners: &Owners) -> String {
    match in_use {
        true => format!("by {owners}"),
        false => "no".to_owned(),
    }
}

/// Lists the snapshots on disk, each with the processes that use it.
pub(crate) async fn owned(config: &Config) -> Result<Vec<(Entry, Owners)>> {
    let path = config.snapshot_path.clone();
    blocking(move || -> Result<_, SnapshotError> {
        let store = SnapshotStore::open(path)?;
        let entries = store.list()?.into_iter().map(|entry| {
            let owners = match entry.in_use {
                // Deleted meanwhile: nobody uses it.
                true => store.owners(entry.id).unwrap_or_default(),
                false => Owners::default(),
            };
            (entry, owners)
        });
        Ok(entries.collect())
    })
    .await
}

async fn verify(config: &Config, selection: Snapshots, json: bool) -> Result<Outcome> {
    let done = for_each(
        config,
        selection,
        |_| true,
        "verifying",
        |store, id| Ok(Some(store.verify(id)?.hashed_bytes)),
    );
    let (done, _) = done.await?;
    each::verified(&done, json)
}

async fn delete(config: &Config, selection: Snapshots, json: bool) -> Result<Outcome> {
    let done = for_each(
        config,
        selection,
        can_be_made_again,
        "deleting",
        |store, id| {
            store.delete(id)?;
            Ok(None)
        },
    );
    let (done, left) = done.await?;
    if left > 0 {
        progress::note(&format!(
            "{left} that can't be made again or are a newer release's stay: delete them by their ids"
        ));
    }
    each::deleted(&done, "snapshots", json)
}

/// Returns whether a pool builds another one when needed. A checkpoint, or a snapshot of a newer
/// release, has to be named.
fn can_be_made_again(entry: &Entry) -> bool {
    match &entry.state {
        Ok(manifest) => manifest.kind == Kind::Base,
        Err(Defect::OtherKind { .. }) => false,
        Err(defect) => entry.kind == KindName::Base && !defect.is_of_newer_release(),
    }
}

/// Applies `action` to every chosen snapshot, even if it fails for some. If all are chosen, those
/// are the ones for which `is_meant` returns true, and the others are counted; foreign directories
/// that have the name of a snapshot by chance are neither.
async fn for_each(
    config: &Config,
    selection: Snapshots,
    is_meant: fn(&Entry) -> bool,
    doing: &'static str,
    action: impl Fn(&SnapshotStore, SnapshotId) -> Result<Option<u64>> + Send + 'static,
) -> Result<(Vec<Done>, usize)> {
    let reporter = Reporter::new();
    let path = config.snapshot_path.clone();
    blocking(move || -> Result<_> {
        let store = SnapshotStore::open(path)?;
        let (ids, left) = if selection.all {
            let ours = |entry: &Entry| entry.state != Err(Defect::NotOurs);
            let all = store.list()?.into_iter().filter(ours);
            let (meant, others): (Vec<_>, Vec<_>) = all.partition(is_meant);
            (meant.iter().map(|entry| entry.id).collect(), others.len())
        } else {
            (selection.ids, 0)
        };
        let done = each::each(
            ids,
            Name::Id,
            doing,
            |text| reporter.stage(text, false),
            |id| action(&store, *id),
        );
        Ok((done, left))
    })
    .await
}
