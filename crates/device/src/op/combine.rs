//! Sums each token's expert outputs. Its gradient is `dispatch`; see `describe::op!` for the grammar.

use super::describe::{moved, op};
use super::door::Door;
use crate::error::Result;
use crate::tensor::Tensor;

op! {
    /// `out[t] = sum over k of x[places[t,k]]`, in order of k; `add` accumulates. Its gradient is
    /// [`Dispatch`](crate::op::Dispatch).
    Combine = "combine" { read x_rd, read places_tk: ids, update_if(add) out_td }
    {
        /// Whether the sums are added to `out`.
        add: bool,
    }
    cost |op| moved(op.x_rd.len() + (1 + usize::from(op.add)) * op.out_td.len(), op.out_td)
}

/// Returns `sum over k of x[places[t,k]]`, `[T, D]`.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let x = device.floats(&[1.0, 2.0, 3.0, 4.0], &[4, 1], Kind::F32)?;
/// let places = device.integers(&[0, 2, 1, 3], &[2, 2])?;
/// assert_eq!(ops::combine(&x, &places)?.to_floats()?, [4.0, 6.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn combine(x_rd: &Tensor, places_tk: &Tensor) -> Result<Tensor> {
    let door = Door::new("combine", x_rd)?;
    let [t, d] = check(&door, x_rd, places_tk)?;
    let out_td = door.empty(&[t, d])?;
    x_rd.device().enqueue(Combine { x_rd, places_tk, out_td: &out_td, add: false })?;
    Ok(out_td)
}

/// Adds `sum over k of x[places[t,k]]` to `out`.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let out = device.floats(&[10.0, 20.0], &[2, 1], Kind::F32)?;
/// let x = device.floats(&[1.0, 2.0, 3.0, 4.0], &[4, 1], Kind::F32)?;
/// ops::combine_onto(&out, &x, &device.integers(&[0, 2, 1, 3], &[2, 2])?)?;
/// assert_eq!(out.to_floats()?, [14.0, 26.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn combine_onto(out_td: &Tensor, x_rd: &Tensor, places_tk: &Tensor) -> Result<()> {
    let door = Door::new("combine", x_rd)?;
    let [t, d] = check(&door, x_rd, places_tk)?;
    door.operand("out", out_td, &[t, d])?;
    x_rd.device().enqueue(Combine { x_rd, places_tk, out_td, add: true })
}

fn check(door: &Door<'_>, x_rd: &Tensor, places_tk: &Tensor) -> Result<[usize; 2]> {
    let [t, k] = door.dims("places", places_tk)?;
    let [_, d] = door.dims("x", x_rd)?;
    door.operand("places", places_tk, &[t, k])?;
    door.operand("x", x_rd, &[t * k, d])?;
    Ok([t, d])
}
