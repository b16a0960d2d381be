//! Memory against the number of clones.

use anyhow::Result;

use super::canvas::{Area, BLUE, GREEN, ORANGE, SKY};
use super::chart::{self, Axes, Curve};
use crate::bench::clones::Clones;
use crate::bench::text::in_mebibytes;

pub(super) fn draw(area: &Area<'_>, clones: &[Clones]) -> Result<()> {
    let (left, right) = area.split_horizontally(area.relative_to_width(0.5));
    let of = |color, name: &str, several: bool, bytes: fn(&Clones) -> u64| Curve {
        name: name.to_owned(),
        color,
        points: clones
            .iter()
            .filter(|clones| (clones.snapshots > 1) == several)
            .map(|clones| (clones.clones as f64, in_mebibytes(bytes(clones))))
            .collect(),
    };
    let several = clones.iter().map(|clones| clones.snapshots).max();
    let several = format!("of {} snapshots", several.unwrap_or_default());
    let all = vec![
        of(BLUE, "of one snapshot", false, |c| c.total_pss_bytes),
        of(ORANGE, &several, true, |c| c.total_pss_bytes),
    ];
    let each = vec![
        of(BLUE, "PSS, of one snapshot", false, |c| c.pss_bytes.p50),
        of(SKY, "USS, of one snapshot", false, |c| c.uss_bytes.p50),
        of(ORANGE, &format!("PSS, {several}"), true, |c| {
            c.pss_bytes.p50
        }),
        of(GREEN, &format!("USS, {several}"), true, |c| c.uss_bytes.p50),
    ];
    panel(&left, "All of them together (PSS)", all)?;
    panel(&right, "One of them (median)", each)
}

fn panel(area: &Area<'_>, title: &str, mut lines: Vec<Curve>) -> Result<()> {
    lines.retain(|line| !line.points.is_empty());
    let points = || lines.iter().flat_map(|line| &line.points);
    let axes = Axes {
        title,
        x: chart::from_zero(points().map(|(x, _)| *x)),
        x_name: "warm clones",
        y: chart::from_zero(points().map(|(_, y)| *y)),
        y_name: "MiB",
        dots: 3,
    };
    chart::draw(area, axes, lines)
}
