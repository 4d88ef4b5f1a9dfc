//! Gradients of ops that work row by row or head by head.

use super::{Check, integers, zeros_like};
use lingot_device::ops::{self, Rotation};
use lingot_device::{Kind, Result, Tensor};

#[test]
pub(super) fn rms_norm_has_the_gradient_of_finite_differences() {
    let shapes: [&[usize]; 4] = [&[1, 1], &[1, 7], &[5, 3], &[2, 3, 4]];
    for shape in shapes {
        for epsilon in [1e-6, 0.5] {
            Check {
                name: &format!("rms_norm {shape:?} {epsilon}"),
                inputs: &[shape, &shape[shape.len() - 1..]],
                forward: &|x| Ok(vec![ops::rms_norm(&x[0], &x[1], epsilon)?]),
                backward: &|x, d| {
                    let d_scale = zeros_like(&x[1])?;
                    Ok(vec![ops::rms_norm_grad(&d[0], &x[0], &x[1], epsilon, None, &d_scale)?, d_scale])
                },
            }
            .run();
        }
    }
}

#[test]
pub(super) fn rope_has_the_gradient_of_finite_differences() {
    for (shape, width) in [([1, 1, 2], 2), ([4, 2, 6], 6), ([4, 3, 8], 4), ([2, 1, 4], 0)] {
        let positions: Vec<i32> = [0, 1, 0, 4000][..shape[0]].to_vec();
        let rotation = Rotation { width, theta: 100.0 };
        let rotate = |x: &Tensor, back: bool| -> Result<Vec<Tensor>> {
            let rotated = zeros_like(x)?;
            ops::copy(&rotated, x)?;
            ops::rope(&rotated, &integers(x, &positions)?, rotation, back)?;
            Ok(vec![rotated])
        };
        Check {
            name: &format!("rope {shape:?} {width}"),
            inputs: &[&shape],
            forward: &|x| rotate(&x[0], false),
            backward: &|_, d| rotate(&d[0], true),
        }
        .run();
    }
}

#[test]
pub(super) fn attention_has_the_gradient_of_finite_differences() {
    // Tokens, heads, kv heads, head width; then the first token of each token's document.
    let cases: [([usize; 4], &[i32]); 4] = [
        ([1, 1, 1, 1], &[0]),
        ([5, 2, 2, 3], &[0, 0, 0, 0, 0]),
        ([6, 4, 2, 2], &[0, 0, 2, 3, 3, 3]),
        ([3, 3, 1, 4], &[0, 1, 2]),
    ];
    for ([t, h, g, c], starts) in cases {
        let scale = 0.7;
        Check {
            name: &format!("attention {t} {h} {g} {c} {starts:?}"),
            inputs: &[&[t, h, c], &[t, g, c], &[t, g, c]],
            forward: &|x| {
                let starts = integers(&x[0], starts)?;
                Ok(vec![ops::attention(&x[0], &x[1], &x[2], &starts, scale)?.out_thc])
            },
            backward: &|x, d| {
                let starts = integers(&x[0], starts)?;
                let attended = ops::attention(&x[0], &x[1], &x[2], &starts, scale)?;
                let qkv = [&x[0], &x[1], &x[2]];
                Ok(ops::attention_grad(&d[0], qkv, &starts, scale, &attended)?.to_vec())
            },
        }
        .run();
    }
}

#[test]
pub(super) fn swiglu_has_the_gradient_of_finite_differences() {
    for [rows, f] in [[1, 1], [3, 5]] {
        Check {
            name: &format!("swiglu {rows} {f}"),
            inputs: &[&[rows, 2 * f]],
            forward: &|x| Ok(vec![ops::swiglu(&x[0], None)?]),
            backward: &|x, d| Ok(vec![ops::swiglu_grad(copy(&d[0])?, copy(&x[0])?)?.d_gate_up]),
        }
        .run();
        Check {
            name: &format!("swiglu {rows} {f}, weighted"),
            inputs: &[&[rows, 2 * f], &[rows]],
            forward: &|x| Ok(vec![ops::swiglu(&x[0], Some(&x[1]))?]),
            backward: &|x, d| {
                let gradient = ops::weighted_swiglu_grad(copy(&d[0])?, copy(&x[0])?, &x[1])?;
                Ok(vec![gradient.d_gate_up, gradient.d_weights_r])
            },
        }
        .run();
    }
}

/// A copy, for an op to overwrite.
fn copy(of: &Tensor) -> Result<Tensor> {
    let copy = zeros_like(of)?;
    ops::copy(&copy, of)?;
    Ok(copy)
}

#[test]
pub(super) fn scale_columns_is_its_own_gradient() {
    let scales = |like: &Tensor| like.device().floats(&[0.5, -2.0, 3.0], &[3], Kind::F64);
    Check {
        name: "scale_columns",
        inputs: &[&[4, 3]],
        forward: &|x| Ok(vec![ops::scale_columns(&x[0], &scales(&x[0])?)?]),
        backward: &|x, d| Ok(vec![ops::scale_columns(&d[0], &scales(&x[0])?)?]),
    }
    .run();
}
