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
mod binary;
mod command;
mod drives;
mod filter;
mod jail;
mod migration;
mod qmp;
mod saved_file;
pub mod settings;
mod state_stream;
mod vm;

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use ironclaw_host::{regular_file, tsc};
use rustix::net::sockopt::set_socket_passcred;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::vm::vmm::blocking::blocking_in_vmm;
use crate::vm::vmm::file_stamps::FileStamps;
use crate::vm::vmm::process::{Launch, Process, socket_pair};
use crate::vm::vmm::run_directory::RunPath;
use crate::vm::vmm::rundown::Rundown;
use crate::vm::vmm::{
    Images, Machine, MicroVm, Ram, RestoreSpec, Scratch, VmSpec, Vmm, VmmError, VmmIdentity,
    VmmKind,
};
pub use accelerator::Accelerator;
pub use binary::QemuBinary;
use command::{Memory, Sockets, Start};
use drives::Drives;
use jail::Role;
pub use jail::{Jail, Strength};
use migration::{capabilities, migrated};
use qmp::Qmp;
use saved_file::{memory_of, ram_file};
pub use vm::QemuVm;

/// The kind of this backend's VMMs.
pub const KIND: VmmKind = VmmKind::new("QEMU");

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
        let qmp = Qmp::new(monitor);
        let mut vm = QemuVm::new(process, qmp, channel, machine, drives.into_scratch());
        vm.ram_is_shared = ram_is_shared;
        vm.is_jailed = self.jail.has_root();
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
        tried.await?.end().await;
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

#[cfg(any(
    all(test, feature = "firecracker", feature = "qemu"),
    feature = "fuzzing"
))]
pub(crate) mod fuzz {
    pub(crate) use super::binary::fuzz::version;
    pub(crate) use super::qmp::fuzz as qmp;
}
