//! Loads a snapshot into a process that was started.

use std::io::ErrorKind;
use std::path::Path;

use ironclaw_host::regular_file;

use super::api::{MemBackend, MemBackendType, SnapshotLoad, VsockOverride};
use super::devices::Tap;
use super::vm::{FirecrackerVm, MEMORY, VMSTATE, VSOCK};
use crate::vm::vmm::{RestoreSpec, SavedFiles, VmmError};

impl FirecrackerVm {
    /// Restores what `spec` names with this tap.
    pub(super) async fn restore(
        &mut self,
        spec: &RestoreSpec,
        tap: Option<&Tap>,
    ) -> Result<(), VmmError> {
        let SavedFiles {
            vmstate,
            memory,
            disks,
        } = &spec.files;
        for file in [vmstate, memory] {
            opens(file)?;
        }
        // By the paths that are stored in the snapshot.
        self.attach(&spec.images, disks).await?;
        let load = SnapshotLoad {
            snapshot_path: self.chroot.expose_read_only(vmstate, VMSTATE)?,
            mem_backend: MemBackend {
                backend_type: MemBackendType::File,
                backend_path: self.chroot.expose_read_only(memory, MEMORY)?,
            },
            resume_vm: true,
            track_dirty_pages: None,
            network_overrides: tap.into_iter().map(Tap::network_override).collect(),
            vsock_override: Some(VsockOverride {
                uds_path: VSOCK.into(),
            }),
            clock_realtime: Some(true),
        };
        self.converse("restore", async |api| api.call(&load).await)
            .await
    }
}

/// Checked here, because Firecracker may never answer a request to load a file that it can't open.
fn opens(file: &Path) -> Result<(), VmmError> {
    match regular_file::open(file) {
        Ok(_) => Ok(()),
        // Errors of the file itself, as opposed to missing resources of this process or host.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => {
            Err(VmmError::Refused {
                operation: format!("restore from {}", file.display()),
                message: error.to_string(),
            })
        }
        Err(error) => Err(VmmError::io(format!("open {}", file.display()))(error)),
    }
}
