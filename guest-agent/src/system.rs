//! What the agent does to the system it runs on, and what only the real guest allows.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use ironclaw_protocol::message::{FailureKind, Outcome, Restored, UnixTime};
use rustix::io::Errno;
use rustix::mount::mount_bind;
use rustix::system::sethostname;
use rustix::time::{ClockId, Timespec, clock_settime};
use thiserror::Error;

use crate::control_group::{ControlGroup, ControlGroups};
use crate::failure::{failed, refused};
use crate::identity::{self, IdentityError};
use crate::oom_score::OomScore;
use crate::random;

/// What becoming oneself after a restore means here.
pub(crate) trait System {
    /// Puts the message into force, all of it, and gives the answer.
    fn become_clone(&mut self, restored: &Restored) -> Outcome;

    /// Starts a command, in a control group of its own where there are such.
    fn spawn(&mut self, command: &mut Command) -> (io::Result<Child>, Option<ControlGroup>);

    /// Does what the next command would have to wait for otherwise.
    fn prepare(&mut self) {}
}

/// An ordinary process on a system that belongs to somebody else.
#[derive(Debug)]
pub(crate) struct Bystander;

impl System for Bystander {
    fn become_clone(&mut self, _: &Restored) -> Outcome {
        failed(
            FailureKind::Invalid,
            "restore: this agent is not PID 1 of a guest, so the clock, the random generator and \
             the names of this system are not its to set",
        )
    }

    fn spawn(&mut self, command: &mut Command) -> (io::Result<Child>, Option<ControlGroup>) {
        (command.spawn(), None)
    }
}

/// The guest, of which the agent is PID 1.
#[derive(Debug)]
pub(crate) struct Guest {
    boot_id_mounted: bool,
    groups: ControlGroups,
    score: OomScore,
}

/// A step of becoming a clone that the kernel refused.
#[derive(Debug, Error)]
enum RestoreError {
    #[error("reseed the kernel's random generator")]
    Entropy(#[source] std::io::Error),
    #[error("set the clock to {} s", time.seconds)]
    Clock { time: UnixTime, source: Errno },
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("set the host name {name}")]
    Hostname { name: String, source: Errno },
    #[error("mount {} over {BOOT_ID}", path.display())]
    BootId { path: PathBuf, source: Errno },
}

impl RestoreError {
    fn os_error(&self) -> std::io::Error {
        let same = |error: &std::io::Error| {
            Errno::from_io_error(error).map_or_else(|| error.kind().into(), Into::into)
        };
        match self {
            Self::Entropy(source) => same(source),
            Self::Identity(error) => same(&error.source),
            Self::Clock { source, .. }
            | Self::Hostname { source, .. }
            | Self::BootId { source, .. } => (*source).into(),
        }
    }
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

impl System for Guest {
    fn become_clone(&mut self, restored: &Restored) -> Outcome {
        match self.restore(restored) {
            Ok(()) => Outcome::Restored,
            Err(error) => {
                debug_assert!(error.source().is_some());
                refused(&error, &error.os_error(), FailureKind::Io)
            }
        }
    }

    fn spawn(&mut self, command: &mut Command) -> (io::Result<Child>, Option<ControlGroup>) {
        let score = &mut self.score;
        self.groups
            .start(|| score.ordinary_during(|| command.spawn()))
    }

    fn prepare(&mut self) {
        self.groups.prepare();
    }
}

impl Guest {
    /// Of a system that is prepared, with all that has to be mounted.
    pub(crate) fn set_up() -> Self {
        Self {
            boot_id_mounted: false,
            groups: ControlGroups::set_up(),
            score: OomScore::never_chosen(),
        }
    }

    fn restore(&mut self, restored: &Restored) -> Result<(), RestoreError> {
        random::reseed(&restored.entropy).map_err(RestoreError::Entropy)?;
        set_clock(restored.unix_time).map_err(|source| RestoreError::Clock {
            time: restored.unix_time,
            source,
        })?;
        let name = &restored.identity.hostname;
        sethostname(name.as_bytes()).map_err(|source| RestoreError::Hostname {
            name: name.clone(),
            source,
        })?;
        let path = identity::write(Path::new("/"), &restored.identity)?;
        if !self.boot_id_mounted {
            mount_bind(&path, BOOT_ID).map_err(|source| RestoreError::BootId { path, source })?;
            self.boot_id_mounted = true;
        }
        Ok(())
    }
}

fn set_clock(time: UnixTime) -> Result<(), Errno> {
    let seconds = i64::try_from(time.seconds).map_err(|_| Errno::INVAL)?;
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: time.nanos.into(),
    };
    clock_settime(ClockId::Realtime, time)
}
