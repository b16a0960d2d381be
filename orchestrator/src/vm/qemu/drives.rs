//! The disks of a QEMU process, which inherits them open: it has no path to any file that it writes.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use serde_json::json;

use crate::vm::vmm::disks::{OpenDisks, open_images, unnamed};
use crate::vm::vmm::{DiskId, Images, Machine, Scratch, VmmError};

/// The disks of a process that is to be started.
#[derive(Debug, Default)]
pub(super) struct Drives {
    images: Vec<(DiskId, File)>,
    scratch: OpenDisks,
}

impl Drives {
    /// Opens images, and copies what is to be written to files without names in `directory`. Blocks.
    pub(super) fn open(
        images: &Images,
        scratch: &Scratch,
        machine: Machine,
        directory: &Path,
    ) -> Result<Self, VmmError> {
        Ok(Self {
            images: open_images(images)?,
            scratch: OpenDisks::copied(scratch, machine, |_| unnamed(directory))?,
        })
    }

    /// Returns the descriptors for the process to inherit, and the arguments that name them.
    pub(super) fn inherited(&self) -> Result<(Vec<OwnedFd>, Vec<String>), VmmError> {
        let (mut descriptors, mut arguments) = (Vec::new(), Vec::new());
        let images = self.images.iter().map(|(id, file)| (id, file, true));
        let scratch = self.scratch.iter().map(|(id, file)| (id, file, false));
        for (set, (id, file, is_read_only)) in images.chain(scratch).enumerate() {
            let file = file.try_clone().map_err(VmmError::io("open a disk"))?;
            arguments.extend(attach(id, &file, set, is_read_only));
            descriptors.push(file.into());
        }
        Ok((descriptors, arguments))
    }

    /// Returns the disks that the process writes to.
    pub(super) fn into_scratch(self) -> OpenDisks {
        self.scratch
    }
}

/// Returns the arguments for a disk.
///
/// - `locking=off`: all clones share the images, and nobody else has the others.
/// - `drop-cache=false`: at a restore QEMU would write a disk back to the host's, and drop images
///   from the page cache.
/// - `no-flush`: a disk goes with its VM, so nothing in it has to survive the host. What a checkpoint
///   has of it is synced when that is published.
/// - `werror=report`: the guest gets the error of a full disk of the host. By default QEMU would
///   stop the guest.
fn attach(id: &DiskId, file: &File, set: usize, is_read_only: bool) -> [String; 6] {
    let node = format!("disk-{id}");
    let block = json!({
        "driver": "file",
        "node-name": node,
        "filename": format!("/dev/fdset/{set}"),
        "read-only": is_read_only,
        "locking": "off",
        "drop-cache": false,
        "cache": { "direct": false, "no-flush": true },
    });
    [
        "-add-fd".to_owned(),
        format!("fd={},set={set}", file.as_raw_fd()),
        "-blockdev".to_owned(),
        block.to_string(),
        "-device".to_owned(),
        format!("virtio-blk-device,drive={node},serial={id},werror=report,rerror=report"),
    ]
}
