//! Sums over workers that have the same bits everywhere: f32, in the order of the ranks.

/// Returns the sum of `weights[rank] * parts[rank]`, added up in the order of the ranks from the first
/// product on.
///
/// # Panics
/// If there is not one weight per part, or a part is shorter than the first.
pub fn weighted(parts: &[&[f32]], weights: &[f32]) -> Vec<f32> {
    assert_eq!(parts.len(), weights.len(), "one weight for each part");
    let length = parts.first().map_or(0, |part| part.len());
    let mut sum = vec![0.0; length];
    add_weighted(&mut sum, parts, weights, 0);
    sum
}

/// Adds `part` to `sum`, number by number.
///
/// # Panics
/// If they differ in length.
pub fn add(sum: &mut [f32], part: &[f32]) {
    assert_eq!(sum.len(), part.len(), "parts of one length");
    sum.iter_mut().zip(part).for_each(|(sum, &x)| *sum += x);
}

/// Whether every number is finite. It looks at whole blocks of numbers, which vectorises.
pub fn is_finite(numbers: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    let is_odd = |number: &f32| u32::from(number.to_bits() & EXPONENT == EXPONENT);
    numbers.chunks(4096).all(|stretch| stretch.iter().map(is_odd).fold(0, |any, odd| any | odd) == 0)
}

/// Writes the weighted sum of the parts' numbers from `from` on into `sum`.
pub(crate) fn add_weighted(sum: &mut [f32], parts: &[&[f32]], weights: &[f32], from: usize) {
    for (rank, (part, &weight)) in parts.iter().zip(weights).enumerate() {
        let part = &part[from..from + sum.len()];
        // A weight of 0 takes the part out altogether: what it holds need not be finite.
        if rank == 0 {
            sum.iter_mut()
                .zip(part)
                .for_each(|(sum, &x)| *sum = if weight == 0.0 { 0.0 } else { weight * x });
        } else if weight != 0.0 {
            sum.iter_mut().zip(part).for_each(|(sum, &x)| *sum += weight * x);
        }
    }
}

/// Returns the Euclidean norm, added up in f64.
pub fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

/// Returns the Euclidean norm of `a - b`, each difference rounded to f32, added up in f64.
pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a - b) * f64::from(a - b)).sum::<f64>().sqrt()
}
