//! TensorBoard files, read by TensorBoard itself.

use lingot_train::record::tfevents::EventFile;
use std::path::Path;
use std::process::Command;

#[test]
fn tensorboard_reads_two_sessions_as_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = EventFile::create(folder.path(), 1e9, 0).unwrap();
    for step in 1..=6u64 {
        let loss = 4.0 - step as f64 * 0.25;
        first.scalars(1e9 + step as f64, step, &[("train/loss", loss), ("train/rate", 0.5)]).unwrap();
    }
    // Killed after step 6, resumed from the checkpoint of step 4.
    let mut second = EventFile::create(folder.path(), 1e9 + 60.0, 4).unwrap();
    for step in 5..=300u64 {
        second.scalars(1e9 + 60.0 + step as f64, step, &[("train/loss", step as f64)]).unwrap();
    }
    let Some(text) = read_with_tensorboard(folder.path()) else { return };
    let scalars: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut expected = vec![(1, 3.75), (2, 3.5), (3, 3.25), (4, 3.0)];
    expected.extend((5..=300).map(|step| (step, f64::from(step))));
    assert_eq!(scalars["train/loss"], serde_json::to_value(expected).unwrap());
    assert_eq!(scalars["train/rate"].as_array().unwrap().len(), 4);
}

/// None, with a line saying why, where Python or its package is missing.
fn read_with_tensorboard(folder: &Path) -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let venv = root.join("target/venv/bin/python");
    let python = if venv.exists() { venv } else { "python3".into() };
    let output = Command::new(&python).arg(root.join("scripts/check_tensorboard.py")).arg(folder).output();
    let Ok(output) = output else {
        println!("skipped: {} does not run", python.display());
        return None;
    };
    let text = String::from_utf8(output.stdout).unwrap();
    if text.starts_with("skipped") {
        println!("{text}");
        return None;
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(text)
}
