//! What ops leave for the next ones: memory to use again, and the table of rotary positions.

/// Memory that ops use while they run, and that the next one uses again.
#[derive(Default)]
pub(super) struct Workspace {
    pub(super) floats: Vec<f32>,
    pub(super) doubles: Vec<f64>,
    pub(super) indices: Vec<usize>,
    pub(super) rope: RopeTable,
}

/// Cosines and sines of one rotation, for positions from 0 on.
#[derive(Default)]
pub(super) struct RopeTable {
    width: usize,
    theta: f64,
    /// For each position the cosines of all pairs, then their sines.
    values: Vec<f32>,
}

impl RopeTable {
    /// Makes the table hold at least `positions` positions of a rotation.
    pub(super) fn reach(&mut self, width: usize, theta: f64, positions: usize) {
        if self.width != width || self.theta != theta {
            *self = RopeTable { width, theta, values: Vec::new() };
        }
        for position in self.values.len() / width..positions {
            push_angles(&mut self.values, width, theta, position as f64);
        }
    }

    /// The cosines of all pairs at a position, then their sines. None if the table does not hold it.
    pub(super) fn at(&self, position: i32) -> Option<&[f32]> {
        let from = usize::try_from(position).ok()? * self.width;
        self.values.get(from..from + self.width)
    }
}

/// Appends the cosines and sines of one position.
pub(super) fn push_angles(to: &mut Vec<f32>, width: usize, theta: f64, position: f64) {
    let angle = |pair: usize| position * theta.powf(-2.0 * pair as f64 / width as f64);
    to.extend((0..width / 2).map(|pair| angle(pair).cos() as f32));
    to.extend((0..width / 2).map(|pair| angle(pair).sin() as f32));
}
