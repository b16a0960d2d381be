//! Who dies when the guest runs out of memory: commands, and never the agent, whose end would be the
//! guest's.

use std::fs::{File, OpenOptions};
use std::io::Write;

use crate::console::say;

/// A process that has this is never chosen. Children inherit it.
const NEVER: &[u8] = b"-1000";
const ORDINARY: &[u8] = b"0";

/// The agent's own score.
#[derive(Debug)]
pub(crate) struct OomScore(Option<File>);

impl OomScore {
    /// Takes the agent out of the choice.
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

    /// Does `start`, whose children are chosen like any process. For that moment, so is the agent.
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
