//! The content of a guest's files.

use std::path::Path;

use ironclaw_protocol::limits::MAX_CHUNK;
use ironclaw_protocol::message::{Existing, GetFile, Outcome, PutFile, Request};

use super::command::bytes;
use super::error::GuestError;
use super::file_streams::{FileReader, FileWriter};
use super::file_transfer::{no_file, unless_stalled};
use super::files::Files;
use super::inbox::Arrival;
use super::write_options::WriteOptions;

impl Files<'_> {
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
}
