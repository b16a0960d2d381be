//! The files of a guest.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

use ironclaw_protocol::file::{FileOperation, FileRequest, Owners};
use ironclaw_protocol::limits::MAX_DEPTH;
use ironclaw_protocol::message::{FailureKind, Outcome, Request};
use ironclaw_protocol::os_bytes::OsBytes;
use tokio::time::timeout;

use super::archive_reader::ArchiveReader;
use super::archive_writer::ArchiveWriter;
use super::changes::{ChangeListing, FileChange};
use super::command::bytes;
use super::connection::Connection;
use super::error::GuestError;
use super::file_info::FileInfo;
use super::file_transfer::{FILE_STALL_TIMEOUT, no_file, unless_stalled};
use super::file_watch::FileWatch;
use super::inbox::Arrival;
use super::listing::{Advance, Listing};
use super::running::Pending;

/// Timeout of the removal of a tree, which says nothing until its end: millions of files.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(600);

/// Limit of the files that [`Files::list`] collects.
const MAX_COLLECTED_FILES: usize = 100_000;

/// Access to the files of a guest, from [`Guest::files`](super::Guest::files). All paths are absolute.
///
/// It acts as root, or as a [user of choice](Self::as_user): then that user's permissions count, and
/// what is made is that user's.
///
/// ```no_run
/// # async fn example(vm: &ironclaw_orchestrator::vm::VmHandle) -> Result<(), Box<dyn std::error::Error>> {
/// let files = vm.files().as_user("nobody");
/// files.create_dir_all("/tmp/work/out", 0o755).await?;
/// for file in vm.files().list("/tmp/work").await? {
///     println!("{:?} {} bytes, of {:?}", file.path, file.size, file.owner);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Files<'a> {
    pub(super) connection: &'a Connection,
    user: Option<OsString>,
}

impl<'a> Files<'a> {
    pub(super) fn new(connection: &'a Connection) -> Self {
        Self {
            connection,
            user: None,
        }
    }

    /// Acts as this user, as for [`Command::user`](super::Command::user).
    #[must_use]
    pub fn as_user(mut self, user: impl AsRef<OsStr>) -> Self {
        self.user = Some(user.as_ref().to_owned());
        self
    }

    /// Tells the properties of a file, or of what a symbolic link refers to.
    ///
    /// # Errors
    /// [`GuestError::Failed`] if there is none, or the user may not see it; [`GuestError::NoAnswer`]
    /// if the guest is silent; [`GuestError::Invalid`] if the path is none; [`GuestError::Closed`] if
    /// the VM ends meanwhile.
    pub async fn metadata(&self, path: impl AsRef<Path>) -> Result<FileInfo, GuestError> {
        self.look(path.as_ref(), true).await
    }

    /// Tells the properties of a file, or of a symbolic link itself.
    ///
    /// # Errors
    /// As for [`metadata`](Self::metadata).
    pub async fn symlink_metadata(&self, path: impl AsRef<Path>) -> Result<FileInfo, GuestError> {
        self.look(path.as_ref(), false).await
    }

    async fn look(&self, path: &Path, follow: bool) -> Result<FileInfo, GuestError> {
        let path = bytes(path);
        let looked = self.ask(FileOperation::Look { path, follow }).await?;
        match looked.0 {
            Outcome::FileInfo(info) => Ok((*info).into()),
            other => Err(no_file("what a file is", Arrival::Done(other))),
        }
    }

    /// Lists the entries of a directory, sorted by path; 100,000 at most.
    ///
    /// # Errors
    /// As for [`walk`](Self::walk) and [`Listing::next`]; [`GuestError::TooMuchOutput`] if there are
    /// more.
    pub async fn list(&self, path: impl AsRef<Path>) -> Result<Vec<FileInfo>, GuestError> {
        self.list_deep(path, 1).await
    }

    /// Lists what is below a directory, so many directories deep, sorted by path; 100,000 at most.
    ///
    /// # Errors
    /// As for [`list`](Self::list).
    pub async fn list_deep(
        &self,
        path: impl AsRef<Path>,
        depth: u32,
    ) -> Result<Vec<FileInfo>, GuestError> {
        let path = path.as_ref();
        'asked: loop {
            let mut listing = self.walk(path, depth).await?;
            let mut files = Vec::new();
            loop {
                match listing.advance().await? {
                    Advance::File(file) => files.push(file),
                    Advance::End => break,
                    Advance::Interrupted => continue 'asked,
                }
                if files.len() > MAX_COLLECTED_FILES {
                    return Err(GuestError::TooMuchOutput {
                        limit: MAX_COLLECTED_FILES as u64,
                    });
                }
            }
            files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
            return Ok(files);
        }
    }

    /// Lists what is below a directory, 1 to 128 directories deep, one after the other, however many
    /// there are: a directory comes before what is in it, and symbolic links are not followed. The
    /// guest waits while nobody takes more.
    ///
    /// # Errors
    /// As for [`metadata`](Self::metadata).
    pub async fn walk(&self, path: impl AsRef<Path>, depth: u32) -> Result<Listing, GuestError> {
        let path = bytes(path.as_ref());
        let operation = FileOperation::List {
            path: path.clone(),
            depth: depth.min(MAX_DEPTH),
        };
        let pending = self.pending(operation).await?;
        Ok(Listing::new(pending, path))
    }

    /// Lists what differs from the guest's image, sorted by path; 100,000 files at most. Directories
    /// that hold differences and are none themselves are not listed; times of directories do not
    /// count; what is mounted over the image (`/proc`, `/sys`, `/dev`, `/run`, and the files of the
    /// guest's identity below `/etc`) is not of it.
    ///
    /// # Errors
    /// [`GuestError::Failed`] of kind [`FailureKind::Unsupported`] if the guest's root is in memory: its
    /// template was built without an image; else as for [`metadata`](Self::metadata), and
    /// [`GuestError::TooMuchOutput`] if there are more.
    pub async fn changes(&self) -> Result<Vec<FileChange>, GuestError> {
        'asked: loop {
            let mut listing = self.walk_changes().await?;
            let mut changes = Vec::new();
            loop {
                match listing.next().await {
                    Ok(Some(change)) => changes.push(change),
                    Ok(None) => break,
                    Err(GuestError::Interrupted { .. }) => continue 'asked,
                    Err(error) => return Err(error),
                }
                if changes.len() > MAX_COLLECTED_FILES {
                    return Err(GuestError::TooMuchOutput {
                        limit: MAX_COLLECTED_FILES as u64,
                    });
                }
            }
            changes.sort_unstable_by(|a, b| a.path.cmp(&b.path));
            return Ok(changes);
        }
    }

    /// Lists what differs from the guest's image, one after the other, however much that is.
    ///
    /// # Errors
    /// As for [`changes`](Self::changes).
    pub async fn walk_changes(&self) -> Result<ChangeListing, GuestError> {
        let pending = self.pending(FileOperation::ListChanges).await?;
        Ok(ChangeListing::new(pending))
    }

    /// Archives what differs from the guest's image as a layer over it: a tar stream with the
    /// whiteouts and opaque markers of OCI images, with owners, modes, times, extended attributes,
    /// hard links, devices and holes.
    ///
    /// Of a guest whose programs go on writing, it has no single moment.
    ///
    /// # Errors
    /// As for [`changes`](Self::changes), as far as they are known when the guest begins.
    pub async fn archive_changes(&self) -> Result<ArchiveReader, GuestError> {
        let pending = self.pending(FileOperation::ArchiveChanges).await?;
        ArchiveReader::open(pending).await
    }

    /// Archives what is below a directory as a tar stream, whose first entry, `./`, is the directory
    /// itself. Other file systems that are mounted below are empty directories there.
    ///
    /// # Errors
    /// As for [`metadata`](Self::metadata), as far as they are known when the guest begins. Files that
    /// the user may not read are counted: [`ArchiveSummary::omitted`](super::ArchiveSummary::omitted).
    pub async fn archive(&self, path: impl AsRef<Path>) -> Result<ArchiveReader, GuestError> {
        let path = bytes(path.as_ref());
        let pending = self.pending(FileOperation::Archive { path }).await?;
        ArchiveReader::open(pending).await
    }

    /// Unpacks a tar stream in a directory, and replaces what has the names of its files: a directory by
    /// nothing but a directory. Missing parents are made. Nothing outside of the directory is touched,
    /// whatever the archive says: a path with `..` is an error, an absolute one begins in the directory,
    /// and so do the symbolic links on the way. The directory itself keeps its mode and owner. POSIX and
    /// GNU archives are read, with extended attributes, hard links and holes; no compressed ones.
    ///
    /// ```no_run
    /// # async fn example(vm: &ironclaw_orchestrator::vm::VmHandle) -> Result<(), Box<dyn std::error::Error>> {
    /// use ironclaw_orchestrator::vm::Owners;
    ///
    /// let mut tar = tokio::fs::File::open("work.tar").await?;
    /// let files = vm.files().as_user("nobody");
    /// let mut archive = files.extract("/tmp", Owners::OfUser).await?;
    /// tokio::io::copy(&mut tar, &mut archive).await?;
    /// println!("{} files", archive.finish().await?.files);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`metadata`](Self::metadata); what the guest says of the directory, or of an entry, comes
    /// with the first bytes that it does not take, or with
    /// [`ArchiveWriter::finish`](super::ArchiveWriter::finish).
    pub async fn extract(
        &self,
        directory: impl AsRef<Path>,
        owners: Owners,
    ) -> Result<ArchiveWriter, GuestError> {
        let path = bytes(directory.as_ref());
        let operation = FileOperation::Extract { path, owners };
        let user = self.user();
        let request = Request::File(FileRequest { user, operation });
        ArchiveWriter::open(&self.connection.connector(), request).await
    }

    /// Watches a file, or a directory with what is directly in it: whatever happens from the return of
    /// this on is told by [`FileWatch::next`].
    ///
    /// ```no_run
    /// # async fn example(vm: &ironclaw_orchestrator::vm::VmHandle) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut watch = vm.files().watch_recursive("/tmp/work").await?;
    /// while let Some(event) = watch.next().await? {
    ///     println!("{:?} {:?}", event.kind, event.path);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`metadata`](Self::metadata), also of kind [`FailureKind::TooMany`] if there are 64 watches
    /// already.
    pub async fn watch(&self, path: impl AsRef<Path>) -> Result<FileWatch, GuestError> {
        let connector = self.connection.connector();
        FileWatch::open(connector, bytes(path.as_ref()), false, self.user()).await
    }

    /// The same with all directories below, also those that come to be, 128 directories deep: what is in
    /// them by then is told, too. Symbolic links are not followed, and other file systems that are mounted
    /// below are not watched.
    ///
    /// # Errors
    /// As for [`watch`](Self::watch), and of kind [`FailureKind::TooMany`] if there are more than 8192
    /// directories.
    pub async fn watch_recursive(&self, path: impl AsRef<Path>) -> Result<FileWatch, GuestError> {
        let connector = self.connection.connector();
        FileWatch::open(connector, bytes(path.as_ref()), true, self.user()).await
    }

    /// Makes a directory with these permission bits.
    ///
    /// # Errors
    /// As for [`metadata`](Self::metadata), also if there is something of that name.
    pub async fn create_dir(&self, path: impl AsRef<Path>, mode: u32) -> Result<(), GuestError> {
        let operation = FileOperation::MakeDirectory {
            path: bytes(path.as_ref()),
            mode,
            parents: false,
        };
        let made = self.change(operation, Some(FailureKind::Exists));
        made.await.map(drop)
    }

    /// Makes a directory with these permission bits, and the parents that are missing with 0755.
    /// Returns how many were made: 0 if there was such a directory.
    ///
    /// # Errors
    /// As for [`metadata`](Self::metadata).
    pub async fn create_dir_all(
        &self,
        path: impl AsRef<Path>,
        mode: u32,
    ) -> Result<u64, GuestError> {
        let operation = FileOperation::MakeDirectory {
            path: bytes(path.as_ref()),
            mode,
            parents: true,
        };
        self.change(operation, None).await
    }

    /// Removes a file, a symbolic link, or an empty directory.
    ///
    /// # Errors
    /// As for [`metadata`](Self::metadata), also if a directory is not empty.
    pub async fn remove(&self, path: impl AsRef<Path>) -> Result<(), GuestError> {
        let operation = FileOperation::Remove {
            path: bytes(path.as_ref()),
            recursive: false,
        };
        let removed = self.change(operation, Some(FailureKind::NotFound));
        removed.await.map(drop)
    }

    /// Removes a file, or a directory with everything in it; returns how many files that were. No
    /// symbolic link is followed. It may fail in the middle.
    ///
    /// # Errors
    /// As for [`remove`](Self::remove).
    pub async fn remove_all(&self, path: impl AsRef<Path>) -> Result<u64, GuestError> {
        let operation = FileOperation::Remove {
            path: bytes(path.as_ref()),
            recursive: true,
        };
        self.change(operation, Some(FailureKind::NotFound)).await
    }

    /// Gives a file or directory another name, in the same file system; replaces a file of that
    /// name.
    ///
    /// # Errors
    /// As for [`metadata`](Self::metadata).
    pub async fn rename(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
    ) -> Result<(), GuestError> {
        let operation = FileOperation::Rename {
            from: bytes(from.as_ref()),
            to: bytes(to.as_ref()),
        };
        let renamed = self.change(operation, Some(FailureKind::NotFound));
        renamed.await.map(drop)
    }

    /// Makes the symbolic link `link`, which refers to `target`.
    ///
    /// # Errors
    /// As for [`metadata`](Self::metadata), also if there is something of that name.
    pub async fn symlink(
        &self,
        target: impl AsRef<Path>,
        link: impl AsRef<Path>,
    ) -> Result<(), GuestError> {
        let operation = FileOperation::MakeLink {
            path: bytes(link.as_ref()),
            target: bytes(target.as_ref()),
        };
        let made = self.change(operation, Some(FailureKind::Exists));
        made.await.map(drop)
    }

    pub(super) async fn open(&self, request: Request) -> Result<Pending, GuestError> {
        Ok(Pending::new(
            self.connection.connector().request(request).await?,
        ))
    }

    pub(super) fn user(&self) -> Option<OsBytes> {
        self.user.as_ref().map(bytes)
    }

    async fn pending(&self, operation: FileOperation) -> Result<Pending, GuestError> {
        let user = self.user();
        let request = Request::File(FileRequest { user, operation });
        unless_stalled("take a request about files", self.open(request)).await
    }

    /// Asks until there is an answer; returns whether it was asked again, since the connection was
    /// lost.
    pub(super) async fn ask(
        &self,
        operation: FileOperation,
    ) -> Result<(Outcome, bool), GuestError> {
        let patience = match operation {
            FileOperation::Remove {
                recursive: true, ..
            } => REMOVAL_TIMEOUT,
            _ => FILE_STALL_TIMEOUT,
        };
        let answer = async {
            let mut again = false;
            loop {
                match self.pending(operation.clone()).await?.next().await? {
                    Arrival::Done(outcome) => return Ok((outcome, again)),
                    Arrival::Interrupted => again = true,
                    other => return Err(no_file("a request about files", other)),
                }
            }
        };
        let late = |_| GuestError::NoAnswer {
            operation: "do something with files",
            after: patience,
        };
        timeout(patience, answer).await.map_err(late)?
    }

    /// Changes files; returns how many. If it had to be asked again, the failure that its own success
    /// would cause is one: the first answer was lost.
    pub(super) async fn change(
        &self,
        operation: FileOperation,
        done_before: Option<FailureKind>,
    ) -> Result<u64, GuestError> {
        match self.ask(operation).await? {
            (Outcome::Changed { files }, _) => Ok(files),
            (Outcome::Failed(failure), true) if Some(failure.kind) == done_before => Ok(0),
            (other, _) => Err(no_file("a change of files", Arrival::Done(other))),
        }
    }
}
