//! NormHead: a head whose columns have norm one over the vocabulary.

use super::Torch;
use super::value::Words;
use crate::tensor::Tensor;

pub(super) fn column_scales(torch: &Torch, w_vd: &Tensor, out_d: &Tensor) -> Result<(), Words> {
    let aten = torch.aten();
    let w = torch.floats(w_vd)?;
    let squares = aten.sum(&aten.mul(&w, &w)?, Some(&[0]), false, None)?;
    let norms = aten.sqrt(&squares)?.plus(&torch.scalar(1e-7)?)?;
    torch.floats(out_d)?.set(&aten.reciprocal(&norms)?)
}

pub(super) fn scale_columns(
    torch: &Torch,
    x_td: &Tensor,
    scales_d: &Tensor,
    out_td: &Tensor,
) -> Result<(), Words> {
    torch.aten().mul_out(&torch.floats(x_td)?, &torch.floats(scales_d)?, &torch.floats(out_td)?)?;
    Ok(())
}
