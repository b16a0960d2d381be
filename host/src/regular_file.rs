//! Opening files that somebody names, and that need not be files.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

/// Opens the file at `path` for reading. A directory, a device, a socket and a named pipe are
/// errors, and none is waited for: the open of a pipe would last until somebody writes to it.
pub fn open(path: &Path) -> io::Result<File> {
    let nonblocking = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = File::options()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)?;
    // Which an open file says of itself, whatever its name leads to by now.
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    let kind = match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a named pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    let text = format!("it is {kind}, and not a file");
    Err(io::Error::new(ErrorKind::InvalidInput, text))
}

/// Reads the file at `path`, of at most `limit` bytes; opened as by [`open`].
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    open(path)?
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let text = format!("it is larger than the limit of {limit} bytes");
        return Err(io::Error::new(ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn what_is_no_file_is_refused_without_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let (file, pipe) = (directory.path().join("file"), directory.path().join("pipe"));
        std::fs::write(&file, "content").unwrap();
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(read(&file, 7).unwrap(), b"content");
        assert_eq!(read(&file, 6).unwrap_err().kind(), ErrorKind::FileTooLarge);
        for (path, said) in [
            (pipe.as_path(), "a named pipe"),
            (directory.path(), "a directory"),
            (Path::new("/dev/zero"), "a device"),
        ] {
            let error = read(path, 7).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
        assert_eq!(
            open(&directory.path().join("none")).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }
}
