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

/// The inputs of the gradient, of all rows or of some.
#[derive(Clone, Copy)]
struct Gated<'a, E> {
    f: usize,
    gate_up: &'a [E],
    weights_r: Option<&'a [f32]>,
    d_out_rf: &'a [E],
}

/// Gradient of `swiglu`.
pub(super) fn grad(team: &Team, op: &SwigluGrad<'_>) -> Result<()> {
    by_kind!(op.gate_up, E => gradients::<E>(team, op))
}

fn gradients<E: Number>(team: &Team, op: &SwigluGrad<'_>) -> Result<()> {
    let f = op.d_out_rf.rows_and_width().1;
    let given = Gated {
        f,
        gate_up: numbers::<E>(op.gate_up)?,
        weights_r: op.weights_r.map(floats).transpose()?,
        d_out_rf: numbers::<E>(op.d_out_rf)?,
    };
    let (d_gate_up, d_weights_r) =
        (numbers_mut::<E>(op.d_gate_up)?, op.d_weights_r.map(floats_mut).transpose()?);
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
    Ok(())
}

wide! {
    fn backward<E: Number>(given: Gated<'_, E>, d_gate_up: &mut [E], d_weights_r: Option<&mut [f32]>) {
        let Gated { f, gate_up, weights_r, d_out_rf } = given;
        let mut d_weights_r = d_weights_r;
        let rows = gate_up.chunks_exact(2 * f).zip(d_gate_up.chunks_exact_mut(2 * f));
        let rows = rows.zip(d_out_rf.chunks_exact(f));
        for (row, ((both, d_both), d_out)) in rows.enumerate() {
            let weight = weights_r.map_or(1.0, |weights| weights[row]);
            let (gate, up) = both.split_at(f);
            let (d_gate, d_up) = d_both.split_at_mut(f);
            let parts = [gate, up, d_out].map(|part| part.as_chunks::<LANES>());
            let [(d_gates, d_gate_rest), (d_ups, d_up_rest)] =
                [d_gate, d_up].map(|part| part.as_chunks_mut::<LANES>());
            let mut sums = [0.0; LANES];
            // The gradients of gate and up, and what the weight's gradient grows by.
            let one = |gate: E, up: E, d_out: E| {
                let (gate, up, d_out) = (gate.wide(), up.wide(), d_out.wide());
                let s = sigmoid(gate);
                let silu = gate * s;
                let d = d_out * weight;
                [d * up * (s + silu * (1.0 - s)), d * silu, d_out * (silu * up)]
            };
            for (line, (d_gate, d_up)) in d_gates.iter_mut().zip(d_ups).enumerate() {
                let [gate, up, d_out] = parts.map(|(lines, _)| &lines[line]);
                for i in 0..LANES {
                    let [for_gate, for_up, for_weight] = one(gate[i], up[i], d_out[i]);
                    d_gate[i] = E::rounded(for_gate);
                    d_up[i] = E::rounded(for_up);
                    sums[i] += for_weight;
                }
            }
            let [gate, up, d_out] = parts.map(|(_, rest)| rest);
            for (i, (d_gate, d_up)) in d_gate_rest.iter_mut().zip(d_up_rest).enumerate() {
                let [for_gate, for_up, for_weight] = one(gate[i], up[i], d_out[i]);
                *d_gate = E::rounded(for_gate);
                *d_up = E::rounded(for_up);
                sums[i] += for_weight;
            }
            if let Some(d_weights) = d_weights_r.as_deref_mut() {
                d_weights[row] = fold(sums);
            }
        }
    }
}
