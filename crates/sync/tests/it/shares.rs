//! Shares of a step's micro-batches.

use crate::numbers;
use lingot_sync::shares::{Capacity, LimitsExceeded, Speed, revise, split};

fn of(speeds: &[f64]) -> Vec<Capacity> {
    speeds.iter().map(|&speed| Capacity { micros_per_s: speed, most: None }).collect()
}

#[test]
fn shares_follow_speed() {
    let shares = split(14, &of(&[4.0, 2.0, 1.0])).unwrap();
    assert_eq!(shares.counts, [8, 4, 2]);
    assert_eq!((shares.finish_s, shares.efficiency()), (2.0, 1.0));
    // 7.5 : 7.5 cannot be; equals go to the lower rank.
    assert_eq!(split(15, &of(&[1.0, 1.0])).unwrap().counts, [8, 7]);
    // A straggler gets nothing where one micro-batch would keep the others waiting.
    assert_eq!(split(4, &of(&[1.0, 1.0, 0.1])).unwrap().counts, [2, 2, 0]);
}

#[test]
fn memory_bounds_a_share() {
    let mut workers = of(&[3.0, 1.0]);
    workers[0].most = Some(2);
    assert_eq!(split(8, &workers).unwrap().counts, [2, 6]);
    workers[1].most = Some(5);
    assert_eq!(split(8, &workers), Err(LimitsExceeded { micros: 8, limit: 7 }));
    assert_eq!(split(1, &of(&[0.0, f64::NAN])), Err(LimitsExceeded { micros: 1, limit: 0 }));
    assert_eq!(split(0, &[]).unwrap().counts, Vec::<u64>::new());
}

/// The earliest finish of all divisions, by trying each.
fn best_finish_s(micros: u64, workers: &[Capacity]) -> f64 {
    let Some((first, rest)) = workers.split_first() else {
        return if micros == 0 { 0.0 } else { f64::INFINITY };
    };
    let most = first.most.unwrap_or(micros).min(micros);
    let finish = |count: u64| (count as f64 / first.micros_per_s).max(best_finish_s(micros - count, rest));
    (0..=most).map(finish).fold(f64::INFINITY, f64::min)
}

#[test]
fn no_division_is_through_earlier() {
    for seed in 1..300 {
        let draw = numbers(seed, 9);
        let count = 1 + (draw[0].abs() * 3.99) as usize;
        let workers: Vec<Capacity> = (0..count)
            .map(|rank| {
                let bound = draw[5 + rank].abs();
                let most = (bound < 0.5).then_some((bound * 20.0) as u64);
                Capacity { micros_per_s: f64::from(draw[1 + rank].abs()) + 0.01, most }
            })
            .collect();
        let micros = seed % 14;
        match split(micros, &workers) {
            Ok(shares) => {
                assert_eq!(shares.counts.iter().sum::<u64>(), micros);
                let best_s = best_finish_s(micros, &workers);
                assert!((shares.finish_s - best_s).abs() < 1e-9, "{workers:?}: {shares}, best {best_s}");
            }
            Err(LimitsExceeded { limit, .. }) => assert!(limit < micros),
        }
    }
}

#[test]
fn noise_moves_nothing_and_a_change_is_followed() {
    let present = split(12, &of(&[2.0, 1.0])).unwrap();
    assert_eq!(present.counts, [8, 4]);
    assert_eq!(revise(&present, &of(&[1.95, 1.03]), 0.05).unwrap().counts, [8, 4]);
    assert_eq!(revise(&present, &of(&[1.0, 1.0]), 0.05).unwrap().counts, [6, 6]);
    let mut bounded = of(&[2.0, 1.0]);
    bounded[0].most = Some(7);
    assert_eq!(revise(&present, &bounded, 0.05).unwrap().counts, [7, 5]);
    assert_eq!(revise(&present, &of(&[2.0, 1.0, 1.0]), 0.05).unwrap().counts.len(), 3);
}

#[test]
fn a_speed_that_falls_to_a_third_is_followed_within_ten_steps() {
    let mut speed = Speed::default();
    assert_eq!(speed.per_s(), None);
    speed.observe(4, 2.0);
    assert_eq!(speed.per_s(), Some(2.0));
    (0..10).for_each(|_| speed.observe(4, 6.0));
    let per_s = speed.per_s().unwrap();
    assert!((per_s / (2.0 / 3.0) - 1.0).abs() < 0.03, "{per_s}");
    speed.observe(0, 1.0);
    speed.observe(1, f64::NAN);
    assert_eq!(speed.per_s(), Some(per_s));
}

#[test]
fn whoever_is_not_known_well_gets_one_micro_batch_to_be_measured_by() {
    use lingot_sync::shares::with_probes;
    assert_eq!(with_probes(&[8, 0, 0], &[false, true, false]), [7, 1, 0]);
    assert_eq!(with_probes(&[5, 3, 0], &[true, true, true]), [4, 3, 1]);
    assert_eq!(with_probes(&[1, 0], &[false, true]), [1, 0], "nobody has one to spare");
    assert_eq!(with_probes(&[4, 4], &[false, false]), [4, 4]);
}
