//! The precision of the operands of products. All else is f32: see `docs/decisions` on bf16.

pub use lingot_spec::run::Precision;

/// The nearest bf16 of `x`, ties to even, as an f32.
#[inline(always)]
pub fn to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    // Adding just under half of the last kept digit carries where it must; an odd last digit tips a tie.
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
    if x.is_nan() { x } else { f32::from_bits(rounded) }
}

/// The distance from 1 to the next number: the unit in which errors of products are counted.
pub fn epsilon(precision: Precision) -> f64 {
    match precision {
        Precision::F32 => f64::from(f32::EPSILON),
        Precision::Bf16 => 1.0 / 128.0,
    }
}

/// Whether an op, by its name or that of its forward, takes operands of products: the others are f32 in every
/// precision.
pub fn is_of_products(op: &str) -> bool {
    ["matmul", "grouped_matmul", "attention", "cross_entropy"].iter().any(|forward| op.starts_with(forward))
}

/// An operand of a product as the definitions see it: f64, or rounded through f32 to bf16.
pub(crate) fn operand(precision: Precision, x: f64) -> f64 {
    match precision {
        Precision::F32 => x,
        Precision::Bf16 => f64::from(to_bf16(x as f32)),
    }
}

#[cfg(test)]
mod tests {
    use super::to_bf16;

    #[test]
    fn bf16_is_the_nearest_and_ties_go_to_the_even() {
        let step = 1.0 / 128.0;
        assert_eq!(to_bf16(1.0 + 0.4 * step), 1.0);
        assert_eq!(to_bf16(1.0 + 0.6 * step), 1.0 + step);
        assert_eq!(to_bf16(1.0 + 0.5 * step), 1.0);
        assert_eq!(to_bf16(1.0 + 1.5 * step), 1.0 + 2.0 * step);
        assert_eq!(to_bf16(-1.0 - 1.5 * step), -1.0 - 2.0 * step);
    }

    #[test]
    fn what_is_too_large_becomes_infinite_and_no_number_stays_none() {
        assert_eq!(to_bf16(f32::MAX), f32::INFINITY);
        assert_eq!(to_bf16(f32::NEG_INFINITY), f32::NEG_INFINITY);
        assert!(to_bf16(f32::NAN).is_nan());
        assert_eq!(to_bf16(0.0), 0.0);
    }
}
