//! A QEMU that can not be used.

use std::fs;

use crate::apart::Apart;
use crate::command::{ironclaw, text};
use crate::vm::{runs, state};

#[test]
fn a_script_that_runs_qemu_as_a_child_is_refused_by_run_and_doctor_and_leaves_nothing() {
    if !runs() {
        return;
    }
    let apart = Apart::new();
    let qemu = std::env::var_os("IRONCLAW_QEMU").unwrap_or("qemu-system-x86_64".into());
    let qemu = which::which(qemu).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let script = |line: String| {
        let path = directory.path().join("qemu");
        fs::write(&path, format!("#!/bin/sh\n{line}\n")).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        path
    };
    let (child, far) = ("", "setsid ");
    for (words, code, how) in [
        (&["run", "--", "true"][..], 121, child),
        (&["run", "--", "true"], 121, far),
        (&["doctor"], 1, child),
    ] {
        let as_a_child = script(format!("{how}{} \"$@\" & wait", qemu.display()));
        let output = apart
            .ironclaw(words)
            .env("IRONCLAW_BACKEND", "qemu")
            .env("IRONCLAW_JAIL", "off")
            .env("IRONCLAW_QEMU", &as_a_child)
            .output()
            .unwrap();
        let said = [&output.stdout[..], &output.stderr].concat();
        let said = text(&said);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains("`exec`"), "{said}");
        apart.assert_nothing_left("a script that was refused");
    }
    let itself = script(format!("exec {} \"$@\"", qemu.display()));
    let output = apart
        .ironclaw(&["run", "--", "true"])
        .env("IRONCLAW_BACKEND", "qemu")
        .env("IRONCLAW_JAIL", "off")
        .env("IRONCLAW_QEMU", &itself)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn a_qemu_that_cant_be_used_costs_no_snapshot_and_may_be_among_the_state() {
    if !runs() {
        return;
    }
    let home = tempfile::tempdir_in(state()).unwrap();
    let (snapshots, qemu) = (home.path().join("snapshots"), home.path().join("qemu"));
    let names = || -> Vec<_> {
        let entries = fs::read_dir(&snapshots).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let with = |line: &str, words: &[&str]| {
        fs::write(&qemu, format!("#!/bin/sh\n{line}\n")).unwrap();
        fs::set_permissions(&qemu, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut command = ironclaw(words);
        command
            .env("IRONCLAW_BACKEND", "qemu")
            .env("IRONCLAW_QEMU", &qemu)
            .env("IRONCLAW_POOL_SIZE", "1")
            .env("IRONCLAW_SNAPSHOT_PATH", &snapshots)
            .output()
            .unwrap()
    };
    let itself = "exec qemu-system-x86_64 \"$@\"";
    let output = with(itself, &["pool", "warmup"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let before = names();
    assert_eq!(before.len(), 1, "{before:?}");

    let output = with("qemu-system-x86_64 \"$@\"; exit", &["run", "--", "true"]);
    let said = text(&output.stderr);
    // The error is about both tiers, and not about leftovers of the first.
    assert_eq!(output.status.code(), Some(121), "{said}");
    assert_eq!(names(), before, "{said}");

    let dies =
        "[ \"$1\" != --version ] || exec qemu-system-x86_64 \"$@\"; echo no luck >&2; exit 1";
    for _ in 0..3 {
        let output = with(dies, &["run", "--", "true"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(122), "{said}");
        assert!(said.contains("no luck"), "{said}");
        assert_eq!(names(), before, "{said}");
    }

    let output = with(itself, &["run", "-v", "--", "true"]);
    let said = text(&output.stderr);
    assert!(
        output.status.success() && said.contains("restored"),
        "{said}"
    );
}
