//! The state of one test: a run directory, snapshots, and the test guest's template.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ironclaw_orchestrator::template::{ImportSpec, TemplateStore};
use ironclaw_orchestrator::vm::config::{BackendChoice, JailChoice};
use ironclaw_orchestrator::vm::firecracker::{FirecrackerBinary, KIND};
use ironclaw_orchestrator::vm::snapshot::Snapshot;
use ironclaw_orchestrator::vm::{Command, Config, Launcher, Pool, PoolOptions, VmHandle};
use ironclaw_test_harness::skipped;
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use tempfile::TempDir;

use crate::process::readable_within;
use crate::real::{self, Real};

/// Timeout of a killed process's cleanup, which takes milliseconds.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(10);

/// A test's directories and settings. Everything below them must be gone at the end of the test.
pub(crate) struct Lab {
    directory: TempDir,
    pub(crate) binary: FirecrackerBinary,
    pub(crate) config: Config,
}

impl Lab {
    /// Opens a lab; `None` where a real Firecracker can't be tested, which ignores the test.
    pub(crate) async fn open() -> Option<Self> {
        let Real { binary, guest } = match real::firecracker().await {
            Ok(real) => real,
            Err(reason) => {
                skipped(reason);
                return None;
            }
        };
        let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let config = Self::config_below(directory.path());
        import(&config, guest).await;
        Some(Self {
            directory,
            binary,
            config,
        })
    }

    /// Returns the settings of a test with this directory.
    pub(crate) fn config_below(directory: &Path) -> Config {
        let mut config = Config::from_env().unwrap();
        config.backend = BackendChoice::Only(KIND);
        // The jail has tests of its own.
        config.jail = JailChoice::Off;
        config.template_path = directory.join("templates");
        config.snapshot_path = directory.join("snapshots");
        config.run_path = directory.join("run");
        config
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) async fn launcher(&self) -> Launcher {
        launcher(&self.config).await
    }

    /// Creates a launcher and a snapshot.
    pub(crate) async fn snapshot(&self) -> (Launcher, Snapshot) {
        let launcher = self.launcher().await;
        let snapshot = launcher.create_snapshot().await.unwrap().snapshot;
        (launcher, snapshot)
    }

    /// Creates a launcher, and a clone of a snapshot.
    pub(crate) async fn vm(&self, name: &str) -> (Launcher, VmHandle) {
        let (launcher, snapshot) = self.snapshot().await;
        let vm = launcher.restore_vm(&snapshot, name).await.unwrap();
        (launcher, vm)
    }

    /// Lists directories and sockets of VMs, below the run directories of all owners.
    pub(crate) fn homes(&self) -> Vec<PathBuf> {
        let owners = list(&self.config.run_path).into_iter();
        owners
            .filter(|owner| !owner.ends_with(".claims"))
            .flat_map(|owner| list(&owner))
            // Not the records of their processes, and not what jails keep for the next VM.
            .filter(|home| home.is_dir() && !home.ends_with(".cells"))
            .flat_map(|home| match home.ends_with("start-firecracker") {
                // All jails share a directory.
                true => list(&home),
                false => vec![home],
            })
            .collect()
    }

    /// Waits until the directories of VMs are gone. Each is removed when its process was reaped,
    /// which nobody waits for after a failure.
    pub(crate) fn until_no_home(&self) {
        let watch = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        for owner in list(&self.config.run_path) {
            add_watch(&watch, owner, WatchFlags::DELETE).unwrap();
        }
        while !self.homes().is_empty() {
            assert!(
                readable_within(&watch, CLEANUP_TIMEOUT),
                "{:?}",
                self.homes()
            );
            rustix::io::read(&watch, &mut [0; 4096]).unwrap();
        }
    }
}

pub(crate) async fn launcher(config: &Config) -> Launcher {
    Launcher::open(config, Arc::new(|_: &_| {})).await.unwrap()
}

async fn import(config: &Config, guest: PathBuf) {
    let path = config.template_path.clone();
    let spec = ImportSpec {
        kernel: guest,
        initramfs: None,
        root_disk: None,
        boot_args: String::new(),
    };
    let import = move || {
        let store = TemplateStore::open(path).unwrap();
        store.import(&spec, &mut |_| {}).unwrap();
    };
    tokio::task::spawn_blocking(import).await.unwrap();
}

/// Opens a pool of `size` snapshots and `warm` warm clones.
pub(crate) async fn pool(launcher: &Launcher, size: usize, warm: usize) -> Pool {
    let options = PoolOptions::new(size).with_warm(warm);
    Pool::open(launcher.clone(), options).await.unwrap()
}

/// Runs a command that must succeed; returns its standard output.
pub(crate) async fn run(vm: &VmHandle, command: impl Into<Command>) -> String {
    let output = vm.exec(command).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Lists a directory; nothing if it does not exist.
pub(crate) fn list(directory: &Path) -> Vec<PathBuf> {
    match std::fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
            Vec::new()
        }
    }
}

/// Formats an error with its causes.
pub(crate) fn words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
