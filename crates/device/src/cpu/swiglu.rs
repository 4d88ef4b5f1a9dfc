//! SwiGLU with the routed row's weight folded in, and its gradient.

use super::kernel::wide;
use super::rows_of_a_task;
use super::team::{Chunks, Team};
use super::vector::{LANES, fold, sigmoid};

/// `out = silu(gate) * up`, times the row's weight where given.
pub(super) fn swiglu(team: &Team, f: usize, gate_up: &[f32], weights_r: Option<&[f32]>, out_rf: &mut [f32]) {
    let rows = rows_of_a_task(f);
    team.each_piece(Chunks::of(out_rf, rows * f), |task, out| {
        let gate_up = &gate_up[2 * task * rows * f..][..2 * out.len()];
        forward(team.kernel, f, gate_up, weights_r.map(|weights| &weights[task * rows..]), out);
    });
}

wide! {
    fn forward(f: usize, gate_up: &[f32], weights_r: Option<&[f32]>, out_rf: &mut [f32]) {
        for (row, (both, out)) in gate_up.chunks_exact(2 * f).zip(out_rf.chunks_exact_mut(f)).enumerate() {
            let weight = weights_r.map_or(1.0, |weights| weights[row]);
            let (gate, up) = both.split_at(f);
            for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
                *out = gate * sigmoid(gate) * up * weight;
            }
        }
    }
}

/// What `swiglu_grad` reads.
#[derive(Clone, Copy)]
pub(super) struct Gated<'a> {
    pub(super) f: usize,
    pub(super) gate_up: &'a [f32],
    pub(super) weights_r: Option<&'a [f32]>,
    pub(super) d_out_rf: &'a [f32],
}

/// Gradient of `swiglu`.
pub(super) fn swiglu_grad(
    team: &Team,
    given: Gated<'_>,
    d_gate_up: &mut [f32],
    d_weights_r: Option<&mut [f32]>,
) {
    let f = given.f;
    let rows = rows_of_a_task(f);
    let d_weights = d_weights_r.map(|d_weights| Chunks::of(d_weights, rows));
    team.each_piece((Chunks::of(d_gate_up, 2 * rows * f), d_weights), |task, (d_gate_up, d_weights)| {
        let part = Gated {
            f,
            gate_up: &given.gate_up[2 * task * rows * f..][..d_gate_up.len()],
            weights_r: given.weights_r.map(|weights| &weights[task * rows..]),
            d_out_rf: &given.d_out_rf[task * rows * f..][..d_gate_up.len() / 2],
        };
        backward(team.kernel, part, d_gate_up, d_weights);
    });
}

wide! {
    fn backward(given: Gated<'_>, d_gate_up: &mut [f32], d_weights_r: Option<&mut [f32]>) {
        let Gated { f, gate_up, weights_r, d_out_rf } = given;
        let mut d_weights_r = d_weights_r;
        let rows = gate_up.chunks_exact(2 * f).zip(d_gate_up.chunks_exact_mut(2 * f)).zip(d_out_rf.chunks_exact(f));
        for (row, ((both, d_both), d_out)) in rows.enumerate() {
            let weight = weights_r.map_or(1.0, |weights| weights[row]);
            let (gate, up) = both.split_at(f);
            let (d_gate, d_up) = d_both.split_at_mut(f);
            let (up, d_out, d_gate, d_up) = (&up[..f], &d_out[..f], &mut d_gate[..f], &mut d_up[..f]);
            let mut lanes = [0.0; LANES];
            for from in (0..f).step_by(LANES) {
                let end = f.min(from + LANES);
                let inputs = [&gate[from..end], &up[from..end], &d_out[from..end]];
                piece(inputs, [&mut d_gate[from..end], &mut d_up[from..end]], weight, &mut lanes);
            }
            if let Some(d_weights) = d_weights_r.as_deref_mut() {
                d_weights[row] = fold(lanes);
            }
        }
    }
}

/// The gradient of up to `LANES` elements; `lanes` add the gradient by the row's weight.
#[inline(always)]
fn piece(
    [gate, up, d_out]: [&[f32]; 3],
    [d_gate, d_up]: [&mut [f32]; 2],
    weight: f32,
    lanes: &mut [f32; LANES],
) {
    let mut one = |i: usize| {
        let s = sigmoid(gate[i]);
        let silu = gate[i] * s;
        let d = d_out[i] * weight;
        d_up[i] = d * silu;
        d_gate[i] = d * up[i] * (s + silu * (1.0 - s));
        lanes[i] += d_out[i] * (silu * up[i]);
    };
    // A length that the compiler knows is what makes vectors.
    if gate.len() == LANES && up.len() == LANES && d_out.len() == LANES {
        (0..LANES).for_each(&mut one);
    } else {
        (0..gate.len()).for_each(&mut one);
    }
}
