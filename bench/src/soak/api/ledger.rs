//! The sandboxes that the clients of a daemon know, and what they may expect of each. Rules without I/O.

use std::collections::BTreeMap;

use fastrand::Rng;

/// What a sandbox does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Running,
    Paused,
}

/// A sandbox that one client has for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) id: String,
    pub(super) state: State,
    /// What is in its file, if it has one.
    pub(super) mark: Option<String>,
    /// Whether it must be there, and in this state.
    pub(super) is_sure: bool,
}

/// The way in which a daemon was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// In order: it keeps all sandboxes.
    Drained,
    /// At once: it keeps the paused ones.
    Killed,
}

#[derive(Debug)]
struct Known {
    state: State,
    mark: Option<String>,
    is_sure: bool,
    is_taken: bool,
}

/// All sandboxes.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    known: BTreeMap<String, Known>,
    /// VMMs that were killed, and whose sandboxes nobody has missed yet.
    victims: usize,
}

impl Ledger {
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Adds one that was made. `lasts` tells whether nothing but a fault ends it.
    pub(super) fn made(&mut self, id: String, mark: Option<String>, lasts: bool) {
        self.known.insert(
            id,
            Known {
                state: State::Running,
                mark,
                is_sure: lasts,
                is_taken: false,
            },
        );
    }

    /// Takes one of those in a state that nobody has taken.
    pub(super) fn take(&mut self, state: Option<State>, rng: &mut Rng) -> Option<Taken> {
        let fits =
            |known: &Known| !known.is_taken && state.is_none_or(|state| known.state == state);
        let fitting: Vec<_> = self
            .known
            .iter_mut()
            .filter(|(_, known)| fits(known))
            .collect();
        let count = fitting.len();
        let (id, known) = fitting.into_iter().nth(rng.usize(..count.max(1)))?;
        known.is_taken = true;
        Some(Taken {
            id: id.clone(),
            state: known.state,
            mark: known.mark.clone(),
            is_sure: known.is_sure,
        })
    }

    /// Puts one back, which is in this state now.
    pub(super) fn put_back(&mut self, id: &str, state: State) {
        if let Some(known) = self.known.get_mut(id) {
            known.state = state;
            known.is_taken = false;
        }
    }

    /// Puts one back of which is not known what became of it.
    pub(super) fn doubt(&mut self, id: &str) {
        if let Some(known) = self.known.get_mut(id) {
            known.is_sure = false;
            known.is_taken = false;
        }
    }

    /// Forgets one that is gone.
    pub(super) fn forget(&mut self, id: &str) {
        self.known.remove(id);
    }

    /// Records that a VMM was killed: one sandbox may be missed.
    pub(super) fn victim(&mut self) {
        self.victims += 1;
    }

    /// Returns whether a killed VMM explains that a sandbox is missed, one for one.
    #[must_use]
    pub(super) fn is_explained(&mut self) -> bool {
        let is_explained = self.victims > 0;
        self.victims = self.victims.saturating_sub(1);
        is_explained
    }

    /// Doubts all that run: VMMs may have died of a full disk.
    pub(super) fn doubt_running(&mut self) {
        for known in self.known.values_mut() {
            known.is_sure &= known.state == State::Paused;
        }
    }

    /// Compares it with the sandboxes that a daemon has after it was ended and started again, and takes
    /// over what it has; returns what must not be. No request may be on its way.
    #[must_use]
    pub(super) fn restarted(&mut self, end: End, found: &BTreeMap<String, State>) -> Vec<String> {
        let mut wrong = Vec::new();
        for (id, known) in std::mem::take(&mut self.known) {
            let now = found.get(&id).copied();
            let must = known.is_sure && (end == End::Drained || known.state == State::Paused);
            if must && now != Some(known.state) && !self.is_explained() {
                wrong.push(format!(
                    "{id}, which was {:?}, is {} after the daemon was {end:?}",
                    known.state,
                    now.map_or_else(|| "gone".to_owned(), |now| format!("{now:?}"))
                ));
            }
            if let Some(state) = now {
                let known = Known {
                    state,
                    is_taken: false,
                    ..known
                };
                self.known.insert(id, known);
            }
        }
        if end == End::Killed {
            let running = found.iter().filter(|(_, state)| **state == State::Running);
            wrong.extend(running.map(|(id, _)| format!("{id} runs after its daemon was killed")));
        }
        // Those whose VMMs were killed are gone by now.
        self.victims = 0;
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        for id in ["runs", "pauses", "brief"] {
            ledger.made(id.to_owned(), None, id != "brief");
        }
        ledger.put_back("pauses", State::Paused);
        ledger
    }

    fn found(of: &[(&str, State)]) -> BTreeMap<String, State> {
        of.iter()
            .map(|(id, state)| ((*id).to_owned(), *state))
            .collect()
    }

    const RUNS: (&str, State) = ("runs", State::Running);
    const PAUSES: (&str, State) = ("pauses", State::Paused);

    #[test]
    fn a_sandbox_is_taken_by_one_client_at_a_time() {
        let (mut ledger, mut rng) = (ledger(), Rng::with_seed(1));
        let paused = ledger.take(Some(State::Paused), &mut rng).unwrap();
        assert_eq!(
            (&*paused.id, paused.state, paused.is_sure),
            ("pauses", State::Paused, true)
        );
        assert_eq!(ledger.take(Some(State::Paused), &mut rng), None);
        ledger.doubt("pauses");
        assert!(!ledger.take(Some(State::Paused), &mut rng).unwrap().is_sure);
        assert_ne!(ledger.take(None, &mut rng), ledger.take(None, &mut rng));
        assert_eq!(ledger.take(None, &mut rng), None);
        ledger.forget("runs");
        assert_eq!(ledger.len(), 2);
    }

    #[test]
    fn a_daemon_that_ends_in_order_keeps_all_that_last() {
        assert!(
            ledger()
                .restarted(End::Drained, &found(&[RUNS, PAUSES]))
                .is_empty()
        );
        let wrong = ledger().restarted(End::Drained, &found(&[PAUSES]));
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        let wrong = ledger().restarted(End::Drained, &found(&[("runs", State::Paused), RUNS]));
        assert_eq!(wrong.len(), 1, "{wrong:?}");
    }

    #[test]
    fn a_daemon_that_is_killed_keeps_the_paused_ones_alone() {
        assert!(
            ledger()
                .restarted(End::Killed, &found(&[PAUSES]))
                .is_empty()
        );
        assert_eq!(ledger().restarted(End::Killed, &found(&[])).len(), 1);
        assert_eq!(
            ledger()
                .restarted(End::Killed, &found(&[RUNS, PAUSES]))
                .len(),
            1
        );
    }

    #[test]
    fn a_killed_vmm_explains_that_one_sandbox_is_missed_and_no_second() {
        let mut ledger = ledger();
        ledger.victim();
        assert!(ledger.is_explained() && !ledger.is_explained());
        ledger.victim();
        assert!(ledger.restarted(End::Drained, &found(&[PAUSES])).is_empty());
    }

    #[test]
    fn nothing_is_expected_of_what_ran_while_the_disk_was_full() {
        let mut ledger = ledger();
        ledger.doubt_running();
        assert!(ledger.restarted(End::Drained, &found(&[PAUSES])).is_empty());
    }
}
