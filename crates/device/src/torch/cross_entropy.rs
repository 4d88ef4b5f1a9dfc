//! The head and its loss in one, a chunk of tokens at a time, so that the logits of a batch never exist.

use super::Torch;
use super::matmul::{Into, multiply, operand, operand_of};
use super::refusal::Refusal;
use super::value::Value;
use crate::op::{CrossEntropy, CrossEntropyGrad};
use crate::precision::Precision;
use crate::tensor::{Kind, Tensor};

/// Logits that stay in a processor's caches.
pub(super) const FEW_LOGITS: usize = 1 << 20;

/// More than these never exist at a time: on the CPU.
const MOST_LOGITS: usize = 1 << 23;

/// More than these, 256 MiB in f32, never exist at a time on another device. Fewer would make its products
/// small, and the head's gradient pass through memory more often.
const MOST_LOGITS_ON_CHIP: usize = 1 << 26;

/// More than these never exist at a time.
pub(super) fn most_logits(torch: &Torch) -> usize {
    if torch.on_cpu() { MOST_LOGITS } else { MOST_LOGITS_ON_CHIP }
}

/// Rows of a chunk. On the CPU: few logits, but as many rows as the model is wide, since all of the head's
/// gradient is read and written once per chunk, and in fewer rows that would take longer than the logits
/// themselves. On another device: chunks alike, as few as can be.
pub(super) fn rows_of_chunk(torch: &Torch, [tokens, vocabulary, width]: [usize; 3]) -> usize {
    let vocabulary = vocabulary.max(1);
    let most = (most_logits(torch) / vocabulary).max(1);
    if torch.on_cpu() {
        return width.min(most).max(FEW_LOGITS / vocabulary).max(1);
    }
    tokens.div_ceil(tokens.div_ceil(most).max(1)).max(1)
}

pub(super) fn cross_entropy(torch: &Torch, op: &CrossEntropy<'_>) -> Result<(), Refusal> {
    Head::of(torch, op.x_td, op.w_vd, op.targets_t, op.losses_t)?.each_chunk(|chunk| chunk.losses())
}

pub(super) fn grad(torch: &Torch, op: &CrossEntropyGrad<'_>) -> Result<(), Refusal> {
    let d_w = torch.floats(op.d_w_vd)?;
    let head = Head::of(torch, op.x_td, op.w_vd, op.targets_t, op.losses_t)?;
    if !op.add {
        d_w.fill(0.0)?;
    }
    head.each_chunk(|chunk| chunk.gradients(op.scale, op.d_x_td, &d_w))
}

struct Head<'a> {
    torch: &'a Torch,
    x_td: &'a Tensor,
    /// `w` as an operand, [V, D].
    w: Value,
    targets: Value,
    losses_t: &'a Tensor,
    vocabulary: usize,
}

impl<'a> Head<'a> {
    fn of(
        torch: &'a Torch,
        x_td: &'a Tensor,
        w_vd: &Tensor,
        targets_t: &Tensor,
        losses_t: &'a Tensor,
    ) -> Result<Head<'a>, Refusal> {
        let w = operand_of(torch, torch.floats(w_vd)?, &super::sizes(w_vd.shape()), w_vd.kind())?;
        let targets = torch.indices(targets_t, &[targets_t.len() as i64, 1])?;
        Ok(Head { torch, x_td, w, targets, losses_t, vocabulary: w_vd.shape()[0] })
    }

    fn each_chunk(&self, run: impl Fn(&Chunk<'_>) -> Result<(), Refusal>) -> Result<(), Refusal> {
        let [tokens, width] = self.x_td.dims();
        let most = rows_of_chunk(self.torch, [tokens, self.vocabulary, width]);
        for first in (0..tokens).step_by(most) {
            run(&Chunk::of(self, first, most.min(tokens - first))?)?;
        }
        Ok(())
    }
}

/// Some tokens of a batch.
struct Chunk<'a> {
    head: &'a Head<'a>,
    first: usize,
    tokens: usize,
    /// The tokens' rows.
    x: Value,
    /// [tokens, 1], and 0 where there is none.
    targets: Value,
    has_target: Value,
    /// The logarithms of the softmax.
    logs: Value,
}

impl<'a> Chunk<'a> {
    fn of(head: &'a Head<'a>, first: usize, tokens: usize) -> Result<Chunk<'a>, Refusal> {
        let torch = head.torch;
        let aten = torch.aten();
        let [rows, width] = [tokens, head.x_td.shape()[1]].map(|size| size as i64);
        let x = torch.strided(head.x_td, &[rows, width], &[width, 1], first * width as usize)?;
        let given = head.targets.shaped(&[rows, 1], first)?;
        let zero = Value::i64(torch.torch, 0)?;
        let (targets, has_target) = (aten.maximum(&given, &zero)?, aten.ge(&given, &zero)?);
        let logits = torch.empty(&[rows, head.vocabulary as i64], torch.torch.dtypes.f32)?;
        let w = head.w.strided(&[width, head.vocabulary as i64], &[1, width], 0)?;
        let rounded = operand_of(torch, x.again()?, &[rows, width], head.x_td.kind())?;
        multiply(torch, [&rounded, &w], &logits, Kind::F32, Into { add: false, times: 1.0 })?;
        let logs = aten.log_softmax(&logits, 1, false)?;
        Ok(Chunk { head, first, tokens, x, targets, has_target, logs })
    }

    fn losses(&self) -> Result<(), Refusal> {
        let Head { torch, losses_t, .. } = *self.head;
        let aten = torch.aten();
        let chosen = aten.gather(&self.logs, 1, &self.targets, false)?;
        let losses =
            aten.where_(&self.has_target, &aten.mul(&chosen, &torch.scalar(-1.0)?)?, &torch.scalar(0.0)?)?;
        torch.strided(losses_t, &[self.tokens as i64, 1], &[1, 1], self.first)?.set(&losses)
    }

    /// With p the softmax less 1 at the target, `d_x = scale p w` and `d_w += scale p^T x`; rows without a
    /// target count for nothing.
    fn gradients(&self, scale: f64, d_x_td: &Tensor, d_w: &Value) -> Result<(), Refusal> {
        self.losses()?;
        let Head { torch, vocabulary, .. } = *self.head;
        let aten = torch.aten();
        let [rows, width, vocabulary] = [self.tokens, d_x_td.shape()[1], vocabulary].map(|size| size as i64);
        let p = aten.exp_(&self.logs)?;
        let minus_one = torch.full(&[rows, 1], torch.torch.dtypes.f32, -1.0)?;
        aten.scatter_add_(&p, 1, &self.targets, &minus_one)?;
        // In bf16 the gradients by the logits are what is rounded, with their scale.
        let is_rounded = torch.options.precision == Precision::Bf16;
        let p = if is_rounded { aten.mul_(&p, &torch.scalar(scale)?)? } else { p };
        let rest = if is_rounded { 1.0 } else { scale };
        let p = operand(torch, p, &[rows, vocabulary])?;
        let counts = torch.converted(&self.has_target, &[rows, 1], torch.torch.dtypes.f32)?;
        let d_x = torch.strided(d_x_td, &[rows, width], &[width, 1], self.first * width as usize)?;
        multiply(torch, [&p, &self.head.w], &d_x, d_x_td.kind(), Into { add: false, times: 1.0 })?;
        aten.mul_(&d_x, &aten.mul(&counts, &torch.scalar(rest)?)?)?;
        let x = operand(torch, aten.mul(&self.x, &counts)?, &[rows, width])?;
        let flipped = p.strided(&[vocabulary, rows], &[1, vocabulary], 0)?;
        multiply(torch, [&flipped, &x], d_w, Kind::F32, Into { add: true, times: rest })
    }
}
