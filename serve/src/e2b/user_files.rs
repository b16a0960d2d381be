//! Files as E2B's agent handles them: as root, so that no permission of the guest's stands in the way, and
//! what is made or written belongs to the caller's user.

use std::ops::Deref;
use std::path::{Component, Path};

use ironclaw_orchestrator::vm::{Files, GuestError};

use super::access::Entered;
use crate::templates;

/// The user that may do anything, whatever it is called.
const ROOT: &str = "0";

/// Permission bits of a directory that is made.
const DIRECTORY_MODE: u32 = 0o755;

/// The files of a guest, for a user of it.
pub(super) struct UserFiles<'a> {
    files: Files<'a>,
    user: &'a str,
}

impl<'a> UserFiles<'a> {
    pub(super) fn of(entered: &'a Entered, user: &'a str) -> Self {
        let files = entered.live.vm.files().as_user(ROOT);
        Self { files, user }
    }

    /// Makes a directory and the parents that are missing; returns how many were made.
    pub(super) async fn make_directories(&self, path: &str) -> Result<u64, GuestError> {
        let made = self.files.create_dir_all(path, DIRECTORY_MODE).await?;
        for directory in newest(Path::new(path), made) {
            self.give(directory).await?;
        }
        Ok(made)
    }

    /// Makes the directory of a path, if it has one.
    pub(super) async fn make_parent(&self, path: &str) -> Result<(), GuestError> {
        match path.rsplit_once('/') {
            Some((parent, _)) if !parent.is_empty() => {
                self.make_directories(parent).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Gives a file that was made or written to the user; root's it is already.
    pub(super) async fn give(&self, path: impl AsRef<Path>) -> Result<(), GuestError> {
        match self.user {
            ROOT | templates::ROOT => Ok(()),
            user => self.files.set_owner(path, user).await,
        }
    }
}

impl<'a> Deref for UserFiles<'a> {
    type Target = Files<'a>;

    fn deref(&self) -> &Files<'a> {
        &self.files
    }
}

/// Returns the last directories of a path, of which so many were made. None if a name of it leads elsewhere.
fn newest(path: &Path, made: u64) -> impl Iterator<Item = &Path> {
    let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    let made = match path.components().all(is_plain) {
        true => usize::try_from(made).unwrap_or(usize::MAX),
        false => 0,
    };
    path.ancestors()
        .filter(|path| path.file_name().is_some())
        .take(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directories_that_were_made_are_the_last_of_a_path() {
        let of = |path, made| {
            let newest = newest(Path::new(path), made);
            newest
                .map(|path| path.to_str().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(of("/a/b/c", 2), ["/a/b/c", "/a/b"]);
        assert_eq!(of("/a", 9), ["/a"]);
        assert_eq!(of("/a/b", 0), [""; 0]);
        assert_eq!(of("/a/../b", 1), [""; 0], "another directory's parent");
    }
}
