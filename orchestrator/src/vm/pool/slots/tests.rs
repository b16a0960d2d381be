use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

const RULES: Rules = Rules {
    size: 3,
    warm: 3,
    refresh: Duration::from_secs(60),
    builds: 2,
};

fn at(seconds: u64) -> Now {
    Duration::from_secs(seconds)
}

#[test]
fn a_pool_does_nothing_before_it_is_asked_for_anything() {
    let mut slots = Slots::<u32, u32>::new(RULES);
    assert_eq!(slots.actions(at(0)), []);
    assert_eq!(slots.acquire(), Served::Boot);
    assert_eq!(slots.actions(at(0)), [Action::Build(0), Action::Build(1)]);
    assert_eq!(slots.actions(at(0)), [], "each action is given out once");
}

#[test]
fn places_take_turns_and_a_clone_is_handed_out_once() {
    let mut slots = Slots::<u32, u32>::new(RULES);
    for snapshot in [10, 20, 30] {
        assert!(slots.adopt(snapshot, at(0), at(0)));
    }
    assert!(!slots.adopt(40, at(0), at(0)));
    for place in 0..3 {
        slots.restored(place, Some(100 + u32::try_from(place).unwrap()), at(0));
    }
    let served: Vec<_> = (0..5).map(|_| slots.acquire()).collect();
    assert_eq!(
        served,
        [
            Served::Warm(100),
            Served::Warm(101),
            Served::Warm(102),
            Served::Restore(10),
            Served::Restore(20)
        ]
    );
}

#[test]
fn an_old_snapshot_serves_until_its_successor_is_ready() {
    let mut slots = Slots::<u32, u32>::new(Rules {
        size: 1,
        warm: 0,
        ..RULES
    });
    assert!(slots.adopt(1, at(59), at(0)));
    slots.want();
    assert_eq!(slots.actions(at(0)), []);
    assert_eq!(slots.next_deadline(at(0)), Some(at(1)));
    assert_eq!(slots.actions(at(1)), [Action::Build(0)]);
    assert_eq!(slots.acquire(), Served::Restore(1));
    assert_eq!(slots.built(0, None, at(2)), None);
    assert_eq!(
        slots.acquire(),
        Served::Restore(1),
        "a failed successor costs nothing"
    );
    assert_eq!(slots.actions(at(2)), [], "and is not tried again at once");
    assert_eq!(slots.actions(at(3)), [Action::Build(0)]);
    assert_eq!(slots.built(0, Some(2), at(4)), Some(Action::Retire(1)));
    assert_eq!(slots.acquire(), Served::Restore(2));
}

#[test]
fn the_death_of_an_earlier_clone_does_not_touch_its_successor() {
    let mut slots = Slots::<u32, u32>::new(RULES);
    assert!(slots.adopt(1, at(0), at(0)));
    slots.want();
    let first = slots.restored(0, Some(7), at(0)).unwrap();
    assert_eq!(slots.acquire(), Served::Warm(7));
    let second = slots.restored(0, Some(8), at(0)).unwrap();
    assert!(!slots.died(0, first, at(1)));
    assert!(slots.died(0, second, at(1)));
    assert_eq!(slots.acquire(), Served::Restore(1));
}

#[test]
fn a_faulty_snapshot_is_given_up_and_built_anew() {
    let mut slots = Slots::<u32, u32>::new(Rules { size: 1, ..RULES });
    assert!(slots.adopt(1, at(0), at(0)));
    assert_eq!(
        slots.discard(|snapshot| *snapshot == 1),
        Some(Action::Retire(1))
    );
    assert_eq!(slots.discard(|snapshot| *snapshot == 1), None);
    assert_eq!(slots.acquire(), Served::Boot);
    assert_eq!(slots.actions(at(0)), [Action::Build(0)]);
}

#[derive(Debug, Clone)]
enum Event {
    Acquire,
    BuildEnds(usize, bool),
    RestoreEnds(usize, bool),
    Dies(usize),
    Discard(usize),
    Later(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Acquire),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(n, ok)| Event::BuildEnds(n, ok)),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(n, ok)| Event::RestoreEnds(n, ok)),
        1 => any::<usize>().prop_map(Event::Dies),
        1 => any::<usize>().prop_map(Event::Discard),
        2 => (0..100_000u64).prop_map(Event::Later),
    ]
}

proptest! {
    /// Whatever happens in whatever order: no clone and no retired snapshot is ever handed out
    /// twice, no place is worked on twice at a time, and a pool that is left alone fills up.
    #[test]
    fn every_rule_holds_under_every_sequence_of_events(
        events in proptest::collection::vec(event(), 0..200),
        size in 1..6usize,
        warm in 0..6usize,
        builds in 1..3usize,
    ) {
        let warm = warm.min(size);
        let rules = Rules { size, warm, refresh: Duration::from_secs(60), builds };
        let mut slots = Slots::<u32, u32>::new(rules);
        let (mut now, mut serial) = (Duration::ZERO, 0u32);
        let (mut builds_open, mut restores_open): (Vec<Place>, Vec<Place>) = Default::default();
        let (mut retired, mut leased) = (HashSet::new(), HashSet::new());
        let mut clones: Vec<(Place, u64)> = Vec::new();
        let settle = events.len();
        let closing = (0..400).flat_map(|_| {
            [Event::BuildEnds(0, true), Event::RestoreEnds(0, true), Event::Later(1000)]
        });
        slots.want();
        for (step, event) in events.into_iter().chain(closing).enumerate() {
            let mut action = None;
            match event {
                Event::Acquire => match slots.acquire() {
                    Served::Warm(clone) => prop_assert!(leased.insert(clone)),
                    Served::Restore(snapshot) => prop_assert!(!retired.contains(&snapshot)),
                    Served::Boot => prop_assert_eq!(slots.counts().ready, 0),
                },
                Event::BuildEnds(n, ok) if !builds_open.is_empty() => {
                    let place = builds_open.swap_remove(n % builds_open.len());
                    serial += 1;
                    action = slots.built(place, ok.then_some(serial), now);
                }
                Event::RestoreEnds(n, ok) if !restores_open.is_empty() => {
                    let place = restores_open.swap_remove(n % restores_open.len());
                    serial += 1;
                    if let Some(number) = slots.restored(place, ok.then_some(serial), now) {
                        clones.push((place, number));
                    }
                }
                Event::Dies(n) if !clones.is_empty() => {
                    let (place, number) = clones.swap_remove(n % clones.len());
                    slots.died(place, number, now);
                }
                Event::Discard(n) => {
                    let wanted = u32::try_from(n % (serial as usize + 1)).unwrap();
                    action = slots.discard(|snapshot| *snapshot == wanted);
                }
                Event::Later(millis) => now += Duration::from_millis(millis),
                _ => {}
            }
            if let Some(Action::Retire(snapshot)) = action {
                prop_assert!(retired.insert(snapshot));
            }
            for action in slots.actions(now) {
                match action {
                    Action::Build(place) => {
                        prop_assert!(!builds_open.contains(&place));
                        builds_open.push(place);
                    }
                    Action::Restore(place, snapshot) => {
                        prop_assert!(place < warm && !restores_open.contains(&place));
                        prop_assert!(!retired.contains(&snapshot));
                        restores_open.push(place);
                    }
                    Action::Retire(snapshot) => prop_assert!(retired.insert(snapshot)),
                }
            }
            prop_assert!(builds_open.len() <= builds);
            let counts = slots.counts();
            prop_assert!(counts.ready <= size && counts.warm + counts.restoring <= warm);
            prop_assert_eq!(counts.building, builds_open.len());
            if step > settle && slots.is_full() {
                return Ok(());
            }
        }
        // Refreshes go on for ever, but every failure is long forgotten.
        prop_assert!(slots.is_full() || !builds_open.is_empty() || !restores_open.is_empty());
        prop_assert_eq!(slots.counts().ready, size);
    }
}
