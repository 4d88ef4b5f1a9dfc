//! Rotary positions (Su et al., arXiv 2104.09864), in place. The gradient is the rotation back.

use super::door::Door;
use crate::error::Result;
use crate::op::Op;
use crate::tensor::Tensor;

/// How heads are rotated: the first `width` of each head (partial RoPE), frequencies `theta^(-2i/width)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rotation {
    pub width: usize,
    pub theta: f64,
}

/// Rotates each head of `x` [T, H, C] by its token's position, or back.
pub fn rope(x_thc: &Tensor, positions_t: &Tensor, rotation: Rotation, back: bool) -> Result<()> {
    let door = Door::new("rope", x_thc)?;
    let [t, _, c] = door.dims("x", x_thc)?;
    door.integers("positions", positions_t, &[t])?;
    let Rotation { width: rotary_width, theta } = rotation;
    let fits = rotary_width <= c && rotary_width.is_multiple_of(2);
    door.require(fits, "the rotary width", rotary_width, format!("even and at most {c}"))?;
    x_thc.device().run(Op::Rope { x_thc, positions_t, rotary_width, theta, back })
}
