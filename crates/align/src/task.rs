//! The tasks that both devices train: small models that use everything Ling v1 and v2 have, on a text made
//! from a seed.
//!
//! The text has what makes a language hard to predict and worth learning: words of very different frequency,
//! an order of word classes, a topic that shifts which words are frequent, and repeated words. Its entropy is
//! about 3.5 nats a word, so that a relative difference of losses means what it means in real training.

use lingot_model::Rows;
use lingot_model::random::Stream;
use lingot_spec::ModelSpec;
use lingot_spec::presets::preset;
use lingot_spec::run::OptimizerSpec;

/// Micro-batches of a worker.
pub const MICROS: usize = 2;
/// Workers that share a step.
pub const WORKERS: usize = 2;

/// Word classes, words of each, and topics.
const CLASSES: u64 = 8;
const WORDS: u64 = 16;
const TOPICS: u64 = 4;
/// One in `COPIES` words repeats the latest of its class in the document, where there is one.
const COPIES: u64 = 4;

/// The optimizer's settings on a curve. Sooner or later any rounding error changes some token's choice of
/// experts, and from there on two sound devices have two models. The difference of their losses grows with
/// the rate; docs/alignment.md has figures.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Rate, moments, decay and clip.
    pub rule: OptimizerSpec,
    /// Steps until the rate is reached.
    pub warmup_steps: u64,
    /// Whether the selection bias follows the loads of all workers together; else each worker's in turn.
    pub sums_loads: bool,
}

/// The pace of the small models, with which certificates are made.
const SMALL: Pace = Pace {
    rule: OptimizerSpec { rate: 1e-4, beta1: 0.9, beta2: 0.95, epsilon: 1e-5, decay: 0.1, clip: 1.0 },
    warmup_steps: 50,
    sums_loads: false,
};

/// The pace of the wide model. The clip acts in every step, and epsilon is large enough for its factor to
/// matter: AdamW's updates would not change with the gradient's size otherwise.
const WIDE: Pace = Pace {
    rule: OptimizerSpec { rate: 1e-3, beta1: 0.9, beta2: 0.95, epsilon: 1e-3, decay: 0.1, clip: 0.1 },
    warmup_steps: 5,
    sums_loads: true,
};

/// A model and the size of its batches.
#[derive(Clone, Debug)]
pub struct Task {
    /// The model's name in certificates.
    pub name: &'static str,
    /// The model.
    pub model: ModelSpec,
    /// Sequences of a micro-batch.
    pub micro: usize,
    /// Tokens of a sequence.
    pub sequence: usize,
    /// Divides the steps of a curve: this model trains for that share of them.
    pub shorter: u64,
    /// How it is trained on a curve.
    pub pace: Pace,
}

/// Returns the tasks: `v1` with the router, norms and head of Ling v1, `v2` with those of Ling v2, and
/// `wide`, a v2 whose sums and outputs are longer than a tile and a piece of a sum on any backend.
pub fn tasks() -> [Task; 3] {
    let named = |name: &str| preset(name).unwrap_or_else(|| unreachable!("the preset is built in"));
    let small = |name: &str| ModelSpec {
        vocabulary: (CLASSES * WORDS) as u32,
        width: 32,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_width: 16,
        rotary_width: 16,
        dense_width: 64,
        experts: 8,
        expert_width: 24,
        initial_deviation: 0.1,
        ..named(name)
    };
    let (mut v1, mut v2) = (small("toy-v1"), small("toy"));
    v1.router.z_loss = 1e-3;
    v2.rotary_width = 8;
    v2.router.groups = 4;
    v2.router.groups_kept = 2;
    let mut wide = ModelSpec {
        vocabulary: 640,
        width: 352,
        heads: 6,
        kv_heads: 2,
        head_width: 64,
        rotary_width: 32,
        dense_width: 520,
        experts: 16,
        choices: 4,
        expert_width: 40,
        initial_deviation: 0.04,
        ..v2.clone()
    };
    wide.router.z_loss = 1e-3;
    [
        Task { name: "v1", model: v1, micro: 8, sequence: 64, shorter: 1, pace: SMALL },
        Task { name: "v2", model: v2, micro: 8, sequence: 64, shorter: 1, pace: SMALL },
        Task { name: "wide", model: wide, micro: 1, sequence: 32, shorter: 10, pace: WIDE },
    ]
}

/// One micro-batch on the host.
pub struct Micro {
    tokens: Vec<i32>,
    targets: Vec<i32>,
    starts: Vec<i32>,
    positions: Vec<i32>,
    sequence: usize,
}

impl Micro {
    /// Returns the micro-batch as the model takes it.
    pub fn rows(&self) -> Rows<'_> {
        Rows {
            tokens_t: &self.tokens,
            targets_t: &self.targets,
            starts_t: &self.starts,
            positions_t: &self.positions,
            sequence: self.sequence,
        }
    }
}

impl Task {
    /// Makes micro-batch `index` of step `step`, a pure function of both and the seed.
    pub fn micro(&self, seed: u64, step: u64, index: u64) -> Micro {
        let mut stream = Stream::new(&[seed, PURPOSE_TEXT, step, index]);
        let sequence = self.sequence;
        let mut micro =
            Micro { tokens: vec![], targets: vec![], starts: vec![], positions: vec![], sequence };
        for _ in 0..self.micro {
            let first = micro.tokens.len();
            let end = first + sequence;
            let mut start = first;
            let mut document = Document::new(&mut stream);
            for t in first..end {
                micro.tokens.push(document.word as i32);
                micro.starts.push(start as i32);
                micro.positions.push((t - start) as i32);
                document.go_on(&mut stream);
                let has_target = document.left > 0 && t + 1 < end;
                micro.targets.push(if has_target { document.word as i32 } else { -1 });
                if document.left == 0 {
                    (document, start) = (Document::new(&mut stream), t + 1);
                }
            }
        }
        micro
    }
}

/// Separates the stream of the text from those of initial values.
const PURPOSE_TEXT: u64 = 77;

/// A document in the making. Word w is of class `w / WORDS`.
struct Document {
    word: u64,
    topic: u64,
    /// Words still to come, the present one included.
    left: u64,
    /// The latest word of each class.
    latest: [Option<u64>; CLASSES as usize],
}

impl Document {
    /// Starts a document; its first word gives the topic away.
    fn new(stream: &mut Stream) -> Document {
        let (left, topic) = (16 + stream.bits() % 32, stream.bits() % TOPICS);
        let word = shifted(0, topic);
        let mut latest = [None; CLASSES as usize];
        latest[0] = Some(word);
        Document { word, topic, left, latest }
    }

    /// Makes the next word: of the next class in half of all cases, of the class after that in a quarter, and
    /// so on.
    fn go_on(&mut self, stream: &mut Stream) {
        let skipped = u64::from(stream.bits().trailing_zeros()).min(CLASSES - 1);
        let class = (self.word / WORDS + 1 + skipped) % CLASSES;
        let new = class * WORDS + shifted(rank(stream), self.topic);
        let copies = stream.bits().is_multiple_of(COPIES);
        let latest = &mut self.latest[class as usize];
        self.word = latest.filter(|_| copies).unwrap_or(new);
        *latest = Some(self.word);
        self.left -= 1;
    }
}

/// The place in its class of the word that is the `rank`-th most frequent under a topic.
fn shifted(rank: u64, topic: u64) -> u64 {
    (rank + topic * WORDS / TOPICS) % WORDS
}

/// Draws a rank by Zipf's law: the r-th most frequent word is 1/r as frequent as the first.
fn rank(stream: &mut Stream) -> u64 {
    let mut left = stream.uniform() * (1..=WORDS).map(|r| 1.0 / r as f64).sum::<f64>();
    let beyond = |r: &u64| {
        left -= 1.0 / *r as f64;
        left <= 0.0
    };
    (1..=WORDS).find(beyond).unwrap_or(WORDS) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_a_function_of_seed_step_and_index_and_fits_the_vocabulary() {
        let [v1, ..] = tasks();
        let (a, b, c) = (v1.micro(1, 2, 3), v1.micro(1, 2, 3), v1.micro(2, 2, 3));
        assert_eq!((&a.tokens, &a.targets), (&b.tokens, &b.targets));
        assert_ne!(a.tokens, c.tokens);
        assert_eq!(a.tokens.len(), 8 * 64);
        assert!(a.tokens.iter().all(|&token| (0..128).contains(&token)));
        assert!(a.rows().targets() > 200);
    }

    /// The entropy of the text in nats a word: the mean of -ln of the probability that the rules give each
    /// target.
    fn entropy(micro: &Micro) -> f64 {
        let all: f64 = (1..=WORDS).map(|r| 1.0 / r as f64).sum();
        let (mut sum, mut count) = (0.0, 0);
        let (mut topic, mut latest) = (0, [None; CLASSES as usize]);
        for t in 0..micro.tokens.len() {
            let [word, target] = [micro.tokens[t], micro.targets[t]].map(|word| word as u64);
            if micro.positions[t] == 0 {
                (topic, latest) = (word * TOPICS / WORDS, [None; CLASSES as usize]);
            }
            latest[(word / WORDS) as usize] = Some(word);
            if micro.targets[t] < 0 {
                continue;
            }
            let class = target / WORDS;
            let skipped = (class + 2 * CLASSES - 1 - word / WORDS) % CLASSES;
            let of_class = 0.5_f64.powi((skipped + 1).min(CLASSES - 1) as i32);
            let rank = (target % WORDS + WORDS - topic * WORDS / TOPICS) % WORDS;
            let new = 1.0 / (rank + 1) as f64 / all;
            let copied = 1.0 / COPIES as f64;
            let of_word = match latest[class as usize] {
                Some(latest) => (1.0 - copied) * new + if latest == target { copied } else { 0.0 },
                None => new,
            };
            sum -= (of_class * of_word).ln();
            count += 1;
        }
        sum / f64::from(count)
    }

    #[test]
    fn the_text_has_an_entropy_of_three_and_a_half_nats_a_word() {
        let entropies: Vec<f64> = (0..200).map(|step| entropy(&tasks()[0].micro(1, step, 0))).collect();
        let mean = entropies.iter().sum::<f64>() / entropies.len() as f64;
        assert!((3.4..3.7).contains(&mean), "{mean}");
    }

    #[test]
    fn the_sizes_of_every_model_fit_together() {
        tasks().iter().for_each(|task| task.model.check().unwrap());
    }
}
