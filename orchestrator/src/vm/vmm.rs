//! The interface of a hypervisor: the traits [`Vmm`] and [`MicroVm`], and [`Standby`] for one that
//! can start a process in advance.
//!
//! The pool and the snapshot builder use hypervisors through these alone. A backend is one folder
//! that implements them. The methods return boxed futures (`async_trait`), so that one pool serves
//! any hypervisor without a type parameter on everything; a box costs some ten nanoseconds where
//! the call behind it costs a millisecond.
//!
//! ```text
//!            boot                  hold
//!   (none) ───────▶ running ─────────────▶ held
//!                    ▲ ▲ │                  │
//!   (none) ─ restore ┘ └─┼──── release ─────┘
//!                        └─ snapshot ─▶ stopped, for good
//!   (none) ─ stand by ─▶ standing by ─ restore ─▶ running
//!   any state ── kill, or the VMM's own death ──▶ gone
//! ```

pub(in crate::vm) mod blocking;
mod disk_id;
pub(in crate::vm) mod disks;
pub(in crate::vm) mod file_stamps;
mod identity;
pub(in crate::vm) mod jail;
pub(in crate::vm) mod orphan;
mod parallel;
pub(in crate::vm) mod process;
pub(in crate::vm) mod program;
pub(in crate::vm) mod run_directory;
pub(in crate::vm) mod rundown;
mod spec;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::net::UnixStream;

use crate::disk;
use crate::untrusted::Marked;
use crate::vm::host_limits;

pub use disk_id::{DiskId, ParseDiskIdError};
pub use identity::{BadKind, VmmIdentity, VmmKind};
pub use spec::{Images, Machine, Ram, RestoreSpec, SavedFiles, Scratch, VmSpec};

/// A hypervisor: creates virtual machines, each in a process of its own.
#[async_trait]
pub trait Vmm: fmt::Debug + Send + Sync + 'static {
    /// Returns its exact identity: recorded in every snapshot and compared before a restore.
    fn identity(&self) -> &VmmIdentity;

    /// Returns the frequency of the host's time-stamp counter in kHz, if guests of this VMM see
    /// that counter.
    fn tsc_khz(&self) -> Option<u32>;

    /// Returns whether a process that ended during `operation` ([`VmmError::Died`]) had not opened
    /// /dev/kvm yet: its end is no evidence about KVM then.
    fn precedes_kvm(&self, operation: &str) -> bool {
        let _ = operation;
        false
    }

    /// Creates the shared resources of VMs on the host, and sweeps what dead processes left of
    /// theirs. Call it before creating VMs: otherwise the first VM does the former, and nobody the
    /// latter. Blocks.
    ///
    /// # Errors
    /// [`VmmError`] if VMs are impossible.
    fn prepare(&self) -> Result<(), VmmError> {
        Ok(())
    }

    /// Starts a VM that boots `spec`. Returns as soon as its vCPUs run; the agent inside answers
    /// later.
    ///
    /// # Errors
    /// [`VmmError`]; no process is left behind.
    async fn boot(&self, spec: &VmSpec) -> Result<Box<dyn MicroVm>, VmmError>;

    /// Starts a VM from the files of `spec`, whose memory it shares copy-on-write with all other
    /// clones of them. Its vCPUs run when this returns.
    ///
    /// # Errors
    /// [`VmmError`]; no process is left behind.
    async fn restore(&self, spec: &RestoreSpec) -> Result<Box<dyn MicroVm>, VmmError>;

    /// Tests whether a VM would start on this host: starts a process like a VM's, until it takes
    /// commands, and ends it.
    ///
    /// # Errors
    /// [`VmmError`]; no process is left behind.
    async fn try_out(&self, machine: Machine) -> Result<(), VmmError>;

    /// Starts a process that can become a clone with `machine` later. Returns `None`, as the
    /// default does, if a process can't be started before its snapshot is known.
    ///
    /// # Errors
    /// [`VmmError`]; no process is left behind.
    async fn stand_by(&self, machine: Machine) -> Result<Option<Box<dyn Standby>>, VmmError> {
        let _ = machine;
        Ok(None)
    }

    /// Returns whether it is what it was found as: the files that it runs have not been replaced
    /// since, as by an upgrade. Blocks for a moment. `true`, as by default, if it does not know.
    fn is_current(&self) -> bool {
        true
    }

    /// Resolves when all of its processes that were dropped until now have ended, and their
    /// resources on the host are gone; one that is stuck is waited for ten seconds. For a program
    /// that is about to end. Resolves at once, as the default does, if it does not know.
    fn dropped_ended(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }

    /// Everything, in whatever words, that its [`Standby`] processes have of it: one of a VMM that
    /// says the same serves as well. `None`: no other's do.
    fn standby_kind(&self) -> Option<String> {
        None
    }
}

/// A VMM's process without a VM yet. Dropping it kills the process and cleans up.
#[async_trait]
pub trait Standby: fmt::Debug + Send + Sync + 'static {
    /// Turns it into a VM, like [`Vmm::restore`].
    ///
    /// # Errors
    /// As for [`Vmm::restore`]; [`VmmError::Died`] also if the process had ended before.
    async fn restore(self: Box<Self>, spec: &RestoreSpec) -> Result<Box<dyn MicroVm>, VmmError>;

    /// Returns its process id.
    fn pid(&self) -> u32;

    /// As [`VmmProcess::exited`].
    fn exited(&self) -> Pin<Box<dyn Future<Output = Exit> + Send>>;
}

/// A virtual machine. Dropping it kills its process and cleans up.
#[async_trait]
pub trait MicroVm: fmt::Debug + Send + Sync + 'static {
    /// Stops the guest until [`release`](Self::release): it uses no processor time, and data sent
    /// to it waits. Its connections persist. Its clock may stop or go on, and is set with the
    /// identity of a lease. Idempotent.
    ///
    /// # Errors
    /// [`VmmError`]; the VM is in an unknown state then, and can only be dropped.
    async fn hold(&mut self) -> Result<(), VmmError>;

    /// Continues a guest that is [held](Self::hold). Idempotent.
    ///
    /// # Errors
    /// As for [`hold`](Self::hold).
    async fn release(&mut self) -> Result<(), VmmError>;

    /// Stops the vCPUs of a running VM, and writes its state into `files`, all of them new. For a VM
    /// booted with [`Ram::File`], the memory must be the path of that file, which contains the RAM
    /// already. The vCPUs stay stopped: the VM can only be snapshotted again or dropped.
    ///
    /// # Errors
    /// As for [`hold`](Self::hold).
    async fn snapshot(&mut self, files: &SavedFiles) -> Result<(), VmmError>;

    /// Writes the state of a VM that runs as [`snapshot`](Self::snapshot) does, whatever it was made
    /// from, all files new, and lets it go on.
    ///
    /// # Errors
    /// [`VmmError`]; the VM goes on all the same, or its process was killed.
    async fn checkpoint(&mut self, files: &SavedFiles) -> Result<(), VmmError> {
        Err(VmmError::Refused {
            operation: format!("write a checkpoint to {}", files.vmstate.display()),
            message: "this hypervisor can't".to_owned(),
        })
    }

    /// Returns whether a [`checkpoint`](Self::checkpoint) ends the stream to the agent:
    /// [`guest_channel`](Self::guest_channel) opens another one then.
    fn checkpoint_ends_channel(&self) -> bool {
        false
    }

    /// Opens a byte stream to the agent in the guest, whose vCPUs must run. Works once in a VM's
    /// life on this host. May wait until the agent is up, as long as the VM lives: the caller sets
    /// a timeout.
    ///
    /// # Errors
    /// [`VmmError::NoChannel`] at the second call; [`VmmError`] if the VM ended.
    async fn guest_channel(&mut self) -> Result<UnixStream, VmmError>;

    /// Returns the time from the start of its process until that took commands; zero if the process
    /// was standing by.
    fn started_in(&self) -> Duration;

    /// Returns whether its process has namespaces and a root directory of its own.
    fn is_jailed(&self) -> bool {
        false
    }

    /// Its process, as anybody may have it, whatever is done with the VM meanwhile. It does not keep
    /// the VM alive.
    fn process(&self) -> Arc<dyn VmmProcess>;
}

/// The process of a VM: to wait for its end, and to bring that about. It may outlast the VM, whose
/// end it tells then.
pub trait VmmProcess: fmt::Debug + Send + Sync + 'static {
    /// Process id of the VMM, for statistics of the host.
    fn pid(&self) -> u32;

    /// Sends SIGKILL to the VMM's process, without waiting.
    fn kill(&self);

    /// Resolves when the process has been reaped and its resources on the host are cleaned up; at
    /// once if they are already.
    fn exited(&self) -> Pin<Box<dyn Future<Output = Exit> + Send>>;

    /// Resolves as soon as the process has ended, for callers that wait for the guest: before
    /// [`exited`](Self::exited) if there is something to clean up, never after it.
    fn died(&self) -> Pin<Box<dyn Future<Output = Exit> + Send>> {
        self.exited()
    }

    /// Resolves when the guest's kernel has reported a panic on its console and halted. Never
    /// resolves if the backend can't tell.
    fn panicked(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}

/// Lines of the console shown in an error.
const SHOWN_LINES: usize = 12;

/// The end of a VMM's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Exit {
    /// The wait status as text: `exit status: 1`, `signal: 9 (SIGKILL)`.
    pub status: String,
    /// The last lines of the guest's console, without control characters.
    pub log: String,
    /// The last lines of the VMM's own output, without control characters.
    pub words: String,
}

impl Exit {
    /// Creates that of a process which printed nothing.
    #[must_use]
    pub fn new(status: impl Into<String>) -> Self {
        Self {
            status: status.into(),
            log: String::new(),
            words: String::new(),
        }
    }

    /// Returns this end with the last lines of the [console](Self::log).
    #[must_use]
    pub fn with_log(self, log: impl Into<String>) -> Self {
        let log = log.into();
        Self { log, ..self }
    }

    /// Returns this end with the last lines of the VMM's [own output](Self::words).
    #[must_use]
    pub fn with_words(self, words: impl Into<String>) -> Self {
        let words = words.into();
        Self { words, ..self }
    }
}

/// Lines shown from the reason of a kernel's panic on: its call trace follows.
const SHOWN_LINES_OF_PANIC: usize = 30;
/// The prefix of that reason.
const PANIC: &str = "Kernel panic - not syncing: ";

/// Returns the last [`SHOWN_LINES`] of a text, or more if that reaches the reason of a panic.
fn last_lines(text: &str) -> &str {
    let last = |lines: usize| {
        let mut starts = memchr::memrchr_iter(b'\n', text.as_bytes());
        let end = starts.nth(lines - 1);
        end.map_or(text, |end| text.get(end + 1..).unwrap_or(text))
    };
    let shown = last(SHOWN_LINES);
    let longer = last(SHOWN_LINES_OF_PANIC);
    longer.find(PANIC).map_or(shown, |at| {
        let line = longer[..at].rfind('\n').map_or(0, |end| end + 1);
        let from_panic = &longer[line..];
        if from_panic.len() > shown.len() {
            from_panic
        } else {
            shown
        }
    })
}

/// Prints the last lines of the console; in the alternate form, all that was kept.
impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (console, words) = (self.log.trim(), self.words.trim());
        if console.is_empty() && words.is_empty() {
            return write!(f, "{}, and it printed nothing", self.status);
        }
        let shown = if f.alternate() {
            console
        } else {
            last_lines(console)
        };
        let before = match console.lines().count() - shown.lines().count() {
            0 => String::new(),
            lines => format!(" (after {lines} lines, which -v shows)"),
        };
        let (console, words) = (Marked("guest", shown), Marked("VMM", words));
        writeln!(f, "{}; it printed{before}:{console}{words}", self.status)
    }
}

/// The reason why a hypervisor failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VmmError {
    /// The program is missing.
    #[error("{program} not found{}: {hint}", searched(path.as_deref()))]
    NotInstalled {
        /// The program's name.
        program: &'static str,
        /// The configured path, if any.
        path: Option<PathBuf>,
        /// What to install or set.
        hint: &'static str,
    },
    /// The program exists, but can't be used.
    #[error("{program} at {} can't be used: {reason}", path.display())]
    Unusable {
        /// The program's name.
        program: &'static str,
        /// Its path.
        path: PathBuf,
        /// The reason, and what to do.
        reason: String,
    },
    /// A system call failed.
    #[error("could not {operation}")]
    Io {
        /// The attempted operation, with its path.
        operation: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The file system of running VMs is full.
    #[error(
        "no space left to {operation}: free some on that file system, or set `run_path` to a \
         directory on a larger one"
    )]
    NoSpace {
        /// The attempted operation, with its path.
        operation: String,
    },
    /// The VMM's process ended.
    #[error("the VMM ended while it should {operation} ({exit})")]
    Died {
        /// The operation under way.
        operation: &'static str,
        /// The end of the process.
        exit: Exit,
    },
    /// The VMM did not answer in time.
    #[error("the VMM did not {operation} within {after:?}")]
    TimedOut {
        /// The operation under way.
        operation: &'static str,
        /// The timeout.
        after: Duration,
    },
    /// The VMM answered with an error.
    #[error("the VMM refused to {operation}: {message}")]
    Refused {
        /// The request.
        operation: String,
        /// The VMM's message.
        message: String,
    },
    /// The VMM violated its protocol.
    #[error("the VMM answered out of protocol while it should {operation}: {detail}")]
    Protocol {
        /// The operation under way.
        operation: &'static str,
        /// What is wrong with the answer.
        detail: String,
    },
    /// The stream to the guest was handed out before.
    #[error("the guest channel of this VM is taken")]
    NoChannel,
}

fn searched(path: Option<&Path>) -> String {
    path.map_or_else(
        || " on PATH".to_owned(),
        |path| format!(" at {}", path.display()),
    )
}

impl VmmError {
    /// Creates the error of a VMM that runs in the process `speaker`, not in the one that we
    /// started: it would outlive that one, and so us.
    pub(crate) fn not_itself(program: &'static str, path: &Path, speaker: i32) -> Self {
        Self::Unusable {
            program,
            path: path.to_owned(),
            reason: format!(
                "it runs the VMM as another process ({speaker}), which might outlive this program: \
                 a script has to replace itself by it, with `exec`"
            ),
        }
    }

    /// Returns whether a disk is full for the VMM, by its own words: they have those of the system.
    pub(crate) fn tells_full_disk(&self) -> bool {
        let is_said = |message: &str, errno: Errno| {
            let text = io::Error::from(errno).to_string();
            // Some leave out the number: `No space left on device (os error 28)`.
            text.split(" (")
                .next()
                .is_some_and(|text| message.contains(text))
        };
        match self {
            Self::NoSpace { .. } => true,
            Self::Refused { message, .. } => {
                is_said(message, Errno::NOSPC) || is_said(message, Errno::DQUOT)
            }
            _ => false,
        }
    }

    pub(crate) fn io(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let operation = operation.into();
        move |source| {
            // Only errors of the system: limits of our own have the same kind.
            if disk::is_full(&source) && source.raw_os_error().is_some() {
                Self::NoSpace { operation }
            } else {
                let source = host_limits::of_files(source);
                Self::Io { operation, source }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_known_by_the_words_of_either_vmm() {
        let refused = |message: &str| VmmError::Refused {
            operation: "write".to_owned(),
            message: message.to_owned(),
        };
        for message in [
            "Cannot dump memory: Guest memory error: No space left on device (os error 28)",
            "Unable to write to file: No space left on device",
            "Disk quota exceeded (os error 122)",
        ] {
            assert!(refused(message).tells_full_disk(), "{message}");
        }
        assert!(!refused("Bad address (os error 14)").tells_full_disk());
    }

    #[test]
    fn the_reason_of_a_panic_is_shown_before_its_long_call_trace() {
        let trace: String = (0..20).map(|line| format!("trace {line}\n")).collect();
        let end = "---[ end Kernel panic - not syncing: no init ]---";
        let panic = format!("Kernel panic - not syncing: no init\n{trace}{end}");
        assert_eq!(last_lines(&format!("before\n{panic}")), panic);
        let lines = last_lines(&trace).lines().count();
        assert!(lines <= SHOWN_LINES, "{lines}");
        // A guest may print the prefix much earlier, or at the very end.
        let long = trace.repeat(3);
        assert!(!last_lines(&format!("{panic}\n{long}")).contains("panic"));
        assert!(last_lines(&format!("{trace}{PANIC}")).starts_with("trace"));
    }
}
