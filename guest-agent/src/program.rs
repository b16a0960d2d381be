//! Finds the program of a command.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ironclaw_protocol::message::{Exec, FailureKind, Outcome};
use rustix::fs::{Access, access};

use crate::command::os;
use crate::failure::{failed, refused};

/// The environment of every command; a request's own environment is added.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// The variables, in place of the agent's own.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// The working directory of a command that names none.
    pub(crate) cwd: PathBuf,
}

impl Surroundings {
    /// Returns the working directory of `exec`, and checks that it exists.
    pub(crate) fn directory(&self, exec: &Exec) -> Result<PathBuf, Outcome> {
        let Some(cwd) = &exec.cwd else {
            return Ok(self.cwd.clone());
        };
        let attempt = format_args!("change to the working directory {cwd}");
        match std::fs::metadata(os(cwd)) {
            Ok(found) if found.is_dir() => Ok(os(cwd).into()),
            Ok(_) => Err(failed(
                FailureKind::NoSuchDirectory,
                format_args!("{attempt}: not a directory"),
            )),
            Err(error) => Err(refused(attempt, &error, FailureKind::NoSuchDirectory)),
        }
    }

    /// Finds the file to execute for `exec` as `execvp` does, but on the `PATH` that the command
    /// will have, and with an error that names what was looked for.
    pub(crate) fn program(&self, exec: &Exec, directory: &Path) -> Result<PathBuf, Outcome> {
        let name = exec.argv.first().map_or(OsStr::new(""), os);
        let missing = |reason: &dyn std::fmt::Display| {
            let attempt = format_args!("run {}: {reason}", name.display());
            failed(FailureKind::NotFound, attempt)
        };
        if name.as_bytes().contains(&b'/') {
            let path = directory.join(name);
            return match executable(&path) {
                Ok(()) => Ok(path),
                Err(error) => Err(refused(
                    format_args!("run {}", name.display()),
                    &error,
                    FailureKind::NotFound,
                )),
            };
        }
        let Some(path) = self.search_path(exec) else {
            return Err(missing(&"PATH is not set"));
        };
        let mut denied = None;
        for entry in path.as_bytes().split(|byte| *byte == b':') {
            let candidate = directory.join(OsStr::from_bytes(entry)).join(name);
            match executable(&candidate) {
                Ok(()) => return Ok(candidate),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    denied.get_or_insert((candidate, error));
                }
                Err(_) => {}
            }
        }
        Err(match denied {
            Some((candidate, error)) => refused(
                format_args!("run {}", candidate.display()),
                &error,
                FailureKind::NotFound,
            ),
            None => missing(&format_args!(
                "no such program on PATH ({})",
                path.display()
            )),
        })
    }

    fn search_path<'a>(&'a self, exec: &'a Exec) -> Option<&'a OsStr> {
        let requested = exec
            .env
            .iter()
            .rev()
            .find(|(name, _)| name.as_bytes() == b"PATH");
        let own = || {
            self.env
                .iter()
                .find(|(name, _)| name == "PATH")
                .map(|(_, path)| path)
        };
        requested
            .map(|(_, path)| os(path))
            .or_else(|| own().map(OsString::as_os_str))
    }
}

fn executable(path: &Path) -> io::Result<()> {
    access(path, Access::EXEC_OK)?;
    if path.metadata()?.is_file() {
        Ok(())
    } else {
        Err(rustix::io::Errno::ACCESS.into())
    }
}
