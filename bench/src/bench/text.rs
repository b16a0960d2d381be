//! Prints the report for people.

use anyhow::Result;
use ironclaw_console::output::{self, mebibytes};

use super::clones::Clones;
use super::comparison::{Comparison, GROSS, Outcome};
use super::host::Load;
use super::load::{ByTier, Spawns};
use super::ratios::Ratios;
use super::report::{Report, Warmup};
use super::snapshots::Snapshots;
use super::tiers::Tier;
use crate::statistics::Spread;

/// Prints everything but the ratios.
pub(super) fn print(report: &Report) -> Result<()> {
    heading(report)?;
    output::line("\nmilliseconds, to the agent's first answer, by stage, and after that:")?;
    output::table(
        ["TIER", "STAGE", "N", "MIN", "P50", "P90", "P99", "MAX"],
        report.tiers.iter().flat_map(times).collect(),
    )?;
    output::line("\npage faults of the VMM until the first command was answered, min/p50/max:")?;
    output::table(
        ["TIER", "FROM MEMORY", "FROM DISK"],
        report.tiers.iter().map(faults).collect(),
    )?;
    snapshots(&report.snapshots)?;
    for warmup in &report.warmups {
        output::line(&filled(warmup))?;
    }
    output::line("\nidle warm clones, MiB, min/p50/max of each:")?;
    output::table(
        ["CLONES", "OF SNAPSHOTS", "PSS", "USS", "PSS OF ALL"],
        report.clones.iter().map(memory).collect(),
    )?;
    if !report.concurrency.is_empty() {
        output::line(
            "\nspawns at a time: once from as many warm clones (burst), and again and again \
             (sustained); milliseconds",
        )?;
        let rows = report.concurrency.iter().flat_map(|level| {
            [
                spawns(level.concurrency, "burst", &level.burst),
                spawns(level.concurrency, "sustained", &level.sustained),
            ]
        });
        output::table(
            [
                "AT A TIME",
                "",
                "PER SECOND",
                "P50",
                "P90",
                "P99",
                "MAX",
                "WARM/RESTORED/COLD",
            ],
            rows.collect(),
        )?;
    }
    Ok(())
}

/// Prints the ratios alone.
pub(super) fn ratios(ratios: &Ratios) -> Result<()> {
    output::line("\nratios, the less the better:")?;
    let rows = ratios.named().into_iter();
    output::table(
        ["RATIO", "MEASURED"],
        rows.map(|(name, ratio)| [name.to_owned(), format!("{ratio:.4}")])
            .collect(),
    )
}

/// Prints the ratios beside the committed ones.
pub(super) fn comparison(comparison: &Comparison, measured: &Ratios) -> Result<()> {
    let file = comparison.file.display();
    match &comparison.result {
        Outcome::Nothing { because } => {
            ratios(measured)?;
            output::line(&format!("\nnot compared with {file}: {because}"))
        }
        Outcome::Ratios(rows) => {
            output::line(&format!("\nratios, the less the better, beside {file}:"))?;
            let cells = rows.iter().map(|row| {
                [
                    row.name.to_owned(),
                    format!("{:.4}", row.measured),
                    format!("{:.4}", row.committed),
                    format!("{:.2}x", row.times),
                    if row.broken { "BROKEN" } else { "ok" }.to_owned(),
                ]
            });
            output::table(
                ["RATIO", "MEASURED", "COMMITTED", "TIMES", ""],
                cells.collect(),
            )?;
            if comparison.is_broken() {
                output::line(&format!(
                    "more than {GROSS} times what was committed: something got much worse, or the \
                     machine was very busy; repeat the run to tell"
                ))?;
            }
            Ok(())
        }
    }
}

fn heading(report: &Report) -> Result<()> {
    output::line(&report.guest.line(&report.vmm))?;
    output::line(&report.host.line())?;
    let load = |load: Load| format!("{:.2} {:.2} {:.2}", load.one, load.five, load.fifteen);
    let governor = match &report.host.cpu_governor {
        Some(governor) => format!("; CPU governor {governor}"),
        None => String::new(),
    };
    output::line(&format!(
        "load average {} before, {} after{governor}",
        load(report.host.load_before),
        load(report.host.load_after)
    ))?;
    let cache = &report.cache;
    output::line(&format!(
        "page cache: {} of the snapshot's {} before the first restore, {} after the last",
        mebibytes(cache.before_bytes),
        mebibytes(cache.memory_bytes),
        mebibytes(cache.after_bytes)
    ))
}

fn times(tier: &Tier) -> Vec<[String; 8]> {
    let mut rows = vec![row(&tier.origin.to_string(), "spawn", &tier.spawn_ms)];
    for (stage, times) in &tier.stages_ms {
        rows.push(row("", &format!("  {stage}"), times));
    }
    rows.push(row("", "first exec", &tier.first_exec_ms));
    rows.push(row("", "destroy", &tier.destroy_ms));
    rows
}

fn row(tier: &str, stage: &str, times: &Spread<f64>) -> [String; 8] {
    [
        tier.to_owned(),
        stage.to_owned(),
        times.samples.to_string(),
        milliseconds(times.min),
        milliseconds(times.p50),
        milliseconds(times.p90),
        milliseconds(times.p99),
        milliseconds(times.max),
    ]
}

/// Formats to a microsecond where that is more than noise.
pub(super) fn milliseconds(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.3}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn faults(tier: &Tier) -> [String; 3] {
    let spread = |faults: &Spread<u64>| format!("{} / {} / {}", faults.min, faults.p50, faults.max);
    [
        tier.origin.to_string(),
        spread(&tier.minor_faults),
        spread(&tier.major_faults),
    ]
}

fn snapshots(snapshots: &Snapshots) -> Result<()> {
    let Snapshots {
        boot_ms,
        write_ms,
        publish_ms,
        disk_bytes,
        pool_disk_bytes,
    } = snapshots;
    output::line(&format!(
        "\nsnapshot: write {write_ms:.1} ms, publish {publish_ms:.1} ms, after a boot of \
         {boot_ms:.0} ms; {} on disk",
        mebibytes(*disk_bytes)
    ))?;
    if let Some(disk) = Spread::of(pool_disk_bytes.iter().copied()) {
        output::line(&format!(
            "{} snapshots of the pool: {} to {} on disk each",
            disk.samples,
            mebibytes(disk.min),
            mebibytes(disk.max)
        ))?;
    }
    Ok(())
}

fn filled(warmup: &Warmup) -> String {
    let Warmup {
        snapshots,
        found,
        clones,
        took_ms,
    } = *warmup;
    format!(
        "pool of {snapshots} snapshots, {found} of them from before, and {clones} warm clones: \
         filled in {took_ms:.0} ms"
    )
}

fn memory(clones: &Clones) -> [String; 5] {
    let each = |bytes: &Spread<u64>| {
        let [min, p50, max] = [bytes.min, bytes.p50, bytes.max].map(tenths);
        format!("{min} / {p50} / {max}")
    };
    [
        clones.clones.to_string(),
        clones.snapshots.to_string(),
        each(&clones.pss_bytes),
        each(&clones.uss_bytes),
        tenths(clones.total_pss_bytes),
    ]
}

/// Formats in MiB, without the unit.
fn tenths(bytes: u64) -> String {
    format!("{:.1}", in_mebibytes(bytes))
}

pub(super) fn in_mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn spawns(concurrency: usize, what: &str, spawns: &Spawns) -> [String; 8] {
    let Spread {
        p50, p90, p99, max, ..
    } = spawns.spawn_ms;
    let ByTier {
        warm,
        restored,
        cold_boot,
    } = spawns.served;
    let [p50, p90, p99, max] = [p50, p90, p99, max].map(milliseconds);
    [
        concurrency.to_string(),
        what.to_owned(),
        format!("{:.1}", spawns.per_second),
        p50,
        p90,
        p99,
        max,
        format!("{warm}/{restored}/{cold_boot}"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_up_is_told_with_what_it_found() {
        let warmup = Warmup {
            snapshots: 5,
            found: 1,
            clones: 10,
            took_ms: 12_345.6,
        };
        assert_eq!(
            filled(&warmup),
            "pool of 5 snapshots, 1 of them from before, and 10 warm clones: filled in 12346 ms"
        );
    }

    #[test]
    fn times_have_as_many_digits_as_are_more_than_noise() {
        for (value, text) in [
            (0.012, "0.012"),
            (9.999, "9.999"),
            (10.0, "10.0"),
            (99.94, "99.9"),
            (2603.4, "2603"),
        ] {
            assert_eq!(milliseconds(value), text);
        }
    }
}
