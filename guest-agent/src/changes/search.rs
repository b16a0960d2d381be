//! The search for what differs from the image, piece by piece: the overlay's upper directory has it.
//!
//! A file is there with all of its content when a program has opened it to write, or has changed its
//! properties. What the image has and the guest does not is there as a character device 0/0, or as a
//! directory that is marked to hide the one below.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use ironclaw_protocol::file::{ChangeKind, FileKind};
use ironclaw_protocol::limits::{MAX_DEPTH, MAX_PATH};
use rustix::fs::{Dir, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::archive::item::{Item, is_opaque, peek, properties};
use crate::archive::tree::{DIRECTORY, joined, next_name};
use crate::file_info::kind;
use crate::identity;
use crate::overlay::Overlay;

/// Directories of the root that belong to the kernel, or are in memory, whatever the image has there.
const NOT_OF_THE_DISK: [&[u8]; 4] = [b"proc", b"sys", b"dev", b"run"];

/// Longest file that is compared with the image's: a longer one counts as modified when it is in the
/// upper directory.
const MAX_COMPARED: u64 = 1 << 20;

/// A difference, or a directory on the way to one.
#[derive(Debug)]
pub(crate) struct Difference {
    /// The path below the root.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: DifferenceKind,
    pub(crate) file: FileKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DifferenceKind {
    /// There is something else than in the image.
    Changed(ChangeKind),
    /// A directory of the image that has differences below.
    Parent,
    /// A directory that hides the image's: what follows is all that is in it.
    Opaque,
    /// Something that such a directory hides.
    Hidden,
}

/// What a piece of the search found.
#[derive(Debug)]
pub(crate) enum Found {
    Difference(Difference),
    /// Nothing that differs.
    Same,
    /// Something that can't be read.
    Unread,
}

/// A directory of the upper layer that is being read.
#[derive(Debug)]
struct Level {
    path: Vec<u8>,
    entries: Dir,
    /// The directory of the image at the same place, open for lookups.
    lower: Option<OwnedFd>,
    is_opaque: bool,
    /// Its names that this directory may hide, first of all.
    hidden: Option<Dir>,
    /// Whether the directory itself was told.
    is_told: bool,
}

/// The search for differences, from the root down.
#[derive(Debug)]
pub(crate) struct Changes {
    overlay: Overlay,
    levels: Vec<Level>,
    told: VecDeque<Difference>,
}

impl Changes {
    /// Begins at the root.
    pub(crate) fn open(overlay: Overlay) -> io::Result<Self> {
        let upper = openat(overlay.upper(), c".", DIRECTORY, Mode::empty())?;
        let lower = openat(overlay.lower(), c".", DIRECTORY, Mode::empty())?;
        let mut told = VecDeque::new();
        if !is_same_directory(&upper.try_clone()?.into(), &lower.try_clone()?.into())? {
            told.push_back(Difference {
                path: Vec::new(),
                kind: DifferenceKind::Changed(ChangeKind::Modified),
                file: FileKind::Directory,
            });
        }
        let root = Level {
            path: Vec::new(),
            entries: Dir::new(upper)?,
            lower: Some(lower),
            is_opaque: false,
            hidden: None,
            is_told: true,
        };
        Ok(Self {
            overlay,
            levels: vec![root],
            told,
        })
    }

    /// Reads a file of the upper layer.
    pub(crate) fn read(&self, path: &[u8]) -> io::Result<Item> {
        let (above, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b"."[..], path),
        };
        let name = if name.is_empty() { b"." } else { name };
        // A name on the way may have become a symbolic link meanwhile.
        let above = rustix::fs::openat2(
            self.overlay.upper(),
            above,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS,
        )?;
        Item::read(above.as_fd(), &CString::new(name)?)
    }

    /// Goes on by one name; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Found> {
        if let Some(told) = self.told.pop_front() {
            return Some(Found::Difference(told));
        }
        let level = self.levels.last_mut()?;
        if let Some(hidden) = &mut level.hidden {
            match next_name(hidden) {
                Some(Ok(name)) => return Some(self.hidden(&name)),
                Some(Err(_)) | None => level.hidden = None,
            }
        }
        let level = self.levels.last_mut()?;
        match next_name(&mut level.entries) {
            Some(Ok(name)) => Some(self.look(&name).unwrap_or_else(|error| {
                // Removed meanwhile.
                match error.kind() {
                    io::ErrorKind::NotFound => Found::Same,
                    _ => Found::Unread,
                }
            })),
            end => {
                self.levels.pop();
                Some(end.map_or(Found::Same, |_| Found::Unread))
            }
        }
    }

    /// Tells of a name of the image in a directory that is hidden, unless the guest has it, too.
    fn hidden(&self, name: &CStr) -> Found {
        let Some(level) = self.levels.last() else {
            return Found::Same;
        };
        let there = level.entries.fd().map(|upper| peek(upper, name));
        if let Ok(Ok(file)) = there
            && !file.metadata().is_ok_and(|found| is_whiteout(&found))
        {
            return Found::Same;
        }
        let Some(lower) = lower_of(level, name) else {
            return Found::Unread;
        };
        Found::Difference(Difference {
            path: joined(&level.path, name),
            kind: DifferenceKind::Hidden,
            file: kind(lower.1.file_type()),
        })
    }

    /// Looks at a name of the upper directory.
    fn look(&mut self, name: &CStr) -> io::Result<Found> {
        let Some(level) = self.levels.last() else {
            return Ok(Found::Same);
        };
        let path = joined(&level.path, name);
        if is_excluded(&path) {
            return Ok(Found::Same);
        }
        if path.len() + 1 > MAX_PATH {
            return Err(Errno::NAMETOOLONG.into());
        }
        let upper = level.entries.fd()?;
        let file = peek(upper, name)?;
        let found = file.metadata()?;
        let lower = lower_of(level, name);
        if is_whiteout(&found) {
            return Ok(match lower {
                // Of a hidden directory's entries was told.
                Some((_, before)) if !level.is_opaque => self.tell(Difference {
                    path,
                    kind: DifferenceKind::Changed(ChangeKind::Removed),
                    file: kind(before.file_type()),
                }),
                _ => Found::Same,
            });
        }
        if found.is_dir() {
            let entries = openat(upper, name, DIRECTORY, Mode::empty())?;
            return self.enter(path, name, (&file, entries), lower);
        }
        let change = match &lower {
            None => ChangeKind::Added,
            Some((before, _)) if is_same_file(upper, name, (&file, &found), before, level)? => {
                return Ok(Found::Same);
            }
            Some(_) => ChangeKind::Modified,
        };
        Ok(self.tell(Difference {
            path,
            kind: DifferenceKind::Changed(change),
            file: kind(found.file_type()),
        }))
    }

    /// Goes into a directory, and tells of it if it differs itself.
    fn enter(
        &mut self,
        path: Vec<u8>,
        name: &CStr,
        (file, entries): (&File, OwnedFd),
        lower: Option<(File, Metadata)>,
    ) -> io::Result<Found> {
        if self.levels.len() >= MAX_DEPTH as usize {
            return Err(Errno::NAMETOOLONG.into());
        }
        let is_opaque = is_opaque(&entries)?;
        let below = lower.as_ref().filter(|(_, before)| before.is_dir());
        let change = match (&lower, below) {
            (None, _) => Some(ChangeKind::Added),
            (Some(_), None) => Some(ChangeKind::Modified),
            (_, Some((before, _))) if !is_opaque && is_same_directory(file, before)? => None,
            _ => Some(ChangeKind::Modified),
        };
        let lower = match (
            below,
            self.levels.last().and_then(|above| above.lower.as_ref()),
        ) {
            (Some(_), Some(above)) => Some(openat(above, name, DIRECTORY, Mode::empty())?),
            _ => None,
        };
        let hides = is_opaque && lower.is_some();
        let hidden = match (hides, &lower) {
            (true, Some(lower)) => Some(Dir::read_from(lower)?),
            _ => None,
        };
        let told = change.map(|change| {
            self.tell(Difference {
                path: path.clone(),
                kind: DifferenceKind::Changed(change),
                file: FileKind::Directory,
            })
        });
        if hides {
            self.told.push_back(Difference {
                path: path.clone(),
                kind: DifferenceKind::Opaque,
                file: FileKind::Directory,
            });
        }
        self.levels.push(Level {
            path,
            entries: Dir::new(entries)?,
            lower,
            is_opaque,
            hidden,
            is_told: told.is_some(),
        });
        Ok(told.unwrap_or(Found::Same))
    }

    /// Tells of a difference, behind the directories on the way to it.
    fn tell(&mut self, difference: Difference) -> Found {
        for level in &mut self.levels {
            if !std::mem::replace(&mut level.is_told, true) {
                self.told.push_back(Difference {
                    path: level.path.clone(),
                    kind: DifferenceKind::Parent,
                    file: FileKind::Directory,
                });
            }
        }
        self.told.push_back(difference);
        self.told.pop_front().map_or(Found::Same, Found::Difference)
    }
}

fn is_whiteout(found: &Metadata) -> bool {
    found.file_type().is_char_device() && found.rdev() == 0
}

/// Returns whether a path below the root is none of the disk's, whatever is there.
fn is_excluded(path: &[u8]) -> bool {
    let of_identity = || {
        let name = path.strip_prefix(b"etc/");
        name.is_some_and(|name| identity::FILES.iter().any(|file| file.as_bytes() == name))
    };
    NOT_OF_THE_DISK.contains(&path) || of_identity()
}

/// Returns what the image has at a name of a directory.
fn lower_of(level: &Level, name: &CStr) -> Option<(File, Metadata)> {
    let file = peek(level.lower.as_ref()?, name).ok()?;
    let found = file.metadata().ok()?;
    Some((file, found))
}

/// Compares two directories, without what is in them, and without their times: those change with that.
fn is_same_directory(one: &File, other: &File) -> io::Result<bool> {
    let without_time = |file: &File| {
        let mut properties = properties(file, &file.metadata()?)?;
        (properties.mtime, properties.mtime_nanos) = (0, 0);
        Ok::<_, io::Error>(properties)
    };
    Ok(without_time(one)? == without_time(other)?)
}

/// Compares a file with the one of the image: it may have been opened only to write. One that has got
/// another name differs: what has that name would be another file without it.
fn is_same_file(
    upper: BorrowedFd<'_>,
    name: &CStr,
    (file, found): (&File, &Metadata),
    before: &File,
    level: &Level,
) -> io::Result<bool> {
    let known = before.metadata()?;
    let is_alike = found.nlink() == 1
        && found.file_type() == known.file_type()
        && found.len() == known.len()
        && found.rdev() == known.rdev()
        && found.len() <= MAX_COMPARED
        && properties(file, found)? == properties(before, &known)?;
    let Some(lower) = level.lower.as_ref().filter(|_| is_alike) else {
        return Ok(false);
    };
    if found.is_symlink() {
        let target = |file: &File| rustix::fs::readlinkat(file, c"", Vec::new());
        return Ok(target(file)? == target(before)?);
    }
    if !found.is_file() {
        return Ok(true);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let read = |directory: BorrowedFd<'_>| {
        let mut content = Vec::new();
        let file = File::from(openat(directory, name, flags, Mode::empty())?);
        file.take(MAX_COMPARED + 1).read_to_end(&mut content)?;
        Ok::<_, io::Error>(content)
    };
    Ok(read(upper)? == read(lower.as_fd())?)
}
