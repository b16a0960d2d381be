//! What clients are told of a file: `filesystem.EntryInfo`.

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use futures_util::{StreamExt as _, stream};
use ironclaw_orchestrator::vm::{FileInfo, FileKind, Files};
use serde_json::{Value, json};

use super::metadata;
use super::shapes::rfc3339;

/// Files that a guest is asked about at the same time.
const AT_ONCE: usize = 32;

/// Symbolic links that one path may lead through, as Linux has it.
const MAX_LINKS: usize = 40;

/// Writes the properties of many files.
pub(super) async fn all(files: &Files<'_>, found: &[FileInfo]) -> Vec<Value> {
    let mut asked = Vec::with_capacity(found.len());
    for info in found {
        asked.push(entry(files, info));
    }
    stream::iter(asked).buffered(AT_ONCE).collect().await
}

/// Writes a file's properties; of a symbolic link, kind and mode are those of what it refers to.
pub(super) async fn entry(files: &Files<'_>, info: &FileInfo) -> Value {
    let (target, metadata) = tokio::join!(target(files, info), metadata::read(files, &info.path));
    let (kind, mode) = match &target {
        Some(Target {
            found: Some(found), ..
        }) => (found.kind, found.mode),
        Some(Target { found: None, .. }) => (info.kind, 0),
        None => (info.kind, info.mode),
    };
    let name = info.path.file_name().unwrap_or(info.path.as_os_str());
    let mut shown = json!({
        "name": name.to_string_lossy(),
        "type": match kind {
            FileKind::File => "FILE_TYPE_FILE",
            FileKind::Directory => "FILE_TYPE_DIRECTORY",
            _ => "FILE_TYPE_UNSPECIFIED",
        },
        "path": info.path.to_string_lossy(),
        // 64 bits are texts in the JSON of protobuf.
        "size": info.size.to_string(),
        "mode": mode,
        "permissions": permissions(info),
        "owner": owner(&info.owner, info.uid),
        "group": owner(&info.group, info.gid),
        "modifiedTime": rfc3339(info.modified.max(SystemTime::UNIX_EPOCH)),
    });
    if let Some(Target { path, .. }) = &target {
        shown["symlinkTarget"] = json!(path.to_string_lossy());
    }
    if !metadata.is_empty() {
        shown["metadata"] = json!(metadata);
    }
    shown
}

/// What a symbolic link leads to.
struct Target {
    /// Its path without links; the link's own if it leads nowhere.
    path: PathBuf,
    found: Option<FileInfo>,
}

async fn target(files: &Files<'_>, info: &FileInfo) -> Option<Target> {
    info.target.as_ref()?;
    let Ok(found) = files.metadata(&info.path).await else {
        return Some(Target {
            path: info.path.clone(),
            found: None,
        });
    };
    let path = without_links(files, &info.path).await;
    Some(Target {
        path: path.unwrap_or_else(|| info.path.clone()),
        found: Some(found),
    })
}

/// Follows all links of a path; `None` if one of them leads nowhere.
async fn without_links(files: &Files<'_>, path: &Path) -> Option<PathBuf> {
    let mut left: Vec<OsString> = names(path).collect();
    let mut resolved = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = left.pop() {
        if name == ".." {
            resolved.pop();
            continue;
        }
        let next = resolved.join(name);
        let info = files.symlink_metadata(&next).await.ok()?;
        let Some(target) = info.target else {
            resolved = next;
            continue;
        };
        links += 1;
        if links > MAX_LINKS {
            return None;
        }
        if target.is_absolute() {
            resolved = PathBuf::from("/");
        }
        left.extend(names(&target));
    }
    Some(resolved)
}

/// Returns the names of a path, the last one first.
fn names(path: &Path) -> impl Iterator<Item = OsString> {
    let names = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    names.collect::<Vec<_>>().into_iter()
}

fn owner(name: &OsStr, number: u32) -> String {
    match name.is_empty() {
        true => number.to_string(),
        false => name.to_string_lossy().into_owned(),
    }
}

/// Writes a mode as Go's `fs.FileMode` does.
fn permissions(info: &FileInfo) -> String {
    let kind = match info.kind {
        FileKind::Directory => 'd',
        FileKind::Link => 'L',
        FileKind::Fifo => 'p',
        FileKind::Socket => 'S',
        FileKind::BlockDevice | FileKind::CharacterDevice => 'D',
        _ => '-',
    };
    let bits = (0..9).rev().map(|bit| match info.mode >> bit & 1 {
        0 => '-',
        _ => ['x', 'w', 'r'][bit % 3],
    });
    std::iter::once(kind).chain(bits).collect()
}
