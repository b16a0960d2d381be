//! A picture, with a title that names the host of the measurements.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use ironclaw_orchestrator::vm::vmm::VmmIdentity;

use crate::bench::host::Host;
use crate::bench::report::Guest;

/// Width and height in pixels.
const SIZE: (u32, u32) = (1000, 540);
/// Height of the title and the lines below it.
const TITLE: i32 = 84;
const MARGIN: i32 = 24;
const FONT: &str = "sans-serif";

pub(super) const INK: RGBColor = RGBColor(34, 34, 34);
const FAINT: RGBColor = RGBColor(96, 96, 96);

/// Colours that colour-blind people can tell apart, too (Okabe and Ito).
pub(super) const BLUE: RGBColor = RGBColor(0, 114, 178);
pub(super) const ORANGE: RGBColor = RGBColor(230, 159, 0);
pub(super) const GREEN: RGBColor = RGBColor(0, 158, 115);
pub(super) const VERMILION: RGBColor = RGBColor(213, 94, 0);
pub(super) const SKY: RGBColor = RGBColor(86, 180, 233);
pub(super) const PINK: RGBColor = RGBColor(204, 121, 167);
pub(super) const GREY: RGBColor = RGBColor(170, 170, 170);

/// The area of a picture.
pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws pictures of one report into files of a directory.
#[derive(Debug)]
pub(super) struct Canvas<'a> {
    directory: &'a Path,
    lines: [String; 2],
}

impl<'a> Canvas<'a> {
    pub(super) fn new(directory: &'a Path, host: &Host, vmm: &VmmIdentity, guest: &Guest) -> Self {
        let load = host.load_before.one;
        Self {
            directory,
            lines: [
                guest.line(vmm),
                format!("{}; load {load:.2} at the start", host.line()),
            ],
        }
    }

    /// Draws a picture with `content` below its title.
    pub(super) fn draw(
        &self,
        file: &str,
        title: &str,
        content: impl FnOnce(&Area<'_>) -> Result<()>,
    ) -> Result<()> {
        let path = self.directory.join(file);
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            root.fill(&WHITE)?;
            text(&root, title, (MARGIN, 14), 22, INK)?;
            for (line, y) in self.lines.iter().zip([44, 62]) {
                text(&root, line, (MARGIN, y), 13, FAINT)?;
            }
            let (_, area) = root.split_vertically(TITLE);
            content(&area.margin(6, 10, MARGIN, MARGIN))?;
            root.present()?;
        }
        fs::write(&path, svg).with_context(|| format!("can't write {}", path.display()))
    }
}

/// Writes a line of text with its upper left corner at `at`.
pub(super) fn text(
    area: &Area<'_>,
    text: &str,
    at: (i32, i32),
    size: u32,
    color: RGBColor,
) -> Result<()> {
    let style = font(size)
        .color(&color)
        .pos(Pos::new(HPos::Left, VPos::Top));
    Ok(area.draw_text(text, &style, at)?)
}

pub(super) fn font(size: u32) -> FontDesc<'static> {
    (FONT, size).into_font()
}
