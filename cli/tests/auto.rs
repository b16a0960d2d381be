//! Tests which backend `auto` selects, and that it reports once why it takes no better one.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

// The `test` attribute is that of the harness.
#[macro_use]
extern crate ironclaw_test_harness;

#[allow(dead_code, reason = "surroundings uses the rest")]
mod apart;
mod vm;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use apart::Apart;
use ironclaw_test_harness::skipped;
use tempfile::TempDir;
use vm::{runs, state};

/// The common part of these warnings.
const NOT_USED: &str = "is not used";

fn main() -> std::process::ExitCode {
    ironclaw_test_harness::main()
}

/// `ironclaw` with templates that were never probed.
struct Unprobed {
    apart: Apart,
    directory: TempDir,
    settings: Vec<(&'static str, PathBuf)>,
}

impl Unprobed {
    fn new(settings: Vec<(&'static str, PathBuf)>) -> Self {
        let directory = tempfile::tempdir_in(state()).unwrap();
        let templates = state().join("templates");
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(templates).arg(directory.path());
        assert!(copy.status().unwrap().success());
        for entry in fs::read_dir(directory.path().join("templates")).unwrap() {
            let path = entry.unwrap().path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                fs::remove_file(path).unwrap();
            }
        }
        Self {
            apart: Apart::new(),
            directory,
            settings,
        }
    }

    fn ironclaw(&self, arguments: &[&str]) -> Output {
        let mut command = self.apart.ironclaw(arguments);
        command.env(
            "IRONCLAW_TEMPLATE_PATH",
            self.directory.path().join("templates"),
        );
        command.env("IRONCLAW_POOL_SIZE", "1");
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command.output().unwrap()
    }

    /// Runs a command, which has to succeed; returns standard error.
    fn run(&self) -> String {
        let output = self.ironclaw(&["run", "--", "true"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        said
    }

    /// Returns doctor's check of that name.
    fn check(&self, name: &str) -> serde_json::Value {
        let output = self.ironclaw(&["doctor", "--json"]);
        let said = String::from_utf8(output.stderr).unwrap();
        // Problems are reported by its checks.
        assert!(output.status.success() && said.is_empty(), "{said}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut checks = report["checks"].as_array().unwrap().iter();
        checks.find(|check| check["name"] == name).unwrap().clone()
    }
}

fn kvm_can_be_opened() -> bool {
    let kvm = fs::File::options().read(true).write(true).open("/dev/kvm");
    kvm.inspect_err(|error| skipped(format!("/dev/kvm can't be opened: {error}")))
        .is_ok()
}

#[test]
fn a_firecracker_that_does_not_boot_the_template_is_warned_of_once_and_explained_by_doctor() {
    if !runs() || !kvm_can_be_opened() {
        return;
    }
    let Some(firecracker) = std::env::var_os("IRONCLAW_FIRECRACKER").map(PathBuf::from) else {
        return skipped("IRONCLAW_FIRECRACKER names none");
    };
    let unprobed = Unprobed::new(vec![("IRONCLAW_FIRECRACKER", firecracker)]);
    let said = unprobed.run();
    let used = unprobed.check("hypervisor");
    if used["found"].as_str().unwrap().starts_with("Firecracker") {
        assert!(!said.contains(NOT_USED), "{said}");
        return skipped("Firecracker boots the template here");
    }
    assert_eq!(said.matches(NOT_USED).count(), 1, "{said}");
    assert!(
        said.contains("doctor") && said.contains("Firecracker"),
        "{said}"
    );
    let again = unprobed.run();
    assert!(!again.contains(NOT_USED), "{again}");
    let found = used["found"].as_str().unwrap();
    for part in ["Firecracker", "did not answer within", "QEMU"] {
        assert!(found.contains(part) && !found.contains('\n'), "{found}");
    }
    let advice = used["advice"].as_str().unwrap();
    for part in ["IRONCLAW_BACKEND=firecracker", "template import", ".json"] {
        assert!(advice.contains(part), "{advice}");
    }
    // The jail is not lost either: QEMU has the strongest possible, or reports that it lacks it.
    let jail = unprobed.check("QEMU's jail");
    let is_full = jail["status"] == "ok";
    assert_eq!(said.contains("weaker jail"), !is_full, "{said}\n{jail}");
}

#[test]
fn a_firecracker_that_does_not_start_is_warned_of_once_in_each_run() {
    if !runs() || !kvm_can_be_opened() {
        return;
    }
    let directory = tempfile::tempdir_in(state()).unwrap();
    let unprobed = Unprobed::new(vec![
        ("IRONCLAW_FIRECRACKER", broken(directory.path())),
        ("IRONCLAW_JAIL", "off".into()),
    ]);
    for _ in 0..2 {
        let said = unprobed.run();
        assert_eq!(said.matches(NOT_USED).count(), 1, "{said}");
        assert!(said.contains("no luck"), "{said}");
    }
    let used = unprobed.check("hypervisor");
    let found = used["found"].as_str().unwrap();
    assert!(
        found.contains("Firecracker") && found.contains("QEMU"),
        "{found}"
    );
}

/// Creates a program that prints a version and does nothing else.
fn broken(directory: &Path) -> PathBuf {
    let path = directory.join("firecracker");
    let script =
        "[ \"$1\" != --version ] || exec echo Firecracker v1.17.0; echo no luck >&2; exit 1";
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}
