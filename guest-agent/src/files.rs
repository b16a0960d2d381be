//! What a host asks about files, and is answered at once.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use ironclaw_protocol::file::{FileOperation, FileRequest};
use ironclaw_protocol::limits::MAX_ATTRIBUTES;
use ironclaw_protocol::message::{FailureKind, Outcome, RequestId};
use ironclaw_protocol::os_bytes::OsBytes;
use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lremovexattr, lsetxattr};
use rustix::io::Errno;

use crate::account::{Account, Names};
use crate::archive::Archive;
use crate::archive::tree::Tree;
use crate::changes::{ChangeList, Changes, Layer};
use crate::credentials::as_user;
use crate::extract::Extract;
use crate::failure::{failed, refused};
use crate::file_info::look;
use crate::listing::Listing;
use crate::os_str::os;
use crate::overlay::Overlay;
use crate::removal::Removal;
use crate::transfer::Transfer;
use crate::watch::Watch;

/// Mode of parents that are made on the way.
const PARENT_MODE: u32 = 0o755;

/// An answer, or what will give it.
pub(crate) enum Answer {
    Now(Outcome),
    Later(Box<dyn Transfer>),
}

/// Does what a request asks for, as its user.
pub(crate) fn serve(id: RequestId, request: &FileRequest, overlay: Option<&Overlay>) -> Answer {
    start(id, request, overlay).unwrap_or_else(Answer::Now)
}

fn start(
    id: RequestId,
    request: &FileRequest,
    overlay: Option<&Overlay>,
) -> Result<Answer, Outcome> {
    let account = Account::of_request(request.user.as_ref())?;
    match &request.operation {
        FileOperation::ListChanges => {
            let list = ChangeList::new(id, changes(overlay)?);
            Ok(Answer::Later(Box::new(list)))
        }
        FileOperation::ArchiveChanges => {
            let layer = Layer::new(changes(overlay)?);
            Ok(Answer::Later(Box::new(Archive::new(id, layer, None))))
        }
        FileOperation::Archive { path } => {
            let path = Path::new(os(path));
            let opened = as_user(account.as_ref(), || Tree::open(path)).flatten();
            let tree = opened.map_err(|error| {
                let attempt = format_args!("archive {}", path.display());
                refused(attempt, &error, FailureKind::NotFound)
            })?;
            Ok(Answer::Later(Box::new(Archive::new(id, tree, account))))
        }
        FileOperation::List { path, depth } => {
            let listing = Listing::start(id, Path::new(os(path)), *depth, account)?;
            Ok(Answer::Later(Box::new(listing)))
        }
        FileOperation::Extract { path, owners } => {
            let extract = Extract::start(id, path, *owners, account)?;
            Ok(Answer::Later(Box::new(extract)))
        }
        FileOperation::Watch { path, recursive } => {
            let watch = Watch::start(id, path, *recursive, account)?;
            Ok(Answer::Later(Box::new(watch)))
        }
        FileOperation::Remove {
            path,
            recursive: true,
        } => {
            let removal = Removal::start(Path::new(os(path)), account)?;
            Ok(Answer::Later(Box::new(removal)))
        }
        operation => {
            let done = as_user(account.as_ref(), || at_once(operation));
            let not_that_user =
                |error| refused("become another user", &error, FailureKind::NoSuchUser);
            done.map_err(not_that_user)?.map(Answer::Now)
        }
    }
}

fn changes(overlay: Option<&Overlay>) -> Result<Changes, Outcome> {
    let Some(overlay) = overlay else {
        return Err(failed(
            FailureKind::Unsupported,
            "tell what differs from the image: the root of this guest is in its memory, and on no disk",
        ));
    };
    Changes::open(overlay.clone()).map_err(|error| {
        let attempt = "tell what differs from the image";
        refused(attempt, &error, FailureKind::Io)
    })
}

fn at_once(operation: &FileOperation) -> Result<Outcome, Outcome> {
    let changed = |files| Ok(Outcome::Changed { files });
    match operation {
        FileOperation::Look { path, follow } => {
            let path = Path::new(os(path));
            let info = look(path, *follow, &Names::read());
            let info = info.map_err(|error| {
                let attempt = format_args!("look at {}", path.display());
                refused(attempt, &error, FailureKind::NotFound)
            })?;
            Ok(Outcome::FileInfo(Box::new(info)))
        }
        FileOperation::MakeDirectory {
            path,
            mode,
            parents,
        } => {
            let path = Path::new(os(path));
            let made = make_directory(path, *mode, *parents);
            changed(made.map_err(|error| {
                let attempt = format_args!("make the directory {}", path.display());
                refused(attempt, &error, FailureKind::NoSuchDirectory)
            })?)
        }
        FileOperation::Remove { path, .. } => {
            let path = Path::new(os(path));
            let removed = remove(path).map_err(|error| {
                let attempt = format_args!("remove {}", path.display());
                refused(attempt, &error, FailureKind::NotFound)
            });
            removed.and_then(|()| changed(1))
        }
        FileOperation::Rename { from, to } => {
            let renamed = fs::rename(os(from), os(to)).map_err(|error| {
                let attempt = format_args!("rename {from} to {to}");
                refused(attempt, &error, missing_of_two(from))
            });
            renamed.and_then(|()| changed(1))
        }
        FileOperation::MakeLink { path, target } => {
            let made = symlink(os(target), os(path)).map_err(|error| {
                let attempt = format_args!("make the symbolic link {path}");
                refused(attempt, &error, FailureKind::NoSuchDirectory)
            });
            made.and_then(|()| changed(1))
        }
        FileOperation::SetMode { path, mode } => {
            let mode = Permissions::from_mode(*mode);
            let set = fs::set_permissions(os(path), mode).map_err(|error| {
                let attempt = format_args!("set the mode of {path}");
                refused(attempt, &error, FailureKind::NotFound)
            });
            set.and_then(|()| changed(1))
        }
        FileOperation::SetOwner { path, owner } => {
            let owner = Account::find(owner)?;
            let set = lchown(os(path), Some(owner.uid), Some(owner.gid)).map_err(|error| {
                let attempt = format_args!("set the owner of {path}");
                refused(attempt, &error, FailureKind::NotFound)
            });
            set.and_then(|()| changed(1))
        }
        FileOperation::Attributes { path } => {
            let attributes = attributes(Path::new(os(path)));
            attributes.map(Outcome::Attributes).map_err(|error| {
                let attempt = format_args!("read the attributes of {path}");
                refused(attempt, &error, FailureKind::NotFound)
            })
        }
        FileOperation::SetAttribute { path, name, value } => {
            let set = match value {
                Some(value) => {
                    let value = value.as_bytes();
                    lsetxattr(os(path), os(name), value, XattrFlags::empty())
                }
                None => lremovexattr(os(path), os(name)),
            };
            let set = set.map_err(|error| {
                let attempt = format_args!("set the attribute {name} of {path}");
                refused(attempt, &error.into(), FailureKind::NotFound)
            });
            set.and_then(|()| changed(1))
        }
        FileOperation::List { .. }
        | FileOperation::ListChanges
        | FileOperation::ArchiveChanges
        | FileOperation::Archive { .. }
        | FileOperation::Extract { .. }
        | FileOperation::Watch { .. } => Err(failed(FailureKind::Invalid, "it takes time")),
    }
}

/// A rename fails alike without the file and without the directory to move it to.
fn missing_of_two(from: &OsBytes) -> FailureKind {
    match fs::symlink_metadata(os(from)) {
        Ok(_) => FailureKind::NoSuchDirectory,
        Err(_) => FailureKind::NotFound,
    }
}

/// Makes a directory; returns how many were made.
fn make_directory(path: &Path, mode: u32, parents: bool) -> io::Result<u64> {
    let mut missing: Vec<PathBuf> = Vec::new();
    if parents {
        let above = path.ancestors().skip(1);
        let above = above.take_while(|above| !above.is_dir());
        missing.extend(above.map(Path::to_owned));
    }
    let mut made = 0;
    for parent in missing.iter().rev() {
        made += u64::from(make_one(parent, PARENT_MODE, true)?);
    }
    made += u64::from(make_one(path, mode, parents)?);
    Ok(made)
}

/// Makes a directory with exactly this mode; returns whether it was not there.
fn make_one(path: &Path, mode: u32, may_exist: bool) -> io::Result<bool> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {
            // Whatever the mask of the agent is.
            fs::set_permissions(path, Permissions::from_mode(mode))?;
            Ok(true)
        }
        Err(error)
            if may_exist && error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir(path)
    } else {
        fs::remove_file(path)
    }
}

/// Reads all attributes that fit into one answer; there can hardly be more.
fn attributes(path: &Path) -> io::Result<Vec<(OsBytes, OsBytes)>> {
    let mut names = vec![0; MAX_ATTRIBUTES];
    let length = llistxattr(path, &mut names[..])?;
    let mut left = MAX_ATTRIBUTES;
    let mut attributes = Vec::new();
    let mut value = vec![0; MAX_ATTRIBUTES];
    for name in names[..length].split(|byte| *byte == 0) {
        if name.is_empty() {
            continue;
        }
        let length = match lgetxattr(path, name, &mut value[..]) {
            Ok(length) => length,
            // Removed meanwhile, or not for this user.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::NOTSUP) => continue,
            Err(error) => return Err(error.into()),
        };
        let Some(rest) = left.checked_sub(name.len() + length) else {
            return Err(Errno::TOOBIG.into());
        };
        left = rest;
        attributes.push((name.into(), value[..length].into()));
    }
    Ok(attributes)
}
