//! Firecracker as a hypervisor: the one for production.
//!
//! Each VM is a Firecracker process, driven through its API socket; seccomp filters are always
//! on. A clone maps its snapshot's memory file privately, so that all clones of it share what
//! they do not write (Firecracker's docs/snapshotting/snapshot-support.md).
//!
//! A process lives in a directory of its own, and so all clones of a snapshot may call their
//! sockets by the same names.

pub mod api;
mod binary;
mod cgroup;
mod guard;
mod home;
mod jail;
mod place;
mod vsock;

use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ironclaw_protocol::VSOCK_PORT;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use crate::template::Template;
use crate::vm::process::{self, Launch, Process};
use crate::vm::snapshot::{Machine, Snapshot, VmmIdentity, VmmKind};
use crate::vm::tsc;
use crate::vm::vmm::{BootSpec, Exit, MicroVm, Ram, Vmm, VmmError};
use api::{
    Action, ApiError, BootSource, Client, Entropy, MachineConfiguration, MemBackend,
    MemBackendType, SnapshotCreate, SnapshotLoad, SnapshotType, Vm, Vsock, VsockOverride,
};
pub use binary::{FirecrackerBinary, MINIMUM_VERSION};
use home::{Home, RunDirectory};
pub use jail::{DEFAULT_USERS, Jailer, find_jailer};
use place::Place;

/// Names of the sockets in a VM's directory.
const API: &str = "api.sock";
const VSOCK: &str = "vsock.sock";
/// Names of a snapshot's files in a jail.
const VMSTATE: &str = "vmstate";
const MEMORY: &str = "memory";

/// The guest's address on its vsock; each guest has a vsock of its own, so all have the same.
const GUEST_CID: u32 = 3;

/// How long a process may take until its API answers; it takes 2 ms on an idle machine.
const STARTED: Duration = Duration::from_secs(10);

/// Pauses between attempts to reach an agent that is not up: vsock tells nobody when a program
/// starts to listen.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(16);

/// The hypervisor.
#[derive(Debug, Clone)]
pub struct Firecracker {
    binary: PathBuf,
    identity: VmmIdentity,
    run: Arc<RunDirectory>,
    jailer: Option<Arc<Jailer>>,
}

/// A machine that runs in a Firecracker process.
pub struct FirecrackerVm {
    process: Process,
    api: Client,
    place: Place,
    channel_taken: bool,
    snapshot_type: SnapshotType,
}

impl fmt::Debug for FirecrackerVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirecrackerVm")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

impl Firecracker {
    /// The hypervisor that `binary` makes, with directories for its VMs below `run_path`; what
    /// dead processes left there is removed. With a `jailer`, each VM is jailed.
    ///
    /// # Errors
    /// [`VmmError::Io`] if `run_path` can't be used.
    pub fn new(
        binary: FirecrackerBinary,
        run_path: &Path,
        jailer: Option<Jailer>,
    ) -> Result<Self, VmmError> {
        let identity = VmmIdentity {
            kind: VmmKind::Firecracker,
            version: binary.version.to_string(),
            accelerator: "kvm".to_owned(),
        };
        Ok(Self {
            binary: binary.path,
            identity,
            run: RunDirectory::create(run_path)?,
            jailer: jailer.map(Arc::new),
        })
    }

    /// A process that answers on its API, and has no VM yet.
    async fn start(&self, machine: Machine) -> Result<FirecrackerVm, VmmError> {
        gone_unless_ok(self.try_start(machine).await).await
    }

    async fn try_start(&self, machine: Machine) -> Result<FirecrackerVm, VmmError> {
        let home = match &self.jailer {
            None => self.run.home(),
            Some(jailer) => self.run.jail(jailer, &self.binary),
        };
        let home = home.map_err(VmmError::io("make a directory for a VM"))?;
        let place = home.place().clone();
        let process = Process::start(self.launch(home, machine))
            .await
            .map_err(VmmError::io(format!("start {}", self.binary.display())))?;
        let connected = async {
            let stream = place
                .connect_when_up(API)
                .await
                .map_err(VmmError::io("connect to Firecracker's API socket"))?;
            Client::over(stream)
                .await
                .map_err(|error| refused("start", error))
        };
        let api = tokio::select! {
            connected = timeout(STARTED, connected) => match connected {
                Ok(connected) => connected?,
                Err(_) => return Err(VmmError::TimedOut { operation: "start", after: STARTED }),
            },
            exit = process.exited() => {
                return Err(VmmError::Died { operation: "start", exit });
            }
        };
        Ok(FirecrackerVm {
            process,
            api,
            place,
            channel_taken: false,
            snapshot_type: SnapshotType::Full,
        })
    }

    fn launch(&self, home: Home, machine: Machine) -> Launch {
        // The log goes where the guest's console goes, and is bounded there. More of it costs
        // milliseconds per restore.
        let arguments = ["--api-sock", API, "--level", "Error"];
        let (Some(jailer), Some(jail)) = (&self.jailer, home.jailed()) else {
            let mut command = Command::new(&self.binary);
            command.env_clear().current_dir(home.place().path());
            command.args(arguments);
            return Launch::new(command).with(home);
        };
        let (id, user) = (&jail.id, &jail.user);
        let base = self.run.path();
        let command = jailer.command(&self.binary, base, id, user, machine, &arguments);
        Launch::new(command)
            .in_pid_namespace(jailer.namespace())
            .with(home)
    }
}

#[async_trait]
impl Vmm for Firecracker {
    fn identity(&self) -> &VmmIdentity {
        &self.identity
    }

    fn tsc_khz(&self) -> Option<u32> {
        tsc::khz()
    }

    async fn boot(&self, spec: &BootSpec) -> Result<Box<dyn MicroVm>, VmmError> {
        let vm = gone_unless_ok(self.try_boot(spec).await).await?;
        Ok(Box::new(vm))
    }

    async fn restore(&self, snapshot: &Snapshot) -> Result<Box<dyn MicroVm>, VmmError> {
        let vm = gone_unless_ok(self.try_restore(snapshot).await).await?;
        Ok(Box::new(vm))
    }
}

/// A failure is told when the process that failed is gone.
async fn gone_unless_ok<T>(result: Result<T, VmmError>) -> Result<T, VmmError> {
    if result.is_err() {
        process::dropped_ones_ended().await;
    }
    result
}

impl Firecracker {
    async fn try_boot(&self, spec: &BootSpec) -> Result<FirecrackerVm, VmmError> {
        let mut vm = self.start(spec.machine).await?;
        // A snapshot of a booted VM's written pages is complete, since the rest is zeros: no
        // need to write, to read and to make holes of what was never touched.
        let track_dirty_pages = matches!(spec.ram, Ram::File(_));
        if track_dirty_pages {
            vm.snapshot_type = SnapshotType::Diff;
        }
        let boot_source = boot_source(&spec.template, &vm.place)?;
        vm.converse("configure the VM", async |api| {
            api.call(&MachineConfiguration {
                vcpu_count: spec.machine.vcpus,
                mem_size_mib: spec.machine.memory_mib,
                track_dirty_pages,
            })
            .await?;
            api.call(&boot_source).await?;
            api.call(&Vsock {
                guest_cid: GUEST_CID,
                uds_path: VSOCK.into(),
            })
            .await?;
            api.call(&Entropy {}).await
        })
        .await?;
        vm.converse("boot", async |api| api.call(&Action::InstanceStart).await)
            .await?;
        Ok(vm)
    }

    async fn try_restore(&self, snapshot: &Snapshot) -> Result<FirecrackerVm, VmmError> {
        let mut vm = self.start(snapshot.manifest().machine).await?;
        let load = SnapshotLoad {
            snapshot_path: vm.place.lend(snapshot.vmstate(), VMSTATE)?,
            mem_backend: MemBackend {
                backend_type: MemBackendType::File,
                backend_path: vm.place.lend(snapshot.memory(), MEMORY)?,
            },
            resume_vm: true,
            network_overrides: Vec::new(),
            vsock_override: Some(VsockOverride {
                uds_path: VSOCK.into(),
            }),
            clock_realtime: Some(true),
        };
        vm.converse("restore", async |api| api.call(&load).await)
            .await?;
        Ok(vm)
    }
}

fn boot_source(template: &Template, place: &Place) -> Result<BootSource, VmmError> {
    let initramfs = template.initramfs();
    Ok(BootSource {
        kernel_image_path: place.lend(template.kernel(), "kernel")?,
        initrd_path: initramfs
            .map(|initramfs| place.lend(initramfs, "initramfs"))
            .transpose()?,
        // There is no PCI bus to look for, and no keyboard but the one that resets the machine.
        boot_args: Some(format!(
            "{} pci=off i8042.noaux i8042.nomux i8042.dumbkbd",
            template.boot_args()
        )),
    })
}

#[async_trait]
impl MicroVm for FirecrackerVm {
    async fn pause(&mut self) -> Result<(), VmmError> {
        self.converse("pause", async |api| api.call(&Vm::Paused).await)
            .await
    }

    async fn resume(&mut self) -> Result<(), VmmError> {
        self.converse("resume", async |api| api.call(&Vm::Resumed).await)
            .await
    }

    async fn snapshot(&mut self, vmstate: &Path, memory: &Path) -> Result<(), VmmError> {
        let create = SnapshotCreate {
            snapshot_type: self.snapshot_type,
            snapshot_path: self.place.outgoing(vmstate, VMSTATE)?,
            mem_file_path: self.place.outgoing(memory, MEMORY)?,
        };
        self.converse("write a snapshot", async |api| api.call(&create).await)
            .await?;
        self.place.collect(vmstate, VMSTATE)?;
        self.place.collect(memory, MEMORY)
    }

    async fn guest_channel(&mut self) -> Result<UnixStream, VmmError> {
        if self.channel_taken {
            return Err(VmmError::NoChannel);
        }
        let connected = async {
            let mut pause = FIRST_PAUSE;
            loop {
                if let Some(stream) = vsock::connect(&self.place, VSOCK, VSOCK_PORT).await? {
                    return Ok(stream);
                }
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        };
        let operation = "connect to the guest's agent";
        let stream = tokio::select! {
            connected = connected => connected.map_err(VmmError::io(operation))?,
            exit = self.process.exited() => return Err(VmmError::Died { operation, exit }),
        };
        self.channel_taken = true;
        Ok(stream)
    }

    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn kill(&self) {
        self.process.kill();
    }

    fn exited(&self) -> Pin<Box<dyn Future<Output = Exit> + Send>> {
        Box::pin(self.process.exited())
    }
}

impl FirecrackerVm {
    /// Makes requests for `operation`; the process's end explains a connection that ends.
    async fn converse(
        &mut self,
        operation: &'static str,
        talk: impl AsyncFnOnce(&mut Client) -> Result<(), ApiError>,
    ) -> Result<(), VmmError> {
        match talk(&mut self.api).await {
            Ok(()) => Ok(()),
            Err(ApiError::Closed(_)) => {
                self.process.kill();
                Err(VmmError::Died {
                    operation,
                    exit: self.process.exited().await,
                })
            }
            Err(error) => Err(refused(operation, error)),
        }
    }
}

fn refused(operation: &'static str, error: ApiError) -> VmmError {
    match error {
        ApiError::Refused { message, .. } => VmmError::Refused {
            operation: operation.to_owned(),
            message,
        },
        ApiError::TimedOut { after, .. } => VmmError::TimedOut { operation, after },
        ApiError::Malformed { .. } | ApiError::Closed(_) => VmmError::Protocol {
            operation,
            detail: error.to_string(),
        },
    }
}
