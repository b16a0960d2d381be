//! The disks of VMs whose template has a root disk: the template's image, and an empty disk for what
//! a guest writes.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use ironclaw_protocol::ROOT_DISK_ARGUMENT;
use rustix::fs::{MemfdFlags, memfd_create};

use super::error::LaunchError;
use crate::template::{Template, format_ext4};
use crate::vm::vmm::{DiskId, Images, Machine, Scratch, VmmError};

/// The disks that a VM of a template boots with.
#[derive(Debug)]
pub(super) struct RootDisk {
    image: PathBuf,
    /// A formatted disk in memory, sparse: VMs that boot get copies of it.
    blank: File,
}

impl RootDisk {
    /// Returns the size of guests of `template`: what is set for disks is for those that have one.
    pub(super) fn machine(template: &Template, machine: Machine) -> Machine {
        let disk_mib = template.root_disk().and(machine.disk_mib);
        Machine {
            disk_mib,
            ..machine
        }
    }

    /// Returns the disks of guests of `template`, if it has a root disk.
    pub(super) fn new(template: &Template, machine: Machine) -> Result<Option<Self>, LaunchError> {
        let Some(image) = template.root_disk() else {
            return Ok(None);
        };
        let blank = || {
            let file = File::from(memfd_create("blank disk", MemfdFlags::CLOEXEC)?);
            format_ext4(&file, machine.disk_bytes())?;
            Ok(file)
        };
        Ok(Some(Self {
            image: image.to_owned(),
            blank: blank().map_err(VmmError::io("format a disk"))?,
        }))
    }

    pub(super) fn images(&self) -> Images {
        Images::from([(DiskId::root(), self.image.clone())])
    }

    /// Returns the empty disk, for as long as this lives.
    pub(super) fn scratch(&self) -> Scratch {
        let path = format!("/proc/self/fd/{}", self.blank.as_raw_fd());
        Scratch::from([(DiskId::scratch(), path.into())])
    }

    /// Returns the kernel's arguments for a guest that is to find its disks.
    pub(super) fn boot_args(&self, template: &Template) -> String {
        format!("{} {ROOT_DISK_ARGUMENT}", template.boot_args())
    }
}
