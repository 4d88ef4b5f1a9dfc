//! The shares that merged checkpoints have.

use lingot_train::checkpoint::merge::{Decay, coefficients};

#[test]
fn the_shares_sum_to_one_and_none_is_negative() {
    for kind in [Decay::Linear, Decay::InverseSqrt, Decay::Mean] {
        for n in 1..40 {
            let shares = coefficients(kind, n);
            assert_eq!(shares.len(), n);
            assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{kind:?} {n}");
            assert!(shares.iter().all(|&share| share >= 0.0), "{kind:?} {n} {shares:?}");
        }
    }
    assert!(coefficients(Decay::Mean, 0).is_empty());
}

#[test]
fn the_mean_has_equal_shares_and_the_linear_decay_half_of_them_at_both_ends() {
    let mean = coefficients(Decay::Mean, 4);
    assert!(mean.iter().all(|share| (share - 0.25).abs() < 1e-12), "{mean:?}");
    let linear = coefficients(Decay::Linear, 5);
    let expected = [0.125, 0.25, 0.25, 0.25, 0.125];
    assert!(linear.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{linear:?}");
}
