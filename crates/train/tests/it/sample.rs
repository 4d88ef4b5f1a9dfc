//! How the next token is drawn.

use lingot_model::random::Stream;
use lingot_train::sample::{Sampling, next_token};

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
