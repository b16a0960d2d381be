//! VMMs that are missing, or that can not be used.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use ironclaw_test_harness::skipped;
use predicates::prelude::*;
use predicates::str::contains;

use crate::state::{import_a_kernel, ironclaw, program, state};

#[test]
fn a_missing_qemu_ends_a_run_and_is_found_by_doctor() {
    let state = state();
    let qemu = state.path().join("no-qemu-here");
    // A Firecracker would run the guest instead.
    ironclaw(state.path())
        .env("IRONCLAW_BACKEND", "qemu")
        .env("IRONCLAW_QEMU", &qemu)
        .args(["run", "--", "true"])
        .assert()
        .code(121)
        .stderr(contains("qemu-system-x86").and(contains(qemu.display().to_string())));
    let failure = ironclaw(state.path())
        .env("IRONCLAW_BACKEND", "qemu")
        .env("IRONCLAW_QEMU", &qemu)
        .args(["run", "--json", "--", "true"])
        .assert()
        .code(121);
    let failure: serde_json::Value = serde_json::from_slice(&failure.get_output().stdout).unwrap();
    assert_eq!(failure["exit_code"], 121);
    let error = failure["error"].as_str().unwrap();
    assert!(error.contains(&qemu.display().to_string()), "{error}");

    let report = ironclaw(state.path())
        .env("IRONCLAW_BACKEND", "qemu")
        .env("IRONCLAW_QEMU", &qemu)
        .args(["doctor", "--json"])
        .assert();
    let report = report.code(1);
    let report: serde_json::Value = serde_json::from_slice(&report.get_output().stdout).unwrap();
    assert_eq!(report["works"], false);
    let checks = report["checks"].as_array().unwrap();
    let qemu_check = checks.iter().find(|check| check["name"] == "QEMU").unwrap();
    assert_eq!(qemu_check["status"], "fail");
}

#[test]
fn a_file_on_path_that_can_not_be_run_does_not_hide_the_program_behind_it() {
    let state = state();
    let path = ["first", "second"].map(|name| {
        let directory = state.path().join(name);
        fs::create_dir(&directory).unwrap();
        let program = directory.join("qemu-system-x86_64");
        fs::write(&program, "#!/bin/sh\necho QEMU emulator version 7.2.0\n").unwrap();
        directory
    });
    let program = path[1].join("qemu-system-x86_64");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let report = ironclaw(state.path())
        .env("PATH", std::env::join_paths(&path).unwrap())
        .args(["doctor", "--json"])
        .assert();
    let report: serde_json::Value = serde_json::from_slice(&report.get_output().stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let qemu = checks.iter().find(|check| check["name"] == "QEMU").unwrap();
    let found = qemu["found"].as_str().unwrap();
    assert_eq!(found, format!("{} 7.2.0", program.display()));
}

#[test]
fn a_firecracker_that_is_not_there_is_named_with_what_to_do() {
    if !has_kvm() {
        return;
    }
    let state = state();
    ironclaw(state.path())
        .env("IRONCLAW_FIRECRACKER", "/no/such/firecracker")
        .args(["run", "--backend", "firecracker", "--", "true"])
        .assert()
        .code(121)
        .stderr(contains("/no/such/firecracker").and(contains("IRONCLAW_FIRECRACKER")));
}

/// Returns whether there is KVM; without it, errors are about that.
fn has_kvm() -> bool {
    let kvm = fs::File::options().read(true).write(true).open("/dev/kvm");
    if let Err(error) = &kvm {
        skipped(format!("/dev/kvm: {error}"));
    }
    kvm.is_ok()
}

#[test]
fn a_required_firecracker_s_own_error_is_shown() {
    if !has_kvm() {
        return;
    }
    let state = state();
    import_a_kernel(state.path());
    let program = program(
        state.path(),
        "firecracker",
        "[ \"$1\" = --version ] && exec echo Firecracker v1.17.0\necho none today; exit 3",
    );
    let cpu = state.path().join("cpu.json");
    fs::write(&cpu, "{}").unwrap();
    ironclaw(state.path())
        .env("IRONCLAW_FIRECRACKER", &program)
        .env("IRONCLAW_JAIL", "off")
        .env("IRONCLAW_CPU_TEMPLATE", &cpu)
        .args(["run", "--", "true"])
        .assert()
        .code(122)
        .stderr(contains("exit status: 3").and(contains("needs Firecracker").not()));
}
