//! The root directory of a jailed QEMU process.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::role::KVM;
use crate::sys::confine::{Root, Step};

/// Builds a root directory with `files`, under their paths on the host. `kvm` is set if it has
/// /dev/kvm, and says whether that device is created anew.
pub(super) fn root(over: &Path, files: &[&Path], kvm: Option<bool>) -> io::Result<Root> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
    let inside = |path: &Path| {
        let below = path.strip_prefix("/").unwrap_or(path);
        text(&over.join(below))
    };
    let mut made = BTreeSet::new();
    let mut steps = Vec::new();
    let mut above = |path: &Path, steps: &mut Vec<Step>| -> io::Result<()> {
        let mut parents: Vec<&Path> = path.ancestors().skip(1).collect();
        parents.pop();
        for parent in parents.into_iter().rev() {
            if made.insert(parent.to_owned()) {
                steps.push(Step::Directory {
                    at: inside(parent)?,
                });
            }
        }
        Ok(())
    };
    let mut bound: Vec<&Path> = Vec::new();
    for path in files {
        // Included in the bind mount of its directory.
        if bound.iter().any(|directory| path.starts_with(directory)) {
            continue;
        }
        let at = inside(path)?;
        above(path, &mut steps)?;
        let facts = path.symlink_metadata()?;
        if facts.is_symlink() {
            let target = text(&fs::read_link(path)?)?;
            steps.push(Step::Link { at, target });
            continue;
        }
        steps.push(if facts.is_dir() {
            bound.push(path);
            Step::Directory { at: at.clone() }
        } else {
            Step::File { at: at.clone() }
        });
        let from = text(path)?;
        steps.push(Step::Bind { from, at });
    }
    if let Some(is_made) = kvm {
        let path = Path::new(KVM);
        let at = inside(path)?;
        above(path, &mut steps)?;
        if is_made {
            let device = fs::metadata(path)?.rdev();
            steps.push(Step::Device { at, device });
        } else {
            steps.push(Step::File { at: at.clone() });
            let from = text(path)?;
            steps.push(Step::BindDevice { from, at });
        }
    }
    Ok(Root {
        over: text(over)?,
        steps,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_has_each_file_by_its_name_and_each_directory_once() {
        let over = Path::new("/over");
        let files = ["/usr", "/usr/bin/env", "/etc/passwd", "/etc/group"].map(Path::new);
        let steps = root(over, &files, None).unwrap().steps;
        let made = |name: &str| {
            let name = CString::new(name).unwrap();
            let made = |step: &&Step| matches!(step, Step::Directory { at } if *at == name);
            steps.iter().filter(made).count()
        };
        assert_eq!(
            (made("/over/etc"), made("/over/usr"), made("/over")),
            (1, 1, 0)
        );
    }
}
