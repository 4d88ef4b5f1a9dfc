//! Spikes: losses and gradient norms that leap above those of the steps before, and what follows from them.
//!
//! A narrow spike passes by itself and comes from its batch; a wide one lasts, and comes from weights that
//! are damaged (Ling, arXiv 2503.05139, section 3.4.4). So the update of a spike is skipped, its batch is
//! tried again later, and a run whose spikes do not end goes back to a sound checkpoint. The thresholds are
//! ours: the paper has none.

use lingot_spec::manifest::GuardState;
use lingot_spec::run::GuardSpec;
use std::fmt;

/// Sound steps before which nothing is judged.
const LEAST_STEPS: usize = 32;
/// A loss is a spike only if it is also larger than the median by this share.
const LOSS_SHARE: f64 = 0.25;
/// A norm is a spike only if it is also this many times the median.
const NORM_TIMES: f64 = 8.0;
/// As many spikes in a row are wide.
const WIDE: u32 = 4;
/// After as many spikes in a row they are what is usual now.
const USUAL: u32 = 10;
/// Values whose median is what is usual now.
const NEWEST: usize = 16;
/// The standard deviation of a normal distribution over its median absolute deviation.
const SIGMA_PER_MAD: f64 = 1.4826;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// The mean loss of a token.
    Loss,
    /// The norm of all gradients, before clipping.
    GradientNorm,
}

/// A measurement that leapt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spike {
    /// What leapt.
    pub measure: Measure,
    /// Its value.
    pub value: f64,
    /// The median of the newest sound steps.
    pub median: f64,
    /// The largest value that would not be a spike.
    pub limit: f64,
}

/// What is to be done with a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// It is like the steps before: it is applied.
    Sound,
    /// It leapt, and is skipped.
    Narrow(Spike),
    /// Spikes do not end: the weights are damaged.
    Wide(Spike),
    /// Spikes have lasted for so long that they are what is usual: it is applied, and others are compared
    /// with it.
    NewLevel(Spike),
}

/// Judges a step by the sound steps before it, and remembers it.
pub fn judge(state: &mut GuardState, spec: &GuardSpec, loss: f64, norm: f64) -> Verdict {
    let Some(spike) = spike(state, spec, loss, norm) else {
        state.spikes_in_a_row = 0;
        remember(state, spec, loss, norm);
        return Verdict::Sound;
    };
    state.spikes_in_a_row += 1;
    match state.spikes_in_a_row {
        USUAL.. => {
            *state = GuardState { retries: std::mem::take(&mut state.retries), ..GuardState::default() };
            remember(state, spec, loss, norm);
            Verdict::NewLevel(spike)
        }
        WIDE => Verdict::Wide(spike),
        _ => Verdict::Narrow(spike),
    }
}

/// Judges a batch that is tried again: nothing is remembered of it unless it is sound.
pub fn judge_again(state: &mut GuardState, spec: &GuardSpec, loss: f64, norm: f64) -> Option<Spike> {
    let found = spike(state, spec, loss, norm);
    if found.is_none() {
        remember(state, spec, loss, norm);
    }
    found
}

fn spike(state: &GuardState, spec: &GuardSpec, loss: f64, norm: f64) -> Option<Spike> {
    if state.losses.len() < LEAST_STEPS.min(spec.window as usize) {
        return None;
    }
    let (median, deviation) = robust(&state.losses);
    let limit = median + (spec.deviations * deviation).max(LOSS_SHARE * median.abs());
    if loss > limit {
        return Some(Spike { measure: Measure::Loss, value: loss, median, limit });
    }
    let (median, deviation) = robust(&state.norms);
    if median == 0.0 {
        return None; // Nothing is trained yet, so there is nothing to compare with.
    }
    let limit = (median + 2.0 * spec.deviations * deviation).max(NORM_TIMES * median);
    (norm > limit).then_some(Spike { measure: Measure::GradientNorm, value: norm, median, limit })
}

fn remember(state: &mut GuardState, spec: &GuardSpec, loss: f64, norm: f64) {
    for (list, value) in [(&mut state.losses, loss), (&mut state.norms, norm)] {
        list.push(value);
        let surplus = list.len().saturating_sub(spec.window as usize);
        list.drain(..surplus);
    }
}

/// The median of the newest values, and a standard deviation that neither outliers nor a trend change: that
/// of the differences of neighbours, as 1.4826 times the median of their sizes (Hampel, The influence curve,
/// 1974), over the root of two.
fn robust(values: &[f64]) -> (f64, f64) {
    let newest = &values[values.len().saturating_sub(NEWEST)..];
    let leaps = values.windows(2).map(|pair| (pair[1] - pair[0]).abs()).collect();
    (median(newest.to_vec()), SIGMA_PER_MAD * median(leaps) / std::f64::consts::SQRT_2)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

impl fmt::Display for Spike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spike { value, median, limit, .. } = self;
        let name = match self.measure {
            Measure::Loss => "loss",
            Measure::GradientNorm => "gradient norm",
        };
        write!(f, "{name} {value:.4} where {median:.4} is usual and up to {limit:.4} passes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A course of losses and norms that falls and is noisy, as in training.
    fn course(seed: u64, step: u64) -> (f64, f64) {
        let noise = |salt: u64| {
            let mut word = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (step * 7 + salt);
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((word ^ (word >> 31)) >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
        };
        let loss = 8.0 / (1.0 + 0.02 * step as f64).sqrt() + 1.5 + 0.5 * noise(1);
        (loss, 1.0 + 0.8 * noise(2) + 4.0 / (1.0 + step as f64))
    }

    #[test]
    fn twenty_clean_courses_raise_no_alarm() {
        let spec = GuardSpec::default();
        for seed in 0..20 {
            let mut state = GuardState::default();
            for step in 0..2000 {
                let (loss, norm) = course(seed, step);
                assert_eq!(judge(&mut state, &spec, loss, norm), Verdict::Sound, "{seed} {step}");
            }
            assert_eq!(state.losses.len(), 64);
        }
    }

    #[test]
    fn a_planted_spike_is_narrow_and_is_not_remembered() {
        let spec = GuardSpec::default();
        for (more, times, measure) in
            [(3.0, 1.0, Measure::Loss), (0.0, 20.0, Measure::GradientNorm), (1e6, 1e6, Measure::Loss)]
        {
            let mut state = GuardState::default();
            for step in 0..200 {
                let (loss, norm) = course(3, step);
                let before = state.losses.clone();
                let is_planted = step == 150;
                let (loss, norm) = if is_planted { (loss + more, norm * times) } else { (loss, norm) };
                match judge(&mut state, &spec, loss, norm) {
                    Verdict::Narrow(spike) if is_planted => {
                        assert_eq!((spike.measure, &state.losses), (measure, &before));
                    }
                    verdict => assert!(!is_planted && verdict == Verdict::Sound, "{step} {verdict:?}"),
                }
            }
        }
    }

    #[test]
    fn spikes_that_do_not_end_are_wide_and_in_the_end_usual() {
        let (spec, mut state) = (GuardSpec::default(), GuardState::default());
        for step in 0..100 {
            let (loss, norm) = course(1, step);
            judge(&mut state, &spec, loss, norm);
        }
        let verdicts: Vec<Verdict> = (0..12).map(|_| judge(&mut state, &spec, 20.0, 1.0)).collect();
        assert!(verdicts[..3].iter().all(|verdict| matches!(verdict, Verdict::Narrow(_))));
        assert!(matches!(verdicts[3], Verdict::Wide(_)));
        assert!(matches!(verdicts[9], Verdict::NewLevel(_)));
        assert_eq!(verdicts[10..], [Verdict::Sound; 2]);
    }

    #[test]
    fn nothing_is_judged_by_too_few_steps_and_equal_losses_need_a_real_leap() {
        let (spec, mut state) = (GuardSpec::default(), GuardState::default());
        for _ in 0..31 {
            assert_eq!(judge(&mut state, &spec, 1.0, 1.0), Verdict::Sound);
        }
        assert_eq!(judge(&mut state, &spec, 100.0, 1.0), Verdict::Sound);
        for _ in 0..40 {
            judge(&mut state, &spec, 1.0, 1.0);
        }
        assert_eq!(judge(&mut state, &spec, 1.2, 7.0), Verdict::Sound);
        assert!(matches!(judge(&mut state, &spec, 1.3, 1.0), Verdict::Narrow(_)));
    }
}
