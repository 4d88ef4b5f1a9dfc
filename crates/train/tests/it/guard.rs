//! Spikes on real steps: batches of garbage are skipped, tried again, taken at a lower rate and named; a run
//! without spikes computes the same bits whatever the guard does.

use crate::it::fleet::anomalies;
use crate::it::step::{contents, run, tiny};
use lingot_spec::event::{Event, Step};
use lingot_train::checkpoint;
use lingot_train::config::Resolved;
use lingot_train::record::log;
use std::fs;
use std::path::Path;

/// A run on sentences of a small grammar with `garbage` documents of noise among them.
fn with_garbage(folder: &Path, garbage: usize, more: &[&str]) -> Resolved {
    let mut state = 11_u64;
    let mut below = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % limit
    };
    let words = ["the", "cat", "dog", "bird", "sees", "hears", "follows", "a", "red", "small"];
    let mut lines = Vec::new();
    for _ in 0..400 {
        let text: Vec<&str> = (0..60).map(|_| words[below(words.len())]).collect();
        lines.push(serde_json::json!({ "text": text.join(" ") }).to_string());
    }
    for number in 0..garbage {
        let noise: String = (0..220).map(|_| (b'!' + below(90) as u8) as char).collect();
        lines[(37 + 113 * number) % 400] = serde_json::json!({ "text": noise }).to_string();
    }
    let path = folder.join("text.jsonl");
    fs::create_dir_all(folder).unwrap();
    fs::write(&path, lines.join("\n")).unwrap();
    let corpora = format!("data.corpora=[{{ path = {:?} }}]", path.display().to_string());
    let common = [
        &corpora,
        "stop.steps=260",
        "batch.sequences=4",
        "batch.micro=4",
        "optimizer.rate=0.005",
        "evaluation.every=0",
        "checkpoint.every=0",
        "guard.deviations=6",
    ];
    tiny(folder, &[&common[..], more].concat())
}

fn taken(folder: &Path) -> Vec<Step> {
    let step = |event| if let Event::Step(step) = event { Some(step) } else { None };
    log::read(folder).unwrap().into_iter().filter_map(step).collect()
}

#[test]
fn a_run_without_spikes_computes_the_same_bits_with_every_guard_on_or_off() {
    let mut all = Vec::new();
    for off in [&[][..], &["guard.spikes=false"], &["guard.spikes=false", "guard.retry=false"]] {
        let folder = tempfile::tempdir().unwrap();
        let summary = run(&with_garbage(folder.path(), 0, &[off, &["stop.steps=120"]].concat()), 1);
        assert_eq!(anomalies(folder.path(), "spike"), Vec::<String>::new(), "a false alarm");
        all.push(contents(&summary));
    }
    assert!(all[0] == all[1] && all[0] == all[2]);
}

#[test]
fn garbage_is_skipped_tried_again_and_named_and_the_run_resumes_with_the_same_bits() {
    let whole = tempfile::tempdir().unwrap();
    let summary = run(&with_garbage(whole.path(), 3, &[]), 1);
    let (spikes, again) = (anomalies(whole.path(), "spike"), anomalies(whole.path(), "quarantined"));
    assert!(!spikes.is_empty() && spikes.iter().all(|reason| reason.contains("its batch is tried again")));
    assert!(!again.is_empty(), "{spikes:?}");
    let list = fs::read_to_string(whole.path().join("quarantine.jsonl")).unwrap();
    assert_eq!(list.lines().count(), again.len());
    // Each batch holds one of the documents of noise.
    let noise = [38, 151, 264].map(|number| format!("document {number} of "));
    for line in list.lines() {
        assert!(noise.iter().any(|document| line.contains(document)), "{line}");
    }
    let taken_low = again.iter().filter(|reason| reason.contains("taken at 0.1 of the rate")).count();
    let rates: Vec<f64> = taken(whole.path()).iter().map(|step| step.rate).collect();
    let falls = rates.windows(2).filter(|pair| pair[1] < 0.2 * pair[0]).count();
    assert!((1..=taken_low).contains(&falls), "{falls} {taken_low}");

    // Broken off at any step, it is the same run: what the guard knows is in the checkpoint.
    let broken = tempfile::tempdir().unwrap();
    for steps in [50, 90, 91, 140, 200] {
        let set = format!("stop.steps={steps}");
        // The length of a run decides its rates.
        run(&with_garbage(broken.path(), 3, &["schedule.shape=constant", &set]), 1);
    }
    let constant = tempfile::tempdir().unwrap();
    let undisturbed = run(&with_garbage(constant.path(), 3, &["schedule.shape=constant"]), 1);
    let resumed = run(&with_garbage(broken.path(), 3, &["schedule.shape=constant"]), 1);
    assert!(contents(&resumed) == contents(&undisturbed));
    let state = |summary: &lingot_train::step::Summary| {
        checkpoint::load(&summary.checkpoint).unwrap().manifest.head.guard
    };
    assert!(state(&resumed).is_some() && state(&resumed) == state(&undisturbed));
    assert!(summary.held_out_loss.unwrap() < 3.5, "{summary:?}");
}

#[test]
fn without_retries_a_spike_is_skipped_for_good_and_without_a_guard_nothing_is() {
    let folder = tempfile::tempdir().unwrap();
    run(&with_garbage(folder.path(), 3, &["guard.retry=false"]), 1);
    assert!(anomalies(folder.path(), "spike").iter().all(|reason| !reason.contains("tried again")));
    assert_eq!(anomalies(folder.path(), "quarantined"), Vec::<String>::new());
    let folder = tempfile::tempdir().unwrap();
    run(&with_garbage(folder.path(), 3, &["guard.spikes=false"]), 1);
    assert_eq!(anomalies(folder.path(), "spike"), Vec::<String>::new());
}
