//! The selection bias's step towards equal loads, with zero mean (Ling 2.0; loss-free balancing, arXiv 2408.15664).

use super::door::Door;
use crate::error::Result;
use crate::op::Op;
use crate::tensor::Tensor;

/// `b += rate (sign(e) - mean(sign(e)))` with `e = mean(loads) - load`, in place.
pub fn balance_bias(bias_e: &Tensor, loads_e: &Tensor, rate: f64) -> Result<()> {
    let door = Door::new("balance_bias", bias_e)?;
    let [e] = door.dims("bias", bias_e)?;
    door.integers("loads", loads_e, &[e])?;
    bias_e.device().run(Op::BalanceBias { loads_e, bias_e, rate })
}
