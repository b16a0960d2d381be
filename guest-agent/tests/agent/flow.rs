//! Tests flow control: nobody sends more than the other takes, and nobody starves.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};

use ironclaw_protocol::frame::encode;
use ironclaw_protocol::limits::{MAX_CHUNK, OUTPUT_WINDOW, WINDOW};
use ironclaw_protocol::message::{
    Existing, GetFile, Outcome, PutFile, Request, Stream, ToGuest, ToHost,
};

use crate::host::{Agent, Host, exec, shell, text};

const MIB: usize = 1024 * 1024;

fn pattern() -> Vec<u8> {
    (0..MIB)
        .map(|at| u8::try_from(at * 31 / 7 % 251).unwrap())
        .collect()
}

/// Reads the answer to `request` without granting anything, which is the window and not a byte
/// more. Then grants bit by bit; returns all of it.
fn read_slowly(host: &mut Host, request: Request, stream: Stream) -> (Vec<u8>, Outcome) {
    let id = host.start(request);
    let window = stream.window() as usize;
    let mut all = Vec::new();
    while all.len() < window {
        all.extend(host.output(id));
    }
    assert_eq!(all.len(), window);
    // Would fail on data that is sent before the answer.
    host.ping();
    let grant = 10_000;
    loop {
        host.took(id, stream, grant);
        let mut granted = 0;
        while granted < grant {
            match host.line.message() {
                ToHost::Data { bytes, .. } => {
                    assert!(bytes.len() <= MAX_CHUNK);
                    granted += bytes.len();
                    all.extend(bytes);
                }
                ToHost::Done { outcome, .. } => return (all, outcome),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(granted, grant);
        host.ping();
    }
}

#[test]
fn a_host_is_told_when_a_command_waits_for_its_input() {
    let agent = Agent::start();
    let mut host = agent.host();
    let mut command = shell("read first; read second; echo $first $second");
    command.stdin = true;
    let id = host.start(Request::Exec(command));
    for bytes in ["a\n", "b\n"] {
        host.line.send(&ToGuest::AwaitReader { id });
        assert_eq!(host.line.message(), ToHost::ReaderWaits { id });
        let bytes = bytes.into();
        host.line.send(&ToGuest::Data { id, bytes });
    }
    assert_eq!(host.output(id), b"a b\n");
}

#[test]
fn a_slow_reader_of_a_command_gets_all_of_it_and_never_more_than_it_granted() {
    let agent = Agent::start();
    let command = Request::Exec(shell("head -c 1048576 /dev/zero; echo end"));
    let (all, outcome) = read_slowly(&mut agent.host(), command, Stream::Stdout);
    assert_eq!(outcome, Outcome::Exited(0));
    assert_eq!(all.len(), MIB + 4);
    assert!(all.ends_with(b"\0end\n"));
}

#[test]
fn a_slow_reader_of_a_file_gets_all_of_it_and_never_more_than_it_granted() {
    let agent = Agent::start();
    let path = agent.path("file");
    std::fs::write(&path, pattern()).unwrap();
    let get = Request::GetFile(GetFile {
        path: text(&path).into(),
        from: 0,
        length: None,
        user: None,
    });
    let (all, outcome) = read_slowly(&mut agent.host(), get, Stream::File);
    assert!(matches!(outcome, Outcome::FileRead { bytes, .. } if bytes == MIB as u64));
    assert!(all == pattern());
}

#[test]
fn output_that_is_left_in_the_pipe_at_the_end_waits_for_credit_and_comes_before_the_answer() {
    let agent = Agent::start();
    let mut host = agent.host();
    // The second part fits into the pipe, so the command ends long before it is read.
    let window = OUTPUT_WINDOW as usize;
    let total = window + 40_000;
    let id = host.start(Request::Exec(shell(&format!("head -c {total} /dev/zero"))));
    let mut all = Vec::new();
    while all.len() < window {
        all.extend(host.output(id));
    }
    host.ping();
    host.took(id, Stream::Stdout, window);
    let rest = host.finish(id, &[]);
    assert_eq!(all.len() + rest.stdout.len(), total);
    assert_eq!(rest.outcome, Outcome::Exited(0));
}

#[test]
fn a_mebibyte_goes_through_a_command_and_back() {
    let agent = Agent::start();
    let mut host = agent.host();
    let mut cat = exec(&["cat"]);
    cat.stdin = true;
    let id = host.start(Request::Exec(cat));
    let run = host.finish(id, &pattern());
    assert_eq!(run.outcome, Outcome::Exited(0));
    assert!(run.stdout == pattern());
}

#[test]
fn a_command_that_does_not_read_gets_no_more_than_a_window() {
    let agent = Agent::start();
    let mut host = agent.host();
    let mut command = exec(&["sleep", "1000"]);
    command.stdin = true;
    let id = host.start(Request::Exec(command));
    // A pipe takes 64 KiB and the agent may grant as much again; never a whole window.
    let mut chunk = Vec::new();
    encode(
        &ToGuest::Data {
            id,
            bytes: vec![0; MAX_CHUNK],
        },
        &mut chunk,
    )
    .unwrap();
    let mut sent = 0;
    while sent < 2 * WINDOW as usize && host.line.stream.write_all(&chunk).is_ok() {
        sent += MAX_CHUNK;
    }
    let fault = host.line.fault();
    assert!(fault.contains("credit"), "{fault}");
}

#[test]
fn a_command_that_closed_its_input_does_not_hold_the_host_up() {
    let agent = Agent::start();
    let mut host = agent.host();
    let mut command = shell("exec 0<&-; echo closed; exec sleep 1000");
    command.stdin = true;
    let id = host.start(Request::Exec(command));
    assert_eq!(host.output(id), b"closed\n");
    let mut credit = i64::from(WINDOW);
    for bytes in pattern().chunks(MAX_CHUNK) {
        while credit < i64::try_from(bytes.len()).unwrap() {
            match host.line.message() {
                ToHost::Credit { bytes, .. } => credit += i64::from(bytes),
                other => panic!("{other:?}"),
            }
        }
        host.line.send(&ToGuest::Data {
            id,
            bytes: bytes.to_vec(),
        });
        credit -= i64::try_from(bytes.len()).unwrap();
    }
    host.line.send(&ToGuest::Eof { id });
    host.line.send(&ToGuest::Signal { id, signal: 15 });
    assert_eq!(host.finish(id, &[]).outcome, Outcome::Signaled(15));
}

#[test]
fn endless_output_starves_neither_other_requests_nor_other_connections() {
    let agent = Agent::start();
    let mut host = agent.host();
    let ids = [(); 3].map(|()| host.start(Request::Exec(exec(&["yes"]))));
    let mut received = BTreeMap::from(ids.map(|id| (id, 0)));
    while received.values().any(|bytes| *bytes < MIB) {
        let ToHost::Data { id, stream, bytes } = host.line.message() else {
            panic!("not data")
        };
        *received.get_mut(&id).unwrap() += bytes.len();
        host.took(id, stream, bytes.len());
        assert!(
            received.values().all(|bytes| *bytes < 16 * MIB),
            "{received:?}"
        );
    }
    let ping = host.start(Request::Ping);
    while let ToHost::Data { .. } = match host.line.message() {
        ToHost::Done { id, outcome } => {
            assert_eq!((id, outcome), (ping, Outcome::Pong));
            return agent.host().ping();
        }
        other => other,
    } {}
    panic!("neither data nor the answer");
}

#[test]
fn a_host_that_asks_and_never_listens_is_not_read_any_more() {
    let agent = Agent::start();
    let mut host = agent.host();
    host.line.stream.set_nonblocking(true).unwrap();
    let mut asked = 0;
    let mut frame = Vec::new();
    for id in 1..=1000 {
        let id = ironclaw_protocol::message::RequestId(id);
        let get = GetFile {
            path: "/no/such/file".repeat(50).into(),
            from: 0,
            length: None,
            user: None,
        };
        let message = ToGuest::Request {
            id,
            request: Request::GetFile(get),
        };
        encode(&message, &mut frame).unwrap();
    }
    // Far more than the sockets' buffers and the agent's queue hold together.
    while asked < 64 * MIB {
        match host.line.stream.write(&frame) {
            Ok(count) if count == frame.len() => asked += count,
            Ok(_) => break,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut set = [rustix::event::PollFd::new(
                    &host.line.stream,
                    rustix::event::PollFlags::OUT,
                )];
                let second = rustix::event::Timespec {
                    tv_sec: 1,
                    tv_nsec: 0,
                };
                if rustix::event::poll(&mut set, Some(&second)).unwrap() == 0 {
                    break;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(asked < 64 * MIB, "the agent took it all");
    agent.host().ping();
}

#[test]
fn the_biggest_window_of_an_upload_is_taken_without_waiting() {
    let agent = Agent::start();
    let mut host = agent.host();
    let path = agent.path("file");
    let id = host.start(Request::PutFile(PutFile {
        path: text(&path).into(),
        mode: 0o600,
        existing: Existing::Replaced,
        user: None,
        parents: false,
    }));
    let run = host.finish(id, &pattern());
    assert_eq!(run.outcome, Outcome::FileWritten { bytes: MIB as u64 });
}
