//! Detection, weighing and clipping, against numbers worked out by hand.

use lingot_spec::run::PenaltySpec;
use lingot_sync::penalty::{Detector, Verdict, clip_factor, leave_out, weigh};

fn spec() -> PenaltySpec {
    PenaltySpec { enabled: true, temperature: 1.0, threshold: 3.0, newest: 0.5, warmup_meetings: 2 }
}

#[test]
fn the_moving_statistics_are_those_worked_out_by_hand() {
    let mut detector = Detector::default();
    detector.judge(4.0, &spec());
    assert_eq!((detector.mean, detector.variance), (4.0, 0.0));
    // d = 4, mean 4 + 2 = 6, variance 0.5 * (0 + 0.5 * 4 * (8 - 6)) = 2
    detector.judge(8.0, &spec());
    assert_eq!((detector.mean, detector.variance), (6.0, 2.0));
    // z = (6 + 2 * 1.4142136 - 6) / 1.4142136 = 2, below 3
    let Verdict::Normal { z } = detector.judge(6.0 + 2.0 * 2.0_f64.sqrt(), &spec()) else { panic!() };
    assert!((z - 2.0).abs() < 1e-12, "{z}");
}

#[test]
fn an_outlier_is_found_and_not_learnt_from() {
    let mut detector = Detector::default();
    for norm in [4.0, 8.0] {
        detector.judge(norm, &spec());
    }
    let before = detector.clone();
    let verdict = detector.judge(6.0 + 4.0 * 2.0_f64.sqrt(), &spec());
    let Verdict::Outlier { z, limit, .. } = verdict else { panic!("{verdict}") };
    assert!((z - 4.0).abs() < 1e-12 && limit == 3.0);
    assert_eq!(detector, before);
    assert!(verdict.to_string().contains("outlier"), "{verdict}");
    assert!(!detector.judge(0.0, &spec()).is_anomaly(), "one-sided: small changes harm nobody");
}

#[test]
fn nothing_is_judged_before_the_warmup_but_what_is_not_a_number() {
    let mut detector = Detector::default();
    assert!(!detector.judge(1.0, &spec()).is_anomaly());
    assert!(!detector.judge(1e9, &spec()).is_anomaly());
    assert_eq!(Detector::default().judge(f64::NAN, &spec()), Verdict::NotFinite);
}

#[test]
fn a_restless_window_raises_the_limit() {
    let mut detector = Detector { meetings: 9, mean: 1.0, variance: 1.0, window: [-4.0, 4.0].into() };
    // The z of the window deviate by 4, so the limit is 12, and z = 10 is normal.
    assert_eq!(detector.judge(11.0, &spec()), Verdict::Normal { z: 10.0 });
}

#[test]
fn a_detector_comes_back_from_its_numbers() {
    let mut detector = Detector::default();
    for norm in [4.0, 8.0, 6.5] {
        detector.judge(norm, &spec());
    }
    assert_eq!(Detector::from_numbers(&detector.to_numbers()), Some(detector));
    assert_eq!(Detector::from_numbers(&[1.0]), None);
}

#[test]
fn changes_count_by_the_softmax_of_their_norms() {
    let weighing = weigh(&[1.0, 1.0 + 3.0_f64.ln()], &mut vec![Detector::default(); 2], &spec());
    assert!((weighing.weights[0] - 0.75).abs() < 1e-6 && (weighing.weights[1] - 0.25).abs() < 1e-6);
    let plain = PenaltySpec { enabled: false, ..spec() };
    let weighing = weigh(&[1.0, f64::INFINITY], &mut vec![Detector::default(); 2], &plain);
    assert_eq!(weighing.weights, [0.5, 0.5]);
}

#[test]
fn an_anomaly_has_no_weight_and_the_rest_sums_to_one() {
    let weighing = weigh(&[f64::NAN, 2.0, 2.0], &mut vec![Detector::default(); 3], &spec());
    assert_eq!(weighing.weights, [0.0, 0.5, 0.5]);
    assert!(!weighing.all_anomalous);
    let weighing = weigh(&[f64::NAN, f64::NAN], &mut vec![Detector::default(); 2], &spec());
    assert_eq!((weighing.weights, weighing.all_anomalous), (vec![0.0, 0.0], true));
}

#[test]
fn clipping_brings_a_norm_to_the_limit() {
    assert_eq!(clip_factor(5.0, 10.0), 1.0);
    assert!((clip_factor(20.0, 10.0) - 0.5).abs() < 1e-6);
    assert_eq!(clip_factor(20.0, 0.0), 1.0);
}

#[test]
fn a_norm_that_stands_out_among_the_workers_is_found_while_all_norms_fall() {
    let mut detectors = vec![Detector::default(); 4];
    let mut weights = Vec::new();
    for meeting in 0..40 {
        let usual = 10.0 * 0.9_f64.powi(meeting);
        let noise = |worker: i32| 1.0 + 0.005 * f64::from((meeting * 7 + worker * 3) % 5 - 2);
        let strange = if meeting >= 20 { 1.2 } else { 1.0 };
        let norms: Vec<f64> =
            (0..4).map(|worker| usual * noise(worker) * if worker == 3 { strange } else { 1.0 }).collect();
        weights = weigh(&norms, &mut detectors, &PenaltySpec { newest: 0.1, warmup_meetings: 10, ..spec() })
            .weights;
    }
    assert_eq!(weights[3], 0.0);
    assert!(weights[..3].iter().all(|&weight| weight > 0.3), "{weights:?}");
}

#[test]
fn a_worker_that_is_bad_in_several_groups_counts_in_none_and_in_one_only_there() {
    let group = |norms: &[f64]| weigh(norms, &mut vec![Detector::default(); norms.len()], &spec());
    let decide = |norms: &[Vec<f64>]| {
        let mut weighings: Vec<_> = norms.iter().map(|norms| group(norms)).collect();
        leave_out(&mut weighings, norms, &spec());
        weighings
    };
    let weighings = decide(&[vec![2.0, f64::NAN, 2.0], vec![2.0, f64::NAN, 2.0], vec![2.0; 3]]);
    assert!(weighings.iter().all(|weighing| weighing.weights == [0.5, 0.0, 0.5]), "{weighings:?}");
    let weighings = decide(&[vec![2.0, f64::NAN], vec![2.0; 2]]);
    assert_eq!((&weighings[0].weights[..], &weighings[1].weights[..]), (&[1.0, 0.0][..], &[0.5, 0.5][..]));
}

#[test]
fn a_worker_that_stands_out_in_one_group_is_left_out_there_only_if_it_stands_out_far() {
    let steady = Detector { meetings: 9, mean: 1.0, variance: 0.0, window: [0.0].into() };
    let decide = |norms: &[Vec<f64>]| {
        let mut weighings: Vec<_> =
            norms.iter().map(|norms| weigh(norms, &mut vec![steady.clone(); 3], &spec())).collect();
        leave_out(&mut weighings, norms, &spec());
        weighings
    };
    let near = decide(&[vec![1.0, 1.15, 1.0], vec![1.0; 3]]);
    assert!(!near[0].verdicts[1].is_anomaly() && near[0].weights[1] > 0.25, "{near:?}");
    let far = decide(&[vec![1.0, 2.5, 1.0], vec![1.0; 3]]);
    assert!(
        far[0].verdicts[1].is_anomaly() && far[0].weights[1] == 0.0 && far[1].weights[1] > 0.3,
        "{far:?}"
    );
    let only_group = decide(&[vec![1.0, 1.15, 1.0]]);
    assert_eq!(only_group[0].weights, [0.5, 0.0, 0.5]);
    let both = decide(&[vec![1.0, 1.15, 1.0], vec![1.0, 1.15, 1.0]]);
    assert!(both.iter().all(|weighing| weighing.weights[1] == 0.0), "{both:?}");
}

/// How often each of four workers was left out altogether, and how often it was an anomaly in one of five
/// groups, at 200 meetings where norms have noise of 2 %; from the hundredth on the last worker's are larger
/// by `excess`.
fn meetings_left_out(seed: u64, excess: f64) -> ([u64; 4], [u64; 4]) {
    let spec = PenaltySpec { newest: 0.1, warmup_meetings: 10, ..spec() };
    let mut groups = vec![vec![Detector::default(); 4]; 5];
    let (mut altogether, mut single) = ([0; 4], [0; 4]);
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    // The sum of twelve has a deviation of 1 and nearly the normal distribution.
    let mut noise = || (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
    for meeting in 0..200 {
        let mut norm = |worker: usize| {
            let larger = if worker == 3 && meeting >= 100 { excess } else { 0.0 };
            2.0 * (1.0 + 0.02 * noise() + larger)
        };
        let norms: Vec<Vec<f64>> = (0..5).map(|_| (0..4).map(&mut norm).collect()).collect();
        let mut weighings: Vec<_> =
            groups.iter_mut().zip(&norms).map(|(detectors, norms)| weigh(norms, detectors, &spec)).collect();
        for weighing in &weighings {
            (0..4).for_each(|rank| single[rank] += u64::from(weighing.verdicts[rank].is_anomaly()));
        }
        leave_out(&mut weighings, &norms, &spec);
        (0..4).for_each(|rank| {
            altogether[rank] += u64::from(weighings.iter().all(|weighing| weighing.weights[rank] == 0.0));
        });
    }
    (altogether, single)
}

#[test]
fn sound_workers_are_hardly_ever_anomalies() {
    for seed in 1..=5 {
        let (altogether, single) = meetings_left_out(seed, 0.0);
        assert_eq!(altogether, [0; 4], "seed {seed}");
        // One of 200, of 4,000 judgements.
        assert!(single.iter().sum::<u64>() <= 20, "seed {seed}: {single:?}");
    }
}

#[test]
fn a_worker_whose_changes_become_a_tenth_larger_is_left_out_at_most_meetings() {
    for seed in 1..=5 {
        let (altogether, single) = meetings_left_out(seed, 0.1);
        assert!(altogether[3] > 50, "seed {seed}: {altogether:?} of 100");
        assert_eq!(altogether[..3], [0; 3], "seed {seed}");
        assert!(single[..3].iter().sum::<u64>() <= 20, "seed {seed}: {single:?}");
    }
}

#[test]
fn a_straggler_that_takes_a_step_more_than_usual_is_no_anomaly() {
    let spec = PenaltySpec { newest: 0.1, warmup_meetings: 5, ..spec() };
    let mut detectors = vec![Detector::default(); 3];
    for _ in 0..20 {
        weigh(&[1.0, 1.0, 0.4], &mut detectors, &spec);
    }
    let mut judged = |straggler: f64| weigh(&[1.0, 1.0, straggler], &mut detectors, &spec).verdicts[2];
    assert!(!judged(0.6).is_anomaly(), "it is still below the others");
    assert!(judged(1.2).is_anomaly(), "now it is above them");
}
