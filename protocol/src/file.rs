//! Requests about files, and what a guest tells of them.

use serde::{Deserialize, Serialize};

use crate::bounds::{OutOfBounds, check, check_mode, check_path, check_user};
use crate::limits::{MAX_ATTRIBUTE_NAME, MAX_ATTRIBUTES, MAX_DEPTH, MAX_PATH, MAX_USER};
use crate::os_bytes::OsBytes;

/// A request about files. All paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRequest {
    /// The user whose permissions count, and whose is what is made; as for
    /// [`Exec::user`](crate::message::Exec::user).
    pub user: Option<OsBytes>,
    /// What to do.
    pub operation: FileOperation,
}

/// What to do with files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileOperation {
    /// Tells the properties of a file.
    Look {
        /// The file.
        path: OsBytes,
        /// Whether to follow it if it is a symbolic link.
        follow: bool,
    },
    /// Lists what is below a directory, each directory before what is in it, as
    /// [records](crate::records) of [`FileInfo`] in the request's content.
    List {
        /// The directory, or a symbolic link to one.
        path: OsBytes,
        /// How deep, 1 to [`MAX_DEPTH`]: 1 is the directory's own entries. Symbolic links are not
        /// followed.
        depth: u32,
    },
    /// Makes a directory.
    MakeDirectory {
        /// The directory.
        path: OsBytes,
        /// Its permission bits. Parents get 0755.
        mode: u32,
        /// Whether to make the parents that are missing, and to take a directory that exists.
        parents: bool,
    },
    /// Removes a file, a symbolic link itself, or an empty directory.
    Remove {
        /// What to remove.
        path: OsBytes,
        /// Whether to remove everything in a directory, too. Symbolic links are not followed.
        recursive: bool,
    },
    /// Gives a file or directory another name, in the same file system.
    Rename {
        /// The name that it has.
        from: OsBytes,
        /// The name that it gets. A file of that name is replaced.
        to: OsBytes,
    },
    /// Makes a symbolic link.
    MakeLink {
        /// The link.
        path: OsBytes,
        /// What it refers to, as it is.
        target: OsBytes,
    },
    /// Sets the permission bits.
    SetMode {
        /// The file, or a symbolic link to it.
        path: OsBytes,
        /// The permission bits.
        mode: u32,
    },
    /// Sets the owner.
    SetOwner {
        /// The file. A symbolic link is not followed.
        path: OsBytes,
        /// The user and perhaps the group, as for [`Exec::user`](crate::message::Exec::user); its
        /// own group otherwise.
        owner: OsBytes,
    },
    /// Tells the extended attributes.
    Attributes {
        /// The file. A symbolic link is not followed.
        path: OsBytes,
    },
    /// Sets or removes an extended attribute.
    SetAttribute {
        /// The file. A symbolic link is not followed.
        path: OsBytes,
        /// The attribute's name, like `user.origin`.
        name: OsBytes,
        /// Its value; none removes it.
        value: Option<OsBytes>,
    },
    /// Lists what differs from the guest's image, each directory before what is in it, as
    /// [records](crate::records) of [`FileChange`]. Always as root.
    ListChanges,
    /// Archives what differs from the guest's image as a layer over it: a tar stream with the
    /// whiteouts and opaque markers of OCI images. Always as root.
    ArchiveChanges,
    /// Archives what is below a directory, which the entry `./` stands for, as a tar stream.
    Archive {
        /// The directory, or a symbolic link to one.
        path: OsBytes,
    },
    /// Unpacks a tar stream, which follows as `Data` and `Eof`, in a directory, and replaces what has
    /// the names of its files. No entry leads out of it, also not by a link.
    Extract {
        /// The directory, or a symbolic link to one.
        path: OsBytes,
        /// Whose the files are.
        owners: Owners,
    },
    /// Watches a file or directory: tells what happens to it from [`Opened`] on, as
    /// [records](crate::records) of [`FileEvent`], until it is cancelled or is gone.
    ///
    /// [`Opened`]: crate::message::ToHost::Opened
    Watch {
        /// What to watch.
        path: OsBytes,
        /// Whether to watch directories below, too. Symbolic links are not followed.
        recursive: bool,
    },
}

/// Whose the files of an archive are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Owners {
    /// The user's who asks. No file gets the bits by which it runs as its owner, or attributes but the
    /// user's own, and devices are left out.
    #[default]
    OfUser,
    /// As the archive says, by numbers, with all attributes: for root.
    OfArchive,
}

/// A difference from the guest's image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// The absolute path.
    pub path: OsBytes,
    /// What became of it.
    pub kind: ChangeKind,
    /// What is there; what was there, if it is removed.
    pub file: FileKind,
}

/// What became of a file of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// Its content or its properties are others, or something else has its name.
    Modified,
    /// It is gone, with everything below.
    Removed,
}

/// An event of what is watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEvent {
    /// What happened.
    pub kind: EventKind,
    /// The absolute path of what it happened to: what is watched, or something below.
    pub path: OsBytes,
    /// The name that it had, if it was renamed.
    pub from: Option<OsBytes>,
    /// Whether it is a directory.
    pub is_directory: bool,
}

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum EventKind {
    /// It was made, or came from elsewhere.
    Created,
    /// Its content was written to.
    Modified,
    /// Who wrote to it has closed it.
    Written,
    /// Its mode, its owner or another property was changed.
    Attributes,
    /// It was renamed within what is watched.
    Renamed,
    /// It was removed, or went elsewhere.
    Removed,
    /// More happened than could be told: whoever needs to know what is there has to look. The path is
    /// that of what is watched.
    Overflow,
}

/// The properties of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Its absolute path.
    pub path: OsBytes,
    /// What it is.
    pub kind: FileKind,
    /// Its permission bits.
    pub mode: u32,
    /// The uid of its owner.
    pub uid: u32,
    /// The gid of its group.
    pub gid: u32,
    /// The name of its owner in the guest's `/etc/passwd`; empty if it has none.
    pub owner: OsBytes,
    /// The name of its group in the guest's `/etc/group`; empty if it has none.
    pub group: OsBytes,
    /// Its size in bytes.
    pub size: u64,
    /// When its content changed last.
    pub modified: FileTime,
    /// What a symbolic link refers to.
    pub target: Option<OsBytes>,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A device of characters.
    CharacterDevice,
    /// A device of blocks.
    BlockDevice,
}

/// A time of a file, since 1970-01-01 00:00:00 UTC or before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileTime {
    /// Whole seconds.
    pub seconds: i64,
    /// Nanoseconds of the current second, below 1,000,000,000.
    pub nanos: u32,
}

impl FileRequest {
    /// Checks it; see [`ToGuest::validate`](crate::message::ToGuest::validate).
    ///
    /// # Errors
    /// The part that is beyond the limits.
    pub fn validate(&self) -> Result<(), OutOfBounds> {
        self.user.as_ref().map_or(Ok(()), check_user)?;
        match &self.operation {
            FileOperation::Look { path, .. }
            | FileOperation::Remove { path, .. }
            | FileOperation::Attributes { path }
            | FileOperation::Archive { path }
            | FileOperation::Extract { path, .. }
            | FileOperation::Watch { path, .. } => check_path(path),
            FileOperation::ListChanges | FileOperation::ArchiveChanges => check(
                self.user.is_none(),
                "what differs from the image is root's to see, and no other user's",
            ),
            FileOperation::List { path, depth } => {
                check(
                    (1..=MAX_DEPTH).contains(depth),
                    "a list of files is 1 to 128 directories deep",
                )?;
                check_path(path)
            }
            FileOperation::MakeDirectory { path, mode, .. }
            | FileOperation::SetMode { path, mode } => {
                check_mode(*mode)?;
                check_path(path)
            }
            FileOperation::Rename { from, to } => check_path(from).and_then(|()| check_path(to)),
            FileOperation::MakeLink { path, target } => {
                check_target(target)?;
                check_path(path)
            }
            FileOperation::SetOwner { path, owner } => {
                check_user(owner)?;
                check_path(path)
            }
            FileOperation::SetAttribute { path, name, value } => {
                check_attribute(name, value.as_ref())?;
                check_path(path)
            }
        }
    }

    /// Returns whether the guest answers it with content, before the outcome.
    #[must_use]
    pub fn has_content(&self) -> bool {
        matches!(
            self.operation,
            FileOperation::List { .. }
                | FileOperation::ListChanges
                | FileOperation::ArchiveChanges
                | FileOperation::Archive { .. }
                | FileOperation::Watch { .. }
        )
    }
}

fn check_target(target: &OsBytes) -> Result<(), OutOfBounds> {
    let target = target.as_bytes();
    check(!target.is_empty(), "a symbolic link to nothing")?;
    check(
        target.len() <= MAX_PATH && !target.contains(&0),
        "the target of a symbolic link is too long, or holds a NUL byte",
    )
}

fn check_attribute(name: &OsBytes, value: Option<&OsBytes>) -> Result<(), OutOfBounds> {
    let name = name.as_bytes();
    check(
        (1..=MAX_ATTRIBUTE_NAME).contains(&name.len()) && !name.contains(&0),
        "the name of an attribute has 1 to 255 bytes, none of them NUL",
    )?;
    check(
        value.is_none_or(|value| name.len() + value.as_bytes().len() <= MAX_ATTRIBUTES),
        "an attribute is longer than 64 KiB",
    )
}

pub(crate) fn check_attributes(attributes: &[(OsBytes, OsBytes)]) -> Result<(), OutOfBounds> {
    let mut total = 0_usize;
    for (name, value) in attributes {
        check_attribute(name, Some(value))?;
        total = total.saturating_add(name.as_bytes().len() + value.as_bytes().len());
    }
    check(
        total <= MAX_ATTRIBUTES,
        "the attributes of a file are longer than 64 KiB",
    )
}

impl FileInfo {
    /// Checks that it is within [`limits`](crate::limits).
    ///
    /// # Errors
    /// The part that is not.
    pub fn validate(&self) -> Result<(), OutOfBounds> {
        check_path(&self.path)?;
        check_mode(self.mode)?;
        let names = [&self.owner, &self.group].map(OsBytes::as_bytes);
        check(
            names.iter().all(|name| name.len() <= MAX_USER),
            "the name of a file's owner is too long",
        )?;
        check(
            self.modified.nanos < 1_000_000_000,
            "nanoseconds of a full second",
        )?;
        check(
            self.target.is_some() == (self.kind == FileKind::Link),
            "a symbolic link has a target, and nothing else has one",
        )?;
        self.target.as_ref().map_or(Ok(()), check_target)
    }

    /// Returns whether it is strictly below `directory`, by a path without detours.
    #[must_use]
    pub fn is_below(&self, directory: &OsBytes) -> bool {
        is_below(&self.path, directory)
    }
}

impl FileChange {
    /// Checks that it is within [`limits`](crate::limits), and its path without detours.
    ///
    /// # Errors
    /// The part that is not.
    pub fn validate(&self) -> Result<(), OutOfBounds> {
        check_path(&self.path)?;
        check(
            self.path.as_bytes() == b"/" || is_below(&self.path, &"/".into()),
            "the path of a change makes a detour",
        )
    }
}

impl FileEvent {
    /// Checks that it is within [`limits`](crate::limits), and about what is `watched`.
    ///
    /// # Errors
    /// The part that is not.
    pub fn validate(&self, watched: &OsBytes) -> Result<(), OutOfBounds> {
        let is_watched = |path| path == watched || is_below(path, watched);
        for path in [Some(&self.path), self.from.as_ref()].into_iter().flatten() {
            check_path(path)?;
            check(is_watched(path), "an event of what is not watched")?;
        }
        check(
            self.from.is_some() == (self.kind == EventKind::Renamed),
            "what was renamed had another name, and nothing else had one",
        )
    }
}

fn is_below(path: &OsBytes, directory: &OsBytes) -> bool {
    let directory = directory.as_bytes();
    let directory = directory.strip_suffix(b"/").unwrap_or(directory);
    let rest = path.as_bytes().strip_prefix(directory);
    let rest = rest.and_then(|rest| rest.strip_prefix(b"/"));
    rest.is_some_and(|rest| {
        let mut names = rest.split(|byte| *byte == b'/');
        names.all(|name| !matches!(name, b"" | b"." | b".."))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_directory_leads_out_of_it_by_no_detour() {
        let info = |path: &str| FileInfo {
            path: path.into(),
            kind: FileKind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            owner: "".into(),
            group: "".into(),
            size: 0,
            modified: FileTime {
                seconds: 0,
                nanos: 0,
            },
            target: None,
        };
        for inside in ["/a/b", "/a/b/c", "/a/..b"] {
            assert!(info(inside).is_below(&"/a".into()), "{inside}");
            assert!(info(inside).is_below(&"/a/".into()), "{inside}");
            assert!(info(inside).is_below(&"/".into()), "{inside}");
        }
        for outside in [
            "/a", "/a/", "/ab/c", "/b", "/a/../b", "/a/./b", "/a//b", "/a/b/",
        ] {
            assert!(!info(outside).is_below(&"/a".into()), "{outside}");
        }
    }
}
