//! NormHead: a head whose columns have norm one over the vocabulary (Ling report, equation 4).
//!
//! Dividing the head's column d by its norm is the same as dividing the input's column d, so the normalised head never
//! exists; and since the norm is detached, the gradient by the head is that of a plain head under the scaled input.

use super::describe::{moved, op};
use super::door::Door;
use crate::error::Result;
use crate::tensor::Tensor;
use lingot_spec::Cost;

op! {
    /// NormHead's `out[d] = 1 / (||w[:,d]||_2 + 1e-7)`, the norm over the vocabulary (Ling report, equation 4).
    ColumnScales = "column_scales" {
        w_vd = "w": read,
        out_d = "out": write,
    }
}

op! {
    /// `out[t,d] = x[t,d] scales[d]`.
    ScaleColumns = "scale_columns" {
        x_td = "x": read,
        scales_d = "scales": read,
        out_td = "out": write,
    }
}

impl ColumnScales<'_> {
    /// The op's cost.
    pub fn cost(&self) -> Cost {
        moved(self.w_vd.len())
    }
}

impl ScaleColumns<'_> {
    /// The op's cost.
    pub fn cost(&self) -> Cost {
        moved(2 * self.x_td.len())
    }
}

/// `1 / (||w[:,d]||_2 + 1e-7)` for each column.
pub fn column_scales(w_vd: &Tensor) -> Result<Tensor> {
    let door = Door::new("column_scales", w_vd)?;
    let [_, d] = door.dims("w", w_vd)?;
    let out_d = door.empty(&[d])?;
    w_vd.device().enqueue(ColumnScales { w_vd, out_d: &out_d })?;
    Ok(out_d)
}

/// `x[t,d] * scales[d]`; its own gradient by x.
pub fn scale_columns(x_td: &Tensor, scales_d: &Tensor) -> Result<Tensor> {
    let door = Door::new("scale_columns", x_td)?;
    let [t, d] = door.dims("x", x_td)?;
    door.floats("scales", scales_d, &[d])?;
    let out_td = door.empty(&[t, d])?;
    x_td.device().enqueue(ScaleColumns { x_td, scales_d, out_td: &out_td })?;
    Ok(out_td)
}
