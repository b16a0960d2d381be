//! Kills processes without warning, at random moments: what they published stays, and the next
//! start sweeps what they leave behind.
//!
//! `IRONCLAW_TEST_SEED` repeats the moments of an earlier run, which prints its seed.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ironclaw_orchestrator::vm::Pool;
use ironclaw_orchestrator::vm::snapshot::{SnapshotId, SnapshotStore};
use ironclaw_test_harness::skipped;
use libtest_mimic::Trial;

use crate::backend::{Kind, Watched, living_below};
use crate::limit::Limit;
use crate::trial;
use crate::victim::{self, FULL, Life, ROUND};

/// Number of kills with each backend, and of those before the directory is replaced by an empty
/// one, so that first builds are killed, too.
const DEATHS: [(Kind, usize, usize); 2] = [(Kind::Simulator, 42, 7), (Kind::Qemu, 8, 8)];

pub(crate) fn trials() -> Vec<Trial> {
    let deaths = DEATHS.into_iter().map(|(kind, deaths, each)| {
        let behaviour = "a_process_killed_at_any_point_loses_no_snapshot_and_leaks_nothing";
        let name = format!("crash::{}::{behaviour}", kind.name());
        trial(name, move || killed_at_any_point(kind, deaths, each))
    });
    deaths.collect()
}

async fn killed_at_any_point(kind: Kind, deaths: usize, each: usize) {
    if let Err(missing) = kind.start().await {
        skipped(missing);
        return;
    }
    let seed = std::env::var("IRONCLAW_TEST_SEED").map_or_else(
        |_| fastrand::u64(..),
        |seed| seed.parse().expect("a seed is a number"),
    );
    println!("crash::{}: IRONCLAW_TEST_SEED={seed}", kind.name());
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut scene = Scene::new(kind);
    let round = scene.one_round();
    scene = Scene::new(kind);
    for death in 0..deaths {
        let after = round.mul_f64(chance.f64());
        let place = format!("death {death}, after {after:?} of {round:?}, seed {seed}");
        scene.dies(after, &place).await;
        if (death + 1) % each == 0 || death + 1 == deaths {
            scene.ends(&place).await;
            scene = Scene::new(kind);
        }
    }
}

/// A directory in which one victim after the other works.
struct Scene {
    life: Life,
    /// Whether a pool was full here: from then on it must never have fewer snapshots.
    was_full: bool,
    _directory: tempfile::TempDir,
}

impl Scene {
    fn new(kind: Kind) -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let life = Life {
            kind,
            directory: directory.path().to_owned(),
        };
        Self {
            life,
            was_full: false,
            _directory: directory,
        }
    }

    /// Returns the time that a victim needs to do everything once.
    fn one_round(&self) -> Duration {
        let start = Instant::now();
        let mut victim = self.life.start();
        let _limit = Limit::new(&victim);
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == ROUND), "it died too soon");
        let round = start.elapsed();
        victim.kill().unwrap();
        victim.wait().unwrap();
        round
    }

    /// Kills one more victim, and starts another process in its directory.
    async fn dies(&mut self, after: Duration, place: &str) {
        let mut victim = self.life.start();
        let said = victim.stdout.take().unwrap();
        // The fault itself: at any moment, so there is no event to wait for.
        std::thread::sleep(after);
        victim.kill().unwrap();
        let status = victim.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "it ended by itself: {place}");
        let mut lines = BufReader::new(said).lines();
        self.was_full |= lines.any(|line| line.unwrap() == FULL);
        // Its VMMs end by themselves, a moment later.
        for process in living_below(&self.life.directory) {
            if let Some(process) = Watched::if_alive(process) {
                process.ended().await;
            }
        }
        self.is_cleaned_by_the_next(place).await;
    }

    async fn is_cleaned_by_the_next(&self, place: &str) {
        let Life { kind, directory } = &self.life;
        let snapshots = directory.join("snapshots");
        let published = if snapshots.exists() {
            sound(&SnapshotStore::open(&snapshots).unwrap())
        } else {
            BTreeSet::new()
        };
        let size = victim::options(*kind).size;
        assert!(
            !self.was_full || published.len() >= size,
            "snapshots are lost, {published:?} are left: {place}"
        );

        let next = kind.start_in(directory).await.unwrap();
        let pool = Pool::open(next.launcher.clone(), victim::options(*kind));
        let pool = pool.await.unwrap();
        let store = next.launcher.snapshots();
        assert_eq!(sound(store), published, "{place}");
        assert_eq!(pool.stats().snapshots, published.len().min(size), "{place}");
        for id in &published {
            let loaded = store.load(*id, next.launcher.requirements());
            assert!(loaded.is_ok(), "{loaded:?}: {place}");
        }
        assert_eq!(names(&snapshots).len(), published.len(), "{place}");
        assert!(next.homes().is_empty(), "{:?}: {place}", next.homes());
        let owners = names(&directory.join("run"));
        assert_eq!(owners.len(), 1, "its own alone: {owners:?}: {place}");
        pool.close().await;
        let living = living_below(directory);
        assert!(living.is_empty(), "{living:?}: {place}");
    }

    /// Checks at the end that the directory has published snapshots alone, and that they serve.
    async fn ends(&self, place: &str) {
        let Life { kind, directory } = &self.life;
        let last = kind.start_in(directory).await.unwrap();
        let store = last.launcher.snapshots();
        for id in sound(store) {
            let verified = store.verify(id);
            assert!(verified.is_ok(), "{verified:?}: {place}");
        }
        let pool = Pool::open(last.launcher.clone(), victim::options(*kind));
        let pool = pool.await.unwrap();
        pool.warmup().await.unwrap();
        pool.spawn("last").await.unwrap().destroy().await.unwrap();
        pool.close().await;
    }
}

fn sound(store: &SnapshotStore) -> BTreeSet<SnapshotId> {
    let entries = store.list().unwrap().into_iter();
    entries
        .filter(|entry| entry.state.is_ok())
        .map(|entry| entry.id)
        .collect()
}

/// Lists a directory, hidden entries included.
fn names(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}
