//! Measurements for tests.

use std::time::Duration;

use ironclaw_orchestrator::vm::vmm::{VmmIdentity, VmmKind};
use ironclaw_orchestrator::vm::{Origin, Timings};

use super::clones::Clones;
use super::crowd::{self, Crowd};
use super::faults::Faults;
use super::host::{Host, Load};
use super::life::Life;
use super::load::{ByTier, Concurrency, Spawns};
use super::ratios::Ratios;
use super::report::{Cache, Guest, Report};
use super::snapshots::Snapshots;
use super::tiers::Tier;
use crate::statistics::Spread;

/// Bytes of a guest's memory.
pub(super) const GUEST: u64 = 100;

/// Queue, start, load, resume, hello and total in milliseconds.
pub(super) fn life(timings: [u64; 6]) -> Life {
    let mut all = Timings::default();
    [
        all.queue, all.start, all.load, all.resume, all.hello, all.total,
    ] = timings.map(Duration::from_millis);
    Life {
        timings: all,
        exec: Duration::from_millis(1),
        destroy: Duration::from_millis(1),
        faults: Faults::default(),
    }
}

pub(super) fn tiers() -> Vec<Tier> {
    vec![
        Tier::new(Origin::Warm, vec![life([1, 0, 0, 3, 5, 10])]).unwrap(),
        Tier::new(Origin::Restored, vec![life([2, 20, 8, 0, 50, 100])]).unwrap(),
        Tier::new(Origin::ColdBooted, vec![life([0, 20, 0, 0, 980, 1000])]).unwrap(),
    ]
}

pub(super) fn clones(clones: usize, snapshots: usize, pss_bytes: u64) -> Clones {
    let total_pss_bytes = pss_bytes * clones as u64;
    let pss_bytes = Spread::of([pss_bytes]).unwrap();
    Clones {
        clones,
        snapshots,
        pss_bytes,
        uss_bytes: pss_bytes,
        total_pss_bytes,
    }
}

pub(super) fn snapshots() -> Snapshots {
    Snapshots {
        boot_ms: 900.0,
        write_ms: 10.0,
        publish_ms: 20.0,
        disk_bytes: 25,
        pool_disk_bytes: vec![25, 26],
    }
}

/// Returns the report of a full run.
pub(super) fn report() -> Report {
    let load = Load {
        one: 0.5,
        five: 0.25,
        fifteen: 0.125,
    };
    let spawns = || Spawns {
        per_second: 100.0,
        spawn_ms: Spread::of_times([Duration::from_millis(5)]).unwrap(),
        served: ByTier::default(),
    };
    let tiers = tiers();
    let clones = vec![clones(1, 1, 90), clones(2, 1, 50), clones(2, 2, 80)];
    Report {
        ratios: Ratios::of(&tiers, &clones, &snapshots(), GUEST).unwrap(),
        host: Host {
            cpu_model: "Some CPU <1> & Co".to_owned(),
            processors: 2,
            memory_bytes: 8 << 30,
            kernel: "6.1.0".to_owned(),
            cpu_governor: None,
            load_before: load,
            load_after: load,
        },
        vmm: VmmIdentity::new(VmmKind::new("QEMU"), "7.2.0", "tcg"),
        guest: Guest {
            memory_mib: 128,
            vcpus: 1,
        },
        cache: Cache {
            memory_bytes: GUEST,
            before_bytes: 25,
            after_bytes: 30,
        },
        tiers,
        snapshots: snapshots(),
        warmups: Vec::new(),
        clones,
        concurrency: vec![Concurrency {
            concurrency: 5,
            burst: spawns(),
            sustained: spawns(),
        }],
    }
}

/// Returns the report of pools with ever more clones.
pub(super) fn crowds() -> crowd::Report {
    let Report {
        host, vmm, guest, ..
    } = report();
    let times = || Spread::of_times([Duration::from_millis(5)]).unwrap();
    let bytes = || Spread::of([1 << 20]).unwrap();
    let crowds = [10, 100, 1000].map(|clones| Crowd {
        clones,
        fill_ms: 10.0 * clones as f64,
        spawn_ms: times(),
        spawn_ratio: 1.0,
        stats_ms: times(),
        pss_bytes: bytes(),
        uss_bytes: bytes(),
        close_ms: clones as f64,
        sweep_ms: clones as f64,
    });
    crowd::Report {
        host,
        vmm,
        guest,
        crowds: crowds.into(),
    }
}
