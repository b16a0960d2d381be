//! The lifecycle of a VM: which requests it accepts in which state, and in which order; rules
//! without I/O.
//!
//! ```text
//!             handed out          Pause
//!   Starting ───────────▶ Running ──────▶ Paused        either ──Checkpoint──▶ Checkpointing ──▶ the same
//!                            │ ▲  Resume    │
//!                            │ └────────────┤
//!                            ├──── Stop ────┘
//!                            ▼
//!                         Stopping
//!
//!   any state ── deadline, kill, or the VMM's own death ──▶ Gone
//! ```
//!
//! A VM does one thing at a time: other requests wait in a [`RequestQueue`]. A deadline is set at
//! once nevertheless, and a stop overtakes all waiting requests, which are then refused.

use std::collections::VecDeque;
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

use crate::vm::exit_reason::ExitReason;
use crate::vm::vmm::SavedFiles;

/// Limit of waiting requests. Each has a caller that waits.
const MAX_WAITING: usize = 16;

/// The state of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Not handed out yet.
    Starting,
    /// The guest runs.
    Running,
    /// The guest is held: it uses no processor time.
    Paused,
    /// The guest is held while a checkpoint of the VM is written.
    Checkpointing,
    /// The guest was asked to power off.
    Stopping,
    /// The VM is over.
    Gone(ExitReason),
}

/// A request to a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    /// Holds the guest.
    Pause,
    /// Releases the guest.
    Resume,
    /// Writes a checkpoint to these new files.
    Checkpoint(SavedFiles),
    /// Sets when the VM is killed; `None`: never.
    SetDeadline(Option<Instant>),
    /// Sets after which idle time the VM is ended; `None`: never.
    SetIdle(Option<Duration>),
    /// Asks the guest to power off; kills the VM if it has not after `grace`.
    Stop {
        /// The time for that.
        grace: Duration,
    },
}

/// The operation to execute for a request.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// None: nothing would change.
    Nothing,
    /// Hold the guest.
    Hold,
    /// Release the guest.
    Release,
    /// Write a checkpoint, and leave the VM as it was before.
    Checkpoint {
        /// New files to write it to.
        files: SavedFiles,
        /// Whether it is held.
        held: bool,
    },
    /// Set the deadline.
    SetDeadline(Option<Instant>),
    /// Set the limit of idle time.
    SetIdle(Option<Duration>),
    /// Ask the guest to power off; if it is held, release it first.
    ShutDown {
        /// Whether it is held.
        held: bool,
    },
}

impl Effect {
    /// Returns whether the machine is busy with it until [`finished`](RequestQueue::finished) is
    /// called.
    fn is_work(&self) -> bool {
        match self {
            Self::Hold | Self::Release | Self::Checkpoint { .. } | Self::ShutDown { .. } => true,
            Self::Nothing | Self::SetDeadline(_) | Self::SetIdle(_) => false,
        }
    }
}

/// The reason why a VM refuses a request.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Denied {
    /// It is not handed out yet.
    #[error("the VM is being started")]
    Starting,
    /// It is being stopped.
    #[error("the VM is being stopped")]
    Stopping,
    /// It is over.
    #[error("{0}")]
    Gone(ExitReason),
    /// Too many requests are waiting.
    #[error("the VM is busy: {MAX_WAITING} requests wait for it already")]
    Busy,
}

/// Decides whether a VM in `state` that is not busy accepts `request`; returns the operation to
/// execute.
///
/// # Errors
/// The reason of a refusal.
pub(crate) fn admit(state: &State, request: Request) -> Result<Effect, Denied> {
    use Request::{Checkpoint, Pause, Resume, SetDeadline, SetIdle, Stop};
    Ok(match (state, request) {
        (State::Gone(reason), _) => return Err(Denied::Gone(reason.clone())),
        (_, SetDeadline(at)) => Effect::SetDeadline(at),
        (_, SetIdle(limit)) => Effect::SetIdle(limit),
        (State::Starting, _) => return Err(Denied::Starting),
        // It waits in the queue until that is written.
        (State::Checkpointing, _) => return Err(Denied::Busy),
        (State::Running, Checkpoint(files)) => Effect::Checkpoint { files, held: false },
        (State::Paused, Checkpoint(files)) => Effect::Checkpoint { files, held: true },
        (State::Running, Pause) => Effect::Hold,
        (State::Paused, Resume) => Effect::Release,
        (State::Running, Stop { .. }) => Effect::ShutDown { held: false },
        (State::Paused, Stop { .. }) => Effect::ShutDown { held: true },
        (State::Running, Resume) | (State::Paused, Pause) | (State::Stopping, Stop { .. }) => {
            Effect::Nothing
        }
        (State::Stopping, Pause | Resume | Checkpoint(_)) => return Err(Denied::Stopping),
    })
}

/// The decision on a request, which its `token` identifies.
#[must_use]
#[derive(Debug)]
pub(crate) enum Verdict<T> {
    /// Execute this for it.
    Do(Effect, T),
    /// Refuse it.
    Refuse(Denied, T),
}

/// The requests to a VM while it is busy.
#[derive(Debug)]
pub(crate) struct RequestQueue<T> {
    waiting: VecDeque<(Request, T)>,
    /// Whether an operation is under way.
    working: bool,
}

impl<T> Default for RequestQueue<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            working: false,
        }
    }
}

impl<T> RequestQueue<T> {
    /// Takes a request; returns the decisions on it and on earlier ones. There is none for requests
    /// that wait.
    pub(crate) fn offer(&mut self, state: &State, request: Request, token: T) -> Vec<Verdict<T>> {
        let is_at_once = matches!(request, Request::SetDeadline(_) | Request::SetIdle(_));
        if !self.working || is_at_once {
            return vec![self.judge(state, request, token)];
        }
        let is_stop = |request: &Request| matches!(request, Request::Stop { .. });
        if self.waiting.iter().any(|(other, _)| is_stop(other)) {
            return vec![match request {
                Request::Stop { .. } => Verdict::Do(Effect::Nothing, token),
                _ => Verdict::Refuse(Denied::Stopping, token),
            }];
        }
        if is_stop(&request) {
            let refused = self.waiting.drain(..);
            let verdicts = refused.map(|(_, token)| Verdict::Refuse(Denied::Stopping, token));
            let verdicts = verdicts.collect();
            self.waiting.push_back((request, token));
            return verdicts;
        }
        if self.waiting.len() >= MAX_WAITING {
            return vec![Verdict::Refuse(Denied::Busy, token)];
        }
        self.waiting.push_back((request, token));
        Vec::new()
    }

    /// Records the end of an operation, after which the VM is in `state`; returns the next
    /// decisions.
    pub(crate) fn finished(&mut self, state: &State) -> Vec<Verdict<T>> {
        self.working = false;
        let mut verdicts = Vec::new();
        while !self.working
            && let Some((request, token)) = self.waiting.pop_front()
        {
            verdicts.push(self.judge(state, request, token));
        }
        verdicts
    }

    fn judge(&mut self, state: &State, request: Request, token: T) -> Verdict<T> {
        match admit(state, request) {
            Ok(effect) => {
                self.working |= effect.is_work();
                Verdict::Do(effect, token)
            }
            Err(denied) => Verdict::Refuse(denied, token),
        }
    }
}

/// The default of the time that a guest has to power off.
pub const STOP_GRACE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
