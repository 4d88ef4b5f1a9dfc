//! SwiGLU with the routed row's weight folded in, and its gradient.

use super::kernel::wide;
use super::operands::{Number, by_kind, floats, floats_mut, numbers, numbers_mut};
use super::rows_of_a_task;
use super::team::{Chunks, Team};
use super::vector::{LANES, fold, sigmoid};
use crate::error::Result;
use crate::op::{Swiglu, SwigluGrad};

/// `out = silu(gate) * up`, times the row's weight where given.
pub(super) fn swiglu(team: &Team, op: &Swiglu<'_>) -> Result<()> {
    by_kind!(op.gate_up, E => activated::<E>(team, op))
}

fn activated<E: Number>(team: &Team, op: &Swiglu<'_>) -> Result<()> {
    let f = op.out_rf.rows_and_width().1;
    let (gate_up, out_rf) = (numbers::<E>(op.gate_up)?, numbers_mut::<E>(op.out_rf)?);
    let weights_r = op.weights_r.map(floats).transpose()?;
    let rows = rows_of_a_task(f);
    team.each_piece(Chunks::of(out_rf, rows * f), |task, out| {
        let gate_up = &gate_up[2 * task * rows * f..][..2 * out.len()];
        forward(team.kernel, f, gate_up, weights_r.map(|weights| &weights[task * rows..]), out);
    });
    Ok(())
}

wide! {
    fn forward<E: Number>(f: usize, gate_up: &[E], weights_r: Option<&[f32]>, out_rf: &mut [E]) {
        for (row, (both, out)) in gate_up.chunks_exact(2 * f).zip(out_rf.chunks_exact_mut(f)).enumerate() {
            let weight = weights_r.map_or(1.0, |weights| weights[row]);
            let (gate, up) = both.split_at(f);
            let parts = [gate, up].map(|part| part.as_chunks::<LANES>());
            let (outs, out_rest) = out.as_chunks_mut::<LANES>();
            let one = |gate: E, up: E| {
                let (gate, up) = (gate.wide(), up.wide());
                E::rounded(gate * sigmoid(gate) * up * weight)
            };
            for (line, out) in outs.iter_mut().enumerate() {
                let [gate, up] = parts.map(|(lines, _)| &lines[line]);
                for i in 0..LANES {
                    out[i] = one(gate[i], up[i]);
                }
            }
            let [gate, up] = parts.map(|(_, rest)| rest);
            for (i, out) in out_rest.iter_mut().enumerate() {
                *out = one(gate[i], up[i]);
            }
        }
    }
}

/// Gradient of `swiglu`, and its output, over the operands.
pub(super) fn grad(team: &Team, op: &SwigluGrad<'_>) -> Result<()> {
    by_kind!(op.gate_up, E => gradients::<E>(team, op))
}

fn gradients<E: Number>(team: &Team, op: &SwigluGrad<'_>) -> Result<()> {
    let f = op.d_out_rf.rows_and_width().1;
    let weights_r = op.weights_r.map(floats).transpose()?;
    let (gate_up, d_out_rf) = (numbers_mut::<E>(op.gate_up)?, numbers_mut::<E>(op.d_out_rf)?);
    let d_weights_r = op.d_weights_r.map(floats_mut).transpose()?;
    let rows = rows_of_a_task(f);
    let d_weights = d_weights_r.map(|d_weights| Chunks::of(d_weights, rows));
    let pieces = (Chunks::of(gate_up, 2 * rows * f), Chunks::of(d_out_rf, rows * f), d_weights);
    team.each_piece(pieces, |task, (gate_up, d_out, d_weights)| {
        let weights = weights_r.map(|weights| &weights[task * rows..]);
        backward(team.kernel, f, weights, gate_up, d_out, d_weights);
    });
    Ok(())
}

wide! {
    /// Gate and up become the gradients by them, and the gradient by the output becomes the output.
    fn backward<E: Number>(
        f: usize,
        weights_r: Option<&[f32]>,
        gate_up: &mut [E],
        d_out_rf: &mut [E],
        d_weights_r: Option<&mut [f32]>,
    ) {
        let mut d_weights_r = d_weights_r;
        let rows = gate_up.chunks_exact_mut(2 * f).zip(d_out_rf.chunks_exact_mut(f));
        for (row, (both, d_out)) in rows.enumerate() {
            let weight = weights_r.map_or(1.0, |weights| weights[row]);
            let (gate, up) = both.split_at_mut(f);
            let [(gates, gate_rest), (ups, up_rest), (d_outs, d_out_rest)] =
                [gate, up, d_out].map(|part| part.as_chunks_mut::<LANES>());
            let mut sums = [0.0; LANES];
            // The gradients of gate and up, the output, and what the weight's gradient grows by.
            let one = |gate: E, up: E, d_out: E| {
                let (gate, up, d_out) = (gate.wide(), up.wide(), d_out.wide());
                let s = sigmoid(gate);
                let silu = gate * s;
                let (d, out) = (d_out * weight, silu * up);
                [d * up * (s + silu * (1.0 - s)), d * silu, out * weight, d_out * out]
            };
            for ((gate, up), d_out) in gates.iter_mut().zip(ups).zip(d_outs) {
                for i in 0..LANES {
                    let [for_gate, for_up, out, for_weight] = one(gate[i], up[i], d_out[i]);
                    gate[i] = E::rounded(for_gate);
                    up[i] = E::rounded(for_up);
                    d_out[i] = E::rounded(out);
                    sums[i] += for_weight;
                }
            }
            for (i, ((gate, up), d_out)) in gate_rest.iter_mut().zip(up_rest).zip(d_out_rest).enumerate() {
                let [for_gate, for_up, out, for_weight] = one(*gate, *up, *d_out);
                *gate = E::rounded(for_gate);
                *up = E::rounded(for_up);
                *d_out = E::rounded(out);
                sums[i] += for_weight;
            }
            if let Some(d_weights) = d_weights_r.as_deref_mut() {
                d_weights[row] = fold(sums);
            }
        }
    }
}
