//! Documents of any lengths in one call of FlashAttention, rows first as they lie: [T, H, C].

use super::attention_fused::SavedState;
use super::determinism::deterministic;
use super::documents::Documents;
use super::matmul::operand_of;
use super::refusal::Refusal;
use super::value::Value;
use super::{Torch, sizes};
use crate::tensor::Tensor;

/// The operator, on one device.
pub(super) struct Packed<'a> {
    pub(super) torch: &'a Torch,
    /// The seed and the offset that the first call handed out.
    pub(super) kept: &'a SavedState,
}

impl Packed<'_> {
    /// The output [T, H, C], and the logarithm of each softmax's denominator [H, T], of q, k and v.
    pub(super) fn forward(
        &self,
        tensors: [&Tensor; 3],
        documents: &Documents,
        scale: f64,
    ) -> Result<(Value, Value), Refusal> {
        let [q, k, v] = self.operands(tensors)?;
        let (out, lse, ..) = call(self.torch, [&q, &k, &v], documents, scale)?;
        Ok((out, lse))
    }

    /// The gradients by q, k and v, of d_out, out and lse.
    pub(super) fn backward(
        &self,
        tensors: [&Tensor; 3],
        [d_out, out, lse_th]: [&Tensor; 3],
        documents: &Documents,
        scale: f64,
    ) -> Result<[Value; 3], Refusal> {
        let (torch, [t, heads]) = (self.torch, lse_th.dims());
        let [q, k, v] = self.operands(tensors)?;
        let [d_out, out] = [self.operand(d_out)?, self.operand(out)?];
        let of_lse = sizes(&[heads, t]);
        let lse = torch.strided(lse_th, &of_lse, &[1, heads as i64], 0)?;
        let lse = torch.converted(&lse, &of_lse, torch.torch.dtypes.f32)?;
        let saved = [&d_out, &out, &lse];
        gradients(torch, [&q, &k, &v], saved, documents, scale, self.kept)
    }

    fn operands(&self, tensors: [&Tensor; 3]) -> Result<[Value; 3], Refusal> {
        let [q, k, v] = tensors;
        Ok([self.operand(q)?, self.operand(k)?, self.operand(v)?])
    }

    fn operand(&self, tensor: &Tensor) -> Result<Value, Refusal> {
        operand_of(self.torch, self.torch.floats(tensor)?, &sizes(tensor.shape()), tensor.kind())
    }
}

/// The output, the log-sum-exp, and the seed and offset that the gradient takes.
pub(super) fn call(
    torch: &Torch,
    [q, k, v]: [&Value; 3],
    documents: &Documents,
    scale: f64,
) -> Result<(Value, Value, Value, Value), Refusal> {
    let (bounds, longest) = (documents.bounds(torch)?, documents.longest() as i64);
    let (bounds, scale) = (Some(bounds), Some(scale));
    let (out, lse, seed, offset, _) =
        torch.aten().flash(q, k, v, bounds, bounds, longest, longest, 0.0, true, false, scale)?;
    Ok((out, lse, seed, offset))
}

/// The gradients by q, k and v, from that by the output, the output and the log-sum-exp [H, T].
pub(super) fn gradients(
    torch: &Torch,
    [q, k, v]: [&Value; 3],
    [d_out, out, lse]: [&Value; 3],
    documents: &Documents,
    scale: f64,
    [seed, offset]: &SavedState,
) -> Result<[Value; 3], Refusal> {
    let (bounds, longest) = (documents.bounds(torch)?, documents.longest() as i64);
    let (d_q, d_k, d_v) = deterministic(torch, |aten| {
        aten.flash_backward(
            d_out,
            q,
            k,
            v,
            out,
            lse,
            bounds,
            bounds,
            longest,
            longest,
            0.0,
            true,
            seed,
            offset,
            Some(scale),
        )
    })?;
    Ok([d_q, d_k, d_v])
}
