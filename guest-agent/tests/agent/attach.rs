//! Tests commands that outlive their session, and sessions that attach to others' commands.

use ironclaw_protocol::limits::{OUTPUT_WINDOW, UNATTENDED_OUTPUT};
use ironclaw_protocol::message::{
    Attach, CommandEnd, CommandInfo, Exec, ExecId, Failure, FailureKind, Outcome, Request,
    RequestId, StdinAt, Stream, ToGuest, ToHost,
};

use crate::host::{Agent, Host, exec, shell, text};

fn attach(exec: ExecId, stdout: u64) -> Request {
    Request::Attach(Attach {
        exec,
        stdout,
        stderr: 0,
    })
}

/// The first answers to an `Attach`.
struct Attached {
    id: RequestId,
    stdout: u64,
    stdin: Option<StdinAt>,
}

fn attached(host: &mut Host, exec: ExecId, from: u64) -> Attached {
    let asked = host.start(attach(exec, from));
    match host.line.message() {
        ToHost::Attached {
            id, stdout, stdin, ..
        } if id == asked => {
            host.took(id, Stream::Stdout, usize::try_from(stdout).unwrap());
            Attached { id, stdout, stdin }
        }
        other => panic!("{other:?}"),
    }
}

fn failed(host: &mut Host, request: Request) -> Failure {
    let id = host.start(request);
    match host.line.message() {
        ToHost::Done {
            id: of,
            outcome: Outcome::Failed(failure),
        } if of == id => failure,
        other => panic!("{other:?}"),
    }
}

fn list(host: &mut Host) -> Vec<CommandInfo> {
    let id = host.start(Request::List);
    match host.line.message() {
        ToHost::Done {
            id: of,
            outcome: Outcome::Commands(commands),
        } if of == id => commands,
        other => panic!("{other:?}"),
    }
}

fn kept(command: Exec) -> Exec {
    Exec {
        keep: true,
        ..command
    }
}

/// Waits until the guest reports the expected state of a command.
fn until(host: &mut Host, is: impl Fn(&[CommandInfo]) -> bool) -> Vec<CommandInfo> {
    loop {
        let commands = list(host);
        if is(&commands) {
            return commands;
        }
    }
}

#[test]
fn output_goes_on_without_a_gap_over_any_number_of_lost_connections() {
    let agent = Agent::start();
    let command = shell("seq 1 40000; exit 5");
    let exec = command.id;
    let expected: String = (1..=40_000).map(|n| format!("{n}\n")).collect();
    let mut host = agent.host();
    let mut id = host.start(Request::Exec(command));
    let mut all: Vec<u8> = Vec::new();
    for round in 0_usize.. {
        // Some of what was received is taken, and some of what was sent never arrives.
        let messages = if round % 3 > 0 { round % 4 } else { 1 };
        for _ in 0..messages {
            match host.line.message() {
                ToHost::Data { bytes, stream, .. } => {
                    all.extend(&bytes);
                    if round % 3 > 0 {
                        host.took(id, stream, bytes.len());
                    }
                }
                ToHost::Done { outcome, .. } => {
                    assert_eq!(outcome, Outcome::Exited(5));
                    assert!(all == expected.as_bytes(), "{} bytes", all.len());
                    return;
                }
                other => panic!("{other:?}"),
            }
        }
        drop(host);
        host = agent.host();
        let from = all.len() as u64;
        let attached = attached(&mut host, exec, from);
        assert_eq!(attached.stdout, from);
        id = attached.id;
    }
}

#[test]
fn the_end_of_a_command_waits_for_a_host_that_acknowledges_it() {
    let agent = Agent::start();
    let command = shell("echo last words; echo error >&2; exit 3");
    let exec = command.id;
    let mut first = agent.host();
    first.start(Request::Exec(command));
    drop(first);
    for _ in 0..2 {
        let mut host = agent.host();
        let ended = Some(CommandEnd::Exited(3));
        let commands = until(&mut host, |commands| commands[0].end == ended);
        assert!(!commands[0].attached);
        let id = attached(&mut host, exec, 5).id;
        let run = host.finish(id, &[]);
        assert_eq!((run.stdout(), &run.stderr[..]), ("words", &b"error\n"[..]));
        assert_eq!(run.outcome, Outcome::Exited(3));
    }
    let mut host = agent.host();
    let id = attached(&mut host, exec, 0).id;
    host.finish(id, &[]);
    host.line.send(&ToGuest::Acknowledge { exec });
    assert_eq!(list(&mut host), []);
    let failure = failed(&mut host, attach(exec, 0));
    assert_eq!(failure.kind, FailureKind::NotFound, "{failure:?}");
}

#[test]
fn standard_input_goes_on_where_the_connection_was_lost() {
    let agent = Agent::start();
    let mut cat = exec(&["cat"]);
    cat.stdin = true;
    let exec = cat.id;
    let mut host = agent.host();
    let id = host.start(Request::Exec(cat));
    host.line.send(&ToGuest::Data {
        id,
        bytes: b"one ".to_vec(),
    });
    assert_eq!(host.output(id), b"one ");
    drop(host);
    let mut host = agent.host();
    let again = attached(&mut host, exec, 4);
    let at = StdinAt {
        received: 4,
        taken: 4,
    };
    assert_eq!(again.stdin, Some(at));
    let run = host.finish(again.id, b"two");
    assert_eq!((run.stdout(), &run.outcome), ("two", &Outcome::Exited(0)));
}

#[test]
fn commands_are_listed_signalled_and_killed_from_any_session() {
    let agent = Agent::start();
    let mut owner = agent.host();
    let trapping = shell("trap 'echo caught; exit 4' USR1; echo up; while :; do sleep .01; done");
    let sleeping = kept(exec(&["sleep", "1000"]));
    let (first, second) = (trapping.id, sleeping.id);
    let id = owner.start(Request::Exec(trapping));
    let sleep = owner.start(Request::Exec(sleeping));
    assert_eq!(owner.output(id), b"up\n");
    owner.took(id, Stream::Stdout, 3);

    let mut other = agent.host();
    let commands = list(&mut other);
    let seen: Vec<_> = commands
        .iter()
        .map(|c| (c.exec, c.program.to_str().unwrap(), c.keep, c.attached))
        .collect();
    let expected = [(first, "sh", false, true), (second, "sleep", true, true)];
    assert_eq!(seen, expected);
    assert!(commands.iter().all(|c| c.pid > 1 && c.end.is_none()));
    let signal = Request::Signal {
        exec: first,
        signal: 10,
    };
    assert_eq!(other.run(signal).outcome, Outcome::Delivered);
    let run = owner.finish(id, &[]);
    assert_eq!(
        (run.stdout(), &run.outcome),
        ("caught", &Outcome::Exited(4))
    );
    let kill = Request::Kill { exec: second };
    assert_eq!(other.run(kill).outcome, Outcome::Delivered);
    assert_eq!(owner.finish(sleep, &[]).outcome, Outcome::Signaled(9));
    for request in [
        Request::Kill { exec: ExecId(0) },
        Request::Signal {
            exec: ExecId(0),
            signal: 1,
        },
    ] {
        let failure = failed(&mut other, request);
        assert_eq!(failure.kind, FailureKind::NotFound, "{failure:?}");
    }
}

#[test]
fn a_killed_command_takes_with_it_what_it_left_in_the_background() {
    let agent = Agent::start();
    let mut host = agent.host();
    let fifo = text(&agent.path("fifo"));
    host.shell(&format!("mkfifo {fifo}"));
    let command = shell(&format!("sleep 1003 >{fifo} & echo up; wait"));
    let exec = command.id;
    let id = host.start(Request::Exec(command));
    let mut end = std::fs::File::open(fifo).unwrap();
    assert_eq!(host.output(id), b"up\n");
    agent.host().run(Request::Kill { exec });
    assert_eq!(std::io::Read::read(&mut end, &mut [0]).unwrap(), 0);
    assert_eq!(host.finish(id, &[]).outcome, Outcome::Signaled(9));
}

#[test]
fn who_listens_to_a_command_is_told_that_another_session_does_now() {
    let agent = Agent::start();
    let command = shell("read line; echo $line");
    let exec = command.id;
    let mut owner = agent.host();
    let mut command = command;
    command.stdin = true;
    let id = owner.start(Request::Exec(command));
    let mut other = agent.host();
    let there = attached(&mut other, exec, 0).id;
    assert_eq!(owner.finish(id, &[]).outcome, Outcome::Detached);
    let run = other.finish(there, b"heard\n");
    assert_eq!((run.stdout(), &run.outcome), ("heard", &Outcome::Exited(0)));
}

#[test]
fn a_host_can_stop_to_listen_without_ending_the_command() {
    let agent = Agent::start();
    let mut host = agent.host();
    let command = kept(shell("while :; do sleep .01; done"));
    let exec = command.id;
    let id = host.start(Request::Exec(command));
    host.line.send(&ToGuest::Detach { id });
    assert_eq!(host.finish(id, &[]).outcome, Outcome::Detached);
    let commands = list(&mut host);
    assert!(commands[0].end.is_none() && !commands[0].attached);
    assert_eq!(host.run(Request::Kill { exec }).outcome, Outcome::Delivered);
}

#[test]
fn a_kept_command_goes_on_alone_and_what_it_lost_is_known_to_the_byte() {
    let agent = Agent::start();
    let path = text(&agent.path("go"));
    let mut host = agent.host();
    host.shell(&format!("mkfifo {path}"));
    // More than is kept and a pipe holds: it ends only if somebody reads it.
    let total = 10 * u64::from(OUTPUT_WINDOW);
    let command = kept(shell(&format!(
        "head -c {total} /dev/zero; read line <{path}"
    )));
    let exec = command.id;
    host.start(Request::Exec(command));
    drop(host);
    let mut host = agent.host();
    let commands = until(&mut host, |commands| {
        commands
            .iter()
            .any(|c| c.exec == exec && c.stdout.to == total)
    });
    let stdout = commands.iter().find(|c| c.exec == exec).unwrap().stdout;
    assert_eq!(stdout.to - stdout.from, UNATTENDED_OUTPUT as u64);
    let attached = attached(&mut host, exec, 0);
    assert_eq!(attached.stdout, stdout.from);
    std::fs::write(path, "go\n").unwrap();
    let run = host.finish(attached.id, &[]);
    assert_eq!(run.stdout.len(), UNATTENDED_OUTPUT);
    assert_eq!(run.outcome, Outcome::Exited(0));
}

#[test]
fn a_command_that_nobody_came_back_for_is_ended_and_never_run_again() {
    let agent = Agent::start();
    let command = exec(&["sleep", "1000"]);
    let exec = command.id;
    let mut host = agent.host();
    host.start(Request::Exec(command.clone()));
    let failure = failed(&mut host, Request::Exec(command.clone()));
    assert_eq!(failure.kind, FailureKind::Invalid, "{failure:?}");
    drop(host);
    let mut host = agent.host();
    until(&mut host, |commands| commands.is_empty());
    for request in [attach(exec, 0), Request::Exec(command)] {
        let failure = failed(&mut host, request);
        assert_eq!(failure.kind, FailureKind::Forgotten, "{failure:?}");
    }
}

#[test]
fn a_host_that_claims_to_have_what_was_never_written_is_refused() {
    let agent = Agent::start();
    let command = exec(&["sleep", "1000"]);
    let exec = command.id;
    let mut host = agent.host();
    let id = host.start(Request::Exec(command));
    let failure = failed(&mut host, attach(exec, 1));
    assert_eq!(failure.kind, FailureKind::Invalid, "{failure:?}");
    host.line.send(&ToGuest::Taken {
        id,
        stream: Stream::Stdout,
        offset: 1,
    });
    let fault = host.line.fault();
    assert!(fault.contains("taken"), "{fault}");
}
