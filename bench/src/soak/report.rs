//! The report of a soak.

use std::collections::BTreeMap;

use anyhow::Result;
use ironclaw_console::output;
use ironclaw_orchestrator::vm::vmm::VmmIdentity;
use serde::Serialize;

use super::leaks::Comparison;
use super::tally::{Blame, Failures, TierTimes};

/// The whole report.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) vmm: VmmIdentity,
    pub(super) seed: u64,
    pub(super) seconds: f64,
    /// Whether a signal ended it early.
    pub(super) interrupted: bool,
    /// Whether nothing leaked, and nothing failed unexpectedly.
    pub(super) ok: bool,
    pub(super) spawns: u64,
    pub(super) cancelled: u64,
    pub(super) commands: u64,
    pub(super) served: Vec<TierTimes>,
    /// Numbers of VMs by the way in which they ended.
    pub(super) endings: BTreeMap<&'static str, u64>,
    pub(super) faults: BTreeMap<&'static str, u64>,
    /// Faults that can't be injected here, with the reasons.
    pub(super) skipped: Vec<String>,
    /// Failed attempts of a tier, by reason; another tier served then.
    pub(super) fallbacks: BTreeMap<&'static str, u64>,
    pub(super) failures: Vec<Failures>,
    pub(super) unexpected_failures: u64,
    /// Comparison after everything was closed.
    pub(super) leaks: Vec<Comparison>,
}

impl Report {
    pub(super) fn print(&self, json: bool) -> Result<()> {
        if json {
            return output::json(self);
        }
        output::line(&format!(
            "{}, seed {}: {} spawns, {} taken back, {} commands in {:.0} s{}",
            self.vmm,
            self.seed,
            self.spawns,
            self.cancelled,
            self.commands,
            self.seconds,
            if self.interrupted {
                ", ended by a signal"
            } else {
                ""
            }
        ))?;
        let rows = self.served.iter().map(|served| {
            let times = &served.spawn_ms;
            let [p50, p90, p99, max] =
                [times.p50, times.p90, times.p99, times.max].map(|time| format!("{time:.1}"));
            [
                served.origin.to_string(),
                times.samples.to_string(),
                p50,
                p90,
                p99,
                max,
            ]
        });
        output::table(
            [
                "\nTIER", "\nSPAWNS", "\np50 ms", "\np90 ms", "\np99 ms", "\nmax ms",
            ],
            rows.collect(),
        )?;
        counted("VMS ENDED", &self.endings)?;
        counted("FAULTS INJECTED", &self.faults)?;
        counted("FELL BACK TO ANOTHER TIER", &self.fallbacks)?;
        failed(&self.failures)?;
        left_over(&self.leaks)?;
        skipped(&self.skipped)?;
        verdict(self.ok)
    }
}

/// Prints failures, if there are any.
pub(super) fn failed(failures: &[Failures]) -> Result<()> {
    if failures.is_empty() {
        return Ok(());
    }
    let rows = failures.iter().map(|failures| {
        let blame = match failures.blame {
            Blame::Injected => "injected",
            Blame::Unexpected => "UNEXPECTED",
        };
        [
            failures.what.to_owned(),
            blame.to_owned(),
            failures.count.to_string(),
            failures.first.replace('\n', " "),
        ]
    });
    output::table(
        ["\nFAILURE", "\nCAUSE", "\nTIMES", "\nTHE FIRST"],
        rows.collect(),
    )
}

/// Prints what there was before and after.
pub(super) fn left_over(leaks: &[Comparison]) -> Result<()> {
    let rows = leaks.iter().map(|line| {
        let verdict = if line.leaked { "LEAKED" } else { "ok" };
        [
            line.what.to_owned(),
            line.before.to_string(),
            line.after.to_string(),
            line.allowed.to_string(),
            verdict.to_owned(),
        ]
    });
    output::table(
        [
            "\nLEFT OVER",
            "\nBEFORE",
            "\nAFTER",
            "\nALLOWED MORE",
            "\nVERDICT",
        ],
        rows.collect(),
    )?;
    for path in leaks.iter().flat_map(|line| &line.left) {
        output::line(&format!("  {}", path.display()))?;
    }
    Ok(())
}

/// Prints what could not be done here.
pub(super) fn skipped(skipped: &[String]) -> Result<()> {
    for skipped in skipped {
        output::line(&format!("skipped: {skipped}"))?;
    }
    Ok(())
}

/// Prints the last line.
pub(super) fn verdict(ok: bool) -> Result<()> {
    output::line(if ok {
        "\nnothing leaked, and nothing failed that should not"
    } else {
        "\nFAILED: something leaked, or failed unexpectedly"
    })
}

/// Prints how often there was what, if there was anything.
pub(super) fn counted(title: &str, counts: &BTreeMap<&'static str, u64>) -> Result<()> {
    if counts.is_empty() {
        return Ok(());
    }
    let rows = counts
        .iter()
        .map(|(what, count)| [(*what).to_owned(), count.to_string()]);
    output::table([&format!("\n{title}"), "\nTIMES"], rows.collect())
}
