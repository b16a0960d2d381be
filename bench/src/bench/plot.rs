//! Draws the report.

mod canvas;
mod chart;
mod clones;
mod latency;
mod memory;
mod stages;
mod throughput;

use std::path::Path;

use anyhow::Result;

use super::crowd;
use super::report::Report;
use canvas::Canvas;

/// Draws all pictures into files of `directory`, which exists.
pub(super) fn draw(report: &Report, directory: &Path) -> Result<()> {
    let canvas = Canvas::new(directory, &report.host, &report.vmm, &report.guest);
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

/// Draws the picture of pools with so many warm clones into a file of `directory`, which exists.
pub(super) fn draw_crowds(report: &crowd::Report, directory: &Path) -> Result<()> {
    let canvas = Canvas::new(directory, &report.host, &report.vmm, &report.guest);
    canvas.draw(
        "clones.svg",
        "What a warm clone costs among so many of one snapshot",
        |area| clones::draw(area, &report.crowds),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::fixture::{crowds, report};

    #[test]
    fn the_picture_of_many_clones_has_their_times_and_their_memory() {
        let directory = tempfile::tempdir().unwrap();
        draw_crowds(&crowds(), directory.path()).unwrap();
        let svg = std::fs::read_to_string(directory.path().join("clones.svg")).unwrap();
        for text in ["milliseconds", "MiB", "1000", "QEMU 7.2.0 (tcg)", "sweep"] {
            assert!(svg.contains(text), "there is no {text:?}");
        }
    }

    #[test]
    fn each_picture_says_what_it_shows_and_what_it_was_measured_on() {
        let directory = tempfile::tempdir().unwrap();
        draw(&report(), directory.path()).unwrap();
        for (file, axis) in [
            ("latency.svg", "milliseconds"),
            ("stages.svg", "restored: 100 ms"),
            ("memory.svg", "MiB"),
            ("throughput.svg", "spawns per second"),
        ] {
            let svg = std::fs::read_to_string(directory.path().join(file)).unwrap();
            for text in [axis, "QEMU 7.2.0 (tcg)", "Some CPU &lt;1&gt; &amp; Co"] {
                assert!(svg.contains(text), "{file} has no {text:?}");
            }
        }
    }

    #[test]
    fn nothing_measured_at_a_time_still_makes_a_picture() {
        let directory = tempfile::tempdir().unwrap();
        let mut report = report();
        report.concurrency.clear();
        report.clones.clear();
        draw(&report, directory.path()).unwrap();
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let gone = directory.path().join("gone");
        let error = draw(&report(), &gone).unwrap_err().to_string();
        assert!(error.contains("gone/latency.svg"), "{error}");
    }
}
