//! A small plot of losses in text: the training loss as a curve of Braille dots, held-out losses as circles.

/// Characters across and down, without the axes.
const WIDTH: usize = 60;
const HEIGHT: usize = 12;

/// Bits of the dots of a Braille character, two across and four down.
const DOTS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];

/// Draws a curve and marks over steps, one line of text per row; returns an empty text if there is nothing to
/// draw.
pub fn losses(training: &[(u64, f64)], held_out: &[(u64, f64)]) -> String {
    let finite = |points: &[(u64, f64)]| -> Vec<(u64, f64)> {
        points.iter().copied().filter(|(_, loss)| loss.is_finite()).collect()
    };
    let (training, held_out) = (finite(training), finite(held_out));
    let Some(frame) = Frame::around(&training, &held_out) else {
        return String::new();
    };
    let mut dots = [[0_u8; WIDTH]; HEIGHT];
    for (x, y) in frame.curve(&training) {
        dots[y / 4][x / 2] |= DOTS[y % 4][x % 2];
    }
    let braille = |dots: u8| char::from_u32(0x2800 + u32::from(dots)).unwrap_or(' ');
    let mut rows: Vec<Vec<char>> = dots
        .iter()
        .map(|row| row.iter().map(|&dots| if dots == 0 { ' ' } else { braille(dots) }).collect())
        .collect();
    for &(step, loss) in &held_out {
        rows[frame.y(loss) / 4][frame.x(step) / 2] = 'o';
    }
    frame.draw(&rows)
}

/// The ranges of both axes.
struct Frame {
    steps: [f64; 2],
    losses: [f64; 2],
}

impl Frame {
    fn around(training: &[(u64, f64)], held_out: &[(u64, f64)]) -> Option<Frame> {
        let all = || training.iter().chain(held_out);
        let range = |values: &mut dyn Iterator<Item = f64>| {
            values.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], value| {
                [low.min(value), high.max(value)]
            })
        };
        let steps = range(&mut all().map(|&(step, _)| step as f64));
        let losses = range(&mut all().map(|&(_, loss)| loss));
        (steps[1] > steps[0]).then_some(Frame { steps, losses })
    }

    /// The column of dots of a step.
    fn x(&self, step: u64) -> usize {
        place(step as f64, self.steps, 2 * WIDTH)
    }

    /// The row of dots of a loss; the largest is on top.
    fn y(&self, loss: f64) -> usize {
        4 * HEIGHT - 1 - place(loss, self.losses, 4 * HEIGHT)
    }

    /// The dots of each column's mean, joined to the column before.
    fn curve(&self, points: &[(u64, f64)]) -> Vec<(usize, usize)> {
        let mut columns = [(0.0, 0.0); 2 * WIDTH];
        for &(step, loss) in points {
            let (sum, count) = &mut columns[self.x(step)];
            *sum += loss;
            *count += 1.0;
        }
        let mut dots = Vec::new();
        let mut before = None;
        for (x, (sum, count)) in columns.into_iter().enumerate().filter(|(_, (_, count))| *count > 0.0) {
            let y = self.y(sum / count);
            let from = before.unwrap_or(y);
            dots.extend((from.min(y)..=from.max(y)).map(|y| (x, y)));
            before = Some(y);
        }
        dots
    }

    fn draw(&self, rows: &[Vec<char>]) -> String {
        let mut text = String::new();
        for (index, row) in rows.iter().enumerate() {
            let share = index as f64 / (HEIGHT - 1) as f64;
            let loss = self.losses[1] - share * (self.losses[1] - self.losses[0]);
            let label =
                if index % 4 == 0 || index == HEIGHT - 1 { format!("{loss:7.3}") } else { " ".repeat(7) };
            let row: String = row.iter().collect();
            text += &format!("{label} |{}\n", row.trim_end());
        }
        let [first, last] = self.steps.map(|step| format!("{step}"));
        let gap = WIDTH.saturating_sub(first.len() + last.len());
        text += &format!("{:7} +{}\n{:9}{first}{:gap$}{last} steps\n", "", "-".repeat(WIDTH), "", "");
        text
    }
}

/// The index of the cell, of `cells` equal ones, that a value falls into.
fn place(value: f64, [low, high]: [f64; 2], cells: usize) -> usize {
    let share = if high > low { (value - low) / (high - low) } else { 0.5 };
    ((share * cells as f64) as usize).min(cells - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_falling_loss_falls_from_the_upper_left_to_the_lower_right() {
        let training: Vec<(u64, f64)> = (1..=200).map(|step| (step, 8.0 - step as f64 / 40.0)).collect();
        let plot = losses(&training, &[(0, 8.0), (200, 3.0)]);
        let lines: Vec<&str> = plot.lines().collect();
        assert_eq!(lines.len(), HEIGHT + 2);
        assert!(lines[0].starts_with("  8.000 |o"), "{plot}");
        assert!(lines[HEIGHT - 1].starts_with("  3.000 |") && lines[HEIGHT - 1].ends_with('o'), "{plot}");
        assert!(
            lines[HEIGHT + 1].starts_with("         0 ") && lines[HEIGHT + 1].ends_with("200 steps"),
            "{plot}"
        );
    }

    #[test]
    fn nothing_finite_draws_nothing_and_a_constant_draws_a_line() {
        assert_eq!(losses(&[(1, f64::NAN)], &[]), "");
        assert_eq!(losses(&[(1, 2.0)], &[]), "");
        assert!(
            losses(&[(1, 2.0), (9, 2.0)], &[]).contains('\u{28e4}')
                || losses(&[(1, 2.0), (9, 2.0)], &[]).len() > 100
        );
    }
}
