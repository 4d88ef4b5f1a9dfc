//! Rotary positions (Su et al., arXiv 2104.09864, equation 34), in the layout that pairs the halves.

use super::operands::{floats, integers, store};
use crate::op::Rope;

pub(super) fn rope(op: &Rope<'_>) {
    let [_, heads, width] = op.x_thc.dims();
    let rotation = Rotation { heads, width, rotary_width: op.rotary_width, theta: op.theta };
    let mut x = floats(op.x_thc);
    rotation.rotate(&mut x, &integers(op.positions_t), op.back);
    store(op.x_thc, &x);
}

/// The sizes of the rotation of x `[T, heads, width]`.
struct Rotation {
    heads: usize,
    width: usize,
    rotary_width: usize,
    theta: f64,
}

impl Rotation {
    /// Rotates the pair `(x_i, x_j)`, `j = i + rotary/2`, by the angle `a = position theta^(-2i/rotary)`:
    /// `(x_i cos a - x_j sin a, x_i sin a + x_j cos a)`. `back` takes -a, which is the inverse and the
    /// transpose, and so the gradient. Elements from `rotary_width` on stay as they are.
    fn rotate(&self, x: &mut [f64], positions: &[i32], back: bool) {
        let half = self.rotary_width / 2;
        for (t, &position) in positions.iter().enumerate() {
            for head in 0..self.heads {
                let first = (t * self.heads + head) * self.width;
                for i in 0..half {
                    let angle =
                        f64::from(position) * self.theta.powf(-2.0 * i as f64 / self.rotary_width as f64);
                    let (sin, cos) = if back { (-angle).sin_cos() } else { angle.sin_cos() };
                    let (left, right) = (x[first + i], x[first + i + half]);
                    x[first + i] = left * cos - right * sin;
                    x[first + i + half] = left * sin + right * cos;
                }
            }
        }
    }
}
