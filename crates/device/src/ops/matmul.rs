//! The matrix product. Its gradients are matrix products too.

use super::door::Door;
use crate::error::Result;
use crate::op::{Flip, Op};
use crate::tensor::Tensor;

/// `a b`, either one stored transposed where `flip` says so. `a` may have more than two dimensions, all but its last
/// being rows, when it is not flipped.
///
/// ```
/// # use lingot_device::{cpu::Cpu, ops, Device, Flip, Kind};
/// let device = Device::new(Cpu::new(1));
/// let a = device.floats(&[1.0, 2.0], &[1, 2], Kind::F32)?;
/// let b = device.floats(&[3.0, 4.0], &[1, 2], Kind::F32)?;
/// assert_eq!(ops::matmul(&a, &b, Flip::B)?.to_floats()?, [11.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn matmul(a: &Tensor, b: &Tensor, flip: Flip) -> Result<Tensor> {
    let door = Door::new("matmul", a)?;
    let (m, n, _) = sizes(&door, a, b, flip)?;
    let out = door.empty(&[m, n])?;
    a.device().run(Op::MatMul { a, b, out: &out, flip, add: false })?;
    Ok(out)
}

/// `out += a b`, flipped as said.
pub fn matmul_onto(out: &Tensor, a: &Tensor, b: &Tensor, flip: Flip) -> Result<()> {
    let door = Door::new("matmul", a)?;
    let (m, n, _) = sizes(&door, a, b, flip)?;
    door.floats("out", out, &[m, n])?;
    door.apart("out", out, &[a, b])?;
    a.device().run(Op::MatMul { a, b, out, flip, add: true })
}

fn sizes(door: &Door<'_>, a: &Tensor, b: &Tensor, flip: Flip) -> Result<(usize, usize, usize)> {
    let [a_rows, a_columns] = door.dims("a", a)?;
    let [b_rows, b_columns] = door.dims("b", b)?;
    let (m, k) = if flip.a { (a_columns, a_rows) } else { (a_rows, a_columns) };
    let n = if flip.b { b_rows } else { b_columns };
    door.floats("b", b, &if flip.b { [n, k] } else { [k, n] })?;
    Ok((m, n, k))
}
