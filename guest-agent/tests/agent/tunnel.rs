//! Tests connections to ports.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::thread;

use ironclaw_protocol::limits::MAX_CONNECTIONS;
use ironclaw_protocol::message::{FailureKind, Outcome, Request, ToGuest, ToHost};

use crate::host::Agent;

fn listen() -> (TcpListener, Request) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, Request::Connect { port })
}

#[test]
fn a_port_that_nobody_listens_on_is_told_apart() {
    let agent = Agent::start();
    let mut host = agent.host();
    let (listener, connect) = listen();
    drop(listener);
    let failure = host.run(connect).failure();
    assert_eq!(failure.kind, FailureKind::Refused);
    assert!(
        failure.message.contains("no program listens"),
        "{}",
        failure.message
    );
    host.ping();
}

#[test]
fn bytes_go_both_ways_in_windows_and_each_way_ends_by_itself() {
    let agent = Agent::start();
    let mut host = agent.host();
    let (listener, connect) = listen();
    let sent: Vec<u8> = (0..1_500_000_u32).map(|at| at.to_le_bytes()[1]).collect();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut read = Vec::new();
        stream.read_to_end(&mut read).unwrap();
        // Only now: its other end was half closed.
        stream.write_all(&read).unwrap();
        read
    });
    let id = host.start(connect);
    let end = host.finish(id, &sent);
    assert_eq!(end.outcome, Outcome::Disconnected);
    assert!(server.join().unwrap() == sent && end.file == sent);
}

#[test]
fn a_program_that_says_all_it_has_can_still_listen() {
    let agent = Agent::start();
    let mut host = agent.host();
    let (listener, connect) = listen();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"hello").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut read = String::new();
        stream.read_to_string(&mut read).unwrap();
        read
    });
    let id = host.start(connect);
    assert_eq!(host.line.message(), ToHost::Opened { id });
    assert_eq!(host.output(id), b"hello");
    assert_eq!(host.line.message(), ToHost::Eof { id });
    let bytes = b"late".to_vec();
    host.line.send(&ToGuest::Data { id, bytes });
    host.line.send(&ToGuest::Eof { id });
    let outcome = Outcome::Disconnected;
    assert_eq!(host.line.message(), ToHost::Done { id, outcome });
    assert_eq!(server.join().unwrap(), "late");
}

#[test]
fn connections_are_bounded_and_leave_room_for_others() {
    let agent = Agent::start();
    let mut host = agent.host();
    let (_listener, connect) = listen();
    for _ in 0..MAX_CONNECTIONS {
        let id = host.start(connect.clone());
        assert_eq!(host.line.message(), ToHost::Opened { id });
    }
    let refused = host.run(connect).failure();
    assert_eq!(refused.kind, FailureKind::TooMany);
    assert_eq!(host.shell("echo on").stdout(), "on");
}
