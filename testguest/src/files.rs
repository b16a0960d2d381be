//! The guest's files: a small table in memory.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use ironclaw_protocol::message::FailureKind;

/// Most files at one time.
pub const MAX_FILES: usize = 16;

/// Most bytes of content in all files together.
pub const MAX_BYTES: usize = 1024 * 1024;

/// The directories that exist; none can be made.
pub const DIRECTORIES: [&str; 2] = ["/", "/tmp"];

/// A file's permission bits and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Permission bits.
    pub mode: u32,
    /// Content.
    pub content: Vec<u8>,
}

/// All files, by absolute path.
#[derive(Debug, Default)]
pub struct Files {
    table: Vec<(String, File)>,
}

impl Files {
    /// Checks that a file may be put at `path`, which is absolute.
    ///
    /// # Errors
    /// `Invalid` for the path of a directory, `NoSuchDirectory` if its directory does not exist.
    pub fn check_path(path: &str) -> Result<(), FailureKind> {
        if path.ends_with('/') || DIRECTORIES.contains(&path) {
            return Err(FailureKind::Invalid);
        }
        let directory = match path.rsplit_once('/') {
            Some(("", _)) => "/",
            Some((directory, _)) => directory,
            None => return Err(FailureKind::Invalid),
        };
        if DIRECTORIES.contains(&directory) {
            Ok(())
        } else {
            Err(FailureKind::NoSuchDirectory)
        }
    }

    /// Bytes that a new content of `path` may have.
    #[must_use]
    pub fn room_for(&self, path: &str) -> usize {
        let others = self.table.iter().filter(|(name, _)| name != path);
        MAX_BYTES - others.map(|(_, file)| file.content.len()).sum::<usize>()
    }

    /// Writes or replaces a file.
    ///
    /// # Errors
    /// `NoSpace` if the table or the room for content is full, and those of
    /// [`check_path`](Self::check_path).
    pub fn put(&mut self, path: &str, file: File) -> Result<(), FailureKind> {
        Self::check_path(path)?;
        if file.content.len() > self.room_for(path) {
            return Err(FailureKind::NoSpace);
        }
        if let Some((_, old)) = self.table.iter_mut().find(|(name, _)| name == path) {
            *old = file;
        } else if self.table.len() < MAX_FILES {
            self.table.push((path.to_string(), file));
        } else {
            return Err(FailureKind::NoSpace);
        }
        Ok(())
    }

    /// Returns the file at `path`.
    ///
    /// # Errors
    /// `NotFound`, or `Invalid` for a directory.
    pub fn get(&self, path: &str) -> Result<&File, FailureKind> {
        if DIRECTORIES.contains(&path) {
            return Err(FailureKind::Invalid);
        }
        let found = self.table.iter().find(|(name, _)| name == path);
        found.map(|(_, file)| file).ok_or(FailureKind::NotFound)
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::vec;

    use super::*;

    fn file(bytes: usize) -> File {
        File {
            mode: 0o600,
            content: vec![7; bytes],
        }
    }

    #[test]
    fn a_file_replaces_one_of_the_same_path_even_when_there_is_no_room_for_both() {
        let mut files = Files::default();
        files.put("/tmp/a", file(MAX_BYTES)).unwrap();
        files.put("/tmp/a", file(MAX_BYTES - 1)).unwrap();
        assert_eq!(files.get("/tmp/a").unwrap().content.len(), MAX_BYTES - 1);
        assert_eq!(files.put("/tmp/b", file(2)), Err(FailureKind::NoSpace));
        files.put("/tmp/b", file(1)).unwrap();
    }

    #[test]
    fn the_table_holds_a_bounded_number_of_files() {
        let mut files = Files::default();
        for number in 0..MAX_FILES {
            files.put(&format!("/f{number}"), file(0)).unwrap();
        }
        assert_eq!(files.put("/one-more", file(0)), Err(FailureKind::NoSpace));
    }

    #[test]
    fn a_path_must_lie_in_a_directory_that_exists() {
        assert_eq!(Files::check_path("/a"), Ok(()));
        assert_eq!(Files::check_path("/tmp/a"), Ok(()));
        assert_eq!(
            Files::check_path("/nowhere/a"),
            Err(FailureKind::NoSuchDirectory)
        );
        assert_eq!(Files::check_path("/tmp"), Err(FailureKind::Invalid));
        assert_eq!(Files::check_path("/tmp/"), Err(FailureKind::Invalid));
    }
}
