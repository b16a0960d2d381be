use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use ironclaw_protocol::VERSION;
use ironclaw_protocol::frame::{Decoder, Event, MAGIC, decode, encode};
use ironclaw_protocol::limits::{MAX_CHUNK, OUTPUT_WINDOW, WINDOW};
use ironclaw_protocol::message::{
    Attach, Exec, ExecId, Existing, GetFile, Identity, Inherited, PutFile, SetIdentity, Stderr,
    Stream, UnixTime,
};

use super::*;
use crate::fake_machine::FakeMachine;

/// A session with the host's end of it.
struct Talk {
    machine: FakeMachine,
    guest: Guest,
    session: Session,
    host: Decoder,
}

impl Talk {
    fn start() -> Self {
        let machine = FakeMachine::default();
        let guest = machine.guest();
        Self {
            machine,
            guest,
            session: Session::new(),
            host: Decoder::new(),
        }
    }

    /// A session past its hellos.
    fn opened() -> Self {
        let mut talk = Self::start();
        talk.greet(7);
        talk
    }

    fn greet(&mut self, session: u64) {
        self.session.receive(&MAGIC);
        let answers = self.say(&ToGuest::Hello {
            version: VERSION,
            session,
        });
        assert!(
            matches!(answers[..], [ToHost::Hello { version: VERSION, session: s, .. }] if s == session)
        );
    }

    fn say(&mut self, message: &ToGuest) -> Vec<ToHost> {
        let mut bytes = Vec::new();
        encode(message, &mut bytes).unwrap();
        self.session.receive(&bytes);
        self.hear()
    }

    /// Returns everything that the guest sends until it waits.
    fn hear(&mut self) -> Vec<ToHost> {
        let mut heard = Vec::new();
        loop {
            let worked = self.session.pump(&mut self.guest);
            self.host.push(self.session.output());
            let length = self.session.output().len();
            self.session.sent(length);
            while let Some(event) = self.host.next().unwrap() {
                if let Event::Frame(payload) = event {
                    let message = decode::<ToHost>(payload).unwrap();
                    message.validate().unwrap();
                    heard.push(message);
                }
            }
            if !worked {
                return heard;
            }
        }
    }

    fn request(&mut self, id: u32, request: Request) -> Vec<ToHost> {
        self.say(&ToGuest::Request {
            id: RequestId(id),
            request,
        })
    }

    fn exec(&mut self, id: u32, argv: &[&str]) -> Vec<ToHost> {
        self.request(id, exec(argv))
    }
}

fn exec(argv: &[&str]) -> Request {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let argv = argv.iter().map(|&text| text.into()).collect();
    Request::Exec(Exec {
        id: ExecId(NEXT.fetch_add(1, Ordering::Relaxed)),
        argv,
        env: Vec::new(),
        cwd: None,
        stdin: false,
        stderr: Stderr::Apart,
        timeout_ms: None,
        keep: false,
        user: None,
        tag: "".into(),
        terminal: None,
        program: None,
        inherited: Inherited::All,
    })
}

fn done(id: u32, outcome: Outcome) -> ToHost {
    ToHost::Done {
        id: RequestId(id),
        outcome,
    }
}

fn stdout(id: u32, text: &str) -> ToHost {
    ToHost::Data {
        id: RequestId(id),
        stream: Stream::Stdout,
        bytes: text.as_bytes().to_vec(),
    }
}

fn content(heard: &[ToHost]) -> Vec<u8> {
    let bytes = heard.iter().filter_map(|message| match message {
        ToHost::Data { bytes, .. } => Some(&bytes[..]),
        _ => None,
    });
    bytes.collect::<Vec<_>>().concat()
}

fn failure(heard: &[ToHost]) -> FailureKind {
    match heard {
        [
            ToHost::Done {
                outcome: Outcome::Failed(failure),
                ..
            },
        ] => failure.kind,
        other => panic!("no failure: {other:?}"),
    }
}

fn is_fault(heard: &[ToHost]) -> bool {
    matches!(heard.last(), Some(ToHost::Fault { .. }))
}

#[test]
fn commands_print_and_exit() {
    let mut talk = Talk::opened();
    let heard = talk.exec(1, &["echo", "a", "b c"]);
    assert_eq!(heard, [stdout(1, "a b c\n"), done(1, Outcome::Exited(0))]);
    assert_eq!(talk.exec(1, &["counter"])[0], stdout(1, "1\n"));
    assert_eq!(talk.exec(1, &["counter"])[0], stdout(1, "2\n"));
    assert_eq!(
        talk.exec(1, &["fail", "42"]),
        [done(1, Outcome::Exited(42))]
    );
    assert_eq!(
        talk.exec(1, &["fail", "256"]).last(),
        Some(&done(1, Outcome::Exited(2)))
    );
    assert_eq!(failure(&talk.exec(1, &["ls"])), FailureKind::NotFound);
}

#[test]
fn dirty_writes_what_was_asked_for_or_nothing() {
    let mut talk = Talk::opened();
    assert_eq!(
        talk.exec(1, &["dirty", "40"]),
        [done(1, Outcome::Exited(0))]
    );
    assert_eq!(talk.machine.dirtied.get(), 40);
    assert_eq!(
        talk.exec(1, &["dirty", "41"]).last(),
        Some(&done(1, Outcome::Exited(1)))
    );
    assert_eq!(talk.machine.dirtied.get(), 40);
}

#[test]
fn a_restored_guest_takes_over_identity_and_time_and_leaves_its_siblings_random_numbers() {
    let mut talk = Talk::opened();
    let mut sibling = talk.guest.generator.clone();
    let restored = SetIdentity {
        entropy: [9; 32],
        unix_time: UnixTime {
            seconds: 1_700_000_000,
            nanos: 5,
        },
        identity: Identity {
            machine_id: [0xab; 16],
            boot_id: [0xcd; 16],
            hostname: "vm-1".into(),
        },
    };
    assert_eq!(
        talk.exec(1, &["identity"]).last(),
        Some(&done(1, Outcome::Exited(1)))
    );
    assert_eq!(
        talk.request(1, Request::SetIdentity(restored)),
        [done(1, Outcome::IdentitySet)]
    );
    talk.machine.pass(2000);
    assert_eq!(
        talk.exec(1, &["clock"])[0],
        stdout(1, "1700000002.000000005\n")
    );
    let expected = "vm-1\nabababababababababababababababab\ncdcdcdcd-cdcd-cdcd-cdcd-cdcdcdcdcdcd\n";
    assert_eq!(talk.exec(1, &["identity"])[0], stdout(1, expected));
    assert_ne!(talk.guest.generator.draw(), sibling.draw());
}

#[test]
fn output_stops_at_the_window_and_goes_on_when_some_was_taken() {
    let mut talk = Talk::opened();
    let mut all = content(&talk.exec(1, &["flood", "1"]));
    assert_eq!(all.len(), OUTPUT_WINDOW as usize);
    let taken = |offset| ToGuest::Taken {
        id: RequestId(1),
        stream: Stream::Stdout,
        offset,
    };
    let more = content(&talk.say(&taken(1000)));
    assert_eq!(more.len(), 1000);
    all.extend(more);
    let last = loop {
        let heard = talk.say(&taken(all.len() as u64));
        all.extend(content(&heard));
        if all.len() == 1 << 20 {
            break heard.last().cloned();
        }
    };
    let last = last.filter(|last| matches!(last, ToHost::Done { .. }));
    let last = last.or_else(|| talk.say(&taken(1 << 20)).pop());
    assert_eq!(last, Some(done(1, Outcome::Exited(0))));
    assert!(
        all.iter()
            .enumerate()
            .all(|(at, &byte)| at % 251 == usize::from(byte))
    );
    assert!(is_fault(&talk.say(&ToGuest::Request {
        id: RequestId(1),
        request: exec(&[]),
    })));
}

#[test]
fn a_host_that_does_not_read_stops_the_output_and_then_its_own_input() {
    let mut talk = Talk::opened();
    let mut bytes = Vec::new();
    let flood = exec(&["flood", "1"]);
    encode(
        &ToGuest::Request {
            id: RequestId(1),
            request: flood,
        },
        &mut bytes,
    )
    .unwrap();
    talk.session.receive(&bytes);
    while talk.session.pump(&mut talk.guest) {}
    assert!(talk.session.output().len() < 4 * MAX_CHUNK);
    bytes.clear();
    for id in 2..100_000 {
        encode(
            &ToGuest::Request {
                id: RequestId(id),
                request: Request::Ping,
            },
            &mut bytes,
        )
        .unwrap();
    }
    talk.session.receive(&bytes);
    while talk.session.pump(&mut talk.guest) {}
    assert!(talk.session.is_congested());
    assert!(talk.session.output().len() < 8 * MAX_CHUNK + 64);
}

#[test]
fn cat_returns_what_it_read() {
    let mut talk = Talk::opened();
    let Request::Exec(mut cat) = exec(&["cat"]) else {
        unreachable!()
    };
    cat.stdin = true;
    assert_eq!(talk.request(1, Request::Exec(cat)), []);
    let bytes = vec![3; 100];
    let heard = talk.say(&ToGuest::Data {
        id: RequestId(1),
        bytes: bytes.clone(),
    });
    assert_eq!(content(&heard), bytes);
    let heard = talk.say(&ToGuest::Eof { id: RequestId(1) });
    assert_eq!(heard, [done(1, Outcome::Exited(0))]);
}

#[test]
fn content_beyond_the_credit_is_a_fault() {
    let mut talk = Talk::opened();
    let Request::Exec(mut sleep) = exec(&["sleep", "1000"]) else {
        unreachable!()
    };
    sleep.stdin = true;
    talk.request(1, Request::Exec(sleep));
    let data = ToGuest::Data {
        id: RequestId(1),
        bytes: vec![0; MAX_CHUNK],
    };
    for _ in 0..WINDOW as usize / MAX_CHUNK {
        assert_eq!(talk.say(&data), []);
    }
    assert!(is_fault(&talk.say(&data)));
}

#[test]
fn sleep_ends_on_time_or_when_its_time_is_up() {
    let mut talk = Talk::opened();
    let Request::Exec(mut sleep) = exec(&["sleep", "1000"]) else {
        unreachable!()
    };
    assert_eq!(talk.exec(1, &["sleep", "300"]), []);
    sleep.timeout_ms = Some(500);
    assert_eq!(talk.request(2, Request::Exec(sleep)), []);
    assert_eq!(talk.guest.wakes_at(), Some(Duration::from_millis(300)));
    talk.machine.pass(299);
    assert_eq!(talk.hear(), []);
    talk.machine.pass(1);
    assert_eq!(talk.hear(), [done(1, Outcome::Exited(0))]);
    talk.machine.pass(200);
    assert_eq!(talk.hear(), [done(2, Outcome::TimedOut)]);
    assert_eq!(talk.guest.wakes_at(), None);
}

#[test]
fn a_cancelled_request_fails_and_a_signalled_one_dies_of_it() {
    let mut talk = Talk::opened();
    talk.exec(1, &["sleep", "1000"]);
    talk.exec(2, &["sleep", "1000"]);
    assert_eq!(
        failure(&talk.say(&ToGuest::Cancel { id: RequestId(1) })),
        FailureKind::Cancelled
    );
    assert_eq!(
        talk.say(&ToGuest::Signal {
            id: RequestId(2),
            signal: 17
        }),
        []
    );
    let heard = talk.say(&ToGuest::Signal {
        id: RequestId(2),
        signal: 15,
    });
    assert_eq!(heard, [done(2, Outcome::Signaled(15))]);
    assert_eq!(talk.say(&ToGuest::Cancel { id: RequestId(2) }), []);
}

#[test]
fn a_file_comes_back_as_it_was_put() {
    let mut talk = Talk::opened();
    let put = Request::PutFile(PutFile {
        path: "/tmp/a".into(),
        mode: 0o640,
        existing: Existing::Replaced,
        user: None,
        parents: false,
    });
    assert_eq!(talk.request(1, put), []);
    let bytes = vec![5; MAX_CHUNK];
    talk.say(&ToGuest::Data {
        id: RequestId(1),
        bytes: bytes.clone(),
    });
    let get = Request::GetFile(GetFile {
        path: "/tmp/a".into(),
        from: 0,
        length: None,
        user: None,
    });
    assert_eq!(
        failure(&talk.request(2, get.clone())),
        FailureKind::NotFound
    );
    let heard = talk.say(&ToGuest::Eof { id: RequestId(1) });
    assert_eq!(
        heard,
        [done(
            1,
            Outcome::FileWritten {
                bytes: MAX_CHUNK as u64
            }
        )]
    );
    let heard = talk.request(1, get);
    assert_eq!(content(&heard), bytes);
    let read = Outcome::FileRead {
        mode: 0o640,
        bytes: MAX_CHUNK as u64,
    };
    assert_eq!(heard.last(), Some(&done(1, read)));
}

#[test]
fn a_file_that_does_not_fit_is_refused_while_it_comes() {
    let mut talk = Talk::opened();
    let put = Request::PutFile(PutFile {
        path: "/big".into(),
        mode: 0o600,
        existing: Existing::Replaced,
        user: None,
        parents: false,
    });
    talk.request(1, put);
    let data = ToGuest::Data {
        id: RequestId(1),
        bytes: vec![0; MAX_CHUNK],
    };
    let chunks = crate::files::MAX_BYTES / MAX_CHUNK;
    for _ in 0..chunks {
        assert!(
            talk.say(&data)
                .iter()
                .all(|m| matches!(m, ToHost::Credit { .. }))
        );
    }
    assert_eq!(failure(&talk.say(&data)), FailureKind::NoSpace);
    assert_eq!(talk.say(&data), [], "what was under way is dropped");
}

#[test]
fn one_request_too_many_is_refused_and_pings_still_answered() {
    let mut talk = Talk::opened();
    for id in 0..16 {
        assert_eq!(talk.exec(id, &["sleep", "1000"]), []);
    }
    assert_eq!(failure(&talk.exec(99, &["echo"])), FailureKind::TooMany);
    assert_eq!(talk.request(99, Request::Ping), [done(99, Outcome::Pong)]);
}

#[test]
fn a_command_goes_on_over_a_new_session_and_is_found_again() {
    let mut talk = Talk::opened();
    let Request::Exec(count) = exec(&["count", "10"]) else {
        unreachable!()
    };
    let attach = Attach {
        exec: count.id,
        stdout: 2,
        stderr: 0,
    };
    assert_eq!(talk.request(1, Request::Exec(count))[0], stdout(1, "1\n"));
    talk.greet(8);
    for _ in 0..3 {
        talk.machine.pass(10);
        assert_eq!(talk.hear(), []);
    }
    let heard = talk.request(5, Request::Attach(attach));
    assert!(
        matches!(
            heard[0],
            ToHost::Attached {
                stdout: 2,
                stdin: None,
                ..
            }
        ),
        "{heard:?}"
    );
    assert_eq!(heard[1], stdout(5, "2\n3\n4\n"));
    let exec = attach.exec;
    let killed = talk.request(6, Request::Kill { exec });
    let expected = [done(6, Outcome::Delivered), done(5, Outcome::Signaled(9))];
    assert_eq!(killed, expected);
}

#[test]
fn a_command_that_nobody_comes_back_for_ends() {
    let mut talk = Talk::opened();
    talk.exec(1, &["sleep", "1000000"]);
    talk.greet(8);
    for _ in 0..60 {
        talk.hear();
        talk.machine.pass(1000);
    }
    assert_eq!(talk.guest.wakes_at(), None);
}

#[test]
fn a_copy_goes_on_with_the_commands_of_the_original_and_a_clock_of_its_own() {
    let mut talk = Talk::opened();
    talk.machine.pass(500);
    let Request::Exec(count) = exec(&["count", "10"]) else {
        unreachable!()
    };
    let exec = count.id;
    talk.request(1, Request::Exec(count));
    let mut copy = Talk::start();
    copy.guest
        .adopt(talk.guest.commands.clone(), talk.guest.machine.uptime());
    copy.greet(3);
    let attach = Request::Attach(Attach {
        exec,
        stdout: 0,
        stderr: 0,
    });
    assert_eq!(copy.request(1, attach)[1], stdout(1, "1\n"));
    copy.machine.pass(10);
    assert_eq!(copy.hear(), [stdout(1, "2\n")]);
}

#[test]
fn a_protocol_violation_ends_the_session() {
    let hello = ToGuest::Hello {
        version: VERSION,
        session: 1,
    };
    let ping = ToGuest::Request {
        id: RequestId(1),
        request: Request::Ping,
    };
    let other_version = ToGuest::Hello {
        version: VERSION + 1,
        session: 1,
    };

    let mut early = Talk::start();
    early.session.receive(&MAGIC);
    assert!(is_fault(&early.say(&ping)), "a request before hello");
    assert!(early.session.is_over());

    let mut other = Talk::start();
    other.session.receive(&MAGIC);
    let heard = other.say(&other_version);
    assert!(
        matches!(
            heard[0],
            ToHost::Hello {
                version: VERSION,
                ..
            }
        ) && is_fault(&heard)
    );

    assert!(is_fault(&Talk::opened().say(&hello)), "a second hello");

    let mut twice = Talk::opened();
    twice.exec(1, &["sleep", "1000"]);
    assert!(is_fault(&twice.say(&ping)), "a number in use");

    let mut garbage = Talk::opened();
    garbage.session.receive(&[2, 0, 0, 0, 0xff, 0xff]);
    assert!(is_fault(&garbage.hear()));
    assert_eq!(garbage.say(&ping), [], "nothing is read after a fault");

    let mut out_of_bounds = Talk::opened();
    assert!(is_fault(&out_of_bounds.exec(1, &[])));
}
