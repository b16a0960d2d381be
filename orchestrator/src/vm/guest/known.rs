//! The commands known to a guest, whoever started them.

use std::ffi::OsString;
use std::fmt;
use std::num::ParseIntError;
use std::os::unix::ffi::OsStringExt as _;
use std::str::FromStr;

use ironclaw_protocol::message::{CommandEnd, CommandInfo, ExecId};
use serde::Serialize;

use super::command::ExitStatus;
use super::error::GuestError;
use super::inbox::Position;
use crate::vm::exit_reason::ExitReason;

/// The id of a command in its guest, and in every copy of that. Its text has 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub(super) ExecId);

impl fmt::Debug for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommandId({self})")
    }
}

impl CommandId {
    /// Creates an id that no other command has.
    pub(super) fn draw() -> Result<Self, GuestError> {
        getrandom::u64()
            .map(|number| Self(ExecId(number)))
            .map_err(|error| {
                let what = format!("the host has no random number for it: {error}");
                GuestError::closed(ExitReason::Host(what))
            })
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0.0)
    }
}

impl FromStr for CommandId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(|number| Self(ExecId(number)))
    }
}

impl Serialize for CommandId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A command that runs in a guest, or has ended there without its end being asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KnownCommand {
    /// Its id in the guest.
    pub id: CommandId,
    /// The PID of its main process, in the guest.
    pub pid: u32,
    /// The first 128 bytes of its program's name, as reported by the guest, which may report
    /// anything.
    pub program: OsString,
    /// Its [tag](super::Command::tag).
    pub tag: OsString,
    /// Whether it continues without a listener: see [`Command::keep`](super::Command::keep).
    pub keep: bool,
    /// Whether it has a listener.
    pub attached: bool,
    /// The end of what it has printed until then, for
    /// [`Guest::attach_from`](super::Guest::attach_from) to skip that.
    pub printed: Position,
    /// Its end, if it has ended.
    pub end: Option<ExitStatus>,
}

impl From<CommandInfo> for KnownCommand {
    fn from(info: CommandInfo) -> Self {
        Self {
            id: CommandId(info.exec),
            pid: info.pid,
            program: OsString::from_vec(info.program.as_bytes().to_vec()),
            tag: OsString::from_vec(info.tag.as_bytes().to_vec()),
            printed: Position {
                stdout: info.stdout.to,
                stderr: info.stderr.to,
            },
            keep: info.keep,
            attached: info.attached,
            end: info.end.map(|end| match end {
                CommandEnd::Exited(code) => ExitStatus::Code(code),
                CommandEnd::Signaled(signal) => ExitStatus::Signal(signal),
                CommandEnd::TimedOut => ExitStatus::TimedOut,
                CommandEnd::Cancelled => ExitStatus::Signal(9),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written() {
        for number in [0, 1, 0xdead_beef, u64::MAX] {
            let id = CommandId(ExecId(number));
            assert_eq!(id.to_string().len(), 16);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        assert!("".parse::<CommandId>().is_err() && "x".parse::<CommandId>().is_err());
    }
}
