//! Keeps the OOM killer from choosing the agent, whose end would be the guest's: commands are
//! chosen instead.

use std::fs::{File, OpenOptions};
use std::io::Write;

use crate::console::say;

/// The score of a process that is never chosen. Children inherit it.
const NEVER: &[u8] = b"-1000";
const ORDINARY: &[u8] = b"0";

/// The agent's own score.
#[derive(Debug)]
pub(crate) struct OomScore(Option<File>);

impl OomScore {
    /// Exempts the agent.
    pub(crate) fn never_chosen() -> Self {
        let path = "/proc/self/oom_score_adj";
        let opened = OpenOptions::new().write(true).open(path);
        let mut score = Self(
            opened
                .inspect_err(|error| say(format_args!("open {path}: {error}")))
                .ok(),
        );
        score.set(NEVER);
        score
    }

    /// Calls `start` with an ordinary score, which its children inherit. For that moment, the agent
    /// has it, too.
    pub(crate) fn ordinary_during<T>(&mut self, start: impl FnOnce() -> T) -> T {
        self.set(ORDINARY);
        let started = start();
        self.set(NEVER);
        started
    }

    fn set(&mut self, score: &[u8]) {
        if let Some(file) = &mut self.0
            && let Err(error) = file.write_all(score)
        {
            say(format_args!("set the agent's OOM score: {error}"));
        }
    }
}
