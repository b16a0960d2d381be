//! Tests commands on a terminal.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use ironclaw_protocol::message::{
    Exec, FailureKind, Outcome, Request, RequestId, Stream, TerminalSize, ToGuest, ToHost,
};
use rustix::process::geteuid;

use crate::host::{Agent, Host, exec, shell, text};

const SIZE: TerminalSize = TerminalSize {
    rows: 33,
    columns: 101,
};

fn on_terminal(mut command: Exec) -> Exec {
    command.terminal = Some(SIZE);
    command
}

/// A command that is typed to.
fn typed(command: Exec) -> Request {
    Request::Exec(Exec {
        stdin: true,
        ..on_terminal(command)
    })
}

fn type_to(host: &mut Host, id: RequestId, text: &[u8]) {
    let bytes = text.to_vec();
    host.line.send(&ToGuest::Data { id, bytes });
}

/// Reads output until it ends with `end`.
fn read_until(host: &mut Host, id: RequestId, end: &str) -> String {
    let mut read = String::new();
    while !read.ends_with(end) {
        let bytes = host.output(id);
        host.took(id, Stream::Stdout, bytes.len());
        read += std::str::from_utf8(&bytes).unwrap();
    }
    read
}

#[test]
fn a_command_controls_a_terminal_of_the_size_asked_for() {
    let agent = Agent::start();
    let mut host = agent.host();
    let script = "test -t 0 && test -t 1 && test -t 2 && stty size </dev/tty && echo $TERM; \
                  [ $(ps -o sid= -p $$) = $$ ] && echo leads; echo err >&2; exit 7";
    let mut command = on_terminal(shell(script));
    command.env = vec![("TERM".into(), "vt100".into())];
    let run = host.run(Request::Exec(command));
    assert_eq!(run.outcome, Outcome::Exited(7), "{run:?}");
    let output = std::str::from_utf8(&run.stdout).unwrap();
    assert_eq!(output, "33 101\r\nvt100\r\nleads\r\nerr\r\n");
    assert!(run.stderr.is_empty());
    let run = host.run(Request::Exec(on_terminal(shell("echo $TERM"))));
    assert_eq!(run.stdout(), "xterm");
}

#[test]
fn what_is_typed_is_echoed_and_read_and_the_end_of_input_types_ctrl_d() {
    let agent = Agent::start();
    let mut host = agent.host();
    let id = host.start(typed(exec(&["cat"])));
    type_to(&mut host, id, "höllo\n".as_bytes());
    let echoed = read_until(&mut host, id, "höllo\r\nhöllo\r\n");
    assert_eq!(echoed, "höllo\r\nhöllo\r\n");
    host.line.send(&ToGuest::Eof { id });
    let rest = host.finish(id, &[]);
    assert_eq!(rest.outcome, Outcome::Exited(0));
}

#[test]
fn ctrl_c_interrupts_what_runs_in_the_foreground() {
    let agent = Agent::start();
    let mut host = agent.host();
    let id = host.start(typed(shell("echo up; exec sleep 1000")));
    read_until(&mut host, id, "up\r\n");
    type_to(&mut host, id, &[3]);
    assert_eq!(host.finish(id, &[]).outcome, Outcome::Signaled(2));
}

#[test]
fn programs_learn_of_another_size() {
    let agent = Agent::start();
    let mut host = agent.host();
    let script = "trap 'stty size; exit 0' WINCH; echo up; while :; do sleep 0.05; done";
    let mut command = on_terminal(shell(script));
    command.keep = true;
    let exec = command.id;
    let id = host.start(Request::Exec(command));
    read_until(&mut host, id, "up\r\n");
    let size = TerminalSize {
        rows: 40,
        columns: 132,
    };
    host.line.send(&ToGuest::Resize { id, size });
    let run = host.finish(id, &[]);
    assert_eq!(run.stdout(), "40 132");
    // By its number, from any session.
    let resized = host.run(Request::Resize { exec, size });
    assert!(
        matches!(&resized.outcome, Outcome::Delivered),
        "{:?}",
        resized.outcome
    );
    let plain = shell("sleep 1000");
    let exec = plain.id;
    host.start(Request::Exec(plain));
    let refused = host.run(Request::Resize { exec, size }).failure();
    assert_eq!(refused.kind, FailureKind::Unsupported);
}

#[test]
fn a_terminal_hangs_up_when_its_command_is_killed() {
    let agent = Agent::start();
    let mut host = agent.host();
    let marker = agent.path("hung-up");
    let script = format!(
        "trap 'echo yes >{}; exit' HUP; echo up; while :; do sleep 0.05; done",
        text(&marker)
    );
    // In a process group of its own, which no signal to the command reaches.
    let script = format!("set -m; sh -c '{}'; true", script.replace('\'', "'\\''"));
    let id = host.start(typed(shell(&script)));
    let shown = read_until(&mut host, id, "up\r\n");
    assert!(shown.ends_with("up\r\n"));
    host.line.send(&ToGuest::Cancel { id });
    loop {
        match host.line.message() {
            ToHost::Done { .. } => break,
            ToHost::Data { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    let waits = format!("until [ -s {} ]; do sleep 0.05; done", text(&marker));
    assert_eq!(host.shell(&waits).outcome, Outcome::Exited(0));
}

#[test]
fn a_program_that_can_not_be_executed_shows_that_on_its_terminal() {
    let agent = Agent::start();
    let mut host = agent.host();
    let script = agent.path("script");
    fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let run = host.run(Request::Exec(on_terminal(exec(&[&text(&script)]))));
    assert_eq!(run.outcome, Outcome::Exited(127));
    assert!(run.stdout().contains("script"), "{run:?}");
    let missing = host.run(Request::Exec(on_terminal(exec(&["no-such-program"]))));
    assert_eq!(missing.failure().kind, FailureKind::NotFound);
}

#[test]
fn another_user_owns_its_terminal() {
    if !geteuid().is_root() {
        return;
    }
    let agent = Agent::start();
    // The agent's program has to be within the user's reach, as PID 1's is.
    let mut host = agent.host();
    let mut command = on_terminal(shell("stat -c %u:%a $(tty); id -u; echo x >/dev/tty"));
    command.user = Some("54321:54321".into());
    let run = host.run(Request::Exec(command));
    assert_eq!(run.stdout(), "54321:620\r\n54321\r\nx", "{run:?}");
}

#[test]
fn what_was_typed_before_a_program_reads_is_not_lost_and_neither_is_its_end() {
    let agent = Agent::start();
    let mut host = agent.host();
    // It sets its terminal's modes before it reads, which would spoil a Ctrl-D that is there.
    let shell = exec(&["bash", "--norc", "--noprofile", "-i"]);
    let id = host.start(typed(shell));
    let end = host.finish(id, b"sleep 0.2; echo hel''lo\n");
    assert_eq!(end.outcome, Outcome::Exited(0), "{}", end.stdout());
    assert!(end.stdout().contains("hello"), "{}", end.stdout());
    // The first Ctrl-D ends the line, and another one the input.
    let id = host.start(typed(exec(&["cat"])));
    let end = host.finish(id, b"half a line");
    assert_eq!(end.outcome, Outcome::Exited(0));
    assert_eq!(end.stdout(), "half a linehalf a line");
}
