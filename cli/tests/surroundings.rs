//! Tests `ironclaw run` under shells, supervisors and terminals: streams that block or do not, and
//! signals.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

// The `test` attribute is that of the harness.
#[macro_use]
extern crate ironclaw_test_harness;

mod apart;
mod vm;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use procfs::process::{ProcState, Process};
use rustix::io::{ioctl_fionbio, ioctl_fionread};
use rustix::process::{Signal, kill_process, kill_process_group};

use apart::{Apart, pid};
use vm::{TIMEOUT, children, runs};

fn main() -> std::process::ExitCode {
    ironclaw_test_harness::main()
}

fn ironclaw(arguments: &[&str]) -> Command {
    vm::ironclaw("command-line", arguments)
}

/// Polls for a condition that no event reports.
fn comes_about(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < TIMEOUT, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A run of a shell script that prints `on` when it is ready.
struct Script {
    child: Child,
    lines: Receiver<String>,
}

impl Script {
    fn start(mut run: Command, script: &str) -> Self {
        let mut child = run
            .args(["run", "--", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (read, lines) = channel();
        // Reading has no timeout of its own.
        std::thread::spawn(move || {
            let mut line = String::new();
            while output.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                if read.send(std::mem::take(&mut line)).is_err() {
                    return;
                }
            }
        });
        let script = Self { child, lines };
        assert_eq!(script.line(), "on\n");
        script
    }

    /// Returns the next line; an empty one at the end.
    fn line(&self) -> String {
        match self.lines.recv_timeout(TIMEOUT) {
            Err(RecvTimeoutError::Timeout) => panic!("it says nothing"),
            line => line.unwrap_or_default(),
        }
    }

    fn send(&self, signal: Signal) {
        kill_process(pid(self.child.id()), signal).unwrap();
    }

    /// Waits for its end; returns its exit code and standard error.
    fn end(self) -> (Option<i32>, String) {
        let output = self.child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    }
}

#[test]
fn a_non_blocking_pipe_that_is_read_late_gets_all_of_the_output() {
    if !runs() {
        return;
    }
    let (mut reader, writer) = std::io::pipe().unwrap();
    ioctl_fionbio(&writer, true).unwrap();
    let mut command = ironclaw(&["run", "--", "seq", "1", "200000"]);
    let mut child = command.stdout(writer).spawn().unwrap();
    drop(command);
    comes_about("the pipe is full", || {
        ioctl_fionread(&reader).unwrap() >= 64 << 10
    });
    let mut output = String::new();
    reader.read_to_string(&mut output).unwrap();
    assert!(child.wait().unwrap().success());
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert!(output == expected, "{} bytes", output.len());
}

/// Runs `ironclaw run --stdin` in a shell's loop that reads the same standard input.
fn in_a_loop(command: &str, input: &str) -> String {
    let run = ironclaw(&["run", "--stdin", "--"]);
    let mut shell = Command::new("sh");
    let script = format!("while read -r line; do \"$@\" {command}; done");
    shell.args(["-c", &script, "sh"]).arg(run.get_program());
    shell.args(run.get_args());
    for (name, value) in run.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let mut shell = shell
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = shell.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_command_that_reads_nothing_leaves_standard_input_to_others() {
    if !runs() {
        return;
    }
    assert_eq!(in_a_loop("echo $line", "a\nb\nc\n"), "a\nb\nc\n");
    let later = in_a_loop("sh -c 'sleep 1; echo $0' $line", "a\nb\n");
    assert_eq!(later, "a\nb\n");
}

#[test]
fn standard_input_that_is_read_arrives_in_full_whatever_its_size() {
    if !runs() {
        return;
    }
    let input: Vec<u8> = (0..=250).cycle().take(3 << 20).collect();
    let mut child = ironclaw(&["run", "--stdin", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let expected = input.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.stdout == expected, "{} bytes", output.stdout.len());
}

#[test]
fn signals_are_for_the_command_and_its_exit_code_counts() {
    if !runs() {
        return;
    }
    let signals = [
        (Signal::HUP, "HUP"),
        (Signal::INT, "INT"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::ALARM, "ALRM"),
        (Signal::WINCH, "WINCH"),
    ];
    // Signals that the parent of the tests ignores, as under `nohup`, are ignored by all of us.
    let ignored = Process::myself().unwrap().status().unwrap().sigign;
    let signals = signals.into_iter();
    let signals: Vec<_> = signals
        .filter(|(signal, _)| ignored & (1 << (signal.as_raw() - 1)) == 0)
        .collect();
    let traps = signals
        .iter()
        .map(|(_, name)| format!("trap 'echo {name}' {name}; "));
    let script = format!(
        "{}trap 'exit 5' TERM; echo on; while :; do sleep .1; done",
        traps.collect::<String>()
    );
    let apart = Apart::new();
    let script = Script::start(apart.ironclaw(&[]), &script);
    for (signal, name) in signals {
        script.send(signal);
        assert_eq!(script.line(), format!("{name}\n"));
    }
    script.send(Signal::TERM);
    // The shell reports by which signal its child ended.
    assert_eq!(script.end().0, Some(5));
    apart.assert_nothing_left("a signal");
}

#[test]
fn a_terminals_interrupt_goes_to_the_command_and_not_to_the_vmm() {
    if !runs() {
        return;
    }
    // Like Ctrl-C on a terminal, it is sent to all processes of the group.
    let mut run = ironclaw(&[]);
    run.process_group(0);
    let script = "trap 'sleep 1; echo ended; exit 5' INT; echo on; while :; do sleep .1; done";
    let script = Script::start(run, script);
    kill_process_group(pid(script.child.id()), Signal::INT).unwrap();
    assert_eq!(script.line(), "ended\n");
    assert_eq!(script.end().0, Some(5));
}

#[test]
fn a_second_interrupt_kills_a_command_that_ignores_the_first() {
    if !runs() {
        return;
    }
    let apart = Apart::new();
    let script = "trap 'echo no' INT; echo on; while :; do sleep .1; done";
    let mut script = Script::start(apart.ironclaw(&[]), script);
    script.send(Signal::INT);
    assert_eq!(script.line(), "no\n");
    comes_about("the end", || {
        script.send(Signal::INT);
        script.child.try_wait().unwrap().is_some()
    });
    assert_eq!(script.end().0, Some(130));
    apart.assert_nothing_left("a second interrupt");
}

#[test]
fn a_command_that_does_not_end_when_asked_to_is_killed_in_time() {
    if !runs() {
        return;
    }
    let apart = Apart::new();
    let script = "trap '' TERM; echo on; while :; do sleep 1; done";
    let script = Script::start(apart.ironclaw(&[]), script);
    script.send(Signal::TERM);
    let (code, said) = script.end();
    assert_eq!(code, Some(143));
    assert!(said.contains("did not end within 10s of SIGTERM"), "{said}");
    apart.assert_nothing_left("SIGTERM");
}

#[test]
fn a_stop_reaches_the_command_and_us_and_both_go_on() {
    if !runs() {
        return;
    }
    let script = "trap 'echo stop' TSTP; trap 'echo go on' CONT; trap 'exit 5' TERM; echo on; \
                  while :; do sleep .1; done";
    let script = Script::start(ironclaw(&[]), script);
    script.send(Signal::TSTP);
    let id = i32::try_from(script.child.id()).unwrap();
    comes_about("it is stopped", || {
        let stat = Process::new(id).unwrap().stat().unwrap();
        stat.state().unwrap() == ProcState::Stopped
    });
    script.send(Signal::CONT);
    // A slow guest gets both at once: then the kernel drops the stop.
    let mut line = script.line();
    if line == "stop\n" {
        line = script.line();
    }
    assert_eq!(line, "go on\n");
    script.send(Signal::TERM);
    assert_eq!(script.end().0, Some(5));
}

#[test]
fn a_signal_before_the_command_has_started_ends_us() {
    if !runs() {
        return;
    }
    for (signal, code) in [(Signal::QUIT, 131), (Signal::USR1, 138)] {
        let apart = Apart::new();
        let mut child = apart
            .ironclaw(&["run", "--", "true"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        comes_about("a VM boots for the snapshot", || {
            !children(child.id()).is_empty()
        });
        kill_process(pid(child.id()), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        apart.assert_nothing_left("a signal");
    }
}

#[test]
fn output_is_shown_beside_the_error_that_ended_it() {
    if !runs() {
        return;
    }
    let script = "echo progress; echo oh >&2; sleep 1; reboot -f";
    let output = ironclaw(&["run", "--json", "--", "sh", "-c", script])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(122), "{output:?}");
    let failure: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(failure["stdout"], "progress\n", "{failure}");
    assert_eq!(failure["stderr"], "oh\n", "{failure}");
    assert_eq!(failure["exit_code"], 122);
    assert!(failure["error"].is_string(), "{failure}");
}

#[test]
fn output_that_is_not_read_keeps_no_signal_from_ending_us() {
    if !runs() {
        return;
    }
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = ironclaw(&["run", "--", "sh", "-c", "trap '' INT; yes"]);
    let mut child = command
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(command);
    comes_about("the pipe is full", || {
        ioctl_fionread(&reader).unwrap() >= 64 << 10
    });
    comes_about("the end", || {
        kill_process(pid(child.id()), Signal::INT).unwrap();
        child.try_wait().unwrap().is_some()
    });
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
