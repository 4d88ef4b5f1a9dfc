//! What both devices train: two small models that use everything Ling v1 and v2 have, on a text made from a seed.

use lingot_model::Rows;
use lingot_model::random::Stream;
use lingot_spec::ModelSpec;
use lingot_spec::presets::preset;

/// Tokens of a sequence.
pub const SEQUENCE: usize = 32;
/// Sequences of a micro-batch, micro-batches of a worker, workers that share a step.
pub const MICRO: usize = 2;
pub const MICROS: usize = 2;
pub const WORKERS: usize = 2;

const SUBJECTS: [&str; 8] =
    ["a cat", "the dog", "my aunt", "one bee", "the moon", "a king", "no one", "the sea"];
const VERBS: [&str; 8] = ["sees", "takes", "loves", "leaves", "hears", "paints", "moves", "knows"];
const OBJECTS: [&str; 8] =
    ["the hill", "a ship", "two birds", "my song", "the rain", "a red door", "it", "us all"];

/// The models by name: the router, norms and head of Ling v1, and those of Ling v2.
pub fn models() -> [(&'static str, ModelSpec); 2] {
    let small = |name: &str| {
        let named = preset(name).unwrap_or_else(|| unreachable!("a preset of the house"));
        ModelSpec {
            vocabulary: 96,
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
            ..named
        }
    };
    let (mut v1, mut v2) = (small("toy-v1"), small("toy"));
    v1.router.z_loss = 1e-3;
    v2.rotary_width = 8;
    v2.router.groups = 4;
    v2.router.groups_kept = 2;
    [("v1", v1), ("v2", v2)]
}

/// One micro-batch on the host.
pub struct Micro {
    tokens: Vec<i32>,
    targets: Vec<i32>,
    starts: Vec<i32>,
    positions: Vec<i32>,
}

impl Micro {
    /// As the model takes it.
    pub fn rows(&self) -> Rows<'_> {
        Rows {
            tokens_t: &self.tokens,
            targets_t: &self.targets,
            starts_t: &self.starts,
            positions_t: &self.positions,
            sequence: SEQUENCE,
        }
    }
}

/// Micro-batch `index` of step `step`: a pure function of both and the seed. A sentence is a document.
pub fn micro(seed: u64, step: u64, index: u64) -> Micro {
    let mut stream = Stream::new(&[seed, PURPOSE_TEXT, step, index]);
    let mut micro = Micro { tokens: vec![], targets: vec![], starts: vec![], positions: vec![] };
    for _ in 0..MICRO {
        let first = micro.tokens.len();
        let mut start = first;
        let mut sentence = sentence(&mut stream);
        let mut at = (stream.bits() % 8) as usize;
        for t in first..first + SEQUENCE {
            let token = sentence[at];
            at += 1;
            let ended = at == sentence.len();
            let target = if ended || t + 1 == first + SEQUENCE { -1 } else { i32::from(sentence[at] - b' ') };
            micro.tokens.push(i32::from(token - b' '));
            micro.targets.push(target);
            micro.starts.push(start as i32);
            micro.positions.push((t - start) as i32);
            if ended {
                (sentence, at, start) = (self::sentence(&mut stream), 0, t + 1);
            }
        }
    }
    micro
}

/// Sets the text's stream apart from those of initial values.
const PURPOSE_TEXT: u64 = 77;

fn sentence(stream: &mut Stream) -> Vec<u8> {
    let mut pick = |words: &[&'static str; 8]| words[(stream.bits() % 8) as usize];
    format!("{} {} {}.", pick(&SUBJECTS), pick(&VERBS), pick(&OBJECTS)).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_a_function_of_seed_step_and_index_and_fits_the_vocabulary() {
        let (a, b, c) = (micro(1, 2, 3), micro(1, 2, 3), micro(2, 2, 3));
        assert_eq!((&a.tokens, &a.targets), (&b.tokens, &b.targets));
        assert_ne!(a.tokens, c.tokens);
        assert_eq!(a.tokens.len(), MICRO * SEQUENCE);
        assert!(a.tokens.iter().all(|&token| (0..96).contains(&token)));
        assert!(a.rows().targets() > 40);
    }

    #[test]
    fn both_models_fit_together() {
        models().iter().for_each(|(_, model)| model.check().unwrap());
    }
}
