use std::collections::BTreeMap;

use super::*;
use crate::template::Sha256Digest;
use crate::vm::{Limit, Quantiles, TierOff};

#[test]
fn a_tier_has_one_name_in_labels_and_in_json() {
    for tier in [Origin::Warm, Origin::Restored, Origin::ColdBooted] {
        assert_eq!(serde_json::to_value(tier).unwrap(), label(tier));
    }
}

fn named(content: &str) -> TemplateHash {
    Sha256Digest::of(content).into()
}

/// A pool in which every figure is set to another value.
fn busy() -> PoolStats {
    let times = Quantiles {
        count: 10,
        p50_us: 11,
        p90_us: 12,
        p99_us: 13,
        max_us: 1_500_000,
    };
    PoolStats {
        number: 1,
        template: named("template"),
        size: 20,
        snapshots: 21,
        building: 22,
        retired: 23,
        warm: 24,
        restoring: 25,
        standby: 39,
        off: BTreeMap::from([(
            Origin::Warm,
            TierOff {
                reason: "guest",
                retry_seconds: 40,
            },
        )]),
        leased: 26,
        waiting: 27,
        starts_at_a_time: 28,
        used: Limit {
            vms: 28,
            memory_mib: 29,
        },
        limit: Limit {
            vms: usize::MAX,
            memory_mib: 30,
        },
        served_warm: 31,
        served_restored: 32,
        served_cold: 33,
        failures: 34,
        fallbacks: BTreeMap::from([("snapshot", 35), ("shutting_down", 36)]),
        snapshot_ages_seconds: vec![37, 38],
        stages: BTreeMap::from([(SpawnStage::Queue, times), (SpawnStage::Total, times)]),
        footprint: Some(Footprint {
            warm_pss_bytes: vec![40, 1],
            standby_pss_bytes: vec![60, 3],
            snapshot_disk_bytes: vec![50, 2],
        }),
    }
}

/// Parses `text` into figures, by name and labels without the template's.
fn figures(text: &str) -> BTreeMap<String, f64> {
    let template = format!(
        "template=\"{}\",pool=\"1\"",
        &named("template").to_string()[..DIGITS]
    );
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let name = name.replace(&format!("{template},"), "");
            let name = name.replace(&format!("{{{template}}}"), "");
            (name, value.parse().unwrap())
        })
        .collect()
}

#[test]
fn every_figure_of_a_pool_is_in_the_text() {
    let figures = figures(&prometheus_text(&[busy()]));
    for (name, value) in [
        ("ironclaw_pool_snapshots{state=\"ready\"}", 21.0),
        ("ironclaw_pool_snapshots{state=\"building\"}", 22.0),
        ("ironclaw_pool_snapshots{state=\"retired\"}", 23.0),
        ("ironclaw_pool_size", 20.0),
        ("ironclaw_pool_vms{state=\"warm\"}", 24.0),
        ("ironclaw_pool_vms{state=\"restoring\"}", 25.0),
        ("ironclaw_pool_vms{state=\"leased\"}", 26.0),
        ("ironclaw_pool_standby", 39.0),
        ("ironclaw_pool_tier_off{tier=\"warm\"}", 1.0),
        ("ironclaw_pool_tier_off{tier=\"restored\"}", 0.0),
        ("ironclaw_pool_waiting", 27.0),
        ("ironclaw_pool_spawns_total{tier=\"warm\"}", 31.0),
        ("ironclaw_pool_spawns_total{tier=\"restored\"}", 32.0),
        ("ironclaw_pool_spawns_total{tier=\"cold_boot\"}", 33.0),
        ("ironclaw_pool_failures_total", 34.0),
        ("ironclaw_pool_fallbacks_total{reason=\"snapshot\"}", 35.0),
        (
            "ironclaw_pool_fallbacks_total{reason=\"shutting_down\"}",
            36.0,
        ),
        (
            "ironclaw_pool_spawn_stage_seconds{stage=\"queue\",percentile=\"50\"}",
            11e-6,
        ),
        (
            "ironclaw_pool_spawn_stage_seconds{stage=\"total\",percentile=\"100\"}",
            1.5,
        ),
        ("ironclaw_pool_budget_used_bytes", 30_408_704.0),
        ("ironclaw_pool_budget_bytes", 31_457_280.0),
        ("ironclaw_pool_warm_memory_bytes", 41.0),
        ("ironclaw_pool_standby_memory_bytes", 63.0),
        ("ironclaw_pool_snapshot_disk_bytes", 52.0),
        ("ironclaw_pool_snapshot_budget_bytes", 20.0 * 104_857_600.0),
    ] {
        assert_eq!(figures.get(name), Some(&value), "{name} {figures:#?}");
    }
    let made = figures["ironclaw_pool_oldest_snapshot_created_seconds"];
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    assert!((37.0..40.0).contains(&(now.as_secs_f64() - made)), "{made}");
}

#[test]
fn pools_of_several_templates_or_of_one_are_told_apart() {
    let other = PoolStats {
        number: 2,
        template: named("other"),
        served_warm: 7,
        ..busy()
    };
    let same = PoolStats {
        number: 3,
        served_warm: 8,
        ..busy()
    };
    let text = prometheus_text(&[busy(), other, same]);
    let is_warm = |line: &&str| line.starts_with(SPAWNS) && line.contains("tier=\"warm\"");
    let warm = text.lines().filter(is_warm);
    let mut counts: Vec<_> = warm.filter_map(|line| line.rsplit(' ').next()).collect();
    counts.sort_unstable();
    assert_eq!(counts, ["31", "7", "8"], "{text}");
}

#[test]
fn a_recorder_counts_what_happens_in_a_pool_that_is_opened_anew() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        let label = Label::of(&named("template"), 1);
        label.served(Origin::Warm);
        drop(label);
        Label::of(&named("template"), 1).served(Origin::Warm);
    });
    let figures = figures(&recorder.handle().render());
    assert_eq!(figures["ironclaw_pool_spawns_total{tier=\"warm\"}"], 2.0);
}
