//! How the next token is drawn, and how a text grows.

use lingot_device::reference::Reference;
use lingot_device::{Device, Kind};
use lingot_model::random::Stream;
use lingot_model::{Cache, Model};
use lingot_spec::model::ModelSpec;
use lingot_spec::presets::preset;
use lingot_train::sample::{Bounds, Sampling, next_token, sample};
use std::ops::ControlFlow;

fn counts(logits: &[f32], temperature: f64, top_p: f64) -> Vec<usize> {
    let sampling = Sampling { temperature, top_p, seed: 7 };
    let mut stream = Stream::new(&[sampling.seed]);
    let mut counts = vec![0; logits.len()];
    for _ in 0..20_000 {
        counts[next_token(logits, &sampling, &mut stream) as usize] += 1;
    }
    counts
}

#[test]
fn temperature_zero_takes_the_first_of_the_likeliest() {
    let sampling = Sampling { temperature: 0.0, top_p: 1.0, seed: 0 };
    assert_eq!(next_token(&[0.5, 2.0, 2.0, -1.0], &sampling, &mut Stream::new(&[0])), 1);
}

#[test]
fn tokens_come_as_often_as_their_probability_says() {
    let logits = [0.0, 2.0_f32.ln(), 5.0_f32.ln()];
    let found = counts(&logits, 1.0, 1.0);
    for (found, share) in found.iter().zip([1.0, 2.0, 5.0]) {
        let expected = 20_000.0 * share / 8.0;
        assert!((*found as f64 - expected).abs() < 5.0 * expected.sqrt(), "{found} of {expected}");
    }
    // Half the temperature squares the odds.
    let cold = counts(&logits, 0.5, 1.0);
    assert!((cold[2] as f64 / cold[1] as f64 - 6.25).abs() < 0.5, "{cold:?}");
}

#[test]
fn top_p_leaves_out_the_unlikely() {
    let logits = [0.0, 2.0_f32.ln(), 5.0_f32.ln()];
    assert_eq!(counts(&logits, 1.0, 0.85)[0], 0);
    assert_eq!(counts(&logits, 1.0, 0.6)[2], 20_000);
    assert_eq!(counts(&logits, 1.0, 1e-9)[2], 20_000);
}

#[test]
fn a_text_outgrows_its_first_room_without_a_change_and_a_limit_costs_nothing() {
    let spec = ModelSpec {
        vocabulary: 300,
        width: 16,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        head_width: 8,
        rotary_width: 4,
        dense_width: 24,
        experts: 4,
        expert_width: 8,
        initial_deviation: 0.5,
        ..preset("toy").unwrap()
    };
    let model = Model::new(&spec, &Device::new(Reference::new()), Kind::F32, 5).unwrap();
    let sampling = Sampling { temperature: 0.0, top_p: 1.0, seed: 3 };
    let make = |tokens: usize, ends: &[u32]| {
        let bounds = Bounds { tokens, vocabulary: 300, ends };
        sample(&model, &[1, 2, 3], &sampling, bounds, &mut |_| ControlFlow::Continue(())).unwrap()
    };
    let count = 600;
    let mut cache = Cache::new(&model, 3 + count).unwrap();
    let (mut read, mut expected) = (vec![1, 2, 3], Vec::new());
    while expected.len() < count {
        let logits = model.read(&mut cache, &read).unwrap();
        expected.push(next_token(&logits, &sampling, &mut Stream::new(&[0])));
        read = vec![expected[expected.len() - 1] as i32];
    }
    assert_eq!(make(count, &[]), expected);
    let all: Vec<u32> = (0..300).collect();
    assert!(make(usize::MAX, &all).is_empty());
    assert!(make(usize::MAX, &[expected[2], 299]).len() <= 2);
}
