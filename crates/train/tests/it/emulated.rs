//! Emulated workers: in step they are one device; apart they agree, are logged to the byte, and resume bit
//! for bit.

use crate::it::fleet::exchanges;
use crate::it::step::{contents, run, tiny};
use lingot_spec::event::Exchange;

const FOUR: &str = "sync.virtual_speeds=[1.0, 1.0, 1.0, 0.25]";
const SMALL: [&str; 4] =
    ["batch.micro=2", "sync.warmup_steps=4", "sync.every=2", "sync.penalty.warmup_meetings=2"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&SMALL, more].concat()
}

#[test]
fn workers_in_step_learn_what_one_device_learns() {
    let [one, four] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let alone = run(&tiny(one.path(), &with(&[])), 1);
    let together = run(&tiny(four.path(), &with(&[FOUR])), 1);
    let (alone, together) = (alone.held_out_loss.unwrap(), together.held_out_loss.unwrap());
    assert!((alone / together - 1.0).abs() < 1e-4, "{alone} {together}");
}

#[test]
fn meetings_are_logged_with_the_bytes_that_were_predicted() {
    for strategy in ["edit", "a_edit", "every_step"] {
        let folder = tempfile::tempdir().unwrap();
        let strategy = format!("sync.strategy={strategy}");
        let more = with(&[FOUR, &strategy, "sync.period_s=4.0", "sync.least_steps=4"]);
        let summary = run(&tiny(folder.path(), &more), 1);
        assert_eq!(summary.step, 12);
        let found = exchanges(folder.path());
        assert!(found.len() >= 5, "{}", found.len());
        for exchange in found {
            assert!(exchange.bytes > 0);
            assert_eq!(exchange.bytes, exchange.predicted_bytes);
            let weights: f64 = exchange.workers.iter().map(|worker| worker.weight).sum();
            assert!((weights - 1.0).abs() < 1e-4, "{weights}");
        }
    }
}

#[test]
fn with_a_straggler_equal_steps_wait_and_equal_times_do_not() {
    let wait = |strategy: &str| {
        let folder = tempfile::tempdir().unwrap();
        let more = with(&[FOUR, strategy, "sync.period_s=16.0", "sync.least_steps=4", "stop.steps=40"]);
        run(&tiny(folder.path(), &more), 1);
        let apart: Vec<Exchange> = exchanges(folder.path()).split_off(4);
        let sum = |part: fn(&lingot_spec::event::WorkerShare) -> f64| -> f64 {
            apart.iter().flat_map(|exchange| &exchange.workers).map(part).sum()
        };
        let (busy_s, waiting_s) = (sum(|worker| worker.busy_s), sum(|worker| worker.waiting_s));
        waiting_s / (busy_s + waiting_s)
    };
    // Three of four wait for three quarters of the time.
    assert!((wait("sync.strategy=edit") - 9.0 / 16.0).abs() < 1e-9);
    assert!(wait("sync.strategy=a_edit") < 0.2);
}

#[test]
fn a_resumed_run_of_workers_apart_is_the_uninterrupted_one() {
    for strategy in ["sync.strategy=edit", "sync.strategy=a_edit"] {
        let [whole, parts] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let more =
            with(&[FOUR, strategy, "sync.period_s=4.0", "sync.least_steps=4", "schedule.shape=constant"]);
        let uninterrupted = run(&tiny(whole.path(), &more), 1);
        let checkpoints = parts.path().join("checkpoints");
        run(&tiny(parts.path(), &more), 1);
        // The kill: everything after the first checkpoint that was made apart is lost.
        let kept = lingot_train::checkpoint::newest::list(&checkpoints).unwrap();
        for (_, newer) in &kept[1..] {
            std::fs::remove_dir_all(newer).unwrap();
        }
        let resumed = run(&tiny(parts.path(), &more), 1);
        assert!(kept[0].0 < resumed.step);
        assert_eq!(contents(&resumed), contents(&uninterrupted), "{strategy}");
    }
}

#[test]
fn one_worker_with_a_plain_mean_loses_nothing_by_meeting() {
    let [alone, local] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let plain = ["sync.outer.rate=1.0", "sync.outer.momentum=0.0", "sync.outer.clip=0.0"];
    let apart = [&with(&["sync.virtual_speeds=[1.0]", "sync.strategy=edit"])[..], &plain].concat();
    let (alone, local) = (run(&tiny(alone.path(), &with(&[])), 1), run(&tiny(local.path(), &apart), 1));
    let (alone, local) = (alone.held_out_loss.unwrap(), local.held_out_loss.unwrap());
    assert!((alone / local - 1.0).abs() < 1e-4, "{alone} {local}");
}
