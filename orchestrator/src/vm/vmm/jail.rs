//! The parts of a jail that any VMM has: a user id and control groups of its own, and files that it
//! may read.

pub(in crate::vm) mod cgroup;
pub(in crate::vm) mod claim;
pub(in crate::vm) mod user;

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use cgroup::Cgroups;

use super::parallel;
use crate::vm::tree;

/// Removes the directories of a dead owner's VMs, some at a time, with the control groups of those
/// that were jailed: each waits for the disk and the kernel, and there may be a thousand.
pub(in crate::vm) fn remove_vms(owner: &Path) -> io::Result<()> {
    let cgroups = Cgroups::find();
    parallel::for_each(&vms(owner)?, |vm| {
        // First, because the directory is the mark by which the group is found.
        if let (Some(cgroups), Some(id)) = (&cgroups, vm.file_name()) {
            cgroups.remove(&id.to_string_lossy());
        }
        match tree::remove(vm) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    })
}

/// Lists the directories of VMs below `owner`: jails are in one of their binary, of any name.
fn vms(owner: &Path) -> io::Result<Vec<PathBuf>> {
    let mut vms = Vec::new();
    for directory in directories(owner)? {
        let jails = directories(&directory)?;
        match jails.is_empty() {
            true => vms.push(directory),
            false => vms.extend(jails),
        }
    }
    Ok(vms)
}

fn directories(parent: &Path) -> io::Result<Vec<PathBuf>> {
    let mut directories = Vec::new();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            directories.push(entry.path());
        }
    }
    Ok(directories)
}

/// Lets a group read a file that only its owner may read. The file's directory stays closed to the
/// group, which reaches the file through a link of ours.
pub(in crate::vm) fn readable_by(file: &Path, group: u32) -> io::Result<()> {
    let file = File::open(file)?;
    let facts = file.metadata()?;
    // A file that everybody may read is somebody's own, like an image or a kernel: it stays
    // unchanged.
    let open_to_all = facts.mode() & 0o004 != 0;
    if !open_to_all && (facts.gid() != group || facts.mode() & 0o777 != 0o640) {
        fchown(&file, None, Some(group))?;
        file.set_permissions(fs::Permissions::from_mode(0o640))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jails_and_directories_without_one_are_removed_and_nothing_else() {
        let owner = tempfile::tempdir().unwrap();
        let path = |name: &str| owner.path().join(name);
        for jail in 0..50 {
            fs::create_dir_all(path(&format!("firecracker/{jail}/root/dev"))).unwrap();
            fs::write(path(&format!("firecracker/{jail}/root/firecracker")), "").unwrap();
            fs::create_dir(path(&format!("{jail}"))).unwrap();
            fs::write(path(&format!("{jail}/api.sock")), "").unwrap();
        }
        fs::write(path(".owner-1"), "").unwrap();
        remove_vms(owner.path()).unwrap();
        let left = fs::read_dir(owner.path()).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".owner-1", "firecracker"]);
        assert!(directories(&path("firecracker")).unwrap().is_empty());
    }
}
