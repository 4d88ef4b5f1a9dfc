//! Matrix products, plain and per expert, at a few of their elements.

use super::sampled::{Drawn, Elements, dot, each};
use super::{ExpertsShape, ProductShape, SampledCase, SampledOutput};
use crate::conformance::random::Random;
use crate::ops;
use crate::tensor::Kind;
use std::sync::OnceLock;

/// `a b` and `out += a b` of these sizes, in values of `kind` and in its sums where these are of another.
pub(super) fn matmul(shape: ProductShape, kind: Kind) -> SampledCase {
    let ProductShape { rows: m, inner: k, columns: n, flip } = shape;
    let label = format!("[{m}, {k}, {n}] flips {} {}", flip.a, flip.b);
    let mut random = Random::new(seed(&label));
    let [a, b, onto] = [(); 3].map(|()| Drawn::new(&mut random, 1.0, kind));
    let has_sums = kind != kind.sums();
    let elements = Elements::of([m, n], k, &mut random);
    let size = (k as f64).sqrt();
    let mut outputs = vec![
        SampledOutput::new("out", &elements, k, size),
        SampledOutput::new("added", &elements, k + 1, size),
    ];
    if has_sums {
        outputs.push(SampledOutput::new("sums", &elements, k, size));
        outputs.push(SampledOutput::new("added sums", &elements, k + 1, size));
    }
    let define = move || {
        let products = each(elements.indices.len(), |index| {
            let (i, j) = (elements.indices[index] / n, elements.indices[index] % n);
            let left = if flip.a { strided(a, i, m, k) } else { a.row(i * k, k) };
            let right = if flip.b { b.row(j * k, k) } else { strided(b, j, n, k) };
            dot(&left, &right)
        });
        let added_to = |onto: Drawn| {
            elements.indices.iter().zip(&products).map(|(&index, x)| x + onto.at(index)).collect::<Vec<f64>>()
        };
        let mut wanted = vec![products.clone(), added_to(onto)];
        if has_sums {
            wanted.extend([products.clone(), added_to(onto.of(kind.sums()))]);
        }
        wanted
    };
    let run = move |device: &crate::device::Device| {
        let a = a.on(device, &if flip.a { [k, m] } else { [m, k] })?;
        let b = b.on(device, &if flip.b { [n, k] } else { [k, n] })?;
        let added = onto.on(device, &[m, n])?;
        ops::matmul_onto(&added, &a, &b, flip)?;
        let mut outputs = vec![ops::matmul(&a, &b, flip)?, added];
        if has_sums {
            let added = onto.of(kind.sums()).on(device, &[m, n])?;
            ops::matmul_onto(&added, &a, &b, flip)?;
            outputs.extend([ops::matmul_sums(&a, &b, flip)?, added]);
        }
        Ok(outputs)
    };
    case("matmul", label, outputs, random.fingerprint(), run, define)
}

/// `count` elements, each `pitch` after the one before.
fn strided(drawn: Drawn, first: usize, pitch: usize, count: usize) -> Vec<f64> {
    (0..count).map(|index| drawn.at(first + index * pitch)).collect()
}

/// The three products of the experts, over rows that are shared out unevenly.
pub(super) fn experts(shape: ExpertsShape, kind: Kind) -> Vec<SampledCase> {
    let ends = ends(shape.experts, shape.rows);
    vec![forward(shape, &ends, false, kind), forward(shape, &ends, true, kind), weights(shape, &ends, kind)]
}

/// Where each expert's rows end: a few experts have none, the others have from half to one and a half of
/// their share.
fn ends(experts: usize, rows: usize) -> Vec<i32> {
    let mut random = Random::new(experts as u64);
    let parts: Vec<usize> = (0..experts)
        .map(|expert| if experts > 4 && expert % 16 == 5 { 0 } else { 512 + random.below(1024) })
        .collect();
    let all: usize = parts.iter().sum();
    let mut sum = 0;
    parts
        .iter()
        .map(|part| {
            sum += part;
            (sum * rows / all.max(1)) as i32
        })
        .collect()
}

fn expert_of(ends: &[i32], row: usize) -> usize {
    ends.partition_point(|&end| end as usize <= row)
}

fn forward(shape: ExpertsShape, ends: &[i32], flip: bool, kind: Kind) -> SampledCase {
    let ExpertsShape { experts: e, rows, outer: n, inner: k } = shape;
    let label = format!("rows {rows} e {e} n {n} k {k} flipped {flip}");
    let mut random = Random::new(seed(&label));
    let [x, w] = [(); 2].map(|()| Drawn::new(&mut random, 1.0, kind));
    let (summed, width) = if flip { (n, k) } else { (k, n) };
    let elements = Elements::of([rows, width], summed, &mut random);
    let outputs = vec![SampledOutput::new("out", &elements, summed, (summed as f64).sqrt())];
    let (ends, on_host) = (ends.to_vec(), ends.to_vec());
    let define = move || {
        vec![each(elements.indices.len(), |index| {
            let (row, column) = (elements.indices[index] / width, elements.indices[index] % width);
            let first = expert_of(&on_host, row) * n * k;
            let of_expert =
                if flip { strided(w, first + column, k, n) } else { w.row(first + column * k, k) };
            dot(&x.row(row * summed, summed), &of_expert)
        })]
    };
    let run = move |device: &crate::device::Device| {
        let (x, w) = (x.on(device, &[rows, summed])?, w.on(device, &[e, n, k])?);
        let ends = device.integers(&ends, &[e])?;
        Ok(vec![ops::grouped_matmul(&x, &w, &ends, flip)?])
    };
    case("grouped_matmul", label, outputs, random.fingerprint(), run, define)
}

fn weights(shape: ExpertsShape, ends: &[i32], kind: Kind) -> SampledCase {
    let ExpertsShape { experts: e, rows, outer: n, inner: k } = shape;
    let label = format!("rows {rows} e {e} n {n} k {k}");
    let mut random = Random::new(seed(&label));
    let [dy, x, dw] = [kind, kind, kind.sums()].map(|kind| Drawn::new(&mut random, 1.0, kind));
    let most = (0..e).map(|expert| rows_of(ends, expert).len()).max().unwrap_or(0);
    let elements = Elements::of([e * n, k], rows.div_ceil(e), &mut random);
    let outputs = vec![SampledOutput::new("dw", &elements, most + 1, 1.0)];
    let (ends, on_host) = (ends.to_vec(), ends.to_vec());
    let define = move || {
        vec![each(elements.indices.len(), |index| {
            let (place, column) = (elements.indices[index] / k, elements.indices[index] % k);
            let (expert, line) = (place / n, place % n);
            let sum: f64 =
                rows_of(&on_host, expert).map(|row| dy.at(row * n + line) * x.at(row * k + column)).sum();
            dw.at(elements.indices[index]) + sum
        })]
    };
    let run = move |device: &crate::device::Device| {
        let (dy, x) = (dy.on(device, &[rows, n])?, x.on(device, &[rows, k])?);
        let (dw, ends) = (dw.on(device, &[e, n, k])?, device.integers(&ends, &[e])?);
        ops::grouped_matmul_weights(&dy, &x, &ends, &dw, true)?;
        Ok(vec![dw])
    };
    case("grouped_matmul_weights", label, outputs, random.fingerprint(), run, define)
}

fn rows_of(ends: &[i32], expert: usize) -> std::ops::Range<usize> {
    let first = if expert == 0 { 0 } else { ends[expert - 1] };
    first as usize..ends[expert] as usize
}

/// A seed of a case's own, from its label.
pub(super) fn seed(label: &str) -> u64 {
    label.bytes().fold(7, |seed: u64, byte| seed * 31 % 1_000_003 + u64::from(byte))
}

/// Puts a case together.
pub(super) fn case(
    op: &'static str,
    label: String,
    outputs: Vec<SampledOutput>,
    inputs_hash: u64,
    run: impl Fn(&crate::device::Device) -> crate::error::Result<Vec<crate::tensor::Tensor>> + 'static,
    define: impl Fn() -> Vec<Vec<f64>> + 'static,
) -> SampledCase {
    let (run, define) = (Box::new(run), Box::new(define));
    SampledCase { op, label, outputs, run, define, wanted: OnceLock::new(), inputs_hash }
}
