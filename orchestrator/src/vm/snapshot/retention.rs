//! The retention rule behind every deletion of a snapshot.

use std::time::Duration;

use ironclaw_store::Timestamp;

use super::defect::Defect;
use super::kind::{Checkpoint, Kind, KindName};
use super::manifest::Manifest;

/// The snapshot to delete, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject<'a> {
    /// A base.
    Base,
    /// A checkpoint; `None` if its manifest can't be read, so that its owner is unknown.
    Checkpoint(Option<&'a Checkpoint>),
    /// A snapshot of a newer release, the only one that understands it.
    OfNewerRelease,
}

/// The cause of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause<'a> {
    /// A user who may write to the store named it.
    Named,
    /// A user who claims to be its owner requested it.
    AskedBy(&'a str),
    /// It is unused and old: after a build, or by `ironclaw pool refresh`.
    Unused {
        /// Its age.
        age: Duration,
        /// The age from which it is old.
        limit: Duration,
    },
    /// One of its files is missing or damaged.
    Unusable,
    /// A sweep.
    Swept,
}

/// Returns whether it may be deleted. Its lock, not this, tells whether it is in use.
#[must_use]
pub(super) fn may_be_deleted(subject: Subject<'_>, cause: Cause<'_>, now: Timestamp) -> bool {
    match (subject, cause) {
        (_, Cause::Named) => true,
        (Subject::OfNewerRelease, _) => false,
        (Subject::Base, Cause::Unused { age, limit }) => age >= limit,
        (Subject::Base, Cause::Unusable) => true,
        (Subject::Base, Cause::AskedBy(_) | Cause::Swept) => false,
        (Subject::Checkpoint(None), _) => false,
        (Subject::Checkpoint(Some(it)), Cause::AskedBy(who)) => it.owner == who,
        // A snapshot that can't be made again is deleted neither for its age nor for a damage that
        // may be repairable.
        (Subject::Checkpoint(Some(it)), Cause::Unused { .. } | Cause::Unusable | Cause::Swept) => {
            it.is_past(now)
        }
    }
}

impl<'a> Subject<'a> {
    /// Returns the subject of a readable manifest.
    pub(super) fn of(kind: &'a Kind) -> Self {
        match kind {
            Kind::Base => Self::Base,
            Kind::Checkpoint(checkpoint) => Self::Checkpoint(Some(checkpoint)),
        }
    }

    /// Returns the subject of the manifest in a directory for a snapshot of this kind; without a
    /// readable manifest, of the directory's name.
    pub(super) fn found(manifest: &'a Result<Manifest, Defect>, kind: KindName) -> Self {
        match (manifest, kind) {
            (Ok(manifest), _) => Self::of(&manifest.kind),
            (Err(defect), _) if defect.is_of_newer_release() => Self::OfNewerRelease,
            (Err(_), KindName::Base) => Self::Base,
            (Err(_), KindName::Checkpoint) => Self::Checkpoint(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn time() -> impl Strategy<Value = Timestamp> {
        (0..10_u64, 0..3_u32).prop_map(|(unix_seconds, nanoseconds)| Timestamp {
            unix_seconds,
            nanoseconds,
        })
    }

    fn checkpoint() -> impl Strategy<Value = Checkpoint> {
        (0..3_u8, proptest::option::of(time())).prop_map(|(owner, keep_until)| Checkpoint {
            owner: owner.to_string(),
            of: "vm".to_owned(),
            keep_until,
        })
    }

    /// Returns each cause other than naming it, with the age and its limit.
    fn roads(who: &str, age: Duration, limit: Duration) -> [Cause<'_>; 4] {
        [
            Cause::AskedBy(who),
            Cause::Unused { age, limit },
            Cause::Unusable,
            Cause::Swept,
        ]
    }

    proptest! {
        #[test]
        fn a_checkpoint_goes_by_its_owner_or_when_its_time_is_past(
            it in checkpoint(), now in time(), who in 0..3_u8, age: u32, limit: u32,
        ) {
            let who = who.to_string();
            let [age, limit] = [age, limit].map(|secs| Duration::from_secs(secs.into()));
            let past = it.keep_until.is_some_and(|until| until < now);
            for cause in roads(&who, age, limit) {
                let expected = match cause {
                    Cause::AskedBy(who) => who == it.owner,
                    _ => past,
                };
                let subject = Subject::Checkpoint(Some(&it));
                prop_assert_eq!(may_be_deleted(subject, cause, now), expected, "{:?}", cause);
                // The less is known, the more is kept.
                for unknown in [Subject::Checkpoint(None), Subject::OfNewerRelease] {
                    prop_assert!(!may_be_deleted(unknown, cause, now), "{:?}", cause);
                }
            }
        }

        #[test]
        fn a_deletable_snapshot_stays_deletable(
            it in checkpoint(), now in time(), later in time(), age: u32, limit: u32, more: u32,
        ) {
            prop_assume!(now <= later);
            let [age, limit, more] = [age, limit, more].map(|secs| Duration::from_secs(secs.into()));
            for subject in [Subject::Base, Subject::Checkpoint(Some(&it))] {
                let before = roads("0", age, limit);
                let after = roads("0", age + more, limit);
                for (before, after) in before.into_iter().zip(after) {
                    prop_assert!(
                        !may_be_deleted(subject, before, now) || may_be_deleted(subject, after, later),
                        "{:?} {:?}", subject, before
                    );
                }
            }
        }

        #[test]
        fn a_base_is_deletable_when_old_or_damaged(
            now in time(), age: u32, limit: u32,
        ) {
            let [age, limit] = [age, limit].map(|secs| Duration::from_secs(secs.into()));
            let may = |cause| may_be_deleted(Subject::Base, cause, now);
            prop_assert_eq!(may(Cause::Unused { age, limit }), age >= limit);
            prop_assert!(may(Cause::Unusable));
            prop_assert!(!may(Cause::Swept) && !may(Cause::AskedBy("0")));
        }

        #[test]
        fn whoever_names_one_may_delete_it(it in checkpoint(), now in time()) {
            for subject in [
                Subject::Base,
                Subject::Checkpoint(Some(&it)),
                Subject::Checkpoint(None),
                Subject::OfNewerRelease,
            ] {
                prop_assert!(may_be_deleted(subject, Cause::Named, now));
            }
        }
    }
}
