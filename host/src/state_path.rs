//! Finds state directories whose content nobody else can choose.
//!
//! Whoever can change a directory on the way to a snapshot can replace the snapshot. So a path is
//! walked component by component, through descriptors: each directory on it must belong to this
//! user or to root, and be writable by nobody else, unless it is sticky like `/tmp`, where only the
//! owner of an entry can replace it. A link is followed if it belongs to this user or to root. The
//! resulting path has no links, and nobody but these two can make it lead elsewhere later.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    Access, AtFlags, CWD, FileType, Mode, OFlags, Stat, accessat, fstat, getxattr, mkdirat, openat,
    readlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

/// Limit of the links followed on one path: the kernel's own (path_resolution(7)).
const MAX_LINKS: u32 = 40;
const GROUP_WRITE: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// A directory that only this user or root can change or replace.
#[derive(Debug)]
pub struct StatePath {
    /// Its path: absolute, without links.
    pub path: PathBuf,
    /// The user id of its owner: this user or root.
    pub owner: u32,
}

/// The reason why a path has no trustworthy directory.
#[derive(Debug)]
pub enum PathError {
    /// A system call failed.
    Io(io::Error),
    /// Other users can change something on the path.
    Exposed(Exposed),
}

/// The component of a path that other users can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposed {
    /// Its path: the directory itself, one above it, or a link on the way.
    pub component: PathBuf,
    /// The user id of its owner.
    pub owner: u32,
    /// Its type and permissions (inode(7)).
    pub mode: u32,
    /// Whether this is the directory itself, not something on the way to it.
    pub is_last: bool,
}

impl StatePath {
    /// Returns whether this user can write there: only the owner can, unless the file system is
    /// read-only.
    pub fn is_writable(&self) -> io::Result<bool> {
        let access = Access::WRITE_OK | Access::EXEC_OK;
        match accessat(CWD, &self.path, access, AtFlags::EACCESS) {
            Ok(()) => Ok(true),
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Exposed {
    /// Rebuilds it from the fields of an error about the directory at `path`.
    pub fn at(path: &Path, component: &Path, owner: u32, mode: u32) -> Self {
        Self {
            component: component.to_owned(),
            owner,
            mode,
            is_last: path == component,
        }
    }

    /// Returns the directory to fix, which was looked for at `path`.
    pub fn directory(&self, path: &Path) -> PathBuf {
        if self.is_last { &self.component } else { path }.to_owned()
    }
}

impl From<Errno> for PathError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// Finds the directory at `path`.
pub fn find(path: &Path) -> Result<StatePath, PathError> {
    Walk::start(path, false)?.finish()
}

/// Finds the directory at `path`; creates missing components with mode 0700.
pub fn make(path: &Path) -> Result<StatePath, PathError> {
    Walk::start(path, true)?.finish()
}

/// The state of a walk along a path.
struct Walk {
    us: u32,
    makes: bool,
    left: VecDeque<OsString>,
    links: u32,
    path: PathBuf,
    here: OwnedFd,
    facts: Stat,
}

impl Walk {
    fn start(path: &Path, makes: bool) -> Result<Self, PathError> {
        let path = std::path::absolute(path).map_err(PathError::Io)?;
        let (here, facts) = root()?;
        let mut walk = Self {
            us: geteuid().as_raw(),
            makes,
            left: VecDeque::new(),
            links: 0,
            path: PathBuf::from("/"),
            here,
            facts,
        };
        walk.go_by(&path)?;
        Ok(walk)
    }

    /// Puts the components of `path` before those that are left to walk.
    fn go_by(&mut self, path: &Path) -> Result<(), PathError> {
        if path.is_absolute() {
            (self.here, self.facts) = root()?;
            self.path = PathBuf::from("/");
        }
        for component in path.components().rev() {
            match component {
                Component::Normal(name) => self.left.push_front(name.to_owned()),
                Component::ParentDir => self.left.push_front("..".into()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<StatePath, PathError> {
        while let Some(name) = self.left.pop_front() {
            self.step(&name)?;
        }
        let writable = self.facts.st_mode & (GROUP_WRITE | OTHERS_WRITE) != 0;
        if writable || !self.is_trusted(self.facts.st_uid) {
            return Err(self.exposed(self.path.clone(), &self.facts, true));
        }
        Ok(StatePath {
            path: self.path,
            owner: self.facts.st_uid,
        })
    }

    fn step(&mut self, name: &OsStr) -> Result<(), PathError> {
        if !self.is_trusted(self.facts.st_uid) || self.is_open_to_others() {
            return Err(self.exposed(self.path.clone(), &self.facts, false));
        }
        let (there, facts) = match look(&self.here, name) {
            Err(Errno::NOENT) if self.makes => {
                match mkdirat(&self.here, name, Mode::RWXU) {
                    // Another process was faster, one of ours or not: the entry is checked below in
                    // any case.
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                look(&self.here, name)?
            }
            found => found?,
        };
        match FileType::from_raw_mode(facts.st_mode) {
            FileType::Directory => {
                if name == ".." {
                    self.path.pop();
                } else {
                    self.path.push(name);
                }
                (self.here, self.facts) = (there, facts);
                Ok(())
            }
            FileType::Symlink => {
                if !self.is_trusted(facts.st_uid) {
                    return Err(self.exposed(self.path.join(name), &facts, false));
                }
                self.links += 1;
                if self.links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let target = readlinkat(&there, "", Vec::new())?.into_bytes();
                self.go_by(Path::new(&OsString::from_vec(target)))
            }
            _ => Err(Errno::NOTDIR.into()),
        }
    }

    fn is_trusted(&self, owner: u32) -> bool {
        owner == 0 || owner == self.us
    }

    /// Returns whether other users can replace entries of the directory that the walk has reached.
    fn is_open_to_others(&self) -> bool {
        let mode = self.facts.st_mode;
        if mode & STICKY != 0 {
            return false;
        }
        mode & OTHERS_WRITE != 0
            || mode & GROUP_WRITE != 0
                && (has_acl(&self.here) || !is_private_group(self.facts.st_gid, self.us))
    }

    fn exposed(&self, component: PathBuf, facts: &Stat, is_last: bool) -> PathError {
        PathError::Exposed(Exposed {
            component,
            owner: facts.st_uid,
            mode: facts.st_mode,
            is_last,
        })
    }
}

fn root() -> Result<(OwnedFd, Stat), Errno> {
    let here = openat(
        CWD,
        "/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let facts = fstat(&here)?;
    Ok((here, facts))
}

/// Opens the entry `name`, without following it if it is a link, and reads its metadata.
fn look(at: &OwnedFd, name: &OsStr) -> Result<(OwnedFd, Stat), Errno> {
    let there = openat(
        at,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let facts = fstat(&there)?;
    Ok((there, facts))
}

/// Returns whether the group's permission bits may be the mask of an access control list, which can
/// admit anybody (acl(5)).
fn has_acl(directory: &OwnedFd) -> bool {
    let itself = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let nothing: &mut [u8] = &mut [];
    !matches!(
        getxattr(itself, "system.posix_acl_access", nothing),
        Err(Errno::NODATA | Errno::OPNOTSUPP)
    )
}

/// Returns whether this user and root are the only members of a group, like the user private groups
/// that distributions create and combine with a umask of 002.
fn is_private_group(group: u32, user: u32) -> bool {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    is_private(group, user, &read("/etc/group"), &read("/etc/passwd"))
}

/// Decides by the texts of group(5) and passwd(5). A group that is not listed is not private:
/// its members are unknown.
fn is_private(group: u32, user: u32, groups: &str, users: &str) -> bool {
    let mut names = Vec::new();
    for line in users.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, id, primary, ..] = fields[..] else {
            continue;
        };
        let (Ok(id), Ok(primary)) = (id.parse::<u32>(), primary.parse::<u32>()) else {
            continue;
        };
        if id == user || id == 0 {
            names.push(name);
        } else if primary == group {
            return false;
        }
    }
    groups.lines().any(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, id, members] = fields[..] else {
            return false;
        };
        let mut members = members.split(',').filter(|member| !member.is_empty());
        id.parse() == Ok(group) && members.all(|member| names.contains(&member))
    })
}

/// Prints the problem and the remedy, as the rest of a sentence that begins with the directory.
impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            component,
            owner,
            mode,
            is_last,
        } = self;
        let (component, permissions) = (component.display(), mode & 0o7777);
        if FileType::from_raw_mode(*mode) == FileType::Symlink {
            write!(
                f,
                "is reached through {component}, a link of another user (owner {owner}): make it a \
                 link of this user's"
            )
        } else if *is_last {
            write!(
                f,
                "can be changed by other users (owner {owner}, mode {permissions:04o}): change its \
                 owner to this user and its mode to 0700"
            )
        } else {
            write!(
                f,
                "can be replaced by other users, who may change {component} (owner {owner}, mode \
                 {permissions:04o}): let nobody but this user and root own that and write to it"
            )
        }
    }
}

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
/// Parses texts of group(5) and passwd(5).
pub fn fuzz(groups: &str, users: &str) {
    let _ = is_private(1000, 1000, groups, users);
}

#[cfg(test)]
mod tests;
