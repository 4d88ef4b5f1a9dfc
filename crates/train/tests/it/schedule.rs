//! The rate and the batch over a run.

use super::random::Random;
use lingot_spec::run::{BatchSpec, ScheduleSpec, Shape};
use lingot_train::schedule::{first_sample, rate, sequences_at};

const PEAK: f64 = 3e-4;

fn schedule(shape: Shape, turn: f64, floor: f64) -> ScheduleSpec {
    ScheduleSpec { warmup_steps: 10, shape, turn, floor }
}

#[test]
fn the_warmup_is_linear_and_its_last_step_has_the_full_rate() {
    for shape in [Shape::Constant, Shape::Halving, Shape::Cosine, Shape::InverseSqrt] {
        let schedule = schedule(shape, 0.5, 0.1);
        for step in 0..10 {
            assert_eq!(rate(&schedule, PEAK, step, 100), PEAK * (step + 1) as f64 / 10.0);
        }
    }
}

#[test]
fn every_shape_is_flat_from_the_warmup_to_the_turn_and_ends_where_it_should() {
    let ends =
        [(Shape::Constant, 1.0), (Shape::Halving, 0.5), (Shape::Cosine, 0.1), (Shape::InverseSqrt, 0.1)];
    for (shape, end) in ends {
        let schedule = schedule(shape, 0.6, 0.1);
        for step in 9..60 {
            assert_eq!(rate(&schedule, PEAK, step, 100), PEAK, "{shape:?} {step}");
        }
        assert_eq!(rate(&schedule, PEAK, 99, 100), PEAK * end, "{shape:?}");
        assert_eq!(rate(&schedule, PEAK, 5000, 100), PEAK * end, "{shape:?} after the end");
    }
}

#[test]
fn the_halving_happens_once_at_the_turn() {
    let schedule = schedule(Shape::Halving, 0.6, 0.0);
    assert_eq!(rate(&schedule, PEAK, 59, 100), PEAK);
    assert!((60..100).all(|step| rate(&schedule, PEAK, step, 100) == PEAK / 2.0));
}

#[test]
fn the_decays_fall_without_a_jump() {
    for shape in [Shape::Cosine, Shape::InverseSqrt] {
        let steps = 100_000;
        let schedule = schedule(shape, 0.5, 0.1);
        let mut before = PEAK;
        for step in 50_000..steps {
            let now = rate(&schedule, PEAK, step, steps);
            // Half the run is 50,000 steps; the steepest place falls by floor^-2 / 2 in units of the
            // remaining run.
            assert!(now <= before && before - now < PEAK * 50.0 / 50_000.0 * 1.01, "{shape:?} {step}");
            before = now;
        }
    }
}

#[test]
fn a_warmup_longer_than_the_run_or_past_the_turn_is_harmless() {
    let long = ScheduleSpec { warmup_steps: 200, shape: Shape::Cosine, turn: 0.0, floor: 0.1 };
    assert_eq!(rate(&long, PEAK, 99, 100), PEAK * 0.5);
    let past = ScheduleSpec { warmup_steps: 50, shape: Shape::Cosine, turn: 0.1, floor: 0.0 };
    assert_eq!(rate(&past, PEAK, 49, 100), PEAK);
    assert_eq!(rate(&past, PEAK, 99, 100), 0.0);
}

#[test]
fn the_ramp_goes_up_in_whole_micro_batches() {
    let batch = BatchSpec { sequences: 64, micro: 8, from: 16, ramp_steps: 10 };
    let sizes: Vec<u32> = (0..12).map(|step| sequences_at(&batch, step)).collect();
    assert_eq!(sizes, [16, 16, 24, 24, 32, 40, 40, 48, 48, 56, 64, 64]);
}

#[test]
fn the_first_sample_is_the_sum_of_the_steps_before() {
    let mut random = Random(1);
    for _ in 0..300 {
        let micro = 1 + random.below(8) as u32;
        let from = micro * random.below(6) as u32;
        let batch = BatchSpec {
            sequences: from.max(micro) + micro * random.below(20) as u32,
            micro,
            from,
            ramp_steps: random.below(60) as u64,
        };
        let mut sum = 0;
        for step in 0..100 {
            assert_eq!(first_sample(&batch, step), sum, "{batch:?} {step}");
            sum += u64::from(sequences_at(&batch, step));
        }
    }
}

#[test]
fn the_first_sample_of_a_far_step_needs_no_walk() {
    let batch = BatchSpec { sequences: 8960, micro: 1, from: 2560, ramp_steps: 1 << 40 };
    let middle = first_sample(&batch, 1 << 40) as f64 / (1u64 << 40) as f64;
    assert!((middle - (2560.0 + 8960.0) / 2.0).abs() < 1.0, "{middle}");
}
