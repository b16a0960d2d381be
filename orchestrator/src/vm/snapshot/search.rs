//! Searches for a snapshot that another process made, or is making, before one is made here.
//!
//! The name of a staging directory shows the snapshot's purpose, and its lock that its maker lives.
//! So processes that need the same snapshot wait for the first one, and notice by the lock if that
//! one is killed.

use std::collections::HashSet;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::time::Duration;

use ironclaw_store::{Artefact as _, DirLock, LockKind, Owners};

use super::compat::Requirements;
use super::error::SnapshotError;
use super::id::SnapshotId;
use super::kind::{DirName, Kind, KindName};
use super::label::{id_for, purpose};
use super::manifest::Manifest;
use super::published::Snapshot;
use super::staging::Staging;
use super::store::{Entry, SnapshotStore};
use crate::mark;

/// The result of a search that is over.
#[derive(Debug)]
pub(crate) enum FindOrBuild {
    /// A snapshot that fits, kept in use by this value.
    Found(Snapshot),
    /// There is none: the caller may build one here.
    Build(Staging),
}

/// A snapshot that another process is building.
#[derive(Debug)]
pub(crate) struct InProgress {
    store: SnapshotStore,
    /// Its id, once it is published.
    pub(crate) id: SnapshotId,
    directory: File,
    /// The process that builds it.
    pub(crate) owners: Owners,
}

/// Keeps a snapshot that was waited for from being deleted.
#[derive(Debug)]
pub(crate) struct PublishedPin {
    _lock: Option<DirLock>,
}

impl SnapshotStore {
    /// Searches for a snapshot that meets `requirements`, is not in `known` and at most `age` old,
    /// the youngest first; otherwise for a process that is building one, after whose end the caller
    /// searches again.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub(crate) fn search(
        &self,
        requirements: &Requirements,
        known: &HashSet<SnapshotId>,
        age: Duration,
    ) -> Result<ControlFlow<FindOrBuild, InProgress>, SnapshotError> {
        self.0.make_anew()?;
        loop {
            // Checkpoints have other names, and are not even read.
            let bases = self.names(KindName::Base)?;
            let entries = self.entries(&bases)?;
            let serves = |entry: &&Entry| {
                let fits = |it: &Manifest| {
                    requirements.check(it).is_ok() && it.created.age_or_overdue() <= age
                };
                !known.contains(&entry.id) && entry.state.as_ref().is_ok_and(fits)
            };
            for entry in entries.iter().rev().filter(serves) {
                // An error means that another process is deleting it.
                if let Ok(snapshot) = self.load(entry.id, requirements) {
                    return Ok(ControlFlow::Break(FindOrBuild::Found(snapshot)));
                }
            }
            let root = self.0.lock()?;
            if let Some((id, directory)) = self.in_the_making(requirements, known)? {
                // Finding the owner may take long.
                drop(root);
                let (store, owners) = (self.clone(), Owners::find(&directory));
                return Ok(ControlFlow::Continue(InProgress {
                    store,
                    id,
                    directory,
                    owners,
                }));
            }
            // Nothing was published between the two lists, so all later searches see this one's
            // directory.
            if self.names(KindName::Base)? == bases {
                let staging = Staging::create(&self.0, &root, requirements, Kind::Base, None)?;
                return Ok(ControlFlow::Break(FindOrBuild::Build(staging)));
            }
        }
    }

    /// Finds a snapshot being made. The caller holds the root lock.
    fn in_the_making(
        &self,
        requirements: &Requirements,
        known: &HashSet<SnapshotId>,
    ) -> Result<Option<(SnapshotId, File)>, SnapshotError> {
        let failed = |error| SnapshotError::io("list", self.root(), error);
        let suffix = purpose(requirements, KindName::Base);
        for entry in fs::read_dir(self.root()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| id_for(name, &suffix)) else {
                continue;
            };
            if known.contains(&id) {
                continue;
            }
            // Gone meanwhile, or left by a killed process: for a sweep.
            let path = entry.path();
            let Ok(None) = DirLock::try_lock(&path, LockKind::Exclusive) else {
                continue;
            };
            let Ok(directory) = mark::open(&path) else {
                continue;
            };
            return Ok(Some((id, directory)));
        }
        Ok(None)
    }
}

impl InProgress {
    /// Returns the snapshot if it is published, or if its maker has failed or ended; removes what
    /// that left.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub(crate) fn poll_published(&self) -> Result<Option<PublishedPin>, SnapshotError> {
        let path = DirName::base(self.id).directory(self.store.root());
        let lock = DirLock::try_share(&self.directory)
            .map_err(|error| SnapshotError::io("wait for", &path, error))?;
        let Some(lock) = lock else { return Ok(None) };
        if lock.is_at(&path).unwrap_or(false) {
            return Ok(Some(PublishedPin { _lock: Some(lock) }));
        }
        drop(lock);
        self.store.sweep()?;
        Ok(Some(PublishedPin { _lock: None }))
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow::{Break, Continue};

    use super::*;
    use crate::vm::snapshot::manifest::tests::requirements;
    use crate::vm::snapshot::tests::{description, names, staged, store};

    const ANY_AGE: Duration = Duration::MAX;

    fn search(store: &SnapshotStore) -> ControlFlow<FindOrBuild, InProgress> {
        store
            .search(&requirements(), &HashSet::new(), ANY_AGE)
            .unwrap()
    }

    #[test]
    fn search_finds_the_youngest_fit_that_is_neither_known_nor_too_old() {
        let (_directory, store) = store();
        let publish = || staged(&store).publish(description()).unwrap().snapshot.id();
        let (older, younger) = (publish(), publish());
        let found = |known: &[SnapshotId], age| {
            let known = known.iter().copied().collect();
            match store.search(&requirements(), &known, age).unwrap() {
                Break(FindOrBuild::Found(snapshot)) => Some(snapshot.id()),
                _ => None,
            }
        };
        assert_eq!(found(&[], ANY_AGE), Some(younger));
        assert_eq!(found(&[younger], ANY_AGE), Some(older));
        assert_eq!(found(&[younger, older], ANY_AGE), None);
        assert_eq!(found(&[], Duration::ZERO), None);
    }

    #[test]
    fn a_snapshot_from_the_future_does_not_serve_until_its_time_has_come() {
        let (_directory, store) = store();
        let id = staged(&store).publish(description()).unwrap().snapshot.id();
        let manifest = DirName::base(id)
            .directory(store.root())
            .join("manifest.json");
        let json = std::fs::read_to_string(&manifest).unwrap();
        let made = store.list().unwrap()[0].state.clone().unwrap().created;
        let later = made.unix_seconds + 400 * 24 * 3600;
        let json = json.replace(&made.unix_seconds.to_string(), &later.to_string());
        std::fs::write(&manifest, json).unwrap();
        let hour = Duration::from_secs(3600);
        let search = |age| store.search(&requirements(), &HashSet::new(), age).unwrap();
        assert!(matches!(search(hour), Break(FindOrBuild::Build(_))));
        assert!(matches!(search(ANY_AGE), Break(FindOrBuild::Found(_))));
    }

    #[test]
    fn a_build_in_progress_is_waited_for_and_then_found() {
        let (_directory, store) = store();
        let staging = staged(&store);
        let id = staging.id();
        let Continue(builds) = search(&store) else {
            panic!("nobody seems to make one");
        };
        let pids: Vec<u32> = builds.owners.0.iter().map(|owner| owner.pid).collect();
        assert_eq!(pids, [std::process::id()]);
        let mut other = requirements();
        other.machine.vcpus += 1;
        let for_other = store.search(&other, &HashSet::new(), ANY_AGE).unwrap();
        assert!(
            matches!(for_other, Break(FindOrBuild::Build(_))),
            "{for_other:?}"
        );

        assert!(
            builds.poll_published().unwrap().is_none(),
            "it is made still"
        );
        drop(staging.publish(description()).unwrap());
        let pin = builds.poll_published().unwrap().unwrap();
        assert!(matches!(store.delete(id), Err(SnapshotError::InUse { .. })));
        let Break(FindOrBuild::Found(snapshot)) = search(&store) else {
            panic!("it is not found");
        };
        assert_eq!(snapshot.id(), id);
        drop((snapshot, pin));
        store.delete(id).unwrap();
    }

    #[test]
    fn a_maker_that_failed_is_not_waited_for_and_leaves_nothing() {
        let (_directory, store) = store();
        let staging = staged(&store);
        let Continue(builds) = search(&store) else {
            panic!("nobody seems to make one");
        };
        drop(staging);
        drop(builds.poll_published().unwrap().unwrap());
        assert!(names(&store).is_empty());
        assert!(matches!(search(&store), Break(FindOrBuild::Build(_))));
    }

    #[test]
    fn of_many_that_search_at_once_one_makes_it() {
        let (_directory, store) = store();
        let ids: HashSet<_> = std::thread::scope(|scope| {
            let searchers: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        loop {
                            match search(&store) {
                                Break(FindOrBuild::Found(snapshot)) => return snapshot.id(),
                                Continue(builds) => {
                                    while builds.poll_published().unwrap().is_none() {
                                        std::thread::yield_now();
                                    }
                                }
                                Break(FindOrBuild::Build(staging)) => {
                                    crate::vm::snapshot::tests::fill(&staging);
                                    return staging.publish(description()).unwrap().snapshot.id();
                                }
                            }
                        }
                    })
                })
                .collect();
            searchers.into_iter().map(|it| it.join().unwrap()).collect()
        });
        assert_eq!(ids.len(), 1);
    }
}
