//! Tests the command line with real VMs under QEMU. `cargo xtask test` installs their requirements;
//! without these each test is ignored, with the reason.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

// The `test` attribute is that of the harness.
#[macro_use]
extern crate ironclaw_test_harness;

mod apart;
mod vm;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Signal, kill_process};

use apart::{Apart, ended, pid, watch};
use vm::{TIMEOUT, children, runs, state};

fn main() -> std::process::ExitCode {
    ironclaw_test_harness::main()
}

fn ironclaw(arguments: &[&str]) -> Command {
    vm::ironclaw("command-line", arguments)
}

fn run(arguments: &[&str]) -> Output {
    ironclaw(&[&["run"], arguments].concat()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Starts a run; returns when its command has started, with the process of its VM.
fn started(run: Command) -> (Child, u32) {
    started_with(run, &[])
}

/// Does the same with options.
fn started_with(mut run: Command, options: &[&str]) -> (Child, u32) {
    let mut child = run
        .arg("run")
        .args(options)
        .args(["--", "sh", "-c", "echo on; exec sleep 1000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "on\n");
    let vmm = children(child.id());
    assert_eq!(vmm.len(), 1, "{vmm:?}");
    (child, vmm[0])
}

fn hidden(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap();
    names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.'))
        .collect()
}

#[test]
fn a_command_runs_and_its_output_and_exit_code_come_back() {
    if !runs() {
        return;
    }
    let output = run(&[
        "-v",
        "--env",
        "WHO=world",
        "--",
        "sh",
        "-c",
        "echo hello $WHO; exit 7",
    ]);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(text(&output.stdout), "hello world\n");
    assert!(text(&output.stderr).contains("restored"), "{output:?}");
}

#[test]
fn standard_input_is_forwarded_and_json_tells_everything() {
    if !runs() {
        return;
    }
    let mut child = ironclaw(&[
        "run",
        "--json",
        "--stdin",
        "--",
        "sh",
        "-c",
        "cat; kill -15 $$",
    ])
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    child.stdin.take().unwrap().write_all(b"input").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(128 + 15));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["stdout"], "input");
    assert_eq!(report["signal"], 15);
    assert_eq!(report["origin"], "restored");
}

#[test]
fn each_failure_in_the_guest_has_an_exit_code_of_its_own() {
    if !runs() {
        return;
    }
    let cases: [(&[&str], i32, &str); 4] = [
        (&["--", "no-such-program"], 127, "no-such-program"),
        (&["--cwd", "/no/dir", "--", "true"], 123, "/no/dir"),
        (&["--timeout", "200ms", "--", "sleep", "1000"], 124, "200ms"),
        (&["--", "/etc"], 126, "/etc"),
    ];
    let apart = Apart::new();
    for (arguments, code, word) in cases {
        let run = |first: &[&str]| {
            let output = apart.ironclaw(&[first, arguments].concat()).output();
            apart.assert_nothing_left(word);
            output.unwrap()
        };
        let output = run(&["run"]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(text(&output.stderr).contains(word), "{output:?}");
        let output = run(&["run", "--json"]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["exit_code"], code, "{report}");
        let told = report["error"].as_str();
        assert!(code == 124 || told.unwrap().contains(word), "{report}");
    }
}

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

/// Returns `command`, started by a shell that executes `first` before.
fn after(first: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    let script = format!("{first}; exec \"$@\"");
    shell.args(["-c", &script, "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
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

#[test]
fn an_old_snapshot_serves_a_run_as_it_is_and_a_warm_up_replaces_it() {
    if !runs() {
        return;
    }
    let snapshots = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let old = vm::old_snapshot("command-line", snapshots.path());
    let here = |arguments: &[&str]| {
        let mut command = ironclaw(arguments);
        command.env("IRONCLAW_SNAPSHOT_PATH", snapshots.path());
        command.env("IRONCLAW_POOL_SIZE", "1");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (json, output.stderr)
    };
    // Every build creates a directory there, at least for a moment.
    let changed = || fs::metadata(snapshots.path()).unwrap().modified().unwrap();
    let before = changed();
    let (run, said) = here(&["run", "--json", "--", "sleep", "1"]);
    assert_eq!(run["origin"], "restored");
    assert_eq!(text(&said), "");
    assert_eq!(changed(), before, "something was built beside the command");
    let (warmup, _) = here(&["pool", "warmup", "--json"]);
    assert_eq!(
        (&warmup["found"], &warmup["snapshots"]),
        (&0.into(), &1.into())
    );
    let (left, _) = here(&["snapshot", "list", "--json"]);
    assert_eq!(left.as_array().unwrap().len(), 1);
    assert_ne!(left[0]["id"], *old);
    let (again, _) = here(&["pool", "warmup", "--json"]);
    assert_eq!(again["found"], 1);
}

#[test]
fn many_runs_at_once_on_an_empty_directory_share_the_snapshot_of_one() {
    if !runs() {
        return;
    }
    let state = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let here = |arguments: &[&str]| {
        let mut command = ironclaw(arguments);
        command.env("IRONCLAW_SNAPSHOT_PATH", state.path().join("snapshots"));
        command
    };
    let runs: Vec<_> = (0..10)
        .map(|n| {
            here(&["run", "--", "echo", &n.to_string()])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let pids: Vec<u32> = runs.iter().map(Child::id).collect();
    let mut waited = 0;
    for (n, run) in runs.into_iter().enumerate() {
        let output = run.wait_with_output().unwrap();
        assert_eq!(text(&output.stdout), format!("{n}\n"), "{output:?}");
        let said = text(&output.stderr).lines();
        for line in said.filter(|line| line.contains("waiting for ")) {
            waited += 1;
            let named = |pid: &u32| line.contains(&format!("ironclaw (process {pid})"));
            assert!(pids.iter().any(named), "{line}");
        }
    }
    assert!(waited > 0, "nobody said that it waited");
    let list = here(&["snapshot", "list", "--json"]).output().unwrap();
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    assert_eq!(list[0]["in_use"], false);
    let created = &list[0]["manifest"]["created"]["unix_seconds"];
    assert_eq!(&list[0]["created"], created);
}

#[test]
fn the_user_of_a_snapshot_is_named() {
    if !runs() {
        return;
    }
    let (mut child, _) = started(ironclaw(&[]));
    let list = ironclaw(&["snapshot", "list", "--json"]).output().unwrap();
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    let used = |row: &&serde_json::Value| {
        let owners = row["owners"].as_array().unwrap();
        owners.iter().any(|owner| owner["pid"] == child.id())
    };
    let row = list.as_array().unwrap().iter().find(used);
    let id = row.expect("a snapshot of that process")["id"]
        .as_str()
        .unwrap();
    let delete = ironclaw(&["snapshot", "delete", id]).output().unwrap();
    assert_eq!(delete.status.code(), Some(125), "{delete:?}");
    let owner = format!("ironclaw (process {})", child.id());
    assert!(text(&delete.stdout).contains(&owner), "{delete:?}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn without_a_hypervisor_snapshots_are_listed_with_the_reason_why_none_fits() {
    if !runs() {
        return;
    }
    assert!(run(&["--", "true"]).status.success());
    let stats = ironclaw(&["pool", "stats", "--json"])
        .env("IRONCLAW_BACKEND", "qemu")
        .env("IRONCLAW_QEMU", "/no/such/qemu")
        .output()
        .unwrap();
    assert!(stats.status.success(), "{stats:?}");
    let stats: serde_json::Value = serde_json::from_slice(&stats.stdout).unwrap();
    assert_eq!(stats["fit"], 0);
    let error = stats["snapshots"][0]["error"].as_str().unwrap();
    assert!(error.contains("/no/such/qemu"), "{error}");
}

#[test]
fn a_low_limit_of_open_files_that_may_be_raised_is_raised() {
    if !runs() {
        return;
    }
    let run = ironclaw(&["run", "--", "echo", "runs"]);
    // Too few for a VM; the hard limit stays.
    let output = after("ulimit -Sn 12", &run).output().unwrap();
    assert_eq!(output.stdout, b"runs\n", "{output:?}");
}

#[test]
fn a_limit_of_file_sizes_is_named_and_ends_nothing() {
    if !runs() {
        return;
    }
    let state = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut run = ironclaw(&["run", "--", "echo", "runs"]);
    run.env("IRONCLAW_SNAPSHOT_PATH", state.path());
    // 512 KB: too little for a guest's memory, so that it is booted without a snapshot.
    let output = after("ulimit -f 1024", &run).output().unwrap();
    assert_eq!(output.stdout, b"runs\n", "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("(ulimit -f)"), "{told}");
    let left = std::fs::read_dir(state.path()).unwrap().count();
    assert_eq!(left, 0, "{told}");
}

#[test]
fn a_directory_for_temporary_files_is_not_needed() {
    if !runs() {
        return;
    }
    let mut run = ironclaw(&["run", "--", "echo", "runs"]);
    run.env("TMPDIR", "/nonexistent")
        .env_remove("IRONCLAW_JAIL");
    let output = run.output().unwrap();
    assert_eq!(output.stdout, b"runs\n", "{output:?}");
}

#[test]
fn a_warm_up_tells_what_was_there_and_what_it_took() {
    if !runs() {
        return;
    }
    let snapshots = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for found in [0, 1] {
        let warmup = ironclaw(&["pool", "warmup", "--json"])
            .env("IRONCLAW_SNAPSHOT_PATH", snapshots.path())
            .env("IRONCLAW_POOL_SIZE", "1")
            .output()
            .unwrap();
        assert!(warmup.status.success(), "{warmup:?}");
        let report: serde_json::Value = serde_json::from_slice(&warmup.stdout).unwrap();
        assert_eq!(report["snapshots"], 1);
        assert_eq!(report["found"], found);
        assert!(report["took_ms"].as_f64() > Some(0.0));
    }
}

#[test]
fn a_refresh_by_hand_deletes_what_is_old_and_used_by_nobody() {
    if !runs() {
        return;
    }
    let state = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // Of an older release: no sweep may remove it, and nobody here can use it.
    let make = |age: u64| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let time = (now.as_secs() - age) * 1000;
        let (high, low) = (time >> 16, time & 0xffff);
        let name = format!("{high:08x}-{low:04x}-7000-8000-000000000000");
        let path = state.path().join(name);
        fs::create_dir(&path).unwrap();
        let mark = "IronClaw made this directory, and removes it with all that is in it.\n";
        fs::write(path.join(".ironclaw"), mark).unwrap();
        fs::write(path.join("manifest.json"), r#"{"format": 1}"#).unwrap();
        path
    };
    let (old, young) = (make(2 * 3600), make(600));
    let refresh = ironclaw(&["pool", "refresh", "--json"])
        .env("IRONCLAW_SNAPSHOT_PATH", state.path())
        .env("IRONCLAW_POOL_SIZE", "1")
        .env("IRONCLAW_SNAPSHOT_REFRESH_SECS", "3600")
        .output()
        .unwrap();
    assert!(refresh.status.success(), "{refresh:?}");
    let report: serde_json::Value = serde_json::from_slice(&refresh.stdout).unwrap();
    assert_eq!(report["snapshots"], 1);
    assert_eq!(report["deleted"], serde_json::json!([old]));
    assert!(!old.exists() && young.exists());
}

#[test]
fn a_signal_ends_a_soak_whatever_it_does_and_leaves_nothing() {
    if !runs() {
        return;
    }
    let state = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for (phase, code) in [("warming up", 130), ("healing", 0)] {
        let mut child = ironclaw(&["soak", "--spawns=1", "--faults", "--json"])
            .env("IRONCLAW_SNAPSHOT_PATH", state.path().join("snapshots"))
            .env("IRONCLAW_POOL_SIZE", "2")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.as_mut().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains(phase)), "{phase}");
        kill_process(pid(child.id()), Signal::INT).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{phase}: {output:?}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        if code == 0 {
            assert_eq!(report["interrupted"], true, "{report:#}");
            let skipped = report["skipped"].to_string();
            assert!(skipped.contains("healing"), "{skipped}");
        } else {
            assert_eq!(report["exit_code"], code, "{report:#}");
        }
        let soaks = fs::read_dir(state.path().join(".ironclaw-soak")).unwrap();
        assert_eq!(soaks.count(), 0, "{phase}");
    }
}

#[test]
fn a_short_soak_with_faults_ends_with_nothing_left() {
    if !runs() {
        return;
    }
    let output = ironclaw(&["soak", "--for=15s", "--concurrency=4", "--faults", "--json"])
        .env("IRONCLAW_POOL_SIZE", "2")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:#?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], true, "{report:#}");
    assert!(report["spawns"].as_u64() > Some(0), "{report:#}");
    let served = &report["served"][0];
    assert!(served["spawn_ms"]["p50"].as_f64() > Some(0.0), "{report:#}");
    assert!(report["vmm"]["version"].is_string(), "{report:#}");
    let faults = report["faults"].as_object().unwrap();
    assert!(!faults.is_empty(), "{report:#}");
    let left: Vec<_> = fs::read_dir(state().join(".ironclaw-soak"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

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

#[test]
fn arguments_variables_and_directories_go_through_as_bytes() {
    if !runs() {
        return;
    }
    let latin = |text: &[u8]| OsStr::from_bytes(text).to_owned();
    let script = "printf '%s %s' \"$1\" \"$A\"";
    let output = ironclaw(&["run"])
        .arg(latin(b"--env=A=\xe9"))
        .args(["--", "sh", "-c", script, "x"])
        .arg(latin(b"caf\xe9"))
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"caf\xe9 \xe9", "{output:?}");
    let many: Vec<_> = (0..5000).map(|n| n.to_string()).collect();
    let output = ironclaw(&["run", "--", "sh", "-c", "echo $#", "x"])
        .args(many)
        .args(["y".repeat(70_000), "z".repeat(70_000)])
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout), "5002\n", "{output:?}");
}

#[test]
fn a_guest_that_ran_out_of_memory_is_told_with_the_setting() {
    if !runs() {
        return;
    }
    let eater = [
        "--",
        "sh",
        "-c",
        "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done",
    ];
    let output = run(&eater);
    assert_eq!(output.status.code(), Some(137), "{output:?}");
    let told = "the guest ran out of its 128 MiB of memory (IRONCLAW_MEMORY_MIB)";
    assert!(text(&output.stderr).contains(told), "{output:?}");
    let output = run(&[&["--json"], &eater[..]].concat());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["out_of_memory"], true, "{report}");
    let output = run(&["--json", "--", "sh", "-c", "kill -9 $$"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["out_of_memory"], false, "{report}");
}

#[test]
fn lines_to_both_streams_stay_in_order_where_both_go_to_one_place() {
    if !runs() {
        return;
    }
    let script = "for i in $(seq 1 300); do echo out $i; echo err $i >&2; done";
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = ironclaw(&["run", "--", "sh", "-c", script]);
    let stderr = writer.try_clone().unwrap();
    let mut child = command.stdout(writer).stderr(stderr).spawn().unwrap();
    drop(command);
    let mut printed = String::new();
    reader.read_to_string(&mut printed).unwrap();
    assert!(child.wait().unwrap().success());
    let expected: String = (1..=300).map(|i| format!("out {i}\nerr {i}\n")).collect();
    assert_eq!(printed, expected);
    let apart = run(&["--", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!(
        (text(&apart.stdout), text(&apart.stderr)),
        ("out\n", "err\n")
    );
}

#[test]
fn a_kernel_that_panics_is_told_once_and_not_booted_again() {
    if !runs() {
        return;
    }
    let apart = Apart::new();
    // The first run creates what all tests share.
    assert!(run(&["true"]).status.success());
    let kernel = state().join("templates/default/vmlinux");
    let templates = tempfile::tempdir().unwrap();
    for boot_args in ["console=ttyS0", "console=ttyS0 panic=-1"] {
        let ironclaw = |words: &[&str]| {
            apart
                .ironclaw(words)
                .env("IRONCLAW_TEMPLATE_PATH", templates.path().join("templates"))
                .env("IRONCLAW_BACKEND", "qemu")
                .env("IRONCLAW_QEMU_ACCEL", "tcg")
                .output()
                .unwrap()
        };
        let kernel = kernel.to_str().unwrap();
        // Finds no process to start.
        let imported = ironclaw(&[
            "template",
            "import",
            "--kernel",
            kernel,
            "--boot-args",
            boot_args,
        ]);
        assert!(imported.status.success(), "{}", text(&imported.stderr));
        let brief = ironclaw(&["run", "--", "true"]);
        let said = text(&brief.stderr);
        assert_eq!(brief.status.code(), Some(122), "{said}");
        assert!(said.contains("the guest's kernel panicked"), "{said}");
        let shown = |said: &str| said.lines().filter(|it| it.starts_with("guest| ")).count();
        assert!(
            said.contains("guest| ") && said.contains("Kernel panic - not syncing"),
            "{said}"
        );
        assert!(shown(said) <= 30, "{said}");
        assert_eq!(said.matches("booting the template\n").count(), 1, "{said}");
        assert!(!said.contains("trying again"), "{said}");
        let all = ironclaw(&["run", "-v", "--", "true"]);
        let said = text(&all.stderr);
        assert!(shown(said) > 30 && said.contains("Kernel panic"), "{said}");
        apart.assert_nothing_left("a kernel that panicked");
    }
}
