//! Planted faults, to prove that the levels see them: in how the step is put together, or in a device's ops.
//!
//! No training can meet them: a faulty device is a wrapper, and only [`crate::self_test`] and tests build
//! one.

use lingot_device::intercepted::Intercepted;
use lingot_device::op::{CrossEntropyGrad, GroupedMatMulWeights, MatMul, Rope, Route, RouteGrad};
use lingot_device::ops::{self, Rotation, Routing};
use lingot_device::{Backend, Device, Kind, Op, Place, Result, RouteRule, Tensor};
use lingot_model::{Rows, Totals};
use lingot_spec::ModelSpec;
use serde::{Deserialize, Serialize};
use std::sync::Mutex;

/// Ways to port a training system wrongly; the first five are those of the Ling report's figure 20 and its
/// text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Planted {
    /// Each micro-batch takes the mean over itself, not over the step.
    MicroBatchScale,
    /// The head is not normalised.
    NormHeadMissing,
    /// The head's gradient also goes through its norm, which is detached by definition.
    NormHeadNotDetached,
    /// The gradient treats the sum of the chosen weights as a constant.
    RenormalisationGradientDropped,
    /// The balance loss is taken over a micro-batch, whatever its size.
    BalanceScopeFollowsMicroBatch,
    /// The sum of gradients leaves the last worker out.
    ReductionLosesWorker,
    /// The highest index wins a tie of the router.
    TiesTheOtherWay,
    /// Positions are one too large.
    RopeOffByOne,
    /// The weight gradient of expert 0 is transposed.
    ExpertGradientTransposed,
    /// A product adds to what the product before it left in memory.
    StaleScratch,
}

impl Planted {
    /// All faults.
    pub const ALL: [Planted; 10] = [
        Planted::MicroBatchScale,
        Planted::NormHeadMissing,
        Planted::NormHeadNotDetached,
        Planted::RenormalisationGradientDropped,
        Planted::BalanceScopeFollowsMicroBatch,
        Planted::ReductionLosesWorker,
        Planted::TiesTheOtherWay,
        Planted::RopeOffByOne,
        Planted::ExpertGradientTransposed,
        Planted::StaleScratch,
    ];

    /// The name for people.
    pub fn name(self) -> &'static str {
        match self {
            Planted::MicroBatchScale => "micro-batch gradients scaled wrongly",
            Planted::NormHeadMissing => "NormHead missing",
            Planted::NormHeadNotDetached => "NormHead's norm not detached",
            Planted::RenormalisationGradientDropped => "router gradient through the renormalisation dropped",
            Planted::BalanceScopeFollowsMicroBatch => "balance loss whose scope follows the micro-batch",
            Planted::ReductionLosesWorker => "a reduction that loses a worker",
            Planted::TiesTheOtherWay => "top-k ties broken the other way",
            Planted::RopeOffByOne => "RoPE off by one position",
            Planted::ExpertGradientTransposed => "one expert's weight gradient transposed",
            Planted::StaleScratch => "stale scratch memory",
        }
    }

    /// The ops at which the fault may be found; it must be found at one of them.
    pub fn places(self) -> &'static [&'static str] {
        match self {
            Planted::MicroBatchScale | Planted::NormHeadNotDetached => &["cross_entropy_grad"],
            Planted::NormHeadMissing => &["column_scales"],
            Planted::RenormalisationGradientDropped => &["route", "route_grad"],
            Planted::BalanceScopeFollowsMicroBatch | Planted::TiesTheOtherWay => &["route"],
            Planted::ReductionLosesWorker => &["add"],
            Planted::RopeOffByOne => &["rope"],
            Planted::ExpertGradientTransposed => &["grouped_matmul", "grouped_matmul_weights"],
            Planted::StaleScratch => &["matmul"],
        }
    }
}

/// How the step is put together: as it should be, or with a fault.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wiring(pub(crate) Option<Planted>);

impl Wiring {
    pub(crate) fn rewire(self, spec: &ModelSpec) -> ModelSpec {
        let mut spec = spec.clone();
        match self.0 {
            Some(Planted::NormHeadMissing) => spec.norm_head = false,
            Some(Planted::BalanceScopeFollowsMicroBatch) => {
                spec.router.balance_sequences = crate::task::MICRO as u32;
            }
            _ => {}
        }
        spec
    }

    pub(crate) fn totals(self, step: Totals, rows: &Rows<'_>) -> Totals {
        if self.0 != Some(Planted::MicroBatchScale) {
            return step;
        }
        let mut own = Totals::default();
        own.add(rows, false);
        own
    }

    pub(crate) fn workers_heard(self, workers: usize) -> usize {
        workers - usize::from(self.0 == Some(Planted::ReductionLosesWorker))
    }
}

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

struct Faulty {
    inner: Device,
    planted: Planted,
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
            (Planted::RopeOffByOne, Op::Rope(rope)) => self.shift_positions(rope),
            (Planted::ExpertGradientTransposed, Op::GroupedMatMulWeights(weights)) => {
                self.transpose_expert(op, weights)
            }
            (Planted::StaleScratch, Op::MatMul(product)) if !product.add => self.keep_scratch(product),
            _ => self.go(op),
        }
    }

    fn floats(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        let Place { offset_bytes, bytes, .. } = tensor.place();
        let mut bytes = vec![0; bytes];
        self.inner.read(tensor.slot(), offset_bytes, &mut bytes)?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    fn integers(&self, tensor: &Tensor) -> Result<Vec<i32>> {
        Ok(self.floats(tensor)?.into_iter().map(|x| x.to_bits() as i32).collect())
    }

    fn put(&self, tensor: &Tensor, values: &[f32]) -> Result<()> {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_ne_bytes()).collect();
        self.inner.write(tensor.slot(), tensor.place().offset_bytes, &bytes)
    }

    fn put_integers(&self, tensor: &Tensor, values: &[i32]) -> Result<()> {
        self.put(tensor, &values.iter().map(|&x| f32::from_bits(x as u32)).collect::<Vec<f32>>())
    }

    fn go(&self, op: &Op<'_>) -> Result<()> {
        Backend::run(&self.inner, op)
    }

    /// The tensor as one of the device that computes, for its front doors.
    fn on(&self, tensor: &Tensor) -> Tensor {
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
        let scaled = self.inner.floats(&d_weights, op.d_weights_tk.shape(), Kind::F32)?;
        let rule = RouteRule { renormalise: false, ..op.rule };
        let routing = Routing {
            experts_tk: self.on(op.experts_tk),
            weights_tk: scaled.clone(),
            counts_ge: self.on(op.counts_ge),
        };
        let scales = [op.balance_scale, op.z_scale];
        let d_logits = ops::route_grad(&scaled, &self.on(op.logits_te), &routing, rule, scales, op.keep)?;
        ops::copy(&self.on(op.d_logits_te), &d_logits)
    }

    /// Routes with the experts in reverse, and reverses what comes out.
    fn reverse_ties(&self, op: &Route<'_>) -> Result<()> {
        let e = op.logits_te.rows_and_width().1;
        let reversed = |tensor: &Tensor| {
            let values: Vec<f32> =
                self.floats(tensor)?.chunks_exact(e).flat_map(|row| row.iter().rev().copied()).collect();
            self.inner.floats(&values, tensor.shape(), Kind::F32)
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
        let before = self.floats(dw_enk)?;
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
