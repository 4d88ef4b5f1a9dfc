//! Matrix product.

use super::gemm::product;
use super::matrix::{Matrix, Product, Sizes, Target};
use super::operands::{Number, by_kind, numbers, numbers_mut};
use super::team::Team;
use crate::error::Result;
use crate::op::{Flip, MatMul};

/// `out[m,n] = or += a b`, either stored transposed where `flip` says so.
pub(super) fn matmul(team: &Team, op: &MatMul<'_>) -> Result<()> {
    by_kind!(op.a, E => by_kind!(op.out, F => multiplied::<E, F>(team, op)))
}

fn multiplied<E: Number, F: Number>(team: &Team, op: &MatMul<'_>) -> Result<()> {
    let [m, n, k] = op.sizes();
    let (a, b, out) = (numbers::<E>(op.a)?, numbers::<E>(op.b)?, numbers_mut::<F>(op.out)?);
    multiply(team, Sizes { m, n, k }, [a, b], out, op.flip, op.add);
    Ok(())
}

fn multiply<E: Number, F: Number>(
    team: &Team,
    sizes: Sizes,
    [a, b]: [&[E]; 2],
    out: &mut [F],
    flip: Flip,
    add: bool,
) {
    let Sizes { m, n, k } = sizes;
    let a = if flip.a { Matrix::transposed(a, m) } else { Matrix::rows(a, k) };
    let b = if flip.b { Matrix::transposed(b, k) } else { Matrix::rows(b, n) };
    let [a, b] = [a, b].map(E::factor);
    product(team, Product { sizes, a, b, target: Target { first: 0, pitch: n, add } }, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::kernel::Kernel;

    fn numbers(len: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let next = |state: &mut u64| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next(&mut state)).collect()
    }

    fn naive(Sizes { m, n, k }: Sizes, a: &[f32], b: &[f32], flip: Flip) -> Vec<f64> {
        let at = |i: usize, p: usize| f64::from(if flip.a { a[p * m + i] } else { a[i * k + p] });
        let bt = |p: usize, j: usize| f64::from(if flip.b { b[j * k + p] } else { b[p * n + j] });
        (0..m * n).map(|index| (0..k).map(|p| at(index / n, p) * bt(p, index % n)).sum()).collect()
    }

    #[test]
    fn products_of_ragged_sizes_agree_with_the_naive_loop_for_every_kernel() {
        let sizes = [
            (1, 1, 1),
            (2, 33, 70),
            (3, 5, 0),
            (4, 17, 300),
            (15, 47, 9),
            (65, 129, 257),
            (130, 16, 64),
            (270, 300, 520),
            (515, 66, 5),
            (4097, 5, 3),
        ];
        for kernel in Kernel::all() {
            let teams = [1, 3].map(|threads| Team::new(threads, kernel));
            for (m, n, k) in sizes {
                let sizes = Sizes { m, n, k };
                let (a, b, old) = (numbers(m * k, 1), numbers(k * n, 2), numbers(m * n, 3));
                for (flip_a, flip_b, add) in
                    [(false, false, true), (true, false, false), (false, true, true), (true, true, false)]
                {
                    let flip = Flip { a: flip_a, b: flip_b };
                    let [one, three] = teams.each_ref().map(|team| {
                        let mut out = old.clone();
                        multiply(team, sizes, [&a, &b], &mut out, flip, add);
                        out
                    });
                    assert_eq!(one, three, "{} {m} {n} {k} {flip:?}", kernel.name());
                    let wanted = naive(sizes, &a, &b, flip);
                    for (index, (&out, wanted)) in one.iter().zip(wanted).enumerate() {
                        let wanted = wanted + if add { f64::from(old[index]) } else { 0.0 };
                        let error = (f64::from(out) - wanted).abs();
                        let name = kernel.name();
                        assert!(
                            error < 2e-6 * (k as f64 + 2.0).sqrt(),
                            "{name} {m} {n} {k} {flip:?} {index}: {error}"
                        );
                    }
                }
            }
        }
    }

    /// Root mean square of the errors, in units of the sums' typical size.
    fn error(kernel: Kernel, sizes: Sizes, a: &[f32], b: &[f32], wanted: &[f64]) -> f64 {
        let mut out = vec![0.0; sizes.m * sizes.n];
        multiply(&Team::new(1, kernel), sizes, [a, b], &mut out, Flip::NONE, false);
        let squares: f64 =
            out.iter().zip(wanted).map(|(&out, wanted)| (f64::from(out) - wanted).powi(2)).sum();
        (squares / wanted.iter().map(|wanted| wanted * wanted).sum::<f64>()).sqrt()
    }

    /// Guards f32 by parts (see `thirds`) against being another precision under the name of f32.
    #[test]
    fn every_kernel_is_about_as_accurate_as_the_portable_one_large_and_small_numbers_mixed() {
        let sizes = Sizes { m: 96, n: 80, k: 1500 };
        let spread = |values: Vec<f32>| {
            values.into_iter().enumerate().map(|(i, x)| x * 2.0_f32.powi((i * 7 % 41) as i32 - 20)).collect()
        };
        for stretch in [|values| values, spread as fn(Vec<f32>) -> Vec<f32>] {
            let (a, b) = (stretch(numbers(sizes.m * sizes.k, 4)), stretch(numbers(sizes.k * sizes.n, 5)));
            let wanted = naive(sizes, &a, &b, Flip::NONE);
            let errors =
                Kernel::all().into_iter().map(|kernel| (kernel, error(kernel, sizes, &a, &b, &wanted)));
            let errors: Vec<_> = errors.collect();
            let portable = errors.last().map_or(0.0, |&(_, error)| error);
            for (kernel, error) in errors {
                assert!(error < 2.0 * portable, "{}: {error:.2e} against {portable:.2e}", kernel.name());
                println!("{}: {error:.2e}", kernel.name());
            }
        }
    }
}
