//! The selection bias's step.

use super::operands::floats_mut;
use crate::error::Result;
use crate::host::view;
use crate::op::BalanceBias;

/// `b += rate (sign(e) - mean(sign(e)))`, `e = mean(loads) - load`.
pub(super) fn balance_bias(op: &BalanceBias<'_>) -> Result<()> {
    let (loads_e, bias_e, rate) = (view::<i32>(op.loads_e), floats_mut(op.bias_e)?, op.rate);
    let experts = loads_e.len() as f64;
    let mean = loads_e.iter().map(|&load| f64::from(load)).sum::<f64>() / experts;
    let sign = |load: i32| match mean - f64::from(load) {
        error if error > 0.0 => 1.0,
        error if error < 0.0 => -1.0,
        _ => 0.0,
    };
    let mean_sign = loads_e.iter().map(|&load| sign(load)).sum::<f64>() / experts;
    for (bias, &load) in bias_e.iter_mut().zip(loads_e) {
        *bias = (f64::from(*bias) + rate * (sign(load) - mean_sign)) as f32;
    }
    Ok(())
}
