//! How a Firecracker process is started, in a jail or confined, up to the first answer of its API.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ironclaw_host::host_limits;
use ironclaw_host::mount::Hindrance;
use tokio::time::timeout;

use super::api::Client;
use super::binary::PROGRAM;
use super::cells::Cells;
use super::chroot::{Chroot, Sees};
use super::confined::{Confined, OWN_FILES};
use super::devices::{Devices, Interface, Tap};
use super::jail::Jailer;
use super::pid_namespace::PidNamespace;
use super::vm::FirecrackerVm;
use super::vm_dir::VmDir;
use crate::sys::program::Program;
use crate::vm::vmm::jail::cgroup::Cgroups;
use crate::vm::vmm::process::{Launch, Process};
use crate::vm::vmm::run_directory::RunPath;
use crate::vm::vmm::rundown::Rundown;
use crate::vm::vmm::{Machine, VmmError};

/// The name of the API's socket in a VM's directory.
const API: &str = "api.sock";

/// The operation that ends when a process's API answers.
pub(super) const START: &str = "start";
/// Timeout of that; it takes 2 ms on an idle machine.
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// Starts Firecracker processes.
#[derive(Debug, Clone)]
pub(super) struct Starter {
    binary: PathBuf,
    run: Arc<RunPath>,
    jailer: Option<Arc<Jailer>>,
    cells: Arc<Cells>,
    confined: Option<Arc<Confined>>,
    devices: Arc<Devices>,
}

/// Whether a VM may write a snapshot, at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Snapshot {
    None,
    Written,
}

impl Snapshot {
    /// Returns whether a VM that somebody gets may have a checkpoint written: unless this process may not
    /// write files of that size itself.
    pub(super) fn where_possible(machine: Machine) -> Self {
        match host_limits::of_file_size(machine.memory_bytes()) {
            Ok(()) => Self::Written,
            Err(_) => Self::None,
        }
    }
}

/// The resources of a VM on the host, until its process has ended; released in this order.
struct VmResources {
    _dir: VmDir,
    _interface: Option<Interface>,
    _pid_namespace: Option<Arc<PidNamespace>>,
}

impl Starter {
    /// Returns what starts `binary`, with VM directories below `run_path`.
    ///
    /// # Errors
    /// [`VmmError::Unusable`] if `run_path` can't be used.
    pub(super) fn new(
        binary: PathBuf,
        run_path: &Path,
        jailer: Option<Jailer>,
        devices: Devices,
    ) -> Result<Self, VmmError> {
        if jailer.is_some() {
            can_jail_below(run_path)?;
        }
        Ok(Self {
            cells: Arc::new(Cells::new(binary.clone(), limits(jailer.as_ref()))),
            binary,
            run: Arc::new(RunPath::open(run_path)?),
            jailer: jailer.map(Arc::new),
            confined: None,
            devices: Arc::new(devices),
        })
    }

    pub(super) fn ending_in(self, rundown: &Rundown) -> Self {
        let run = Arc::new(self.run.ending_in(rundown));
        // They are below the directory of their owner, which is another one then.
        let limits = limits(self.jailer.as_deref());
        let cells = Arc::new(Cells::new(self.binary.clone(), limits));
        Self { run, cells, ..self }
    }

    pub(super) fn confined(self, confined: Confined) -> Self {
        let confined = Some(Arc::new(confined));
        Self { confined, ..self }
    }

    /// Looks whether VM directories can be made.
    pub(super) fn prepare(&self) -> Result<(), VmmError> {
        self.run.prepare()
    }

    pub(super) fn rundown(&self) -> &Rundown {
        self.run.rundown()
    }

    pub(super) fn devices(&self) -> &Devices {
        &self.devices
    }

    /// Takes a tap device for one VM, if VMs have any.
    pub(super) fn interface(&self) -> Result<(Option<Interface>, Option<Tap>), VmmError> {
        let interface = self.devices.interface(self.run.root())?;
        let tap = interface.as_ref().map(|interface| interface.tap().clone());
        Ok((interface, tap))
    }

    /// Returns a text that is the same for two whose processes can stand in for each other, given
    /// that their devices are the same.
    pub(super) fn process_kind(&self) -> String {
        let Self {
            binary,
            run,
            jailer,
            cells: _,
            confined,
            devices: _,
        } = self;
        let (run, jailer) = (run.root(), jailer.as_ref().map(|jailer| jailer.settings()));
        format!("{binary:?} {run:?} {jailer:?} {confined:?}")
    }

    /// Starts a process and waits for its API; it has no VM yet.
    pub(super) async fn start(
        &self,
        machine: Machine,
        interface: Option<Interface>,
        writes: Snapshot,
    ) -> Result<FirecrackerVm, VmmError> {
        let started = self.start_process(machine, interface, writes).await;
        started.map_err(|error| match error {
            // The jailer fails to make what there is in a jail, and its message does not tell that
            // apart.
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
        let Ok(stat) = rustix::fs::statvfs(self.run.root()) else {
            return true;
        };
        // Some file systems don't count inodes.
        let has_files = stat.f_files == 0 || stat.f_favail > 0;
        has_files && stat.f_bavail > 0
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
            Some(jailer) => VmDir::in_jail(&run, jailer, self.cells.take(&run, machine).await?),
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
            Ok(api) => {
                let started_in = start.elapsed();
                Ok(FirecrackerVm::new(
                    process, api, chroot, machine, started_in,
                ))
            }
            Err(error) => {
                process.end().await;
                Err(error)
            }
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
                _pid_namespace: None,
            }));
        };
        let tap = interface.as_ref().map(Interface::tap);
        let network = tap.and_then(|tap| tap.namespace.as_deref());
        let program = jailer.program(jail, run.path(), machine, network, &arguments);
        let pid_namespace = jailer.pid_namespace();
        Ok(Launch::new(program)
            .in_pid_namespace(pid_namespace.descriptor())
            .joining(jail.cell.entrances()?)
            .recorded_in(Arc::clone(&run))
            .with(VmResources {
                _dir: dir,
                _interface: interface,
                _pid_namespace: Some(pid_namespace),
            }))
    }
}

/// Returns the control groups by which a jailer's VMs are limited.
fn limits(jailer: Option<&Jailer>) -> Option<Cgroups> {
    jailer.and_then(Jailer::cgroups).cloned()
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

        let run = directory.path().join("run");
        let binary = "/bin/false".into();
        let starter = Starter::new(binary, &run, None, Devices::default()).unwrap();
        let machine = Machine {
            memory_mib: 128,
            vcpus: 1,
            disk_mib: None,
        };
        let started = timeout(API_TIMEOUT, starter.start(machine, None, Snapshot::None));
        let error = started.await.unwrap().err().unwrap();
        assert!(error.to_string().contains("exit status: 1"), "{error}");
        drop(end);
    }
}
