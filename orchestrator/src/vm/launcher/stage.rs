//! Progress of work that may take long.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::warm_up::Warmed;
use crate::template::Step;
use crate::vm::snapshot::Owners;

/// A callback that reports progress, for people.
pub type Progress = Arc<dyn Fn(&Stage) + Send + Sync>;

/// A stage that may take long.
#[derive(Debug)]
#[non_exhaustive]
pub enum Stage {
    /// Building the template.
    Template(Step),
    /// Trying a boot under KVM.
    ProbingKvm,
    /// Waiting for another process that makes the needed snapshot.
    WaitingForSnapshot(Owners),
    /// Booting the template.
    BootingTemplate,
    /// Still booting the template.
    StillBooting {
        /// The time of this attempt so far.
        after: Duration,
        /// The number of this attempt, from 1.
        attempt: u32,
    },
    /// Running the template's warm-up programs.
    WarmingUp,
    /// One of them has run.
    WarmedUp(Warmed),
    /// Writing the state of the booted template.
    WritingSnapshot,
    /// Hashing the snapshot, punching holes, and publishing it.
    PublishingSnapshot,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Template(step) => write!(f, "template: {step}"),
            Self::ProbingKvm => f.write_str("trying whether KVM runs the guest"),
            Self::WaitingForSnapshot(owners) => {
                write!(f, "waiting for {owners}, which builds a snapshot")
            }
            Self::BootingTemplate => f.write_str("booting the template"),
            Self::StillBooting { after, attempt } => {
                let seconds = after.as_secs();
                write!(f, "booting the template still, after {seconds} s")?;
                match attempt {
                    1 => Ok(()),
                    _ => write!(f, " of attempt {attempt}"),
                }
            }
            Self::WarmingUp => f.write_str("warming the template up"),
            Self::WarmedUp(Warmed { command, took, .. }) => {
                write!(f, "warmed up by `{command}` in {:.1} s", took.as_secs_f64())
            }
            Self::WritingSnapshot => f.write_str("writing the snapshot"),
            Self::PublishingSnapshot => f.write_str("publishing the snapshot"),
        }
    }
}
