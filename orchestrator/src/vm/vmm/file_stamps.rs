//! Files that a hypervisor was found with, to notice that one was replaced, as by an upgrade.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Files as they were once. Nothing of their content is read.
#[derive(Debug, Clone)]
pub(in crate::vm) struct FileStamps(Vec<(PathBuf, Option<Stamp>)>);

/// An unmodified file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// Returns that of the file at `path`; `None` if there is none.
    fn of(path: &Path) -> Option<Self> {
        let facts = fs::metadata(path).ok()?;
        Some(Self {
            device: facts.dev(),
            inode: facts.ino(),
            bytes: facts.len(),
            modified: (facts.mtime(), facts.mtime_nsec()),
        })
    }
}

impl FileStamps {
    pub(in crate::vm) fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let paths = paths.into_iter();
        Self(
            paths
                .map(|path| (path.to_owned(), Stamp::of(path)))
                .collect(),
        )
    }

    /// Returns whether all files are as they were. Blocks for a moment.
    pub(in crate::vm) fn hold(&self) -> bool {
        self.0.iter().all(|(path, stamp)| Stamp::of(path) == *stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_replaced_written_or_removed_is_noticed() {
        type Change = fn(&Path);
        let changes: [Change; 3] = [
            |path| {
                fs::write(path.with_extension("new"), "program").unwrap();
                fs::rename(path.with_extension("new"), path).unwrap();
            },
            |path| fs::write(path, "another program").unwrap(),
            |path| fs::remove_file(path).unwrap(),
        ];
        for change in changes {
            let directory = tempfile::tempdir().unwrap();
            let (program, link) = (directory.path().join("vmm"), directory.path().join("link"));
            fs::write(&program, "program").unwrap();
            std::os::unix::fs::symlink("vmm", &link).unwrap();
            let stamps = FileStamps::of([&*link]);
            assert!(stamps.hold());
            change(&program);
            assert!(!stamps.hold());
        }
    }
}
