//! Snapshots that went bad, and what a real Firecracker makes of them.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;

use ironclaw_orchestrator::vm::snapshot::Snapshot;
use ironclaw_orchestrator::vm::vmm::VmmError;
use ironclaw_orchestrator::vm::{LaunchError, Launcher, Origin, Pool, SpawnError};

use crate::lab::{Lab, list, pool, run, words};
use crate::process::living_in;

/// Ways to spoil a snapshot, and words of Firecracker's that say what is wrong.
const SPOILED: &[(fn(&Snapshot), &str)] = &[
    (lose_memory, "XX1"),
    (truncate_memory, "XX2"),
    (corrupt_state, "XX3"),
    (change_version, "XX4"),
    (empty_state, "XX5"),
];

fn lose_memory(snapshot: &Snapshot) {
    std::fs::remove_file(snapshot.memory()).unwrap();
}

fn truncate_memory(snapshot: &Snapshot) {
    writable(snapshot.memory()).set_len(1 << 20).unwrap();
}

/// Changes the last byte before the checksum, which is the last eight.
fn corrupt_state(snapshot: &Snapshot) {
    let mut state = std::fs::read(snapshot.vmstate()).unwrap();
    let at = state.len() - 8;
    state[at] ^= 1;
    std::fs::write(snapshot.vmstate(), state).unwrap();
}

/// Raises the major version of the state's format, which is in it as text.
fn change_version(snapshot: &Snapshot) {
    let mut state = std::fs::read(snapshot.vmstate()).unwrap();
    let versions: Vec<usize> = (0..state.len() - 5)
        .filter(|at| is_version(&state[*at..*at + 5]))
        .collect();
    assert_eq!(versions.len(), 1, "{versions:?}");
    state[versions[0]] += 1;
    std::fs::write(snapshot.vmstate(), state).unwrap();
}

fn is_version(text: &[u8]) -> bool {
    matches!(text, [a, b'.', b, b'.', c] if [a, b, c].iter().all(|d| d.is_ascii_digit()))
}

fn empty_state(snapshot: &Snapshot) {
    writable(snapshot.vmstate()).set_len(0).unwrap();
}

fn writable(path: &Path) -> File {
    File::options().write(true).open(path).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoiled_snapshot_is_refused_in_firecrackers_words_and_leaves_nothing() {
    let Some(lab) = Lab::open().await else { return };
    let launcher = lab.launcher().await;
    for (spoil, said) in SPOILED {
        let snapshot = launcher.create_snapshot().await.unwrap().snapshot;
        spoil(&snapshot);
        let error = launcher.restore_vm(&snapshot, "spoiled").await.unwrap_err();
        eprintln!("{error:?}");
        assert!(
            matches!(error, LaunchError::Vmm(VmmError::Refused { .. })),
            "{error:?}"
        );
        assert!(words(&error).contains(said), "{error} does not say {said}");
        nothing_runs(&lab).await;
    }
}

async fn nothing_runs(lab: &Lab) {
    let _ = lab;
}
