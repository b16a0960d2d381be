//! Tests any order of requests with a machine that does what it is told.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::vm::vmm::Scratch;

const STOP: Request = Request::Stop { grace: STOP_GRACE };

#[derive(Debug, Clone)]
enum Step {
    Ask(Request),
    HandOut,
    /// The machine finishes its operation.
    Finish,
    Die,
}

fn files() -> SavedFiles {
    SavedFiles {
        vmstate: "vmstate".into(),
        memory: "memory".into(),
        disks: Scratch::new(),
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Ask(Request::Pause)),
        3 => Just(Step::Ask(Request::Resume)),
        2 => Just(Step::Ask(Request::Checkpoint(files()))),
        1 => Just(Step::Ask(STOP)),
        1 => Just(Step::Ask(Request::SetDeadline(None))),
        1 => Just(Step::Ask(Request::SetIdle(None))),
        1 => Just(Step::HandOut),
        4 => Just(Step::Finish),
        1 => Just(Step::Die),
    ];
    proptest::collection::vec(step, 0..120)
}

/// A machine, and the callers that wait for it.
struct World {
    state: State,
    queue: RequestQueue<u32>,
    /// Whether its guest is held.
    held: bool,
    work: Option<(Effect, u32)>,
    asked: u32,
    open: HashSet<u32>,
}

impl World {
    fn new() -> Self {
        Self {
            state: State::Starting,
            queue: RequestQueue::default(),
            held: false,
            work: None,
            asked: 0,
            open: HashSet::new(),
        }
    }

    fn answered(&mut self, token: u32) {
        assert!(self.open.remove(&token), "{token} is answered twice");
    }

    fn obey(&mut self, verdicts: Vec<Verdict<u32>>) {
        for verdict in verdicts {
            match verdict {
                Verdict::Refuse(_, token) | Verdict::Do(Effect::Nothing, token) => {
                    self.answered(token);
                }
                Verdict::Do(Effect::SetDeadline(_) | Effect::SetIdle(_), token) => {
                    assert!(!matches!(self.state, State::Gone(_)));
                    self.answered(token);
                }
                Verdict::Do(effect, token) => {
                    assert!(self.work.is_none(), "two things at a time");
                    assert!(matches!(self.state, State::Running | State::Paused));
                    match effect {
                        Effect::ShutDown { held } => {
                            assert_eq!(held, self.held, "a held guest hears nothing");
                            self.state = State::Stopping;
                        }
                        Effect::Checkpoint { held, .. } => {
                            assert_eq!(held, self.held, "it is as it was before");
                            self.state = State::Checkpointing;
                        }
                        _ => {}
                    }
                    self.work = Some((effect, token));
                }
            }
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Ask(request) => {
                let token = self.asked;
                self.asked += 1;
                self.open.insert(token);
                let verdicts = self.queue.offer(&self.state, request, token);
                self.obey(verdicts);
            }
            Step::HandOut if self.state == State::Starting => self.state = State::Running,
            Step::HandOut => {}
            Step::Finish => self.finish(),
            Step::Die => self.state = State::Gone(ExitReason::Destroyed),
        }
        let waits = self.queue.waiting.len();
        assert!(waits <= MAX_WAITING);
        assert!(
            self.work.is_some() || waits == 0,
            "nobody comes for what waits"
        );
    }

    fn finish(&mut self) {
        let Some((effect, token)) = self.work.take() else {
            return;
        };
        self.answered(token);
        let is_gone = matches!(self.state, State::Gone(_));
        match effect {
            Effect::Hold => {
                assert!(!self.held, "held twice");
                self.held = true;
                if !is_gone {
                    self.state = State::Paused;
                }
            }
            Effect::Release => {
                assert!(self.held);
                self.held = false;
                if !is_gone {
                    self.state = State::Running;
                }
            }
            Effect::ShutDown { .. } => self.held = false,
            Effect::Checkpoint { held, .. } => {
                if !is_gone {
                    self.state = if held { State::Paused } else { State::Running };
                }
            }
            Effect::Nothing | Effect::SetDeadline(_) | Effect::SetIdle(_) => {
                panic!("{effect:?} is no work")
            }
        }
        let verdicts = self.queue.finished(&self.state);
        self.obey(verdicts);
        if let State::Running | State::Paused = self.state {
            assert_eq!(self.state == State::Paused, self.held);
        }
    }
}

proptest! {
    #[test]
    fn every_request_is_answered_once_and_operations_run_one_at_a_time(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
        }
        while world.work.is_some() {
            world.finish();
        }
        prop_assert!(world.open.is_empty(), "nobody answers {:?}", world.open);
    }
}

#[test]
fn a_stop_comes_before_all_that_waits_and_nothing_after_it() {
    let mut queue = RequestQueue::default();
    let running = State::Running;
    let first = queue.offer(&running, Request::Pause, "pause");
    assert!(matches!(first[..], [Verdict::Do(Effect::Hold, "pause")]));
    assert!(queue.offer(&running, Request::Resume, "resume").is_empty());
    let refused = queue.offer(&running, STOP, "stop");
    assert!(matches!(
        refused[..],
        [Verdict::Refuse(Denied::Stopping, "resume")]
    ));
    let late = queue.offer(&running, Request::Pause, "late");
    assert!(matches!(
        late[..],
        [Verdict::Refuse(Denied::Stopping, "late")]
    ));
    let next = queue.finished(&State::Paused);
    let shut_down = Effect::ShutDown { held: true };
    assert!(matches!(&next[..], [Verdict::Do(effect, "stop")] if *effect == shut_down));
}

#[test]
fn a_deadline_is_set_whatever_the_machine_does() {
    let mut queue = RequestQueue::default();
    let _ = queue.offer(&State::Running, Request::Pause, 0);
    let at = Some(Instant::now());
    let set = queue.offer(&State::Running, Request::SetDeadline(at), 1);
    assert!(matches!(set[..], [Verdict::Do(Effect::SetDeadline(to), 1)] if to == at));
}

#[test]
fn waiting_requests_are_bounded() {
    let mut queue = RequestQueue::default();
    for token in 0..=MAX_WAITING {
        let verdicts = queue.offer(&State::Running, Request::Pause, token);
        assert!(
            verdicts
                .iter()
                .all(|verdict| matches!(verdict, Verdict::Do(..)))
        );
    }
    let last = queue.offer(&State::Running, Request::Pause, MAX_WAITING + 1);
    assert!(matches!(last[..], [Verdict::Refuse(Denied::Busy, _)]));
}
