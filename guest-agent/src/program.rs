//! Finds the program of a command, and what it runs in.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ironclaw_protocol::message::{Exec, FailureKind, Inherited, Outcome};
use rustix::fs::{Access, access};

use crate::account::Account;
use crate::failure::{failed, refused};
use crate::os_str::os;
use crate::overlay::Overlay;

/// The environment of every command; a request's own environment is added.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// The variables, in place of the agent's own.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// The working directory of a command that names none.
    pub(crate) cwd: PathBuf,
    /// The layers of the root, if it is on a disk.
    pub(crate) overlay: Option<Overlay>,
}

/// The locale of a command that names none: programs print any name, and translate nothing.
const LANG: (&str, &str) = ("LANG", "C.UTF-8");

/// The kind of a terminal that nobody names.
const TERM: (&str, &str) = ("TERM", "xterm");

impl Surroundings {
    /// Returns the environment of `exec`: what it inherits, and its own in front.
    pub(crate) fn environment(
        &self,
        exec: &Exec,
        account: Option<&Account>,
    ) -> BTreeMap<OsString, OsString> {
        let mut env = match exec.inherited {
            Inherited::Nothing => BTreeMap::new(),
            Inherited::All | Inherited::Except(_) => self.inherited(exec, account),
        };
        for name in exec.inherited.removed() {
            env.remove(os(name));
        }
        let own = exec.env.iter();
        env.extend(own.map(|(name, value)| (os(name).to_owned(), os(value).to_owned())));
        env
    }

    /// Returns the guest's environment for `exec`, and in front that of a login.
    fn inherited(&self, exec: &Exec, account: Option<&Account>) -> BTreeMap<OsString, OsString> {
        let mut env = BTreeMap::from([LANG].map(|(name, value)| (name.into(), value.into())));
        if exec.terminal.is_some() {
            env.insert(TERM.0.into(), TERM.1.into());
        }
        env.extend(self.env.iter().cloned());
        let of_login = account.map(Account::variables);
        let of_login = of_login.into_iter().flatten();
        env.extend(of_login.map(|(name, value)| (name.into(), value.to_owned())));
        env
    }

    /// Returns the working directory of `exec`, and checks that it exists. It is the home of a
    /// user who was asked for, if there is one that the user may enter.
    pub(crate) fn directory(
        &self,
        exec: &Exec,
        account: Option<&Account>,
    ) -> Result<PathBuf, Outcome> {
        let Some(cwd) = &exec.cwd else {
            let home = account.map(|account| {
                let home = account.home();
                let enters = access(home, Access::EXEC_OK).is_ok() && home.is_dir();
                if enters { home } else { Path::new("/") }
            });
            return Ok(home.unwrap_or(&self.cwd).to_owned());
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

    /// Finds the file to execute for `exec` as `execvp` does, but on the `PATH` of the command's own
    /// environment, or the guest's if that has none, and with an error that names what was looked for.
    pub(crate) fn find(
        &self,
        exec: &Exec,
        env: &BTreeMap<OsString, OsString>,
        directory: &Path,
    ) -> Result<PathBuf, Outcome> {
        let name = exec.program().map_or(OsStr::new(""), os);
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
        let Some(path) = env.get(OsStr::new("PATH")).or(self.path()) else {
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

    fn path(&self) -> Option<&OsString> {
        let mut own = self.env.iter();
        own.find(|(name, _)| name == "PATH").map(|(_, path)| path)
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
