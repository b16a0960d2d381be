//! Tests `ironclaw run` by a daemon.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::Daemon;
use crate::terminal::talk_to_a_shell;
use crate::vm::{TIMEOUT, runs};

/// Returns a command that asks this daemon, and no other.
fn by(daemon: &Daemon, arguments: &[&str]) -> Command {
    let mut command = daemon.apart.ironclaw(arguments);
    command.env("IRONCLAW_HOST", daemon.state.path().join("socket"));
    command
}

/// Runs a command to its end, with this input.
pub(crate) fn done(mut command: Command, input: &[u8]) -> Output {
    let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = streams.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writing = std::thread::spawn(move || {
        // A command may read nothing.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    output
}

fn started(mut command: Command) -> Child {
    let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    streams.stderr(Stdio::piped()).spawn().unwrap()
}

pub(crate) fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asserts that the daemon has no sandbox any more, or soon.
fn nothing_left(daemon: &Daemon) {
    let start = Instant::now();
    loop {
        let listed = done(by(daemon, &["ls", "-q"]), b"");
        assert!(listed.status.success(), "{listed:?}");
        if listed.stdout.is_empty() {
            return;
        }
        assert!(start.elapsed() < TIMEOUT, "left: {}", said(&listed.stdout));
        // The daemon tells nobody.
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_run_is_the_same_by_a_daemon_and_without_one() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    let much = "i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done";
    let cases: [&[&str]; 15] = [
        &["--", "sh", "-c", "echo out; echo err >&2; exit 7"],
        &["sh", "-c", "kill -9 $$"],
        &["--", "no-such-program"],
        &["-w", "/no/such", "true"],
        &["-w", "/tmp", "pwd"],
        &["-u", "nobody-here", "true"],
        &["-u", "nobody", "sh", "-c", "id; cd; pwd; env | sort"],
        &["sh", "-c", "id; pwd; env | sort"],
        &["-e", "A=b=c", "sh", "-c", "echo $A"],
        &["--timeout", "300ms", "sleep", "100"],
        &["--entrypoint", "echo", "one", "two"],
        &["--entrypoint", "", "--", "echo", "one"],
        &["-i", "sh", "-c", "tr a-z A-Z; exit 3"],
        &["sh", "-c", much],
        &["--", "/tmp"],
    ];
    let both = |arguments: &[&str], input: &[u8]| {
        let words = [&["run"], arguments].concat();
        let theirs = done(by(&daemon, &words), input);
        let words = [&["run", "--host", "none"], arguments].concat();
        let ours = done(daemon.apart.ironclaw(&words), input);
        (theirs, ours)
    };
    for arguments in cases {
        let (theirs, ours) = both(arguments, b"some input\n");
        let of = |output: &Output| {
            let (out, err) = (said(&output.stdout), said(&output.stderr));
            (output.status.code(), out, err)
        };
        assert_eq!(of(&theirs), of(&ours), "{arguments:?}");
    }
    let script = "echo out; printf '\\377' >&2; exit 3";
    let (theirs, ours) = both(&["--json", "--", "sh", "-c", script], b"");
    let of = |output: &Output| {
        let mut json: Value = serde_json::from_slice(&output.stdout).unwrap();
        let all = json.as_object_mut().unwrap();
        let (origin, times) = (all.remove("origin"), all.remove("timings_ms"));
        let times: Vec<_> = times
            .unwrap()
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        assert!(origin.unwrap().is_string(), "{output:?}");
        (output.status.code(), json, times)
    };
    assert_eq!(of(&theirs), of(&ours));
    // More than all buffers on its way hold, both ways at once.
    let input: Vec<u8> = (0..4_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let echoed = done(by(&daemon, &["run", "-i", "cat"]), &input);
    assert!(
        echoed.status.success() && echoed.stdout == input,
        "{:?}",
        echoed.status
    );
    // What the command does not read is left to others.
    let mut shell = Command::new("sh");
    let run = by(&daemon, &[]);
    shell
        .args(["-c", "\"$0\" run -i true && cat"])
        .arg(run.get_program());
    for (name, value) in run.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    assert_eq!(said(&done(shell, b"left\n").stdout), "left\n");
    nothing_left(&daemon);
    daemon.end();
}

#[test]
fn a_sandbox_ends_with_its_run_however_that_ends() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    let lines = |child: &mut Child| BufReader::new(child.stdout.take().unwrap()).lines();
    // Interrupted: the command may end in its own way.
    let script = "trap 'echo bye; exit 5' INT; echo ready; while :; do sleep 0.1; done";
    let mut child = started(by(&daemon, &["run", "sh", "-c", script]));
    let mut stdout = lines(&mut child);
    assert_eq!(stdout.next().unwrap().unwrap(), "ready");
    let listed = done(by(&daemon, &["ls", "-q"]), b"");
    assert_eq!(said(&listed.stdout).lines().count(), 1, "{listed:?}");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(stdout.next().unwrap().unwrap(), "bye");
    assert_eq!(child.wait().unwrap().code(), Some(5));
    nothing_left(&daemon);
    // Killed, with output that nobody takes.
    let script = "echo ready; yes";
    let mut child = started(by(&daemon, &["run", "sh", "-c", script]));
    let mut stdout = lines(&mut child);
    assert_eq!(stdout.next().unwrap().unwrap(), "ready");
    child.kill().unwrap();
    child.wait().unwrap();
    nothing_left(&daemon);
    // Nobody reads what it prints.
    let mut child = started(by(&daemon, &["run", "yes"]));
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(141));
    nothing_left(&daemon);
    // Ended by somebody else.
    let mut child = started(by(&daemon, &["run", "sh", "-c", "echo ready; sleep 1000"]));
    assert_eq!(lines(&mut child).next().unwrap().unwrap(), "ready");
    assert!(done(by(&daemon, &["rm", "--all"]), b"").status.success());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(122), "{ended:?}");
    assert!(said(&ended.stderr).contains("the VM ended"), "{ended:?}");
    // Its daemon ends.
    let mut child = started(by(&daemon, &["run", "sh", "-c", "echo ready; sleep 1000"]));
    assert_eq!(lines(&mut child).next().unwrap().unwrap(), "ready");
    let (apart, state) = daemon.end();
    let ended = child.wait_with_output().unwrap();
    assert!(
        !ended.status.success() && !ended.stderr.is_empty(),
        "{ended:?}"
    );
    let daemon = Daemon::start_in(apart, state);
    nothing_left(&daemon);
    daemon.end();
}

#[test]
fn ports_lead_to_the_sandbox_of_a_run() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    let script = "cd /tmp && echo hello > file && httpd -p 127.0.0.1:80 && echo up && sleep 1000";
    let run = ["run", "-p", "0:80", "--", "sh", "-c", script];
    web_of(by(&daemon, &run), |get| {
        assert!(get("/file").ends_with("\r\n\r\nhello\n"));
    });
    let script = "echo up; sleep 1000";
    let run = ["run", "-p", "0:80", "--", "sh", "-c", script];
    web_of(by(&daemon, &run), |get| assert_eq!(get("/"), ""));
    nothing_left(&daemon);
    daemon.end();
}

/// Starts a run with a port of which any is free, waits until it says that it is up, gives what gets a page by
/// the port, and ends it.
pub(crate) fn web_of(command: Command, check: impl FnOnce(&dyn Fn(&str) -> String)) {
    let mut child = started(command);
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = stderr.next().unwrap().unwrap();
    let address = line.split_whitespace().find_map(|word| word.parse().ok());
    let address: SocketAddr = address.unwrap_or_else(|| panic!("{line}"));
    let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(stdout.next().unwrap().unwrap(), "up");
    check(&|path| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let _ = write!(stream, "GET {path} HTTP/1.0\r\n\r\n");
        let mut answer = Vec::new();
        // A reset is an end, too.
        let _ = stream.read_to_end(&mut answer);
        said(&answer)
    });
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn a_daemon_is_asked_where_one_runs_for_what_it_can_do() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    // Where these settings have it.
    let beside = daemon.apart.path().join("daemon");
    std::fs::create_dir(&beside).unwrap();
    symlink(daemon.state.path().join("socket"), beside.join("socket")).unwrap();
    let unnamed = |arguments: &[&str]| {
        let mut run = daemon.apart.ironclaw(&[&["run", "-v"], arguments].concat());
        run.env("IRONCLAW_POOL_SIZE", "1")
            .env_remove("IRONCLAW_HOST");
        run
    };
    let by_it = |mut run: Command| {
        let output = run.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        said(&output.stderr).contains("of the daemon on unix:")
    };
    assert!(by_it(unnamed(&["true"])));
    // As the daemon has it.
    assert!(by_it(unnamed(&["--memory", "128MiB", "true"])));
    assert!(!by_it(unnamed(&["--host", "none", "true"])));
    assert!(!by_it(unnamed(&["--set", "pool_size=1", "true"])));
    let mut none = unnamed(&["true"]);
    none.env("IRONCLAW_HOST", "none");
    assert!(!by_it(none));
    // Nobody listens there any more.
    std::fs::remove_file(beside.join("socket")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(beside.join("socket")).unwrap());
    assert!(!by_it(unnamed(&["true"])));

    for (arguments, code, why) in [
        (&["--set", "pool_size=1", "true"][..], 2, "--host none"),
        (&["--changes", "x", "true"], 2, "--changes"),
        (&["--image", "rootfs:/tmp", "true"], 2, "--image"),
        (&["--memory", "300MiB", "true"], 125, "not 300"),
        (&["--template", "no-such", "true"], 125, "no-such"),
        (&["--entrypoint", ""], 2, "give a command"),
        (&["--template", "minimal"], 2, "give a command"),
    ] {
        let output = done(by(&daemon, &[&["run"], arguments].concat()), b"");
        let told = said(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        assert!(told.contains(why), "{arguments:?}: {told}");
    }
    nothing_left(&daemon);
    daemon.end();
}

#[test]
fn a_terminal_is_the_same_by_a_daemon() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    talk_to_a_shell(by(&daemon, &["run", "-it", "--", "sh"]));
    nothing_left(&daemon);
    assert!(
        done(by(&daemon, &["create", "--name", "one"]), b"")
            .status
            .success()
    );
    talk_to_a_shell(by(&daemon, &["exec", "-it", "one", "--", "sh"]));
    daemon.end();
}
