//! The files below a directory, for an archive of it.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ironclaw_protocol::limits::{MAX_DEPTH, MAX_PATH};
use rustix::fs::{CWD, Dir, Mode, OFlags, openat};
use rustix::io::Errno;

use super::item::Item;
use super::{Part, Source};

/// Flags to open a directory in another one, and no symbolic link.
pub(crate) const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A directory that is being read.
#[derive(Debug)]
struct Level {
    entries: Dir,
    path: Vec<u8>,
}

/// A directory with everything below on the same file system. Where another one is mounted, there is
/// an empty directory.
#[derive(Debug)]
pub(crate) struct Tree {
    /// The directory, until its own entry was made.
    root: Option<OwnedFd>,
    device: u64,
    levels: Vec<Level>,
}

/// Joins a name to a path in an archive.
pub(crate) fn joined(path: &[u8], name: &CStr) -> Vec<u8> {
    let mut joined = path.to_vec();
    if !joined.is_empty() {
        joined.push(b'/');
    }
    joined.extend(name.to_bytes());
    joined
}

/// Reads the next name of a directory; `None` at its end.
pub(crate) fn next_name(entries: &mut Dir) -> Option<Result<std::ffi::CString, Errno>> {
    loop {
        return match entries.next()? {
            Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => continue,
            Ok(entry) => Some(Ok(entry.file_name().to_owned())),
            Err(error) => Some(Err(error)),
        };
    }
}

impl Tree {
    /// Opens the directory, or the one that a symbolic link refers to.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty())?;
        let device = File::from(root.try_clone()?).metadata()?.dev();
        Ok(Self {
            levels: vec![Level {
                entries: Dir::read_from(&root)?,
                path: Vec::new(),
            }],
            root: Some(root),
            device,
        })
    }
}

impl Source for Tree {
    fn next(&mut self) -> Option<Part> {
        use std::os::fd::AsFd as _;
        if let Some(root) = self.root.take() {
            let item = Item::read(root.as_fd(), c".");
            return Some(item.map_or(Part::Omitted, |item| Part::Item(Vec::new(), item.into())));
        }
        let level = self.levels.last_mut()?;
        let name = match next_name(&mut level.entries) {
            None => {
                self.levels.pop();
                return Some(Part::Skipped);
            }
            // The directory is broken, or gone.
            Some(Err(_)) => {
                self.levels.pop();
                return Some(Part::Omitted);
            }
            Some(Ok(name)) => name,
        };
        let path = joined(&level.path, &name);
        let Ok(directory) = level.entries.fd() else {
            return Some(Part::Omitted);
        };
        let item = match Item::read(directory, &name) {
            Ok(item) if path.len() <= MAX_PATH => item,
            // Removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(Part::Skipped),
            Ok(_) | Err(_) => return Some(Part::Omitted),
        };
        if item.metadata.is_dir() && item.metadata.dev() == self.device {
            let opened = openat(directory, &name, DIRECTORY, Mode::empty());
            match opened.and_then(Dir::new) {
                Ok(entries) if self.levels.len() < MAX_DEPTH as usize => {
                    let path = path.clone();
                    self.levels.push(Level { entries, path });
                }
                Ok(_) | Err(_) => return Some(Part::Omitted),
            }
        }
        Some(Part::Item(path, item.into()))
    }
}
