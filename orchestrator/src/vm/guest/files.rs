//! The files of a guest.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ironclaw_protocol::file::{self, FileKind, FileOperation, FileRequest, Owners};
use ironclaw_protocol::limits::{MAX_CHUNK, MAX_DEPTH};
use ironclaw_protocol::message::{Existing, FailureKind, GetFile, Outcome, PutFile, Request};
use ironclaw_protocol::os_bytes::OsBytes;
use ironclaw_protocol::records::Records;
use tokio::time::timeout;

use super::archive_reader::ArchiveReader;
use super::archive_writer::ArchiveWriter;
use super::changes::{ChangeListing, FileChange};
use super::command::bytes;
use super::connection::Connection;
use super::error::GuestError;
use super::file_streams::{FileReader, FileWriter};
use super::file_transfer::{FILE_STALL_TIMEOUT, no_file, unless_stalled};
use super::file_watch::FileWatch;
use super::inbox::Arrival;
use super::running::Pending;
use crate::untrusted;

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
    connection: &'a Connection,
    user: Option<OsString>,
}

/// The properties of a file, as its guest tells them, which may tell anything. Times, sizes and
/// names are within Linux's limits.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileInfo {
    /// Its absolute path in the guest. Of what is [listed](Files::list), it is below the directory.
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

/// How a file is written.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct WriteOptions {
    pub(super) mode: u32,
    pub(super) existing: Existing,
    pub(super) parents: bool,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl WriteOptions {
    /// A new file with mode 0644, which replaces what has its name when it is complete.
    pub fn new() -> Self {
        Self {
            mode: 0o644,
            existing: Existing::Replaced,
            parents: false,
        }
    }

    /// Gives a file that is made these permission bits.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Makes the directories that are missing.
    pub fn parents(mut self) -> Self {
        self.parents = true;
        self
    }

    /// Overwrites a file in place: it keeps its owner, mode and other names.
    pub fn overwrite(mut self) -> Self {
        self.existing = Existing::Overwritten;
        self
    }

    /// Writes into a file from `offset` on, and keeps the rest of it.
    pub fn at(mut self, offset: u64) -> Self {
        self.existing = Existing::WrittenAt(offset);
        self
    }

    /// Writes behind the end of a file.
    pub fn append(mut self) -> Self {
        self.existing = Existing::Appended;
        self
    }
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
        Ok(Listing {
            pending,
            directory: path,
            records: Records::default(),
            files: 0,
            unread: 0,
            over: false,
        })
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

    /// Reads a regular file of at most `limit` bytes; see
    /// [`Guest::get_file`](super::Guest::get_file).
    ///
    /// # Errors
    /// As for [`Guest::get_file`](super::Guest::get_file).
    pub async fn read(&self, path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>, GuestError> {
        self.collect(self.get(path.as_ref(), 0, None), limit).await
    }

    /// Reads `length` bytes of a regular file from an offset on, or fewer at its end.
    ///
    /// # Errors
    /// As for [`Guest::get_file`](super::Guest::get_file).
    pub async fn read_range(
        &self,
        path: impl AsRef<Path>,
        from: u64,
        length: u64,
    ) -> Result<Vec<u8>, GuestError> {
        let get = self.get(path.as_ref(), from, Some(length));
        self.collect(get, length).await
    }

    fn get(&self, path: &Path, from: u64, length: Option<u64>) -> GetFile {
        GetFile {
            path: bytes(path),
            from,
            length,
            user: self.user(),
        }
    }

    async fn collect(&self, get: GetFile, limit: u64) -> Result<Vec<u8>, GuestError> {
        let operation = "go on reading a file";
        'asked: loop {
            let request = self.open(Request::GetFile(get.clone()));
            let mut pending = unless_stalled(operation, request).await?;
            let mut content = Vec::new();
            loop {
                match unless_stalled(operation, pending.next()).await? {
                    Arrival::Data(_, bytes) => content.extend_from_slice(&bytes),
                    Arrival::Done(Outcome::FileRead { bytes, .. })
                        if bytes == content.len() as u64 =>
                    {
                        return Ok(content);
                    }
                    Arrival::Interrupted => continue 'asked,
                    other => return Err(no_file("a file to read", other)),
                }
                if content.len() as u64 > limit {
                    return Err(GuestError::TooMuchOutput { limit });
                }
            }
        }
    }

    /// Opens a regular file to read it as a stream, from an offset on, and so many bytes of it, or up
    /// to its end.
    ///
    /// # Errors
    /// As for [`Guest::open_file`](super::Guest::open_file).
    pub async fn reader(
        &self,
        path: impl AsRef<Path>,
        from: u64,
        length: Option<u64>,
    ) -> Result<FileReader, GuestError> {
        let get = self.get(path.as_ref(), from, length);
        FileReader::open(self.connection.connector(), get).await
    }

    /// Writes a file. It may take any time while it progresses: a guest that takes nothing for half
    /// a minute is given up.
    ///
    /// # Errors
    /// As for [`Guest::put_file`](super::Guest::put_file).
    pub async fn write(
        &self,
        path: impl AsRef<Path>,
        options: WriteOptions,
        content: &[u8],
    ) -> Result<(), GuestError> {
        let put = self.put(path.as_ref(), options);
        let operation = "go on writing a file";
        loop {
            let request = self.open(Request::PutFile(put.clone()));
            // Dropped after the request: the end of its content would complete half a file.
            let mut writer;
            let mut pending = unless_stalled(operation, request).await?;
            writer = pending.writer();
            for chunk in content.chunks(MAX_CHUNK) {
                unless_stalled(operation, writer.write_all(chunk)).await?;
            }
            drop(writer);
            match unless_stalled(operation, pending.next()).await? {
                Arrival::Done(Outcome::FileWritten { bytes }) if bytes == content.len() as u64 => {
                    return Ok(());
                }
                // What was appended may be there: to append it again would double it.
                Arrival::Interrupted if options.existing == Existing::Appended => {
                    return Err(GuestError::Interrupted { operation });
                }
                Arrival::Interrupted => {}
                other => return Err(no_file("a file to write", other)),
            }
        }
    }

    fn put(&self, path: &Path, options: WriteOptions) -> PutFile {
        PutFile {
            path: bytes(path),
            mode: options.mode,
            existing: options.existing,
            user: self.user(),
            parents: options.parents,
        }
    }

    /// Opens a file to write it as a stream.
    ///
    /// # Errors
    /// As for [`Guest::create_file`](super::Guest::create_file).
    pub async fn writer(
        &self,
        path: impl AsRef<Path>,
        options: WriteOptions,
    ) -> Result<FileWriter, GuestError> {
        let put = self.put(path.as_ref(), options);
        FileWriter::open(&self.connection.connector(), put).await
    }

    async fn open(&self, request: Request) -> Result<Pending, GuestError> {
        Ok(Pending::new(
            self.connection.connector().request(request).await?,
        ))
    }

    fn user(&self) -> Option<OsBytes> {
        self.user.as_ref().map(bytes)
    }

    async fn pending(&self, operation: FileOperation) -> Result<Pending, GuestError> {
        let user = self.user();
        let request = Request::File(FileRequest { user, operation });
        unless_stalled("take a request about files", self.open(request)).await
    }

    /// Asks until there is an answer; returns whether it was asked again, since the connection was
    /// lost.
    async fn ask(&self, operation: FileOperation) -> Result<(Outcome, bool), GuestError> {
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
    async fn change(
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

/// A list of files that goes on while it is read. Dropping it ends it.
#[derive(Debug)]
pub struct Listing {
    pending: Pending,
    directory: OsBytes,
    records: Records,
    files: u64,
    unread: u64,
    over: bool,
}

enum Advance {
    File(FileInfo),
    End,
    Interrupted,
}

impl Listing {
    /// Returns the next file, or `None` at the end. Cancel-safe.
    ///
    /// # Errors
    /// As for [`Files::metadata`]; [`GuestError::WrongAnswer`] if the guest lists what is not below
    /// the directory; [`GuestError::Interrupted`] if the connection was lost, as by a checkpoint.
    pub async fn next(&mut self) -> Result<Option<FileInfo>, GuestError> {
        match self.advance().await? {
            Advance::File(file) => Ok(Some(file)),
            Advance::End => Ok(None),
            Advance::Interrupted => Err(GuestError::Interrupted {
                operation: "list files",
            }),
        }
    }

    /// Returns how many directories below could not be read. Known at the end.
    #[must_use]
    pub fn unread(&self) -> u64 {
        self.unread
    }

    async fn advance(&mut self) -> Result<Advance, GuestError> {
        let operation = "list files";
        loop {
            let record = self.records.read::<file::FileInfo>();
            if let Some(info) = record.map_err(|error| broken(&error.to_string()))? {
                info.validate()
                    .map_err(|error| broken(&error.to_string()))?;
                if !info.is_below(&self.directory) {
                    return Err(broken("a file that is not below the directory"));
                }
                self.files += 1;
                return Ok(Advance::File(info.into()));
            }
            if self.over {
                return Ok(Advance::End);
            }
            match unless_stalled(operation, self.pending.next()).await? {
                Arrival::Data(_, bytes) => self.records.push(&bytes),
                Arrival::Done(Outcome::Listed { files, unread })
                    if files == self.files && self.records.is_empty() =>
                {
                    self.unread = unread;
                    self.over = true;
                }
                Arrival::Interrupted => return Ok(Advance::Interrupted),
                other => return Err(no_file("a list of files", other)),
            }
        }
    }
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

fn text(bytes: &OsBytes) -> OsString {
    OsString::from_vec(bytes.as_bytes().to_vec())
}

fn broken(reason: &str) -> GuestError {
    GuestError::WrongAnswer {
        operation: "a list of files",
        answer: untrusted::line(reason),
    }
}
