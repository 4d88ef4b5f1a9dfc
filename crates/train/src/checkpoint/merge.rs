//! Warmup-stable-merge: annealing by averaging the checkpoints of a constant rate, instead of lowering the
//! rate.
//!
//! Between neighbouring checkpoints lies the sum of the updates made there. A decay would have multiplied the
//! updates of interval `i` by `w_i`; the same sum is a weighted mean of the checkpoints: `c_0 = 1 - w_1`,
//! `c_j = w_j - w_(j+1)`, `c_k = w_k` (Ling 2.0, arXiv 2510.22115).

use super::writer::{named, save_as};
use super::{Tensor, load_weights, manifest};
use lingot_spec::manifest::{Manifest, MergeSource};
use lingot_spec::problem::{Problem, ProblemKind, Result};
use std::path::{Path, PathBuf};

/// The decay that a merge stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// Falls linearly to zero over the merged span: `w_i = 1 - (i - 1/2) / k`, its mean over the interval.
    Linear,
    /// Falls as `w_i = 1 / sqrt(1 + i)`.
    InverseSqrt,
    /// Weighs all checkpoints equally, which is `w_i = 1 - i / (k + 1)`.
    Mean,
}

/// Returns the shares of `n` checkpoints, oldest first. None is negative, and they sum to one.
pub fn coefficients(kind: Decay, n: usize) -> Vec<f64> {
    if n == 0 {
        return Vec::new();
    }
    let intervals = (n - 1) as f64;
    let decay = |i: usize| match (i, kind) {
        (0, _) => 1.0,
        (i, _) if i == n => 0.0,
        (i, Decay::Linear) => 1.0 - (i as f64 - 0.5) / intervals,
        (i, Decay::InverseSqrt) => 1.0 / (1.0 + i as f64).sqrt(),
        (i, Decay::Mean) => 1.0 - i as f64 / n as f64,
    };
    (0..n).map(|j| decay(j) - decay(j + 1)).collect()
}

/// Merges the weights of checkpoints of one model, given oldest first, into the new checkpoint folder
/// `place`. The routers' buffers are merged alike; there is no optimizer state. Head and buffers follow the
/// newest.
pub fn merge(sources: &[PathBuf], kind: Decay, place: &Path) -> Result<PathBuf> {
    if place.exists() {
        return Err(Problem::new(
            format!("{} exists already", place.display()),
            "name a folder that does not exist; a merge never overwrites",
        )
        .of(ProblemKind::Input));
    }
    let shares = coefficients(kind, sources.len());
    let manifests = sources.iter().map(|source| manifest::read(source)).collect::<Result<Vec<_>>>()?;
    let newest = check(sources, &manifests)?;
    let mut head = newest.head.clone();
    head.lingot = env!("CARGO_PKG_VERSION").into();
    head.merged = sources
        .iter()
        .zip(&manifests)
        .zip(&shares)
        .map(|((path, manifest), &coefficient)| MergeSource {
            path: path.display().to_string(),
            step: manifest.head.step,
            coefficient,
        })
        .collect();
    let mut weights = Sum::default();
    let mut buffers = Sum::default();
    for (source, &share) in sources.iter().zip(&shares) {
        let loaded = load_weights(source)?;
        weights.add(source, share, loaded.weights)?;
        buffers.add(source, share, loaded.buffers)?;
    }
    let (weights, buffers) = (weights.finish(), buffers.finish());
    save_as(place, head, &named(&weights), &[], &named(&buffers))?;
    Ok(place.to_owned())
}

/// Returns the newest manifest. Errors unless all are of one model, with rising steps.
fn check<'a>(sources: &[PathBuf], manifests: &'a [Manifest]) -> Result<&'a Manifest> {
    let (Some(first), Some(newest)) = (manifests.first(), manifests.last()) else {
        return Err(Problem::new("there is nothing to merge", "name at least one checkpoint"));
    };
    for (source, manifest) in sources.iter().zip(manifests) {
        let difference = manifest::difference(&manifest.head.model, &first.head.model);
        if let Some((key, its, firsts)) = difference {
            let (path, first) = (source.display(), sources[0].display());
            return Err(Problem::new(
                format!("{path} is of another model than {first}: {key} is {its}, not {firsts}"),
                "merge checkpoints of one run",
            )
            .of(ProblemKind::Input));
        }
    }
    for (at, pair) in manifests.windows(2).enumerate() {
        let (before, after) = (pair[0].head.step, pair[1].head.step);
        if before >= after {
            let (a, b) = (sources[at].display(), sources[at + 1].display());
            return Err(Problem::new(
                format!("{b} (step {after}) does not come after {a} (step {before})"),
                "name the checkpoints from the oldest to the newest, each once",
            )
            .of(ProblemKind::Input));
        }
    }
    Ok(newest)
}

/// A weighted sum of lists of tensors, in f64.
#[derive(Default)]
struct Sum {
    tensors: Vec<(String, Vec<usize>, Vec<f64>)>,
}

impl Sum {
    fn add(&mut self, source: &Path, share: f64, tensors: Vec<Tensor>) -> Result<()> {
        if self.tensors.is_empty() {
            self.tensors = tensors
                .into_iter()
                .map(|(name, shape, values)| {
                    (name, shape, values.into_iter().map(|value| share * f64::from(value)).collect())
                })
                .collect();
            return Ok(());
        }
        let alike = self.tensors.len() == tensors.len()
            && self.tensors.iter().zip(&tensors).all(|(a, b)| a.0 == b.0 && a.1 == b.1);
        if !alike {
            return Err(Problem::new(
                format!("{} has other tensors than the checkpoint before it", source.display()),
                "merge checkpoints of one run",
            )
            .of(ProblemKind::Input));
        }
        for ((_, _, sums), (_, _, values)) in self.tensors.iter_mut().zip(tensors) {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += share * f64::from(value);
            }
        }
        Ok(())
    }

    fn finish(self) -> Vec<Tensor> {
        let narrow = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect();
        self.tensors.into_iter().map(|(name, shape, values)| (name, shape, narrow(values))).collect()
    }
}
