//! The head and its loss: products of torch's, and `kernels/cross_entropy.cu` between them.
//!
//! A chunk's logits come out of their product in f32 and are read twice by one kernel, which writes the losses
//! and the gradient by the logits as the next two products take it: in bf16 where these do, else in place.

use super::super::matmul::{Into, multiply, operand_of};
use super::super::refusal::Refusal;
use super::super::value::Value;
use super::super::{Torch, cross_entropy, sizes};
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

pub(super) fn cross_entropy(call: &Call<'_>, op: &CrossEntropy<'_>) -> Result<(), Refusal> {
    let head = Head::of(call, [op.x_td, op.w_vd, op.targets_t, op.losses_t])?;
    head.each_chunk(|chunk| {
        let logits = chunk.logits()?;
        chunk.losses(&logits, None, 0.0).map(|_| ())
    })
}

pub(super) fn grad(call: &Call<'_>, op: &CrossEntropyGrad<'_>) -> Result<(), Refusal> {
    let head = Head::of(call, [op.x_td, op.w_vd, op.targets_t, op.losses_t])?;
    let d_w = call.torch.floats(op.d_w_vd)?;
    head.each_chunk(|chunk| {
        let (torch, Head { vocabulary, width, .. }) = (call.torch, head);
        let logits = chunk.logits()?;
        let kind = torch.kind_of_operands();
        let d_logits = match kind {
            Kind::Bf16 => torch.empty(&sizes(&[chunk.rows, vocabulary]), torch.torch.dtypes.bf16)?,
            _ => logits.again()?,
        };
        chunk.losses(&logits, Some((&d_logits, kind)), op.scale)?;
        drop(logits);
        let [rows, vocabulary, width] = [chunk.rows, vocabulary, width].map(|size| size as i64);
        let d_logits = operand(torch, d_logits, &[rows, vocabulary], kind)?;
        chunk.by_rows(&d_logits, op.d_x_td)?;
        let flipped = d_logits.strided(&[vocabulary, rows], &[1, vocabulary], 0)?;
        let x = chunk.x.shaped(&[rows, width], 0)?;
        multiply(torch, [&flipped, &x], &d_w, Kind::F32, Into { add: true, times: 1.0 })
    })
}

/// An operand of products: bf16 where these take it, else f32.
fn operand(torch: &Torch, x: Value, sizes: &[i64], kind: Kind) -> Result<Value, Refusal> {
    match kind {
        Kind::Bf16 if !torch.multiplies_bf16() => torch.converted(&x, sizes, torch.torch.dtypes.f32),
        _ => operand_of(torch, x, sizes, kind),
    }
}

impl Torch {
    /// What operands of products that are made here are written as: bf16 if products round them.
    fn kind_of_operands(&self) -> Kind {
        if self.options.precision == Precision::Bf16 { Kind::Bf16 } else { Kind::F32 }
    }
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

/// Rows of a head's input from `first` on, as an operand of products.
struct Chunk<'a> {
    head: Head<'a>,
    /// The head as an operand, [V, D].
    w: &'a Value,
    x: Value,
    first: usize,
    rows: usize,
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

    fn each_chunk(&self, run: impl Fn(&Chunk<'_>) -> Result<(), Refusal>) -> Result<(), Refusal> {
        let Head { call: Call { torch, .. }, x_td, w_vd, vocabulary, width, .. } = *self;
        let w = operand(torch, torch.floats(w_vd)?, &sizes(w_vd.shape()), w_vd.kind())?;
        let tokens = x_td.shape()[0];
        let most = cross_entropy::rows_of_chunk(torch, [tokens, vocabulary, width]);
        for first in (0..tokens).step_by(most) {
            let rows = most.min(tokens - first);
            let shape = sizes(&[rows, width]);
            let x = torch.strided(x_td, &shape, &[width as i64, 1], first * width)?;
            let x = operand(torch, x, &shape, x_td.kind())?;
            run(&Chunk { head: *self, w: &w, x, first, rows })?;
        }
        Ok(())
    }
}

impl Chunk<'_> {
    /// The logits, [rows, V], f32.
    fn logits(&self) -> Result<Value, Refusal> {
        let Head { call: Call { torch, .. }, vocabulary, width, .. } = self.head;
        let logits = torch.empty(&sizes(&[self.rows, vocabulary]), torch.torch.dtypes.f32)?;
        let w = self.w.strided(&sizes(&[width, vocabulary]), &[1, width as i64], 0)?;
        multiply(torch, [&self.x, &w], &logits, Kind::F32, Into { add: false, times: 1.0 })?;
        Ok(logits)
    }

    /// Writes the losses, and the gradient by the logits where it is wanted.
    fn losses(&self, logits: &Value, d_logits: Option<(&Value, Kind)>, scale: f64) -> Result<(), Refusal> {
        let Head { call, targets, losses, vocabulary, .. } = self.head;
        let kind = d_logits.map_or(Kind::F32, |(_, kind)| kind);
        let arguments = [
            call.value(logits)?,
            targets.after(4 * self.first),
            losses.after(4 * self.first),
            d_logits.map_or(Ok(Argument::NULL), |(d_logits, _)| call.value(d_logits))?,
            self.rows.into(),
            vocabulary.into(),
            scale.into(),
        ];
        let blocks = (CACHED_BYTES / (4 * vocabulary.max(1))).max(FEWEST_BLOCKS);
        call.launch(of_kind!(kind, "loss"), self.rows.min(blocks), &arguments)
    }

    /// The gradient by the rows: `d_logits w`. Rows without a target have zeros for it.
    fn by_rows(&self, d_logits: &Value, d_x_td: &Tensor) -> Result<(), Refusal> {
        let Head { call: Call { torch, .. }, width, .. } = self.head;
        let shape = sizes(&[self.rows, width]);
        let d_x = torch.strided(d_x_td, &shape, &[width as i64, 1], self.first * width)?;
        if d_x_td.kind() == Kind::Bf16 && !torch.multiplies_bf16() {
            return d_x.set(&torch.aten().mm(d_logits, self.w)?);
        }
        multiply(torch, [d_logits, self.w], &d_x, d_x_td.kind(), Into { add: false, times: 1.0 })
    }
}
