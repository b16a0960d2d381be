//! Who did what: a line of JSON for each request, in a file of bounded size. No key, token, body or command is in it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde::Serialize;

/// Size at which a file is set aside, in bytes.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Files that are set aside, `.1` the newest; what is older is deleted.
const KEPT: u32 = 4;

/// The log of requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Audit(Arc<Mutex<Log>>);

#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
    most: u64,
    /// Lines that could not be written since the last one that was: the first one is told, and their number
    /// when it is over.
    missed: u64,
}

/// A request and its outcome.
#[derive(Debug, Serialize)]
pub(crate) struct Entry<'a> {
    pub(crate) time: String,
    /// The name of the key, or `local` without one over the Unix socket; nothing for the token of a sandbox, or
    /// for who was not let in.
    pub(crate) by: Option<&'a str>,
    pub(crate) local: bool,
    pub(crate) method: &'a str,
    /// The call: its path, with names in place of what differs.
    pub(crate) route: &'a str,
    pub(crate) sandbox: Option<&'a str>,
    pub(crate) status: u16,
}

impl Audit {
    /// Opens the log in a file (0600), which is continued.
    ///
    /// # Errors
    /// If it can't be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::bounded(path, MAX_BYTES)
    }

    fn bounded(path: &Path, most: u64) -> io::Result<Self> {
        let (file, bytes) = continued(path)?;
        Ok(Self(Arc::new(Mutex::new(Log {
            path: path.to_owned(),
            file,
            bytes,
            most,
            missed: 0,
        }))))
    }

    /// Adds a line. A request is served whether it can be written or not.
    pub(crate) fn record(&self, entry: &Entry<'_>) {
        // Numbers and texts: they have a JSON.
        let mut line = serde_json::to_vec(entry).unwrap_or_default();
        line.push(b'\n');
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (log.write(&line), log.missed) {
            (Ok(()), 0) => {}
            (Ok(()), missed) => {
                tracing::warn!(missed, "requests are recorded again");
                log.missed = 0;
            }
            (Err(error), missed) => {
                if missed == 0 {
                    tracing::error!(%error, "requests are not recorded");
                }
                log.missed = missed.saturating_add(1);
            }
        }
    }
}

fn continued(path: &Path) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600);
    let file = options.open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

impl Log {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.most {
            self.set_aside()?;
        }
        if let Err(error) = self.file.write_all(line) {
            // A part of a line would spoil the next one. A disk that is full lets a file shrink.
            self.file.set_len(self.bytes)?;
            return Err(error);
        }
        self.bytes += line.len() as u64;
        Ok(())
    }

    fn set_aside(&mut self) -> io::Result<()> {
        let old = |number: u32| {
            let mut path = self.path.clone().into_os_string();
            path.push(format!(".{number}"));
            PathBuf::from(path)
        };
        for number in (1..KEPT).rev() {
            match fs::rename(old(number), old(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, old(1))?;
        (self.file, self.bytes) = continued(&self.path)?;
        Ok(())
    }
}

/// Writes a time as it is in the log.
pub(crate) fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_log_is_private_continued_and_bounded() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("audit.jsonl");
        let entry = |status| Entry {
            time: time(SystemTime::UNIX_EPOCH),
            by: Some("ci"),
            local: false,
            method: "POST",
            route: "/v1/sandboxes",
            sandbox: None,
            status,
        };
        let line = serde_json::to_vec(&entry(200)).unwrap().len() as u64 + 1;
        for status in 200..300 {
            // Two lines a file; each time as a new daemon.
            let audit = Audit::bounded(&path, 2 * line).unwrap();
            audit.record(&entry(status));
        }
        let mut names: Vec<_> = fs::read_dir(home.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let expected = ["", ".1", ".2", ".3", ".4"].map(|end| format!("audit.jsonl{end}"));
        assert_eq!(names, expected);
        let newest = fs::read_to_string(&path).unwrap();
        let last: serde_json::Value = serde_json::from_str(newest.lines().last().unwrap()).unwrap();
        assert_eq!((&last["status"], &last["by"]), (&299.into(), &"ci".into()));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(
            fs::metadata(home.path().join("audit.jsonl.4"))
                .unwrap()
                .len()
                <= 2 * line
        );
    }
}
