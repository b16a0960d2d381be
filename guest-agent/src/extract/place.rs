//! The directory that an archive is unpacked in. Nothing outside is ever touched, whatever the archive
//! says, and whatever other programs put in its way meanwhile: each path is resolved by the kernel as if
//! the directory were the root of all files, and what has a name is changed through a descriptor of it.

use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use ironclaw_protocol::file::Owners;
use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT,
    Uid, XattrFlags, chownat, linkat, mkdirat, mknodat, openat, openat2, setxattr, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::Errno;

use crate::archive::entry::Properties;
use crate::archive::item::OVERLAYS_OWN;

/// Permission bits of directories that are missing on the way.
const PARENT_MODE: u32 = 0o755;

/// What only its owner decides: whose file it is must not change who runs it.
const SET_IDS: u32 = 0o6000;

/// A path below the directory: names, of which none is a detour.
pub(crate) type Names = [CString];

/// Returns a path as one text.
pub(crate) fn joined(path: &Names) -> Vec<u8> {
    let names: Vec<_> = path.iter().map(|name| name.as_bytes()).collect();
    names.join(&b'/')
}

/// The directory.
#[derive(Debug)]
pub(crate) struct Place {
    root: OwnedFd,
    owners: Owners,
    /// The directory that was used last: most files follow another one of the same.
    last: Option<(Vec<CString>, OwnedFd)>,
}

impl Place {
    /// Opens the directory, or the one that a symbolic link refers to.
    pub(crate) fn open(path: &Path, owners: Owners) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            root: openat(CWD, path, flags, Mode::empty())?,
            owners,
            last: None,
        })
    }

    /// Returns whether a file that an archive is about can be made here: devices are for whoever keeps
    /// owners.
    pub(crate) fn makes_devices(&self) -> bool {
        self.owners == Owners::OfArchive
    }

    /// Opens a directory, by links within the place or not.
    fn directory(&self, path: &Names) -> Result<OwnedFd, Errno> {
        let path = match path.is_empty() {
            true => b".".to_vec(),
            false => joined(path),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.root, path, flags, Mode::empty(), how)
    }

    /// Opens the directory of a name, and makes what is missing on the way.
    fn parent(&mut self, path: &Names) -> Result<BorrowedFd<'_>, Errno> {
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let found = match self.directory(path) {
                Err(Errno::NOENT) => self.make_parents(path)?,
                found => found?,
            };
            self.last = Some((path.to_vec(), found));
        }
        match &self.last {
            Some((_, found)) => Ok(found.as_fd()),
            None => Err(Errno::NOENT),
        }
    }

    fn make_parents(&self, path: &Names) -> Result<OwnedFd, Errno> {
        let mut above = self.directory(&[])?;
        for (at, name) in path.iter().enumerate() {
            let whole = &path[..=at];
            above = match self.directory(whole) {
                Err(Errno::NOENT) => {
                    mkdirat(&above, name, Mode::from_raw_mode(PARENT_MODE))?;
                    self.directory(whole)?
                }
                found => found?,
            };
        }
        Ok(above)
    }

    /// Makes a directory, unless there is one: then, or if a symbolic link leads to one, that is it.
    pub(crate) fn make_directory(&mut self, path: &Names) -> Result<(), Errno> {
        let Some((name, above)) = path.split_last() else {
            return Ok(());
        };
        if self.directory(path).is_ok() {
            return Ok(());
        }
        let mode = Mode::from_raw_mode(0o700);
        let parent = self.parent(above)?;
        clear(parent, name)?;
        mkdirat(parent, name, mode)
    }

    /// Makes a file, in place of whatever has its name but a directory.
    pub(crate) fn make_file(&mut self, path: &Names) -> Result<File, Errno> {
        let (name, parent) = self.new_name(path)?;
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(parent, name, flags, Mode::from_raw_mode(0o600))?.into())
    }

    /// Makes a symbolic link to whatever.
    pub(crate) fn make_link(&mut self, path: &Names, target: &[u8]) -> Result<(), Errno> {
        let (name, parent) = self.new_name(path)?;
        symlinkat(target, parent, name)
    }

    /// Gives a file of the place another name.
    pub(crate) fn make_hard_link(&mut self, path: &Names, target: &Names) -> Result<(), Errno> {
        let (old, above) = target.split_last().ok_or(Errno::ISDIR)?;
        let above = self.directory(above)?;
        let (name, below) = path.split_last().ok_or(Errno::ISDIR)?;
        let parent = self.parent(below)?;
        match linkat(&above, old, parent, name, AtFlags::empty()) {
            Err(Errno::EXIST) => {}
            done => return done,
        }
        let inode = |directory: BorrowedFd<'_>, name: &CString| {
            let found = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok::<_, Errno>((found.st_dev, found.st_ino))
        };
        if inode(above.as_fd(), old)? == inode(parent, name)? {
            return Ok(());
        }
        clear(parent, name)?;
        linkat(&above, old, parent, name, AtFlags::empty())
    }

    /// Makes a device or a named pipe.
    pub(crate) fn make_node(
        &mut self,
        path: &Names,
        kind: FileType,
        device: Dev,
    ) -> Result<(), Errno> {
        let (name, parent) = self.new_name(path)?;
        mknodat(parent, name, kind, Mode::from_raw_mode(0o600), device)
    }

    /// Returns a name that nothing has now, in its directory.
    fn new_name<'a>(&mut self, path: &'a Names) -> Result<(&'a CString, BorrowedFd<'_>), Errno> {
        let (name, above) = path.split_last().ok_or(Errno::ISDIR)?;
        let parent = self.parent(above)?;
        clear(parent, name)?;
        Ok((name, parent))
    }

    /// Gives what is at a path its properties; a symbolic link itself.
    pub(crate) fn describe(&self, path: &Names, properties: &Properties) -> io::Result<()> {
        self.set(self.itself(path, OFlags::empty())?, properties)
    }

    /// Gives a directory its properties, unless a symbolic link leads to it.
    pub(crate) fn describe_directory(
        &self,
        path: &Names,
        properties: &Properties,
    ) -> io::Result<()> {
        self.set(self.itself(path, OFlags::DIRECTORY)?, properties)
    }

    fn itself(&self, path: &Names, flags: OFlags) -> Result<OwnedFd, Errno> {
        let (name, above) = path.split_last().ok_or(Errno::ISDIR)?;
        let above = self.directory(above)?;
        let flags = flags | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&above, name, flags, Mode::empty())
    }

    /// Gives an open file its properties.
    pub(crate) fn set(&self, file: impl AsFd, properties: &Properties) -> io::Result<()> {
        let file = file.as_fd();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let keeps_owners = self.owners == Owners::OfArchive;
        if keeps_owners {
            let (uid, gid) = (Uid::from_raw(properties.uid), Gid::from_raw(properties.gid));
            chownat(file, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
        }
        let is_link = rustix::fs::fstat(file)
            .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Symlink);
        if is_link {
            // It has no mode, and no attributes but root's.
            return Ok(());
        }
        for (name, value) in &properties.attributes {
            let name = name.to_bytes();
            let is_wanted = keeps_owners && !name.starts_with(OVERLAYS_OWN);
            if !is_wanted && !name.starts_with(b"user.") {
                continue;
            }
            match setxattr(&*path, name, value, XattrFlags::empty()) {
                // The file system has none, or not of this kind.
                Ok(()) | Err(Errno::NOTSUP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Behind the owner, whose change takes some of it away.
        let mode = match keeps_owners {
            true => properties.mode,
            false => properties.mode & !SET_IDS,
        };
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: properties.mtime,
                tv_nsec: properties.mtime_nanos.into(),
            },
        };
        Ok(utimensat(CWD, &*path, &times, AtFlags::empty())?)
    }
}

/// Removes what has a name, unless that is a directory.
fn clear(parent: BorrowedFd<'_>, name: &CString) -> Result<(), Errno> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        // Linux says the one of a directory, and POSIX the other.
        Err(Errno::PERM) if is_directory(parent, name) => Err(Errno::ISDIR),
        Err(error) => Err(error),
    }
}

fn is_directory(parent: BorrowedFd<'_>, name: &CString) -> bool {
    let found = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory)
}

/// Writes all of the bytes at an offset.
pub(crate) fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// Gives a file its size, where a hole is its end.
pub(crate) fn set_size(file: &File, size: u64) -> io::Result<()> {
    match file.metadata()?.size() == size {
        true => Ok(()),
        false => file.set_len(size),
    }
}
