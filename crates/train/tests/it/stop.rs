//! When a run ends, and what it then says.

use lingot_spec::run::StopSpec;
use lingot_train::guard::stop::{Progress, why_stop};

fn spec() -> StopSpec {
    StopSpec { steps: 10, tokens: Some(1000), hours: Some(1.0), money: Some(2.0), loss: Some(3.0) }
}

#[test]
fn a_run_goes_on_while_no_limit_is_met() {
    let at = Progress { step: 9, tokens: 999, hours: 0.99, money: Some(1.99), loss: Some(3.01) };
    assert_eq!(why_stop(&spec(), &at), None);
    assert_eq!(why_stop(&spec(), &Progress::default()), None);
}

#[test]
fn each_limit_stops_the_run_and_says_so() {
    let base = Progress::default();
    let cases = [
        (Progress { step: 10, ..base }, "all 10 steps are done"),
        (Progress { tokens: 1024, ..base }, "1024 tokens reach the limit of 1000"),
        (Progress { hours: 1.5, ..base }, "1.500 hours reach the limit of 1"),
        (Progress { money: Some(2.0), ..base }, "2.0000 spent reaches the limit of 2"),
        (Progress { loss: Some(2.5), ..base }, "held-out loss 2.5000 reaches the target of 3"),
    ];
    for (at, words) in cases {
        assert_eq!(why_stop(&spec(), &at).unwrap().to_string(), words);
    }
}

#[test]
fn a_loss_that_is_not_a_number_reaches_no_target() {
    assert_eq!(why_stop(&spec(), &Progress { loss: Some(f64::NAN), ..Progress::default() }), None);
}
