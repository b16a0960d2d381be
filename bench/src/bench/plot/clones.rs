//! Times and memory over the number of warm clones.

use anyhow::Result;
use plotters::prelude::*;

use super::canvas::{Area, BLUE, GREEN, ORANGE, PINK, SKY, VERMILION};
use super::chart::{self, Axes, Curve};
use crate::bench::crowd::Crowd;
use crate::bench::text::in_mebibytes;

pub(super) fn draw(area: &Area<'_>, crowds: &[Crowd]) -> Result<()> {
    let (left, right) = area.split_horizontally(area.relative_to_width(0.6));
    let of = |color, name: &str, value: fn(&Crowd) -> f64| Curve {
        name: name.to_owned(),
        color,
        points: crowds
            .iter()
            .map(|crowd| (crowd.clones as f64, value(crowd)))
            .collect(),
    };
    let times = vec![
        of(VERMILION, "sweep of what a killed process left", |c| {
            c.sweep_ms
        }),
        of(ORANGE, "filling the pool", |c| c.fill_ms),
        of(PINK, "closing it", |c| c.close_ms),
        of(SKY, "a warm spawn, 90th percentile", |c| c.spawn_ms.p90),
        of(BLUE, "a warm spawn, median", |c| c.spawn_ms.p50),
        of(GREEN, "statistics, median", |c| c.stats_ms.p50),
    ];
    let memory = vec![
        of(BLUE, "PSS of a clone, median", |c| {
            in_mebibytes(c.pss_bytes.p50)
        }),
        of(SKY, "USS of a clone, median", |c| {
            in_mebibytes(c.uss_bytes.p50)
        }),
    ];
    let clones = || chart::decades(crowds.iter().map(|crowd| crowd.clones as f64)).log_scale();
    let values = |lines: &[Curve]| {
        let points = lines.iter().flat_map(|line| &line.points);
        points.map(|(_, y)| *y).collect::<Vec<_>>().into_iter()
    };
    let axes = Axes {
        title: "Times",
        x: clones(),
        x_name: "warm clones (logarithmic)",
        y: chart::decades(values(&times)).log_scale(),
        y_name: "milliseconds (logarithmic)",
        dots: 3,
    };
    chart::draw(&left, axes, times)?;
    let axes = Axes {
        title: "Memory",
        x: clones(),
        x_name: "warm clones (logarithmic)",
        y: chart::from_zero(values(&memory)),
        y_name: "MiB",
        dots: 3,
    };
    chart::draw(&right, axes, memory)
}
