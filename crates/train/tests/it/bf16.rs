//! Runs in bf16: masters in f32 that checkpoints hold, a working copy that always follows them, and the same
//! bits however the run is divided, recomputed or interrupted.

use crate::it::fleet::{Lab, train};
use crate::it::step::{contents, run, tiny};
use lingot_device::Bf16;
use lingot_device::throttled::Throttle;
use std::fs;

const BF16: &str = "device.precision=bf16";

fn in_bf16<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&[BF16], more].concat()
}

#[test]
fn a_resumed_run_has_the_bits_of_the_uninterrupted_one_on_any_number_of_threads() {
    let [whole, broken] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let more = in_bf16(&["model.router.warmup_steps=9", "device.recompute=[\"block\", \"experts\"]"]);
    let undisturbed = run(&tiny(whole.path(), &more), 1);
    let resolved = tiny(broken.path(), &more);
    run(&resolved, 2);
    for step in ["step-00000010", "step-00000012"] {
        fs::remove_dir_all(broken.path().join("checkpoints").join(step)).unwrap();
    }
    let resumed = run(&resolved, 3);
    assert_eq!(contents(&undisturbed), contents(&resumed));
    assert_eq!(undisturbed.held_out_loss, resumed.held_out_loss);
}

#[test]
fn a_checkpoint_holds_masters_that_no_bf16_could() {
    let folder = tempfile::tempdir().unwrap();
    let (weights, ..) = contents(&run(&tiny(folder.path(), &in_bf16(&[])), 1));
    for (name, _, values) in weights {
        let rounded = values.iter().filter(|&&value| Bf16::of(value).wide() == value).count();
        assert!(rounded * 10 < values.len(), "{name}: {rounded} of {} are bf16", values.len());
    }
}

#[test]
fn what_is_computed_again_changes_no_bit() {
    let train = |policy: &str| {
        let folder = tempfile::tempdir().unwrap();
        contents(&run(&tiny(folder.path(), &in_bf16(&[&format!("device.recompute={policy}")])), 2))
    };
    let nothing = train("nothing");
    assert_eq!(nothing, train("experts"));
    assert_eq!(nothing, train("block"));
}

#[test]
fn it_learns_what_f32_learns_and_is_not_f32() {
    let [half, wide] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let more = ["stop.steps=40", "optimizer.rate=0.003"];
    let half = run(&tiny(half.path(), &in_bf16(&more)), 2);
    let wide = run(&tiny(wide.path(), &more), 2);
    let (half, wide, before) =
        (half.held_out_loss.unwrap(), wide.held_out_loss.unwrap(), half.first_held_out_loss.unwrap());
    assert!(half != wide && wide < before - 0.5, "{before} {wide} {half}");
    assert!((half / wide - 1.0).abs() < 5e-3, "{wide} {half}");
}

#[test]
fn a_run_may_go_on_in_the_other_precision() {
    let folder = tempfile::tempdir().unwrap();
    run(&tiny(folder.path(), &["stop.steps=5"]), 1);
    assert_eq!(run(&tiny(folder.path(), &in_bf16(&["stop.steps=10"])), 1).step, 10);
    assert_eq!(run(&tiny(folder.path(), &[]), 1).step, 12);
}

#[test]
fn a_fleet_of_one_computes_the_bits_of_one_device() {
    let [alone, fleet] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let more = in_bf16(&["batch.micro=1", "sync.deadline_s=30"]);
    let alone = run(&tiny(alone.path(), &more), 1);
    let one = [&more[..], &["devices=[\"a\"]"]].concat();
    let opener = Lab::default().opener(|_| Throttle::default());
    let fleet = train(&tiny(fleet.path(), &one), opener, &mut |_| ()).unwrap();
    assert_eq!(contents(&alone), contents(&fleet));
}

#[test]
fn workers_apart_agree_on_masters_and_resume_to_the_bit() {
    let [whole, parts] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let more = in_bf16(&[
        "batch.micro=2",
        "sync.virtual_speeds=[1.0, 0.5]",
        "sync.strategy=edit",
        "sync.warmup_steps=4",
        "sync.every=2",
        "schedule.shape=constant",
    ]);
    let uninterrupted = run(&tiny(whole.path(), &more), 1);
    run(&tiny(parts.path(), &more), 1);
    // The kill: everything after the first checkpoint that was made apart is lost.
    let kept = lingot_train::checkpoint::newest::list(&parts.path().join("checkpoints")).unwrap();
    for (_, newer) in &kept[1..] {
        fs::remove_dir_all(newer).unwrap();
    }
    let resumed = run(&tiny(parts.path(), &more), 1);
    assert_eq!(contents(&uninterrupted), contents(&resumed));
}
