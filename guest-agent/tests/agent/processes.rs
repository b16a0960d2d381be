//! Tests which processes are left.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ironclaw_protocol::message::{FailureKind, Outcome, Request, RequestId, ToGuest};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::host::{Agent, Host, TIMEOUT, shell, text};

/// A process tree that holds a FIFO open: the other end shows when the last of them is gone.
struct Tree {
    fifo: fs::File,
    marker: String,
}

impl Tree {
    /// Starts a command of three processes, one of them in the background.
    fn start(agent: &Agent, host: &mut Host, seconds: &str) -> (Self, RequestId) {
        let path = agent.path("fifo");
        let made = host.shell(&format!("mkfifo {}", text(&path)));
        assert_eq!(made.outcome, Outcome::Exited(0));
        // An argument that no other process on this machine has.
        let marker = format!("{seconds}.{}", agent.process.id());
        let script = format!(
            "exec 9>{}; sleep {marker} & sh -c 'sleep {marker}; true' & echo up; wait",
            text(&path)
        );
        let id = host.start(Request::Exec(shell(&script)));
        let fifo = fs::File::open(&path).unwrap();
        assert_eq!(host.output(id), b"up\n");
        let tree = Self { fifo, marker };
        assert!(!tree.processes().is_empty());
        (tree, id)
    }

    fn processes(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .map(|entry| entry.path());
        entries
            .filter(|path| {
                let command = fs::read(path.join("cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&command).contains(&self.marker)
            })
            .collect()
    }

    /// Waits until all of them are gone.
    fn gone(mut self) {
        assert_eq!(self.fifo.read(&mut [0]).unwrap(), 0);
        let left = self.processes();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_cancelled_command_leaves_no_process() {
    let agent = Agent::start();
    let mut host = agent.host();
    let (tree, id) = Tree::start(&agent, &mut host, "1001");
    host.line.send(&ToGuest::Cancel { id });
    assert_eq!(host.finish(id, &[]).failure().kind, FailureKind::Cancelled);
    tree.gone();
}

#[test]
fn a_command_over_its_time_leaves_no_process() {
    let agent = Agent::start();
    let mut host = agent.host();
    let path = text(&agent.path("fifo"));
    host.shell(&format!("mkfifo {path}"));
    let mut command = shell(&format!("exec 9>{path}; sleep 1002 & sleep 1002"));
    command.timeout_ms = Some(300);
    let id = host.start(Request::Exec(command));
    let mut fifo = fs::File::open(path).unwrap();
    assert_eq!(host.finish(id, &[]).outcome, Outcome::TimedOut);
    assert_eq!(fifo.read(&mut [0]).unwrap(), 0);
}

#[test]
fn the_processes_of_an_old_session_on_the_line_end_if_nobody_asks_for_them() {
    let agent = Agent::start();
    let mut host = agent.host();
    let (tree, _) = Tree::start(&agent, &mut host, "1003");
    host.line.open(2);
    tree.gone();
    host.ping();
}

#[test]
fn a_host_that_hangs_up_and_does_not_come_back_leaves_no_process() {
    let agent = Agent::start();
    let mut host = agent.host();
    let (tree, _) = Tree::start(&agent, &mut host, "1004");
    drop(host);
    tree.gone();
    agent.host().ping();
}

#[test]
fn a_host_that_breaks_the_protocol_and_does_not_come_back_leaves_no_process() {
    let agent = Agent::start();
    let mut host = agent.host();
    let (tree, id) = Tree::start(&agent, &mut host, "1005");
    host.line.send(&ToGuest::Request {
        id,
        request: Request::Ping,
    });
    assert!(host.line.fault().contains("in use"));
    tree.gone();
}

#[test]
fn a_background_process_that_keeps_the_pipes_does_not_hold_the_answer_up() {
    let agent = Agent::start();
    let mut host = agent.host();
    let started = Instant::now();
    let run = host.shell("sleep 1000 & echo $!");
    assert!(started.elapsed() < TIMEOUT);
    assert_eq!(run.outcome, Outcome::Exited(0));
    let pid = Pid::from_raw(run.stdout().parse().unwrap()).unwrap();
    kill_process(pid, Signal::KILL).expect("it lives on");
}

#[test]
fn a_background_process_that_never_stops_writing_does_not_hold_the_answer_up() {
    let agent = Agent::start();
    let mut host = agent.host();
    let run = host.shell("yes & echo $! >&2");
    assert_eq!(run.outcome, Outcome::Exited(0));
    let pid = String::from_utf8(run.stderr).unwrap();
    let pid = Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    // It dies by itself without a reader; then there is nothing to kill.
    let _ = kill_process(pid, Signal::KILL);
    host.ping();
}

#[test]
fn orphans_are_reaped_and_mistaken_for_nobody() {
    let agent = Agent::start();
    let mut host = agent.host();
    let path = text(&agent.path("fifo"));
    host.shell(&format!("mkfifo {path}"));
    // The orphan ends when somebody writes to the FIFO.
    let run = host.shell(&format!("(read line < {path}; exit 9) & echo $!"));
    let pid: i32 = run.stdout().parse().unwrap();
    let orphan = PathBuf::from(format!("/proc/{pid}"));
    let status = fs::read_to_string(orphan.join("status")).unwrap();
    assert!(
        status.contains(&format!("PPid:\t{}\n", agent.process.id())),
        "{status}"
    );
    let pidfd = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
    fs::write(&path, "go\n").unwrap();
    let mut set = [rustix::event::PollFd::new(
        &pidfd,
        rustix::event::PollFlags::IN,
    )];
    let patience = TIMEOUT.try_into().unwrap();
    assert_eq!(rustix::event::poll(&mut set, Some(&patience)).unwrap(), 1);
    // The kernel has notified the agent, too; each ping is a turn of its loop.
    let deadline = Instant::now() + Duration::from_secs(10);
    while orphan.exists() {
        assert!(Instant::now() < deadline, "still a zombie");
        host.ping();
    }
    assert_eq!(host.shell("exit 3").outcome, Outcome::Exited(3));
}

#[test]
fn a_thousand_commands_each_get_their_own_status_and_leave_no_descriptor() {
    let agent = Agent::start();
    let mut host = agent.host();
    host.shell("true");
    let descriptors = || {
        fs::read_dir(format!("/proc/{}/fd", agent.process.id()))
            .unwrap()
            .count()
    };
    let before = descriptors();
    for round in 0..10 {
        let ids: Vec<_> = (0..100_u8)
            .map(|code| {
                let script = format!("exit {}", code.wrapping_add(round));
                (
                    host.start(Request::Exec(shell(&script))),
                    code.wrapping_add(round),
                )
            })
            .collect();
        let mut expected: std::collections::BTreeMap<_, _> = ids.into_iter().collect();
        while !expected.is_empty() {
            match host.line.message() {
                ironclaw_protocol::message::ToHost::Done { id, outcome } => {
                    assert_eq!(outcome, Outcome::Exited(expected.remove(&id).unwrap()));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(descriptors(), before);
}

#[test]
fn the_output_of_a_filter_that_ends_after_the_main_process_arrives() {
    let agent = Agent::start();
    let path = text(&agent.path("fifo"));
    // The filter continues to read when its writer, the main process, is gone.
    let script = format!(
        "mkfifo {path}; (sleep .2; sed 's/^/[app] /') <{path} & exec >{path}; echo one; echo two"
    );
    let run = agent.host().shell(&script);
    assert_eq!(run.outcome, Outcome::Exited(0));
    assert_eq!(run.stdout(), "[app] one\n[app] two");
}

#[test]
fn a_filter_that_is_behind_is_waited_for_while_the_host_takes_nothing() {
    let agent = Agent::start();
    let mut host = agent.host();
    let path = text(&agent.path("fifo"));
    let script = format!("mkfifo {path}; cat <{path} & exec >{path}; seq 1 70000");
    let id = host.start(Request::Exec(shell(&script)));
    // More than the host takes, the pipes hold, and the quiet time of the wait.
    std::thread::sleep(Duration::from_secs(1));
    let run = host.finish(id, &[]);
    assert!(run.stdout().ends_with("\n70000"), "{}", run.stdout.len());
}
