//! Owners, modes and extended attributes of a guest's files.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use ironclaw_protocol::file::FileOperation;
use ironclaw_protocol::message::Outcome;

use super::command::bytes;
use super::error::GuestError;
use super::file_info::text;
use super::file_transfer::no_file;
use super::files::Files;
use super::inbox::Arrival;

impl Files<'_> {
    /// Sets the permission bits of a file, or of what a symbolic link refers to.
    ///
    /// # Errors
    /// As for [`metadata`](Self::metadata).
    pub async fn set_mode(&self, path: impl AsRef<Path>, mode: u32) -> Result<(), GuestError> {
        let path = bytes(path.as_ref());
        let set = self.change(FileOperation::SetMode { path, mode }, None);
        set.await.map(drop)
    }

    /// Sets the owner of a file, or of a symbolic link itself: a user as for
    /// [`Command::user`](super::Command::user), whose own group it gets unless one is named.
    ///
    /// # Errors
    /// As for [`metadata`](Self::metadata).
    pub async fn set_owner(
        &self,
        path: impl AsRef<Path>,
        owner: impl AsRef<OsStr>,
    ) -> Result<(), GuestError> {
        let operation = FileOperation::SetOwner {
            path: bytes(path.as_ref()),
            owner: bytes(owner),
        };
        self.change(operation, None).await.map(drop)
    }

    /// Tells the extended attributes of a file, or of a symbolic link itself: names and values.
    ///
    /// # Errors
    /// As for [`metadata`](Self::metadata), also if its file system has none.
    pub async fn attributes(
        &self,
        path: impl AsRef<Path>,
    ) -> Result<Vec<(OsString, Vec<u8>)>, GuestError> {
        let path = bytes(path.as_ref());
        match self.ask(FileOperation::Attributes { path }).await?.0 {
            Outcome::Attributes(all) => Ok(all
                .into_iter()
                .map(|(name, value)| (text(&name), value.as_bytes().to_vec()))
                .collect()),
            other => Err(no_file("the attributes of a file", Arrival::Done(other))),
        }
    }

    /// Sets an extended attribute, such as `user.origin`.
    ///
    /// # Errors
    /// As for [`attributes`](Self::attributes).
    pub async fn set_attribute(
        &self,
        path: impl AsRef<Path>,
        name: impl AsRef<OsStr>,
        value: &[u8],
    ) -> Result<(), GuestError> {
        let operation = FileOperation::SetAttribute {
            path: bytes(path.as_ref()),
            name: bytes(name),
            value: Some(value.into()),
        };
        self.change(operation, None).await.map(drop)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// As for [`attributes`](Self::attributes), also if there is none of that name.
    pub async fn remove_attribute(
        &self,
        path: impl AsRef<Path>,
        name: impl AsRef<OsStr>,
    ) -> Result<(), GuestError> {
        let operation = FileOperation::SetAttribute {
            path: bytes(path.as_ref()),
            name: bytes(name),
            value: None,
        };
        self.change(operation, None).await.map(drop)
    }
}
