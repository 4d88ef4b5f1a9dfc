//! A curve as SVG: the losses above, and below their relative difference on a logarithmic scale.

use crate::curve::CurveReport;
use std::fmt::Write;

/// The logarithms at the bottom and the top of the lower plot.
const DECADES: [f64; 2] = [-9.0, 0.0];

/// Draws the reference's loss as a broad grey line and the candidate's as a thin blue one on it; below, the
/// relative difference with the bound and the difference between seeds.
pub(crate) fn svg(curve: &CurveReport) -> String {
    let all = || curve.reference.iter().chain(&curve.candidate).filter(|loss| loss.is_finite());
    let low = all().copied().fold(f64::INFINITY, f64::min);
    let high = all().copied().fold(f64::NEG_INFINITY, f64::max).max(low + 1e-9);
    let loss = |loss: f64| 20.0 + 200.0 * (high - loss) / (high - low);
    let share = |share: f64| {
        let [low, high] = DECADES;
        250.0 + 180.0 * (high - share.max(1e-30).log10().clamp(low, high)) / (high - low)
    };
    let differences: Vec<f64> =
        curve.reference.iter().zip(&curve.candidate).map(|(a, b)| (b - a).abs() / a).collect();
    let mut text =
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 640 460\" font-family=\"sans-serif\" \
                    font-size=\"11\">\n<rect width=\"640\" height=\"460\" fill=\"white\"/>\n"
            .to_owned();
    text += &line(&curve.reference, loss, "stroke=\"#bbb\" stroke-width=\"4\"");
    text += &line(&curve.candidate, loss, "stroke=\"#06c\" stroke-width=\"1\"");
    text += &line(&differences, share, "stroke=\"#06c\" stroke-width=\"1\"");
    let mut lines = [(curve.bound, "bound of the mean"), (curve.seed_noise, "mean between seeds")];
    lines.sort_by(|a, b| a.0.total_cmp(&b.0));
    // The label of the lower line goes below it and that of the upper one above it, so that they never
    // overlap.
    for ((value, what), below) in lines.into_iter().zip([12.0, -4.0]).filter(|((value, _), _)| *value > 0.0) {
        let (y, words) = (share(value), share(value) + below);
        let _ = writeln!(
            text,
            "<line x1=\"40\" x2=\"620\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#c40\" stroke-dasharray=\"4\"/>\
             <text x=\"620\" y=\"{words:.1}\" text-anchor=\"end\" fill=\"#c40\" stroke=\"white\" \
             stroke-width=\"3\" paint-order=\"stroke\">{what} {value:.1e}</text>"
        );
    }
    for (y, label) in [(24.0, format!("{high:.2}")), (222.0, format!("{low:.2}"))] {
        let _ = writeln!(text, "<text x=\"4\" y=\"{y}\">{label}</text>");
    }
    for decade in (DECADES[0] as i32..=DECADES[1] as i32).step_by(3) {
        let y = share(10f64.powi(decade)) + 4.0;
        let _ = writeln!(text, "<text x=\"4\" y=\"{y:.1}\">1e{decade}</text>");
    }
    let _ = writeln!(
        text,
        "<text x=\"40\" y=\"452\">0</text><text x=\"620\" y=\"452\" text-anchor=\"end\">{} steps</text>\n\
         <text x=\"250\" y=\"14\">loss of {}: reference (grey), candidate (blue)</text>\n\
         <text x=\"250\" y=\"242\">relative difference</text>\n</svg>",
        curve.steps, curve.model
    );
    text
}

fn line(values: &[f64], y: impl Fn(f64) -> f64, style: &str) -> String {
    let count = values.len().max(2) - 1;
    let points: Vec<String> = values
        .iter()
        .enumerate()
        .filter(|(_, value)| value.is_finite())
        .map(|(index, &value)| format!("{:.1},{:.1}", 40.0 + 580.0 * index as f64 / count as f64, y(value)))
        .collect();
    format!("<polyline fill=\"none\" {style} points=\"{}\"/>\n", points.join(" "))
}
