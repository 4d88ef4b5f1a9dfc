//! The matrix product. Its gradients are matrix products too.

use super::describe::op;
use super::door::Door;
use crate::error::Result;
use crate::tensor::{Kind, Tensor};
use lingot_spec::cost;

op! {
    /// `out[m,n] = a[m,k] b[k,n]`, either operand stored transposed where `flip` says so; `add` accumulates.
    MatMul = "matmul" { read a, read b, update_if(add) out: values_or_sums }
    {
        /// Which operands are stored transposed.
        flip: Flip,
        /// Whether the product is added to `out`.
        add: bool,
    }
    cost |op| cost::matmul(op.sizes(), [op.a, op.out].map(|tensor| tensor.kind().bytes()), op.add)
}

impl MatMul<'_> {
    /// M, N and K.
    pub(crate) fn sizes(&self) -> [usize; 3] {
        let [[rows, columns], [m, n]] = [self.a.dims(), self.out.dims()];
        [m, n, if self.flip.a { rows } else { columns }]
    }
}

/// Which operands of a [`MatMul`] are stored transposed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flip {
    /// Whether the left operand is.
    pub a: bool,
    /// Whether the right operand is.
    pub b: bool,
}

impl Flip {
    /// `a b`.
    pub const NONE: Flip = Flip { a: false, b: false };
    /// `a b^T`: activations times a weight stored `[out, in]`.
    pub const B: Flip = Flip { a: false, b: true };
    /// `a^T b`: the gradient by such a weight.
    pub const A: Flip = Flip { a: true, b: false };
}

/// Returns `a b`, `[M, N]`, either operand stored transposed where `flip` says so.
///
/// ```
/// # use lingot_device::{Device, Flip, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let a = device.floats(&[1.0, 2.0], &[1, 2], Kind::F32)?;
/// let b = device.floats(&[3.0, 4.0], &[1, 2], Kind::F32)?;
/// assert_eq!(ops::matmul(&a, &b, Flip::B)?.to_floats()?, [11.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn matmul(a: &Tensor, b: &Tensor, flip: Flip) -> Result<Tensor> {
    multiplied(a, b, flip, a.kind())
}

/// As [`matmul`], in the kind of sums: for products that must not be rounded to bf16, such as logits.
///
/// ```
/// # use lingot_device::{Device, Flip, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let a = device.floats(&[1.0, 1.0 / 512.0], &[1, 2], Kind::Bf16)?;
/// let b = device.floats(&[1.0, 1.0], &[1, 2], Kind::Bf16)?;
/// assert_eq!(ops::matmul(&a, &b, Flip::B)?.to_floats()?, [1.0]);
/// assert_eq!(ops::matmul_sums(&a, &b, Flip::B)?.to_floats()?, [1.0 + 1.0 / 512.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn matmul_sums(a: &Tensor, b: &Tensor, flip: Flip) -> Result<Tensor> {
    multiplied(a, b, flip, a.kind().sums())
}

fn multiplied(a: &Tensor, b: &Tensor, flip: Flip, kind: Kind) -> Result<Tensor> {
    let door = Door::new("matmul", a)?;
    let (m, n, _) = sizes(&door, a, b, flip)?;
    let out = a.device().empty(&[m, n], kind)?;
    a.device().enqueue(MatMul { a, b, out: &out, flip, add: false })?;
    Ok(out)
}

/// Adds `a b` to `out`, of the kind of values or of sums, either operand stored transposed where `flip` says
/// so.
///
/// ```
/// # use lingot_device::{Device, Flip, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let out = device.floats(&[1.0], &[1, 1], Kind::F32)?;
/// let a = device.floats(&[1.0, 2.0], &[1, 2], Kind::F32)?;
/// let b = device.floats(&[3.0, 4.0], &[1, 2], Kind::F32)?;
/// ops::matmul_onto(&out, &a, &b, Flip::B)?;
/// assert_eq!(out.to_floats()?, [12.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn matmul_onto(out: &Tensor, a: &Tensor, b: &Tensor, flip: Flip) -> Result<()> {
    matmul_to(out, a, b, flip, true)
}

/// Writes `a b` to `out`, of the kind of values or of sums, either operand stored transposed where `flip`
/// says so; with `add` it is added to what is there.
///
/// ```
/// # use lingot_device::{Device, Flip, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let out = device.floats(&[1.0], &[1, 1], Kind::F32)?;
/// let a = device.floats(&[1.0, 2.0], &[1, 2], Kind::F32)?;
/// ops::matmul_to(&out, &a, &a, Flip::B, false)?;
/// assert_eq!(out.to_floats()?, [5.0]);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn matmul_to(out: &Tensor, a: &Tensor, b: &Tensor, flip: Flip, add: bool) -> Result<()> {
    let door = Door::new("matmul", a)?;
    let (m, n, _) = sizes(&door, a, b, flip)?;
    door.operand("out", out, &[m, n])?;
    a.device().enqueue(MatMul { a, b, out, flip, add })
}

fn sizes(door: &Door<'_>, a: &Tensor, b: &Tensor, flip: Flip) -> Result<(usize, usize, usize)> {
    let [a_rows, a_columns] = door.dims("a", a)?;
    let [b_rows, b_columns] = door.dims("b", b)?;
    let (m, k) = if flip.a { (a_columns, a_rows) } else { (a_rows, a_columns) };
    let n = if flip.b { b_rows } else { b_columns };
    door.operand("b", b, &if flip.b { [n, k] } else { [k, n] })?;
    Ok((m, n, k))
}
