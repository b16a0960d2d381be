//! Ends that nobody planned: signals, time limits, killed VMs.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Instant;

use rustix::process::{Signal, kill_process};

use crate::apart::{Apart, ended, pid, watch};
use crate::command::{after, hidden, started, started_with, text};
use crate::vm::{TIMEOUT, children, runs};

#[test]
fn a_killed_vm_is_said_and_leaves_nothing_behind() {
    if !runs() {
        return;
    }
    let apart = Apart::new();
    let (child, vmm) = started(apart.ironclaw(&[]));
    assert!(apart.processes().contains(&vmm));
    kill_process(pid(vmm), Signal::KILL).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(122), "{output:?}");
    assert!(text(&output.stderr).contains("SIGKILL"), "{output:?}");
    apart.assert_nothing_left("SIGKILL");
}

#[test]
fn a_time_limit_is_over_although_the_guest_does_not_say_so() {
    if !runs() {
        return;
    }
    let apart = Apart::new();
    let (child, vmm) = started_with(apart.ironclaw(&[]), &["--timeout", "10s"]);
    kill_process(pid(vmm), Signal::STOP).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(124), "{output:?}");
    let told = text(&output.stderr);
    assert!(
        told.contains("limit of 10s") && told.contains("VM was killed"),
        "{told}"
    );
    apart.assert_nothing_left("a time limit");
}

#[test]
fn a_signal_to_us_ends_the_vm() {
    if !runs() {
        return;
    }
    let apart = Apart::new();
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let (child, _) = started(apart.ironclaw(&[]));
        kill_process(pid(child.id()), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        apart.assert_nothing_left("a signal");
    }
}

#[test]
fn a_hang_up_that_nohup_has_us_ignore_ends_nothing() {
    if !runs() {
        return;
    }
    let apart = Apart::new();
    let ours = apart.ironclaw(&[]);
    let (child, _) = started(after("trap '' HUP", &ours));
    let ignored = procfs::process::Process::new(child.id().cast_signed())
        .and_then(|process| process.status())
        .unwrap()
        .sigign;
    assert_eq!(ignored & 1, 1, "{ignored:#x}");
    kill_process(pid(child.id()), Signal::HUP).unwrap();
    kill_process(pid(child.id()), Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{output:?}");
}

#[test]
fn killing_us_without_warning_leaves_no_process_and_no_file() {
    if !runs() {
        return;
    }
    let apart = Apart::new();
    let (mut child, vmm) = started(apart.ironclaw(&[]));
    let gone = watch(vmm);
    child.kill().unwrap();
    child.wait().unwrap();
    ended(&gone);

    // Killed during a build: the next one sweeps what is unfinished.
    let mut child = apart
        .ironclaw(&["snapshot", "create"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.as_mut().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("booting")));
    // The line announces the next stage: the build itself shows by its process.
    let start = Instant::now();
    let vmm = loop {
        if let [vmm] = children(child.id())[..] {
            break watch(vmm);
        }
        assert!(start.elapsed() < TIMEOUT, "there is no VM");
        std::thread::yield_now();
    };
    child.kill().unwrap();
    child.wait().unwrap();
    ended(&vmm);
    assert_eq!(hidden(&apart.snapshots()).len(), 1);
    let output = apart.ironclaw(&["run", "--", "true"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    apart.assert_nothing_left("a run after SIGKILL");
}
