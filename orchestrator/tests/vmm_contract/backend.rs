//! The backends that the suite runs against.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ironclaw_orchestrator::template::{ImportSpec, Template, TemplateError, TemplateStore};
use ironclaw_orchestrator::vm::config::{BackendChoice, JailChoice};
use ironclaw_orchestrator::vm::firecracker::{Devices, Firecracker, FirecrackerBinary};
use ironclaw_orchestrator::vm::qemu;
use ironclaw_orchestrator::vm::snapshot::SnapshotStore;
use ironclaw_orchestrator::vm::vmm::{Machine, Vmm, VmmError};
use ironclaw_orchestrator::vm::{Config, LaunchError, Launcher};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::task::spawn_blocking;

use crate::real::{self, Real};
use crate::required::unless_required;
use crate::simulator::Simulator;

/// The kind of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Simulator,
    Firecracker,
    Qemu,
}

/// A backend with a template, in directories of its own.
pub(crate) struct Backend {
    pub(crate) launcher: Launcher,
    pub(crate) vmm: Arc<dyn Vmm>,
    pub(crate) config: Config,
    pub(crate) simulator: Option<Simulator>,
    _directory: Option<tempfile::TempDir>,
}

/// The requirement that is not installed.
pub(crate) type Missing = String;

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Simulator, Self::Firecracker, Self::Qemu];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Simulator => "simulator",
            Self::Firecracker => "firecracker",
            Self::Qemu => "qemu",
        }
    }

    pub(crate) async fn start(self) -> Result<Backend, Missing> {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut backend = self.start_in(directory.path()).await?;
        backend._directory = Some(directory);
        Ok(backend)
    }

    /// Starts it in a directory that may have been used before.
    pub(crate) async fn start_in(self, directory: &Path) -> Result<Backend, Missing> {
        let mut config = Config::from_env().unwrap();
        config.jail = JailChoice::Off;
        config.machine = Machine::new(128, 1);
        config.snapshot_path = directory.join("snapshots");
        config.run_path = directory.join("run");
        let mut simulator = None;
        let (vmm, template): (Arc<dyn Vmm>, Template) = match self {
            Self::Qemu => {
                // Built by the first of all tests that needs it, and kept.
                config.template_path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vm/templates");
                config.backend = BackendChoice::Only(qemu::KIND);
                let launcher = match Launcher::open(&config, Arc::new(|_: &_| {})).await {
                    Err(
                        error @ (LaunchError::Vmm(VmmError::NotInstalled { .. })
                        | LaunchError::NoGuestAgent { .. }
                        | LaunchError::Template(TemplateError::NotStatic { .. })),
                    ) => {
                        unless_required(&error);
                        return Err(error.to_string());
                    }
                    opened => opened.unwrap(),
                };
                (launcher.hypervisor(), launcher.template().clone())
            }
            Self::Firecracker => {
                let Real { binary, guest } = real::firecracker().await?;
                let vmm =
                    Firecracker::new(binary, &config.run_path, None, Devices::default()).unwrap();
                (Arc::new(vmm), import(directory, guest))
            }
            Self::Simulator => {
                let installed = Simulator::install(directory);
                let binary = FirecrackerBinary::find(Some(installed.binary()))
                    .await
                    .unwrap();
                simulator = Some(installed);
                let vmm =
                    Firecracker::new(binary, &config.run_path, None, Devices::default()).unwrap();
                // The simulator reads no kernel; any file will do.
                let kernel = directory.join("kernel");
                std::fs::write(&kernel, "\x7fELF").unwrap();
                (Arc::new(vmm), import(directory, kernel))
            }
        };
        let snapshots = SnapshotStore::open(&config.snapshot_path).unwrap();
        let progress = Arc::new(|_: &_| {});
        let launcher =
            Launcher::with(Arc::clone(&vmm), template, &config, snapshots, progress).unwrap();
        Ok(Backend {
            launcher,
            vmm,
            config,
            simulator,
            _directory: None,
        })
    }
}

pub(crate) fn import(directory: &Path, kernel: PathBuf) -> Template {
    let store = TemplateStore::open(directory.join("templates")).unwrap();
    let spec = ImportSpec {
        kernel,
        initramfs: None,
        root_disk: None,
        boot_args: String::new(),
    };
    store.import(&spec, &mut |_| {}).unwrap()
}

impl Backend {
    /// Wraps a backend created by the caller, in the caller's directory.
    pub(crate) fn new(launcher: Launcher, vmm: Arc<dyn Vmm>, config: Config) -> Self {
        Self {
            launcher,
            vmm,
            config,
            simulator: None,
            _directory: None,
        }
    }

    /// Lists the directories of this backend's VMs.
    pub(crate) fn homes(&self) -> Vec<PathBuf> {
        let list = |path: &Path| -> Vec<PathBuf> {
            std::fs::read_dir(path).map_or_else(
                |_| Vec::new(),
                |entries| entries.map(|entry| entry.unwrap().path()).collect(),
            )
        };
        let owners = list(&self.config.run_path).into_iter();
        let all = owners.flat_map(|owner| list(&owner));
        // Not the records of their processes, and not what jails keep for the next VM.
        let is_home = |home: &PathBuf| home.is_dir() && !home.ends_with(".cells");
        all.filter(is_home).collect()
    }

    /// Waits until no VM has left a process, a directory or an unfinished snapshot. Polls: a failed
    /// VM is killed at once, and cleaned up a moment later without any event.
    pub(crate) async fn nothing_is_left(&self) {
        let directory = self.config.run_path.parent().unwrap();
        let start = Instant::now();
        loop {
            let (homes, living) = (self.homes(), living_below(directory));
            let snapshots = std::fs::read_dir(&self.config.snapshot_path).unwrap();
            let names = snapshots.map(|entry| entry.unwrap().file_name());
            let staged: Vec<_> = names.filter(|name| name.as_bytes()[0] == b'.').collect();
            if homes.is_empty() && living.is_empty() && staged.is_empty() {
                return;
            }
            let left = (homes, living, staged);
            assert!(start.elapsed() < Duration::from_secs(10), "left: {left:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

pub(crate) fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Timeout of a killed process's end, which takes milliseconds.
const END_TIMEOUT: Timespec = Timespec {
    tv_sec: 10,
    tv_nsec: 0,
};

/// A process watched for its end.
pub(crate) struct Watched(OwnedFd);

impl Watched {
    /// Opens the process; `None` if it has ended.
    pub(crate) fn if_alive(pid: u32) -> Option<Self> {
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => None,
            opened => Some(Self(opened.unwrap())),
        }
    }

    /// Waits for its end; panics if it goes on.
    pub(crate) async fn ended(self) {
        let ended = spawn_blocking(move || {
            poll(
                &mut [PollFd::new(&self.0, PollFlags::IN)],
                Some(&END_TIMEOUT),
            )
            .unwrap()
        });
        assert_eq!(ended.await.unwrap(), 1, "the process goes on");
    }
}

/// Lists the processes that work below `directory`, or have a path there among their arguments.
pub(crate) fn living_below(directory: &Path) -> Vec<u32> {
    let numbers = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let name = entry.ok()?.file_name();
        name.to_str()?.parse::<u32>().ok()
    });
    let text = directory.as_os_str().as_bytes();
    let is_below = |number: &u32| {
        // A process that ended meanwhile has neither.
        let place = std::fs::read_link(format!("/proc/{number}/cwd")).unwrap_or_default();
        let line = std::fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        place.starts_with(directory) || line.windows(text.len()).any(|part| part == text)
    };
    numbers.filter(is_below).collect()
}
