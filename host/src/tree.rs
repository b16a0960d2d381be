//! Removing a directory that a VMM lived in, whatever is in it.
//!
//! A VMM that its guest took over makes there what it likes, as directories in directories,
//! thousands deep. [`std::fs::remove_dir_all`] goes down with a part of the stack and a descriptor
//! for each of them: that ends this process, or fails for want of descriptors at every try. Here each directory is taken out of the one that it is in before it is looked into, so it
//! takes three descriptors and no more stack for any depth.

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

/// Removes the directory at `path` with all that is in it, and what marks it as ours in the end.
/// Nothing in it is followed if it is a link, and no other file system that is mounted in it is
/// entered.
///
/// # Errors
/// The first thing that can't be removed; it stays, with what was not come to.
pub fn remove(path: &Path) -> io::Result<()> {
    let mut top = Top {
        directory: open(CWD, path)?,
        // No name that is there already.
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

/// The directory to be removed.
struct Top {
    directory: OwnedFd,
    prefix: Uuid,
    taken_out: u64,
}

impl Top {
    /// Removes what is in it now, and says whether there was anything. What is in its directories
    /// is here afterwards if it is a directory, too.
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

/// A directory is none, whatever a VMM called it.
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

/// Opens a directory of `at`, unless it is one of another file system.
fn enter(at: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    match openat2(at, name, flags, Mode::empty(), ResolveFlags::NO_XDEV) {
        // Before Linux 5.6, or where a filter of system calls does not know it.
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

/// Removes what has this name; `false` if it is a directory with something in it.
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
    fn whatever_is_in_a_directory_goes_with_it_and_what_it_links_to_stays() {
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
        // The keeper of a process has more, for levels that are as many more.
        let small = std::thread::Builder::new().stack_size(32 * 1024);
        let removal = small.spawn(move || remove(&top)).unwrap();
        removal.join().unwrap().unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
