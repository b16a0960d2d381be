use super::super::backoff::{FIRST_BACKOFF, JITTER, LONGEST_BACKOFF};
use super::super::breaker::Off;
use super::slot::CloneId;
use super::world::{Event, World, rules};
use super::*;
use crate::vm::vm_handle::Origin;

use proptest::prelude::*;

fn at(seconds: u64) -> Now {
    Duration::from_secs(seconds)
}

impl<S: Clone, C> PoolState<S, C> {
    /// Admits a spawn: returns its grant, or a place in the queue.
    pub(super) fn acquire(&mut self, now: Now) -> Result<Grant<S, C>, WaiterId> {
        self.acquire_or(now, |waiter| (waiter, waiter))
    }
}

fn state(size: usize, warm: usize, vms: usize) -> PoolState<u32, u32> {
    PoolState::new(rules(size, warm..=warm, vms))
}

/// Reports a clone, numbered from `first`, for each restore that the state asks for.
fn restore_all(state: &mut PoolState<u32, u32>, first: u32, now: Now) -> u32 {
    let mut next = first;
    for action in state.actions(now) {
        if let Action::Restore(slot, of, _) = action {
            warm(state.restored(slot, of, Some(next), now));
            next += 1;
        }
    }
    next
}

fn warm(restored: Restored<u32>) -> CloneId {
    match restored {
        Restored::Warm(id) => id,
        other => panic!("{other:?}"),
    }
}

fn served(state: &mut PoolState<u32, u32>) -> Placement<u32, u32> {
    state.acquire(at(0)).unwrap().placement
}

fn restores(served: &Placement<u32, u32>) -> Option<u32> {
    match served {
        Placement::Restore(_, snapshot) => Some(*snapshot),
        _ => None,
    }
}

#[test]
fn a_pool_does_nothing_before_it_is_asked_for_anything() {
    let mut state = state(3, 3, 9);
    assert_eq!(state.actions(at(0)), []);
    assert_eq!(served(&mut state), Placement::Boot);
    assert_eq!(state.actions(at(0)), [Action::Build(0), Action::Build(1)]);
    assert_eq!(state.actions(at(0)), [], "each action is given out once");
}

#[test]
fn the_number_of_warm_clones_changes_while_the_pool_is_open() {
    let mut state = state(2, 2, 9);
    for snapshot in [10, 20] {
        assert!(state.adopt(snapshot, at(0), at(0)));
    }
    state.activate();
    let next = restore_all(&mut state, 100, at(0));
    assert_eq!((state.counts().warm, state.is_full(at(0))), (2, true));
    state.set_warm(5, 5);
    assert_eq!((state.wanted_warm(at(0)), state.is_full(at(0))), (5, false));
    let next = restore_all(&mut state, next, at(0));
    assert_eq!((state.counts().warm, state.is_full(at(0))), (5, true));
    state.set_warm(1, 1);
    let ended = state.actions(at(0)).into_iter();
    let ended = ended.filter(|action| matches!(action, Action::End(_)));
    assert_eq!((ended.count(), state.counts().warm), (4, 1));
    // Bursts are counted up to the new number.
    state.set_warm(0, 4);
    for _ in 0..3 {
        assert!(state.acquire(at(0)).is_ok());
    }
    assert_eq!(state.wanted_warm(at(0)), 3);
    restore_all(&mut state, next, at(0));
    assert_eq!((state.counts().warm, state.warm_range()), (3, 0..=4));
    state.set_warm(0, 0);
    state.actions(at(0));
    assert_eq!((state.counts().warm, state.wanted_warm(at(0))), (0, 0));
}

#[test]
fn places_take_turns_and_a_clone_is_handed_out_once() {
    let mut state = state(3, 3, 9);
    for snapshot in [10, 20, 30] {
        assert!(state.adopt(snapshot, at(0), at(0)));
    }
    assert!(!state.adopt(40, at(0), at(0)));
    state.activate();
    restore_all(&mut state, 100, at(0));
    let warm: Vec<_> = (0..3).map(|_| served(&mut state)).collect();
    assert_eq!(
        warm,
        [
            Placement::Warm(100),
            Placement::Warm(101),
            Placement::Warm(102)
        ]
    );
    let restored: Vec<_> = (0..2).map(|_| restores(&served(&mut state))).collect();
    assert_eq!(restored, [Some(10), Some(20)]);
}

#[test]
fn warm_clones_are_spread_over_the_snapshots() {
    let mut state = state(2, 5, 9);
    state.adopt(1, at(0), at(0));
    state.adopt(2, at(0), at(0));
    state.activate();
    let of: Vec<_> = state
        .actions(at(0))
        .into_iter()
        .map(|action| match action {
            Action::Restore(slot, ..) => slot,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(of, [0, 1, 0, 1, 0]);
}

#[test]
fn an_old_snapshot_serves_until_its_successor_is_ready() {
    let mut state = state(1, 0, 9);
    assert!(state.adopt(1, at(0), at(0)));
    state.activate();
    assert_eq!(state.actions(at(47)), [], "four fifths of 60 s at least");
    assert_eq!(state.actions(at(60)), [Action::Build(0)]);
    let grant = state.acquire(at(60)).unwrap();
    assert_eq!(restores(&grant.placement), Some(1));
    state.built(0, None, at(61));
    assert_eq!(
        restores(&served(&mut state)),
        Some(1),
        "a failed successor costs nothing"
    );
    assert_eq!(state.actions(at(61)), [], "and is not tried again at once");
    assert_eq!(state.actions(at(62)), [Action::Build(0)]);
    state.built(0, Some(2), at(62));
    assert_eq!(state.actions(at(62)), [], "two clones of the old one live");
    assert_eq!(restores(&served(&mut state)), Some(2));
    state.released(grant.lease);
    assert_eq!(state.actions(at(62)), []);
    state.released(LeaseId(grant.lease.0 + 1));
    assert_eq!(state.counts().retired, 1, "that was nobody's lease");
    for lease in state.leases.keys().copied().collect::<Vec<_>>() {
        state.released(lease);
    }
    assert_eq!(state.actions(at(62)), [Action::Delete(1)]);
}

#[test]
fn snapshots_that_are_old_together_are_replaced_one_after_the_other() {
    let mut state = state(3, 0, 9);
    for snapshot in [1, 2, 3] {
        state.adopt(snapshot, at(0), at(0));
    }
    state.activate();
    for (slot, successor) in [11, 12, 13].into_iter().enumerate() {
        assert_eq!(state.actions(at(60))[0], Action::Build(slot));
        assert_eq!(state.counts().building, 1);
        state.built(slot, Some(successor), at(60));
    }
    let ends: std::collections::HashSet<Now> = state
        .slots
        .iter()
        .filter_map(|slot| Some(slot.ready?.1))
        .collect();
    assert_eq!(ends.len(), 3, "and the next time not even due together");
}

#[test]
fn clones_of_a_former_snapshot_serve_until_those_of_the_new_one_are_there() {
    let mut state = state(1, 2, 9);
    state.adopt(1, at(0), at(0));
    state.activate();
    restore_all(&mut state, 100, at(0));
    state.refresh(at(1));
    assert_eq!(state.actions(at(1)), [Action::Build(0)]);
    state.built(0, Some(2), at(2));
    assert_eq!(state.counts().warm, 2);
    assert_eq!(restore_all(&mut state, 200, at(2)), 202);
    assert_eq!(
        state.actions(at(2)),
        [Action::End(100), Action::End(101), Action::Delete(1)]
    );
    assert_eq!(served(&mut state), Placement::Warm(200));
}

#[test]
fn without_room_for_both_the_new_clone_takes_the_place_of_the_old() {
    let mut state = state(1, 1, 1);
    state.adopt(1, at(0), at(0));
    state.activate();
    restore_all(&mut state, 100, at(0));
    state.refresh(at(1));
    state.actions(at(1));
    state.built(0, Some(2), at(2));
    let actions = state.actions(at(2));
    assert!(
        matches!(
            actions[..],
            [
                Action::End(100),
                Action::Restore(0, _, 2),
                Action::Delete(1)
            ]
        ),
        "{actions:?}"
    );
}

#[test]
fn the_death_of_a_clone_that_was_handed_out_does_not_touch_its_successor() {
    let mut state = state(1, 1, 9);
    assert!(state.adopt(1, at(0), at(0)));
    state.activate();
    let mut ids = Vec::new();
    for clone in [7, 8] {
        let [Action::Restore(slot, of, _)] = state.actions(at(0))[..] else {
            panic!("no restore")
        };
        ids.push(warm(state.restored(slot, of, Some(clone), at(0))));
        if clone == 7 {
            assert_eq!(served(&mut state), Placement::Warm(7));
        }
    }
    assert_eq!(state.died(ids[0], at(1)), None);
    assert_eq!(state.died(ids[1], at(1)), Some(8));
    assert_eq!(restores(&served(&mut state)), Some(1));
}

#[test]
fn a_faulty_snapshot_is_given_up_and_built_anew() {
    let mut state = state(1, 1, 9);
    assert!(state.adopt(1, at(0), at(0)));
    let Grant {
        lease,
        placement: Placement::Restore(generation, 1),
        ..
    } = state.acquire(at(0)).unwrap()
    else {
        panic!("not restored")
    };
    state.fall_back_to_boot(lease);
    assert_eq!(state.discard(generation, at(0)), Vec::<u32>::new());
    assert_eq!(
        state.actions(at(0)),
        [Action::Build(0), Action::Delete(1)],
        "once"
    );
    assert_eq!(state.discard(generation, at(0)), Vec::<u32>::new());
    assert_eq!(served(&mut state), Placement::Boot);
}

/// Returns a pool whose only snapshot failed its restore for a spawn.
fn with_a_suspected_snapshot() -> (PoolState<u32, u32>, Generation) {
    let mut state = state(1, 0, 9);
    state.adopt(1, at(0), at(0));
    state.activate();
    let grant = state.acquire(at(0)).unwrap();
    let Placement::Restore(generation, _) = grant.placement else {
        panic!("not restored")
    };
    state.suspect(generation, at(0));
    let again = state.fall_back(grant.lease, Origin::Warm, at(0));
    assert_eq!(again, Placement::Boot, "it is not tried twice");
    assert_eq!(state.actions(at(0)), [Action::Build(0)], "nor deleted");
    assert!(state.counts().ready == 0 && !state.is_full(at(0)) && !state.is_fresh(at(0)));
    (state, generation)
}

#[test]
fn a_suspected_snapshot_is_given_up_when_another_vm_starts() {
    let (mut state, _) = with_a_suspected_snapshot();
    assert_eq!(state.vmm_works(), Vec::<u32>::new());
    assert_eq!(state.actions(at(0)), [Action::Delete(1)]);
    // A later failed boot does not bring it back.
    state.vmm_fails();
    assert_eq!(served(&mut state), Placement::Boot);
    state.built(0, Some(2), at(1));
    assert_eq!(restores(&served(&mut state)), Some(2));
}

#[test]
fn a_suspected_snapshot_serves_again_when_a_boot_fails_as_well() {
    let (mut state, generation) = with_a_suspected_snapshot();
    state.built(0, None, at(0));
    state.vmm_fails();
    assert_eq!(restores(&served(&mut state)), Some(1));
    for second in 1..100 {
        state.suspect(generation, at(second));
        state.vmm_fails();
    }
    assert_eq!(state.vmm_works(), Vec::<u32>::new(), "all that is over");
    assert_eq!(state.counts().ready, 1);
}

#[test]
fn a_suspected_snapshot_whose_place_another_process_fills_is_not_deleted_for_that() {
    for works in [true, false] {
        let (mut state, _) = with_a_suspected_snapshot();
        state.found(0, 2, at(0), at(0));
        assert_eq!(state.actions(at(0)), []);
        if works {
            state.vmm_works();
            assert_eq!(state.actions(at(0)), [Action::Delete(1)]);
        } else {
            state.vmm_fails();
            assert_eq!(state.actions(at(0)), []);
            assert_eq!(state.counts().retired, 0, "it is not kept from others");
        }
    }
}

#[test]
fn a_snapshot_that_serves_again_does_not_give_way_to_one_that_was_looked_for_meanwhile() {
    let (mut state, _) = with_a_suspected_snapshot();
    state.vmm_fails();
    state.found(0, 2, at(0), at(0));
    assert_eq!(state.actions(at(0)), []);
    assert_eq!(restores(&served(&mut state)), Some(1));
    assert_eq!(state.counts().building, 0);
}

/// Returns the times of builds in a slot whose snapshots all fail their first restore; a spawn may
/// be served meanwhile.
fn builds_of_faulty_snapshots(
    mut meanwhile: impl FnMut(&mut PoolState<u32, u32>, Now),
) -> Vec<Now> {
    let mut state = state(1, 1, 9);
    let (mut now, mut builds) = (at(0), Vec::new());
    state.activate();
    while builds.len() < 16 {
        let actions = state.actions(now);
        if actions.is_empty() {
            now = state.next_deadline(now).unwrap();
        }
        for action in actions {
            match action {
                Action::Build(slot) => {
                    builds.push(now);
                    state.built(slot, Some(7), now);
                    meanwhile(&mut state, now);
                }
                Action::Restore(slot, of, _) => {
                    assert_eq!(state.restored(slot, of, None, now), Restored::Failed);
                    state.discard(of, now);
                }
                _ => {}
            }
        }
    }
    builds
}

#[test]
fn snapshots_that_are_faulty_one_after_the_other_are_built_ever_more_rarely() {
    let builds = builds_of_faulty_snapshots(|_, _| ());
    let waits: Vec<_> = builds.windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(waits[0], at(0));
    assert!(
        waits[1] > at(0) && waits[1] <= 2 * FIRST_BACKOFF,
        "{waits:?}"
    );
    assert!(waits.iter().all(|wait| *wait <= LONGEST_BACKOFF));
    let last = waits.last().unwrap();
    assert!(*last >= LONGEST_BACKOFF.mul_f64(1.0 - JITTER), "{waits:?}");
}

#[test]
fn a_spawn_that_is_served_ends_the_waits_after_failures() {
    let builds = builds_of_faulty_snapshots(|state, now| {
        let grant = state.acquire(now).unwrap();
        state.serves(grant.lease, Origin::Restored);
        state.released(grant.lease);
    });
    let longest = builds.windows(2).map(|two| two[1] - two[0]).max().unwrap();
    assert!(longest <= FIRST_BACKOFF, "{longest:?}");
}

#[test]
fn clones_that_die_soon_after_their_restore_are_replaced_ever_more_rarely() {
    let mut state = state(1, 1, 9);
    state.adopt(1, at(0), at(0));
    state.activate();
    let (mut now, mut restores) = (at(0), Vec::new());
    while restores.len() < 6 {
        for action in state.actions(now) {
            if let Action::Restore(slot, of, _) = action {
                let id = warm(state.restored(slot, of, Some(5), now));
                assert_eq!(state.died(id, now), Some(5));
                restores.push(now);
            }
        }
        now = state.next_deadline(now).unwrap();
    }
    let waits: Vec<_> = restores.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(waits[4] > 8 * waits[0], "{waits:?}");
}

#[test]
fn spawns_of_another_pool_that_wait_get_the_room_of_warm_clones() {
    let rules = rules(1, 2..=2, 2);
    let mut idle = PoolState::<u32, u32>::new(rules.clone());
    let mut busy = PoolState::<u32, u32>::new(rules.clone());
    idle.adopt(1, at(0), at(0));
    idle.activate();
    restore_all(&mut idle, 100, at(0));
    let tickets: Vec<_> = (0..2).map(|_| busy.acquire(at(0)).unwrap_err()).collect();
    assert_eq!(idle.actions(at(0)), [Action::End(100)]);
    let grant = busy.actions(at(0));
    assert!(matches!(&grant[..], [Action::Grant(waiter, _), ..] if *waiter == tickets[0]));
    assert!(idle.acquire(at(0)).is_ok(), "its own clone serves");
    assert_eq!(idle.actions(at(0)), [], "what is left is for who waits");
    assert!(idle.acquire(at(0)).is_err());
    drop(grant);
    let grant = busy.actions(at(0));
    assert!(matches!(&grant[..], [Action::Grant(waiter, _), ..] if *waiter == tickets[1]));
}

#[test]
fn spawns_without_room_wait_in_line_and_a_cancelled_one_gives_its_place_up() {
    let mut state = state(1, 0, 1);
    state.adopt(1, at(0), at(0));
    let first = state.acquire(at(0)).unwrap();
    let tickets: Vec<_> = (0..3).map(|_| state.acquire(at(0)).unwrap_err()).collect();
    assert_eq!(state.counts().waiting, 3);
    assert!(state.cancel(tickets[0]));
    assert!(!state.cancel(tickets[0]));
    assert_eq!(state.actions(at(0)), [], "there is no room yet");
    state.released(first.lease);
    drop(first);
    let [Action::Grant(waiter, grant)] = &state.actions(at(0))[..] else {
        panic!("nothing grant")
    };
    assert_eq!(*waiter, tickets[1]);
    state.released(grant.lease);
    assert!(state.acquire(at(0)).is_err(), "nobody overtakes");
}

#[test]
fn a_pool_that_adapts_remembers_a_burst_and_shrinks_when_nobody_comes() {
    let mut state = PoolState::<u32, u32>::new(Rules {
        refresh: at(1_000_000),
        ..rules(1, 1..=20, 100)
    });
    state.adopt(1, at(0), at(0));
    state.activate();
    assert_eq!(restore_all(&mut state, 0, at(0)), 1);
    for _ in 0..20 {
        let grant = state.acquire(at(10)).unwrap();
        state.released(grant.lease);
    }
    assert_eq!(restore_all(&mut state, 100, at(11)), 120);
    let warm = (0..20).filter(|_| {
        let grant = state.acquire(at(3600)).unwrap();
        state.released(grant.lease);
        matches!(grant.placement, Placement::Warm(_))
    });
    assert_eq!(warm.count(), 20, "a burst of 20 after a quiet hour");
    restore_all(&mut state, 200, at(3600));
    assert_eq!(state.counts().warm, 20);
    let night = at(12 * 3600);
    assert!(state.next_deadline(at(3600)).is_some_and(|at| at < night));
    let ended = state.actions(night);
    assert_eq!(ended.len(), 19, "{ended:?}");
}

#[test]
fn a_closed_pool_starts_nothing_and_keeps_nothing() {
    let mut state = state(1, 2, 9);
    state.adopt(1, at(0), at(0));
    state.activate();
    let [Action::Restore(slot, of, _), Action::Restore(..)] = state.actions(at(0))[..] else {
        panic!("no restores")
    };
    warm(state.restored(slot, of, Some(5), at(0)));
    assert_eq!(state.drain(), [5]);
    assert_eq!(
        state.snapshots().count(),
        0,
        "whoever wants to delete it can"
    );
    assert_eq!(
        state.restored(slot, of, Some(6), at(0)),
        Restored::Unwanted(6)
    );
    state.activate();
    assert_eq!(state.actions(at(1000)), []);
    assert_eq!(state.next_deadline(at(1000)), None);
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Acquire),
        2 => any::<usize>().prop_map(Event::Cancel),
        4 => any::<usize>().prop_map(Event::Release),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(n, ok)| Event::BuildEnds(n, ok)),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(n, ok)| Event::RestoreEnds(n, ok)),
        1 => any::<usize>().prop_map(Event::Dies),
        1 => any::<usize>().prop_map(Event::Discard),
        2 => any::<usize>().prop_map(Event::Suspect),
        1 => Just(Event::VmmWorks),
        1 => Just(Event::VmmFails),
        1 => any::<usize>().prop_map(Event::LeaseFails),
        2 => any::<usize>().prop_map(Event::LeaseServes),
        1 => (any::<usize>(), 0..100u64).prop_map(|(n, age)| Event::Finds(n, age)),
        1 => Just(Event::Refresh),
        2 => (0..100_000u64).prop_map(Event::Later),
        1 => (0..1_000_000_000u64).prop_map(Event::Later),
    ]
}

proptest! {
    /// [`World::happens`] checks every rule after every event.
    #[test]
    fn every_rule_holds_under_every_sequence_of_events(
        events in proptest::collection::vec(event(), 0..250),
        size in 1..6usize,
        min_warm in 0..6usize,
        more_warm in 0..6usize,
        vms in 1..12usize,
    ) {
        let mut world = World::new(rules(size, min_warm..=min_warm + more_warm, vms));
        for event in events {
            world.happens(event);
        }
        world.settles();
        world.closes();
    }

    #[test]
    fn a_pool_that_is_closed_at_any_moment_keeps_nothing(
        events in proptest::collection::vec(event(), 0..60),
        size in 1..4usize,
        warm in 0..4usize,
        vms in 1..6usize,
    ) {
        let mut world = World::new(rules(size, warm..=warm, vms));
        for event in events {
            world.happens(event);
        }
        world.closes();
    }
}

/// Tries all sequences of so many events, in the smallest pool in which they can conflict: this
/// finds what random sequences in a large pool may miss.
#[test]
fn every_rule_holds_under_all_short_sequences_of_events() {
    let alphabet = [
        Event::Acquire,
        Event::Cancel(0),
        Event::Release(0),
        Event::BuildEnds(0, true),
        Event::RestoreEnds(0, true),
        Event::RestoreEnds(0, false),
        Event::Dies(0),
        Event::Discard(0),
        Event::LeaseFails(0),
        Event::Refresh,
        Event::Later(1000),
    ];
    const LENGTH: u32 = 5;
    for vms in [1, 2] {
        for number in 0..alphabet.len().pow(LENGTH) {
            let mut world = World::new(rules(1, 1..=1, vms));
            world.happens(Event::Acquire);
            world.happens(Event::BuildEnds(0, true));
            let mut rest = number;
            for _ in 0..LENGTH {
                world.happens(alphabet[rest % alphabet.len()]);
                rest /= alphabet.len();
            }
            world.settles();
        }
    }
}

/// Makes the tier fail until it is off.
fn fails(state: &mut PoolState<u32, u32>, tier: Origin, now: Now) -> Off {
    std::iter::repeat_with(|| state.tier_failed(tier, "guest", now))
        .take(100)
        .find_map(|off| off)
        .expect("it is switched off")
}

#[test]
fn a_warm_tier_that_fails_keeps_no_clones_until_one_of_them_works() {
    let mut state = state(2, 4, 9);
    state.adopt(1, at(0), at(0));
    state.adopt(2, at(0), at(0));
    state.activate();
    restore_all(&mut state, 10, at(0));
    assert_eq!(state.counts().warm, 4);
    let Off { until, .. } = fails(&mut state, Origin::Warm, at(1));
    assert!(restores(&state.acquire(at(1)).unwrap().placement).is_some());
    let ended = state.actions(at(1));
    assert_eq!(ended.len(), 4, "{ended:?}");
    assert!(state.is_full(at(1)), "there are no more to be");
    assert_eq!(state.next_deadline(at(1)), Some(until));

    let trial = state.actions(until);
    let [Action::Restore(slot, of, _)] = trial[..] else {
        panic!("{trial:?}");
    };
    assert_eq!(state.actions(until), [], "one at a time");
    assert_eq!(state.restored(slot, of, None, until), Restored::Failed);
    state.tier_failed(Origin::Warm, "guest", until);
    let (_, Off { until: later, .. }) = state.off().next().unwrap();
    assert!(later - until > until - at(1));

    assert_eq!(restore_all(&mut state, 20, later), 21);
    assert_eq!(state.off().count(), 0);
    restore_all(&mut state, 21, later);
    assert_eq!(state.counts().warm, 4);
    let grant = state.acquire(later).unwrap();
    assert!(matches!(grant.placement, Placement::Warm(_)));
}

#[test]
fn a_restored_tier_that_fails_is_tried_by_one_spawn_and_the_others_boot() {
    let mut state = state(1, 0, 9);
    state.adopt(1, at(0), at(0));
    state.activate();
    let Off { until, .. } = fails(&mut state, Origin::Restored, at(1));
    assert_eq!(state.acquire(at(1)).unwrap().placement, Placement::Boot);
    let trial = state.acquire(until).unwrap();
    assert_eq!(restores(&trial.placement), Some(1));
    assert_eq!(state.acquire(until).unwrap().placement, Placement::Boot);
    state.serves(trial.lease, Origin::Restored);
    assert_eq!(restores(&state.acquire(until).unwrap().placement), Some(1));
}

#[test]
fn a_spawn_that_waited_for_a_warm_clone_in_vain_is_restored_though_there_are_others() {
    let mut state = state(1, 2, 9);
    state.adopt(1, at(0), at(0));
    state.activate();
    restore_all(&mut state, 10, at(0));
    let grant = state.acquire(at(0)).unwrap();
    assert_eq!(grant.placement, Placement::Warm(10));
    let next = state.fall_back(grant.lease, Origin::Restored, at(0));
    assert_eq!(restores(&next), Some(1));
    let next = state.fall_back(grant.lease, Origin::Warm, at(0));
    assert_eq!(next, Placement::Warm(11));
}
