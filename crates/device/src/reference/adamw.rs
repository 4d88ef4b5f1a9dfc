//! AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2), with clipping by the global norm.

use crate::op::AdamRule;

/// What one step changes.
pub(super) struct State {
    pub(super) parameter: Vec<f64>,
    pub(super) first: Vec<f64>,
    pub(super) second: Vec<f64>,
}

impl State {
    /// One step. `g` is the gradient times `min(1, clip / (sqrt(squares) + 1e-6))`, squares being the sum of squares of
    /// all gradients; then
    /// `m = beta1 m + (1 - beta1) g`, `v = beta2 v + (1 - beta2) g^2`,
    /// `p = p (1 - rate decay) - rate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)`.
    pub(super) fn step(&mut self, gradient: &[f64], squares: f64, rule: AdamRule) {
        let AdamRule { rate, beta1, beta2, epsilon, decay, step, clip } = rule;
        let factor = if clip > 0.0 { (clip / (squares.sqrt() + 1e-6)).min(1.0) } else { 1.0 };
        let unbias1 = 1.0 - beta1.powf(step as f64);
        let unbias2 = 1.0 - beta2.powf(step as f64);
        for (i, gradient) in gradient.iter().enumerate() {
            let g = gradient * factor;
            self.first[i] = beta1 * self.first[i] + (1.0 - beta1) * g;
            self.second[i] = beta2 * self.second[i] + (1.0 - beta2) * g * g;
            let direction = (self.first[i] / unbias1) / ((self.second[i] / unbias2).sqrt() + epsilon);
            self.parameter[i] = self.parameter[i] * (1.0 - rate * decay) - rate * direction;
        }
    }
}
