//! The head with its loss: all of the vocabulary, but targets for few tokens, which are spread over all. The
//! definition needs the logits of the tokens with targets alone; a device does the work of all.

use super::products::{case, seed};
use super::sampled::{Drawn, Elements, dot, each, log_sum_exp};
use super::{HeadShape, SampledCase, SampledOutput};
use crate::conformance::random::Random;
use crate::ops;
use crate::tensor::Kind;

/// What the loss is multiplied by.
const SCALE: f64 = 0.125;

/// The operands of the head, and the tokens that have targets.
#[derive(Clone)]
struct Head {
    x: Drawn,
    w: Drawn,
    d_w: Drawn,
    vocabulary: usize,
    width: usize,
    /// The tokens with targets.
    tokens: Vec<usize>,
    /// The target of each token; -1 for none.
    targets: Vec<i32>,
    /// Elements of the head's gradient that are checked.
    of_head: Elements,
    /// Elements of the gradient by x, among the rows of the tokens with targets.
    of_rows: Elements,
}

/// The loss and both gradients.
pub(super) fn cross_entropy(shape: HeadShape, kind: Kind) -> SampledCase {
    let HeadShape { tokens: t, vocabulary: v, width: d, targets } = shape;
    let label = format!("t {t} v {v} d {d} targets {targets}");
    let mut random = Random::new(seed(&label));
    // Logits of deviation 1.
    let [x, d_w] = [kind, kind.sums()].map(|kind| Drawn::new(&mut random, 1.0, kind));
    let w = Drawn::new(&mut random, 1.0 / (d as f64).sqrt(), kind);
    let count = targets.min(t);
    let tokens: Vec<usize> = (0..count)
        .map(|index| {
            let [from, to] = [index, index + 1].map(|index| index * t / count);
            from + random.below((to - from).max(1))
        })
        .collect();
    let mut targets = vec![-1; t];
    for &token in &tokens {
        targets[token] = random.below(v) as i32;
    }
    let of_head = Elements::of([v, d], count, &mut random);
    let wide = 16.max(d / 32).min(d);
    let of_rows = Elements::with([count, d], [1, wide], &mut random);
    let head = Head { x, w, d_w, vocabulary: v, width: d, tokens, targets, of_head, of_rows };
    let of_tokens = Elements { indices: head.tokens.clone(), cell: [t.div_ceil(count), 1] };
    let in_rows: Vec<usize> =
        head.of_rows.indices.iter().map(|index| head.tokens[index / d] * d + index % d).collect();
    let rows = Elements { indices: in_rows, cell: [t.div_ceil(count), wide] };
    let size = SCALE / (d as f64).sqrt();
    // As in the small suite: logits reach six deviations.
    let outputs = vec![
        SampledOutput::new("losses", &of_tokens, v.max(d), 1.0),
        SampledOutput::new("losses of the gradient", &of_tokens, v.max(d), 1.0),
        SampledOutput::new("d_x", &rows, v.max(d), size).condition(6.0),
        SampledOutput::new("d_w", &head.of_head, count.max(d) + 1, 1.0).condition(6.0),
    ];
    let on_host = head.clone();
    let run = move |device: &crate::device::Device| {
        let (x, w) = (head.x.on(device, &[t, d])?, head.w.on(device, &[v, d])?);
        let (d_w, targets) = (head.d_w.on(device, &[v, d])?, device.integers(&head.targets, &[t])?);
        let losses = ops::cross_entropy(&x, &w, &targets)?;
        let (again, d_x) = ops::cross_entropy_grad(&x, &w, &targets, SCALE, &d_w, true)?;
        Ok(vec![losses, again, d_x, d_w])
    };
    case("cross_entropy", label, outputs, random.fingerprint(), run, move || on_host.define())
}

impl Head {
    fn define(&self) -> Vec<Vec<f64>> {
        let (v, d) = (self.vocabulary, self.width);
        let x: Vec<Vec<f64>> = self.tokens.iter().map(|token| self.x.row(token * d, d)).collect();
        // By vocabulary first: each row of the head is read once for all tokens.
        let logits: Vec<Vec<f64>> = each(v, |word| {
            let row = self.w.row(word * d, d);
            x.iter().map(|x| dot(&row, x)).collect()
        });
        let found: Vec<(f64, f64)> = each(self.tokens.len(), |index| {
            let lse = log_sum_exp(&logits.iter().map(|row| row[index]).collect::<Vec<f64>>());
            (lse, lse - logits[self.target(index)][index])
        });
        let losses: Vec<f64> = found.iter().map(|(_, loss)| *loss).collect();
        let d_logits: Vec<Vec<f64>> = each(v, |word| {
            let d_logit = |index: usize| {
                let hit = if word == self.target(index) { 1.0 } else { 0.0 };
                SCALE * ((logits[word][index] - found[index].0).exp() - hit)
            };
            (0..self.tokens.len()).map(d_logit).collect()
        });
        let d_x = each(self.of_rows.indices.len(), |element| {
            let (index, column) = (self.of_rows.indices[element] / d, self.of_rows.indices[element] % d);
            (0..v).map(|word| d_logits[word][index] * self.w.at(word * d + column)).sum()
        });
        let d_w = each(self.of_head.indices.len(), |element| {
            let place = self.of_head.indices[element];
            let (word, column) = (place / d, place % d);
            let sum: f64 = x.iter().zip(&d_logits[word]).map(|(x, d_logit)| d_logit * x[column]).sum();
            self.d_w.at(place) + sum
        });
        vec![losses.clone(), losses, d_x, d_w]
    }

    fn target(&self, index: usize) -> usize {
        self.targets[self.tokens[index]] as usize
    }
}
