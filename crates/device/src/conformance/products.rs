//! Matrix products: plain, per expert, with the loss behind them; and the lookup that is a product with unit
//! vectors.

use super::bench::{Bench, Case, Output};
use crate::error::Result;
use crate::op::Flip;
use crate::ops;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for sizes in
        [[1, 1, 1], [7, 13, 5], [65, 129, 33], [1, 130, 257], [257, 1, 3], [130, 64, 96], [96, 300, 128]]
    {
        for flip in [Flip::NONE, Flip::A, Flip::B, Flip { a: true, b: true }] {
            let label = format!("{sizes:?} flips {} {}", flip.a, flip.b);
            cases.push(Case::new("matmul", label, move |bench| matmul(bench, sizes, flip)));
        }
    }
    // Where each expert's rows end: some without rows, all on one, one row in all, no row at all.
    let ends: [&[i32]; 7] = [
        &[3, 7, 7, 20],
        &[0, 0, 65, 65, 65],
        &[130, 130],
        &[0, 1, 1],
        &[7],
        &[0, 0, 0],
        &[1, 33, 98, 131, 131, 200],
    ];
    for ends in ends {
        for [n, k] in [[5, 7], [65, 13], [32, 129]] {
            let label = format!("ends {ends:?} n {n} k {k}");
            cases.push(Case::new("grouped_matmul", label, move |bench| grouped_matmul(bench, ends, [n, k])));
        }
    }
    for [t, v, d] in [[1, 1, 1], [1, 7, 13], [7, 3, 65], [130, 50, 33]] {
        cases.push(Case::new("embedding", format!("t {t} v {v} d {d}"), move |bench| {
            embedding(bench, [t, v, d])
        }));
    }
    // The last number is the deviation of the logits.
    for ([t, v, d], deviation) in [
        ([1, 1, 1], 1.0),
        ([1, 13, 7], 1.0),
        ([7, 129, 65], 1.0),
        ([130, 1003, 65], 1.0),
        ([33, 300, 16], 40.0),
    ] {
        let label = format!("t {t} v {v} d {d} logits {deviation}");
        cases
            .push(Case::new("cross_entropy", label, move |bench| cross_entropy(bench, [t, v, d], deviation)));
    }
    cases
}

fn matmul(bench: &mut Bench<'_>, [m, k, n]: [usize; 3], flip: Flip) -> Result<Vec<Output>> {
    let a = bench.normal(&if flip.a { [k, m] } else { [m, k] })?;
    let b = bench.normal(&if flip.b { [n, k] } else { [k, n] })?;
    let onto = bench.normal(&[m, n])?;
    ops::matmul_onto(&onto, &a, &b, flip)?;
    let size = (k as f64).sqrt();
    let out = Output::sum("out", ops::matmul(&a, &b, flip)?, k).of_size(size);
    let mut outputs = vec![out, Output::sum("added", onto, k + 1).of_size(size)];
    let over = bench.normal_sums(&[m, n])?;
    ops::matmul_to(&over, &a, &b, flip, false)?;
    outputs.push(Output::sum("written sums", over, k).of_size(size));
    if bench.rounds() {
        let onto = bench.normal_sums(&[m, n])?;
        ops::matmul_onto(&onto, &a, &b, flip)?;
        let sums = Output::sum("sums", ops::matmul_sums(&a, &b, flip)?, k).of_size(size);
        outputs.extend([sums, Output::sum("added sums", onto, k + 1).of_size(size)]);
    }
    Ok(outputs)
}

fn grouped_matmul(bench: &mut Bench<'_>, ends: &[i32], [n, k]: [usize; 2]) -> Result<Vec<Output>> {
    let e = ends.len();
    let rows = ends[e - 1] as usize;
    let most = (0..e).map(|i| ends[i] - if i == 0 { 0 } else { ends[i - 1] }).max().unwrap_or(0) as usize;
    let (x, dy) = (bench.normal(&[rows, k])?, bench.normal(&[rows, n])?);
    let (w, dw) = (bench.normal(&[e, n, k])?, bench.normal_sums(&[e, n, k])?);
    let ends = bench.integers(ends)?;
    let written = bench.normal_sums(&[e, n, k])?;
    ops::grouped_matmul_weights(&dy, &x, &ends, &dw, true)?;
    ops::grouped_matmul_weights(&dy, &x, &ends, &written, false)?;
    let [out, back] =
        [ops::grouped_matmul(&x, &w, &ends, false)?, ops::grouped_matmul(&dy, &w, &ends, true)?];
    Ok(vec![
        Output::sum("out", out, k).of_size((k as f64).sqrt()),
        Output::sum("flipped", back, n).of_size((n as f64).sqrt()),
        Output::sum("dw", dw, most + 1),
        Output::sum("written dw", written, most.max(1)).of_size(1.0),
    ])
}

pub(super) fn embedding(bench: &mut Bench<'_>, [t, v, d]: [usize; 3]) -> Result<Vec<Output>> {
    let (table, d_out) = (bench.normal(&[v, d])?, bench.normal(&[t, d])?);
    let d_table = bench.normal_sums(&[v, d])?;
    let tokens = bench.indices(t, v);
    let tokens = bench.integers(&tokens)?;
    ops::embedding_grad(&d_out, &tokens, &d_table)?;
    Ok(vec![Output::exact("out", ops::embedding(&table, &tokens)?), Output::sum("d_table", d_table, t + 1)])
}

/// An error of one unit in a logit is one of |logit| units in its exponential, and logits reach six
/// deviations.
fn cross_entropy(bench: &mut Bench<'_>, [t, v, d]: [usize; 3], deviation: f64) -> Result<Vec<Output>> {
    let x = bench.normal(&[t, d])?;
    let w = bench.scaled(&[v, d], deviation / (d as f64).sqrt())?;
    let d_w = bench.normal_sums(&[v, d])?;
    let mut targets = bench.indices(t, v);
    for token in (4..t).step_by(5) {
        targets[token] = -1;
    }
    let targets = bench.integers(&targets)?;
    let scale = 0.125;
    let written = bench.normal_sums(&[v, d])?;
    let (losses, d_x) = ops::cross_entropy_grad(&x, &w, &targets, scale, &d_w, true)?;
    ops::cross_entropy_grad(&x, &w, &targets, scale, &written, false)?;
    let condition = 6.0 * deviation;
    let size = scale * deviation / (d as f64).sqrt();
    Ok(vec![
        Output::sum("losses", ops::cross_entropy(&x, &w, &targets)?, v.max(d)).of_size(deviation),
        Output::sum("losses of the gradient", losses, v.max(d)).of_size(deviation),
        Output::sum("d_x", d_x, v.max(d)).of_size(size).condition(condition),
        Output::sum("d_w", d_w, t.max(d) + 1).of_size(1.0).condition(condition),
        Output::sum("written d_w", written, t.max(d)).of_size(1.0).condition(condition),
    ])
}
