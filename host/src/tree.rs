//! Removes a directory that a VMM lived in, whatever is in it.
//!
//! A VMM taken over by its guest can create anything there, like directories nested thousands deep.
//! [`std::fs::remove_dir_all`] uses stack and a descriptor for each level: it would overflow the
//! stack of this process, or run out of descriptors at every try. This removal moves each nested
//! directory to the top before it enters it, and so needs three descriptors and constant stack at
//! any depth.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2, renameat, statat,
    unlinkat,
};
use rustix::io::Errno;
use uuid::Uuid;

use crate::mark;

/// Removes the directory at `path` with everything in it, its marks last. Follows no link in it,
/// and enters no other file system mounted in it.
///
/// # Errors
/// The first entry that can't be removed; that one and those not reached yet stay.
pub fn remove(path: &Path) -> io::Result<()> {
    let mut top = Top {
        directory: open(CWD, path)?,
        // Never the name of an existing entry.
        prefix: Uuid::new_v4(),
        taken_out: 0,
    };
    while top.empty()? {}
    top.remove_marks()?;
    match unlinkat(CWD, path, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The directory to remove.
struct Top {
    directory: OwnedFd,
    prefix: Uuid,
    taken_out: u64,
}

impl Top {
    /// Removes the entries that are there now, and returns whether there were any. Moves the
    /// directories found inside them up to the top, for the next call.
    fn empty(&mut self) -> io::Result<bool> {
        let mut found = false;
        for_each(&self.directory, |name| {
            if is_mark(&self.directory, name)? {
                return Ok(());
            }
            found = true;
            if is_removed(&self.directory, name)? {
                return Ok(());
            }
            let inner = enter(&self.directory, name)?;
            for_each(&inner, |child| {
                if !is_removed(&inner, child)? {
                    let name = format!("{}-{}", self.prefix, self.taken_out);
                    renameat(&inner, child, &self.directory, name)?;
                    self.taken_out += 1;
                }
                Ok(())
            })?;
            Ok(unlinkat(&self.directory, name, AtFlags::REMOVEDIR)?)
        })?;
        Ok(found)
    }

    fn remove_marks(&self) -> io::Result<()> {
        for_each(&self.directory, |name| {
            is_removed(&self.directory, name).map(drop)
        })
    }
}

/// Returns whether the entry is a mark; a directory is none, whatever a VMM called it.
fn is_mark(directory: &OwnedFd, name: &CStr) -> io::Result<bool> {
    if !mark::is_one(OsStr::from_bytes(name.to_bytes())) {
        return Ok(false);
    }
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode) != FileType::Directory),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Opens a directory in `at`, unless it is on another file system.
fn enter(at: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    match openat2(at, name, flags, Mode::empty(), ResolveFlags::NO_XDEV) {
        // `openat2` is missing before Linux 5.6, and unknown to some seccomp filters.
        Err(Errno::NOSYS | Errno::PERM) => open(at, name),
        opened => Ok(opened?),
    }
}

fn open(at: impl std::os::fd::AsFd, path: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(openat(at, path, flags, Mode::empty())?)
}

fn for_each(directory: &OwnedFd, mut act: impl FnMut(&CStr) -> io::Result<()>) -> io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            act(name)?;
        }
    }
    Ok(())
}

/// Removes an entry; returns `false` if it is a directory that is not empty.
fn is_removed(directory: &OwnedFd, name: &CStr) -> io::Result<bool> {
    let removed = match unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => unlinkat(directory, name, AtFlags::REMOVEDIR),
        other => other,
    };
    match removed {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::fs::mkdirat;

    use super::*;

    #[test]
    fn any_entries_are_removed_and_link_targets_stay() {
        let root = tempfile::tempdir().unwrap();
        let (top, outside) = (root.path().join("top"), root.path().join("outside"));
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "").unwrap();
        for branch in [
            "a/b/c",
            "a/b/d",
            "a/e",
            "f/b/c",
            "empty",
            ".ironclaw/manifest.json/x",
        ] {
            fs::create_dir_all(top.join(branch)).unwrap();
        }
        for place in ["", "a", "a/b", "a/b/c", "f/b/c"] {
            fs::write(top.join(place).join("file"), "").unwrap();
            fs::write(top.join(place).join("manifest.json"), "").unwrap();
            symlink(&outside, top.join(place).join("link")).unwrap();
        }
        remove(&top).unwrap();
        assert!(!top.exists() && outside.join("file").exists());
        let gone = remove(&top).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        symlink(&outside, &top).unwrap();
        remove(&top).unwrap_err();
        assert!(outside.join("file").exists());
    }

    #[test]
    fn a_directory_of_any_depth_is_removed_with_little_stack_and_few_descriptors() {
        let root = tempfile::tempdir().unwrap();
        let top = root.path().join("top");
        fs::create_dir(&top).unwrap();
        let mut here = open(CWD, &top).unwrap();
        for _ in 0..500 {
            mkdirat(&here, "d", Mode::RWXU).unwrap();
            here = open(&here, "d").unwrap();
        }
        // A quarter of what a process's supervisor has, for 500 levels.
        let small = std::thread::Builder::new().stack_size(32 * 1024);
        let removal = small.spawn(move || remove(&top)).unwrap();
        removal.join().unwrap().unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
