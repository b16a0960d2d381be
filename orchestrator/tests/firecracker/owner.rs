//! The process that owns VMs is killed.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::lab::{Lab, launcher, list, pool};
use crate::process::{Watched, living_in};

/// Tells the second test of this file where to hold VMs; it does nothing without.
const HOLD_BELOW: &str = "IRONCLAW_TEST_HOLD_BELOW";
/// What that test says before the process ids of its VMs.
const HOLDING: &str = "holding";

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_killed_at_once_leaves_no_vmm_and_the_next_one_sweeps_its_directory() {
    let Some(lab) = Lab::open().await else { return };
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "owner::holds_vms_for_another_test",
            "--nocapture",
        ])
        .env(HOLD_BELOW, lab.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let pids: Vec<u32> = loop {
        let line = lines.next().expect("the owner ended").unwrap();
        // The harness begins a line with the test's name.
        if let Some((_, pids)) = line.split_once(HOLDING) {
            break pids
                .split_whitespace()
                .map(|pid| pid.parse().unwrap())
                .collect();
        }
    };
    assert_eq!(pids.len(), 3);
    let vms: Vec<Watched> = pids.iter().map(|pid| Watched::new(*pid)).collect();
    assert_eq!(lab.homes().len(), 3);

    owner.kill().unwrap();
    owner.wait().unwrap();
    for vm in vms {
        assert!(vm.ends_within(Duration::from_secs(10)));
    }
    let left = living_in(&lab.config.run_path);
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(lab.homes().len(), 3, "nobody was left to remove them");

    let next = lab.launcher().await;
    assert!(lab.homes().is_empty());
    // Its own, and no other.
    assert_eq!(list(&lab.config.run_path).len(), 1);
    // What the dead one had made serves.
    let pool = pool(&next, 1, 0).await;
    assert_eq!(pool.stats().snapshots, 1);
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_vms_for_another_test() {
    let Some(below) = std::env::var_os(HOLD_BELOW).map(PathBuf::from) else {
        return;
    };
    let launcher = launcher(&Lab::config_below(&below)).await;
    let pool = pool(&launcher, 1, 1).await;
    pool.warmup().await.unwrap();
    let leased = pool.spawn("held").await.unwrap();
    let another = pool.spawn("held-too").await.unwrap();
    pool.warmup().await.unwrap();
    let warm = pool.warm_pids()[0];
    println!("{HOLDING} {} {} {warm}", leased.pid(), another.pid());
    // Until it is killed, or the other test is gone.
    let wait = || std::io::stdin().read(&mut [0]);
    let _ = tokio::task::spawn_blocking(wait).await.unwrap();
}
