//! One template and one snapshot for all tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ironclaw_orchestrator::template::TemplateError;
use ironclaw_orchestrator::vm::snapshot::{Snapshot, SnapshotStore};
use ironclaw_orchestrator::vm::vmm::VmmError;
use ironclaw_orchestrator::vm::{Config, LaunchError, Launcher, VmHandle};
use ironclaw_test_harness::skipped;
use tokio::sync::OnceCell;

use crate::required::unless_required;

static LAUNCHER: OnceCell<Result<Launcher, String>> = OnceCell::const_new();
static SNAPSHOT: OnceCell<Snapshot> = OnceCell::const_new();

/// Returns the settings of the tests: state is kept between runs, apart from any user's.
pub(crate) fn config() -> Config {
    let state = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vm");
    let mut config = Config::from_env().unwrap();
    config.template_path = state.join("templates");
    config.snapshot_path = state.join("snapshots");
    config.run_path = state.join("run");
    config
}

/// Returns a launcher; `None`, which ignores the test, if something is not installed.
pub(crate) async fn launcher() -> Option<Launcher> {
    let open = || async {
        let progress = Arc::new(|_: &_| {});
        match Launcher::open(&config(), progress).await {
            Ok(launcher) => Ok(launcher),
            Err(
                error @ (LaunchError::Vmm(VmmError::NotInstalled { .. })
                | LaunchError::NoGuestAgent { .. }
                | LaunchError::Template(TemplateError::NotStatic { .. })),
            ) => {
                unless_required(&error);
                Err(error.to_string())
            }
            Err(error) => panic!("{error}"),
        }
    };
    let launcher = LAUNCHER.get_or_init(open).await.clone();
    launcher.inspect_err(|missing| skipped(missing)).ok()
}

/// Creates a launcher with a snapshot directory of its own, which is removed with the returned one.
pub(crate) async fn private() -> Option<(tempfile::TempDir, Launcher)> {
    // Builds the shared template first.
    launcher().await?;
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    Some((in_directory(directory.path()).await, directory)).map(|(l, d)| (d, l))
}

/// Returns the settings of the tests with snapshots in `directory`.
pub(crate) fn config_in(directory: &Path) -> Config {
    let mut config = config();
    config.snapshot_path = directory.join("snapshots");
    config
}

pub(crate) async fn in_directory(directory: &Path) -> Launcher {
    Launcher::open(&config_in(directory), Arc::new(|_: &_| {}))
        .await
        .unwrap()
}

/// Returns the snapshot that all tests share, made by the first of them.
pub(crate) async fn snapshot(launcher: &Launcher) -> &'static Snapshot {
    let make = || async {
        let store: &SnapshotStore = launcher.snapshots();
        store.sweep().unwrap();
        for entry in store.list().unwrap() {
            match store.load(entry.id, launcher.requirements()) {
                Ok(snapshot) => return snapshot,
                // Of an earlier agent or kernel.
                Err(_) => store.delete(entry.id).unwrap(),
            }
        }
        launcher.create_snapshot().await.unwrap().snapshot
    };
    SNAPSHOT.get_or_init(make).await
}

/// Restores a VM.
pub(crate) async fn vm(name: &str) -> Option<VmHandle> {
    let launcher = launcher().await?;
    let snapshot = snapshot(&launcher).await;
    Some(launcher.restore_vm(snapshot, name).await.unwrap())
}

/// Runs a script that must succeed; returns its standard output.
pub(crate) async fn sh(vm: &VmHandle, script: &str) -> String {
    let output = vm.exec(["sh", "-c", script]).await.unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Lists everything below a directory.
pub(crate) fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}
