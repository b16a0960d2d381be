//! Tests commands: their start and their end.

use std::fs;

use ironclaw_protocol::message::{
    ExecId, FailureKind, Inherited, Outcome, Request, Stderr, TerminalSize, ToGuest,
};

use crate::host::{Agent, exec, shell, text};

#[test]
fn a_commands_output_and_exit_code_come_back() {
    let agent = Agent::start();
    let mut host = agent.host();
    let run = host.shell("echo out; echo err >&2; exit 7");
    assert_eq!(run.outcome, Outcome::Exited(7));
    assert_eq!(
        (run.stdout.as_slice(), run.stderr.as_slice()),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!(
        host.run(Request::Exec(exec(&["true"]))).outcome,
        Outcome::Exited(0)
    );
}

#[test]
fn a_command_that_dies_of_a_signal_says_which() {
    let agent = Agent::start();
    assert_eq!(
        agent.host().shell("kill -9 $$").outcome,
        Outcome::Signaled(9)
    );
}

#[test]
fn arguments_environment_and_directory_arrive_as_they_are() {
    let agent = Agent::start();
    let mut host = agent.host();
    let mut command = exec(&[
        "sh",
        "-c",
        "printf '%s|%s|%s' \"$1\" \"$NAME\" \"$PWD\"",
        "x",
        "a b*",
    ]);
    command.env = vec![("NAME".into(), "ä=1".into())];
    command.cwd = Some("/usr".into());
    assert_eq!(host.run(Request::Exec(command)).stdout(), "a b*|ä=1|/usr");
}

#[test]
fn a_program_is_looked_up_on_the_path_that_the_command_gets() {
    let agent = Agent::start();
    let mut host = agent.host();
    let script = "#!/bin/sh\necho found as $0";
    fs::create_dir(agent.path("bin")).unwrap();
    fs::write(agent.path("bin/tool"), script).unwrap();
    fs::set_permissions(
        agent.path("bin/tool"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let mut command = exec(&["tool"]);
    assert_eq!(
        host.run(Request::Exec(command.clone())).failure().kind,
        FailureKind::NotFound,
        "not on the agent's own path"
    );
    let bin = text(&agent.path("bin"));
    command.env = vec![("PATH".into(), format!("/nowhere:{bin}").into())];
    assert_eq!(
        host.run(Request::Exec(command)).stdout(),
        format!("found as {bin}/tool")
    );
    let mut relative = exec(&["bin/tool"]);
    relative.cwd = Some(text(&agent.path("")).into());
    assert_eq!(
        host.run(Request::Exec(relative)).outcome,
        Outcome::Exited(0)
    );
}

#[test]
fn variables_are_left_out_and_the_program_is_found_without_its_own_path() {
    let agent = Agent::start();
    let mut host = agent.host();
    let mut command = exec(&["env"]);
    command.env = vec![("ONLY".into(), "this".into())];
    command.inherited = Inherited::Nothing;
    assert_eq!(host.run(Request::Exec(command)).stdout(), "ONLY=this");
    let mut command = exec(&["env"]);
    let all = host.run(Request::Exec(command.clone())).stdout().to_owned();
    assert!(all.contains("LANG=") && all.contains("PATH="), "{all}");
    command.id = ExecId(u64::MAX);
    command.inherited = Inherited::Except(vec!["LANG".into(), "NEVER_SET".into()]);
    let without = host.run(Request::Exec(command)).stdout().to_owned();
    assert!(
        !without.contains("LANG=") && without.contains("PATH="),
        "{without}"
    );
}

#[test]
fn a_program_gets_the_name_that_it_is_to_have_with_and_without_a_terminal() {
    let agent = Agent::start();
    let mut host = agent.host();
    for terminal in [
        None,
        Some(TerminalSize {
            rows: 24,
            columns: 80,
        }),
    ] {
        let mut command = exec(&["called", "-c", "echo $0"]);
        command.program = Some("sh".into());
        command.terminal = terminal;
        assert_eq!(host.run(Request::Exec(command)).stdout(), "called");
    }
    let mut missing = exec(&["sh"]);
    missing.program = Some("no-such-program".into());
    let failure = host.run(Request::Exec(missing)).failure();
    assert!(
        failure.message.contains("no-such-program"),
        "{}",
        failure.message
    );
}

#[test]
fn a_program_that_is_missing_is_told_from_a_directory_that_is() {
    let agent = Agent::start();
    let mut host = agent.host();
    for name in ["no-such-program", "/no/such/program"] {
        let failure = host.run(Request::Exec(exec(&[name]))).failure();
        assert_eq!(failure.kind, FailureKind::NotFound);
        assert!(failure.message.contains(name), "{}", failure.message);
    }
    for directory in ["/no/such/directory", "/etc/passwd"] {
        let mut command = exec(&["true"]);
        command.cwd = Some(directory.into());
        let failure = host.run(Request::Exec(command)).failure();
        assert_eq!(failure.kind, FailureKind::NoSuchDirectory);
        assert!(failure.message.contains(directory), "{}", failure.message);
    }
}

#[test]
fn a_non_executable_is_refused_and_a_missing_interpreter_is_not_found() {
    let agent = Agent::start();
    let mut host = agent.host();
    let failure = host.run(Request::Exec(exec(&["/etc/passwd"]))).failure();
    assert_eq!(failure.kind, FailureKind::PermissionDenied);
    let failure = host.run(Request::Exec(exec(&["/etc"]))).failure();
    assert_eq!(failure.kind, FailureKind::PermissionDenied);
    let script = agent.path("script");
    fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let failure = host.run(Request::Exec(exec(&[&text(&script)]))).failure();
    assert_eq!(failure.kind, FailureKind::NotFound);
    assert!(
        failure.message.contains(&text(&script)),
        "{}",
        failure.message
    );
}

#[test]
fn a_command_over_its_time_is_killed_and_what_it_wrote_until_then_arrives() {
    let agent = Agent::start();
    let mut command = shell("echo before; exec sleep 1000");
    command.timeout_ms = Some(300);
    let run = agent.host().run(Request::Exec(command));
    assert_eq!(run.outcome, Outcome::TimedOut);
    assert_eq!(run.stdout(), "before");
}

#[test]
fn the_longest_timeout_is_no_timeout() {
    let agent = Agent::start();
    let mut command = exec(&["true"]);
    command.timeout_ms = Some(u64::MAX);
    assert_eq!(
        agent.host().run(Request::Exec(command)).outcome,
        Outcome::Exited(0)
    );
}

#[test]
fn a_signal_reaches_the_process_group() {
    let agent = Agent::start();
    let mut host = agent.host();
    let id = host.start(Request::Exec(shell(
        "trap 'exit 5' TERM; echo ready; sleep 1000 & wait",
    )));
    assert_eq!(host.output(id), b"ready\n");
    host.line.send(&ToGuest::Signal { id, signal: 15 });
    assert_eq!(host.finish(id, &[]).outcome, Outcome::Exited(5));
    host.line.send(&ToGuest::Signal { id, signal: 15 });
    host.ping();
}

#[test]
fn a_command_without_standard_input_reads_an_empty_one() {
    let agent = Agent::start();
    let run = agent.host().run(Request::Exec(exec(&["cat"])));
    assert_eq!((run.outcome, run.stdout.len()), (Outcome::Exited(0), 0));
}

#[test]
fn arguments_and_variables_are_bytes() {
    let agent = Agent::start();
    let mut command = exec(&["sh", "-c", "printf '%s %s' \"$1\" \"$A\"", "x"]);
    command.argv.push(b"caf\xe9"[..].into());
    command.env = vec![("A".into(), b"\xff"[..].into())];
    let run = agent.host().run(Request::Exec(command));
    assert_eq!(run.stdout, b"caf\xe9 \xff");
}

#[test]
fn a_command_line_is_as_large_as_linux_takes_it() {
    let agent = Agent::start();
    let mut host = agent.host();
    let mut command = exec(&["sh", "-c", "echo $#", "x"]);
    command.argv.extend(vec!["y".repeat(131_071).into(); 14]);
    assert_eq!(host.run(Request::Exec(command)).stdout(), "14");
    host.ping();
}

#[test]
fn the_standard_streams_can_be_opened_by_whoever_has_them() {
    let agent = Agent::start();
    let mut command = shell("stat -L -c %a /dev/stdin /dev/stdout /dev/stderr");
    command.stdin = true;
    let mut host = agent.host();
    let id = host.start(Request::Exec(command));
    host.line.send(&ToGuest::Eof { id });
    assert_eq!(host.finish(id, &[]).stdout(), "666\n666\n666");
}

#[test]
fn streams_that_share_a_pipe_stay_in_order() {
    let agent = Agent::start();
    let mut command = shell("for i in 1 2 3 4 5 6 7 8 9; do echo $i; echo e$i >&2; done");
    command.stderr = Stderr::ToStdout;
    let run = agent.host().run(Request::Exec(command));
    let expected: String = (1..10).map(|i| format!("{i}\ne{i}\n")).collect();
    assert_eq!(String::from_utf8(run.stdout).unwrap(), expected);
    assert!(run.stderr.is_empty());
}

#[test]
fn a_command_that_stops_itself_or_closes_all_it_has_ends_all_the_same() {
    let agent = Agent::start();
    let mut host = agent.host();
    let mut stopped = shell("echo before; kill -STOP $$");
    stopped.timeout_ms = Some(300);
    let run = host.run(Request::Exec(stopped));
    assert_eq!(run.outcome, Outcome::TimedOut);
    assert_eq!(run.stdout(), "before");
    let closed = host.shell("exec <&- >&- 2>&-; sleep .1; exit 3");
    assert_eq!(closed.outcome, Outcome::Exited(3));
    let gone = "cd \"$(mktemp -d)\" && rmdir \"$PWD\" && exec sh -c 'exit 4'";
    assert_eq!(host.shell(gone).outcome, Outcome::Exited(4));
}

#[test]
fn an_executable_that_is_no_program_is_refused_by_its_name() {
    let agent = Agent::start();
    let mut host = agent.host();
    for content in [&b"\x7fELF"[..], b"", b"\0\xff\0\xff"] {
        let file = agent.path("file");
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let failure = host.run(Request::Exec(exec(&[&text(&file)]))).failure();
        assert_eq!(failure.kind, FailureKind::Invalid, "{}", failure.message);
        let message = failure.message;
        assert!(message.contains(&text(&file)), "{message}");
        assert!(message.contains("format"), "{message}");
    }
}

#[test]
fn ten_thousand_variables_arrive() {
    let agent = Agent::start();
    let mut command = exec(&["sh", "-c", "env | grep -c ^VARIABLE_"]);
    let variable = |n| (format!("VARIABLE_{n}").as_str().into(), "x".into());
    command.env = (0..10_000).map(variable).collect();
    assert_eq!(agent.host().run(Request::Exec(command)).stdout(), "10000");
}
