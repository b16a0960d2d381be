//! Who may delete what: the rule behind every road on which a snapshot goes.

use std::time::Duration;

use ironclaw_store::Timestamp;

use super::defect::Defect;
use super::kind::{Checkpoint, Kind, KindName};
use super::manifest::Manifest;

/// What would be deleted, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject<'a> {
    /// One of a pool's.
    Base,
    /// A checkpoint; `None`: its manifest can't be read, and nobody knows whose it is.
    Checkpoint(Option<&'a Checkpoint>),
    /// One that a newer release made, and only that one knows what it is.
    OfNewerRelease,
}

/// How it comes that something is to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause<'a> {
    /// Somebody who may write to the store named it.
    Named,
    /// Somebody who says that he is its owner wants it to go.
    AskedBy(&'a str),
    /// Nobody uses it, and it was made so long ago: after a build, or by `ironclaw pool refresh`.
    Unused {
        /// Time since it was made.
        age: Duration,
        /// At which it is old.
        limit: Duration,
    },
    /// A file of it is missing or damaged.
    Unusable,
    /// A sweep came by.
    Swept,
}

/// Whether it may be deleted. That nobody uses it is asked of its lock, and not here.
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
        // What can't be made again goes neither for its age nor for a damage that may be mended.
        (Subject::Checkpoint(Some(it)), Cause::Unused { .. } | Cause::Unusable | Cause::Swept) => {
            it.is_past(now)
        }
    }
}

impl<'a> Subject<'a> {
    /// What a readable manifest says.
    pub(super) fn of(kind: &'a Kind) -> Self {
        match kind {
            Kind::Base => Self::Base,
            Kind::Checkpoint(checkpoint) => Self::Checkpoint(Some(checkpoint)),
        }
    }

    /// What the manifest says in a directory for a snapshot of this kind, or the directory's name
    /// without a readable one.
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

    /// Each road but that on which it is named, with the age and its limit.
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
