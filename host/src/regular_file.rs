//! Opens paths given by others, which may lead to something other than a regular file.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

/// Opens the regular file at `path` for reading. Fails at a directory, a device, a socket or a
/// named pipe, without waiting: a plain open of a pipe would block until somebody writes to it.
pub fn open(path: &Path) -> io::Result<File> {
    let nonblocking = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = File::options()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)?;
    // Checked on the descriptor: the path may lead to another file by now (TOCTOU).
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

/// Reads the regular file at `path`, opened as by [`open`]; fails if it has more than `limit`
/// bytes.
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
    fn anything_but_a_regular_file_is_refused_without_waiting() {
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
