//! Decides whether tests can have VMs, and sets up their state.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ironclaw_orchestrator::vm::config::SETTINGS;
use ironclaw_orchestrator::vm::qemu::QemuBinary;
use ironclaw_orchestrator::vm::vmm::VmmError;
use ironclaw_orchestrator::vm::{Config, find_guest_agent};
use ironclaw_test_harness::skipped;
use procfs::process::Process;

/// Set by `cargo xtask test`, which installs QEMU and builds the agent: makes a missing VM a
/// failure.
const REQUIRED: &str = "IRONCLAW_TEST_REQUIRE_VM";

/// Timeout of the tests: far longer than anything takes that works, on any machine.
#[allow(dead_code, reason = "not every test looks at processes")]
pub(crate) const TIMEOUT: Duration = Duration::from_secs(120);

/// Returns the directory shared by all tests, kept between runs and apart from any user's.
pub(crate) fn state() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("vm")
}

/// Returns the settings with the shared template, and the snapshot directory of that name.
pub(crate) fn settings(snapshots: &str) -> [(&'static str, PathBuf); 3] {
    [
        ("IRONCLAW_TEMPLATE_PATH", state().join("templates")),
        ("IRONCLAW_SNAPSHOT_PATH", state().join(snapshots)),
        ("IRONCLAW_RUN_PATH", state().join("run")),
    ]
}

/// Settings that are passed on from the caller: paths of programs, which depend on the machine.
const PROGRAMS: [&str; 4] = [
    "IRONCLAW_QEMU",
    "IRONCLAW_FIRECRACKER",
    "IRONCLAW_JAILER",
    "IRONCLAW_GUEST_AGENT",
];

/// Returns `ironclaw` with these settings, and no others of the caller's.
pub(crate) fn ironclaw(snapshots: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironclaw"));
    for setting in SETTINGS {
        let name = setting.variable();
        if !PROGRAMS.contains(&name.as_str()) {
            command.env_remove(name);
        }
    }
    command.env_remove("RUST_LOG").env_remove("IRONCLAW_HOST");
    // Snapshots are kept between runs: an old one would be replaced in the middle of a test.
    command.env("IRONCLAW_SNAPSHOT_REFRESH_SECS", "1000000000");
    command.args(arguments).envs(settings(snapshots));
    command
}

/// Returns whether VMs are possible here; ignores the test if something is not installed. Any other
/// problem is a failure.
pub(crate) fn runs() -> bool {
    let doctor = ironclaw("command-line", &["doctor"]).output().unwrap();
    if doctor.status.success() {
        return true;
    }
    let missing = missing();
    let required = std::env::var_os(REQUIRED).is_some_and(|value| value == "1");
    assert!(
        missing.is_some() && !required,
        "{}",
        String::from_utf8_lossy(&doctor.stdout)
    );
    skipped(missing.unwrap_or_default());
    false
}

/// Returns the missing requirement of VMs, if any.
fn missing() -> Option<String> {
    let of = |name: &str| PROGRAMS.contains(&name).then(|| std::env::var_os(name));
    let config = Config::from_vars(|name| of(name).flatten(), true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    match runtime.block_on(QemuBinary::find(config.backends.qemu.binary.as_deref())) {
        Err(error @ VmmError::NotInstalled { .. }) => Some(error.to_string()),
        Err(_) => None,
        Ok(_) => Some(find_guest_agent(&config).err()?.to_string()),
    }
}

/// Returns the living children of a process.
#[allow(dead_code, reason = "not every test looks at processes")]
pub(crate) fn children(of: u32) -> Vec<u32> {
    let process = Process::new(i32::try_from(of).unwrap()).unwrap();
    // A thread that has ended meanwhile has no children.
    let children = process
        .tasks()
        .unwrap()
        .filter_map(|task| task.ok()?.children().ok());
    children.flatten().collect()
}

/// Makes a snapshot in `directory` that is older than the allowed age.
#[allow(dead_code, reason = "not every test needs one")]
pub(crate) fn old_snapshot(place: &str, directory: &Path) -> String {
    let made = ironclaw(place, &["snapshot", "create", "--json"])
        .env("IRONCLAW_SNAPSHOT_PATH", directory)
        .output()
        .unwrap();
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    let id = made["id"].as_str().unwrap();
    let path = directory.join(id).join("manifest.json");
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["created"]["unix_seconds"] = 1.into();
    fs::write(&path, manifest.to_string()).unwrap();
    id.to_owned()
}
