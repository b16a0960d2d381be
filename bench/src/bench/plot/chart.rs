//! A line chart, with the names of the lines above it, where they hide none of them.

use std::ops::Range;

use anyhow::Result;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

use super::canvas::{Area, INK, font, text};

/// Height of the title, and of each line's name.
const TITLE: i32 = 26;
const NAME: i32 = 18;
/// Left edge of the names, above the axis.
const LEFT: i32 = 60;

/// A curve of a chart.
#[derive(Debug)]
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) color: RGBColor,
    pub(super) points: Vec<(f64, f64)>,
}

/// The axes of a chart.
#[derive(Debug)]
pub(super) struct Axes<'a, X, Y> {
    pub(super) title: &'a str,
    pub(super) x: X,
    pub(super) x_name: &'a str,
    pub(super) y: Y,
    pub(super) y_name: &'a str,
    /// Size of the dots at the points; 0 for none.
    pub(super) dots: u32,
}

/// Draws lines.
pub(super) fn draw<X, Y>(area: &Area<'_>, axes: Axes<'_, X, Y>, lines: Vec<Curve>) -> Result<()>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let (above, below) = area.split_vertically(names_height(lines.len()));
    text(&above, axes.title, (LEFT, 2), 15, INK)?;
    let mut chart = ChartBuilder::on(&below)
        .margin_right(14)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .build_cartesian_2d(axes.x, axes.y)?;
    chart
        .configure_mesh()
        .label_style(font(13).color(&INK))
        .axis_desc_style(font(14).color(&INK))
        .light_line_style(WHITE)
        .bold_line_style(INK.mix(0.12))
        .x_desc(axes.x_name)
        .y_desc(axes.y_name)
        .x_label_formatter(&|value| number(*value))
        .y_label_formatter(&|value| number(*value))
        .draw()?;
    for (line, y) in lines
        .into_iter()
        .zip((TITLE..).step_by(NAME.unsigned_abs() as usize))
    {
        let Curve {
            name,
            color,
            points,
        } = line;
        let style = color.stroke_width(2);
        let middle = y + NAME / 2 - 2;
        above.draw(&PathElement::new(
            [(LEFT, middle), (LEFT + 18, middle)],
            style,
        ))?;
        text(&above, &name, (LEFT + 26, y + 1), 13, INK)?;
        chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
        let dots = points
            .into_iter()
            .map(|point| Circle::new(point, axes.dots, color.filled()));
        chart.draw_series(dots.filter(|_| axes.dots > 0))?;
    }
    Ok(())
}

fn names_height(lines: usize) -> i32 {
    let lines = i32::try_from(lines).unwrap_or(i32::MAX);
    NAME.saturating_mul(lines).saturating_add(TITLE + 6)
}

/// Returns the range from 0 to a little more than the largest value.
pub(super) fn from_zero(values: impl Iterator<Item = f64>) -> Range<f64> {
    let largest = values.fold(0.0, f64::max);
    0.0..if largest > 0.0 { largest * 1.1 } else { 1.0 }
}

/// Returns the decades around all values, for an axis without a zero.
pub(super) fn decades(values: impl Iterator<Item = f64> + Clone) -> Range<f64> {
    let positive = values.filter(|value| *value > 0.0);
    let least = positive.clone().fold(f64::INFINITY, f64::min);
    let most = positive.fold(0.0, f64::max);
    if most == 0.0 {
        return 1.0..10.0;
    }
    let low = 10_f64.powf(least.log10().floor());
    let high = 10_f64.powf(most.log10().ceil());
    low..if high > low { high } else { low * 10.0 }
}

/// Formats without insignificant digits: `0.01`, `25`, `1000`.
pub(super) fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64]) -> (Range<f64>, Range<f64>) {
        (
            from_zero(values.iter().copied()),
            decades(values.iter().copied()),
        )
    }

    fn near(range: &Range<f64>, low: f64, high: f64) -> bool {
        (range.start - low).abs() < 1e-9 && (range.end / high - 1.0).abs() < 1e-9
    }

    #[test]
    fn every_value_is_on_the_axis() {
        let (linear, decades) = of(&[4.4, 158.5, 2603.0]);
        assert!(near(&linear, 0.0, 2863.3) && near(&decades, 1.0, 10_000.0));
    }

    #[test]
    fn axes_of_nothing_and_of_zeros_have_a_length_too() {
        for values in [&[][..], &[0.0], &[10.0]] {
            let (linear, decades) = of(values);
            assert!(linear.end > linear.start, "{values:?}: {linear:?}");
            assert!(decades.end > decades.start, "{values:?}: {decades:?}");
        }
    }

    #[test]
    fn labels_have_no_digits_that_say_nothing() {
        assert_eq!(
            [0.01, 25.0, 1000.0, 0.0].map(number),
            ["0.01", "25", "1000", "0"]
        );
    }
}
