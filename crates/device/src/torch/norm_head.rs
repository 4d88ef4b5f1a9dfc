//! NormHead: a head whose columns have norm one over the vocabulary.

use super::Torch;
use super::refusal::Refusal;
use crate::op::{ColumnScales, ScaleColumns};

pub(super) fn column_scales(torch: &Torch, op: &ColumnScales<'_>) -> Result<(), Refusal> {
    let aten = torch.aten();
    let w = torch.floats(op.w_vd)?;
    let squares = aten.sum(&aten.mul(&w, &w)?, Some(&[0]), false, None)?;
    let norms = aten.sqrt(&squares)?.plus(&torch.scalar(1e-7)?)?;
    torch.floats(op.out_d)?.set(&aten.reciprocal(&norms)?)
}

pub(super) fn scale_columns(torch: &Torch, op: &ScaleColumns<'_>) -> Result<(), Refusal> {
    let ScaleColumns { x_td, scales_d, out_td } = *op;
    torch.aten().mul_out(&torch.floats(x_td)?, &torch.floats(scales_d)?, &torch.floats(out_td)?)?;
    Ok(())
}
