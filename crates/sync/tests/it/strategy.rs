//! When workers meet.

use lingot_spec::run::{Strategy, SyncSpec};
use lingot_sync::strategy::{Decision, InStep, Meet, Progress, enough_steps, next};

fn spec(strategy: Strategy) -> SyncSpec {
    SyncSpec { strategy, every: 4, period_s: 10.0, least_steps: 6, warmup_steps: 20, ..SyncSpec::default() }
}

fn at(step: u64, own_steps: u64) -> Progress {
    Progress { step, own_steps, ..Progress::default() }
}

#[test]
fn every_step_is_in_step() {
    assert_eq!(next(&spec(Strategy::EveryStep), &at(99, 0)), Decision::InStep(InStep::EveryStep));
}

#[test]
fn the_first_steps_are_taken_together() {
    let warm = Decision::InStep(InStep::Warmup { step: 19, until: 20 });
    assert_eq!(next(&spec(Strategy::Edit), &at(19, 0)), warm);
    assert_eq!(next(&spec(Strategy::AEdit), &at(19, 0)), warm);
    assert_eq!(next(&spec(Strategy::Edit), &at(20, 0)), Decision::GoOn);
}

#[test]
fn edit_meets_after_so_many_steps() {
    assert_eq!(next(&spec(Strategy::Edit), &at(20, 3)), Decision::GoOn);
    assert_eq!(next(&spec(Strategy::Edit), &at(20, 4)), Decision::Meet(Meet::Steps { done: 4 }));
}

#[test]
fn a_edit_meets_when_the_middle_of_the_next_step_lies_beyond_the_period() {
    let spec = spec(Strategy::AEdit);
    let at =
        |elapsed_s, next_step_s| Progress { step: 20, own_steps: 1, elapsed_s, next_step_s, prolonged: 0 };
    assert_eq!(next(&spec, &at(8.0, 3.9)), Decision::GoOn);
    let meet = Meet::Time { elapsed_s: 8.0, next_step_s: 4.1, period_s: 10.0 };
    assert_eq!(next(&spec, &at(8.0, 4.1)), Decision::Meet(meet));
    assert!(meet.to_string().contains("8.000 s of 10.000 s"));
    // Prolonged once, it is 20 s.
    assert_eq!(next(&spec, &Progress { prolonged: 1, ..at(8.0, 4.1) }), Decision::GoOn);
    // A worker whose one step takes longer than the period still takes it.
    assert_eq!(next(&spec, &Progress { own_steps: 0, ..at(0.0, 50.0) }), Decision::GoOn);
}

#[test]
fn a_edit_wants_a_minimum_of_steps_of_all_together() {
    assert_eq!(enough_steps(&spec(Strategy::AEdit), &[2, 3]), Err(5));
    assert_eq!(enough_steps(&spec(Strategy::AEdit), &[5, 1]), Ok(()));
    assert_eq!(enough_steps(&spec(Strategy::Edit), &[0, 0]), Ok(()));
}
