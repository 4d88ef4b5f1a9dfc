//! Checkpoints: saved, loaded, damaged in every way, merged.

use super::random::Random;
use lingot_formats::tensor_file::parse_header;
use lingot_spec::ModelSpec;
use lingot_spec::manifest::{FORMAT, ManifestHead};
use lingot_spec::presets::preset;
use lingot_spec::problem::{Problem, Result};
use lingot_train::checkpoint::manifest::{self, check_model};
use lingot_train::checkpoint::merge::{Decay, merge};
use lingot_train::checkpoint::newest::{clean, latest, list, prune, resolve, set_aside_newer};
use lingot_train::checkpoint::{Loaded, Named, OPTIMIZER, STATE, WEIGHTS, load, load_weights, save, verify};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn model() -> ModelSpec {
    preset("toy").unwrap()
}

fn head(step: u64) -> ManifestHead {
    ManifestHead {
        lingot: "0.1.0".into(),
        step,
        tokens: step * 4096,
        samples: Some(8 * step),
        seconds: 0.1 + step as f64 / 3.0,
        money: Some(0.1 * step as f64),
        seed: 7,
        model: model(),
        run: "name = \"plays\"\n".into(),
        data: None,
        guard: None,
        merged: Vec::new(),
    }
}

/// Three weights, their moments and a buffer, whose numbers depend on the step.
fn write(folder: &Path, step: u64) -> Result<PathBuf> {
    let values: Vec<f32> = (0..60).map(|i| i as f32 * 0.5 + step as f32).collect();
    let named = |name, shape, count| Named { name, shape, values: &values[..count] };
    let weights = [named("embedding", &[6, 10], 60), named("norm", &[4], 4), named("empty", &[0, 3], 0)];
    let moments = [named("first/norm", &[4], 4), named("second/norm", &[4], 4)];
    save(folder, head(step), &weights, &moments, &[named("layers.1.selection_bias", &[2, 2], 4)])
}

fn saved(steps: &[u64]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = folder.path().join("checkpoints");
    for &step in steps {
        write(&checkpoints, step).unwrap();
    }
    (folder, checkpoints)
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn flip_bit(path: &Path, from_end: usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() - from_end;
    bytes[at] ^= 4;
    fs::write(path, bytes).unwrap();
}

fn problem<T>(result: Result<T>) -> String {
    let Err(Problem { problem, hint, .. }) = result else { panic!("this should have failed") };
    assert!(!hint.is_empty());
    problem
}

#[test]
fn what_was_saved_is_loaded() {
    let (_folder, checkpoints) = saved(&[100]);
    let place = checkpoints.join("step-00000100");
    let Loaded { manifest, weights, moments, buffers } = load(&place).unwrap();
    assert_eq!((manifest.format, &manifest.head), (FORMAT, &head(100)));
    assert_eq!(weights[0].0, "embedding");
    assert_eq!((weights[0].1.as_slice(), weights[0].2[59]), (&[6usize, 10][..], 129.5));
    assert_eq!((weights[1].0.as_str(), weights[2].0.as_str()), ("norm", "empty"));
    assert_eq!(
        moments.iter().map(|moment| moment.0.as_str()).collect::<Vec<_>>(),
        ["first/norm", "second/norm"]
    );
    assert_eq!(buffers, [("layers.1.selection_bias".into(), vec![2, 2], vec![100.0, 100.5, 101.0, 101.5])]);
    assert_eq!(load_weights(&place).unwrap().moments, []);
    assert_eq!(names(&place), ["manifest.json", OPTIMIZER, STATE, WEIGHTS]);
}

#[test]
fn the_files_are_ordinary_safetensors() {
    let (_folder, checkpoints) = saved(&[1]);
    let bytes = fs::read(checkpoints.join("step-00000001").join(WEIGHTS)).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("norm").unwrap().shape(), [4]);
    assert_eq!(tensors.tensor("norm").unwrap().data()[..4], 1f32.to_le_bytes());
}

#[test]
fn the_same_contents_make_the_same_bytes() {
    let ((_a, first), (_b, second)) = (saved(&[3]), saved(&[3]));
    for name in [WEIGHTS, OPTIMIZER, STATE, "manifest.json"] {
        let read = |folder: &Path| fs::read(folder.join("step-00000003").join(name)).unwrap();
        assert_eq!(read(&first), read(&second), "{name}");
    }
}

#[test]
fn a_flipped_bit_names_its_tensor_and_both_hashes() {
    let (_folder, checkpoints) = saved(&[5]);
    let place = checkpoints.join("step-00000005");
    flip_bit(&place.join(WEIGHTS), 3);
    let problem = problem(load(&place));
    assert!(problem.contains("tensor `norm`"), "{problem}");
    assert_eq!(problem.split([' ', ',']).filter(|word| word.len() == 64).count(), 2, "{problem}");
    assert!(verify(&place).is_err());
}

#[test]
fn a_bit_flipped_anywhere_is_noticed() {
    let (_folder, checkpoints) = saved(&[5]);
    let place = checkpoints.join("step-00000005");
    let mut random = Random(3);
    for name in [WEIGHTS, OPTIMIZER, STATE, "manifest.json"] {
        let original = fs::read(place.join(name)).unwrap();
        for _ in 0..150 {
            let mut bytes = original.clone();
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
            fs::write(place.join(name), &bytes).unwrap();
            assert!(load(&place).is_err() && verify(&place).is_err(), "{name}, byte {at}");
        }
        fs::write(place.join(name), original).unwrap();
    }
    load(&place).unwrap();
}

#[test]
fn truncated_missing_and_surplus_files_are_told_apart() {
    let (_folder, checkpoints) = saved(&[5]);
    let place = checkpoints.join("step-00000005");
    let path = place.join(OPTIMIZER);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 8]).unwrap();
    let (cut, full) = (whole.len() - 8, whole.len());
    assert!(problem(load(&place)).contains(&format!("has {cut} bytes, its manifest says {full}")));
    load_weights(&place).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(problem(load(&place)).contains("optimizer.safetensors is missing"));
    fs::remove_file(place.join("manifest.json")).unwrap();
    assert!(problem(load(&place)).contains("manifest.json is missing"));
    assert!(problem(load(&checkpoints.join("step-00000006"))).contains("there is no checkpoint"));
}

#[test]
fn a_newer_format_is_refused_with_both_versions_and_never_skipped() {
    let (_folder, checkpoints) = saved(&[5, 6]);
    let path = checkpoints.join("step-00000006/manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"format\": 1", "\"format\": 12")).unwrap();
    let message = problem(load(path.parent().unwrap()));
    assert!(message.contains("format 12") && message.contains("format 1"), "{message}");
    assert!(problem(latest(&checkpoints)).contains("format 12"));
}

#[test]
fn another_model_is_named_by_its_first_differing_key() {
    let place = Path::new("out/plays/checkpoints/step-00000001");
    check_model(place, &model(), &model()).unwrap();
    let mut other = model();
    other.router.scale = 1.0;
    let message = problem(check_model(place, &model(), &other));
    assert!(message.contains("model.router.scale is 2.5, the run says 1.0"), "{message}");
}

#[test]
fn the_newest_sound_checkpoint_is_found_and_the_damage_reported() {
    let (_folder, checkpoints) = saved(&[10, 20, 30]);
    let (path, warnings) = latest(&checkpoints).unwrap().unwrap();
    assert!(path.ends_with("step-00000030") && warnings.is_empty());
    flip_bit(&checkpoints.join("step-00000030").join(STATE), 1);
    let (path, warnings) = latest(&checkpoints).unwrap().unwrap();
    assert!(path.ends_with("step-00000020"));
    assert!(warnings.len() == 1 && warnings[0].contains("selection_bias"), "{warnings:?}");
    fs::remove_file(checkpoints.join("step-00000020/manifest.json")).unwrap();
    assert_eq!(latest(&checkpoints).unwrap().unwrap().1.len(), 2);
    flip_bit(&checkpoints.join("step-00000010").join(STATE), 1);
    assert!(problem(latest(&checkpoints)).contains("no checkpoint in"));
    assert_eq!(latest(&checkpoints.join("nowhere")).unwrap(), None);
}

#[test]
fn only_the_newest_are_kept_and_damaged_ones_do_not_count_once_set_aside() {
    let (_folder, checkpoints) = saved(&[10, 20, 30, 40]);
    prune(&checkpoints, 0).unwrap();
    assert_eq!(names(&checkpoints).len(), 4);
    prune(&checkpoints, 3).unwrap();
    assert_eq!(names(&checkpoints), ["step-00000020", "step-00000030", "step-00000040"]);
    set_aside_newer(&checkpoints, 30).unwrap();
    prune(&checkpoints, 1).unwrap();
    assert_eq!(names(&checkpoints), ["step-00000030", "step-00000040.damaged"]);
}

#[test]
fn what_a_kill_leaves_behind_is_cleaned_up() {
    let (_folder, checkpoints) = saved(&[10, 20]);
    let rename = |from: &str, to: &str| fs::rename(checkpoints.join(from), checkpoints.join(to)).unwrap();
    rename("step-00000020", "step-00000020.partial");
    assert_eq!(list(&checkpoints).unwrap().len(), 1);
    // Killed between moving the replaced checkpoint aside and putting the new one in its place.
    rename("step-00000010", "step-00000010.old");
    clean(&checkpoints).unwrap();
    assert_eq!(names(&checkpoints), ["step-00000010"]);
    // Killed before the replaced one was removed.
    fs::create_dir(checkpoints.join("step-00000010.old")).unwrap();
    clean(&checkpoints).unwrap();
    assert_eq!(names(&checkpoints), ["step-00000010"]);
    clean(&checkpoints.join("nowhere")).unwrap();
}

#[test]
fn a_checkpoint_can_be_saved_again() {
    let (_folder, checkpoints) = saved(&[10]);
    flip_bit(&checkpoints.join("step-00000010").join(STATE), 1);
    write(&checkpoints, 10).unwrap();
    load(&checkpoints.join("step-00000010")).unwrap();
    assert_eq!(names(&checkpoints), ["step-00000010"]);
}

#[test]
fn a_run_its_checkpoints_or_one_of_them_can_be_named() {
    let (folder, checkpoints) = saved(&[9, 10]);
    let newest = checkpoints.join("step-00000010");
    for path in [folder.path(), &checkpoints, &newest] {
        assert_eq!(resolve(path).unwrap(), newest);
    }
    assert_eq!(resolve(&checkpoints.join("step-00000009")).unwrap(), checkpoints.join("step-00000009"));
    assert!(problem(resolve(&folder.path().join("other"))).contains("holds no checkpoint"));
}

#[test]
fn a_folder_that_cannot_be_written_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(problem(write(&file.join("checkpoints"), 1)).contains("cannot make the folder"));
}

/// A file size limit stands for a full disk: the write fails in the middle of a file. The limit holds for a
/// whole process, so the saving is done in a child, which is this test program again.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_leaves_the_previous_checkpoint_as_it_was() {
    let (_folder, checkpoints) = saved(&[10]);
    let program = std::env::current_exe().unwrap();
    let output = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$0\" --exact \"$1\" --ignored --nocapture"])
        .arg(program)
        .arg("it::checkpoint::saves_a_large_checkpoint_where_it_is_told")
        .env("LINGOT_TEST_CHECKPOINTS", &checkpoints)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("cannot write") && text.contains("weights.safetensors"), "{text}");
    assert!(text.contains("hint: "), "{text}");
    assert_eq!(names(&checkpoints), ["step-00000010"]);
    load(&checkpoints.join("step-00000010")).unwrap();
}

#[test]
#[ignore = "the child of the test above"]
fn saves_a_large_checkpoint_where_it_is_told() {
    let Some(checkpoints) = std::env::var_os("LINGOT_TEST_CHECKPOINTS") else { return };
    let values = vec![1.0; 1 << 16];
    let weights = [Named { name: "large", shape: &[1 << 16], values: &values }];
    let error = save(Path::new(&checkpoints), head(20), &weights, &weights, &[]).unwrap_err();
    println!("{error}");
}

/// Saving goes on in a child, again and again, so that most kills fall into a save.
#[cfg(unix)]
#[test]
fn a_kill_at_any_moment_leaves_only_sound_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = folder.path().join("checkpoints");
    let mut random = Random(21);
    for _ in 0..20 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "it::checkpoint::saves_until_it_is_killed", "--ignored"])
            .env("LINGOT_TEST_CHECKPOINTS", &checkpoints)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(random.below(250) as u64));
        child.kill().unwrap();
        child.wait().unwrap();
        clean(&checkpoints).unwrap();
        let all_steps = list(&checkpoints).unwrap();
        assert!(
            all_steps.is_empty() || names(&checkpoints).len() == all_steps.len(),
            "something else is left"
        );
        if let Some((path, warnings)) = latest(&checkpoints).unwrap() {
            assert_eq!(warnings, Vec::<String>::new());
            load(&path).unwrap();
        }
    }
}

#[test]
#[ignore = "the child of the test above"]
fn saves_until_it_is_killed() {
    let Some(checkpoints) = std::env::var_os("LINGOT_TEST_CHECKPOINTS") else { return };
    let checkpoints = PathBuf::from(checkpoints);
    let values = vec![1.0; 1 << 16];
    let weights = [Named { name: "large", shape: &[1 << 16], values: &values }];
    // The same step every other time: replacing a checkpoint must be as safe as adding one.
    for round in 0..100_000 {
        save(&checkpoints, head(round / 2), &weights, &weights, &weights).unwrap();
        prune(&checkpoints, 2).unwrap();
    }
}

#[test]
fn no_header_makes_the_parser_panic_or_allocate() {
    let (_folder, checkpoints) = saved(&[1]);
    let whole = fs::read(checkpoints.join("step-00000001").join(WEIGHTS)).unwrap();
    assert_eq!(parse_header(&whole, whole.len() as u64).unwrap().len(), 3);
    let mut random = Random(11);
    for _ in 0..30_000 {
        let bytes = random.mutate(&whole[..whole.len() - 256]);
        let _ = parse_header(&bytes, bytes.len() as u64);
        let _ = parse_header(&bytes, random.next());
        let _ = parse_header(&bytes, whole.len() as u64);
    }
    for length in 0..whole.len() {
        assert!(parse_header(&whole[..length], length as u64).is_err());
    }
    let deep = format!("{{\"a\":{}", "[".repeat(50_000));
    let mut bytes = (deep.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(deep.as_bytes());
    assert!(parse_header(&bytes, bytes.len() as u64).is_err());
}

#[test]
fn no_manifest_makes_the_reader_panic() {
    let (_folder, checkpoints) = saved(&[1]);
    let place = checkpoints.join("step-00000001");
    let original = fs::read(place.join("manifest.json")).unwrap();
    let mut random = Random(12);
    for _ in 0..2_000 {
        let bytes = random.mutate(&original);
        let same = bytes == original;
        fs::write(place.join("manifest.json"), bytes).unwrap();
        assert_eq!(manifest::read(&place).is_ok(), same);
    }
}

#[test]
fn a_merge_is_the_weighted_mean_without_optimizer_state() {
    let (folder, checkpoints) = saved(&[10, 20, 30]);
    let sources: Vec<PathBuf> = list(&checkpoints).unwrap().into_iter().map(|(_, path)| path).collect();
    let place = merge(&sources, Decay::Mean, &folder.path().join("merged")).unwrap();
    let merged = load_weights(&place).unwrap();
    assert_eq!(merged.weights[1].2, [20.0, 20.5, 21.0, 21.5]);
    assert_eq!((merged.manifest.head.step, merged.manifest.head.merged.len()), (30, 3));
    assert_eq!(merged.manifest.head.merged[0].step, 10);
    assert!(!place.join(OPTIMIZER).exists());
    assert!(problem(load(&place)).contains("no optimizer state"));
    assert!(problem(merge(&sources, Decay::Mean, &place)).contains("exists already"));
    assert_eq!(resolve(&place).unwrap(), place);
}

#[test]
fn a_merge_of_the_wrong_checkpoints_is_refused_and_leaves_nothing() {
    let (folder, checkpoints) = saved(&[10, 20]);
    let [a, b] = [10, 20].map(|step| checkpoints.join(format!("step-{step:08}")));
    let place = folder.path().join("merged");
    let reversed = problem(merge(&[b.clone(), a.clone()], Decay::Linear, &place));
    assert!(
        reversed.contains("(step 10) does not come after") && reversed.contains("(step 20)"),
        "{reversed}"
    );
    let mut other = head(30);
    other.model.layers = 5;
    let c = save(&checkpoints, other, &[], &[], &[]).unwrap();
    let message = problem(merge(&[a.clone(), c], Decay::Linear, &place));
    assert!(message.contains("model.layers is 5, not 4"), "{message}");
    let d = save(&checkpoints, head(40), &[], &[], &[]).unwrap();
    assert!(problem(merge(&[a, d], Decay::Linear, &place)).contains("other tensors"));
    assert!(problem(merge(&[], Decay::Linear, &place)).contains("nothing to merge"));
    assert!(!place.exists());
}
