//! The task of a running command.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use ironclaw_protocol::limits::MAX_CHUNK;
use ironclaw_protocol::message::{CommandEnd, Stream};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// MiB that `dirty` writes in one turn.
const DIRTY_STEP: u32 = 16;

/// The work of a command.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Prints a fixed text.
    Print {
        on_stderr: bool,
        text: Vec<u8>,
        sent: usize,
        code: u8,
    },
    /// Prints its input.
    Copy { held: VecDeque<u8> },
    /// Waits for a time of [`Machine::uptime`].
    Sleep { until: Duration },
    /// Prints that many bytes, which count up from 0 and restart after 250, so that a missing or
    /// repeated piece is noticed.
    Flood { sent: u64, total: u64 },
    /// Prints the next number each time, for ever.
    Count {
        next: u64,
        every: Duration,
        due: Duration,
    },
    /// Writes to that part of the spare memory, in MiB.
    Dirty { next: u32, end: u32 },
}

impl Work {
    pub(crate) fn print(stream: Stream, text: Vec<u8>, code: u8) -> Self {
        Self::Print {
            on_stderr: stream == Stream::Stderr,
            text,
            sent: 0,
            code,
        }
    }

    /// Returns the remaining work of a guest that was stopped at `then` and continues at `now` of
    /// another clock.
    fn moved(&mut self, then: Duration, now: Duration) {
        if let Self::Sleep { until: at } | Self::Count { due: at, .. } = self {
            *at = now + at.saturating_sub(then);
        }
    }
}

/// A running command.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Task {
    work: Work,
    /// The time at which to kill it.
    deadline: Option<Duration>,
    /// Whether its content has ended.
    input_ended: bool,
    /// Whether the host wants to know when it waits for content.
    reader_awaited: bool,
}

/// How far a turn brought a task.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Advance {
    /// It waits for the host or the clock.
    Waiting,
    /// It did something invisible, and may have more to do.
    Worked,
    /// It wrote something, and took that many bytes of its input.
    Wrote(Stream, Vec<u8>, usize),
    /// It waits for content, which the host wanted to know.
    WaitsForContent,
    /// It has ended.
    Ended(CommandEnd),
}

impl Task {
    /// Creates a task, with content from `Data` and `Eof` if `input` is set.
    pub(crate) fn new(work: Work, input: bool, deadline: Option<Duration>) -> Self {
        Self {
            work,
            deadline,
            input_ended: !input,
            reader_awaited: false,
        }
    }

    /// Adds content from the host.
    pub(crate) fn content(&mut self, bytes: &[u8]) {
        // The others do not read: their content fills its window and stays there.
        if let Work::Copy { held } = &mut self.work {
            held.extend(bytes);
        }
    }

    /// Records that the host wants to know when it waits for content.
    pub(crate) fn await_reader(&mut self) {
        self.reader_awaited = true;
    }

    /// Ends the content.
    pub(crate) fn end_of_content(&mut self) {
        self.input_ended = true;
    }

    /// Returns when it needs a turn without an event.
    pub(crate) fn wakes_at(&self) -> Option<Duration> {
        let own = match self.work {
            Work::Sleep { until: at } | Work::Count { due: at, .. } => Some(at),
            _ => None,
        };
        [own, self.deadline].into_iter().flatten().min()
    }

    /// Adjusts to another clock.
    pub(crate) fn moved(&mut self, then: Duration, now: Duration) {
        self.work.moved(then, now);
        if let Some(deadline) = &mut self.deadline {
            *deadline = now + deadline.saturating_sub(then);
        }
    }

    /// Does a bounded piece of work, and writes no more than there is `room` for.
    pub(crate) fn step(
        &mut self,
        room: impl Fn(Stream) -> usize,
        machine: &mut dyn Machine,
    ) -> Advance {
        let now = machine.uptime();
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return Advance::Ended(CommandEnd::TimedOut);
        }
        let chunk = |left: usize, stream| left.min(MAX_CHUNK).min(room(stream));
        match &mut self.work {
            Work::Print {
                on_stderr,
                text,
                sent,
                code,
            } => {
                if *sent == text.len() {
                    return Advance::Ended(CommandEnd::Exited(*code));
                }
                let stream = if *on_stderr {
                    Stream::Stderr
                } else {
                    Stream::Stdout
                };
                let length = chunk(text.len() - *sent, stream);
                let bytes = text[*sent..*sent + length].to_vec();
                *sent += length;
                wrote(stream, bytes, 0)
            }
            Work::Copy { held } => {
                if held.is_empty() && self.input_ended {
                    return Advance::Ended(CommandEnd::Exited(0));
                }
                if held.is_empty() && core::mem::take(&mut self.reader_awaited) {
                    return Advance::WaitsForContent;
                }
                let length = chunk(held.len(), Stream::Stdout);
                wrote(Stream::Stdout, held.drain(..length).collect(), length)
            }
            Work::Flood { sent, total } => {
                if sent == total {
                    return Advance::Ended(CommandEnd::Exited(0));
                }
                let left = usize::try_from(*total - *sent).unwrap_or(usize::MAX);
                let start = *sent;
                *sent += chunk(left, Stream::Stdout) as u64;
                wrote(Stream::Stdout, (start..*sent).map(flood_byte).collect(), 0)
            }
            Work::Count { next, every, due } if *due <= now => {
                let line = format!("{next}\n").into_bytes();
                if room(Stream::Stdout) < line.len() {
                    return Advance::Waiting;
                }
                *next += 1;
                *due = now + *every;
                wrote(Stream::Stdout, line, 0)
            }
            Work::Sleep { until } if *until <= now => Advance::Ended(CommandEnd::Exited(0)),
            Work::Sleep { .. } | Work::Count { .. } => Advance::Waiting,
            Work::Dirty { next, end } if next == end => Advance::Ended(CommandEnd::Exited(0)),
            Work::Dirty { next, end } => {
                let stop = next.saturating_add(DIRTY_STEP).min(*end);
                (*next..stop).for_each(|index| machine.dirty_mebibyte(index));
                *next = stop;
                Advance::Worked
            }
        }
    }
}

fn wrote(stream: Stream, bytes: Vec<u8>, taken: usize) -> Advance {
    if bytes.is_empty() {
        Advance::Waiting
    } else {
        Advance::Wrote(stream, bytes, taken)
    }
}

fn flood_byte(position: u64) -> u8 {
    u8::try_from(position % 251).unwrap_or_default()
}
