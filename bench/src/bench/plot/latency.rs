//! The latency of each tier, as a cumulative distribution.

use std::time::Duration;

use anyhow::Result;
use ironclaw_console::output::milliseconds;
use ironclaw_orchestrator::vm::Origin;
use plotters::prelude::*;

use super::canvas::{Area, BLUE, GREEN, VERMILION};
use super::chart::{self, Axes, Curve};
use crate::bench::text;
use crate::bench::tiers::Tier;

pub(super) fn draw(area: &Area<'_>, tiers: &[Tier]) -> Result<()> {
    let lines: Vec<_> = tiers.iter().map(line).collect();
    let times = lines.iter().flat_map(|line| &line.points).map(|(x, _)| *x);
    let axes = Axes {
        title: "further to the left is faster, and steeper is steadier",
        x: chart::decades(times).log_scale(),
        x_name: "milliseconds (logarithmic)",
        y: 0.0..100.0,
        y_name: "percent of spawns that took no longer",
        dots: 0,
    };
    chart::draw(area, axes, lines)
}

fn line(tier: &Tier) -> Curve {
    let mut times: Vec<_> = tier.lives.iter().map(|life| life.timings.total).collect();
    times.sort_unstable();
    Curve {
        name: format!(
            "{} (median {} ms, {} spawns)",
            tier.origin,
            text::milliseconds(tier.spawn_ms.p50),
            tier.spawn_ms.samples
        ),
        color: match tier.origin {
            Origin::Warm => GREEN,
            Origin::Restored => BLUE,
            _ => VERMILION,
        },
        points: steps(&times),
    }
}

/// A step up at each time.
fn steps(sorted: &[Duration]) -> Vec<(f64, f64)> {
    let percent = |count: usize| 100.0 * count as f64 / sorted.len() as f64;
    let corners = sorted.iter().enumerate().flat_map(|(before, time)| {
        let x = milliseconds(*time);
        [(x, percent(before)), (x, percent(before + 1))]
    });
    corners.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_goes_from_nothing_to_all_by_a_step_at_each_time() {
        let steps = steps(&[Duration::from_millis(1), Duration::from_millis(4)]);
        assert_eq!(steps, [(1.0, 0.0), (1.0, 50.0), (4.0, 50.0), (4.0, 100.0)]);
    }
}
