//! One layer of a simulated step: what the trainer's model does in a block, forward and backward.

use super::Batch;
use super::tape::{Allocation, Tape};
use crate::cost;
use crate::model::ModelSpec;
use crate::run::Recompute;

/// What all layers share. Letters of the sizes are those of `spec::cost`, and e experts, k choices, f inner
/// width.
pub(super) struct Pass<'a> {
    pub(super) tape: &'a Tape,
    pub(super) model: &'a ModelSpec,
    batch: &'a Batch<'a>,
    pub(super) t: usize,
    pub(super) d: usize,
    h: usize,
    g: usize,
    c: usize,
    e: usize,
    k: usize,
    f: usize,
}

/// What a layer saves for its backward pass.
pub(super) struct Saved {
    index: usize,
    x: Allocation,
    inner: Inner,
}

enum Inner {
    Kept { attention: Attention, middle: Allocation, mlp: Mlp },
    Forgotten { decision: Option<Decision> },
}

struct Attention {
    q: Allocation,
    k: Allocation,
    v: Allocation,
    out: Allocation,
    lse: Allocation,
}

enum Mlp {
    Dense { gate_up: Allocation },
    Moe { decision: Decision, gate_up: Option<Allocation>, shared: Option<Allocation> },
}

/// Logits, choices, weights, counts; ends, order, places; weights of the sorted rows.
type Decision = Vec<Allocation>;

impl<'a> Pass<'a> {
    pub(super) fn new(tape: &'a Tape, model: &'a ModelSpec, batch: &'a Batch<'a>) -> Pass<'a> {
        let [d, h, g, c] = [model.width, model.heads, model.kv_heads, model.head_width].map(|n| n as usize);
        let [e, k, f] = [model.experts, model.choices, model.expert_width].map(|n| n as usize);
        Pass { tape, model, batch, t: batch.micro * batch.sequence, d, h, g, c, e, k, f }
    }

    fn recompute(&self, index: usize) -> Recompute {
        let policies = self.batch.recompute;
        policies.get(index.min(policies.len().saturating_sub(1))).copied().unwrap_or(Recompute::Nothing)
    }
}

pub(super) fn forward(pass: &Pass<'_>, index: usize, x: Allocation) -> (Allocation, Saved) {
    let (out, inner) = run(pass, index, None);
    let inner = match (pass.recompute(index), inner) {
        (Recompute::Block, Inner::Kept { mlp, .. }) => Inner::Forgotten {
            decision: match mlp {
                Mlp::Moe { decision, .. } => Some(decision),
                Mlp::Dense { .. } => None,
            },
        },
        (_, inner) => inner,
    };
    (out, Saved { index, x, inner })
}

pub(super) fn backward(pass: &Pass<'_>, saved: Saved) {
    let Saved { index, x, inner } = saved;
    let (tape, [t, d]) = (pass.tape, [pass.t, pass.d]);
    let inner = match inner {
        Inner::Forgotten { decision } => run(pass, index, decision).1,
        kept => kept,
    };
    let Inner::Kept { attention, middle, mlp } = inner else { return };
    let h_td = tape.rows_out("rms_norm", [t, d], 2);
    let d_h = match mlp {
        Mlp::Dense { gate_up } => dense_backward(pass, pass.model.dense_width as usize, gate_up),
        Mlp::Moe { decision, gate_up, shared } => moe_backward(pass, decision, gate_up, shared),
    };
    drop(h_td);
    tape.moves("rms_norm_grad", [t, d], 4);
    drop((d_h, middle));
    attention_backward(pass, attention);
    drop(x);
}

fn run(pass: &Pass<'_>, index: usize, decided: Option<Decision>) -> (Allocation, Inner) {
    let (tape, [t, d]) = (pass.tape, [pass.t, pass.d]);
    let (middle, attention) = attention_forward(pass);
    let h_td = tape.rows_out("rms_norm", [t, d], 2);
    let (out, mlp) = if pass.model.is_moe(index as u32) {
        moe_forward(pass, index, decided)
    } else {
        let (out, gate_up) = dense_forward(pass, pass.model.dense_width as usize);
        (out, Mlp::Dense { gate_up })
    };
    drop(h_td);
    tape.moves("add", [t, d], 3);
    (out, Inner::Kept { attention, middle, mlp })
}

fn attention_forward(pass: &Pass<'_>) -> (Allocation, Attention) {
    let Pass { tape, t, d, h, g, c, .. } = *pass;
    let normed = tape.rows_out("rms_norm", [t, d], 2);
    let raw_q = tape.matmul([t, h * c, d], "b");
    let raw_k = tape.matmul([t, g * c, d], "b");
    let v = tape.matmul([t, g * c, d], "b");
    drop(normed);
    let positioned = position(pass, [&raw_q, &raw_k]);
    let (out, lse) = (tape.allocate(t * h * c), tape.allocate_sums(t * h));
    let cost = cost::attention([t, t, h, g, c], tape.widths);
    tape.op("attention", "", [t, pass.batch.sequence, h, g, c], cost);
    let x = tape.matmul([t, d, h * c], "b");
    tape.moves("add", [t, d], 3);
    drop(positioned);
    (x, Attention { q: raw_q, k: raw_k, v, out, lse })
}

/// Head norms where the model has them, and the rotation.
fn position(pass: &Pass<'_>, [q, k]: [&Allocation; 2]) -> [Allocation; 2] {
    let Pass { tape, t, h, g, c, .. } = *pass;
    let seen = if pass.model.qk_norm {
        [tape.rows_out("rms_norm", [t * h, c], 2), tape.rows_out("rms_norm", [t * g, c], 2)]
    } else {
        [q.clone(), k.clone()]
    };
    tape.moves("rope", [t * h, c], 2);
    tape.moves("rope", [t * g, c], 2);
    seen
}

fn attention_backward(pass: &Pass<'_>, saved: Attention) {
    let Pass { tape, t, d, h, g, c, .. } = *pass;
    let Attention { q, k, v, out, lse } = saved;
    tape.matmul_weights([d, h * c, t]);
    let d_out = tape.matmul([t, h * c, d], "");
    let seen = if pass.model.qk_norm { position(pass, [&q, &k]) } else { [q.clone(), k.clone()] };
    // A model without head norms releases the values after their last use, one with head norms at the end.
    let early_v = (!pass.model.qk_norm).then(|| v.clone());
    let late_v = pass.model.qk_norm.then_some(v);
    let (mut d_q, mut d_k) = (tape.allocate(t * h * c), tape.allocate(t * g * c));
    let d_v = tape.allocate(t * g * c);
    let cost = cost::attention_grad([t, h, g, c], tape.widths);
    tape.op("attention_grad", "", [t, pass.batch.sequence, h, g, c], cost);
    drop((seen, early_v, lse, d_out));
    tape.moves("rope", [t * h, c], 2);
    tape.moves("rope", [t * g, c], 2);
    if pass.model.qk_norm {
        d_q = tape.rows_out("rms_norm_grad", [t * h, c], 3);
        d_k = tape.rows_out("rms_norm_grad", [t * g, c], 3);
    }
    drop((q, k));
    let h_td = tape.rows_out("rms_norm", [t, d], 2);
    tape.matmul_weights([h * c, d, t]);
    tape.matmul_weights([g * c, d, t]);
    tape.matmul_weights([g * c, d, t]);
    let d_h = tape.matmul([t, d, h * c], "");
    tape.matmul_onto([t, d, g * c], "");
    tape.matmul_onto([t, d, g * c], "");
    tape.moves("rms_norm_grad", [t, d], 4);
    drop((d_h, h_td, d_q, d_k, d_v, late_v, out));
}

/// Returns the output and the pre-activation.
fn dense_forward(pass: &Pass<'_>, f: usize) -> (Allocation, Allocation) {
    let Pass { tape, t, d, .. } = *pass;
    let gate_up = tape.matmul([t, 2 * f, d], "b");
    let active = tape.rows_out("swiglu", [t, f], 3);
    let out = tape.matmul([t, d, f], "b");
    drop(active);
    (out, gate_up)
}

fn dense_backward(pass: &Pass<'_>, f: usize, gate_up: Allocation) -> Allocation {
    let Pass { tape, t, d, .. } = *pass;
    let d_active = tape.matmul([t, f, d], "");
    tape.moves("swiglu_grad", [t, f], 6);
    tape.matmul_weights([d, f, t]);
    drop(d_active);
    tape.matmul_weights([2 * f, d, t]);
    let d_h = tape.matmul([t, d, 2 * f], "");
    drop(gate_up);
    d_h
}

fn moe_forward(pass: &Pass<'_>, index: usize, decided: Option<Decision>) -> (Allocation, Mlp) {
    let Pass { tape, t, d, e, k, f, .. } = *pass;
    let decision = decided.unwrap_or_else(|| decide(pass));
    let gate_up = pre_activation(pass);
    let active = tape.rows_out("swiglu", [t * k, f], 3);
    let answers = tape.grouped_matmul(t * k, [e, d, f], false);
    drop(active);
    let shared_width = pass.model.shared_width() as usize;
    let (out, shared) = if shared_width > 0 {
        let (out, gate_up) = dense_forward(pass, shared_width);
        tape.combine([t, k, d], true);
        (out, Some(gate_up))
    } else {
        let out = tape.allocate(t * d);
        tape.combine([t, k, d], false);
        (out, None)
    };
    drop(answers);
    let gate_up = (pass.recompute(index) != Recompute::Experts).then_some(gate_up);
    (out, Mlp::Moe { decision, gate_up, shared })
}

fn decide(pass: &Pass<'_>) -> Decision {
    let Pass { tape, t, d, e, k, .. } = *pass;
    let logits = tape.matmul_sums([t, e, d], "b");
    let router = &pass.model.router;
    if router.warmup_steps > 0 {
        tape.moves_sums("moments", [1, t * e], 1);
    }
    if pass.batch.warming {
        let noise = tape.allocate_sums(t * e);
        tape.moves_sums("warm_logits", [t, e], 3);
        drop(noise);
    }
    let scope = pass.batch.sequence * router.balance_sequences as usize;
    let scopes = if t.is_multiple_of(scope) { t / scope } else { 1 };
    let mut allocations = vec![logits];
    allocations.extend([t * k, t * k, scopes * e].map(|numbers| tape.allocate_sums(numbers)));
    let sums = tape.widths.sums;
    tape.op("route", "", [t, e, k], cost::moves(t * e, sums));
    allocations.extend([e, t * k, t * k].map(|numbers| tape.allocate_sums(numbers)));
    tape.op("sort_by_expert", "", [t * k, e], cost::moves(3 * t * k, sums));
    allocations.push(tape.sums_out("dispatch", [t * k, 1], 2));
    allocations
}

fn pre_activation(pass: &Pass<'_>) -> Allocation {
    let Pass { tape, t, d, e, k, f, .. } = *pass;
    let rows = tape.rows_out("dispatch", [t * k, d], 2);
    let gate_up = tape.grouped_matmul(t * k, [e, 2 * f, d], false);
    drop(rows);
    gate_up
}

fn moe_backward(
    pass: &Pass<'_>,
    decision: Decision,
    gate_up: Option<Allocation>,
    shared: Option<Allocation>,
) -> Allocation {
    let Pass { tape, t, d, e, k, f, .. } = *pass;
    let r = t * k;
    let gate_up = gate_up.unwrap_or_else(|| pre_activation(pass));
    let d_answers = tape.rows_out("dispatch", [r, d], 2);
    let d_active = tape.grouped_matmul(r, [e, d, f], true);
    let d_weights = tape.allocate_sums(r);
    tape.moves("swiglu_grad", [r, f], 6);
    tape.grouped_matmul_weights(r, [e, d, f]);
    drop((d_active, d_answers));

    let rows = tape.rows_out("dispatch", [r, d], 2);
    tape.grouped_matmul_weights(r, [e, 2 * f, d]);
    drop(rows);
    let d_rows = tape.grouped_matmul(r, [e, 2 * f, d], true);
    drop(gate_up);
    let d_h = if let Some(shared) = shared {
        let d_h = dense_backward(pass, pass.model.shared_width() as usize, shared);
        tape.combine([t, k, d], true);
        d_h
    } else {
        let d_h = tape.allocate(t * d);
        tape.combine([t, k, d], false);
        d_h
    };
    drop(d_rows);

    let d_choices = tape.sums_out("dispatch", [r, 1], 2);
    let d_logits = tape.allocate(t * e);
    let cost = cost::moves(t * e, tape.widths.sums) + cost::moves(t * e, tape.widths.values);
    tape.op("route_grad", "", [t, e, k], cost);
    tape.matmul_weights([e, d, t]);
    tape.matmul_onto([t, d, e], "");
    drop((d_weights, d_choices, d_logits, decision));
    d_h
}
