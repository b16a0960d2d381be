//! The rules by which a backend is selected, from settings and detection results alone.

use super::Trust;
use crate::vm::vmm::VmmKind;

/// A backend, as far as the selection depends on it.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) kind: VmmKind,
    /// The setting that requires it, if set.
    pub(crate) insists: Option<&'static str>,
}

/// The reason why no backend may serve, whatever is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OutOfOrder {
    /// The chosen one is not listed.
    Unknown(VmmKind),
    /// A setting requires `needed`, and another one was chosen, or is required, too.
    Needs {
        variable: &'static str,
        needed: VmmKind,
    },
}

/// Returns the indices of those in `listed` that may serve, best first. A `chosen` one, or one that
/// is required by its settings, is the only one.
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

/// The decision about the next candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Use it.
    Use,
    /// Use it if a guest boots.
    Try,
}

/// Decides what to do with a candidate. A guest is booted only if that decides something: without
/// an alternative, the real boot tells more than a failed trial.
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
