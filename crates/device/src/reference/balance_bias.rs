//! The selection bias's step towards equal loads (loss-free balancing, arXiv 2408.15664), with zero mean
//! (Ling 2.0).

use super::operands::{floats, integers, store};
use crate::op::BalanceBias;

pub(super) fn balance_bias(op: &BalanceBias<'_>) {
    let mut bias = floats(op.bias_e);
    step(&integers(op.loads_e), &mut bias, op.rate);
    store(op.bias_e, &bias);
}

/// `b += rate (sign(e) - mean(sign(e)))` with `e = mean(loads) - load`; the sign of 0 is 0.
fn step(loads: &[i32], bias: &mut [f64], rate: f64) {
    let count = loads.len() as f64;
    let mean_load = loads.iter().map(|&load| f64::from(load)).sum::<f64>() / count;
    let signs: Vec<f64> = loads.iter().map(|&load| sign(mean_load - f64::from(load))).collect();
    let mean_sign = signs.iter().sum::<f64>() / count;
    for (bias, sign) in bias.iter_mut().zip(signs) {
        *bias += rate * (sign - mean_sign);
    }
}

fn sign(x: f64) -> f64 {
    if x > 0.0 {
        1.0
    } else if x < 0.0 {
        -1.0
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_expert_gains_and_the_mean_stays() {
        let mut bias = [0.0; 4];
        step(&[0, 4, 10, 2], &mut bias, 1.0);
        assert_eq!(bias, [0.75, -0.25, -1.25, 0.75]);
    }
}
