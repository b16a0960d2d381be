//! The files of a VM's memory and state.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use ironclaw_host::{host_limits, regular_file};

use crate::vm::vmm::{Machine, RestoreSpec, VmmError};

/// Creates the file at `path` for the RAM of a guest that is to become a snapshot.
pub(super) fn ram_file(path: &Path, machine: Machine) -> Result<OwnedFd, VmmError> {
    let failed = || VmmError::io(format!("create {}", path.display()));
    host_limits::of_file_size(machine.memory_bytes()).map_err(failed())?;
    let made = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|file| file.set_len(machine.memory_bytes()).map(|()| file));
    made.map(OwnedFd::from).map_err(failed())
}

/// Opens the memory of a snapshot read-only. Refuses another size, with which the clone would lack
/// memory.
pub(super) fn memory_of(spec: &RestoreSpec) -> Result<OwnedFd, VmmError> {
    let path = &spec.files.memory;
    let opened = regular_file::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    let (found, file) = opened.map_err(VmmError::io(format!("open {}", path.display())))?;
    let expected = spec.machine.memory_bytes();
    if found == expected {
        return Ok(file.into());
    }
    Err(VmmError::Refused {
        operation: format!("restore from {}", path.display()),
        message: format!("it has {found} bytes, and the guest's memory {expected}"),
    })
}

pub(super) fn create_private(path: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}
