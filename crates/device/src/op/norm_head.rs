//! NormHead: a head whose columns have norm one over the vocabulary (Ling report, equation 4).
//!
//! Dividing the head's column d by its norm is the same as dividing the input's column d, so the normalised
//! head never exists; and since the norm is detached, the gradient by the head is that of a plain head under
//! the scaled input.

use super::describe::{moved, op};
use super::door::Door;
use crate::error::Result;
use crate::tensor::Tensor;

op! {
    /// NormHead's `out[d] = 1 / (||w[:,d]||_2 + 1e-7)`, the norm over the vocabulary (Ling report, equation
    /// 4).
    ColumnScales = "column_scales" { read w_vd, write out_d: sums }
    cost |op| moved(op.w_vd.len(), op.w_vd)
}

op! {
    /// `out[t,d] = x[t,d] scales[d]`.
    ScaleColumns = "scale_columns" { read x_td, read scales_d: sums, write out_td }
    cost |op| moved(2 * op.x_td.len(), op.x_td)
}

/// Returns `1 / (||w[:,d]||_2 + 1e-7)` for each column, `[D]`.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let w = device.floats(&[3.0, 4.0], &[2, 1], Kind::F32)?;
/// assert!((ops::column_scales(&w)?.to_floats()?[0] - 0.2).abs() < 1e-6);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn column_scales(w_vd: &Tensor) -> Result<Tensor> {
    let door = Door::new("column_scales", w_vd)?;
    let [_, d] = door.dims("w", w_vd)?;
    let out_d = door.empty_sums(&[d])?;
    w_vd.device().enqueue(ColumnScales { w_vd, out_d: &out_d })?;
    Ok(out_d)
}

/// Returns `x[t,d] * scales[d]`. The op is its own gradient by x.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let x = device.floats(&[1.0, 2.0], &[1, 2], Kind::F32)?;
/// let scaled = ops::scale_columns(&x, &device.floats(&[10.0, 100.0], &[2], Kind::F32)?)?;
/// assert_eq!(scaled.to_floats()?, [10.0, 200.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn scale_columns(x_td: &Tensor, scales_d: &Tensor) -> Result<Tensor> {
    let door = Door::new("scale_columns", x_td)?;
    let [t, d] = door.dims("x", x_td)?;
    door.operand("scales", scales_d, &[d])?;
    let out_td = door.empty(&[t, d])?;
    x_td.device().enqueue(ScaleColumns { x_td, scales_d, out_td: &out_td })?;
    Ok(out_td)
}
