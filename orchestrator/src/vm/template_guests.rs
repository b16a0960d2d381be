//! Guests for the steps of a template's recipe.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncReadExt as _;
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::template::{GuestFailure, Guests, Program, Template};
use crate::untrusted;
use crate::vm::config::Config;
use crate::vm::guest::{Command, ExecEvent, ExitStatus, Guest, GuestError};
use crate::vm::launcher::fresh_guest::FreshGuest;
use crate::vm::launcher::{LaunchError, Launcher, Progress, Warmed, blocking};
use crate::vm::snapshot::SnapshotStore;
use crate::vm::vmm::{Machine, Vmm};

/// Time limit of a step's program, unless another is set.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(3600);
/// Memory of the guest of a step, unless guests have more: compilers and package managers need it.
const STEP_MEMORY_MIB: u32 = 1024;
/// Limit of what a step's program may write to its disk, unless guests have more. The disk takes
/// what is written.
const STEP_DISK_MIB: u32 = 16 << 10;
/// How much of a program's output an error keeps: its end.
const MAX_KEPT: usize = 16 << 10;
/// Limit of what a program may change, in bytes of the archive.
const MAX_CHANGES: u64 = 64 << 30;
/// Bytes of the archive that are read at a time.
const BUFFER: usize = 256 << 10;

/// Where the output of steps' programs goes, as it comes.
pub type StepOutput = Box<dyn FnMut(&[u8]) + Send>;

/// Runs the steps of recipes in VMs, each in one of its own.
pub struct TemplateGuests {
    config: Config,
    runtime: Handle,
    progress: Progress,
    output: StepOutput,
    timeout: Duration,
    cancelled: CancellationToken,
    /// Once it is found.
    vmm: Option<Arc<dyn Vmm>>,
    started: u32,
}

/// Ends the steps of a build when it is dropped; nothing, once that is over.
#[derive(Debug)]
#[must_use]
pub struct EndSteps(#[expect(dead_code, reason = "it is there to be dropped")] DropGuard);

/// A step's program that ended otherwise than by exiting with 0.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("its program ended: {status}{}", if *.out_of_memory { "; the guest ran out of memory" } else { "" })]
#[non_exhaustive]
pub struct ProgramFailed {
    /// How it ended.
    pub status: ExitStatus,
    /// Whether the guest's kernel killed one of its processes for lack of memory.
    pub out_of_memory: bool,
    /// The end of what it printed, without control characters.
    pub printed: String,
}

/// Somebody ended the build.
#[derive(Debug, Error)]
#[error("the build was cancelled")]
struct Cancelled;

impl fmt::Debug for TemplateGuests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TemplateGuests")
            .field("vmm", &self.vmm)
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

impl TemplateGuests {
    /// VMs by these settings, in the runtime of the caller; what steps print goes to `output`.
    ///
    /// # Panics
    /// Outside of an async runtime.
    #[must_use]
    pub fn new(config: &Config, progress: Progress, output: StepOutput) -> Self {
        Self {
            config: config.clone(),
            runtime: Handle::current(),
            progress,
            output,
            timeout: STEP_TIMEOUT,
            cancelled: CancellationToken::new(),
            vmm: None,
            started: 0,
        }
    }

    /// Sets the time limit of each step's program.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Returns what ends the VM of the step under way, and with it the build, when it is dropped: for
    /// callers that may not wait for the thread that builds.
    pub fn ended_on_drop(&self) -> EndSteps {
        EndSteps(self.cancelled.clone().drop_guard())
    }

    /// Returns how many VMs were started for steps, and to try warm-ups.
    #[must_use]
    pub fn started(&self) -> u32 {
        self.started
    }

    /// Opens a launcher for an unfinished template. The hypervisor is looked for once.
    async fn launcher(
        &mut self,
        template: &Template,
        machine: Machine,
    ) -> Result<Launcher, LaunchError> {
        let config = Config {
            machine,
            ..self.config.clone()
        };
        let launcher = match &self.vmm {
            Some(vmm) => {
                let path = config.snapshot_path.clone();
                let snapshots = blocking(move || SnapshotStore::open(path)).await?;
                let progress = Arc::clone(&self.progress);
                Launcher::with(
                    Arc::clone(vmm),
                    template.clone(),
                    &config,
                    snapshots,
                    progress,
                )?
            }
            None => {
                let progress = Arc::clone(&self.progress);
                Launcher::of(template.clone(), &config, progress).await?
            }
        };
        self.vmm = Some(launcher.hypervisor());
        self.started += 1;
        Ok(launcher)
    }

    async fn run_step(
        &mut self,
        template: &Template,
        program: &Program,
        changes: &mut File,
    ) -> Result<(), GuestFailure> {
        let Machine {
            memory_mib,
            disk_mib,
            ..
        } = self.config.machine;
        let machine = Machine {
            memory_mib: memory_mib.max(STEP_MEMORY_MIB),
            disk_mib: Some(disk_mib.unwrap_or(0).max(STEP_DISK_MIB)),
            ..self.config.machine
        };
        let fresh = self
            .launcher(template, machine)
            .await?
            .fresh_guest()
            .await?;
        let done = async {
            self.follow(fresh.guest(), program).await?;
            take_changes(&fresh, changes).await
        };
        let done = done.await;
        fresh.end().await;
        done
    }

    /// Runs a program to its end, and passes on what it prints.
    async fn follow(&mut self, guest: &Guest, program: &Program) -> Result<(), GuestFailure> {
        let mut running = guest.start(command(program).timeout(self.timeout)).await?;
        let mut kept = VecDeque::new();
        let status = loop {
            match running.next().await {
                Ok(ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes)) => {
                    (self.output)(&bytes);
                    kept.extend(bytes);
                    let surplus = kept.len().saturating_sub(MAX_KEPT);
                    kept.drain(..surplus);
                }
                Ok(ExecEvent::Ended(status)) => break status,
                Err(GuestError::NoAnswer { .. }) => break ExitStatus::TimedOut,
                Err(error) => return Err(error.into()),
            }
        };
        if status == ExitStatus::Code(0) {
            return Ok(());
        }
        let printed = String::from_utf8_lossy(kept.make_contiguous()).into_owned();
        Err(Box::new(ProgramFailed {
            status,
            out_of_memory: running.out_of_memory(),
            printed: untrusted::lines(&printed),
        }))
    }

    /// Waits for `work`, unless the build is cancelled meanwhile.
    fn wait<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Self) -> Result<T, GuestFailure>,
    ) -> Result<T, GuestFailure> {
        let (runtime, cancelled) = (self.runtime.clone(), self.cancelled.clone());
        runtime.block_on(async {
            tokio::select! {
                () = cancelled.cancelled() => Err(Cancelled.into()),
                done = work(self) => done,
            }
        })
    }
}

/// Returns the command of a step: in `/` unless the image so far, whose guest it runs in, says another
/// directory.
fn command(program: &Program) -> Command {
    let Program {
        argv, env, config, ..
    } = program;
    let mut command = Command::from(argv.as_slice());
    if config.working_dir.is_empty() {
        command = command.current_dir("/");
    }
    command.envs(env.iter().cloned()).stderr_to_stdout()
}

/// Writes what differs from the image to a file.
async fn take_changes(fresh: &FreshGuest, changes: &mut File) -> Result<(), GuestFailure> {
    let mut archive = fresh.guest().files().archive_changes().await?;
    let mut buffer = vec![0; BUFFER];
    let mut total = 0;
    loop {
        let read = archive.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        total += read as u64;
        if total > MAX_CHANGES {
            let text = format!("it changed more than {} GiB", MAX_CHANGES >> 30);
            return Err(text.into());
        }
        changes.write_all(buffer.get(..read).unwrap_or_default())?;
    }
}

impl Guests for TemplateGuests {
    fn run(
        &mut self,
        template: &Template,
        program: &Program,
        changes: &mut File,
    ) -> Result<(), GuestFailure> {
        self.wait(async |guests| guests.run_step(template, program, changes).await)
    }

    fn warm(&mut self, template: &Template) -> Result<u64, GuestFailure> {
        self.wait(async |guests| {
            let machine = guests.config.machine;
            let launcher = guests.launcher(template, machine).await?;
            let (warmed, memory) = launcher.try_warm_up().await?;
            for Warmed { printed, .. } in warmed {
                (guests.output)(printed.as_bytes());
            }
            Ok(memory)
        })
    }
}
