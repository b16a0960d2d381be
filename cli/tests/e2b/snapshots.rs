//! Snapshots of sandboxes and forks, and what a daemon leaves of them.

use std::fs;

use super::vm::runs;
use super::{Daemon, NEWEST, python};

impl Daemon {
    /// Counts what is kept on the disk of sandboxes' memory.
    fn checkpoints(&self) -> usize {
        let listed = self
            .apart
            .ironclaw(&["snapshot", "list", "--json"])
            .output()
            .unwrap();
        let all: Vec<serde_json::Value> = serde_json::from_slice(&listed.stdout).unwrap();
        all.iter().filter(|one| one["kind"] == "checkpoint").count()
    }
}

#[test]
fn sandboxes_begin_from_snapshots_and_forks_whose_memory_goes_with_the_last_of_them() {
    let Some(python) = runs().then(|| python(NEWEST)).flatten() else {
        return;
    };
    let daemon = Daemon::start();
    let key = daemon.new_key("test");
    let said = daemon.script(&python, "snapshots.py", &key, &[]);
    assert!(said.ends_with("all calls are served\n"), "{said}");
    assert_eq!(daemon.checkpoints(), 1, "the snapshot that is not deleted");
    daemon.end();
}

#[test]
fn a_sandbox_that_is_killed_while_it_is_paused_leaves_nothing() {
    let Some(python) = runs().then(|| python(NEWEST)).flatten() else {
        return;
    };
    let daemon = Daemon::start();
    let key = daemon.new_key("test");
    let database = daemon.state.path().join("daemon.db");
    let database = database.to_str().unwrap();
    daemon.script(&python, "kill_while_paused.py", &key, &[database]);
    assert_eq!(daemon.checkpoints(), 0);
    daemon.end();
}

#[test]
fn a_daemon_that_is_killed_leaves_no_memory_that_nobody_needs() {
    let Some(python) = runs().then(|| python(NEWEST)).flatten() else {
        return;
    };
    let daemon = Daemon::start();
    let key = daemon.new_key("test");
    daemon.script(&python, "resume_one.py", &key, &[]);
    // One that is paused, one that was, a snapshot, and a fork's.
    assert_eq!(daemon.checkpoints(), 4);
    let (apart, state) = daemon.kill();
    let daemon = Daemon::start_in(apart, state);
    assert_eq!(daemon.checkpoints(), 2);
    let second = daemon
        .apart
        .ironclaw(&["serve", "--listen", "127.0.0.1:0", "--state"])
        .arg(daemon.state.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        !second.status.success() && said.contains("another daemon"),
        "{said}"
    );
    let database = daemon.state.path().join("daemon.db");
    assert!(fs::exists(database).unwrap());
    daemon.end();
}
