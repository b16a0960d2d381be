//! Takes checkpoints of VMs in use.

use thiserror::Error;

use crate::vm::instance::{Instance, Lineage, VmError};
use crate::vm::lifecycle::Request;
use crate::vm::snapshot::{Checkpoint, Snapshot, SnapshotError, Timestamp};
use crate::vm::vmm::DiskId;
use crate::vm::vmm::blocking::{self, ShuttingDown};

/// The owner of a checkpoint, and its expiry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointOptions {
    /// The owner, who may have it deleted
    /// ([`SnapshotStore::delete_checkpoint`](super::snapshot::SnapshotStore::delete_checkpoint)): 1
    /// to 256 bytes of printable text.
    pub owner: String,
    /// The time after which it may be deleted; `None`: never.
    pub keep_until: Option<Timestamp>,
}

impl CheckpointOptions {
    /// Creates options for a checkpoint of `owner` that is kept until it is deleted.
    #[must_use]
    pub fn owned_by(owner: impl Into<String>) -> Self {
        Self {
            owner: owner.into(),
            keep_until: None,
        }
    }

    /// Returns these options with another [expiry](Self::keep_until).
    #[must_use]
    pub fn with_keep_until(self, keep_until: impl Into<Option<Timestamp>>) -> Self {
        let keep_until = keep_until.into();
        Self { keep_until, ..self }
    }
}

/// The reason why there is no checkpoint. The VM continues, unless it is over.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The VM could not be held, or its state not be written.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// The files could not be published.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The async runtime is shutting down.
    #[error("the async runtime shuts down")]
    ShuttingDown,
}

/// Writes a checkpoint of `instance`, and publishes it.
pub(crate) async fn take(
    instance: &Instance,
    options: CheckpointOptions,
) -> Result<Snapshot, CheckpointError> {
    let (lineage, parent) = instance.lineage();
    let CheckpointOptions { owner, keep_until } = options;
    let checkpoint = Checkpoint {
        owner,
        of: instance.id.to_string(),
        keep_until,
    };
    let parent_id = parent.as_ref().map(Snapshot::id);
    let staging = blocking({
        let lineage = std::sync::Arc::clone(&lineage);
        move || {
            let Lineage {
                store,
                requirements,
                template,
                ..
            } = &*lineage;
            store.ensure_room(requirements.machine.memory_bytes())?;
            let mut staging = store.stage_checkpoint(requirements, checkpoint, parent_id)?;
            if requirements.machine.disk_mib.is_some() {
                staging.add_disk(DiskId::scratch())?;
            }
            staging.keep(template)?;
            Ok(staging)
        }
    });
    let staging = staging.await?;
    if let Err(error) = instance.ask(Request::Checkpoint(staging.files())).await {
        // Looked at before the part that was written is removed.
        let look = move || {
            let full = match &error {
                VmError::Vmm(vmm) | VmError::NoCheckpoint(vmm) => {
                    lineage.store.full_disk(Some(vmm))
                }
                _ => None,
            };
            Ok((full, error, staging))
        };
        let (full, error, _staging) = blocking(look).await?;
        return Err(full.map_or(error.into(), CheckpointError::from));
    }
    let requirements = lineage.requirements.clone();
    let description =
        requirements.describe(parent.map_or(0, |parent| parent.manifest().generation));
    let published = blocking(move || staging.publish(description)).await?;
    Ok(published.snapshot)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, CheckpointError> {
    match blocking::blocking(work).await {
        Ok(result) => Ok(result?),
        Err(ShuttingDown) => Err(CheckpointError::ShuttingDown),
    }
}
