//! Rotary positions (Su et al., arXiv 2104.09864), in place. The gradient is the rotation back.

use super::describe::{moved, op};
use super::door::Door;
use crate::error::Result;
use crate::tensor::Tensor;

op! {
    /// Rotates the pairs (i, i + rotary/2) of the first `rotary_width` of each head by
    /// `position * theta^(-2i/rotary)`, in place. `back` rotates the other way, which is the gradient.
    Rope = "rope" { update x_thc, read positions_t: ids }
    {
        /// Elements of each head that are rotated.
        rotary_width: usize,
        /// The base of the frequencies.
        theta: f64,
        /// Whether to rotate by the negative angles.
        back: bool,
    }
    cost |op| moved(2 * op.x_thc.len(), op.x_thc)
}

/// How heads are rotated: the first `width` of each head (partial RoPE), frequencies `theta^(-2i/width)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotation {
    /// Elements of each head that are rotated; even.
    pub width: usize,
    /// The base of the frequencies.
    pub theta: f64,
}

/// Rotates each head of `x`, `[T, H, C]`, by its token's position in place, or back.
///
/// ```
/// # use lingot_device::{Device, Kind, cpu::Cpu, ops};
/// let device = Device::new(Cpu::new(1));
/// let x = device.floats(&[1.0, 0.0], &[1, 1, 2], Kind::F32)?;
/// let rotation = ops::Rotation { width: 2, theta: 1e4 };
/// ops::rope(&x, &device.integers(&[1], &[1])?, rotation, false)?;
/// let rotated = x.to_floats()?;
/// assert!((rotated[0] - 1.0_f32.cos()).abs() < 1e-6 && (rotated[1] - 1.0_f32.sin()).abs() < 1e-6);
/// # Ok::<(), lingot_device::Error>(())
/// ```
pub fn rope(x_thc: &Tensor, positions_t: &Tensor, rotation: Rotation, back: bool) -> Result<()> {
    let door = Door::new("rope", x_thc)?;
    let [t, _, c] = door.dims("x", x_thc)?;
    door.operand("positions", positions_t, &[t])?;
    let Rotation { width: rotary_width, theta } = rotation;
    let fits = rotary_width <= c && rotary_width.is_multiple_of(2);
    door.require(fits, "the rotary width", rotary_width, format!("even and at most {c}"))?;
    x_thc.device().enqueue(Rope { x_thc, positions_t, rotary_width, theta, back })
}
