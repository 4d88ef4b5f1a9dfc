//! The head and its loss: products of torch's, and `kernels/cross_entropy.cu` between them.
//!
//! A chunk's logits come out of their product in f32 and are read twice by one kernel, which writes the
//! losses and the gradient by the logits as the next two products take it: in bf16 where these do, else in
//! place. In bf16 these products take several chunks at once, since the head's own gradient passes through
//! memory with each of them.

use super::super::matmul::{Into, multiply, operand_of};
use super::super::refusal::Refusal;
use super::super::value::Value;
use super::super::{cross_entropy, sizes};
use super::call::{Call, of_kind};
use crate::kernels::Argument;
use crate::op::{CrossEntropy, CrossEntropyGrad};
use crate::precision::Precision;
use crate::tensor::{Kind, Tensor};

/// Bytes of logits of the rows that blocks have in work, so that a second reading of a row finds it in the
/// chip's cache.
const CACHED_BYTES: usize = 32 << 20;

/// The fewest blocks that keep a large chip's memory busy.
const FEWEST_BLOCKS: usize = 264;

/// Chunks whose gradients by the logits, in bf16, are kept for one product: twice a chunk's own logits.
const CHUNKS_KEPT: usize = 4;

pub(super) fn cross_entropy(call: &Call<'_>, op: &CrossEntropy<'_>) -> Result<(), Refusal> {
    let head = Head::of(call, [op.x_td, op.w_vd, op.targets_t, op.losses_t])?;
    head.each(head.rows_of_chunk(), |rows| rows.losses(&rows.logits()?, None, 0.0))
}

pub(super) fn grad(call: &Call<'_>, op: &CrossEntropyGrad<'_>) -> Result<(), Refusal> {
    let head = Head::of(call, [op.x_td, op.w_vd, op.targets_t, op.losses_t])?;
    let (torch, chunk) = (call.torch, head.rows_of_chunk());
    let d_w = torch.floats(op.d_w_vd)?;
    if op.x_td.is_empty() && !op.add {
        d_w.fill(0.0)?;
    }
    let is_rounded = torch.options.precision == Precision::Bf16;
    head.each(if is_rounded { CHUNKS_KEPT * chunk } else { chunk }, |rows| {
        let d_logits = if is_rounded { rows.rounded(chunk, op.scale)? } else { rows.in_place(op.scale)? };
        rows.by_rows(&d_logits, op.d_x_td)?;
        let [count, vocabulary] = [rows.count, head.vocabulary].map(|size| size as i64);
        let flipped = d_logits.strided(&[vocabulary, count], &[1, vocabulary], 0)?;
        let into = Into { add: op.add || rows.first > 0, times: 1.0 };
        multiply(torch, [&flipped, &rows.x], &d_w, Kind::F32, into)
    })
}

/// The head's operands.
#[derive(Clone, Copy)]
struct Head<'a> {
    call: &'a Call<'a>,
    x_td: &'a Tensor,
    w_vd: &'a Tensor,
    targets: Argument,
    losses: Argument,
    vocabulary: usize,
    width: usize,
}

impl<'a> Head<'a> {
    fn of(
        call: &'a Call<'a>,
        [x_td, w_vd, targets_t, losses_t]: [&'a Tensor; 4],
    ) -> Result<Head<'a>, Refusal> {
        let [vocabulary, width] = w_vd.dims();
        let (targets, losses) = (call.tensor(targets_t)?, call.tensor(losses_t)?);
        Ok(Head { call, x_td, w_vd, targets, losses, vocabulary, width })
    }

    fn rows_of_chunk(&self) -> usize {
        cross_entropy::rows_of_chunk(self.call.torch, [self.x_td.shape()[0], self.vocabulary, self.width])
    }

    /// Calls `run` with at most `most` rows at a time.
    fn each(&self, most: usize, run: impl Fn(&Rows<'_>) -> Result<(), Refusal>) -> Result<(), Refusal> {
        let Head { call: Call { torch, .. }, x_td, w_vd, width, .. } = *self;
        let w = operand_of(torch, torch.floats(w_vd)?, &sizes(w_vd.shape()), w_vd.kind())?;
        let tokens = x_td.shape()[0];
        for first in (0..tokens).step_by(most) {
            let count = most.min(tokens - first);
            let shape = sizes(&[count, width]);
            let x = torch.strided(x_td, &shape, &[width as i64, 1], first * width)?;
            run(&Rows { head: *self, w: &w, x: operand_of(torch, x, &shape, x_td.kind())?, first, count })?;
        }
        Ok(())
    }
}

/// Rows of a head's input.
struct Rows<'a> {
    head: Head<'a>,
    /// The head as an operand, [V, D].
    w: &'a Value,
    /// The rows as an operand, [count, D].
    x: Value,
    first: usize,
    count: usize,
}

impl Rows<'_> {
    /// The logits, [count, V], f32.
    fn logits(&self) -> Result<Value, Refusal> {
        let Head { call: Call { torch, .. }, vocabulary, width, .. } = self.head;
        let logits = torch.empty(&sizes(&[self.count, vocabulary]), torch.torch.dtypes.f32)?;
        let w = self.w.strided(&sizes(&[width, vocabulary]), &[1, width as i64], 0)?;
        multiply(torch, [&self.x, &w], &logits, Kind::F32, Into { add: false, times: 1.0 })?;
        Ok(logits)
    }

    /// Writes the losses, and the gradient by the logits to where it is wanted, in a kind.
    fn losses(&self, logits: &Value, to: Option<(Argument, Kind)>, scale: f64) -> Result<(), Refusal> {
        let Head { call, targets, losses, vocabulary, .. } = self.head;
        let (d_logits, kind) = to.unwrap_or((Argument::NULL, Kind::F32));
        let arguments = [
            call.value(logits)?,
            targets.after(4 * self.first),
            losses.after(4 * self.first),
            d_logits,
            self.count.into(),
            vocabulary.into(),
            scale.into(),
        ];
        let blocks = (CACHED_BYTES / (4 * vocabulary.max(1))).max(FEWEST_BLOCKS);
        call.launch(of_kind!(kind, "loss"), self.count.min(blocks), &arguments)
    }

    /// The gradient by the logits in their own place, an operand of f32.
    fn in_place(&self, scale: f64) -> Result<Value, Refusal> {
        let logits = self.logits()?;
        self.losses(&logits, Some((self.head.call.value(&logits)?, Kind::F32)), scale)?;
        Ok(logits)
    }

    /// The gradient by the logits, rounded to bf16, as an operand; of `chunk` rows at a time.
    fn rounded(&self, chunk: usize, scale: f64) -> Result<Value, Refusal> {
        let Head { call, vocabulary, width, .. } = self.head;
        let (torch, shape) = (call.torch, sizes(&[self.count, vocabulary]));
        let d_logits = torch.empty(&shape, torch.torch.dtypes.bf16)?;
        for first in (0..self.count).step_by(chunk) {
            let count = chunk.min(self.count - first);
            let x = self.x.shaped(&sizes(&[count, width]), first * width)?;
            let rows = Rows { x, first: self.first + first, count, ..*self };
            let to = call.value(&d_logits)?.after(2 * first * vocabulary);
            rows.losses(&rows.logits()?, Some((to, Kind::Bf16)), scale)?;
        }
        operand_of(torch, d_logits, &shape, Kind::Bf16)
    }

    /// The gradient by the rows: `d_logits w`. Rows without a target have zeros for it.
    fn by_rows(&self, d_logits: &Value, d_x_td: &Tensor) -> Result<(), Refusal> {
        let Head { call: Call { torch, .. }, width, .. } = self.head;
        let shape = sizes(&[self.count, width]);
        let d_x = torch.strided(d_x_td, &shape, &[width as i64, 1], self.first * width)?;
        multiply(torch, [d_logits, self.w], &d_x, d_x_td.kind(), Into { add: false, times: 1.0 })
    }
}
