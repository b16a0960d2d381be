//! The parts of a jail that any VMM has: a user id and control groups of its own, and files that it
//! may read.

pub(in crate::vm) mod cgroup;
pub(in crate::vm) mod claim;
pub(in crate::vm) mod user;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use cgroup::Cgroups;

/// Removes the control groups of the jails in the directory of a dead owner.
pub(in crate::vm) fn remove_groups(owner: &Path) -> io::Result<()> {
    if let Some(cgroups) = Cgroups::find() {
        ids(owner)?.iter().for_each(|id| cgroups.remove(id));
    }
    Ok(())
}

/// Lists the ids of the jails below `base`, of binaries of any name.
fn ids(base: &Path) -> io::Result<Vec<String>> {
    let mut ids = Vec::new();
    for program in fs::read_dir(base)? {
        let program = program?;
        if program.file_type()?.is_dir() {
            for jail in fs::read_dir(program.path())? {
                ids.push(jail?.file_name().to_string_lossy().into_owned());
            }
        }
    }
    Ok(ids)
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
