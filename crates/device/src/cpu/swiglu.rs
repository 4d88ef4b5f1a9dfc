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
            for from in (0..f).step_by(LANES) {
                let mut lines = [[0.0; LANES]; 3];
                let [gates, ups, outs] = &mut lines;
                load(gate, from, gates);
                load(up, from, ups);
                for i in 0..LANES {
                    outs[i] = gates[i] * sigmoid(gates[i]) * ups[i] * weight;
                }
                store(outs, from, out);
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
            let mut sums = [0.0; LANES];
            for from in (0..f).step_by(LANES) {
                let mut lines = [[0.0; LANES]; 5];
                let [gates, ups, d_outs, d_gates, d_ups] = &mut lines;
                load(gate, from, gates);
                load(up, from, ups);
                load(d_out, from, d_outs);
                for i in 0..LANES {
                    let s = sigmoid(gates[i]);
                    let silu = gates[i] * s;
                    let d = d_outs[i] * weight;
                    d_ups[i] = d * silu;
                    d_gates[i] = d * ups[i] * (s + silu * (1.0 - s));
                    sums[i] += d_outs[i] * (silu * ups[i]);
                }
                store(d_gates, from, d_gate);
                store(d_ups, from, d_up);
            }
            if let Some(d_weights) = d_weights_r.as_deref_mut() {
                d_weights[row] = fold(sums);
            }
        }
    }
}

/// Reads a line of a row; the last may be short, and its rest stays as it is.
#[inline(always)]
fn load(row: &[f32], from: usize, line: &mut [f32; LANES]) {
    match row[from..].first_chunk() {
        Some(whole) => *line = *whole,
        None => line[..row.len() - from].copy_from_slice(&row[from..]),
    }
}

/// Writes a line of a row, or the first of it.
#[inline(always)]
fn store(line: &[f32; LANES], from: usize, row: &mut [f32]) {
    let row = &mut row[from..];
    match row.first_chunk_mut() {
        Some(whole) => *whole = *line,
        None => row.copy_from_slice(&line[..row.len()]),
    }
}
