use proptest::prelude::*;

use super::*;

#[test]
fn neither_number_nor_memory_is_exceeded_and_all_of_it_comes_back() {
    let budget = Budget::new(Limit {
        vms: 3,
        memory_mib: 400,
    });
    let first = budget.take(100).unwrap();
    let second = budget.take(200).unwrap();
    assert!(budget.take(100).is_none(), "memory");
    let third = budget.take(0).unwrap();
    assert!(budget.take(0).is_none(), "number");
    drop((first, second, third));
    assert_eq!(budget.used(), Limit::default());
}

#[test]
fn waiters_are_served_first_come_first_served() {
    let budget = Budget::new(Limit {
        vms: 2,
        memory_mib: u64::MAX,
    });
    let shares = [budget.take(1).unwrap(), budget.take(1).unwrap()];
    assert!(!budget.is_short(), "nobody waits");
    let (first, second) = (budget.reserve(1), budget.reserve(1));
    assert!(budget.is_short() && first.take().is_none());
    drop(shares);
    assert!(!budget.is_short() && !budget.has_room(1));
    assert!(budget.take(1).is_none(), "it overtook");
    assert!(second.take().is_none(), "it overtook");
    let share = first.take().unwrap();
    drop(first);
    drop((second.take().unwrap(), second, share));
    assert_eq!(budget.used(), Limit::default());
    assert!(budget.has_room(1));
}

#[test]
fn a_cancelled_waiter_holds_up_nobody() {
    let budget = Budget::new(Limit {
        vms: 1,
        memory_mib: 1000,
    });
    let (large, small) = (budget.reserve(2000), budget.reserve(100));
    assert!(budget.is_short() && small.take().is_none());
    drop(large);
    assert!(small.take().is_some());
}

#[test]
fn a_limit_names_only_what_is_limited() {
    let text = |vms, memory_mib| Limit { vms, memory_mib }.to_string();
    assert_eq!(text(1, 640), "1 VM and 640 MiB of memory");
    assert_eq!(text(20, u64::MAX), "20 VMs");
    assert_eq!(text(usize::MAX, 640), "640 MiB of memory");
    assert_eq!(text(usize::MAX, u64::MAX), "none");
}

#[test]
fn it_says_how_many_vms_there_can_be() {
    for (vms, memory_mib) in [(3, u64::MAX), (usize::MAX, 500), (usize::MAX, 99), (2, 500)] {
        let budget = Budget::new(Limit { vms, memory_mib });
        let shares: Vec<_> = std::iter::from_fn(|| budget.take(100)).collect();
        assert_eq!(budget.holds(100), shares.len(), "{:?}", budget.limit());
    }
}

#[test]
fn all_have_one_budget_of_the_host_unless_they_make_their_own() {
    assert_eq!(Budget::of_host(), Budget::of_host());
    let limit = Limit {
        vms: 3,
        memory_mib: 12_345,
    };
    let one = Budget::shared(limit);
    assert_eq!(one, Budget::shared(limit));
    assert_ne!(one, Budget::of_host());
    assert_ne!(Budget::new(limit), one);
}

#[test]
fn a_sub_budget_counts_towards_the_host_s() {
    let shared = |memory_mib| Budget::shared(Limit { vms: 2, memory_mib });
    let host = Budget::of_host();
    assert_eq!(shared(111).0.parent, Some(host.clone()));
    assert_eq!(Budget::shared(host.limit()), host);
}

fn vms(vms: usize) -> Limit {
    let memory_mib = u64::MAX;
    Limit { vms, memory_mib }
}

#[test]
fn a_budget_within_another_is_bounded_by_both_and_gives_all_back_to_both() {
    let host = Budget::new(vms(3));
    let two = Budget::within(&host, vms(2));
    let shares = [two.take(1).unwrap(), two.take(1).unwrap()];
    assert!(two.take(1).is_none(), "its own limit");
    assert_eq!(two.limit_met(1), vms(2));
    let of_host = host.take(1).unwrap();
    assert_eq!((two.used().vms, host.used().vms), (2, 3));
    assert!(host.take(1).is_none() && !host.has_room(1));
    drop(shares);
    let more = [host.take(1).unwrap(), host.take(1).unwrap()];
    assert!(two.take(1).is_none(), "the host's limit");
    assert_eq!(two.limit_met(1), vms(3));
    drop((of_host, more));
    for budget in [two, host] {
        assert_eq!(budget.used(), Limit::default());
    }
}

#[test]
fn a_waiter_for_its_own_sub_budget_holds_up_nobody_else() {
    let host = Budget::new(vms(3));
    let (one, other) = (Budget::within(&host, vms(1)), Budget::within(&host, vms(1)));
    let share = one.take(1).unwrap();
    let waits = one.reserve(1);
    assert!(waits.take().is_none() && one.take(1).is_none());
    // Ending other pools' clones would gain nothing.
    assert!(one.is_short() && !other.is_short() && !host.is_short());
    let theirs = [other.take(1).unwrap(), host.take(1).unwrap()];
    let in_vain = host.reserve(1);
    assert!(in_vain.take().is_none() && host.is_short() && other.is_short());
    drop(theirs);
    let share_of_host = in_vain.take().unwrap();
    drop((in_vain, share));
    // With room of its own, it was there first.
    assert!(host.take(1).is_none(), "it overtook");
    drop((waits.take().unwrap(), waits, share_of_host));
    assert_eq!(host.used(), Limit::default());
}

#[test]
fn one_that_allows_more_than_the_one_around_it_has_what_the_others_leave() {
    let host = Budget::new(vms(2));
    let large = Budget::within(&host, vms(3));
    let shares: Vec<_> = std::iter::from_fn(|| large.take(1)).collect();
    assert_eq!((shares.len(), large.holds(1)), (3, 3));
    assert!(host.take(1).is_none());
    drop(shares);
    let shares = [host.take(1).unwrap(), host.take(1).unwrap()];
    let third = large.take(1).unwrap();
    assert!(large.take(1).is_none());
    drop((shares, third));
    assert_eq!(host.used(), Limit::default());
}

proptest! {
    #[test]
    fn no_limit_is_exceeded_and_whoever_can_be_served_is_in_the_end(
        (limits, is_larger) in (1_usize..6, 1_usize..6, 1_usize..6).prop_map(|limits| {
            (limits, limits.1.max(limits.2) > limits.0)
        }),
        steps in proptest::collection::vec((0_usize..3, any::<bool>()), 1..60),
    ) {
        let host = Budget::new(vms(limits.0));
        let within = |limit: usize| Budget::within(&host, vms(limit));
        let budgets = [host.clone(), within(limits.1), within(limits.2)];
        let mut reservations = VecDeque::new();
        let mut shares = VecDeque::new();
        for (at, gives) in steps {
            if gives {
                shares.pop_front();
            } else {
                reservations.push_back(budgets[at].reserve(1));
            }
            while let Some(at) = (0..reservations.len()).find_map(|at| {
                shares.push_back(reservations.get(at).and_then(Reservation::take)?);
                Some(at)
            }) {
                reservations.remove(at);
            }
            let most = limits.0.max(limits.1).max(limits.2);
            prop_assert!(host.used().vms <= most && host.used().vms == shares.len());
            for budget in &budgets[1..] {
                prop_assert!(budget.used().vms <= budget.limit().vms);
            }
            for reservation in &reservations {
                // Or it does not overtake one with a smaller limit.
                prop_assert!(is_larger || reservation.budget.lacking(1).is_some());
            }
        }
        while let Some(share) = shares.pop_front() {
            drop(share);
            while let Some(at) = (0..reservations.len()).find_map(|at| {
                shares.push_back(reservations.get(at).and_then(Reservation::take)?);
                Some(at)
            }) {
                reservations.remove(at);
            }
        }
        prop_assert!(reservations.is_empty(), "somebody waits for ever");
        prop_assert_eq!(host.used(), Limit::default());
    }
}

#[test]
fn a_host_holds_some_vms_and_not_any() {
    assert!(Budget::of_host().could_hold(16));
    assert!(!Budget::of_host().could_hold(u64::MAX));
}
