//! Loops over slices that several ops share: the exponential, dot products, sums and maxima.
//!
//! Everything here is `#[inline(always)]`, so that it is compiled for the instruction set of the `wide!`
//! function that calls it. Sums run in `LANES` interleaved lanes that are added in a fixed order at the end.

use super::operands::Number;

/// Lanes of a sum; a multiple of every vector's width.
pub(super) const LANES: usize = 32;

/// e^x to about one unit in the last place: e^x = 2^n e^r with |r| <= ln(2)/2, and a polynomial for e^r.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding and subtracting it rounds to the nearest whole number.
    const ROUNDER: f32 = 12_582_912.0;
    /// ln 2 in two parts; the first has so few bits that its product with n is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Written so that a NaN passes both.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let rounded = x * std::f32::consts::LOG2_E + ROUNDER;
    let n = rounded - ROUNDER;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let r2 = r * r;
    let low = 0.5 + r * 1.666_666_5e-1;
    let middle = 4.166_579_6e-2 + r * 8.333_452e-3;
    let high = 1.398_2e-3 + r * 1.987_569_1e-4;
    let polynomial = low + r2 * (middle + r2 * high);
    let e_r = 1.0 + (r + r2 * polynomial);
    // 2^n in two factors, so that neither over- nor underflows before the product does.
    let n = (rounded.to_bits() as i32).wrapping_sub(ROUNDER.to_bits() as i32);
    let half = n >> 1;
    e_r * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The sum over i of the products of the i-th elements of all factors, which are as long as the first.
#[inline(always)]
pub(super) fn dot<const N: usize, E: Number>(factors: [&[E]; N]) -> f32 {
    let len = factors[0].len();
    let parts = factors.map(|factor| factor[..len].as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    for chunk in 0..len / LANES {
        let lines = parts.map(|(lines, _)| &lines[chunk]);
        for lane in 0..LANES {
            lanes[lane] += product(lines.map(|line| line[lane].wide()));
        }
    }
    for lane in 0..len % LANES {
        lanes[lane] += product(parts.map(|(_, rest)| rest[lane].wide()));
    }
    fold(lanes)
}

#[inline(always)]
fn product<const N: usize>(factors: [f32; N]) -> f32 {
    let mut product = factors[0];
    for factor in &factors[1..] {
        product *= factor;
    }
    product
}

/// The lanes of a sum, added pairwise.
#[inline(always)]
pub(super) fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The largest of all; -infinity for none; NaN is passed over.
#[inline(always)]
pub(super) fn max(values: &[f32]) -> f32 {
    let larger = |value: f32, most: f32| if value > most { value } else { most };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (lines, rest) = values.as_chunks::<LANES>();
    for line in lines {
        for lane in 0..LANES {
            lanes[lane] = larger(line[lane], lanes[lane]);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane = larger(value, *lane);
    }
    lanes.iter().fold(f32::NEG_INFINITY, |most, &lane| larger(lane, most))
}

/// Replaces each value by e^(value - shift) and returns their sum.
#[inline(always)]
pub(super) fn exp_in_place(values: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (lines, rest) = values.as_chunks_mut::<LANES>();
    for line in lines {
        for lane in 0..LANES {
            line[lane] = exp(line[lane] - shift);
            lanes[lane] += line[lane];
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *value = exp(*value - shift);
        *lane += *value;
    }
    fold(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut worst: f64 = 0.0;
        for step in -870_000..880_000 {
            let x = step as f32 * 1e-4;
            let exact = f64::from(x).exp();
            let unit = f64::from((exact as f32).next_up()) - f64::from(exact as f32);
            worst = worst.max(((f64::from(exp(x)) - exact) / unit).abs());
        }
        assert!(worst < 2.0, "{worst}");
    }

    #[test]
    fn exp_reaches_its_limits() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn sums_take_every_term_once() {
        for len in [0, 1, 31, 32, 33, 100] {
            let numbers: Vec<f32> = (0..len).map(|i| i as f32).collect();
            assert_eq!(dot([&numbers, &vec![2.0; len]]), (0..len).sum::<usize>() as f32 * 2.0);
        }
    }
}
