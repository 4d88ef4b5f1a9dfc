//! Gradients of products, of the lookup, and of the loss behind the head.

use super::{Check, integers, zeros_like};
use lingot_device::{Flip, Kind, Result, Tensor, ops};

#[test]
pub(super) fn matmul_has_the_gradient_of_finite_differences() {
    for [m, k, n] in [[1, 1, 1], [3, 5, 2], [7, 1, 4]] {
        let flips = [(false, false), (false, true), (true, false), (true, true)].map(|(a, b)| Flip { a, b });
        for flip in flips {
            let a_shape = if flip.a { [k, m] } else { [m, k] };
            let b_shape = if flip.b { [n, k] } else { [k, n] };
            Check {
                name: &format!("matmul {m} {k} {n} {flip:?}"),
                inputs: &[&a_shape, &b_shape],
                forward: &|x| Ok(vec![ops::matmul(&x[0], &x[1], flip)?]),
                backward: &|x, d| matmul_grad(&x[0], &x[1], &d[0], flip),
            }
            .run();
        }
    }
}

fn matmul_grad(a: &Tensor, b: &Tensor, d_out: &Tensor, flip: Flip) -> Result<Vec<Tensor>> {
    let d_a = match (flip.a, flip.b) {
        (false, b_flipped) => ops::matmul(d_out, b, Flip { a: false, b: !b_flipped })?,
        (true, b_flipped) => ops::matmul(b, d_out, Flip { a: b_flipped, b: true })?,
    };
    let d_b = match (flip.a, flip.b) {
        (a_flipped, false) => ops::matmul(a, d_out, Flip { a: !a_flipped, b: false })?,
        (a_flipped, true) => ops::matmul(d_out, a, Flip { a: true, b: a_flipped })?,
    };
    Ok(vec![d_a, d_b])
}

#[test]
pub(super) fn grouped_matmul_has_the_gradient_of_finite_differences() {
    let (e, n, k) = (4, 3, 2);
    // The second case has experts without rows at the beginning, in the middle and at the end.
    for ends in [[1, 3, 4, 6], [0, 3, 3, 3], [1, 1, 1, 1]] {
        let rows = ends[3] as usize;
        for flip in [false, true] {
            Check {
                name: &format!("grouped_matmul {ends:?} {flip}"),
                inputs: &[&[rows, if flip { n } else { k }], &[e, n, k]],
                forward: &|x| Ok(vec![ops::grouped_matmul(&x[0], &x[1], &integers(&x[0], &ends)?, flip)?]),
                backward: &|x, d| {
                    let ends = integers(&x[0], &ends)?;
                    let d_w = zeros_like(&x[1])?;
                    let [dy, x_rows] = if flip { [&x[0], &d[0]] } else { [&d[0], &x[0]] };
                    ops::grouped_matmul_weights(dy, x_rows, &ends, &d_w, true)?;
                    Ok(vec![ops::grouped_matmul(&d[0], &x[1], &ends, !flip)?, d_w])
                },
            }
            .run();
        }
    }
}

#[test]
pub(super) fn embedding_has_the_gradient_of_finite_differences() {
    for tokens in [vec![4], vec![0, 2, 2, 4, 2]] {
        Check {
            name: &format!("embedding {tokens:?}"),
            inputs: &[&[5, 3]],
            forward: &|x| Ok(vec![ops::embedding(&x[0], &integers(&x[0], &tokens)?)?]),
            backward: &|x, d| {
                let d_table = zeros_like(&x[0])?;
                ops::embedding_grad(&d[0], &integers(&x[0], &tokens)?, &d_table)?;
                Ok(vec![d_table])
            },
        }
        .run();
    }
}

#[test]
pub(super) fn cross_entropy_has_the_gradient_of_finite_differences() {
    for (targets, v, d) in [(vec![0], 1, 1), (vec![2], 3, 4), (vec![6, -1, 0, 3, 3], 7, 3)] {
        // One cotangent for all losses, as the op takes one scale.
        let total = |losses: &Tensor| -> Result<Tensor> {
            let ones = losses.device().floats(&vec![1.0; losses.len()], &[losses.len(), 1], Kind::F64)?;
            ops::matmul(&losses.reshape(&[1, losses.len()]), &ones, Flip::NONE)
        };
        Check {
            name: &format!("cross_entropy {targets:?}"),
            inputs: &[&[targets.len(), d], &[v, d]],
            forward: &|x| Ok(vec![total(&ops::cross_entropy(&x[0], &x[1], &integers(&x[0], &targets)?)?)?]),
            backward: &|x, d| {
                let (scale, d_w) = (d[0].to_doubles()?[0], zeros_like(&x[1])?);
                let targets = integers(&x[0], &targets)?;
                let (losses, d_x) = ops::cross_entropy_grad(&x[0], &x[1], &targets, scale, &d_w, true)?;
                assert_eq!(losses.to_doubles()?, ops::cross_entropy(&x[0], &x[1], &targets)?.to_doubles()?);
                Ok(vec![d_x, d_w])
            },
        }
        .run();
    }
}
