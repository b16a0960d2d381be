//! Tests the agent with hosts that violate the protocol, and with good ones after them.

use std::io::Write;

use ironclaw_protocol::VERSION;
use ironclaw_protocol::frame::{MAGIC, encode};
use ironclaw_protocol::limits::{MAX_CHUNK, MAX_REQUEST_FRAME, MAX_REQUESTS, MAX_RESYNC};
use ironclaw_protocol::message::{
    ExecId, FailureKind, GetFile, Identity, Outcome, Request, RequestId, SetIdentity, Stream,
    ToGuest, ToHost, UnixTime,
};

use crate::host::{Agent, Arrival, exec};

#[test]
fn noise_in_front_of_a_session_is_skipped() {
    let agent = Agent::start();
    let mut line = agent.connect();
    line.stream.write_all(&[0xA5; 10_000]).unwrap();
    line.stream.write_all(&MAGIC[..5]).unwrap();
    line.open(77);
}

#[test]
fn endless_noise_ends_the_connection_and_not_the_agent() {
    let agent = Agent::start();
    let mut line = agent.connect();
    let sent = line
        .stream
        .write_all(&vec![0xA5; MAX_RESYNC + 2 * MAX_CHUNK]);
    if sent.is_ok() {
        assert_eq!(line.arrival(), Arrival::Closed);
    }
    agent.host().ping();
}

#[test]
fn garbage_in_a_session_is_a_fault_and_the_next_session_is_served() {
    let agent = Agent::start();
    let mut host = agent.host();
    host.line
        .stream
        .write_all(&[3, 0, 0, 0, 0xFF, 0xFF, 0xFF])
        .unwrap();
    assert!(host.line.fault().contains("does not hold a message"));
    agent.host().ping();
}

#[test]
fn an_oversized_frame_is_a_fault_before_its_content_arrives() {
    let agent = Agent::start();
    let mut host = agent.host();
    let length = u32::try_from(MAX_REQUEST_FRAME + 1).unwrap();
    host.line.stream.write_all(&length.to_le_bytes()).unwrap();
    assert!(host.line.fault().contains("over the limit"));
    agent.host().ping();
}

#[test]
fn a_host_of_another_version_learns_the_agents_before_it_is_refused() {
    let agent = Agent::start();
    let mut line = agent.connect();
    line.stream.write_all(&MAGIC).unwrap();
    line.send(&ToGuest::Hello {
        version: VERSION + 1,
        session: 5,
    });
    assert_eq!(line.arrival(), Arrival::Opened);
    let hello = line.message();
    assert!(
        matches!(
            hello,
            ToHost::Hello {
                version: VERSION,
                session: 5,
                ..
            }
        ),
        "{hello:?}"
    );
    assert!(line.fault().contains("version"));
}

#[test]
fn a_session_that_does_not_start_with_a_hello_is_a_fault() {
    let agent = Agent::start();
    let mut line = agent.connect();
    line.stream.write_all(&MAGIC).unwrap();
    line.send(&ToGuest::Request {
        id: RequestId(1),
        request: Request::Ping,
    });
    assert_eq!(line.arrival(), Arrival::Opened);
    assert!(line.fault().contains("Hello"));
    let mut host = agent.host();
    host.line.send(&ToGuest::Hello {
        version: VERSION,
        session: 1,
    });
    assert!(host.line.fault().contains("Hello"));
}

#[test]
fn a_message_out_of_bounds_is_a_fault() {
    let agent = Agent::start();
    for message in [
        ToGuest::Request {
            id: RequestId(1),
            request: Request::GetFile(GetFile {
                path: "relative".into(),
                from: 0,
                length: None,
                user: None,
            }),
        },
        ToGuest::Request {
            id: RequestId(1),
            request: Request::Exec(exec(&[])),
        },
        ToGuest::Data {
            id: RequestId(1),
            bytes: vec![0; MAX_CHUNK + 1],
        },
        ToGuest::Signal {
            id: RequestId(1),
            signal: 4711,
        },
    ] {
        let mut host = agent.host();
        host.line.send(&message);
        host.line.fault();
    }
    agent.host().ping();
}

#[test]
fn content_where_none_is_due_is_a_fault() {
    let agent = Agent::start();
    let id = RequestId(1);
    let mut without_stdin = agent.host();
    without_stdin.start(Request::Exec(exec(&["sleep", "1000"])));
    without_stdin
        .line
        .send(&ToGuest::Data { id, bytes: vec![1] });
    assert!(without_stdin.line.fault().contains("no (more) content"));
    let mut after_the_end = agent.host();
    let mut command = exec(&["sleep", "1000"]);
    command.stdin = true;
    after_the_end.start(Request::Exec(command));
    after_the_end.line.send(&ToGuest::Eof { id });
    after_the_end
        .line
        .send(&ToGuest::Data { id, bytes: vec![1] });
    assert!(after_the_end.line.fault().contains("no (more) content"));
}

#[test]
fn as_many_requests_as_the_protocol_allows_are_served_and_one_more_is_a_fault() {
    let agent = Agent::start();
    let mut host = agent.host();
    let cat = || {
        let mut cat = exec(&["cat"]);
        cat.stdin = true;
        Request::Exec(cat)
    };
    let ids: Vec<_> = (0..MAX_REQUESTS).map(|_| host.start(cat())).collect();
    for &id in &ids {
        host.line.send(&ToGuest::Data {
            id,
            bytes: id.0.to_le_bytes().to_vec(),
        });
    }
    for _ in &ids {
        let ToHost::Data { id, bytes, .. } = host.line.message() else {
            panic!("not data")
        };
        assert_eq!(bytes, id.0.to_le_bytes());
    }
    for &id in &ids {
        host.line.send(&ToGuest::Eof { id });
    }
    for _ in &ids {
        let done = host.line.message();
        assert!(
            matches!(
                done,
                ToHost::Done {
                    outcome: Outcome::Exited(0),
                    ..
                }
            ),
            "{done:?}"
        );
    }
    for _ in 0..MAX_REQUESTS {
        host.start(cat());
    }
    host.start(Request::Ping);
    assert!(host.line.fault().contains("256"));
    agent.host().ping();
}

#[test]
fn a_number_can_be_used_again_after_its_answer_and_not_before() {
    let agent = Agent::start();
    let mut host = agent.host();
    let id = RequestId(9);
    for _ in 0..2 {
        host.line.send(&ToGuest::Request {
            id,
            request: Request::Ping,
        });
        assert_eq!(
            host.line.message(),
            ToHost::Done {
                id,
                outcome: Outcome::Pong
            }
        );
    }
    host.line.send(&ToGuest::Request {
        id,
        request: Request::Exec(exec(&["sleep", "1000"])),
    });
    host.line.send(&ToGuest::Request {
        id,
        request: Request::Ping,
    });
    assert!(host.line.fault().contains("9 is in use"));
}

#[test]
fn messages_about_unknown_requests_are_ignored() {
    let agent = Agent::start();
    let mut host = agent.host();
    let id = RequestId(1234);
    host.line.send(&ToGuest::Data {
        id,
        bytes: vec![1; 100],
    });
    host.line.send(&ToGuest::Eof { id });
    let stream = Stream::Stdout;
    host.line.send(&ToGuest::Taken {
        id,
        stream,
        offset: 7,
    });
    host.line.send(&ToGuest::Detach { id });
    host.line.send(&ToGuest::Acknowledge { exec: ExecId(7) });
    host.line.send(&ToGuest::Signal { id, signal: 9 });
    host.line.send(&ToGuest::Cancel { id });
    host.ping();
}

#[test]
fn a_stream_in_single_bytes_is_understood() {
    let agent = Agent::start();
    let mut line = agent.connect();
    let mut bytes = MAGIC.to_vec();
    encode(
        &ToGuest::Hello {
            version: VERSION,
            session: 3,
        },
        &mut bytes,
    )
    .unwrap();
    let id = RequestId(1);
    encode(
        &ToGuest::Request {
            id,
            request: Request::Ping,
        },
        &mut bytes,
    )
    .unwrap();
    for byte in bytes {
        line.stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(line.arrival(), Arrival::Opened);
    assert!(matches!(line.message(), ToHost::Hello { session: 3, .. }));
    assert_eq!(
        line.message(),
        ToHost::Done {
            id,
            outcome: Outcome::Pong
        }
    );
}

#[test]
fn connections_have_numbers_of_their_own() {
    let agent = Agent::start();
    let (mut one, mut other) = (agent.host(), agent.host());
    let ids = [&mut one, &mut other].map(|host| {
        let mut cat = exec(&["cat"]);
        cat.stdin = true;
        host.start(Request::Exec(cat))
    });
    assert_eq!(ids[0], ids[1]);
    assert_eq!(one.finish(ids[0], b"one").stdout, b"one");
    assert_eq!(other.finish(ids[1], b"other").stdout, b"other");
}

#[test]
fn hosts_that_send_damaged_sessions_do_not_harm_the_next_one() {
    let agent = Agent::start();
    let mut good = MAGIC.to_vec();
    encode(
        &ToGuest::Hello {
            version: VERSION,
            session: 1,
        },
        &mut good,
    )
    .unwrap();
    for id in 0..4 {
        let mut command = exec(&["cat"]);
        command.stdin = true;
        let id = RequestId(id);
        encode(
            &ToGuest::Request {
                id,
                request: Request::Exec(command),
            },
            &mut good,
        )
        .unwrap();
        encode(
            &ToGuest::Data {
                id,
                bytes: vec![7; 20],
            },
            &mut good,
        )
        .unwrap();
    }
    // xorshift32: the same damage in every run.
    let mut state = 0x9E37_79B9_u32;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as usize
    };
    for _ in 0..300 {
        let mut bytes = good.clone();
        for _ in 0..=random() % 3 {
            let at = MAGIC.len() + random() % (bytes.len() - MAGIC.len());
            bytes[at] = random().to_le_bytes()[0];
        }
        bytes.truncate(MAGIC.len() + random() % (bytes.len() - MAGIC.len()));
        let mut line = agent.connect();
        // The agent may close the connection before everything is sent.
        let _ = line.stream.write_all(&bytes);
    }
    agent.host().ping();
}

#[test]
fn an_agent_that_is_not_pid_1_leaves_the_system_alone_and_says_so() {
    let agent = Agent::start();
    let restored = SetIdentity {
        entropy: [1; 32],
        unix_time: UnixTime {
            seconds: 1,
            nanos: 0,
        },
        identity: Identity {
            machine_id: [1; 16],
            boot_id: [2; 16],
            hostname: "clone".into(),
        },
    };
    let failure = agent.host().run(Request::SetIdentity(restored)).failure();
    assert_eq!(failure.kind, FailureKind::Invalid);
    assert!(failure.message.contains("PID 1"), "{}", failure.message);
}

#[test]
fn a_shutdown_is_answered_and_then_done() {
    let mut agent = Agent::start();
    let mut host = agent.host();
    assert_eq!(host.run(Request::Shutdown).outcome, Outcome::ShuttingDown);
    assert_eq!(host.line.arrival(), Arrival::Closed);
    drop(host);
    assert!(agent.process.wait().unwrap().success());
}
