//! A launcher for the real Firecracker, with directories of its own for each test.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use ironclaw_orchestrator::template::{ImportSpec, TemplateStore};
use ironclaw_orchestrator::vm::config::{BackendChoice, JailChoice};
use ironclaw_orchestrator::vm::firecracker::FirecrackerBinary;
use ironclaw_orchestrator::vm::snapshot::Machine;
use ironclaw_orchestrator::vm::{Command, Config, Launcher, VmHandle};

/// What a test works with; dropping it removes its directories.
pub(crate) struct Bench {
    pub(crate) launcher: Launcher,
    pub(crate) config: Config,
    directory: tempfile::TempDir,
}

/// A launcher whose VMs are not jailed, or `None` and, once, a line that says why.
pub(crate) async fn bench() -> Option<Bench> {
    bench_with(JailChoice::Off).await
}

pub(crate) async fn bench_with(jail: JailChoice) -> Option<Bench> {
    let guest = match requirements().await {
        Ok(guest) => guest,
        Err(reason) => {
            static SAID: Once = Once::new();
            // Not by `println!`, which nobody sees of a test that passes.
            SAID.call_once(|| {
                let _ = writeln!(std::io::stderr(), "skipped: no firecracker: {reason}");
            });
            return None;
        }
    };
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut config = Config::from_env().unwrap();
    config.backend = BackendChoice::Firecracker;
    config.jail = jail;
    config.machine = Machine {
        memory_mib: 128,
        vcpus: 1,
    };
    config.template_path = directory.path().join("templates");
    config.snapshot_path = directory.path().join("snapshots");
    config.run_path = directory.path().join("run");
    let store = TemplateStore::open(&config.template_path).unwrap();
    let spec = ImportSpec {
        kernel: guest,
        initramfs: None,
        boot_args: String::new(),
    };
    store.import(&spec, &mut |_| {}).unwrap();
    Some(Bench {
        launcher: open(&config).await,
        config,
        directory,
    })
}

pub(crate) async fn open(config: &Config) -> Launcher {
    Launcher::open(config, Arc::new(|_: &_| {})).await.unwrap()
}

/// The guest's image, or what is missing.
async fn requirements() -> Result<PathBuf, String> {
    let config = Config::from_env().unwrap();
    let kvm = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    kvm.map_err(|error| format!("/dev/kvm can't be opened: {error}"))?;
    FirecrackerBinary::find(config.firecracker.as_deref())
        .await
        .map_err(|error| error.to_string())?;
    std::env::var_os("IRONCLAW_TESTGUEST")
        .map(PathBuf::from)
        .filter(|guest| guest.is_file())
        .ok_or_else(|| "the test guest is not built (cargo xtask test does it)".to_owned())
}

impl Bench {
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A clone of a new snapshot.
    pub(crate) async fn vm(&self, name: &str) -> VmHandle {
        let created = self.launcher.create_snapshot().await.unwrap();
        let vm = self.launcher.restore_vm(&created.snapshot, name).await;
        vm.unwrap()
    }

    /// What VMs have left below the run directory of this launcher: nothing, when all are gone.
    pub(crate) fn homes(&self) -> Vec<PathBuf> {
        let owners = entries(&self.config.run_path).into_iter();
        owners
            .filter(|owner| !owner.ends_with(".users"))
            .flat_map(|owner| entries(&owner))
            .flat_map(|home| {
                // The jails of one binary share a directory.
                if home.ends_with("firecracker") {
                    entries(&home)
                } else {
                    vec![home]
                }
            })
            .collect()
    }
}

fn entries(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Standard output of a command that must succeed.
pub(crate) async fn out(vm: &VmHandle, command: &[&str]) -> String {
    let line = Command::new(command[0]).args(command[1..].iter().copied());
    let output = vm.exec(line).await.unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
