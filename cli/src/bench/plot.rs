//! The report as pictures.

mod canvas;
mod chart;
mod latency;
mod memory;
mod stages;
mod throughput;

use std::path::Path;

use anyhow::Result;

use super::report::Report;
use canvas::Canvas;

/// Draws all of them into files of `directory`, which exists.
pub(super) fn draw(report: &Report, directory: &Path) -> Result<()> {
    let canvas = Canvas::new(directory, report);
    canvas.draw(
        "latency.svg",
        "Spawn to the agent's first answer, by tier",
        |area| latency::draw(area, &report.tiers),
    )?;
    canvas.draw(
        "stages.svg",
        "Where the time of a VM's life goes, by tier (medians)",
        |area| stages::draw(area, &report.tiers),
    )?;
    canvas.draw("memory.svg", "Memory of idle warm clones", |area| {
        memory::draw(area, &report.clones)
    })?;
    canvas.draw(
        "throughput.svg",
        "Spawns at a time: throughput and latency",
        |area| throughput::draw(area, &report.concurrency),
    )
}
