//! The disks of a VM: the images that it reads, and the copies that it writes to.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use ironclaw_store::copy_file;

use super::{DiskId, Images, Machine, Scratch, VmmError};
use ironclaw_host::regular_file;

/// The writable disks of a living VM, open. A guest that takes its VMM over can replace the files by
/// others of their names, but not these.
#[derive(Debug, Default)]
pub(in crate::vm) struct OpenDisks(Vec<(DiskId, File)>);

impl OpenDisks {
    /// Copies the files of `scratch` for a new VM, each into the file that `create` makes for it.
    /// Blocks.
    pub(in crate::vm) fn copied(
        scratch: &Scratch,
        machine: Machine,
        create: impl Fn(&DiskId) -> Result<File, VmmError>,
    ) -> Result<Self, VmmError> {
        let mut disks = Vec::new();
        for (id, path) in scratch {
            let from = open_image(path, Some(machine.disk_bytes()))?;
            let file = create(id)?;
            copy_file(&from, &file, machine.disk_bytes())
                .map_err(VmmError::io(format!("copy the disk {}", path.display())))?;
            disks.push((id.clone(), file));
        }
        Ok(Self(disks))
    }

    /// Iterates over the disks, in the order in which a VM has them.
    pub(in crate::vm) fn iter(&self) -> impl Iterator<Item = (&DiskId, &File)> {
        self.0.iter().map(|(id, file)| (id, file))
    }

    /// Writes their content to new files while the guest does not run. Blocks.
    pub(in crate::vm) fn save(&self, machine: Machine, disks: &Scratch) -> Result<(), VmmError> {
        for (id, file) in &self.0 {
            let Some(path) = disks.get(id) else {
                return Err(VmmError::Refused {
                    operation: "write a snapshot".to_owned(),
                    message: format!("no file is named for its disk {id}"),
                });
            };
            let failed = || VmmError::io(format!("write {}", path.display()));
            let mut options = File::options();
            let to = options.write(true).create_new(true).mode(0o600).open(path);
            copy_file(file, &to.map_err(failed())?, machine.disk_bytes()).map_err(failed())?;
        }
        Ok(())
    }

    pub(in crate::vm) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Opens a disk's file for reading. Refuses one of another size than `expected`: the guest knows
/// the size that it had.
fn open_image(path: &Path, expected: Option<u64>) -> Result<File, VmmError> {
    let opened = regular_file::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    let refused = |message: String| VmmError::Refused {
        operation: format!("use the disk {}", path.display()),
        message,
    };
    let (found, file) = match opened {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::InvalidInput
            ) =>
        {
            return Err(refused(error.to_string()));
        }
        opened => opened.map_err(VmmError::io(format!("open {}", path.display())))?,
    };
    match expected {
        Some(expected) if expected != found => Err(refused(format!(
            "it has {found} bytes, and the machine's disk {expected}"
        ))),
        _ => Ok(file),
    }
}

/// Opens images for reading, in the order in which a VM has them.
pub(in crate::vm) fn open_images(images: &Images) -> Result<Vec<(DiskId, File)>, VmmError> {
    let opened = images
        .iter()
        .map(|(id, path)| Ok((id.clone(), open_image(path, None)?)));
    opened.collect()
}

/// Creates a file without a name in `directory`, which is gone with the last descriptor of it.
pub(in crate::vm) fn unnamed(directory: &Path) -> Result<File, VmmError> {
    let failed = || VmmError::io(format!("create a disk in {}", directory.display()));
    let flags = rustix::fs::OFlags::TMPFILE.bits().cast_signed();
    let mut options = File::options();
    let options = options.read(true).write(true).mode(0o600);
    match options.clone().custom_flags(flags).open(directory) {
        // A file system that has no such files, as overlays had none before Linux 6.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            let path = directory.join(format!(".disk-{}", uuid::Uuid::now_v7().simple()));
            let file = options.create_new(true).open(&path).map_err(failed())?;
            fs::remove_file(&path).map_err(failed())?;
            Ok(file)
        }
        opened => opened.map_err(failed()),
    }
}
