//! One open request: what is left to do, and how much may be sent in each direction.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use ironclaw_protocol::limits::{MAX_CHUNK, WINDOW};
use ironclaw_protocol::message::{
    Failure, FailureKind, Outcome, RequestId, Stream, ToHost, bounded_text,
};

use crate::files::File;
use crate::guest::Guest;
use crate::session::Outbox;

/// MiB that `dirty` writes before other requests get their turn.
const DIRTY_STEP: u32 = 16;

/// What a request does.
#[derive(Debug)]
pub(crate) enum Work {
    /// Sends what is already known.
    Print {
        stream: Stream,
        text: Vec<u8>,
        sent: usize,
        outcome: Outcome,
    },
    /// Sends back what comes in.
    Copy { held: VecDeque<u8> },
    /// Waits for a moment of [`Machine::uptime`](crate::guest::Machine::uptime).
    Sleep { until: Duration },
    /// Sends that many bytes, counting up from 0 and starting again after 250, so that a reader
    /// notices a missing or repeated piece.
    Flood { sent: u64, total: u64 },
    /// Writes to that part of the spare memory, in MiB.
    Dirty { next: u32, end: u32 },
    /// Collects a file.
    Receive { path: String, file: File },
}

impl Work {
    pub(crate) fn print(stream: Stream, text: Vec<u8>, outcome: Outcome) -> Self {
        Self::Print {
            stream,
            text,
            sent: 0,
            outcome,
        }
    }
}

/// What came of giving a task its turn.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It waits for the host or for the clock.
    Waiting,
    /// It did something and may have more to do.
    Worked,
    /// It is over.
    Ended(Outcome),
}

/// An open request.
#[derive(Debug)]
pub(crate) struct Task {
    work: Work,
    /// When the host wants it killed.
    deadline: Option<Duration>,
    /// Bytes that the host will still take.
    output_credit: u32,
    /// Bytes that the host may still send.
    input_credit: u32,
    /// No more content comes.
    input_ended: bool,
    /// The host wants to be told when it waits for content.
    reader_awaited: bool,
}

impl Task {
    /// A task whose content comes as `Data` and `Eof` if `input` says so.
    pub(crate) fn new(work: Work, input: bool, deadline: Option<Duration>) -> Self {
        Self {
            work,
            deadline,
            output_credit: WINDOW,
            input_credit: WINDOW,
            input_ended: !input,
            reader_awaited: false,
        }
    }

    /// Takes content from the host.
    ///
    /// # Errors
    /// Says how the host broke the protocol.
    pub(crate) fn content(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        if self.input_ended {
            return Err("content for a request that takes no more");
        }
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.input_credit = self
            .input_credit
            .checked_sub(length)
            .ok_or("more content than there was credit")?;
        match &mut self.work {
            Work::Copy { held } => held.extend(bytes),
            Work::Receive { file, .. } => file.content.extend_from_slice(bytes),
            // The others do not read: their content fills its window and stays there.
            _ => {}
        }
        Ok(())
    }

    /// The host wants to be told when it waits for content.
    pub(crate) fn await_reader(&mut self) {
        self.reader_awaited = true;
    }

    /// Takes the end of the content.
    pub(crate) fn end_of_content(&mut self) {
        self.input_ended = true;
    }

    /// Takes credit from the host.
    ///
    /// # Errors
    /// Says how the host broke the protocol.
    pub(crate) fn credit(&mut self, bytes: u32) -> Result<(), &'static str> {
        let sum = self.output_credit.checked_add(bytes);
        self.output_credit = sum.ok_or("more credit than can be counted")?;
        Ok(())
    }

    /// Whether a signal may end it: files are not processes.
    pub(crate) fn is_command(&self) -> bool {
        !matches!(
            self.work,
            Work::Receive { .. }
                | Work::Print {
                    stream: Stream::File,
                    ..
                }
        )
    }

    /// When it needs a turn even if nothing comes from the host.
    pub(crate) fn wakes_at(&self) -> Option<Duration> {
        let own = if let Work::Sleep { until } = self.work {
            Some(until)
        } else {
            None
        };
        [own, self.deadline].into_iter().flatten().min()
    }

    /// Does a bounded piece of the work.
    pub(crate) fn step(
        &mut self,
        id: RequestId,
        guest: &mut Guest,
        outbox: &mut Outbox,
    ) -> Progress {
        if self
            .deadline
            .is_some_and(|deadline| deadline <= guest.machine.uptime())
        {
            return Progress::Ended(Outcome::TimedOut);
        }
        match &mut self.work {
            Work::Print {
                stream,
                text,
                sent,
                outcome,
            } => {
                if *sent == text.len() {
                    return Progress::Ended(outcome.clone());
                }
                let length = chunk(text.len() - *sent, self.output_credit, outbox);
                if length == 0 {
                    return Progress::Waiting;
                }
                let bytes = text[*sent..*sent + length].to_vec();
                *sent += length;
                let stream = *stream;
                self.send(id, stream, bytes, outbox)
            }
            Work::Copy { held } => {
                if held.is_empty() && self.input_ended {
                    return Progress::Ended(Outcome::Exited(0));
                }
                if held.is_empty() && core::mem::take(&mut self.reader_awaited) {
                    outbox.push(&ToHost::ReaderWaits { id });
                }
                let length = chunk(held.len(), self.output_credit, outbox);
                if length == 0 {
                    return Progress::Waiting;
                }
                let bytes = held.drain(..length).collect::<Vec<_>>();
                self.send_on(id, bytes, outbox)
            }
            Work::Flood { sent, total } => {
                if sent == total {
                    return Progress::Ended(Outcome::Exited(0));
                }
                let left = usize::try_from(*total - *sent).unwrap_or(usize::MAX);
                let length = chunk(left, self.output_credit, outbox);
                if length == 0 {
                    return Progress::Waiting;
                }
                let start = *sent;
                *sent += length as u64;
                let bytes = (start..*sent).map(flood_byte).collect();
                self.send(id, Stream::Stdout, bytes, outbox)
            }
            Work::Sleep { until } if *until <= guest.machine.uptime() => {
                Progress::Ended(Outcome::Exited(0))
            }
            Work::Sleep { .. } => Progress::Waiting,
            Work::Dirty { next, end } if next == end => Progress::Ended(Outcome::Exited(0)),
            Work::Dirty { next, end } => {
                let stop = next.saturating_add(DIRTY_STEP).min(*end);
                (*next..stop).for_each(|index| guest.machine.dirty_mebibyte(index));
                *next = stop;
                Progress::Worked
            }
            Work::Receive { path, file } => {
                if file.content.len() > guest.files.room_for(path) {
                    return Progress::Ended(failed(FailureKind::NoSpace, path));
                }
                if self.input_ended {
                    let bytes = file.content.len() as u64;
                    let file = File {
                        mode: file.mode,
                        content: core::mem::take(&mut file.content),
                    };
                    return Progress::Ended(match guest.files.put(path, file) {
                        Ok(()) => Outcome::FileWritten { bytes },
                        Err(kind) => failed(kind, path),
                    });
                }
                self.return_credit(id, outbox)
            }
        }
    }

    fn send(
        &mut self,
        id: RequestId,
        stream: Stream,
        bytes: Vec<u8>,
        outbox: &mut Outbox,
    ) -> Progress {
        self.output_credit -= u32::try_from(bytes.len()).unwrap_or(self.output_credit);
        outbox.push(&ToHost::Data { id, stream, bytes });
        Progress::Worked
    }

    /// Sends what came from the host, and gives the credit for it back.
    fn send_on(&mut self, id: RequestId, bytes: Vec<u8>, outbox: &mut Outbox) -> Progress {
        let length = u32::try_from(bytes.len()).unwrap_or(0);
        self.send(id, Stream::Stdout, bytes, outbox);
        if !self.input_ended {
            self.input_credit += length;
            outbox.push(&ToHost::Credit { id, bytes: length });
        }
        Progress::Worked
    }

    /// Gives back all credit for content that was taken; waits until it is worth a message.
    fn return_credit(&mut self, id: RequestId, outbox: &mut Outbox) -> Progress {
        let bytes = WINDOW - self.input_credit;
        if bytes < WINDOW / 4 {
            return Progress::Waiting;
        }
        self.input_credit = WINDOW;
        outbox.push(&ToHost::Credit { id, bytes });
        Progress::Worked
    }
}

/// How many of `left` bytes may be sent now.
fn chunk(left: usize, credit: u32, outbox: &Outbox) -> usize {
    if outbox.is_full() {
        0
    } else {
        left.min(MAX_CHUNK).min(credit as usize)
    }
}

fn flood_byte(position: u64) -> u8 {
    u8::try_from(position % 251).unwrap_or_default()
}

/// A failure about a file.
pub(crate) fn failed(kind: FailureKind, path: &str) -> Outcome {
    let what = match kind {
        FailureKind::NotFound => "does not exist",
        FailureKind::NoSuchDirectory => "is in a directory that does not exist",
        FailureKind::NoSpace => "does not fit into the guest's memory for files",
        _ => "is not a regular file",
    };
    Outcome::Failed(Failure {
        kind,
        message: bounded_text(alloc::format!("{path} {what}")),
    })
}
