//! The agent's effects on its system, most of which only a real guest allows.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use ironclaw_protocol::message::{FailureKind, Outcome, SetIdentity, UnixTime};
use rustix::io::Errno;
use rustix::mount::mount_bind;
use rustix::system::sethostname;
use rustix::time::{ClockId, Timespec, clock_settime};
use thiserror::Error;

use crate::account::Account;
use crate::control_group::{ControlGroup, ControlGroups};
use crate::credentials::as_user;
use crate::failure::{failed, refused};
use crate::identity::{self, IdentityError};
use crate::oom_score::OomScore;
use crate::random;

/// The system that the agent runs on.
pub(crate) trait System {
    /// Applies the identity completely, and returns the answer.
    fn set_identity(&mut self, new: &SetIdentity) -> Outcome;

    /// Starts a command as this user, or as the agent's own; in a control group of its own if there
    /// are any.
    fn spawn(
        &mut self,
        command: &mut Command,
        user: Option<&Account>,
    ) -> (io::Result<Child>, Option<ControlGroup>);

    /// Prepares what the next command would otherwise wait for.
    fn prepare(&mut self) {}
}

fn spawn_as(user: Option<&Account>, command: &mut Command) -> io::Result<Child> {
    as_user(user, || command.spawn())?
}

/// An ordinary process on somebody else's system.
#[derive(Debug)]
pub(crate) struct Bystander;

impl System for Bystander {
    fn set_identity(&mut self, _: &SetIdentity) -> Outcome {
        failed(
            FailureKind::Invalid,
            "restore: this agent is not PID 1 of a guest, so the clock, the random generator and \
             the names of this system are not its to set",
        )
    }

    fn spawn(
        &mut self,
        command: &mut Command,
        user: Option<&Account>,
    ) -> (io::Result<Child>, Option<ControlGroup>) {
        (spawn_as(user, command), None)
    }
}

/// A guest with the agent as PID 1.
#[derive(Debug)]
pub(crate) struct Guest {
    boot_id_mounted: bool,
    groups: ControlGroups,
    score: OomScore,
}

/// A failed step of applying an identity.
#[derive(Debug, Error)]
enum IdentityNotSet {
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

impl IdentityNotSet {
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
    fn set_identity(&mut self, new: &SetIdentity) -> Outcome {
        match self.apply(new) {
            Ok(()) => Outcome::IdentitySet,
            Err(error) => {
                debug_assert!(error.source().is_some());
                refused(&error, &error.os_error(), FailureKind::Io)
            }
        }
    }

    fn spawn(
        &mut self,
        command: &mut Command,
        user: Option<&Account>,
    ) -> (io::Result<Child>, Option<ControlGroup>) {
        let score = &mut self.score;
        self.groups
            .start(|| score.ordinary_during(|| spawn_as(user, command)))
    }

    fn prepare(&mut self) {
        self.groups.prepare();
    }
}

impl Guest {
    /// Sets up what commands need, on a prepared system with everything mounted.
    pub(crate) fn set_up() -> Self {
        Self {
            boot_id_mounted: false,
            groups: ControlGroups::set_up(),
            score: OomScore::never_chosen(),
        }
    }

    fn apply(&mut self, new: &SetIdentity) -> Result<(), IdentityNotSet> {
        random::reseed(&new.entropy).map_err(IdentityNotSet::Entropy)?;
        set_clock(new.unix_time).map_err(|source| IdentityNotSet::Clock {
            time: new.unix_time,
            source,
        })?;
        let name = &new.identity.hostname;
        sethostname(name.as_bytes()).map_err(|source| IdentityNotSet::Hostname {
            name: name.clone(),
            source,
        })?;
        let path = identity::write(Path::new("/"), &new.identity)?;
        if !self.boot_id_mounted {
            mount_bind(&path, BOOT_ID).map_err(|source| IdentityNotSet::BootId { path, source })?;
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
