//! Kills the process that owns VMs.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ironclaw_orchestrator::vm::Origin;
use ironclaw_orchestrator::vm::config::JailChoice;
use ironclaw_test_harness::skipped;

use crate::jail::{can_limit, groups, jailed};
use crate::lab::{Lab, launcher, list, pool};
use crate::limit::Limit;
use crate::process::{Watched, living_in};

/// Set where the last test of this file runs for another: the directory for its VMs, and whether to
/// jail them. It does nothing otherwise.
const HOLD_BELOW: &str = "IRONCLAW_TEST_HOLD_BELOW";
const HOLD_JAILED: &str = "IRONCLAW_TEST_HOLD_JAILED";
/// Printed by that test before the PIDs of its VMs.
const HOLDING: &str = "holding";

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_killed_at_once_leaves_no_vmm_and_the_next_one_sweeps_its_directory() {
    let Some(lab) = Lab::open().await else { return };
    let owner = Owner::start(&lab);
    let vms = owner.vms();
    assert_eq!(lab.homes().len(), 4);
    owner.kill();
    ended(vms);
    let left = living_in(&lab.config.run_path);
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(lab.homes().len(), 4, "nobody was left to remove them");
    the_next_one_sweeps(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_killed_at_once_takes_jailed_vmms_along_and_the_next_one_removes_their_jails() {
    let Some(lab) = jailed().await else { return };
    let owner = Owner::start(&lab);
    let groups: Vec<PathBuf> = owner.pids.iter().flat_map(|pid| groups(*pid)).collect();
    assert_eq!(groups.is_empty(), !can_limit(), "{groups:?}");
    assert!(groups.iter().all(|group| group.exists()), "{groups:?}");
    let vms = owner.vms();
    assert_eq!(lab.homes().len(), 4);
    owner.kill();
    ended(vms);
    assert_eq!(lab.homes().len(), 4, "nobody was left to remove them");
    the_next_one_sweeps(&lab).await;
    let left: Vec<_> = groups.iter().filter(|group| group.exists()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A process with three VMs and a standby process.
struct Owner {
    process: Child,
    _limit: Limit,
    pids: Vec<u32>,
}

impl Owner {
    fn start(lab: &Lab) -> Self {
        let jailed = lab.config.jail == JailChoice::On;
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "owner::holds_vms_for_another_test",
                "--nocapture",
            ])
            .env(HOLD_BELOW, lab.path())
            .env(HOLD_JAILED, if jailed { "1" } else { "0" })
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let limit = Limit::new(&process);
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
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
        assert_eq!(pids.len(), 4);
        Self {
            process,
            _limit: limit,
            pids,
        }
    }

    fn vms(&self) -> Vec<Watched> {
        self.pids.iter().map(|pid| Watched::new(*pid)).collect()
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn ended(vms: Vec<Watched>) {
    for vm in vms {
        assert!(vm.ends_within(Duration::from_secs(10)));
    }
}

async fn the_next_one_sweeps(lab: &Lab) {
    let next = lab.launcher().await;
    assert_eq!(lab.homes().len(), 4, "who has no VMs sweeps nothing");
    // A snapshot of the dead owner serves.
    let pool = pool(&next, 1, 0).await;
    assert!(lab.homes().is_empty(), "{:?}", lab.homes());
    // Its own directory, and no other.
    let mut owners = list(&lab.config.run_path);
    owners.retain(|owner| !owner.ends_with(".claims"));
    assert_eq!(owners.len(), 1, "{owners:?}");
    assert_eq!(pool.stats().snapshots, 1);
    let vm = pool.spawn("next").await.unwrap();
    assert_eq!(vm.origin(), Origin::Restored);
    vm.destroy().await.unwrap();
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_vms_for_another_test() {
    let Some(below) = std::env::var_os(HOLD_BELOW).map(PathBuf::from) else {
        return skipped("a process of another test");
    };
    let mut config = Lab::config_below(&below);
    if std::env::var_os(HOLD_JAILED).is_some_and(|value| value == "1") {
        config.jail = JailChoice::On;
    }
    let launcher = launcher(&config).await;
    let pool = pool(&launcher, 1, 1).await;
    pool.warmup().await.unwrap();
    let leased = pool.spawn("held").await.unwrap();
    let another = pool.spawn("held-too").await.unwrap();
    pool.warmup().await.unwrap();
    let warm = pool.warm_pids()[0];
    let standby = pool.standby_pids()[0];
    println!(
        "{HOLDING} {} {} {warm} {standby}",
        leased.pid(),
        another.pid()
    );
    // Until it is killed, or the other test has ended.
    let wait = || std::io::stdin().read(&mut [0]);
    let _ = tokio::task::spawn_blocking(wait).await.unwrap();
}
