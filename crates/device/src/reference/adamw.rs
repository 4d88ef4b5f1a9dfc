//! AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2), with clipping by the global norm.

use super::operands::{floats, store};
use crate::op::{AdamRule, AdamW};

pub(super) fn adamw(op: &AdamW<'_>) {
    let [parameter, first, second] = [op.parameter, op.first, op.second].map(floats);
    let mut state = State { parameter, first, second };
    let decays = |element: &usize| op.decayed.iter().any(|span| span.contains(element));
    let decays: Vec<bool> = (0..op.parameter.len()).map(|element| decays(&element)).collect();
    state.step(&floats(op.gradient), floats(op.squares_1)[0], op.rule, &decays);
    store(op.parameter, &state.parameter);
    store(op.first, &state.first);
    store(op.second, &state.second);
    // The copy is made of what is held, so that a run that resumes makes the same one.
    if let Some(working) = op.working {
        store(working, &floats(op.parameter));
    }
}

/// The numbers that a step changes.
struct State {
    parameter: Vec<f64>,
    first: Vec<f64>,
    second: Vec<f64>,
}

impl State {
    /// One step. `g` is the gradient times `min(1, clip / (sqrt(squares) + 1e-6))`, squares being the sum of
    /// squares of all gradients; then `m = beta1 m + (1 - beta1) g`, `v = beta2 v + (1 - beta2) g^2`,
    /// `p = p (1 - rate decay) - rate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)`, where the
    /// decay is 0 for an element that does not decay.
    fn step(&mut self, gradient: &[f64], squares: f64, rule: AdamRule, decays: &[bool]) {
        let AdamRule { rate, beta1, beta2, epsilon, decay, step, clip } = rule;
        let factor = if clip > 0.0 { (clip / (squares.sqrt() + 1e-6)).min(1.0) } else { 1.0 };
        let unbias1 = 1.0 - beta1.powf(step as f64);
        let unbias2 = 1.0 - beta2.powf(step as f64);
        for (i, gradient) in gradient.iter().enumerate() {
            let g = gradient * factor;
            self.first[i] = beta1 * self.first[i] + (1.0 - beta1) * g;
            self.second[i] = beta2 * self.second[i] + (1.0 - beta2) * g * g;
            let direction = (self.first[i] / unbias1) / ((self.second[i] / unbias2).sqrt() + epsilon);
            let decay = if decays[i] { decay } else { 0.0 };
            self.parameter[i] = self.parameter[i] * (1.0 - rate * decay) - rate * direction;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: AdamRule =
        AdamRule { rate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 0.0, decay: 0.5, step: 1, clip: 0.0 };

    #[test]
    fn the_first_step_decays_and_then_moves_by_the_rate_whatever_the_gradient_is() {
        for gradient in [1e-3, 5.0] {
            let mut state = State { parameter: vec![2.0], first: vec![0.0], second: vec![0.0] };
            state.step(&[gradient], 0.0, RULE, &[true]);
            assert!((state.parameter[0] - (2.0 * 0.95 - 0.1)).abs() < 1e-12, "{}", state.parameter[0]);
        }
    }

    #[test]
    fn clipping_scales_by_the_global_norm() {
        let step = |gradient: f64, squares: f64| {
            let mut state = State { parameter: vec![0.0], first: vec![0.0], second: vec![0.0] };
            state.step(&[gradient], squares, AdamRule { clip: 1.0, ..RULE }, &[true]);
            state.first[0]
        };
        assert!((step(1.0, 16.0) - 0.1 / 4.0).abs() < 1e-6, "a norm of 4 is clipped to 1");
        assert!((step(0.5, 0.25) - 0.05).abs() < 1e-12, "a norm below 1 is left alone");
    }
}
