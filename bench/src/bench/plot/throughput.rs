//! Throughput and latency over the number of concurrent spawns.

use anyhow::Result;
use plotters::prelude::*;

use super::canvas::{Area, BLUE, GREEN, ORANGE, SKY};
use super::chart::{self, Axes, Curve};
use crate::bench::load::Concurrency;

pub(super) fn draw(area: &Area<'_>, levels: &[Concurrency]) -> Result<()> {
    let (left, right) = area.split_horizontally(area.relative_to_width(0.5));
    let of = |color, name: &str, value: fn(&Concurrency) -> f64| Curve {
        name: name.to_owned(),
        color,
        points: levels
            .iter()
            .map(|level| (level.concurrency as f64, value(level)))
            .collect(),
    };
    let rates = vec![
        of(BLUE, "sustained, until destroyed", |l| {
            l.sustained.per_second
        }),
        of(GREEN, "burst from warm clones", |l| l.burst.per_second),
    ];
    let latencies = vec![
        of(SKY, "sustained, p99", |l| l.sustained.spawn_ms.p99),
        of(BLUE, "sustained, median", |l| l.sustained.spawn_ms.p50),
        of(ORANGE, "burst, p99", |l| l.burst.spawn_ms.p99),
        of(GREEN, "burst, median", |l| l.burst.spawn_ms.p50),
    ];
    let concurrency = || chart::from_zero(levels.iter().map(|level| level.concurrency as f64));
    let values = |lines: &[Curve]| {
        let points = lines.iter().flat_map(|line| &line.points);
        points.map(|(_, y)| *y).collect::<Vec<_>>().into_iter()
    };
    let throughput = Axes {
        title: "Throughput",
        x: concurrency(),
        x_name: "spawns at a time",
        y: chart::decades(values(&rates)).log_scale(),
        y_name: "spawns per second (logarithmic)",
        dots: 3,
    };
    chart::draw(&left, throughput, rates)?;
    let latency = Axes {
        title: "Latency to the agent's first answer",
        x: concurrency(),
        x_name: "spawns at a time",
        y: chart::decades(values(&latencies)).log_scale(),
        y_name: "milliseconds (logarithmic)",
        dots: 3,
    };
    chart::draw(&right, latency, latencies)
}
