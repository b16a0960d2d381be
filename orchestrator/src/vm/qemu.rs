//! The QEMU backend: the portable one.
//!
//! It runs a real Linux guest on any x86-64 machine: by translation (TCG), or by KVM where a probe
//! has shown that KVM runs our guest. RAM is a file: shared with it while a template boots, mapped
//! copy-on-write by every clone. With the migration capability `x-ignore-shared` the state file
//! then contains devices and vCPUs alone, some 60 kB (QEMU docs/devel/migration).
//!
//! A QEMU process has no paths of its own: it inherits its control and guest channels as ends of
//! socket pairs. So there is nothing to wait for, and nothing to clean up but the record that the
//! process lives.

mod accelerator;
mod command;
mod drives;
mod filter;
mod jail;
mod qmp;
pub mod settings;
mod state_stream;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rustix::net::sockopt::set_socket_passcred;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::sys::program::Program;
use crate::vm::vmm::blocking::blocking_in_vmm;
use crate::vm::vmm::disks::OpenDisks;
use crate::vm::vmm::file_stamps::FileStamps;
use crate::vm::vmm::process::{Launch, Process, socket_pair};
use crate::vm::vmm::program::find_program;
use crate::vm::vmm::run_directory::RunPath;
use crate::vm::vmm::rundown::Rundown;
use crate::vm::vmm::{
    Images, Machine, MicroVm, Ram, RestoreSpec, SavedFiles, Scratch, VmSpec, Vmm, VmmError,
    VmmIdentity, VmmKind, VmmProcess,
};
pub use accelerator::Accelerator;
use command::{Memory, Sockets, Start};
use drives::Drives;
use ironclaw_host::host_limits;
use ironclaw_host::regular_file;
use ironclaw_host::tsc;
use jail::Role;
pub use jail::{Jail, Strength};
use qmp::{Qmp, QmpError};

/// The kind of this backend's VMMs.
pub const KIND: VmmKind = VmmKind::new("QEMU");

const PROGRAM: &str = "qemu-system-x86_64";

/// Timeout of a QMP answer, which takes milliseconds.
const QMP_TIMEOUT: Duration = Duration::from_secs(20);
/// Extra time for a checkpoint per MiB of memory: a slow disk writes 50 of them in a second.
const CHECKPOINT_TIME_PER_MIB: Duration = Duration::from_millis(20);
/// The bytes per second that QEMU writes of itself at most: it is no other host that they go to.
const MAX_BANDWIDTH: u64 = 1 << 40;

/// The backend's entry point: starts QEMU processes.
#[derive(Debug, Clone)]
pub struct Qemu {
    binary: PathBuf,
    accelerator: Accelerator,
    identity: VmmIdentity,
    tsc_khz: Option<u32>,
    run: Arc<RunPath>,
    jail: Arc<Jail>,
    found: FileStamps,
}

/// A machine that runs in a QEMU process.
#[derive(Debug)]
pub struct QemuVm {
    process: Process,
    qmp: Qmp,
    channel: Option<UnixStream>,
    ram_is_shared: bool,
    is_jailed: bool,
    machine: Machine,
    disks: Arc<OpenDisks>,
    started_in: Duration,
}

/// The QEMU binary and its version.
#[derive(Debug, Clone)]
pub struct QemuBinary {
    /// Its path.
    pub path: PathBuf,
    /// The version that it reports, like `7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)`.
    pub version: String,
}

impl QemuBinary {
    /// Finds the binary at `configured`, or else on PATH.
    ///
    /// # Errors
    /// [`VmmError::NotInstalled`] names Debian's package; [`VmmError::Unusable`] if it is not QEMU.
    pub async fn find(configured: Option<&Path>) -> Result<Self, VmmError> {
        let path = find_program(
            PROGRAM,
            configured,
            "install Debian's package qemu-system-x86 \
             (apt-get install --no-install-recommends qemu-system-x86), or set `qemu` to \
             the binary",
        )?;
        let mut program = Program::new(&path);
        program.arg("--version");
        let process = Process::start(Launch::new(program))
            .await
            .map_err(VmmError::io(format!("start {}", path.display())))?;
        let exit =
            timeout(QMP_TIMEOUT, process.exited())
                .await
                .map_err(|_| VmmError::TimedOut {
                    operation: "say its version",
                    after: QMP_TIMEOUT,
                })?;
        match version(&exit.log) {
            Some(version) => Ok(Self {
                path,
                version: version.to_owned(),
            }),
            None => Err(VmmError::Unusable {
                program: PROGRAM,
                path,
                reason: format!("it does not say a QEMU version ({exit})"),
            }),
        }
    }
}

/// Parses the first line of what `--version` prints.
fn version(printed: &str) -> Option<&str> {
    let rest = printed.strip_prefix("QEMU emulator version ")?;
    rest.lines().next().map(str::trim)
}

#[cfg(any(
    all(test, feature = "firecracker", feature = "qemu"),
    feature = "fuzzing"
))]
pub(crate) mod fuzz {
    pub(crate) use super::qmp::fuzz as qmp;

    /// Parses the output of a program in place of QEMU.
    pub(crate) fn version(printed: &str) {
        if let Some(version) = super::version(printed) {
            assert!(!version.contains('\n') && version == version.trim());
        }
    }
}

impl Qemu {
    /// Creates a backend that runs `binary` with `accelerator`. Records living processes below
    /// `run_path`, from the first one on.
    ///
    /// # Errors
    /// [`VmmError::Unusable`] if `run_path` can't be used.
    pub fn new(
        binary: QemuBinary,
        accelerator: Accelerator,
        run_path: &Path,
    ) -> Result<Self, VmmError> {
        let run = Arc::new(RunPath::open(run_path)?);
        let found = FileStamps::of([&*binary.path]);
        let identity = VmmIdentity {
            kind: KIND,
            version: binary.version,
            accelerator: accelerator.name().to_owned(),
            devices: None,
        };
        Ok(Self {
            binary: binary.path,
            accelerator,
            identity,
            tsc_khz: tsc::khz(),
            run,
            jail: Arc::new(Jail::off()),
            found,
        })
    }

    /// Adds its processes to this rundown when they are dropped.
    pub(super) fn ending_in(self, rundown: &Rundown) -> Self {
        Self {
            run: Arc::new(self.run.ending_in(rundown)),
            ..self
        }
    }

    /// Runs its processes in a jail.
    #[must_use]
    pub fn jailed(self, jail: Jail) -> Self {
        Self {
            jail: Arc::new(jail),
            ..self
        }
    }

    /// Uses another accelerator.
    #[must_use]
    pub fn accelerated_by(self, accelerator: Accelerator) -> Self {
        Self {
            accelerator,
            identity: VmmIdentity {
                accelerator: accelerator.name().to_owned(),
                ..self.identity
            },
            ..self
        }
    }

    async fn start(
        &self,
        machine: Machine,
        memory: Memory,
        start: &Start<'_>,
        state: Option<OwnedFd>,
        drives: &Drives,
    ) -> Result<(Process, UnixStream, UnixStream), VmmError> {
        let pair = || socket_pair().map_err(VmmError::io("make a socket pair for QEMU"));
        let (monitor, monitor_end) = pair()?;
        // Makes each message on the socket carry its sender's PID.
        set_socket_passcred(&monitor, true)
            .map_err(|errno| VmmError::io("make a socket pair for QEMU")(errno.into()))?;
        let (agent, agent_end) = pair()?;
        let (disks, arguments) = drives.inherited()?;
        let command = command::command(
            &self.binary,
            self.accelerator,
            self.tsc_khz,
            machine,
            &memory,
            start,
            &Sockets {
                monitor: &monitor_end,
                agent: &agent_end,
            },
            &arguments,
        );
        let role = Role {
            machine,
            reads: &start.reads(),
            writes: matches!(memory, Memory::Shared(_)),
            has_ram_file: !matches!(memory, Memory::Private),
            has_kvm: self.accelerator == Accelerator::Kvm,
        };
        let run = self.run.directory()?;
        let cell = self.jail.cell(role, &run);
        let cell = cell.and_then(|(confinement, cell)| Ok((confinement, cell.entrances()?, cell)));
        let (confinement, cgroups, cell) = cell.map_err(VmmError::io("make a jail for QEMU"))?;
        let inherited = [monitor_end, agent_end].into_iter().chain(state);
        let inherited = inherited.chain(disks).collect();
        let launch = Launch::confined(command, confinement, memory.into_file())
            .inherit(inherited)
            .joining(cgroups)
            .recorded_in(run)
            .with(cell);
        let process = Process::start(launch)
            .await
            .map_err(VmmError::io(format!("start {}", self.binary.display())))?;
        Ok((process, monitor, agent))
    }

    /// Opens the disks of one more VM.
    async fn drives(
        &self,
        images: &Images,
        scratch: &Scratch,
        machine: Machine,
    ) -> Result<Drives, VmmError> {
        if images.is_empty() && scratch.is_empty() {
            return Ok(Drives::default());
        }
        let (images, scratch) = (images.clone(), scratch.clone());
        let run = self.run.directory()?;
        blocking_in_vmm("open the disks of a VM", move || {
            Drives::open(&images, &scratch, machine, run.path())
        })
        .await
    }

    /// Starts a process, and checks that it is QEMU itself and that it executes the commands in
    /// `first`.
    #[expect(clippy::too_many_arguments, reason = "each is of another kind")]
    async fn come_up<const N: usize>(
        &self,
        operation: &'static str,
        machine: Machine,
        memory: Memory,
        start: &Start<'_>,
        state: Option<OwnedFd>,
        drives: Drives,
        first: [(&'static str, Value); N],
    ) -> Result<QemuVm, VmmError> {
        let begun = Instant::now();
        let ram_is_shared = matches!(memory, Memory::Shared(_));
        let (process, monitor, channel) =
            self.start(machine, memory, start, state, &drives).await?;
        let mut vm = QemuVm {
            process,
            qmp: Qmp::new(monitor),
            channel: Some(channel),
            ram_is_shared,
            is_jailed: self.jail.has_root(),
            machine,
            disks: Arc::new(drives.into_scratch()),
            started_in: Duration::ZERO,
        };
        let mut speaker = 0;
        vm.converse(operation, async |qmp| {
            qmp.begin().await?;
            for (command, arguments) in first {
                qmp.send(command, arguments).await?;
            }
            speaker = qmp.speaker().await?;
            qmp.settle().await
        })
        .await?;
        vm.is_itself(speaker, &self.binary).await?;
        vm.started_in = begun.elapsed();
        Ok(vm)
    }
}

#[async_trait]
impl Vmm for Qemu {
    fn identity(&self) -> &VmmIdentity {
        &self.identity
    }

    fn tsc_khz(&self) -> Option<u32> {
        self.tsc_khz
    }

    fn prepare(&self) -> Result<(), VmmError> {
        self.run.prepare()
    }

    fn is_current(&self) -> bool {
        self.found.hold()
    }

    fn dropped_ended(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let rundown = self.run.rundown().clone();
        Box::pin(async move { rundown.ended().await })
    }

    async fn try_out(&self, machine: Machine) -> Result<(), VmmError> {
        let (memory, start) = (Memory::Private, Start::Incoming);
        let drives = Drives::default();
        let tried = self.come_up("start", machine, memory, &start, None, drives, []);
        tried.await?.process.end().await;
        Ok(())
    }

    async fn boot(&self, spec: &VmSpec) -> Result<Box<dyn MicroVm>, VmmError> {
        let memory = match &spec.ram {
            Ram::Private => Memory::Private,
            Ram::File(path) => Memory::Shared(ram_file(path, spec.machine)?),
        };
        let drives = self
            .drives(&spec.images, &spec.scratch, spec.machine)
            .await?;
        let start = Start::Boot(spec);
        let vm = self.come_up("start", spec.machine, memory, &start, None, drives, []);
        Ok(Box::new(vm.await?))
    }

    async fn restore(&self, spec: &RestoreSpec) -> Result<Box<dyn MicroVm>, VmmError> {
        let operation = "restore";
        let memory = Memory::CopyOnWrite(memory_of(spec)?);
        let vmstate = &spec.files.vmstate;
        let state = regular_file::open(vmstate)
            .map_err(VmmError::io(format!("open {}", vmstate.display())))?;
        let state = OwnedFd::from(state);
        let uri = format!("fd:{}", state.as_raw_fd());
        // QEMU executes them while it starts.
        let first = [
            ("migrate-set-capabilities", capabilities()),
            ("migrate-incoming", json!({ "uri": uri })),
        ];
        let (machine, start) = (spec.machine, Start::Incoming);
        let drives = self
            .drives(&spec.images, &spec.files.disks, machine)
            .await?;
        let vm = self.come_up(
            operation,
            machine,
            memory,
            &start,
            Some(state),
            drives,
            first,
        );
        let mut vm = vm.await?;
        vm.converse(operation, async |qmp| {
            migrated(qmp).await?;
            qmp.execute("cont", json!({})).await
        })
        .await?;
        Ok(Box::new(vm))
    }
}

#[async_trait]
impl MicroVm for QemuVm {
    fn is_jailed(&self) -> bool {
        self.is_jailed
    }

    async fn hold(&mut self) -> Result<(), VmmError> {
        self.converse("hold", async |qmp| qmp.execute("stop", json!({})).await)
            .await
    }

    async fn release(&mut self) -> Result<(), VmmError> {
        // Somebody may have stopped the process with a signal: it could not answer then.
        self.process.thaw().await?;
        self.converse("release", async |qmp| qmp.execute("cont", json!({})).await)
            .await
    }

    async fn snapshot(&mut self, files: &SavedFiles) -> Result<(), VmmError> {
        let SavedFiles {
            vmstate,
            memory,
            disks,
        } = files;
        if !self.ram_is_shared {
            return Err(VmmError::Refused {
                operation: format!("write a snapshot to {}", memory.display()),
                message: "this VM was not booted with its RAM in a file".to_owned(),
            });
        }
        let state = create_private(vmstate)
            .map_err(VmmError::io(format!("create {}", vmstate.display())))?;
        self.converse("pause", async |qmp| qmp.execute("stop", json!({})).await)
            .await?;
        self.converse("write a snapshot", async |qmp| {
            qmp.send("migrate-set-capabilities", capabilities()).await?;
            qmp.pass_fd("state", state.as_fd()).await?;
            qmp.execute("migrate", json!({ "uri": "fd:state" })).await?;
            migrated(qmp).await
        })
        .await?;
        self.save_disks(disks).await
    }

    async fn checkpoint(&mut self, files: &SavedFiles) -> Result<(), VmmError> {
        let SavedFiles {
            vmstate,
            memory,
            disks,
        } = files;
        let ram = ram_file(memory, self.machine)?;
        let state = create_private(vmstate)
            .map_err(VmmError::io(format!("create {}", vmstate.display())))?;
        let (stream, end) = io::pipe().map_err(VmmError::io("make a pipe for QEMU"))?;
        let ram_bytes = self.machine.memory_bytes();
        let split = spawn_blocking(move || {
            state_stream::split(stream, ram_bytes, &File::from(ram), &state)
        });
        let operation = "write a checkpoint";
        let limit = QMP_TIMEOUT + CHECKPOINT_TIME_PER_MIB * self.machine.memory_mib;
        self.converse("hold", async |qmp| qmp.execute("stop", json!({})).await)
            .await?;
        let sent = self.converse_within(limit, operation, async |qmp| {
            qmp.send("migrate-set-capabilities", capabilities()).await?;
            let unlimited = json!({ "max-bandwidth": MAX_BANDWIDTH });
            qmp.send("migrate-set-parameters", unlimited).await?;
            qmp.pass_fd("state", end.as_fd()).await?;
            qmp.execute("migrate", json!({ "uri": "fd:state" })).await?;
            migrated(qmp).await
        });
        let sent = sent.await;
        drop(end);
        // QEMU closes the stream once the migration is finalized; until then it refuses to go on.
        let mut written = match sent {
            Ok(()) => match timeout(QMP_TIMEOUT, split).await {
                Ok(Ok(written)) => written.map_err(VmmError::io(format!(
                    "write {} and {}",
                    vmstate.display(),
                    memory.display()
                ))),
                Ok(Err(error)) => Err(VmmError::io(operation)(error.into())),
                Err(_) => Err(VmmError::TimedOut {
                    operation,
                    after: QMP_TIMEOUT,
                }),
            },
            Err(error) => Err(error),
        };
        if written.is_ok() {
            written = self.save_disks(disks).await;
        }
        let went_on = self
            .converse("go on", async |qmp| qmp.execute("cont", json!({})).await)
            .await;
        if went_on.is_err() {
            self.process.kill();
        }
        written.and(went_on)
    }

    async fn guest_channel(&mut self) -> Result<UnixStream, VmmError> {
        self.channel.take().ok_or(VmmError::NoChannel)
    }

    fn started_in(&self) -> Duration {
        self.started_in
    }

    fn process(&self) -> Arc<dyn VmmProcess> {
        self.process.handle()
    }
}

impl QemuVm {
    /// Saves the disks of a stopped guest, none of whose requests is under way.
    async fn save_disks(&self, files: &Scratch) -> Result<(), VmmError> {
        if self.disks.is_empty() {
            return Ok(());
        }
        let (disks, files, machine) = (Arc::clone(&self.disks), files.clone(), self.machine);
        blocking_in_vmm("save a disk", move || disks.save(machine, &files)).await
    }

    /// Fails unless the process is QEMU itself; waits for the end of another.
    async fn is_itself(&self, speaker: i32, binary: &Path) -> Result<(), VmmError> {
        if self.process.speaks_itself(speaker).await {
            return Ok(());
        }
        Err(VmmError::not_itself(PROGRAM, binary, speaker))
    }

    /// Runs a QMP conversation for `operation`, with a timeout; if the connection breaks, reports
    /// the process's end as the cause.
    async fn converse(
        &mut self,
        operation: &'static str,
        talk: impl AsyncFnOnce(&mut Qmp) -> Result<(), QmpError>,
    ) -> Result<(), VmmError> {
        self.converse_within(QMP_TIMEOUT, operation, talk).await
    }

    /// Runs a conversation with a timeout of its own.
    async fn converse_within(
        &mut self,
        limit: Duration,
        operation: &'static str,
        talk: impl AsyncFnOnce(&mut Qmp) -> Result<(), QmpError>,
    ) -> Result<(), VmmError> {
        match timeout(limit, talk(&mut self.qmp)).await {
            Ok(Ok(())) => Ok(()),
            // A closed monitor is the first sign of an exit; the supervisor knows the reason.
            Ok(Err(QmpError::Io(_))) => Err(VmmError::Died {
                operation,
                exit: self.process.end().await,
            }),
            Ok(Err(error)) => Err(protocol(operation, &error)),
            Err(_) => Err(VmmError::TimedOut {
                operation,
                after: limit,
            }),
        }
    }
}

/// Creates the file at `path` for the RAM of a guest that is to become a snapshot.
fn ram_file(path: &Path, machine: Machine) -> Result<OwnedFd, VmmError> {
    let failed = || VmmError::io(format!("create {}", path.display()));
    host_limits::of_file_size(machine.memory_bytes()).map_err(failed())?;
    let made = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|file| file.set_len(machine.memory_bytes()).map(|()| file));
    made.map(OwnedFd::from).map_err(failed())
}

/// Opens the memory of a snapshot read-only. Refuses another size, with which the clone would lack
/// memory.
fn memory_of(spec: &RestoreSpec) -> Result<OwnedFd, VmmError> {
    let path = &spec.files.memory;
    let opened = regular_file::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    let (found, file) = opened.map_err(VmmError::io(format!("open {}", path.display())))?;
    let expected = spec.machine.memory_bytes();
    if found == expected {
        return Ok(file.into());
    }
    Err(VmmError::Refused {
        operation: format!("restore from {}", path.display()),
        message: format!("it has {found} bytes, and the guest's memory {expected}"),
    })
}

/// `events` makes QEMU report the end of a migration, which saves polling.
fn capabilities() -> serde_json::Value {
    json!({ "capabilities": [
        { "capability": "x-ignore-shared", "state": true },
        { "capability": "events", "state": true },
    ] })
}

async fn migrated(qmp: &mut Qmp) -> Result<(), QmpError> {
    let completed = qmp
        .event(|event| match event.data["status"].as_str() {
            Some("completed") => Some(true),
            Some("failed" | "cancelled") => Some(false),
            _ => None,
        })
        .await?;
    if completed {
        Ok(())
    } else {
        Err(QmpError::Refused {
            command: "migrate",
            message: "QEMU reports that the migration failed".to_owned(),
        })
    }
}

fn protocol(operation: &'static str, error: &QmpError) -> VmmError {
    match error {
        QmpError::Refused { command, message } => VmmError::Refused {
            operation: format!("{operation} ({command})"),
            message: message.clone(),
        },
        QmpError::Io(error) => VmmError::Protocol {
            operation,
            detail: error.to_string(),
        },
        QmpError::Malformed(detail) => VmmError::Protocol {
            operation,
            detail: detail.clone(),
        },
    }
}

fn create_private(path: &Path) -> io::Result<File> {
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}
