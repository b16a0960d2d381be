//! What is said of a run when it is over.

use anyhow::Result;
use ironclaw_console::guest_io::{Ended, Sink};
use ironclaw_console::output::{self, milliseconds};
use ironclaw_console::progress;
use ironclaw_orchestrator::vm::{ExitStatus, Origin};
use serde::Serialize;

use super::times::Times;
use crate::args::Run;
use crate::exit::Code;
use crate::failure;
use crate::printed::Output;

#[derive(Debug, Serialize)]
struct Report {
    exit_code: u8,
    signal: Option<i32>,
    timed_out: bool,
    /// Whether the guest ran out of memory and its kernel killed a process of the command for that.
    out_of_memory: bool,
    #[serde(flatten)]
    output: Output,
    origin: Origin,
    timings_ms: Times,
}

/// Returns where the command's output goes.
pub(super) fn sink(json: bool) -> Result<Sink> {
    match json {
        true => Ok(Sink::memory()),
        false => Sink::streams(),
    }
}

/// A run that is over.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) result: Result<Ended>,
    pub(super) sink: Sink,
    pub(super) origin: Origin,
    pub(super) times: Times,
    /// The guest's memory.
    pub(super) memory_mib: u32,
}

impl Done {
    /// Says how it ended; returns its exit code.
    pub(super) fn tell(self, run: &Run) -> Result<u8> {
        let Self {
            result,
            sink,
            origin,
            times,
            memory_mib,
        } = self;
        if let (true, Ok(Ended { status, .. })) = (run.verbose, &result) {
            progress::note(&format!(
                "command: {status} after {:.1} ms",
                milliseconds(times.command)
            ));
        }
        let output = sink.collected().map(|(out, err)| Output::new(out, err));
        let Ended {
            status,
            out_of_memory,
            unconfirmed,
        } = match (result, &output) {
            (Ok(ended), _) => ended,
            (Err(error), None) => return Err(error),
            (Err(error), Some(_)) => {
                let output = output.unwrap_or_else(|| Output::new(Vec::new(), Vec::new()));
                return Ok(failure::tell_beside(output, &error));
            }
        };
        if let Some(output) = output {
            output::json(&Report {
                exit_code: code(status),
                signal: match status {
                    ExitStatus::Signal(signal) => Some(signal),
                    _ => None,
                },
                timed_out: status == ExitStatus::TimedOut,
                out_of_memory,
                output,
                origin,
                timings_ms: times,
            })?;
            return Ok(code(status));
        }
        if out_of_memory {
            progress::note(&format!(
                "{}: its kernel killed a process of the command",
                out_of(memory_mib)
            ));
        }
        if let (ExitStatus::TimedOut, Some(limit)) = (status, run.timeout) {
            let limit = humantime::format_duration(limit);
            progress::note(&if unconfirmed {
                format!(
                    "the command's time limit of {limit} was over, and the guest did not end \
                     it within a second more: its VM was killed"
                )
            } else {
                format!("the command was killed after its time limit of {limit}")
            });
        }
        Ok(code(status))
    }
}

/// Returns the text about a guest's lack of memory, with the setting.
pub(super) fn out_of(memory_mib: u32) -> String {
    format!("the guest ran out of its {memory_mib} MiB of memory (IRONCLAW_MEMORY_MIB)")
}

/// Returns the exit code for a command's end, as in shells; 255 for a signal that does not exist.
fn code(status: ExitStatus) -> u8 {
    match status {
        ExitStatus::Code(code) => code,
        // Linux has 64 signals; a guest may report any number.
        ExitStatus::Signal(signal) => u8::try_from(signal)
            .ok()
            .and_then(|n| n.checked_add(128))
            .unwrap_or(u8::MAX),
        ExitStatus::TimedOut => Code::TimedOut as u8,
        _ => Code::Failed as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_a_shell() {
        assert_eq!(code(ExitStatus::Code(3)), 3);
        assert_eq!(code(ExitStatus::Signal(9)), 137);
        assert_eq!(code(ExitStatus::TimedOut), 124);
    }

    #[test]
    fn a_signal_that_does_not_exist_is_still_a_failure() {
        for signal in [-1, 128, 1000, i32::MIN] {
            assert_eq!(code(ExitStatus::Signal(signal)), 255);
        }
    }
}
