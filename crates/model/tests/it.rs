//! The model's tests: gradients by finite differences, what recomputation and splitting may not change,
//! decoding.

// Clippy's exemption for tests does not reach their helpers.
#![allow(clippy::unwrap_used)]

#[path = "it/decode.rs"]
mod decode;
#[path = "it/gradients.rs"]
mod gradients;
#[cfg(unix)]
#[path = "it/launches.rs"]
mod launches;
#[path = "it/seam.rs"]
mod seam;
#[path = "it/work.rs"]
mod work;

use lingot_device::{Device, Kind, Tensor};
use lingot_model::random::Stream;
use lingot_model::{LogitStatistics, Model, Rows};
use lingot_spec::run::Recompute;
use lingot_spec::{ModelSpec, Score, presets};

/// Tokens of two documents per sequence, targets, starts, positions.
struct Text {
    tokens: Vec<i32>,
    targets: Vec<i32>,
    starts: Vec<i32>,
    positions: Vec<i32>,
    sequence: usize,
}

impl Text {
    fn new(spec: &ModelSpec, sequences: usize, sequence: usize) -> Text {
        let mut stream = Stream::new(&[7]);
        let mut text = Text { tokens: vec![], targets: vec![], starts: vec![], positions: vec![], sequence };
        for row in 0..sequences {
            let cut = 1 + (stream.bits() % (sequence as u64 - 1)) as usize;
            for place in 0..sequence {
                let start = if place < cut { 0 } else { cut };
                text.tokens.push((stream.bits() % u64::from(spec.vocabulary)) as i32);
                let ends = place + 1 == cut;
                let target = (stream.bits() % u64::from(spec.vocabulary)) as i32;
                text.targets.push(if ends { -1 } else { target });
                text.starts.push((row * sequence + start) as i32);
                text.positions.push((place - start) as i32);
            }
        }
        text
    }

    fn rows(&self) -> Rows<'_> {
        self.part(0, self.tokens.len() / self.sequence)
    }

    /// So many sequences from sequence `from` on.
    fn part(&self, from: usize, sequences: usize) -> Rows<'_> {
        let range = from * self.sequence..(from + sequences) * self.sequence;
        Rows {
            tokens_t: &self.tokens[range.clone()],
            targets_t: &self.targets[range.clone()],
            starts_t: &self.starts[range.clone()],
            positions_t: &self.positions[range],
            sequence: self.sequence,
        }
    }
}

/// Every architecture there is, in miniature.
fn configurations() -> Vec<(&'static str, ModelSpec)> {
    let v2 = ModelSpec {
        vocabulary: 23,
        width: 12,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_width: 6,
        dense_layers: 1,
        dense_width: 10,
        experts: 6,
        choices: 2,
        expert_width: 5,
        shared_experts: 1,
        rotary_width: 4,
        initial_deviation: 0.3,
        ..presets::preset("toy").unwrap()
    };
    let mut grouped = v2.clone();
    (grouped.router.groups, grouped.router.groups_kept) = (3, 2);
    grouped.router.z_loss = 0.01;
    let mut v1 = ModelSpec { dense_layers: 0, qk_norm: false, rotary_width: 6, ..v2.clone() };
    v1.router.score = Score::Softmax;
    v1.router.selection_bias = false;
    (v1.router.scale, v1.router.balance_loss, v1.router.z_loss) = (1.0, 0.1, 0.01);
    let mut scope = v1.clone();
    scope.router.balance_sequences = 2;
    let mut warm = v1.clone();
    warm.router.warmup_steps = 10;
    let mut plain = v1.clone();
    plain.router.renormalise = false;
    vec![
        ("v2", v2.clone()),
        ("v2, groups", grouped),
        ("v2, multi-token prediction", ModelSpec { mtp_layers: 1, mtp_weight: 0.3, ..v2.clone() }),
        ("v1", v1.clone()),
        ("v1, balance over two sequences", scope),
        ("v1, not renormalised", plain),
        ("v1, routing warmup", warm),
        ("v1, tied", ModelSpec { tied: true, ..v1.clone() }),
        ("v1, no shared expert", ModelSpec { shared_experts: 0, ..v1.clone() }),
        ("v1, one choice", ModelSpec { choices: 1, ..v1 }),
        ("dense", ModelSpec { dense_layers: 2, ..v2 }),
    ]
}

/// A model whose norms and biases are not at their initial values either.
fn shaken(spec: &ModelSpec, device: &Device, kind: Kind) -> Model {
    let mut model = Model::new(spec, device, kind, 3).unwrap();
    let mut stream = Stream::new(&[5]);
    let shake = |tensor: &Tensor, stream: &mut Stream| {
        let values: Vec<f64> = tensor.to_doubles().unwrap();
        let noise = stream.normal_values(values.len(), 0.1);
        let values: Vec<f64> =
            values.iter().zip(noise).map(|(value, noise)| value + f64::from(noise)).collect();
        tensor.write_doubles(&values).unwrap();
    };
    model.parameters.tensors.iter().for_each(|tensor| shake(tensor, &mut stream));
    model.biases.iter().for_each(|tensor| shake(tensor, &mut stream));
    model
        .statistics
        .iter_mut()
        .for_each(|statistics| *statistics = LogitStatistics { mean: 0.1, deviation: 0.7 });
    model
}

const NOTHING: &[Recompute] = &[Recompute::Nothing];
