//! Faults of a device's ops, by a wrapper that changes what the device computes.

use super::{Planted, sizes};
use lingot_device::intercepted::Intercepted;
use lingot_device::op::{
    AdamRule, AdamW, Attention, CrossEntropyGrad, EmbeddingGrad, GroupedMatMul, GroupedMatMulWeights, MatMul,
    Rope, Route, RouteGrad,
};
use lingot_device::ops::{self, Rotation, Routing};
use lingot_device::{Backend, Device, Op, Place, Result, RouteRule, Tensor};
use std::ops::Range;
use std::sync::Mutex;

/// Returns `device` with the planted fault, where that is a fault of ops.
pub fn faulty(device: &Device, planted: Option<Planted>) -> Device {
    match planted {
        Some(planted) => {
            let faulty = Faulty { inner: device.clone(), planted, kept: Mutex::default() };
            Device::new(Intercepted::new(device.clone(), move |op| faulty.run(op)))
        }
        None => device.clone(),
    }
}

/// A device with a fault.
pub(super) struct Faulty {
    pub(super) inner: Device,
    pub(super) planted: Planted,
    /// The state that some faults need.
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// What the last product left behind.
    scratch: Vec<f32>,
    /// The place of the latest features, and their scales.
    features: Option<(Place, Vec<f32>)>,
}

impl Faulty {
    fn run(&self, op: &Op<'_>) -> Result<()> {
        if let Op::ScaleColumns(op) = op {
            let scales = self.floats(op.scales_d)?;
            let mut kept = self.kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            kept.features = Some((op.out_td.place(), scales));
        }
        match (self.planted, op) {
            (Planted::NormHeadNotDetached, Op::CrossEntropyGrad(head)) => self.attach_norm(op, head),
            (Planted::RenormalisationGradientDropped, Op::RouteGrad(grad)) if grad.rule.renormalise => {
                self.drop_renormalisation(grad)
            }
            (Planted::TiesTheOtherWay, Op::Route(route)) => self.reverse_ties(route),
            (Planted::TiesNotRenormalised | Planted::ChoicesExchanged, Op::Route(route)) => {
                self.go(op)?;
                self.change_weights(route)
            }
            (Planted::ZLossGradientDropped, Op::RouteGrad(grad)) => self.drop_z_loss(grad),
            (Planted::RopeOffByOne, Op::Rope(rope)) => self.shift_positions(rope),
            (Planted::ExpertGradientTransposed, Op::GroupedMatMulWeights(weights)) => {
                self.transpose_expert(op, weights)
            }
            (Planted::ExpertOfAnother, Op::GroupedMatMul(product)) => self.exchange_expert(op, product),
            (Planted::StaleScratch, Op::MatMul(product)) if !product.add => self.keep_scratch(product),
            (Planted::DocumentsLeak, Op::Attention(attention)) => self.leak(attention),
            (Planted::RepeatedTokensLost, Op::EmbeddingGrad(grad)) => self.lose_repeats(grad),
            (
                Planted::EpsilonInsideRoot | Planted::CorrectionOneStepLate | Planted::DecayOfAll,
                Op::AdamW(adamw),
            ) => self.change_rule(adamw),
            _ => sizes::run(self, op),
        }
    }

    pub(super) fn floats(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        self.on(tensor).to_floats()
    }

    pub(super) fn integers(&self, tensor: &Tensor) -> Result<Vec<i32>> {
        self.on(tensor).to_integers()
    }

    pub(super) fn put(&self, tensor: &Tensor, values: &[f32]) -> Result<()> {
        self.on(tensor).write_floats(values)
    }

    pub(super) fn put_integers(&self, tensor: &Tensor, values: &[i32]) -> Result<()> {
        self.on(tensor).write_integers(values)
    }

    pub(super) fn go(&self, op: &Op<'_>) -> Result<()> {
        Backend::run(&self.inner, op)
    }

    /// The tensor as one of the device that computes, for its front doors.
    pub(super) fn on(&self, tensor: &Tensor) -> Tensor {
        tensor.on(&self.inner)
    }

    /// The op, and then what an attached norm would add to the head's gradient: with features `f = n s(w)`,
    /// `s = 1 / |w|`, the loss also reaches w by `dL/ds_d = sum of dL/df n` and `ds_d/dw = -s^3 w`.
    fn attach_norm(&self, op: &Op<'_>, head: &CrossEntropyGrad<'_>) -> Result<()> {
        self.go(op)?;
        let kept = self.kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let Some((place, scales)) = &kept.features else { return Ok(()) };
        if *place != head.x_td.place() {
            return Ok(());
        }
        let d = scales.len();
        let (x, w, d_x) = (self.floats(head.x_td)?, self.floats(head.w_vd)?, self.floats(head.d_x_td)?);
        let mut d_scales = vec![0.0; d];
        for (i, (x, d_x)) in x.iter().zip(&d_x).enumerate() {
            d_scales[i % d] += d_x * x / scales[i % d];
        }
        let mut d_w = self.floats(head.d_w_vd)?;
        for (i, d_w) in d_w.iter_mut().enumerate() {
            *d_w -= d_scales[i % d] * scales[i % d].powi(3) * w[i];
        }
        self.put(head.d_w_vd, &d_w)
    }

    /// As if `w_k = scale p_k / sum of the chosen p`, with the sum a constant.
    fn drop_renormalisation(&self, op: &RouteGrad<'_>) -> Result<()> {
        let (logits, experts) = (self.floats(op.logits_te)?, self.integers(op.experts_tk)?);
        let mut d_weights = self.floats(op.d_weights_tk)?;
        let (e, k) = (op.logits_te.rows_and_width().1, op.rule.choices);
        for ((logits, experts), d_weights) in
            logits.chunks_exact(e).zip(experts.chunks_exact(k)).zip(d_weights.chunks_exact_mut(k))
        {
            let sum: f32 = experts.iter().map(|&expert| score(op.rule, logits, expert as usize)).sum();
            d_weights.iter_mut().for_each(|d| *d /= sum);
        }
        let scaled = self.inner.floats(&d_weights, op.d_weights_tk.shape(), op.d_weights_tk.kind())?;
        let rule = RouteRule { renormalise: false, ..op.rule };
        let routing = Routing {
            experts_tk: self.on(op.experts_tk),
            weights_tk: scaled.clone(),
            counts_ge: self.on(op.counts_ge),
        };
        let scales = [op.balance_scale, op.z_scale];
        let (logits, kind) = (self.on(op.logits_te), op.d_logits_te.kind());
        let d_logits = ops::route_grad(&scaled, &logits, &routing, rule, scales, op.keep, kind)?;
        ops::copy(&self.on(op.d_logits_te), &d_logits)
    }

    /// Routes with the experts in reverse, and reverses what comes out.
    fn reverse_ties(&self, op: &Route<'_>) -> Result<()> {
        let e = op.logits_te.rows_and_width().1;
        let reversed = |tensor: &Tensor| {
            let values: Vec<f32> =
                self.floats(tensor)?.chunks_exact(e).flat_map(|row| row.iter().rev().copied()).collect();
            self.inner.floats(&values, tensor.shape(), tensor.kind())
        };
        let reverse_integers = |tensor: &Tensor, values: Vec<i32>| {
            let back: Vec<i32> = values.chunks_exact(e).flat_map(|row| row.iter().rev().copied()).collect();
            self.put_integers(tensor, &back)
        };
        let (logits, bias) = (reversed(op.logits_te)?, op.bias_e.map(reversed).transpose()?);
        reverse_integers(op.loads_e, self.integers(op.loads_e)?)?;
        let (loads, losses) = (self.on(op.loads_e), self.on(op.losses_2));
        let routing = ops::route(&logits, bias.as_ref(), op.rule, &loads, &losses)?;
        reverse_integers(op.loads_e, self.integers(op.loads_e)?)?;
        reverse_integers(op.counts_ge, routing.counts_ge.to_integers()?)?;
        ops::copy(&self.on(op.weights_tk), &routing.weights_tk)?;
        let experts = routing.experts_tk.to_integers()?;
        self.put_integers(
            op.experts_tk,
            &experts.iter().map(|expert| e as i32 - 1 - expert).collect::<Vec<_>>(),
        )
    }

    fn shift_positions(&self, op: &Rope<'_>) -> Result<()> {
        let next: Vec<i32> = self.integers(op.positions_t)?.iter().map(|position| position + 1).collect();
        let next = self.inner.integers(&next, &[next.len()])?;
        let rotation = Rotation { width: op.rotary_width, theta: op.theta };
        ops::rope(&self.on(op.x_thc), &next, rotation, op.back)
    }

    fn transpose_expert(&self, op: &Op<'_>, weights: &GroupedMatMulWeights<'_>) -> Result<()> {
        let dw_enk = weights.dw_enk;
        let before = if weights.add { self.floats(dw_enk)? } else { vec![0.0; dw_enk.len()] };
        self.go(op)?;
        let mut after = self.floats(dw_enk)?;
        let [n, k] = [dw_enk.shape()[1], dw_enk.shape()[2]];
        let change: Vec<f32> = after.iter().zip(&before).take(n * k).map(|(a, b)| a - b).collect();
        for j in 0..k {
            for i in 0..n {
                after[j * n + i] = before[j * n + i] + change[i * k + j];
            }
        }
        self.put(dw_enk, &after)
    }

    fn keep_scratch(&self, op: &MatMul<'_>) -> Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        kept.scratch.resize(op.out.len(), 0.0);
        self.put(op.out, &kept.scratch)?;
        ops::matmul_onto(&self.on(op.out), &self.on(op.a), &self.on(op.b), op.flip)?;
        kept.scratch = self.floats(op.out)?;
        Ok(())
    }

    /// Divides the weights of tokens with equal best scores by what the renormalisation multiplied them with,
    /// or exchanges the first two weights of every token.
    fn change_weights(&self, op: &Route<'_>) -> Result<()> {
        let k = op.rule.choices;
        let mut weights = self.floats(op.weights_tk)?;
        for weights in weights.chunks_exact_mut(k).filter(|weights| weights.len() > 1) {
            match self.planted {
                Planted::ChoicesExchanged => weights.swap(0, 1),
                _ if weights[0] == weights[1] => weights.iter_mut().for_each(|weight| *weight *= 0.5),
                _ => {}
            }
        }
        self.put(op.weights_tk, &weights)
    }

    fn drop_z_loss(&self, op: &RouteGrad<'_>) -> Result<()> {
        let routing = Routing {
            experts_tk: self.on(op.experts_tk),
            weights_tk: self.on(op.d_weights_tk),
            counts_ge: self.on(op.counts_ge),
        };
        let (d_weights, logits) = (self.on(op.d_weights_tk), self.on(op.logits_te));
        let scales = [op.balance_scale, 0.0];
        let kind = op.d_logits_te.kind();
        let d_logits = ops::route_grad(&d_weights, &logits, &routing, op.rule, scales, op.keep, kind)?;
        ops::copy(&self.on(op.d_logits_te), &d_logits)
    }

    fn exchange_expert(&self, op: &Op<'_>, product: &GroupedMatMul<'_>) -> Result<()> {
        let [e, n, k] = [0, 1, 2].map(|axis| product.w_enk.shape()[axis]);
        if e <= 5 {
            return self.go(op);
        }
        let mut w = self.floats(product.w_enk)?;
        w.copy_within(4 * n * k..5 * n * k, 5 * n * k);
        let w = self.inner.floats(&w, product.w_enk.shape(), product.w_enk.kind())?;
        let out = ops::grouped_matmul(&self.on(product.x), &w, &self.on(product.ends_e), product.flip)?;
        ops::copy(&self.on(product.out), &out)
    }

    /// The last three queries see from the first key on.
    fn leak(&self, op: &Attention<'_>) -> Result<()> {
        let mut starts = self.integers(op.starts_t)?;
        let first = starts.len().saturating_sub(3);
        starts[first..].fill(0);
        self.attend(op, &starts)
    }

    /// Attention with other starts.
    pub(super) fn attend(&self, op: &Attention<'_>, starts: &[i32]) -> Result<()> {
        let starts = self.inner.integers(starts, &[starts.len()])?;
        let [q, k, v] = [op.q_thc, op.k_sgc, op.v_sgc].map(|tensor| self.on(tensor));
        let attended = ops::attention(&q, &k, &v, &starts, op.scale)?;
        ops::copy(&self.on(op.out_thc), &attended.out_thc)?;
        ops::copy(&self.on(op.lse_th), &attended.lse_th)
    }

    /// Adds only the last occurrence of each token to the table.
    fn lose_repeats(&self, op: &EmbeddingGrad<'_>) -> Result<()> {
        let (tokens, d_out) = (self.integers(op.tokens_t)?, self.floats(op.d_out_td)?);
        let mut table = self.floats(op.d_table_vd)?;
        let d = op.d_out_td.rows_and_width().1;
        for (t, token) in tokens.iter().enumerate() {
            if !tokens[t + 1..].contains(token) {
                let row = &mut table[*token as usize * d..][..d];
                row.iter_mut().zip(&d_out[t * d..]).for_each(|(sum, x)| *sum += x);
            }
        }
        self.put(op.d_table_vd, &table)
    }

    /// AdamW with another step number, with decay of all elements, or with epsilon inside the root.
    fn change_rule(&self, op: &AdamW<'_>) -> Result<()> {
        let (mut rule, mut decayed, all) = (op.rule, op.decayed, 0..op.parameter.len());
        match self.planted {
            Planted::CorrectionOneStepLate => rule.step = (rule.step - 1).max(1),
            Planted::DecayOfAll => decayed = std::slice::from_ref(&all),
            _ => return self.move_epsilon(op),
        }
        self.update(op, rule, decayed, &self.on(op.second))
    }

    /// AdamW with epsilon where it makes `sqrt(v + epsilon)` of the root: an epsilon of zero over a second
    /// moment that has it already.
    fn move_epsilon(&self, op: &AdamW<'_>) -> Result<()> {
        let rule = op.rule;
        let more = ((1.0 - rule.beta2.powf(rule.step as f64)) * rule.epsilon / rule.beta2) as f32;
        let raised: Vec<f32> = self.floats(op.second)?.iter().map(|x| x + more).collect();
        let raised = self.inner.floats(&raised, op.second.shape(), op.second.kind())?;
        self.update(op, AdamRule { epsilon: 0.0, ..rule }, op.decayed, &raised)?;
        let lowered: Vec<f32> = raised.to_floats()?.iter().map(|x| x - more * rule.beta2 as f32).collect();
        self.on(op.second).write_floats(&lowered)
    }

    fn update(
        &self,
        op: &AdamW<'_>,
        rule: AdamRule,
        decayed: &[Range<usize>],
        second: &Tensor,
    ) -> Result<()> {
        let [parameter, gradient, first] =
            [op.parameter, op.gradient, op.first].map(|tensor| self.on(tensor));
        let (squares, working) = (self.on(op.squares_1), op.working.map(|tensor| self.on(tensor)));
        ops::adamw(&parameter, &gradient, [&first, second], &squares, rule, decayed, working.as_ref())
    }
}

/// The score of one expert among its token's logits.
fn score(rule: RouteRule, logits: &[f32], expert: usize) -> f32 {
    match rule.score {
        lingot_spec::Score::Sigmoid => 1.0 / (1.0 + (-logits[expert]).exp()),
        lingot_spec::Score::Softmax => {
            let most = logits.iter().copied().fold(f32::MIN, f32::max);
            (logits[expert] - most).exp() / logits.iter().map(|x| (x - most).exp()).sum::<f32>()
        }
    }
}
