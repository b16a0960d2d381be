//! Tests the commands that ask a daemon.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Output, Stdio};

use crate::Daemon;
use crate::apart::Apart;
use crate::vm::runs;

/// Runs a command with a daemon's socket, and gives it this input.
fn ask(daemon: &Daemon, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = daemon.apart.ironclaw(arguments);
    let socket = daemon.state.path().join("socket");
    command.env("IRONCLAW_HOST", format!("unix:{}", socket.display()));
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

/// Runs a command that succeeds; returns what it printed.
fn told(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = ask(daemon, arguments, b"");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_sandbox_lives_by_the_commands_that_ask_its_daemon() {
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    let label = ["create", "--name", "one", "--label", "a=b", "--env", "X=1"];
    let id = told(&daemon, &label);
    let listed = told(&daemon, &["ls", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["id"], id.as_str());
    assert_eq!(listed[0]["metadata"]["a"], "b");
    assert!(told(&daemon, &["ls"]).contains(&id));

    // By its name, with the variables that it was made with.
    let said = told(
        &daemon,
        &[
            "exec",
            "one",
            "--",
            "sh",
            "-c",
            "echo $X; echo y > /tmp/kept",
        ],
    );
    assert_eq!(said, "1");
    let both = ask(
        &daemon,
        &["exec", &id, "sh", "-c", "echo out; echo err >&2; exit 7"],
        b"",
    );
    assert_eq!(both.status.code(), Some(7), "{both:?}");
    assert_eq!(
        (&both.stdout[..], &both.stderr[..]),
        (&b"out\n"[..], &b"err\n"[..])
    );
    for (arguments, code) in [
        (&["exec", "one", "no-such-program"][..], 127),
        (&["exec", "-w", "/no/such", "one", "true"], 123),
        (&["exec", "one", "sh", "-c", "kill -9 $$"], 137),
        (&["exec", "--timeout", "300ms", "one", "sleep", "100"], 124),
        (&["exec", "none", "true"], 125),
    ] {
        let output = ask(&daemon, arguments, b"");
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
    }
    // More than all buffers on its way hold, both ways at once.
    let input: Vec<u8> = (0..4_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let output = ask(&daemon, &["exec", "-i", "one", "cat"], &input);
    assert!(
        output.status.success() && output.stdout == input,
        "{:?}",
        output.status
    );
    let json = told(&daemon, &["exec", "one", "--json", "--", "echo", "hello"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["stdout"], &json["exit_code"]),
        (&"hello\n".into(), &0.into())
    );

    assert_eq!(told(&daemon, &["pause", "one"]), id);
    let paused = ask(&daemon, &["exec", "one", "true"], b"");
    let why = String::from_utf8_lossy(&paused.stderr);
    assert!(
        paused.status.code() == Some(125) && why.contains("paused"),
        "{paused:?}"
    );
    told(&daemon, &["resume", "one", "--lifetime", "1h"]);
    assert_eq!(told(&daemon, &["exec", "one", "cat", "/tmp/kept"]), "y");
    let copies = told(&daemon, &["fork", "one", "-n", "2"]);
    let copies: Vec<_> = copies.lines().collect();
    assert_eq!(copies.len(), 2, "{copies:?}");
    assert_eq!(told(&daemon, &["exec", copies[1], "cat", "/tmp/kept"]), "y");
    told(&daemon, &["rm", &id]);
    its_log_is_kept(&daemon);
    its_ports_are_reached(&daemon);
    told(&daemon, &["rm", "--all"]);
    assert_eq!(told(&daemon, &["ls", "-q"]), "");
    daemon.end();
}

/// Starts a command that goes on.
fn started(daemon: &Daemon, arguments: &[&str]) -> Child {
    let mut command = daemon.apart.ironclaw(arguments);
    command.env("IRONCLAW_HOST", daemon.state.path().join("socket"));
    let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    streams.stderr(Stdio::piped()).spawn().unwrap()
}

fn its_log_is_kept(daemon: &Daemon) {
    told(daemon, &["create", "--name", "log"]);
    assert_eq!(told(daemon, &["logs", "log"]), "");
    let script = "echo out; echo err >&2; exit 3";
    let failed = ask(daemon, &["exec", "log", "sh", "-c", script], b"");
    assert_eq!(failed.status.code(), Some(3), "{failed:?}");
    told(
        daemon,
        &["exec", "log", "--json", "--", "printf", "\\377\\n"],
    );
    let all = || {
        let all = ask(daemon, &["logs", "log"], b"");
        (all.status.code(), all.stdout, all.stderr)
    };
    let kept = (Some(0), b"out\n\xff\n".to_vec(), b"err\n".to_vec());
    assert_eq!(all(), kept);

    let commands = told(daemon, &["logs", "log", "--commands", "--json"]);
    let commands: serde_json::Value = serde_json::from_str(&commands).unwrap();
    assert_eq!(commands[0]["state"], "exit code 3");
    assert_eq!(commands[0]["argv"], serde_json::json!(["sh", "-c", script]));
    assert_eq!(commands[1]["pid"], serde_json::Value::Null);
    let pid = commands[0]["pid"].to_string();
    assert_eq!(told(daemon, &["logs", "-f", "log", &pid]), "out");
    let lines = told(daemon, &["logs", "log", &pid, "--json"]);
    let mut events: Vec<_> = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|line| line["event"].as_str().unwrap().to_owned())
        .collect();
    events[1..3].sort();
    assert_eq!(events, ["start", "stderr", "stdout", "end"]);
    let unknown = ask(daemon, &["logs", "log", "4000000"], b"");
    let why = String::from_utf8_lossy(&unknown.stderr);
    assert!(
        !unknown.status.success() && why.contains("4000000"),
        "{why}"
    );

    // A pause keeps it, and who reads it resumes nothing.
    told(daemon, &["pause", "log"]);
    assert_eq!(all(), kept);
    let mut follower = started(daemon, &["logs", "--follow", "log"]);
    let mut stdout = BufReader::new(follower.stdout.take().unwrap());
    let mut line = || {
        let mut line = Vec::new();
        stdout.read_until(b'\n', &mut line).unwrap();
        line
    };
    assert_eq!((line(), line()), (b"out\n".to_vec(), b"\xff\n".to_vec()));
    assert!(told(daemon, &["ls"]).contains("paused"));
    told(daemon, &["resume", "log"]);
    told(daemon, &["exec", "log", "echo", "later"]);
    assert_eq!(line(), b"later\n");
    let much = "yes 0123456 | head -c 800000";
    told(daemon, &["exec", "log", "sh", "-c", much]);
    let (_, stdout, stderr) = all();
    // `missed`, and the command line, are beside it.
    assert!(
        (255 * 1024..=256 * 1024).contains(&stdout.len()),
        "{}",
        stdout.len()
    );
    let why = String::from_utf8_lossy(&stderr);
    assert!(why.contains("not kept"), "{why}");
    // Its end is that of who follows it.
    told(daemon, &["rm", "log"]);
    while !line().is_empty() {}
    assert_eq!(follower.wait().unwrap().code(), Some(0));
}

fn its_ports_are_reached(daemon: &Daemon) {
    use std::io::Read as _;
    use std::net::{Shutdown, TcpStream};
    told(daemon, &["create", "--name", "web"]);
    let serve =
        "mkdir /tmp/web && seq 100000 > /tmp/web/file && httpd -p 127.0.0.1:8080 -h /tmp/web";
    told(daemon, &["exec", "web", "sh", "-c", serve]);
    let mut port = started(daemon, &["port", "web", "0:8080", "0:8081", "0:9000"]);
    let mut lines = BufReader::new(port.stdout.take().unwrap()).lines();
    let [open, closed, raw] = [8080, 8081, 9000].map(|guest: u16| {
        let line = lines.next().unwrap().unwrap();
        let (address, to) = line.split_once(" -> ").unwrap();
        assert_eq!(to, guest.to_string());
        address.to_owned()
    });
    // More at once than the daemon lets to a sandbox.
    let numbers: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    let asking: Vec<_> = (0..70)
        .map(|_| {
            let (open, numbers) = (open.clone(), numbers.clone());
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect(open).unwrap();
                write!(stream, "GET /file HTTP/1.0\r\n\r\n").unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                let end = answer.get(..100.min(answer.len()));
                assert!(answer.ends_with(&numbers), "{end:?}");
            })
        })
        .collect();
    for one in asking {
        one.join().unwrap();
    }
    let mut nothing = Vec::new();
    let mut stream = TcpStream::connect(closed).unwrap();
    // A reset is an end, too.
    let _ = stream.read_to_end(&mut nothing);
    assert_eq!(nothing, b"");

    // Bytes as they are, and the end of one direction alone.
    let count = "nc -l -p 9000 | wc -c";
    let mut counting = started(daemon, &["exec", "-i", "web", "sh", "-c", count]);
    // It ends with its standard input, too.
    let _input = counting.stdin.take();
    let listens = "until grep -q ':2328 .* 0A ' /proc/net/tcp /proc/net/tcp6; do sleep 0.1; done";
    told(daemon, &["exec", "web", "sh", "-c", listens]);
    let mut stream = TcpStream::connect(raw).unwrap();
    stream.write_all(&vec![0; 3_000_000]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let counted = counting.wait_with_output().unwrap();
    assert_eq!(counted.stdout.trim_ascii(), b"3000000", "{counted:?}");

    told(daemon, &["rm", "web"]);
    let _ = TcpStream::connect(open).unwrap().read_to_end(&mut nothing);
    let ended = port.wait_with_output().unwrap();
    assert_eq!(
        (ended.status.code(), nothing),
        (Some(125), Vec::new()),
        "{ended:?}"
    );
}

#[test]
fn a_command_that_is_interrupted_ends_in_its_sandbox() {
    use rustix::process::{Pid, Signal, kill_process};
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    told(&daemon, &["create", "--name", "one"]);
    let script = "trap 'echo bye; exit 5' INT; echo ready; while :; do sleep 0.1; done";
    let mut command = daemon.apart.ironclaw(&["exec", "one", "sh", "-c", script]);
    let socket = daemon.state.path().join("socket");
    command.env("IRONCLAW_HOST", &socket).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(stdout.next().unwrap().unwrap(), "ready");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(stdout.next().unwrap().unwrap(), "bye");
    assert_eq!(child.wait().unwrap().code(), Some(5));
    daemon.end();
}

#[test]
fn without_a_daemon_it_is_said_how_to_have_one() {
    let apart = Apart::new();
    let mut ls = apart.ironclaw(&["ls"]);
    let output = ls.env_remove("IRONCLAW_HOST").output().unwrap();
    let why = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125));
    assert!(
        why.contains("no daemon listens") && why.contains("`ironclaw serve`"),
        "{why}"
    );
}

#[test]
fn files_are_copied_between_here_and_a_sandbox() {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    if !runs() {
        return;
    }
    let daemon = Daemon::start();
    told(&daemon, &["create", "--name", "one"]);
    let here = tempfile::tempdir().unwrap();
    let path = |name: &str| here.path().join(name).display().to_string();
    fs::create_dir_all(here.path().join("tree/sub")).unwrap();
    fs::write(here.path().join("tree/sub/file"), "content").unwrap();
    fs::write(here.path().join("tree/program"), vec![7; 3_000_000]).unwrap();
    let mode = |mode| fs::Permissions::from_mode(mode);
    fs::set_permissions(here.path().join("tree/program"), mode(0o750)).unwrap();
    symlink("program", here.path().join("tree/link")).unwrap();

    // In, under its own name and another one, and what is in it.
    told(&daemon, &["cp", &path("tree"), "one:/tmp"]);
    told(&daemon, &["cp", &path("tree"), "one:/tmp/other"]);
    told(&daemon, &["exec", "one", "mkdir", "/tmp/into"]);
    told(&daemon, &["cp", &path("tree/."), "one:/tmp/into"]);
    told(
        &daemon,
        &["cp", &path("tree/program"), "one:/tmp/into/sub/renamed"],
    );
    let script = "cd /tmp && cat tree/sub/file other/sub/file into/sub/file && stat -c %a tree/program \
         into/sub/renamed . && cat other/link into/sub/renamed | wc -c";
    let found = told(&daemon, &["exec", "one", "sh", "-c", script]);
    assert_eq!(found, "contentcontentcontent750\n750\n1777\n6000000");

    // And out again.
    told(&daemon, &["cp", "one:/tmp/other", &path("copy")]);
    let copied = fs::read(here.path().join("copy/link")).unwrap();
    assert!(copied == [7; 3_000_000]);
    let found = fs::metadata(here.path().join("copy/program")).unwrap();
    assert_eq!(found.permissions().mode() & 0o7777, 0o750);
    told(&daemon, &["cp", "one:/tmp/other/sub/file", &path("copy")]);
    assert_eq!(fs::read(here.path().join("copy/file")).unwrap(), b"content");
    let tar = ask(&daemon, &["cp", "one:/tmp/other/sub", "-"], b"");
    assert!(tar.status.success(), "{tar:?}");
    told(&daemon, &["exec", "one", "mkdir", "/tmp/unpacked"]);
    let unpacked = ask(
        &daemon,
        &["cp", "--json", "-", "one:/tmp/unpacked"],
        &tar.stdout,
    );
    let unpacked: serde_json::Value = serde_json::from_slice(&unpacked.stdout).unwrap();
    assert_eq!(unpacked["files"], 1);

    // What a sandbox holds is hostile.
    let script = "mkdir /tmp/evil && cd /tmp/evil && ln -s / root && mkdir -p d && chmod 4777 d && \
         touch d/x && chmod 6777 d/x && chmod 500 d";
    told(&daemon, &["exec", "one", "sh", "-c", script]);
    told(&daemon, &["cp", "one:/tmp/evil", &path("evil")]);
    let found = fs::metadata(here.path().join("evil/d/x")).unwrap();
    assert_eq!(
        found.permissions().mode() & 0o7000,
        0,
        "no rights come out of it"
    );

    for (arguments, why) in [
        (&["cp", &path("missing"), "one:/tmp"][..], "missing"),
        (&["cp", "one:/tmp/missing", &path("x")], "/tmp/missing"),
        (
            &["cp", &path("tree"), "one:/tmp/tree/program"],
            "no directory",
        ),
        (
            &["cp", &path("tree/program"), "one:/tmp/no/"],
            "no directory",
        ),
        (&["cp", &path("tree"), &path("x")], "in a sandbox"),
        (&["cp", "one:relative", &path("x")], "absolute"),
        (&["cp", "none:/tmp", &path("x")], "none"),
    ] {
        let output = ask(&daemon, arguments, b"");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains(why),
            "{arguments:?}: {output:?}"
        );
    }
    let broken = ask(&daemon, &["cp", "-", "one:/tmp"], &vec![b'x'; 2_000_000]);
    let said = String::from_utf8_lossy(&broken.stderr);
    assert!(said.contains("no tar archive"), "{said}");
    daemon.end();
}
