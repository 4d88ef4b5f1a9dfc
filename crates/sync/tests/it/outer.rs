//! The outer step, against numbers worked out by hand.

use lingot_spec::run::OuterSpec;
use lingot_sync::outer;

#[test]
fn two_steps_of_nesterov_are_those_worked_out_by_hand() {
    let spec = OuterSpec { rate: 0.5, momentum: 0.5, clip: 0.0 };
    let (mut agreed, mut velocity) = ([10.0], [0.0]);
    // velocity 4; step 0.5 * (4 + 0.5 * 4) = 3
    outer::step(&mut agreed, &mut velocity, &[4.0], &spec);
    assert_eq!((agreed, velocity), ([7.0], [4.0]));
    // velocity 0.5 * 4 + 2 = 4; step 0.5 * (2 + 0.5 * 4) = 2
    outer::step(&mut agreed, &mut velocity, &[2.0], &spec);
    assert_eq!((agreed, velocity), ([5.0], [4.0]));
}

#[test]
fn momentum_0_and_rate_1_take_the_mean() {
    let spec = OuterSpec { rate: 1.0, momentum: 0.0, clip: 0.0 };
    let (mut agreed, mut velocity) = ([8.0, 1.0], [0.0; 2]);
    outer::step(&mut agreed, &mut velocity, &[2.0, -4.0], &spec); // agreed - mean of the workers
    assert_eq!(agreed, [6.0, 5.0]);
}
