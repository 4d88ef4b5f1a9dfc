//! Faults of a device's ops that show only beyond some size, or in some precision of the sums.

use super::Planted;
use super::ops::Faulty;
use lingot_device::op::{Attention, CrossEntropy, CrossEntropyGrad, MatMul, Rope, Route};
use lingot_device::ops::{self, Rotation};
use lingot_device::precision::to_bf16;
use lingot_device::{Op, Result, Tensor};

/// The longest sum that is right.
const LONGEST_SUM: usize = 320;
/// The most rows that are all computed.
const MOST_ROWS: usize = 4000;
/// The experts that are seen.
const MOST_EXPERTS: usize = 128;
/// The keys that a query sees.
const WINDOW: i32 = 1024;
/// The last position of the table.
const LAST_POSITION: i32 = 4095;
/// Sums from this length on are kept in bf16.
const LONG_SUM: usize = 4096;

/// Runs an op on a device with such a fault.
pub(super) fn run(device: &Faulty, op: &Op<'_>) -> Result<()> {
    match (device.planted, op) {
        (Planted::LongSumsTooLarge, Op::MatMul(product)) if !product.add => {
            device.go(op)?;
            let larger = if inner(product) > LONGEST_SUM { 1.01 } else { 1.0 };
            scale(device, product.out, larger)
        }
        (Planted::LongSumsTooLarge, Op::GroupedMatMul(product)) => {
            device.go(op)?;
            let [n, k] = [product.w_enk.shape()[1], product.w_enk.shape()[2]];
            let inner = if product.flip { n } else { k };
            scale(device, product.out, if inner > LONGEST_SUM { 1.01 } else { 1.0 })
        }
        (Planted::LastRowLost, Op::MatMul(product)) if !product.add => lose_last_row(device, op, product),
        (Planted::SumsInBf16, Op::MatMul(product)) if !product.add => sum_in_bf16(device, op, product),
        (Planted::ExpertsBeyondUnseen, Op::Route(route)) => see_fewer_experts(device, op, route),
        (Planted::AttentionWindow, Op::Attention(attention)) => window(device, attention),
        (Planted::ShortTargets, Op::CrossEntropy(head)) => shorten(device, head),
        (Planted::ShortTargets, Op::CrossEntropyGrad(head)) => shorten_grad(device, head),
        (Planted::RopeTableEnds, Op::Rope(rope)) => end_table(device, rope),
        _ => device.go(op),
    }
}

/// The length of a product's sums.
fn inner(product: &MatMul<'_>) -> usize {
    product.a.shape()[if product.flip.a { 0 } else { 1 }]
}

fn scale(device: &Faulty, out: &Tensor, factor: f32) -> Result<()> {
    if factor == 1.0 {
        return Ok(());
    }
    let scaled: Vec<f32> = device.floats(out)?.iter().map(|x| x * factor).collect();
    device.put(out, &scaled)
}

fn lose_last_row(device: &Faulty, op: &Op<'_>, product: &MatMul<'_>) -> Result<()> {
    device.go(op)?;
    let (rows, columns) = product.out.rows_and_width();
    if rows <= MOST_ROWS {
        return Ok(());
    }
    let mut out = device.floats(product.out)?;
    out[(rows - 1) * columns..].fill(0.0);
    device.put(product.out, &out)
}

/// Adds one product after the other to a sum that is rounded to bf16 each time.
fn sum_in_bf16(device: &Faulty, op: &Op<'_>, product: &MatMul<'_>) -> Result<()> {
    let (k, (m, n)) = (inner(product), product.out.rows_and_width());
    if k < LONG_SUM {
        return device.go(op);
    }
    let (a, b) = (device.floats(product.a)?, device.floats(product.b)?);
    let mut out = vec![0.0_f32; m * n];
    for l in 0..k {
        for (i, row) in out.chunks_exact_mut(n).enumerate() {
            let left = if product.flip.a { a[l * m + i] } else { a[i * k + l] };
            for (j, sum) in row.iter_mut().enumerate() {
                let right = if product.flip.b { b[j * k + l] } else { b[l * n + j] };
                *sum = to_bf16(*sum + left * right);
            }
        }
    }
    device.put(product.out, &out)
}

fn see_fewer_experts(device: &Faulty, op: &Op<'_>, route: &Route<'_>) -> Result<()> {
    let e = route.logits_te.rows_and_width().1;
    if e <= MOST_EXPERTS {
        return device.go(op);
    }
    let mut logits = device.floats(route.logits_te)?;
    logits.chunks_exact_mut(e).for_each(|logits| logits[MOST_EXPERTS..].fill(-20.0));
    let logits = device.inner.floats(&logits, route.logits_te.shape(), route.logits_te.kind())?;
    let bias = route.bias_e.map(|bias| device.on(bias));
    let (loads, losses) = (device.on(route.loads_e), device.on(route.losses_2));
    let routing = ops::route(&logits, bias.as_ref(), route.rule, &loads, &losses)?;
    ops::copy(&device.on(route.experts_tk), &routing.experts_tk)?;
    ops::copy(&device.on(route.weights_tk), &routing.weights_tk)?;
    ops::copy(&device.on(route.counts_ge), &routing.counts_ge)
}

fn window(device: &Faulty, attention: &Attention<'_>) -> Result<()> {
    let starts = device.integers(attention.starts_t)?;
    let earlier = attention.k_sgc.shape()[0] - starts.len();
    let first = |(t, start): (usize, &i32)| *start.max(&((earlier + t) as i32 + 1 - WINDOW));
    let starts: Vec<i32> = starts.iter().enumerate().map(first).collect();
    device.attend(attention, &starts)
}

/// Targets of which the lowest 16 bits are left.
fn short_targets(device: &Faulty, targets: &Tensor) -> Result<Tensor> {
    let cut = |target: i32| if target < 0 { target } else { target & 0xffff };
    let targets: Vec<i32> = device.integers(targets)?.into_iter().map(cut).collect();
    device.inner.integers(&targets, &[targets.len()])
}

fn shorten(device: &Faulty, head: &CrossEntropy<'_>) -> Result<()> {
    let targets = short_targets(device, head.targets_t)?;
    let losses = ops::cross_entropy(&device.on(head.x_td), &device.on(head.w_vd), &targets)?;
    ops::copy(&device.on(head.losses_t), &losses)
}

fn shorten_grad(device: &Faulty, head: &CrossEntropyGrad<'_>) -> Result<()> {
    let targets = short_targets(device, head.targets_t)?;
    let (x, w, d_w) = (device.on(head.x_td), device.on(head.w_vd), device.on(head.d_w_vd));
    let (losses, d_x) = ops::cross_entropy_grad(&x, &w, &targets, head.scale, &d_w, head.add)?;
    ops::copy(&device.on(head.losses_t), &losses)?;
    ops::copy(&device.on(head.d_x_td), &d_x)
}

fn end_table(device: &Faulty, rope: &Rope<'_>) -> Result<()> {
    let positions = device.integers(rope.positions_t)?;
    let positions: Vec<i32> = positions.into_iter().map(|position| position.min(LAST_POSITION)).collect();
    let positions = device.inner.integers(&positions, &[positions.len()])?;
    let rotation = Rotation { width: rope.rotary_width, theta: rope.theta };
    ops::rope(&device.on(rope.x_thc), &positions, rotation, rope.back)
}
