//! The selection bias's step towards equal loads, with zero mean (Ling 2.0; loss-free balancing, arXiv 2408.15664).

use super::describe::{moved, op};
use super::door::Door;
use crate::error::Result;
use crate::tensor::Tensor;
use lingot_spec::Cost;

op! {
    /// The selection bias's step, in place: `b += rate (sign(e) - mean(sign(e)))`, `e = mean(loads) - load`.
    BalanceBias = "balance_bias" {
        loads_e = "loads": read,
        bias_e = "bias": update,
    }
    {
        /// The largest change of a bias, about.
        rate: f64,
    }
}

impl BalanceBias<'_> {
    /// The op's cost.
    pub fn cost(&self) -> Cost {
        moved(3 * self.bias_e.len())
    }
}

/// `b += rate (sign(e) - mean(sign(e)))` with `e = mean(loads) - load`, in place.
pub fn balance_bias(bias_e: &Tensor, loads_e: &Tensor, rate: f64) -> Result<()> {
    let door = Door::new("balance_bias", bias_e)?;
    let [e] = door.dims("bias", bias_e)?;
    door.integers("loads", loads_e, &[e])?;
    bias_e.device().enqueue(BalanceBias { loads_e, bias_e, rate })
}
