//! Which backend serves: rules over what was set and found, without a look at the host.

use super::Trust;
use crate::vm::vmm::VmmKind;

/// A backend, as far as the order depends on it.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) kind: VmmKind,
    /// The setting with which it serves, or none.
    pub(crate) insists: Option<&'static str>,
}

/// Why none may serve, whatever is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OutOfOrder {
    /// The one that was chosen is not listed.
    Unknown(VmmKind),
    /// A setting asks for what only `needed` has, and another one was chosen, or is needed, too.
    Needs {
        variable: &'static str,
        needed: VmmKind,
    },
}

/// Those of `listed` that may serve, best first: by their places. One that was `chosen`, or whose
/// settings insist on it, is the only one.
pub(crate) fn order(chosen: Option<&VmmKind>, listed: &[Listed]) -> Result<Vec<usize>, OutOfOrder> {
    let mut only = match chosen {
        None => None,
        Some(kind) => {
            let place = listed.iter().position(|listed| listed.kind == *kind);
            Some(place.ok_or_else(|| OutOfOrder::Unknown(kind.clone()))?)
        }
    };
    for (place, Listed { kind, insists }) in listed.iter().enumerate() {
        let Some(variable) = *insists else { continue };
        if only.is_some_and(|only| only != place) {
            let needed = kind.clone();
            return Err(OutOfOrder::Needs { variable, needed });
        }
        only = Some(place);
    }
    Ok(only.map_or_else(|| (0..listed.len()).collect(), |only| vec![only]))
}

/// What to do with a candidate that is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It serves.
    Use,
    /// It serves if a guest boots.
    Try,
}

/// A guest is booted only where that changes what happens: not if there is nothing else to serve
/// instead, since a boot tells more than a trial that failed.
pub(crate) fn step(trust: Trust, is_last: bool) -> Step {
    match trust {
        Trust::Sure => Step::Use,
        Trust::UntilItBoots if is_last => Step::Use,
        Trust::UntilItBoots => Step::Try,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    static KINDS: [VmmKind; 3] = [
        VmmKind::new("First"),
        VmmKind::new("Second"),
        VmmKind::new("Third"),
    ];

    fn listed(insists: [bool; 3]) -> Vec<Listed> {
        let kinds = KINDS.iter().cloned().zip(insists);
        let insists = |insists: bool| insists.then_some("SETTING");
        kinds
            .map(|(kind, set)| Listed {
                kind,
                insists: insists(set),
            })
            .collect()
    }

    #[test]
    fn the_list_is_the_order_where_nothing_is_chosen() {
        assert_eq!(order(None, &listed([false; 3])), Ok(vec![0, 1, 2]));
    }

    #[test]
    fn a_setting_of_another_backend_than_the_chosen_one_is_named() {
        let needs = OutOfOrder::Needs {
            variable: "SETTING",
            needed: KINDS[0].clone(),
        };
        let listed = listed([true, false, false]);
        assert_eq!(order(Some(&KINDS[1]), &listed), Err(needs));
        let fourth = VmmKind::new("Fourth");
        let unknown = OutOfOrder::Unknown(fourth.clone());
        assert_eq!(order(Some(&fourth), &listed), Err(unknown));
    }

    #[test]
    fn a_guest_is_booted_only_if_that_decides_something() {
        for (trust, is_last, expected) in [
            (Trust::Sure, false, Step::Use),
            (Trust::Sure, true, Step::Use),
            (Trust::UntilItBoots, false, Step::Try),
            (Trust::UntilItBoots, true, Step::Use),
        ] {
            assert_eq!(step(trust, is_last), expected, "{trust:?} {is_last}");
        }
    }

    proptest! {
        #[test]
        fn a_required_backend_is_selected_or_none(
            chosen in proptest::option::of(0_usize..3),
            insists in any::<[bool; 3]>(),
        ) {
            let listed = listed(insists);
            let kind = chosen.map(|place| &KINDS[place]);
            let wanted: std::collections::BTreeSet<usize> = (0..3)
                .filter(|place| insists[*place] || chosen == Some(*place))
                .collect();
            match order(kind, &listed) {
                Ok(places) if wanted.is_empty() => prop_assert_eq!(places, vec![0, 1, 2]),
                Ok(places) => prop_assert_eq!(places, Vec::from_iter(wanted)),
                Err(OutOfOrder::Needs { needed, .. }) => {
                    prop_assert!(wanted.len() > 1);
                    let place = KINDS.iter().position(|kind| *kind == needed).unwrap();
                    prop_assert!(insists[place]);
                }
                Err(other) => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
