//! `ironclaw run`: what a command gets, and what comes back.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::process::Stdio;

use crate::apart::Apart;
use crate::command::{after, ironclaw, run, text};
use crate::vm::{runs, state};

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
