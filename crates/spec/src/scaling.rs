//! What a run may be proposed: Ling's fits of batch and learning rate by compute.
//!
//! Ling report (arXiv 2503.05139, figure 12), fitted on 1e18 to 6e20 FLOPs of training outside of embedding
//! and head, and used by its authors up to 1.6e24. Neither sparsity nor the auxiliary losses moved the
//! optimum noticeably, so compute decides.

use crate::model::ModelSpec;

/// The FLOPs of the smallest runs that the fits are from.
const LEAST_FLOPS: f64 = 1e18;
/// Factor and exponent of the batch, in tokens by FLOPs.
const BATCH: (f64, f64) = (0.2008, 0.3447);
/// Factor and exponent of the learning rate by FLOPs.
const RATE: (f64, f64) = (1.5552, -0.1579);
/// Tokens per activated parameter, the optimum of dense models (Hoffmann et al., arXiv 2203.15556). A Mixture
/// of Experts wants more (Ling 2.0, arXiv 2510.22115); by how much is not published.
pub const TOKENS_PER_PARAMETER: u64 = 20;

/// Returns the FLOPs of forward and backward for one token, without embedding and head.
pub fn body_flops_per_token(model: &ModelSpec, sequence: u32) -> f64 {
    let head = 6.0 * f64::from(model.vocabulary) * f64::from(model.width);
    model.flops_per_token(sequence) - (1.0 + f64::from(model.mtp_layers)) * head
}

/// Returns the best batch in tokens for `flops` of training.
pub fn batch_tokens(flops: f64) -> f64 {
    BATCH.0 * flops.powf(BATCH.1)
}

/// Returns the best batch in tokens for `steps` steps with `flops_per_token`: the batch whose own compute
/// asks for it, `B = a (F n B)^b`.
pub fn batch_tokens_of_steps(flops_per_token: f64, steps: f64) -> f64 {
    batch_tokens(flops_per_token * steps).powf(1.0 / (1.0 - BATCH.1))
}

/// Returns the best peak learning rate for `flops` of training. Below the fitted range it stays at the rate
/// of the range's lower end: small models diverge at the rates that the power law goes on to.
pub fn rate(flops: f64) -> f64 {
    RATE.0 * flops.max(LEAST_FLOPS).powf(RATE.1)
}

/// Returns how many tokens a model is proposed to be trained on.
pub fn tokens(model: &ModelSpec) -> u64 {
    TOKENS_PER_PARAMETER * model.activated_parameters()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets::preset;

    fn is_near(found: f64, wanted: f64, share: f64) -> bool {
        (found / wanted - 1.0).abs() < share
    }

    /// The points that the report's figure and its text name.
    #[test]
    fn the_fits_go_through_their_published_points() {
        assert!(is_near(batch_tokens(1e18), 322e3, 0.01) && is_near(rate(1e18), 2.24e-3, 0.01));
        assert!(is_near(batch_tokens(1e21), 3.48e6, 0.01) && is_near(rate(1e21), 7.5e-4, 0.02));
        assert!(is_near(rate(1.555e24), 2.35e-4, 0.01));
        assert_eq!(rate(1e12), rate(1e18));
    }

    /// Ling-Plus was trained on 9T tokens with a rate of 2.4e-4 and batches of up to 36.7M tokens.
    #[test]
    fn ling_plus_is_proposed_about_what_it_was_trained_with() {
        let flops = body_flops_per_token(&preset("ling-plus").unwrap(), 4096) * 9e12;
        assert!(is_near(rate(flops), 2.4e-4, 0.05), "{}", rate(flops));
        assert!(is_near(batch_tokens(flops), 36.7e6, 0.25), "{}", batch_tokens(flops));
    }

    #[test]
    fn a_batch_of_steps_is_the_batch_of_its_own_compute() {
        for (flops_per_token, steps) in [(1e6, 500.0), (1e9, 2e4), (1e11, 1e5)] {
            let batch = batch_tokens_of_steps(flops_per_token, steps);
            assert!(is_near(batch_tokens(flops_per_token * steps * batch), batch, 1e-9));
        }
    }
}
