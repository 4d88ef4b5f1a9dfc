//! Small drawings as SVG text: a plot of points with labels, and a bar of parts. Colours are CSS classes.

use crate::output::escaped;
use std::fmt::Write;

/// Size in the plot's own units; the page scales it to its width.
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 24.0;
const BOTTOM: f64 = 40.0;

/// A point and its label.
pub struct Point {
    pub x: f64,
    pub y: f64,
    pub label: String,
    /// A CSS class: `front`, `other` or `best`.
    pub class: &'static str,
}

/// An axis: its title, and how its numbers are shown.
pub struct Axis<'a> {
    pub title: &'a str,
    pub show: &'a dyn Fn(f64) -> String,
}

/// Plots points over two axes; those of class `front` and `best` are joined.
pub fn plot(points: &[Point], x: &Axis<'_>, y: &Axis<'_>, title: &str) -> String {
    let across = Scale::around(points.iter().map(|point| point.x), LEFT, WIDTH - RIGHT);
    let up = Scale::around(points.iter().map(|point| point.y), HEIGHT - BOTTOM, TOP);
    let mut svg = format!(
        "<svg class=\"plot\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n",
        escape(title)
    );
    for (axis, scale, is_x) in [(x, &across, true), (y, &up, false)] {
        svg += &grid(axis, scale, is_x);
    }
    svg += &front(points, &across, &up);
    let mut placed: Vec<[f64; 4]> = Vec::new();
    // The best point is drawn last, so that no other one at the same place hides it.
    let (best, others): (Vec<&Point>, Vec<&Point>) = points.iter().partition(|point| point.class == "best");
    for point in others.into_iter().chain(best) {
        let (px, py) = (across.at(point.x), up.at(point.y));
        let radius = if point.class == "best" { 5.5 } else { 4.0 };
        let tip = format!("{}: {}, {}", point.label, (y.show)(point.y), (x.show)(point.x));
        let _ = writeln!(
            svg,
            "<circle class=\"{}\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"{radius}\"><title>{}</title></circle>",
            point.class,
            escape(&tip)
        );
        placed.push([px - 6.0, py - 6.0, px + 6.0, py + 6.0]);
    }
    for point in points {
        svg += &label(point, across.at(point.x), up.at(point.y), &mut placed);
    }
    svg + "</svg>\n"
}

/// Draws a bar whose parts are shares of `whole`; the rest of it stays empty.
pub fn bar(parts: &[(usize, f64)], whole: f64, title: &str) -> String {
    let mut svg = format!("<svg class=\"bar\" role=\"img\" aria-label=\"{}\">\n", escape(title));
    svg += "<rect class=\"empty\" width=\"100%\" height=\"100%\"/>\n";
    let mut from = 0.0;
    for &(colour, amount) in parts {
        let share = if whole > 0.0 { (100.0 * amount / whole).clamp(0.0, 100.0 - from) } else { 0.0 };
        let _ = writeln!(
            svg,
            "<rect class=\"c{colour}\" x=\"{from:.2}%\" width=\"{share:.2}%\" height=\"100%\"/>"
        );
        from += share;
    }
    svg + "</svg>\n"
}

/// Escapes text for HTML and SVG, and what would command a terminal that shows the file.
pub fn escape(text: &str) -> String {
    escaped(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Maps values to places on an axis with round steps, which starts at zero if that is near.
struct Scale {
    low: f64,
    high: f64,
    step: f64,
    from: f64,
    to: f64,
}

impl Scale {
    fn around(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Scale {
        let finite = values.filter(|value| value.is_finite());
        let range = finite
            .fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], value| [low.min(value), high.max(value)]);
        let [low, high] = if range[0] > range[1] { [0.0, 1.0] } else { range };
        let low = if low > 0.0 && low < 0.6 * high { 0.0 } else { low };
        let span = if high > low { high - low } else { high.abs().max(1.0) };
        let rough = span / 4.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|times| times * power);
        let step = step.into_iter().find(|&step| step >= rough).unwrap_or(rough);
        let low = (low / step).floor() * step;
        let high = (((high + 0.04 * span) / step).ceil() * step).max(low + step);
        Scale { low, high, step, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        let count = ((self.high - self.low) / self.step).round() as usize;
        (0..=count.min(20)).map(|index| self.low + index as f64 * self.step)
    }
}

fn grid(axis: &Axis<'_>, scale: &Scale, is_x: bool) -> String {
    let mut svg = String::new();
    for value in scale.ticks() {
        let (at, text) = (scale.at(value), escape(&(axis.show)(value)));
        let (floor, ceiling, right) = (HEIGHT - BOTTOM, TOP, WIDTH - RIGHT);
        let _ = if is_x {
            writeln!(
                svg,
                "<line class=\"grid\" x1=\"{at:.1}\" y1=\"{ceiling}\" x2=\"{at:.1}\" y2=\"{floor}\"/>\
                 <text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>",
                floor + 14.0
            )
        } else {
            writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\"/>\
                 <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                LEFT - 6.0,
                at + 3.5
            )
        };
    }
    let title = escape(axis.title);
    let (x, y, anchor) = if is_x { (WIDTH - RIGHT, HEIGHT - 8.0, "end") } else { (4.0, 9.0, "start") };
    let _ = writeln!(svg, "<text class=\"axis\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{title}</text>");
    svg
}

/// Draws the front as a staircase: between two plans there is none that is both cheaper and faster.
fn front(points: &[Point], across: &Scale, up: &Scale) -> String {
    let mut front: Vec<&Point> = points.iter().filter(|point| point.class != "other").collect();
    front.sort_by(|a, b| a.x.total_cmp(&b.x));
    let mut path = String::new();
    let mut before = None;
    for point in front {
        let (x, y) = (across.at(point.x), up.at(point.y));
        match before {
            None => path += &format!("M{x:.1} {y:.1}"),
            Some(_) => path += &format!("H{x:.1}V{y:.1}"),
        }
        before = Some(y);
    }
    format!("<path class=\"front-line\" d=\"{path}\"/>\n")
}

/// Writes a label beside its point where no other label is, or leaves it out.
fn label(point: &Point, x: f64, y: f64, placed: &mut Vec<[f64; 4]>) -> String {
    let width = 5.6 * point.label.chars().count() as f64;
    let places = [0.0, -12.0, 12.0, -24.0, 24.0]
        .into_iter()
        .flat_map(|shift| [(x + 9.0, "start", shift), (x - 9.0, "end", shift)]);
    for (at, anchor, shift) in places {
        let left = if anchor == "start" { at } else { at - width };
        let baseline = y + 4.0 + shift;
        let area = [left, baseline - 9.0, left + width, baseline + 2.0];
        let is_inside =
            area[0] >= LEFT && area[2] <= WIDTH - 2.0 && area[1] >= 0.0 && area[3] <= HEIGHT - BOTTOM;
        let meets = |other: &[f64; 4]| {
            area[0] < other[2] && other[0] < area[2] && area[1] < other[3] && other[1] < area[3]
        };
        if is_inside && !placed.iter().any(meets) {
            placed.push(area);
            let text = escape(&point.label);
            return format!(
                "<text class=\"label\" x=\"{at:.1}\" y=\"{baseline:.1}\" \
                 text-anchor=\"{anchor}\">{text}</text>\n"
            );
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(x: f64, y: f64, label: &str) -> Point {
        Point { x, y, label: label.into(), class: "front" }
    }

    #[test]
    fn points_and_labels_stay_inside_and_labels_do_not_meet() {
        let points: Vec<Point> =
            (0..60).map(|index| point(1.0 + 0.001 * f64::from(index), 5.0, "a fleet")).collect();
        let axis = Axis { title: "days", show: &|value| format!("{value}") };
        let svg = plot(&points, &axis, &axis, "a < b");
        assert_eq!(svg.matches("<circle").count(), 60);
        assert!(svg.contains("a &lt; b") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert!(svg.matches("class=\"label\"").count() < 60, "labels that have no room are left out");
    }

    #[test]
    fn nothing_to_plot_and_numbers_that_are_none_draw_an_empty_plot() {
        let axis = Axis { title: "days", show: &|value| format!("{value}") };
        assert!(!plot(&[], &axis, &axis, "empty").contains("<circle"));
        assert!(!bar(&[(0, 1.0)], 0.0, "nothing").contains("NaN"));
    }

    #[test]
    fn a_bar_never_leaves_its_frame() {
        let svg = bar(&[(0, 80.0), (1, 80.0)], 100.0, "too much");
        assert!(svg.contains("x=\"80.00%\" width=\"20.00%\""), "{svg}");
    }
}
