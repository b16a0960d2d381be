//! What a guest tells of a file.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use ironclaw_protocol::file::{self, FileKind};
use ironclaw_protocol::os_bytes::OsBytes;

/// The properties of a file, as its guest tells them, which may tell anything. Times, sizes and
/// names are within Linux's limits.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileInfo {
    /// Its absolute path in the guest. Of what is [listed](super::Files::list), it is below the directory.
    pub path: PathBuf,
    /// What it is.
    pub kind: FileKind,
    /// Its permission bits.
    pub mode: u32,
    /// The uid of its owner.
    pub uid: u32,
    /// The gid of its group.
    pub gid: u32,
    /// The name of its owner; empty if the guest has none for the uid.
    pub owner: OsString,
    /// The name of its group; empty if the guest has none for the gid.
    pub group: OsString,
    /// Its size in bytes.
    pub size: u64,
    /// When its content changed last.
    pub modified: SystemTime,
    /// What a symbolic link refers to.
    pub target: Option<PathBuf>,
}

impl From<file::FileInfo> for FileInfo {
    fn from(info: file::FileInfo) -> Self {
        let seconds = Duration::from_secs(info.modified.seconds.unsigned_abs());
        let whole = if info.modified.seconds < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(seconds)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(seconds)
        };
        let nanos = Duration::from_nanos(info.modified.nanos.into());
        let modified = whole.and_then(|whole| whole.checked_add(nanos));
        Self {
            path: text(&info.path).into(),
            kind: info.kind,
            mode: info.mode,
            uid: info.uid,
            gid: info.gid,
            owner: text(&info.owner),
            group: text(&info.group),
            size: info.size,
            modified: modified.unwrap_or(SystemTime::UNIX_EPOCH),
            target: info.target.as_ref().map(|target| text(target).into()),
        }
    }
}

/// Returns the text of bytes, whatever they are.
pub(super) fn text(bytes: &OsBytes) -> OsString {
    OsString::from_vec(bytes.as_bytes().to_vec())
}
