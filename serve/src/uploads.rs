//! Files that clients send for a template that is to be built: archives, until they are used.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, BufReader, Read, Seek as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use futures_util::{Stream, StreamExt as _};
use ironclaw_host::mark::{self, Mark};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use crate::secret::{self, Secret};

/// Time for which a place for an upload is kept.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(3600);

/// Places that are kept at a time.
const MAX_PLACES: usize = 1000;

/// Limit of what an archive says of an entry beside its head, such as a long name, in bytes.
const MAX_EXTENSION: u64 = 64 * 1024;

/// Entries of one archive, at most.
const MAX_ENTRIES: usize = 1_000_000;

/// Length of the hash by which a client knows its files: a SHA-256, in hexadecimal digits.
const HASH: usize = 64;

/// The first bytes of a file that gzip made.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The uploads of a daemon. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Uploads {
    directory: PathBuf,
    /// Most bytes of an archive, and of what is in it.
    limit: u64,
    /// By the hash of the secret that lets in.
    places: Arc<Mutex<HashMap<String, (Files, Instant)>>>,
}

/// The hash by which a client knows its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Files(String);

/// The reason why an archive was not taken.
#[derive(Debug, Error)]
pub(crate) enum UploadError {
    #[error("it broke off: {0}")]
    Broken(String),
    #[error("the files have more than {0} bytes, which a template may have")]
    TooLarge(u64),
    #[error("the files can't be kept")]
    Io(#[from] io::Error),
}

impl Files {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_hash = text.len() == HASH && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hash.then(|| Self(text.to_ascii_lowercase()))
    }
}

impl Uploads {
    /// Keeps uploads in a directory of their own; what a former daemon left there goes.
    pub(crate) fn new(directory: PathBuf, limit: u64) -> Self {
        if let Err(error) = remove_former(&directory) {
            tracing::warn!(%error, "what a former daemon was sent stays on the disk");
        }
        Self {
            directory,
            limit,
            places: Arc::default(),
        }
    }

    /// Returns whether files are there.
    pub(crate) fn has(&self, files: &Files) -> bool {
        self.archive(files).is_file()
    }

    /// Returns the secret by which somebody may send files; `None` if too many are waited for.
    pub(crate) fn expect(&self, files: Files) -> Result<Option<Secret>, getrandom::Error> {
        let secret = Secret::draw()?;
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|_, (_, since)| since.elapsed() < UPLOAD_TIMEOUT);
        if places.len() >= MAX_PLACES {
            return Ok(None);
        }
        places.insert(secret::hash(secret.reveal()), (files, Instant::now()));
        Ok(Some(secret))
    }

    /// Returns which files may be sent by this secret.
    pub(crate) fn expected(&self, presented: &str) -> Option<Files> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let (files, since) = places.get(&secret::hash(presented))?;
        (since.elapsed() < UPLOAD_TIMEOUT).then(|| files.clone())
    }

    /// Makes a file to write an archive to, which is gone unless it is [kept](Self::keep).
    pub(crate) fn begin(&self) -> io::Result<tempfile::NamedTempFile> {
        self.make_directory()?;
        self.sweep(SystemTime::now())?;
        tempfile::NamedTempFile::new_in(&self.directory)
    }

    /// Keeps an archive until it is used.
    pub(crate) fn keep(&self, files: &Files, archive: tempfile::NamedTempFile) -> io::Result<()> {
        archive.persist(self.archive(files))?;
        Ok(())
    }

    /// Takes an archive as it comes; returns it, to be [kept](Self::keep), with what its bytes are known by,
    /// and how many they are.
    pub(crate) async fn receive<E: std::fmt::Display>(
        &self,
        pieces: impl Stream<Item = Result<Bytes, E>>,
    ) -> Result<(tempfile::NamedTempFile, Files, u64), UploadError> {
        let archive = self.begin()?;
        let mut file = tokio::fs::File::from_std(archive.reopen()?);
        let (mut hash, mut size) = (Sha256::new(), 0_u64);
        let mut pieces = std::pin::pin!(pieces);
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| UploadError::Broken(error.to_string()))?;
            size = size.saturating_add(piece.len() as u64);
            if size > self.limit {
                return Err(UploadError::TooLarge(self.limit));
            }
            hash.update(&piece);
            file.write_all(&piece).await?;
        }
        file.flush().await?;
        Ok((archive, Files(secret::hex(&hash.finalize())), size))
    }

    /// Makes a directory without files.
    pub(crate) fn empty(&self) -> io::Result<PathBuf> {
        self.make_directory()?;
        Ok(tempfile::tempdir_in(&self.directory)?.keep())
    }

    /// Unpacks an archive, and removes it; returns the directory with its files.
    pub(crate) fn unpack(&self, files: &Files) -> io::Result<PathBuf> {
        let path = self.archive(files);
        let archive = File::open(&path)?;
        // Its client sends it again where it is needed again.
        fs::remove_file(&path)?;
        let directory = tempfile::tempdir_in(&self.directory)?;
        unpack(archive, directory.path(), self.limit)?;
        Ok(directory.keep())
    }

    /// Removes archives that nobody has used in time.
    fn sweep(&self, now: SystemTime) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let (path, found) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
            let age = now.duration_since(found.modified()?).unwrap_or_default();
            let is_mark = path.file_name() == Some(OsStr::new(mark::NAME));
            if found.is_file() && !is_mark && age > UPLOAD_TIMEOUT {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn archive(&self, files: &Files) -> PathBuf {
        self.directory.join(format!("{}.tar", files.0))
    }

    /// Makes the directory, and marks it as ours: nothing is removed from one of somebody else.
    fn make_directory(&self) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let directory = mark::open(&self.directory)?;
        match mark::read(&directory)? {
            Mark::Ours => Ok(()),
            Mark::Bare => mark::replace(&directory),
            Mark::Foreign => Err(foreign(&self.directory)),
        }
    }
}

/// Removes the directory of a former daemon, if it is one.
fn remove_former(path: &Path) -> io::Result<()> {
    let directory = match mark::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    match mark::read(&directory)? {
        Mark::Ours | Mark::Bare => fs::remove_dir_all(path),
        Mark::Foreign => Err(foreign(path)),
    }
}

fn foreign(path: &Path) -> io::Error {
    io::Error::other(format!(
        "{} is not IronClaw's: the daemon needs a directory of its own (--state)",
        path.display()
    ))
}

fn unpack(mut archive: File, to: &Path, limit: u64) -> io::Result<()> {
    check(&mut archive, limit)?;
    let mut tar = open(&mut archive)?;
    for entry in tar.entries()? {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        if !(kind.is_file() || kind.is_dir() || kind.is_symlink()) {
            return Err(refused(
                "an entry is neither a file nor a directory nor a symbolic link",
            ));
        }
        if !entry.unpack_in(to)? {
            return Err(refused("an entry leads out of the archive"));
        }
        if kind.is_dir() {
            // What follows goes in.
            let path = to.join(entry.path()?);
            let mode = fs::metadata(&path)?.permissions().mode();
            fs::set_permissions(&path, Permissions::from_mode(mode | 0o700))?;
        }
    }
    Ok(())
}

/// Checks how much is in an archive, before anything of it is taken into memory or written.
fn check(archive: &mut File, limit: u64) -> io::Result<()> {
    let (mut bytes, mut count) = (0_u64, 0_usize);
    let mut tar = open(archive)?;
    for entry in tar.entries()?.raw(true) {
        let entry = entry?;
        let (kind, size) = (entry.header().entry_type(), entry.size());
        let has_content = kind.is_file() || kind.is_dir() || kind.is_symlink();
        if !has_content && size > MAX_EXTENSION {
            return Err(refused("the name of an entry is too long"));
        }
        bytes = bytes.saturating_add(size);
        count += 1;
        if bytes > limit || count > MAX_ENTRIES {
            return Err(refused("the files are too many, or too large together"));
        }
    }
    Ok(())
}

fn open(archive: &mut File) -> io::Result<tar::Archive<Box<dyn Read + '_>>> {
    archive.rewind()?;
    let mut head = Vec::new();
    archive
        .by_ref()
        .take(GZIP.len() as u64)
        .read_to_end(&mut head)?;
    archive.rewind()?;
    let archive = BufReader::new(archive);
    let reader: Box<dyn Read + '_> = match head == GZIP {
        true => Box::new(MultiGzDecoder::new(archive)),
        false => Box::new(archive),
    };
    Ok(tar::Archive::new(reader))
}

fn refused(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn files(digit: char) -> Files {
        Files::parse(&digit.to_string().repeat(HASH)).unwrap()
    }

    fn archive(name: &str, content: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        // Past the check of the builder, as an attacker would.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        let mut builder = tar::Builder::new(Vec::new());
        builder.append(&header, content).unwrap();
        builder.into_inner().unwrap()
    }

    /// An archive whose name of an entry takes all memory.
    fn long_name() -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    fn send(uploads: &Uploads, files: &Files, bytes: &[u8]) {
        let mut file = uploads.begin().unwrap();
        file.write_all(bytes).unwrap();
        uploads.keep(files, file).unwrap();
    }

    #[test]
    fn files_that_were_sent_are_unpacked_once() {
        let home = tempfile::tempdir().unwrap();
        let uploads = Uploads::new(home.path().join("uploads"), 1000);
        let files = files('a');
        assert!(!uploads.has(&files));
        let secret = uploads.expect(files.clone()).unwrap().unwrap();
        assert_eq!(uploads.expected(secret.reveal()), Some(files.clone()));
        assert_eq!(uploads.expected("x"), None);
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&archive("a", b"content")).unwrap();
        send(&uploads, &files, &packed.finish().unwrap());
        assert!(uploads.has(&files));
        let unused = self::files('c');
        send(&uploads, &unused, b"not used");
        uploads.sweep(SystemTime::now()).unwrap();
        assert!(uploads.has(&unused));
        let directory = uploads.unpack(&files).unwrap();
        assert_eq!(fs::read(directory.join("a")).unwrap(), b"content");
        assert!(!uploads.has(&files));
        let later = SystemTime::now() + 2 * UPLOAD_TIMEOUT;
        uploads.sweep(later).unwrap();
        assert!(!uploads.has(&unused));
        let mode = fs::metadata(home.path().join("uploads")).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o700);
        Uploads::new(home.path().join("uploads"), 1000);
        assert!(!directory.exists(), "what a former daemon left goes");
    }

    #[test]
    fn what_leads_out_or_is_too_large_is_refused_and_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let uploads = Uploads::new(home.path().join("uploads"), 2000);
        for bad in [
            archive("../out", b"x"),
            archive("large", &[0; 2001]),
            b"no archive at all".repeat(100),
            long_name(),
        ] {
            send(&uploads, &files('b'), &bad);
            assert!(uploads.unpack(&files('b')).is_err());
        }
        assert!(!home.path().join("out").exists());
        let left = fs::read_dir(home.path().join("uploads")).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [mark::NAME]);
        for text in ["", "../../x", &"g".repeat(HASH), &"a".repeat(HASH + 1)] {
            assert_eq!(Files::parse(text), None);
        }
    }

    #[test]
    fn a_directory_of_somebody_else_keeps_what_is_in_it_and_takes_nothing() {
        let home = tempfile::tempdir().unwrap();
        let theirs = home.path().join("uploads");
        fs::create_dir(&theirs).unwrap();
        fs::write(theirs.join("thesis"), "").unwrap();
        let uploads = Uploads::new(theirs.clone(), 1000);
        let error = uploads.begin().unwrap_err().to_string();
        assert!(error.contains("--state"), "{error}");
        assert!(theirs.join("thesis").exists());
    }
}
