//! A bar for each tier, divided into the stages of its spawns; each has an axis of its own.

use anyhow::Result;
use ironclaw_orchestrator::vm::SpawnStage;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::canvas::{Area, BLUE, GREEN, GREY, INK, ORANGE, PINK, SKY, VERMILION, font, text};
use super::chart;
use crate::bench::text::milliseconds;
use crate::bench::tiers::Tier;

/// Height of a tier's two lines of text.
const TEXT: i32 = 42;
/// Minimum share of a bar that fits a name.
const NAMED: f64 = 0.09;

struct Part {
    name: &'static str,
    color: RGBColor,
    milliseconds: f64,
}

pub(super) fn draw(area: &Area<'_>, tiers: &[Tier]) -> Result<()> {
    for (panel, tier) in area.split_evenly((tiers.len(), 1)).iter().zip(tiers) {
        let (above, below) = panel.split_vertically(TEXT);
        let parts = parts(tier);
        let title = format!(
            "{}: {} ms to the first answer, {} spawns",
            tier.origin,
            milliseconds(tier.spawn_ms.p50),
            tier.spawn_ms.samples
        );
        text(&above, &title, (0, 2), 16, INK)?;
        let each = parts
            .iter()
            .map(|part| format!("{} {}", part.name, milliseconds(part.milliseconds)));
        let each = format!("{} ms", each.collect::<Vec<_>>().join("  +  "));
        text(&above, &each, (0, 23), 13, INK)?;
        bar(&below, &parts)?;
    }
    Ok(())
}

fn parts(tier: &Tier) -> Vec<Part> {
    let stages = tier.stages_ms.iter().map(|(stage, times)| Part {
        name: stage.name(),
        color: color(*stage),
        milliseconds: times.p50,
    });
    let after = [
        ("first exec", GREY, tier.first_exec_ms.p50),
        ("destroy", PINK, tier.destroy_ms.p50),
    ];
    let after = after.map(|(name, color, milliseconds)| Part {
        name,
        color,
        milliseconds,
    });
    stages.chain(after).collect()
}

fn color(stage: SpawnStage) -> RGBColor {
    match stage {
        SpawnStage::Start => ORANGE,
        SpawnStage::Load => SKY,
        SpawnStage::Resume => BLUE,
        SpawnStage::Hello => GREEN,
        _ => VERMILION,
    }
}

fn bar(area: &Area<'_>, parts: &[Part]) -> Result<()> {
    let all: f64 = parts.iter().map(|part| part.milliseconds).sum();
    // An axis needs a length, even if the clock saw no time pass.
    let length = all.max(0.001);
    let mut axis = ChartBuilder::on(area)
        .margin_right(14)
        .x_label_area_size(26)
        .build_cartesian_2d(0.0..length, 0.0..1.0)?;
    axis.configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .label_style(font(13).color(&INK))
        .light_line_style(WHITE)
        .bold_line_style(INK.mix(0.12))
        .x_label_formatter(&|value| format!("{} ms", chart::number(*value)))
        .draw()?;
    let style = font(13)
        .color(&INK)
        .pos(Pos::new(HPos::Center, VPos::Center));
    let mut start = 0.0;
    for part in parts {
        let end = start + part.milliseconds;
        let corners = [(start, 0.1), (end, 0.9)];
        axis.draw_series([Rectangle::new(corners, part.color.mix(0.75).filled())])?;
        if part.milliseconds / length >= NAMED {
            let middle = ((start + end) / 2.0, 0.5);
            axis.draw_series([Text::new(part.name, middle, style.clone())])?;
        }
        start = end;
    }
    Ok(())
}
