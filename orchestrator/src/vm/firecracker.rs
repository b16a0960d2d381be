//! The Firecracker backend: the one for production.
//!
//! Each VM is a Firecracker process, driven through its API socket; its seccomp filters are always
//! on. A clone maps the snapshot's memory file privately, so that all clones share the pages that
//! they do not write (Firecracker's docs/snapshotting/snapshot-support.md).
//!
//! Each process has a directory of its own, so that all clones of a snapshot can use the same
//! socket names, which the snapshot contains.

pub mod api;
mod binary;
mod chroot;
mod confined;
mod devices;
mod jail;
mod pid_namespace;
mod quirks;
pub mod setting_names;
pub mod settings;
mod vm_dir;
mod vsock;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ironclaw_host::host_limits;
use ironclaw_protocol::VSOCK_PORT;
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::sys::program::Program;
use crate::vm::vmm::disks::{OpenDisks, blocking};
use crate::vm::vmm::file_stamps::FileStamps;
pub use crate::vm::vmm::jail::user::DEFAULT_USERS;
use crate::vm::vmm::process::{Launch, Process};
use crate::vm::vmm::run_directory::RunPath;
use crate::vm::vmm::rundown::Rundown;
use crate::vm::vmm::{
    DiskId, Exit, Images, Machine, MicroVm, Ram, RestoreSpec, SavedFiles, Scratch, Standby, VmSpec,
    Vmm, VmmError, VmmIdentity, VmmKind, VmmProcess,
};
use api::{
    Action, ApiError, BootSource, Client, Drive, Entropy, MachineConfiguration, MemBackend,
    MemBackendType, SnapshotCreate, SnapshotLoad, SnapshotType, Vm, Vsock, VsockOverride,
};
pub use binary::FirecrackerBinary;
use binary::PROGRAM;
use chroot::{Chroot, Sees, disk_path};
pub use confined::Confined;
use confined::OWN_FILES;
use devices::Interface;
pub use devices::{Devices, Tap};
use ironclaw_host::mount::Hindrance;
use ironclaw_host::regular_file;
use ironclaw_host::tsc;
use jail::PROGRAM as JAILER;
pub use jail::{Jailer, find_jailer};
pub use quirks::{MINIMUM_VERSION, Quirks, Unsupported};
use vm_dir::VmDir;

/// The kind of this backend's VMMs.
pub const KIND: VmmKind = VmmKind::new("Firecracker");

/// The accelerator.
const KVM: &str = "kvm";

/// Names of the sockets in a VM's directory.
const API: &str = "api.sock";
const VSOCK: &str = "vsock.sock";
/// Names of a snapshot's files in a chroot.
const VMSTATE: &str = "vmstate";
const MEMORY: &str = "memory";
/// Names of those that it writes while it has its own.
const CHECKPOINT_VMSTATE: &str = "checkpoint-vmstate";
const CHECKPOINT_MEMORY: &str = "checkpoint-memory";

/// The guest's context id on its vsock. Each guest has a vsock of its own, so all can have the
/// same.
const GUEST_CID: u32 = 3;

/// Arguments for the guest's kernel.
///
/// - `pci=off i8042…`: there is no PCI bus to probe, and no keyboard controller but the one that
///   resets the machine.
/// - `nowatchdog rcupdate.rcu_cpu_stall_suppress=1`: a guest's clock jumps by minutes or hours when
///   it is restored from a snapshot, and when it is released from a hold. The kernel takes that for
///   a hung processor, and would print pages about it just when it has to answer. (A VMM can report
///   a pause to the kernel, `KVM_KVMCLOCK_CTRL`, but neither of these.)
const BOOT_ARGS: &str = "pci=off i8042.noaux i8042.nomux i8042.dumbkbd nowatchdog \
                         rcupdate.rcu_cpu_stall_suppress=1";

/// The operation that ends when a process's API answers.
const START: &str = "start";
/// Timeout of that; it takes 2 ms on an idle machine.
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// Pauses between attempts to connect to an agent that is not up: vsock has no event for a program
/// that starts to listen.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(16);

/// The backend's entry point: starts Firecracker processes.
#[derive(Debug, Clone)]
pub struct Firecracker {
    binary: PathBuf,
    identity: VmmIdentity,
    run: Arc<RunPath>,
    jailer: Option<Arc<Jailer>>,
    confined: Option<Arc<Confined>>,
    devices: Arc<Devices>,
    found: FileStamps,
}

/// A machine that runs in a Firecracker process.
pub struct FirecrackerVm {
    process: Process,
    api: Client,
    chroot: Chroot,
    channel_taken: bool,
    writes: Writes,
    machine: Machine,
    disks: Arc<OpenDisks>,
    started_in: Duration,
}

/// Whether a VM may write a snapshot, at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Snapshot {
    None,
    Written,
}

/// The resources of a VM on the host, until its process has ended; released in this order.
struct VmResources {
    _dir: VmDir,
    _interface: Option<Interface>,
}

/// The part of memory that a VM's snapshot writes.
enum Writes {
    /// All of it.
    Full,
    /// The pages written since the boot, or since the snapshot that has this memory file.
    Since(Option<File>),
}

impl fmt::Debug for FirecrackerVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirecrackerVm")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

impl Firecracker {
    /// Creates a backend that runs `binary`, with VM directories below `run_path`. Jails each VM if
    /// there is a `jailer`. Gives all VMs the `devices`.
    ///
    /// # Errors
    /// [`VmmError::Unusable`] if `run_path` can't be used.
    pub fn new(
        binary: FirecrackerBinary,
        run_path: &Path,
        jailer: Option<Jailer>,
        devices: Devices,
    ) -> Result<Self, VmmError> {
        let identity = VmmIdentity {
            kind: KIND,
            version: binary.version.to_string(),
            accelerator: KVM.to_owned(),
            devices: devices.digest(),
        };
        let found = FileStamps::of([&*binary.path].into_iter().chain(devices.root_drive()));
        let path = match &jailer {
            None => binary.path,
            // The jailer resolves links before it names the jail after the file.
            Some(_) => {
                can_jail_below(run_path)?;
                fs::canonicalize(&binary.path)
                    .map_err(VmmError::io(format!("find {}", binary.path.display())))?
            }
        };
        Ok(Self {
            binary: path,
            identity,
            run: Arc::new(RunPath::open(run_path)?),
            jailer: jailer.map(Arc::new),
            confined: None,
            devices: Arc::new(devices),
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

    /// Confines its processes, if no jailer does.
    #[must_use]
    pub fn confined(self, confined: Confined) -> Self {
        Self {
            confined: Some(Arc::new(confined)),
            ..self
        }
    }

    /// Starts a process and waits for its API; it has no VM yet.
    async fn start(
        &self,
        machine: Machine,
        interface: Option<Interface>,
        writes: Snapshot,
    ) -> Result<FirecrackerVm, VmmError> {
        let started = self.start_process(machine, interface, writes).await;
        started.map_err(|error| match error {
            // The jailer fails to copy the program into the jail, and its message does not tell
            // that apart.
            VmmError::Died { .. } if !self.has_room() => {
                let root = self.run.root().display();
                let operation = format!("start a VM in {root}");
                VmmError::NoSpace { operation }
            }
            error => error,
        })
    }

    /// Returns whether the file system has room for the content of a VM directory.
    fn has_room(&self) -> bool {
        let program = std::fs::metadata(&self.binary).map_or(0, |facts| facts.len());
        let needed = if self.jailer.is_some() { program } else { 1 };
        let Ok(stat) = rustix::fs::statvfs(self.run.root()) else {
            return true;
        };
        // Some file systems don't count inodes.
        let has_files = stat.f_files == 0 || stat.f_favail > 0;
        has_files && stat.f_bavail.saturating_mul(stat.f_frsize) >= needed
    }

    async fn start_process(
        &self,
        machine: Machine,
        interface: Option<Interface>,
        writes: Snapshot,
    ) -> Result<FirecrackerVm, VmmError> {
        let start = Instant::now();
        let largest = match writes {
            Snapshot::Written => machine.memory_bytes(),
            Snapshot::None => OWN_FILES,
        };
        let largest = largest.max(machine.disk_bytes());
        host_limits::of_file_size(largest).map_err(VmmError::io("start Firecracker"))?;
        let run = self.run.directory()?;
        let dir = match &self.jailer {
            None => VmDir::new(&run, self.sees()),
            Some(jailer) => VmDir::in_jail(&run, jailer, &self.binary),
        };
        let dir = dir.map_err(VmmError::io(format!(
            "make a directory for a VM in {}",
            run.path().display()
        )))?;
        let chroot = dir.chroot().clone();
        if machine.disk_mib.is_some() {
            chroot.make_disks().map_err(VmmError::io(format!(
                "make a directory for disks in {}",
                run.path().display()
            )))?;
        }
        let (log_path, log) = dir.log().map_err(VmmError::io(format!(
            "make a pipe for the log of a VM in {}",
            run.path().display()
        )))?;
        let launch = self.launch(dir, log_path, machine, interface, writes);
        let mut launch = launch.map_err(VmmError::io("confine Firecracker"))?;
        if let Some(log) = log {
            launch = launch.logging_to(log);
        }
        let process = Process::start(launch)
            .await
            .map_err(VmmError::io(format!("start {}", self.binary.display())))?;
        match wait_ready(&process, &chroot, &self.binary).await {
            Ok(api) => Ok(FirecrackerVm {
                process,
                api,
                chroot,
                channel_taken: false,
                writes: Writes::Full,
                machine,
                disks: Arc::default(),
                started_in: start.elapsed(),
            }),
            Err(error) => {
                process.end().await;
                Err(error)
            }
        }
    }

    /// Returns whether a VM that somebody gets may have a checkpoint written: unless this process may not
    /// write files of that size itself.
    fn may_write(&self, machine: Machine) -> Snapshot {
        match host_limits::of_file_size(machine.memory_bytes()) {
            Ok(()) => Snapshot::Written,
            Err(_) => Snapshot::None,
        }
    }

    /// Returns the part of the host's files that a process without a jail sees.
    fn sees(&self) -> Sees {
        let confined = self.confined.as_ref();
        if confined.is_some_and(|confined| confined.restricts_files()) {
            Sees::Directory
        } else {
            Sees::Host
        }
    }

    fn launch(
        &self,
        dir: VmDir,
        log_path: &str,
        machine: Machine,
        interface: Option<Interface>,
        writes: Snapshot,
    ) -> io::Result<Launch<VmResources>> {
        let run = Arc::clone(dir.run());
        // Each further log line costs milliseconds per restore.
        let arguments = [
            "--api-sock",
            API,
            "--log-path",
            log_path,
            "--level",
            "Error",
        ];
        let (Some(jailer), Some(jail)) = (&self.jailer, dir.jailed()) else {
            let mut program = Program::new(&self.binary);
            program.current_dir(dir.chroot().path());
            // Firecracker reads the host's time zone at its first log line, when its seccomp
            // filters are active already. Where the C library uses a system call for that which the
            // filters forbid, as glibc does, the process would hang instead of reporting why a
            // snapshot can't be loaded.
            program.env("TZ", "UTC0");
            program.args(arguments);
            let launch = match &self.confined {
                None => Launch::new(program),
                Some(confined) => {
                    let writes = writes == Snapshot::Written;
                    let confinement =
                        confined.confinement(dir.chroot(), machine, writes, &self.devices)?;
                    Launch::confined(program.command(), confinement, None)
                }
            };
            return Ok(launch.recorded_in(run).with(VmResources {
                _dir: dir,
                _interface: interface,
            }));
        };
        let (id, user) = (&jail.id, &jail.user);
        let base = run.path();
        let tap = interface.as_ref().map(Interface::tap);
        let network = tap.and_then(|tap| tap.namespace.as_deref());
        let program = jailer.program(&self.binary, base, id, user, machine, network, &arguments);
        Ok(Launch::new(program)
            .in_pid_namespace(jailer.namespace())
            .recorded_in(Arc::clone(&run))
            .with(VmResources {
                _dir: dir,
                _interface: interface,
            }))
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

    fn precedes_kvm(&self, operation: &str) -> bool {
        operation == START
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

    async fn boot(&self, spec: &VmSpec) -> Result<Box<dyn MicroVm>, VmmError> {
        let (interface, tap) = self.interface()?;
        let writes = match spec.ram {
            Ram::File(_) => Snapshot::Written,
            Ram::Private => self.may_write(spec.machine),
        };
        let mut vm = self.start(spec.machine, interface, writes).await?;
        let booted = self.boot_in(&mut vm, spec, tap.as_ref()).await;
        vm.kill_on_error(booted).await
    }

    async fn restore(&self, spec: &RestoreSpec) -> Result<Box<dyn MicroVm>, VmmError> {
        let (interface, tap) = self.interface()?;
        let mut vm = self
            .start(spec.machine, interface, self.may_write(spec.machine))
            .await?;
        let restored = self.restore_in(&mut vm, spec, tap.as_ref()).await;
        vm.kill_on_error(restored).await
    }

    async fn try_out(&self, machine: Machine) -> Result<(), VmmError> {
        let (interface, _tap) = self.interface()?;
        let vm = self.start(machine, interface, Snapshot::None).await?;
        vm.process.end().await;
        Ok(())
    }

    async fn stand_by(&self, machine: Machine) -> Result<Option<Box<dyn Standby>>, VmmError> {
        // A standby process would keep a tap device from a VM.
        if self.devices.has_network() {
            return Ok(None);
        }
        let vm = self.start(machine, None, self.may_write(machine)).await?;
        let vmm = self.clone();
        Ok(Some(Box::new(FirecrackerStandby { vmm, vm })))
    }

    fn standby_kind(&self) -> Option<String> {
        let Self {
            binary,
            identity,
            run,
            jailer,
            confined,
            devices: _,
            found: _,
        } = self;
        let (run, jailer) = (run.root(), jailer.as_ref().map(|jailer| jailer.settings()));
        // Its devices are part of its identity.
        Some(format!(
            "{binary:?} {identity:?} {run:?} {jailer:?} {confined:?}"
        ))
    }
}

/// A Firecracker process whose API answers, without a VM.
#[derive(Debug)]
struct FirecrackerStandby {
    vmm: Firecracker,
    vm: FirecrackerVm,
}

#[async_trait]
impl Standby for FirecrackerStandby {
    async fn restore(self: Box<Self>, spec: &RestoreSpec) -> Result<Box<dyn MicroVm>, VmmError> {
        let Self { vmm, mut vm } = *self;
        vm.started_in = Duration::ZERO;
        let restored = vmm.restore_in(&mut vm, spec, None).await;
        vm.kill_on_error(restored).await
    }

    fn pid(&self) -> u32 {
        self.vm.process.pid()
    }

    fn exited(&self) -> Pin<Box<dyn Future<Output = Exit> + Send>> {
        Box::pin(self.vm.process.exited())
    }
}

/// Fails unless a jailed process can run at `run_path`.
fn can_jail_below(run_path: &Path) -> Result<(), VmmError> {
    let inspect = format!("inspect the mount of {}", run_path.display());
    let found = Hindrance::of_jails(run_path).map_err(VmmError::io(inspect))?;
    let Some(Hindrance { option, mount }) = found else {
        return Ok(());
    };
    let then = match option {
        "nodev" => "so that no jailed VM can open /dev/kvm",
        _ => "so that no jailed VMM can be executed",
    };
    Err(VmmError::Unusable {
        program: "the directory of running VMs",
        path: run_path.to_owned(),
        reason: format!(
            "{} is mounted `{option}`, {then}: set `run_path` to a directory elsewhere, on \
             the file system of `snapshot_path` and `template_path`, or mount it \
             without that option",
            mount.display()
        ),
    })
}

/// Connects to the API of a process that was just started, as soon as it answers.
async fn wait_ready(process: &Process, chroot: &Chroot, binary: &Path) -> Result<Client, VmmError> {
    let operation = START;
    let stream = tokio::select! {
        connected = timeout(API_TIMEOUT, chroot.connect_when_up(API)) => match connected {
            Ok(stream) => stream.map_err(VmmError::io("connect to Firecracker's API socket"))?,
            Err(_) => return Err(VmmError::TimedOut { operation, after: API_TIMEOUT }),
        },
        exit = process.exited() => return Err(VmmError::Died { operation, exit }),
    };
    let speaker = stream
        .peer_cred()
        .map_err(VmmError::io("ask who listens on Firecracker's API socket"))?
        .pid()
        .unwrap_or_default();
    // Waits for the end of both, whichever comes first.
    if process.speaks_itself(speaker).await {
        return Ok(Client::from_stream(stream));
    }
    Err(VmmError::not_itself(PROGRAM, binary, speaker))
}

impl Firecracker {
    async fn boot_in(
        &self,
        vm: &mut FirecrackerVm,
        spec: &VmSpec,
        tap: Option<&Tap>,
    ) -> Result<(), VmmError> {
        // All other pages of a freshly booted VM are zeros, so a snapshot of the written ones is
        // complete: it saves writing, reading and punching holes for memory that was never touched.
        let track_dirty_pages = matches!(spec.ram, Ram::File(_));
        if track_dirty_pages {
            vm.writes = Writes::Since(None);
        }
        let boot_source = boot_source(spec, &vm.chroot)?;
        let drives = vm.attach(&spec.images, &spec.scratch).await?;
        let drive = self.devices.expose_drive(&vm.chroot)?;
        let devices = Arc::clone(&self.devices);
        vm.converse("configure the VM", async |api| {
            api.call(&MachineConfiguration {
                vcpu_count: spec.machine.vcpus,
                mem_size_mib: spec.machine.memory_mib,
                track_dirty_pages,
            })
            .await?;
            api.call(&boot_source).await?;
            devices.configure(api, drive, tap).await?;
            for drive in drives {
                api.call(&drive).await?;
            }
            api.call(&Vsock {
                guest_cid: GUEST_CID,
                uds_path: VSOCK.into(),
            })
            .await?;
            api.call(&Entropy {}).await
        })
        .await?;
        vm.converse("boot", async |api| api.call(&Action::InstanceStart).await)
            .await
    }

    fn interface(&self) -> Result<(Option<Interface>, Option<Tap>), VmmError> {
        let interface = self.devices.interface(self.run.root())?;
        let tap = interface.as_ref().map(|interface| interface.tap().clone());
        Ok((interface, tap))
    }

    async fn restore_in(
        &self,
        vm: &mut FirecrackerVm,
        spec: &RestoreSpec,
        tap: Option<&Tap>,
    ) -> Result<(), VmmError> {
        let SavedFiles {
            vmstate,
            memory,
            disks,
        } = &spec.files;
        for file in [vmstate, memory] {
            opens(file)?;
        }
        // By the paths that are stored in the snapshot.
        vm.attach(&spec.images, disks).await?;
        // By the path that is stored in the snapshot.
        self.devices.expose_drive(&vm.chroot)?;
        let load = SnapshotLoad {
            snapshot_path: vm.chroot.expose_read_only(vmstate, VMSTATE)?,
            mem_backend: MemBackend {
                backend_type: MemBackendType::File,
                backend_path: vm.chroot.expose_read_only(memory, MEMORY)?,
            },
            resume_vm: true,
            track_dirty_pages: None,
            network_overrides: tap.into_iter().map(Tap::network_override).collect(),
            vsock_override: Some(VsockOverride {
                uds_path: VSOCK.into(),
            }),
            clock_realtime: Some(true),
        };
        vm.converse("restore", async |api| api.call(&load).await)
            .await
    }
}

/// Checked here, because Firecracker may never answer a request to load a file that it can't open.
fn opens(file: &Path) -> Result<(), VmmError> {
    match regular_file::open(file) {
        Ok(_) => Ok(()),
        // Errors of the file itself, as opposed to missing resources of this process or host.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => {
            Err(VmmError::Refused {
                operation: format!("restore from {}", file.display()),
                message: error.to_string(),
            })
        }
        Err(error) => Err(VmmError::io(format!("open {}", file.display()))(error)),
    }
}

fn boot_source(spec: &VmSpec, chroot: &Chroot) -> Result<BootSource, VmmError> {
    let initramfs = spec.initramfs.as_deref();
    Ok(BootSource {
        kernel_image_path: chroot.expose_read_only(&spec.kernel, "kernel")?,
        initrd_path: initramfs
            .map(|initramfs| chroot.expose_read_only(initramfs, "initramfs"))
            .transpose()?,
        boot_args: Some(format!("{} {BOOT_ARGS}", spec.cmdline)),
    })
}

#[async_trait]
impl MicroVm for FirecrackerVm {
    fn is_jailed(&self) -> bool {
        self.chroot.is_jail()
    }

    async fn hold(&mut self) -> Result<(), VmmError> {
        self.process.freeze().await
    }

    async fn release(&mut self) -> Result<(), VmmError> {
        self.process.thaw().await
    }

    async fn snapshot(&mut self, files: &SavedFiles) -> Result<(), VmmError> {
        let SavedFiles {
            vmstate,
            memory,
            disks,
        } = files;
        self.converse("pause", async |api| api.call(&Vm::Paused).await)
            .await?;
        let create = SnapshotCreate {
            snapshot_type: match self.writes {
                Writes::Full => SnapshotType::Full,
                Writes::Since(_) => SnapshotType::Diff,
            },
            snapshot_path: self.chroot.prepare_output(vmstate, VMSTATE)?,
            mem_file_path: self.chroot.prepare_output(memory, MEMORY)?,
        };
        self.converse("write a snapshot", async |api| api.call(&create).await)
            .await?;
        self.save_disks(disks).await?;
        self.chroot.retrieve(vmstate, VMSTATE)?;
        self.chroot.retrieve(memory, MEMORY)?;
        if let Writes::Since(base) = &mut self.writes {
            let before = base.take();
            let written = memory.to_owned();
            let completed = spawn_blocking(move || completed(&written, before)).await;
            *base = Some(completed.map_err(|error| {
                VmmError::io("complete the memory of a snapshot")(error.into())
            })??);
        }
        Ok(())
    }

    async fn checkpoint(&mut self, files: &SavedFiles) -> Result<(), VmmError> {
        let SavedFiles {
            vmstate,
            memory,
            disks,
        } = files;
        let create = SnapshotCreate {
            // Diff would take the tracking of written pages, which costs clones time.
            snapshot_type: SnapshotType::Full,
            snapshot_path: self.chroot.prepare_output(vmstate, CHECKPOINT_VMSTATE)?,
            mem_file_path: self.chroot.prepare_output(memory, CHECKPOINT_MEMORY)?,
        };
        // Its connections are reset, whether it succeeds or not.
        self.channel_taken = false;
        let written = self.converse("write a checkpoint", async |api| {
            api.call(&Vm::Paused).await?;
            api.call(&create).await
        });
        let mut written = written.await;
        if written.is_ok() {
            written = self.save_disks(disks).await;
        }
        let went_on = self.converse("go on", async |api| api.call(&Vm::Resumed).await);
        let went_on = went_on.await;
        if went_on.is_err() {
            self.process.kill();
        }
        written.and(went_on)?;
        self.chroot.retrieve(vmstate, CHECKPOINT_VMSTATE)?;
        self.chroot.retrieve(memory, CHECKPOINT_MEMORY)
    }

    fn checkpoint_ends_channel(&self) -> bool {
        true
    }

    async fn guest_channel(&mut self) -> Result<UnixStream, VmmError> {
        if self.channel_taken {
            return Err(VmmError::NoChannel);
        }
        // Without a timeout of its own, until the VM ends: the caller has one.
        let connected = async {
            let mut pause = FIRST_PAUSE;
            loop {
                if let Some(stream) = vsock::connect(&self.chroot, VSOCK, VSOCK_PORT).await? {
                    return Ok::<_, io::Error>(stream);
                }
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        };
        let operation = "connect to the guest's agent";
        let stream = tokio::select! {
            connected = connected => match connected {
                // Connections are refused because the process has ended, which is reported in a
                // moment.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionRefused
                            | ErrorKind::ConnectionReset
                            | ErrorKind::NotFound
                    ) =>
                {
                    let exit = self.process.end().await;
                    return Err(VmmError::Died { operation, exit });
                }
                connected => connected.map_err(VmmError::io(operation))?,
            },
            exit = self.process.exited() => return Err(VmmError::Died { operation, exit }),
        };
        self.channel_taken = true;
        Ok(stream)
    }

    fn started_in(&self) -> Duration {
        self.started_in
    }

    fn process(&self) -> Arc<dyn VmmProcess> {
        self.process.handle()
    }
}

/// Completes the memory file at `path` with the pages that Firecracker did not write again.
fn completed(path: &Path, before: Option<File>) -> Result<File, VmmError> {
    let failed = || VmmError::io(format!("complete {}", path.display()));
    let file = File::options().read(true).write(true).open(path);
    let file = file.map_err(failed())?;
    if let Some(before) = before {
        let bytes = file.metadata().map_err(failed())?.len();
        ironclaw_store::complete(&file, &before, bytes).map_err(failed())?;
    }
    Ok(file)
}

impl FirecrackerVm {
    /// Puts the disks where the process finds them; returns the requests that attach them.
    async fn attach(&mut self, images: &Images, scratch: &Scratch) -> Result<Vec<Drive>, VmmError> {
        let mut drives = Vec::new();
        for (id, image) in images {
            let path = self.chroot.expose_image(image, id)?;
            drives.push(drive(id, path, true));
        }
        if scratch.is_empty() {
            return Ok(drives);
        }
        let (scratch, chroot, machine) = (scratch.clone(), self.chroot.clone(), self.machine);
        let copied = blocking("copy a disk", move || {
            OpenDisks::copied(&scratch, machine, |id| chroot.create_disk(id))
        });
        let disks = copied.await?;
        drives.extend(disks.iter().map(|(id, _)| drive(id, disk_path(id), false)));
        self.disks = Arc::new(disks);
        Ok(drives)
    }

    /// Saves the disks of a paused VM, whose state was written already: the process may have done
    /// by then what the state has as still to do, and a clone does it again.
    async fn save_disks(&self, files: &Scratch) -> Result<(), VmmError> {
        if self.disks.is_empty() {
            return Ok(());
        }
        let (disks, files, machine) = (Arc::clone(&self.disks), files.clone(), self.machine);
        blocking("save a disk", move || disks.save(machine, &files)).await
    }

    /// Returns this VM, or the error of `done`: then kills the process and waits for its cleanup,
    /// so that what it used on the host, like a tap device, is free again.
    async fn kill_on_error(self, done: Result<(), VmmError>) -> Result<Box<dyn MicroVm>, VmmError> {
        match done {
            Ok(()) => Ok(Box::new(self)),
            Err(error) => {
                self.process.end().await;
                Err(error)
            }
        }
    }

    /// Makes API requests for `operation`; if the connection breaks, reports the process's end as
    /// the cause.
    async fn converse(
        &mut self,
        operation: &'static str,
        talk: impl AsyncFnOnce(&mut Client) -> Result<(), ApiError>,
    ) -> Result<(), VmmError> {
        match talk(&mut self.api).await {
            Ok(()) => Ok(()),
            Err(ApiError::Closed(_)) => Err(VmmError::Died {
                operation,
                exit: self.process.end().await,
            }),
            Err(error) => Err(refused(operation, error)),
        }
    }
}

fn drive(id: &DiskId, path_on_host: PathBuf, is_read_only: bool) -> Drive {
    Drive {
        drive_id: id.to_string(),
        path_on_host,
        is_root_device: false,
        is_read_only,
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

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz {
    pub(crate) use super::binary::fuzz as version;
    pub(crate) use crate::vm::vmm::jail::cgroup::fuzz as mounts;
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_vmm_that_does_not_end_keeps_no_other_from_being_given_up() {
        /// A VM whose process does not end before the test allows it.
        struct Stuck(mpsc::Receiver<()>);
        impl Drop for Stuck {
            fn drop(&mut self) {
                let _ = self.0.recv();
            }
        }
        let directory = tempfile::tempdir().unwrap();
        let (end, stuck) = mpsc::channel();
        let launch = Launch::new(Program::new("/bin/true")).with(Stuck(stuck));
        drop(Process::start(launch).await.unwrap());

        let binary = FirecrackerBinary {
            path: "/bin/false".into(),
            version: MINIMUM_VERSION.to_owned(),
            quirks: Quirks::for_version(&MINIMUM_VERSION.parse().unwrap()).unwrap(),
        };
        let run = directory.path().join("run");
        let vmm = Firecracker::new(binary, &run, None, Devices::default()).unwrap();
        let machine = Machine {
            memory_mib: 128,
            vcpus: 1,
            disk_mib: None,
        };
        let started = timeout(API_TIMEOUT, vmm.start(machine, None, Snapshot::None));
        let error = started.await.unwrap().err().unwrap();
        assert!(error.to_string().contains("exit status: 1"), "{error}");
        drop(end);
    }
}
