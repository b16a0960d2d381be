//! What a hypervisor must be able to do: the traits [`Vmm`] and [`MicroVm`], and [`Standby`] for one
//! that can do a part of it beforehand.
//!
//! The pool and the snapshot builder know hypervisors through these alone. A backend is one
//! folder that implements them. Their methods return boxed futures (`async_trait`), so that one
//! pool serves any hypervisor without a type parameter on everything; a box costs some ten
//! nanoseconds where the call behind it costs a millisecond.
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

mod identity;
pub(in crate::vm) mod jail;
pub(in crate::vm) mod orphan;
pub(in crate::vm) mod process;
pub(in crate::vm) mod program;
pub(in crate::vm) mod run_directory;
mod spec;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::net::UnixStream;

use crate::disk;
use crate::untrusted::Marked;
use crate::vm::host_limits;

pub use identity::{BadKind, VmmIdentity, VmmKind};
pub use spec::{Machine, Ram, RestoreSpec, SavedFiles, VmSpec};

/// A hypervisor: makes virtual machines, each in a process of its own.
#[async_trait]
pub trait Vmm: fmt::Debug + Send + Sync + 'static {
    /// What it is, exactly: recorded in every snapshot and compared before one is restored.
    fn identity(&self) -> &VmmIdentity;

    /// The host's time-stamp counter frequency in kHz, where the guests of this VMM see it.
    fn tsc_khz(&self) -> Option<u32>;

    /// Whether a process that ended during `operation` ([`VmmError::Died`]) had not opened /dev/kvm
    /// yet: its end tells nothing about KVM.
    fn precedes_kvm(&self, operation: &str) -> bool {
        let _ = operation;
        false
    }

    /// Makes what VMs take of the host beside themselves, and removes what dead processes left of
    /// theirs: for whoever is about to make VMs. Without it the first VM does the former, and
    /// nobody the latter. Blocks.
    ///
    /// # Errors
    /// [`VmmError`] if there can be no VMs.
    fn prepare(&self) -> Result<(), VmmError> {
        Ok(())
    }

    /// Starts a VM that boots `spec`. Returns as soon as its processors run; the agent inside
    /// answers later.
    ///
    /// # Errors
    /// [`VmmError`]; no process is left behind.
    async fn boot(&self, spec: &VmSpec) -> Result<Box<dyn MicroVm>, VmmError>;

    /// Starts a VM that goes on from the files of `spec`, with its memory shared copy-on-write with
    /// all other clones of them. Its processors run when this returns.
    ///
    /// # Errors
    /// [`VmmError`]; no process is left behind.
    async fn restore(&self, spec: &RestoreSpec) -> Result<Box<dyn MicroVm>, VmmError>;

    /// Starts a process in the way of a VM, until it takes commands, and ends it: whether a VM would
    /// start on this host.
    ///
    /// # Errors
    /// [`VmmError`]; no process is left behind.
    async fn try_out(&self, machine: Machine) -> Result<(), VmmError>;

    /// Starts a process that becomes a clone later, whose guest will have `machine`. `None` where a
    /// process can't be started without its snapshot, which is what it is if nothing else is said.
    ///
    /// # Errors
    /// [`VmmError`]; no process is left behind.
    async fn stand_by(&self, machine: Machine) -> Result<Option<Box<dyn Standby>>, VmmError> {
        let _ = machine;
        Ok(None)
    }
}

/// A VMM's process that was started and has no VM yet. Dropping it kills it; nothing of it stays.
#[async_trait]
pub trait Standby: fmt::Debug + Send + Sync + 'static {
    /// Makes it a VM as [`Vmm::restore`] does.
    ///
    /// # Errors
    /// As for [`Vmm::restore`]; [`VmmError::Died`] also if it had ended before.
    async fn restore(self: Box<Self>, spec: &RestoreSpec) -> Result<Box<dyn MicroVm>, VmmError>;

    /// Its process id.
    fn pid(&self) -> u32;

    /// As [`MicroVm::exited`].
    fn exited(&self) -> Pin<Box<dyn Future<Output = Exit> + Send>>;
}

/// A virtual machine. Dropping it kills its process; nothing of it stays.
#[async_trait]
pub trait MicroVm: fmt::Debug + Send + Sync + 'static {
    /// Stops the guest until [`release`](Self::release): it takes no processor time, and what is
    /// sent to it meanwhile waits. Its connections last. Its clock may stand or go on meanwhile, and
    /// is set with the identity of a lease. Holding one that is held changes nothing.
    ///
    /// # Errors
    /// [`VmmError`]; the VM is then in an unknown state and fit for nothing but to be dropped.
    async fn hold(&mut self) -> Result<(), VmmError>;

    /// Lets a guest that is [held](Self::hold) go on, and one that runs be.
    ///
    /// # Errors
    /// As for [`hold`](Self::hold).
    async fn release(&mut self) -> Result<(), VmmError>;

    /// Stops the processors of a VM that runs, and writes its state: devices and processors into a
    /// new file `vmstate`, RAM into `memory`. A VM that was booted with [`Ram::File`] must be given
    /// that file's path and has its RAM there already. The processors stay stopped: another
    /// snapshot may be taken, and nothing else done with it.
    ///
    /// # Errors
    /// As for [`hold`](Self::hold).
    async fn snapshot(&mut self, vmstate: &Path, memory: &Path) -> Result<(), VmmError>;

    /// A byte stream to the agent in the guest, whose processors must run. Asked for once in a
    /// VM's life on this host. It may wait until the agent is up, for as long as the VM lives:
    /// the caller sets the limit.
    ///
    /// # Errors
    /// [`VmmError::NoChannel`] the second time; [`VmmError`] if the VM ended.
    async fn guest_channel(&mut self) -> Result<UnixStream, VmmError>;

    /// How long its process took from its start until it took commands; nothing if it stood by
    /// already.
    fn started_in(&self) -> Duration;

    /// Process id of the VMM, for statistics of the host.
    fn pid(&self) -> u32;

    /// Sends the VMM's process SIGKILL and does not wait.
    fn kill(&self);

    /// Resolves when the process has ended and was reaped, and nothing of it is left on the host;
    /// at once if that is so.
    fn exited(&self) -> Pin<Box<dyn Future<Output = Exit> + Send>>;

    /// Resolves as soon as the process has ended, at once if it has: for who waits for the guest.
    /// Never after [`exited`](Self::exited); before it where there is something to be removed.
    fn died(&self) -> Pin<Box<dyn Future<Output = Exit> + Send>> {
        self.exited()
    }

    /// Resolves when the guest's kernel has said on its console that it panicked, and stays as it
    /// is. Never where that is not known.
    fn panicked(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}

/// Lines of a console that an error shows.
const SHOWN_LINES: usize = 12;

/// How a VMM's process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The wait status in words: `exit status: 1`, `signal: 9 (SIGKILL)`.
    pub status: String,
    /// The last lines of the guest's console, without control characters.
    pub log: String,
    /// The last lines of what the VMM said itself; the same.
    pub words: String,
}

/// Lines from the one by which a kernel says why it panicked, which its call trace follows.
const SHOWN_LINES_OF_PANIC: usize = 30;
/// How the kernel's text for that begins.
const PANIC: &str = "Kernel panic - not syncing: ";

/// The last lines of a text: [`SHOWN_LINES`], or from the reason of a panic on.
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

/// Of the console the last lines, and all that is kept in the alternate form.
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

/// Why a hypervisor did not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VmmError {
    /// The program is not there.
    #[error("{program} not found{}: {hint}", searched(path.as_deref()))]
    NotInstalled {
        /// The program's name.
        program: &'static str,
        /// The path that was configured, if one was.
        path: Option<PathBuf>,
        /// What to install or set.
        hint: &'static str,
    },
    /// The program is there, and can't be used.
    #[error("{program} at {} can't be used: {reason}", path.display())]
    Unusable {
        /// The program's name.
        program: &'static str,
        /// Where it is.
        path: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
    /// The operating system refused something.
    #[error("could not {operation}")]
    Io {
        /// What was tried, and on which path.
        operation: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The file system of running VMs is full.
    #[error(
        "no space left to {operation}: free some on that file system, or set IRONCLAW_RUN_PATH to a \
         directory on a larger one"
    )]
    NoSpace {
        /// What was tried, and where.
        operation: String,
    },
    /// The VMM's process ended.
    #[error("the VMM ended while it should {operation} ({exit})")]
    Died {
        /// What was under way.
        operation: &'static str,
        /// How it ended.
        exit: Exit,
    },
    /// The VMM did not answer in time.
    #[error("the VMM did not {operation} within {after:?}")]
    TimedOut {
        /// What was under way.
        operation: &'static str,
        /// How long it was given.
        after: Duration,
    },
    /// The VMM answered with an error.
    #[error("the VMM refused to {operation}: {message}")]
    Refused {
        /// What was asked.
        operation: String,
        /// The VMM's words.
        message: String,
    },
    /// The VMM said something that its protocol does not allow.
    #[error("the VMM answered out of protocol while it should {operation}: {detail}")]
    Protocol {
        /// What was under way.
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
    /// Of a VMM that runs in the process `speaker`, and not in the one that was started: it would
    /// outlive that, and so us.
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

    pub(crate) fn io(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let operation = operation.into();
        move |source| {
            // From the system: our own limits are of that kind, too.
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
    fn the_reason_of_a_panic_is_shown_before_its_long_call_trace() {
        let trace: String = (0..20).map(|line| format!("trace {line}\n")).collect();
        let end = "---[ end Kernel panic - not syncing: no init ]---";
        let panic = format!("Kernel panic - not syncing: no init\n{trace}{end}");
        assert_eq!(last_lines(&format!("before\n{panic}")), panic);
        let lines = last_lines(&trace).lines().count();
        assert!(lines <= SHOWN_LINES, "{lines}");
        // A guest may say it much earlier, or at the very end.
        let long = trace.repeat(3);
        assert!(!last_lines(&format!("{panic}\n{long}")).contains("panic"));
        assert!(last_lines(&format!("{trace}{PANIC}")).starts_with("trace"));
    }
}
