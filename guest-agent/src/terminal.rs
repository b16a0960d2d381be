//! A command's pseudo-terminal.
//!
//! A program that is to have a controlling terminal has to lead a session, and only a process itself
//! can begin one. So the agent starts itself for a moment: in the new process it begins the session,
//! takes the terminal, and becomes the program.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use ironclaw_protocol::message::TerminalSize;
use rustix::fs::{Mode, Uid, fchmod, fchown};
use rustix::io::ioctl_fionbio;
use rustix::process::{ioctl_tiocsctty, setsid};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{InputModes, OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

use crate::account::Account;
use crate::console::say;

/// The agent's own option for the process that becomes the program.
pub(crate) const TAKE_OVER: &str = "--take-terminal";

/// The agent's program, wherever it is, or was.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Exit codes of shells for a program that is not there, and one that can't be run.
const NOT_FOUND: u8 = 127;
const CANNOT_RUN: u8 = 126;

/// Permissions of a user's terminal, as a login gives it.
const TERMINAL_MODE: u32 = 0o620;

/// Opens a terminal of this user: the agent's end, which is non-blocking, and the command's.
pub(crate) fn open(size: TerminalSize, account: Option<&Account>) -> io::Result<(File, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    let mut modes = tcgetattr(&theirs)?;
    modes.input_modes |= InputModes::IUTF8;
    tcsetattr(&theirs, OptionalActions::Now, &modes)?;
    if let Some(account) = account {
        fchown(&theirs, Some(Uid::from_raw(account.uid)), None)?;
        fchmod(&theirs, Mode::from_raw_mode(TERMINAL_MODE))?;
    }
    ioctl_fionbio(&ours, true)?;
    let ours = File::from(ours);
    resize(&ours, size)?;
    Ok((ours, theirs))
}

/// Returns the name by which processes have the command's end open.
pub(crate) fn name(ours: &File) -> io::Result<PathBuf> {
    let name = ptsname(ours, Vec::new())?;
    Ok(OsString::from_vec(name.into_bytes()).into())
}

/// Sets the size.
pub(crate) fn resize(terminal: &File, size: TerminalSize) -> io::Result<()> {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(terminal, size)?)
}

/// Returns the command that takes over the terminal on its standard input and becomes `program`,
/// called `name`, with the arguments that are added.
pub(crate) fn taken_over_by(program: &Path, name: &OsStr) -> Command {
    let mut command = Command::new(OWN_PROGRAM);
    command.arg(TAKE_OVER).arg(program).arg(name);
    command
}

/// Does that in the new process. Its failure shows on the terminal, as with a shell.
pub(crate) fn take_over(program: &OsStr, name: &OsStr, arguments: &[&OsString]) -> ExitCode {
    let taken = setsid().and_then(|_| ioctl_tiocsctty(std::io::stdin()));
    if let Err(error) = taken {
        say(format_args!("take the terminal over: {error}"));
        return ExitCode::from(CANNOT_RUN);
    }
    let error = Command::new(program).arg0(name).args(arguments).exec();
    say(format_args!("run {}: {error}", name.display()));
    ExitCode::from(match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => CANNOT_RUN,
    })
}
