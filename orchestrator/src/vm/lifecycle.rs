//! What a VM may be asked in which state, and in which order: rules without I/O.
//!
//! ```text
//!             handed out          Pause
//!   Starting ───────────▶ Running ──────▶ Paused
//!                            │ ▲  Resume    │
//!                            │ └────────────┤
//!                            ├──── Stop ────┘
//!                            ▼
//!                         Stopping
//!
//!   any state ── deadline, kill, or the VMM's own death ──▶ Gone
//! ```
//!
//! A VM does one thing at a time: what is asked meanwhile waits in a [`RequestQueue`]. A deadline is
//! set at once all the same, and a stop comes before all that waits, which is refused then.

use std::collections::VecDeque;
use std::time::Duration;

use thiserror::Error;
use tokio::time::Instant;

use crate::vm::exit_reason::ExitReason;

/// Requests that may wait for a VM. Each is somebody's, who waits with it.
const MAX_WAITING: usize = 16;

/// What a VM is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It is not handed out yet.
    Starting,
    /// Its guest runs.
    Running,
    /// Its guest is held: it takes no processor time.
    Paused,
    /// Its guest was asked to power off.
    Stopping,
    /// It is over.
    Gone(ExitReason),
}

/// What can be asked of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Hold the guest.
    Pause,
    /// Let it go on.
    Resume,
    /// Kill the VM then, and no sooner; `None`: never.
    SetDeadline(Option<Instant>),
    /// End it when nothing was under way in it for so long; `None`: never.
    SetIdle(Option<Duration>),
    /// Ask the guest to power off, and kill the VM if it has not after the grace.
    Stop {
        /// How long it may take.
        grace: Duration,
    },
}

/// What is to be done for a request.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It is so already.
    Nothing,
    /// The guest is to be held.
    Hold,
    /// The guest is to go on.
    Release,
    /// The deadline is another one.
    SetDeadline(Option<Instant>),
    /// The limit on idleness is another one.
    SetIdle(Option<Duration>),
    /// The guest is to be asked to power off, and to be released first if it is held.
    ShutDown {
        /// Whether it is.
        held: bool,
    },
}

impl Effect {
    /// Whether the machine is busy with it until it is told to have [finished](RequestQueue::finished).
    fn is_work(self) -> bool {
        match self {
            Self::Hold | Self::Release | Self::ShutDown { .. } => true,
            Self::Nothing | Self::SetDeadline(_) | Self::SetIdle(_) => false,
        }
    }
}

/// Why a VM does not do what it is asked.
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
    /// Too much waits for it already.
    #[error("the VM is busy: {MAX_WAITING} requests wait for it already")]
    Busy,
}

/// Whether a VM in `state` that does nothing else takes `request`, and what is to be done for it.
///
/// # Errors
/// Why not.
pub(crate) fn admit(state: &State, request: Request) -> Result<Effect, Denied> {
    use Request::{Pause, Resume, SetDeadline, SetIdle, Stop};
    Ok(match (state, request) {
        (State::Gone(reason), _) => return Err(Denied::Gone(reason.clone())),
        (_, SetDeadline(at)) => Effect::SetDeadline(at),
        (_, SetIdle(limit)) => Effect::SetIdle(limit),
        (State::Starting, _) => return Err(Denied::Starting),
        (State::Running, Pause) => Effect::Hold,
        (State::Paused, Resume) => Effect::Release,
        (State::Running, Stop { .. }) => Effect::ShutDown { held: false },
        (State::Paused, Stop { .. }) => Effect::ShutDown { held: true },
        (State::Running, Resume) | (State::Paused, Pause) | (State::Stopping, Stop { .. }) => {
            Effect::Nothing
        }
        (State::Stopping, Pause | Resume) => return Err(Denied::Stopping),
    })
}

/// What becomes of a request, which is known by its `token`.
#[must_use]
#[derive(Debug)]
pub(crate) enum Verdict<T> {
    /// This is to be done for it.
    Do(Effect, T),
    /// Nothing is.
    Refuse(Denied, T),
}

/// What was asked of a VM while it was busy.
#[derive(Debug)]
pub(crate) struct RequestQueue<T> {
    waiting: VecDeque<(Request, T)>,
    /// Whether the machine does something.
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
    /// Something is asked; what becomes of that, and of what waited before. Nothing is said of what
    /// waits (any more).
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

    /// The machine has done what it was to do, and the VM is in `state`: what is next.
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

/// How long a guest that was asked to stop may take if nobody says otherwise.
pub const STOP_GRACE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
