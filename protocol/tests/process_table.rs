//! Tests a guest's table of commands over sessions that are cut at any byte.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::VecDeque;

use ironclaw_protocol::VERSION;
use ironclaw_protocol::frame::{Decoder, Event, MAGIC, decode, encode};
use ironclaw_protocol::limits::{
    MAX_CHUNK, MAX_COMMANDS, MAX_ENDED, MAX_FORGOTTEN, MAX_KEPT_OUTPUT, MIN_OUTPUT_WINDOW,
    OUTPUT_WINDOW, UNATTENDED_OUTPUT, UNATTENDED_TICKS,
};
use ironclaw_protocol::message::{
    Attach, CommandEnd, ExecId, Outcome, Request, RequestId, Stream, ToGuest, ToHost,
};
use ironclaw_protocol::process_table::{
    Listener, NewCommand, ProcessTable, Refusal, SessionKey, Turn,
};
use ironclaw_protocol::session::{Heard, Session};
use proptest::prelude::*;

const EXEC: ExecId = ExecId(7);
const REQUEST: RequestId = RequestId(3);

fn listener(session: u64) -> Listener {
    Listener {
        session: SessionKey(session),
        request: REQUEST,
    }
}

fn start(table: &mut ProcessTable, exec: ExecId, keep: bool, session: u64) {
    table.check(exec).unwrap();
    let new = NewCommand {
        exec,
        pid: 1,
        program: &"program".into(),
        tag: &"tag".into(),
        keep,
        stdin: false,
    };
    let listener = Listener {
        session: SessionKey(session),
        request: RequestId(u32::try_from(exec.0).unwrap()),
    };
    table.start(&new, listener);
}

/// Returns the byte of a stream at an offset: different in each stream, and with a short period.
fn byte(stream: Stream, offset: u64) -> u8 {
    let salt = u64::from(stream == Stream::Stderr);
    u8::try_from((offset * 7 + salt * 101) % 251).unwrap()
}

fn bytes(stream: Stream, from: u64, count: usize) -> Vec<u8> {
    (from..from + count as u64)
        .map(|offset| byte(stream, offset))
        .collect()
}

/// A guest with one command, and its table.
struct Guest {
    table: ProcessTable,
    session: Session,
    key: u64,
    turn: Turn,
    written: [u64; 2],
}

const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

impl Guest {
    /// The command writes as much as it can of so many bytes.
    fn write(&mut self, which: usize, count: usize) {
        let stream = STREAMS[which];
        let count = count.min(self.table.room(EXEC, stream));
        let from = self.written[which];
        self.table.push(EXEC, stream, &bytes(stream, from, count));
        self.written[which] += count as u64;
    }

    fn hear(&mut self) {
        while let Some(heard) = self.session.hear().unwrap() {
            match heard {
                Heard::Opened => {
                    self.table.session_lost(SessionKey(self.key));
                    self.key += 1;
                }
                Heard::Message(ToGuest::Request {
                    request: Request::Attach(attach),
                    ..
                }) => {
                    let attached = self.table.attach(attach, listener(self.key)).unwrap();
                    self.session.out.push(&attached);
                }
                Heard::Message(ToGuest::Taken { stream, offset, .. }) => {
                    let exec = self.table.find(listener(self.key)).unwrap_or(EXEC);
                    assert!(self.table.taken(exec, stream, offset));
                }
                Heard::Message(other) => panic!("{other:?}"),
            }
        }
        let key = SessionKey(self.key);
        while self.session.is_open()
            && self.session.out.has_room()
            && let Some(message) = self.table.next(key, &mut self.turn)
        {
            self.session.out.push(&message);
        }
    }
}

/// A host that has some of the output.
struct Host {
    decoder: Decoder,
    to_guest: Vec<u8>,
    received: [u64; 2],
    attached: bool,
    done: bool,
}

impl Host {
    fn say(&mut self, message: &ToGuest) {
        encode(message, &mut self.to_guest).unwrap();
    }

    fn connect(&mut self, session: u64) {
        self.decoder = Decoder::new();
        self.attached = false;
        self.to_guest = MAGIC.to_vec();
        let version = VERSION;
        self.say(&ToGuest::Hello { version, session });
        let [stdout, stderr] = self.received;
        let attach = Request::Attach(Attach {
            exec: EXEC,
            stdout,
            stderr,
        });
        let (id, request) = (REQUEST, attach);
        self.say(&ToGuest::Request { id, request });
    }

    /// Handles an arrival, which must continue the earlier ones.
    fn hear(&mut self, takes: bool) {
        let mut heard = VecDeque::new();
        while let Some(event) = self.decoder.next().unwrap() {
            if let Event::Frame(payload) = event {
                heard.push_back(decode::<ToHost>(payload).unwrap());
            }
        }
        for message in heard {
            message.validate().unwrap();
            match message {
                ToHost::Hello { .. } => {}
                ToHost::Attached { stdout, stderr, .. } => {
                    assert_eq!([stdout, stderr], self.received);
                    self.attached = true;
                }
                ToHost::Data { stream, bytes, .. } => {
                    assert!(self.attached);
                    let which = usize::from(stream == Stream::Stderr);
                    let from = self.received[which];
                    assert!(bytes == self::bytes(stream, from, bytes.len()));
                    self.received[which] += bytes.len() as u64;
                    if takes {
                        let offset = self.received[which];
                        let id = REQUEST;
                        self.say(&ToGuest::Taken { id, stream, offset });
                    }
                }
                ToHost::Done { outcome, .. } => {
                    assert_eq!(outcome, Outcome::Exited(5));
                    self.done = true;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write(usize, usize),
    /// So many bytes arrive at the guest.
    ToGuest(usize),
    /// So many bytes arrive at the host, which may report that it took them.
    ToHost(usize, bool),
    /// Everything under way is lost.
    Cut,
    Tick,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2_usize, 1..40_000_usize).prop_map(|(s, n)| Step::Write(s, n)),
        4 => (1..300_usize).prop_map(Step::ToGuest),
        5 => (1..60_000_usize, any::<bool>()).prop_map(|(n, t)| Step::ToHost(n, t)),
        1 => Just(Step::Cut),
        1 => Just(Step::Tick),
    ]
}

proptest! {
    #[test]
    fn all_output_comes_once_and_in_order_over_sessions_cut_at_any_byte(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut guest = Guest {
            table: ProcessTable::default(),
            session: Session::new("test"),
            key: 0,
            turn: Turn::default(),
            written: [0; 2],
        };
        start(&mut guest.table, EXEC, false, 0);
        let mut host = Host {
            decoder: Decoder::new(),
            to_guest: Vec::new(),
            received: [0; 2],
            attached: false,
            done: false,
        };
        let mut sessions = 1;
        host.connect(sessions);
        let mut quiet = 0;
        for step in steps {
            match step {
                Step::Write(which, count) => guest.write(which, count),
                Step::ToGuest(count) => {
                    let count = count.min(host.to_guest.len());
                    let arrived: Vec<u8> = host.to_guest.drain(..count).collect();
                    guest.session.receive(&arrived);
                    guest.hear();
                }
                Step::ToHost(count, takes) => {
                    let said = guest.session.out.unsent();
                    let said = said[..count.min(said.len())].to_vec();
                    guest.session.out.sent(said.len());
                    host.decoder.push(&said);
                    host.hear(takes);
                }
                Step::Cut => {
                    guest.session.host_gone();
                    guest.table.session_lost(SessionKey(guest.key));
                    sessions += 1;
                    host.connect(sessions);
                    quiet = 0;
                }
                // The host is always back before it is given up.
                Step::Tick if quiet + 1 < UNATTENDED_TICKS => {
                    quiet += 1;
                    assert!(guest.table.tick().is_empty());
                }
                Step::Tick => {}
            }
        }
        guest.table.ended(EXEC, CommandEnd::Exited(5), false);
        for _ in 0..200 {
            let arrived = std::mem::take(&mut host.to_guest);
            guest.session.receive(&arrived);
            guest.hear();
            let said = guest.session.out.unsent().to_vec();
            guest.session.out.sent(said.len());
            host.decoder.push(&said);
            host.hear(true);
        }
        prop_assert!(host.done);
        prop_assert_eq!(host.received, guest.written);
    }

    #[test]
    fn what_is_kept_is_bounded_and_every_command_has_some_room(
        writes in prop::collection::vec((0..40_u64, any::<bool>(), 1..100_000_usize), 1..200),
    ) {
        let mut table = ProcessTable::default();
        (0..40).for_each(|exec| start(&mut table, ExecId(exec), false, exec));
        for (exec, errors, count) in writes {
            let exec = ExecId(exec);
            let stream = if errors { Stream::Stderr } else { Stream::Stdout };
            let count = count.min(table.room(exec, stream));
            table.push(exec, stream, &vec![0; count]);
        }
        let kept = table.list().iter().map(|command| {
            [command.stdout, command.stderr].map(|kept| kept.to - kept.from)
        }).collect::<Vec<_>>();
        prop_assert!(kept.iter().flatten().all(|kept| *kept <= u64::from(OUTPUT_WINDOW)));
        let most = MAX_KEPT_OUTPUT + 80 * MIN_OUTPUT_WINDOW;
        prop_assert!(kept.iter().flatten().sum::<u64>() <= most as u64);
        let idle = kept.iter().position(|kept| kept[0] == 0);
        if let Some(idle) = idle {
            let room = table.room(ExecId(idle as u64), Stream::Stdout);
            prop_assert!(room >= MIN_OUTPUT_WINDOW);
        }
    }
}

/// Lets all ticks of an unattended command pass.
fn wait_for_nobody(table: &mut ProcessTable) -> Vec<ExecId> {
    (0..UNATTENDED_TICKS).flat_map(|_| table.tick()).collect()
}

#[test]
fn a_command_that_nobody_comes_back_for_is_ended_and_a_kept_one_loses_its_oldest_output() {
    let mut table = ProcessTable::default();
    start(&mut table, ExecId(1), false, 1);
    start(&mut table, ExecId(2), true, 1);
    assert!(!table.has_unattended());
    table.session_lost(SessionKey(1));
    let window = OUTPUT_WINDOW as usize;
    table.push(ExecId(2), Stream::Stdout, &vec![1; window]);
    assert_eq!(
        table.room(ExecId(2), Stream::Stdout),
        0,
        "it waits for its host"
    );
    assert_eq!(wait_for_nobody(&mut table), [ExecId(1)]);
    assert!(!table.has_unattended());
    assert_eq!(table.room(ExecId(2), Stream::Stdout), MAX_CHUNK);
    table.push(ExecId(2), Stream::Stdout, &[2; 10]);
    let oldest = (window + 10 - UNATTENDED_OUTPUT) as u64;
    let attach = Attach {
        exec: ExecId(2),
        stdout: 5,
        stderr: 0,
    };
    let attached = table.attach(attach, listener(9)).unwrap();
    assert!(matches!(
        attached,
        ToHost::Attached {
            stdout,
            keep: true,
            ..
        } if stdout == oldest
    ));
    table.ended(ExecId(1), CommandEnd::Cancelled, false);
    assert_eq!(table.check(ExecId(1)), Err(Refusal::Forgotten));
    assert_eq!(table.known(ExecId(1)), Err(Refusal::Forgotten));
}

#[test]
fn commands_of_a_copy_are_kept() {
    let mut table = ProcessTable::default();
    start(&mut table, ExecId(1), false, 1);
    table.session_lost(SessionKey(1));
    table.keep_all();
    assert_eq!(wait_for_nobody(&mut table), []);
    assert_eq!(table.known(ExecId(1)), Ok(()));
}

#[test]
fn the_end_is_kept_until_it_is_acknowledged_or_many_others_ended() {
    let mut table = ProcessTable::default();
    let (key, mut turn) = (SessionKey(1), Turn::default());
    for exec in 0..=MAX_ENDED as u64 {
        start(&mut table, ExecId(exec), true, 1);
        table.ended(ExecId(exec), CommandEnd::Exited(0), true);
        let told = [(); 2].map(|()| table.next(key, &mut turn).unwrap());
        assert!(matches!(
            told,
            [ToHost::OutOfMemory { .. }, ToHost::Done { .. }]
        ));
    }
    assert_eq!(table.check(ExecId(0)), Err(Refusal::Forgotten));
    assert_eq!(table.list().len(), MAX_ENDED);
    table.acknowledge(ExecId(9));
    assert_eq!(table.known(ExecId(9)), Err(Refusal::Unknown));
    for exec in 1000..1000 + 2 * MAX_FORGOTTEN as u64 {
        start(&mut table, ExecId(exec), true, 1);
        table.ended(ExecId(exec), CommandEnd::Exited(0), false);
        table.next(key, &mut turn);
    }
    assert_eq!(
        table.known(ExecId(0)),
        Err(Refusal::Unknown),
        "numbers are bounded, too"
    );
}

#[test]
fn no_more_commands_run_than_the_guest_takes() {
    let mut table = ProcessTable::default();
    for exec in 0..MAX_COMMANDS as u64 {
        start(&mut table, ExecId(exec), false, exec);
    }
    assert_eq!(table.check(ExecId(9999)), Err(Refusal::TooMany));
    assert_eq!(table.check(ExecId(0)), Err(Refusal::InUse));
    table.ended(ExecId(0), CommandEnd::Exited(0), false);
    assert_eq!(table.check(ExecId(9999)), Ok(()));
}

#[test]
fn a_host_takes_no_more_than_it_was_sent() {
    let mut table = ProcessTable::default();
    start(&mut table, EXEC, false, 1);
    table.push(EXEC, Stream::Stdout, &[0; 10]);
    assert!(!table.taken(EXEC, Stream::Stdout, 1));
    table.next(SessionKey(1), &mut Turn::default());
    assert!(table.taken(EXEC, Stream::Stdout, 10));
    assert!(table.taken(EXEC, Stream::Stdout, 4), "it may say so late");
    assert!(!table.taken(EXEC, Stream::Stdout, 11));
}
