//! Attention over documents of many lengths, for training and behind a cache of keys.

use super::bench::{Bench, Case, Output};
use crate::error::Result;
use crate::ops;

/// Tokens' sizes [H, G, C], the lengths of the documents, the keys before the first query, the deviation of
/// the scores.
type Shape = ([usize; 3], &'static [usize], usize, f64);

const SHAPES: [Shape; 11] = [
    ([1, 1, 1], &[1], 0, 1.0),
    ([2, 2, 7], &[7], 0, 1.0),
    ([4, 2, 16], &[1, 1, 1, 1], 0, 1.0),
    ([4, 1, 13], &[5, 1, 60, 1, 3], 0, 1.0),
    ([6, 2, 32], &[65], 0, 1.0),
    ([4, 4, 64], &[130], 0, 1.0),
    ([8, 2, 64], &[3, 96, 70], 0, 1.0),
    ([2, 1, 16], &[33], 0, 20.0),
    ([4, 2, 16], &[1], 40, 1.0),
    ([4, 2, 16], &[5], 129, 1.0),
    ([2, 2, 128], &[1, 200], 0, 1.0),
];

pub(super) fn cases() -> Vec<Case> {
    let case = |shape: Shape| {
        let (sizes, documents, earlier, deviation) = shape;
        let label = format!("hgc {sizes:?} documents {documents:?} after {earlier} scores {deviation}");
        Case::new("attention", label, move |bench| attention(bench, shape))
    };
    SHAPES.into_iter().map(case).collect()
}

/// An error of one unit in a score is one of |score| units in its exponential, and scores reach six
/// deviations.
fn attention(
    bench: &mut Bench<'_>,
    ([h, g, c], documents, earlier, deviation): Shape,
) -> Result<Vec<Output>> {
    let t: usize = documents.iter().sum();
    let s = earlier + t;
    let q = bench.normal(&[t, h, c])?;
    let (k, v) = (bench.normal(&[s, g, c])?, bench.normal(&[s, g, c])?);
    let scale = deviation / (c as f64).sqrt();
    let starts = bench.integers(&starts(documents, earlier))?;
    let attended = ops::attention(&q, &k, &v, &starts, scale)?;
    let condition = 6.0 * deviation;
    let mut outputs = vec![
        Output::sum("out", attended.out_thc.clone(), s.max(c)).condition(condition),
        Output::sum("lse", attended.lse_th.clone(), s.max(c)).of_size(deviation),
    ];
    if earlier == 0 {
        let d_out = bench.normal(&[t, h, c])?;
        let [d_q, d_k, d_v] = ops::attention_grad(&d_out, [&q, &k, &v], &starts, scale, &attended)?;
        // d_q and d_k are sums of scale x (differences of d_out . v, of size sqrt(C)) x elements of size 1.
        outputs.extend([
            Output::sum("d_q", d_q, s.max(c)).of_size(deviation).condition(condition),
            Output::sum("d_k", d_k, (t * h / g).max(c)).of_size(deviation).condition(condition),
            Output::sum("d_v", d_v, (t * h / g).max(c)).of_size(1.0).condition(condition),
        ]);
    }
    Ok(outputs)
}

/// The first key of each query's document; the first document includes the earlier keys.
fn starts(documents: &[usize], earlier: usize) -> Vec<i32> {
    let mut starts = vec![];
    let mut first = 0;
    for (i, &length) in documents.iter().enumerate() {
        starts.extend(std::iter::repeat_n(first as i32, length));
        first += length + if i == 0 { earlier } else { 0 };
    }
    starts
}
