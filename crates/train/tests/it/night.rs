//! What happens at night: disks that fill up and fail, logs and data that are damaged, runs that diverge.
//! Calls of the file system are made to fail where the run makes them (`lingot_formats::disk`).

use crate::it::fleet::anomalies;
use crate::it::step::{contents, run, tiny};
use lingot_device::cpu::Cpu;
use lingot_device::intercepted::Intercepted;
use lingot_device::{Backend, Device, Op};
use lingot_formats::disk::{self, Call, Fault};
use lingot_spec::event::Event;
use lingot_spec::problem::{Problem, ProblemKind};
use lingot_train::checkpoint::newest;
use lingot_train::config::Resolved;
use lingot_train::record::log;
use lingot_train::{data, step};
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

const EIO: i32 = 5;
const EACCES: i32 = 13;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
const EVER: u64 = u64::MAX;

fn fault(call: Call, path: &str, number: i32, times: u64) -> Fault {
    Fault { call, path: path.into(), number, after: 0, times }
}

fn train(resolved: &Resolved) -> Result<step::Summary, Problem> {
    let dataset = data::prepare_data(&resolved.run, &|_| ())?;
    let device = Device::new(Cpu::new(1));
    step::train(resolved, &dataset, &device, &mut |_| (), &AtomicBool::new(false))
}

fn steps(folder: &Path) -> Vec<u64> {
    newest::list(&folder.join("checkpoints")).unwrap().into_iter().map(|(step, _)| step).collect()
}

/// The steps of the checkpoints that a log tells of.
fn told(folder: &Path) -> Vec<u64> {
    let saved = |event| if let Event::Checkpoint(saved) = event { Some(saved.step) } else { None };
    let mut steps: Vec<u64> = log::read(folder).unwrap().into_iter().filter_map(saved).collect();
    steps.sort_unstable();
    steps
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_disk_that_fails_for_a_moment_costs_nothing_wherever_it_fails() {
    let calm = tempfile::tempdir().unwrap();
    let undisturbed = contents(&run(&tiny(calm.path(), &[]), 1));
    for (call, path) in [
        (Call::Create, "step-00000005.partial"),
        (Call::Create, "weights.safetensors"),
        (Call::Write, "weights.safetensors"),
        (Call::Write, "optimizer.safetensors"),
        (Call::Write, "manifest.json"),
        (Call::Sync, "weights.safetensors"),
        (Call::Sync, "manifest.json"),
        (Call::Sync, "checkpoints"),
        (Call::Rename, "step-00000005.partial"),
        (Call::Remove, "step-00000005.partial"),
        (Call::Write, "run.jsonl"),
        (Call::Sync, "run.jsonl"),
        (Call::Write, "events.out.tfevents"),
        (Call::Create, "tensorboard"),
    ] {
        for number in [EIO, ENOSPC, EMFILE] {
            let folder = tempfile::tempdir().unwrap();
            let resolved = tiny(folder.path(), &[]);
            let planned = disk::plan(folder.path(), [fault(call, path, number, 1)]);
            let summary =
                train(&resolved).unwrap_or_else(|error| panic!("{call:?} {path} {number}: {error}"));
            assert_eq!(planned.left(), 0, "{call:?} {path} was never called");
            assert!(contents(&summary) == undisturbed, "{call:?} {path} {number}");
            assert_eq!((steps(folder.path()), told(folder.path())), (vec![5, 10, 12], vec![5, 10, 12]));
            assert_eq!(log::read_all(folder.path()).unwrap().unreadable, Vec::<String>::new());
        }
    }
}

#[test]
fn a_disk_that_stays_full_ends_the_run_with_the_truth_about_what_is_saved() {
    for (call, path, number) in [
        (Call::Write, "step-00000010.partial", ENOSPC),
        (Call::Sync, "step-00000010.partial", EIO),
        (Call::Rename, "step-00000010.partial", EIO),
        (Call::Create, "step-00000010.partial", EROFS),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let resolved = tiny(folder.path(), &["checkpoint.wait_s=0.2"]);
        let planned = disk::plan(folder.path(), [fault(call, path, number, EVER)]);
        let error = train(&resolved).unwrap_err();
        let told_truth = error.problem.contains("the checkpoint of step 10 is not saved: cannot");
        assert!(told_truth && matches!(error.kind, ProblemKind::Io(_)), "{error}");
        // The steps after it are saved where they can be.
        let last = steps(folder.path()).pop().unwrap();
        assert!(last == 5 || last > 10, "{error}");
        assert!(error.problem.contains(&format!("step {last}")), "{error}");
        assert_eq!(told(folder.path()), steps(folder.path()), "{error}");
        drop(planned);
        assert_eq!(train(&resolved).unwrap().step, 12);
    }
}

#[test]
fn a_log_that_cannot_be_written_saves_the_step_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let resolved =
        tiny(folder.path(), &["checkpoint.wait_s=0.2", "checkpoint.every=0", "evaluation.every=0"]);
    let fails = Fault { after: 10, ..fault(Call::Write, "run.jsonl", ENOSPC, EVER) };
    let planned = disk::plan(folder.path(), [fails]);
    let error = train(&resolved).unwrap_err();
    let saved = steps(folder.path());
    assert!(saved.len() == 1 && saved[0] < 12, "{saved:?} {error}");
    let words = [&format!("step {} was done but not written down", saved[0]), "run.jsonl", ", for 0.2 s"];
    assert!(words.iter().all(|words| error.problem.contains(*words)), "{error}");
    assert!(
        error.problem.contains(&format!("step {} is saved and the run goes on from it", saved[0])),
        "{error}"
    );
    drop(planned);
    assert_eq!(train(&resolved).unwrap().step, 12);
    assert_eq!(log::read_all(folder.path()).unwrap().unreadable, Vec::<String>::new());
}

#[test]
fn what_a_run_can_do_without_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let resolved = tiny(folder.path(), &["checkpoint.every=2", "checkpoint.keep=2"]);
    let faults = [
        // It is renamed once when it is complete, and again when it is to go.
        Fault { after: 1, ..fault(Call::Rename, "step-00000002", EIO, EVER) },
        fault(Call::Sync, "run.jsonl", EIO, EVER),
        fault(Call::Write, "events.out.tfevents", ENOSPC, EVER),
    ];
    let _planned = disk::plan(folder.path(), faults);
    assert_eq!(train(&resolved).unwrap().step, 12);
    let said = anomalies(folder.path(), "disk");
    for words in
        ["an old checkpoint stays: cannot remove", "cannot sync", "TensorBoard is not written for now"]
    {
        assert!(said.iter().any(|reason| reason.contains(words)), "{words}: {said:?}");
    }
    assert!(steps(folder.path()).contains(&2), "what cannot be removed stays whole");
}

#[test]
fn a_checkpoint_that_cannot_be_read_now_is_not_taken_for_a_damaged_one() {
    for (call, path, number, is_error) in [
        (Call::Read, "weights.safetensors", EIO, false),
        (Call::Open, "weights.safetensors", EMFILE, false),
        (Call::Read, "manifest.json", EIO, false),
        (Call::Read, "checkpoints", EMFILE, false),
        (Call::Open, "weights.safetensors", EACCES, true),
        (Call::Read, "manifest.json", EACCES, true),
        (Call::Read, "checkpoints", EACCES, true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        run(&tiny(folder.path(), &["stop.steps=6"]), 1);
        let before = names(&folder.path().join("checkpoints"));
        let resolved = tiny(folder.path(), &["stop.steps=7"]);
        let planned = disk::plan(folder.path(), [fault(call, path, number, if is_error { EVER } else { 1 })]);
        let done = train(&resolved);
        match done {
            Ok(summary) => assert!(!is_error && summary.step == 7, "{call:?} {path} {number}"),
            Err(error) => {
                assert!(is_error && matches!(error.kind, ProblemKind::Io(_)), "{path} {number}: {error}");
                assert!(error.hint.contains("permissions"), "{error}");
                drop(planned);
                assert_eq!(names(&folder.path().join("checkpoints")), before, "{path} {number}");
            }
        }
        assert_eq!(anomalies(folder.path(), "damaged_checkpoint"), Vec::<String>::new());
    }
}

#[test]
fn a_disk_that_fails_while_a_run_resumes_is_an_error_and_no_fall_back() {
    let folder = tempfile::tempdir().unwrap();
    run(&tiny(folder.path(), &["stop.steps=6"]), 1);
    let planned = disk::plan(folder.path(), [fault(Call::Read, "weights.safetensors", EIO, EVER)]);
    let error = train(&tiny(folder.path(), &["stop.steps=7"])).unwrap_err();
    assert!(error.problem.contains("cannot read") && error.problem.ends_with("for 3.0 s"), "{error}");
    drop(planned);
    assert_eq!(names(&folder.path().join("checkpoints")), ["step-00000005", "step-00000006"]);
}

/// Something that happens to a file.
type Damage<'a> = dyn Fn(&mut Vec<u8>) + 'a;

#[test]
fn any_damage_to_a_log_costs_the_lines_it_hits() {
    let folder = tempfile::tempdir().unwrap();
    run(&tiny(folder.path(), &["stop.steps=8", "evaluation.every=2"]), 1);
    let path = folder.path().join("run.jsonl");
    let whole = fs::read(&path).unwrap();
    let all = log::read(&path).unwrap().len();
    let resolved = tiny(folder.path(), &["stop.steps=8", "evaluation.every=2"]);
    let middle = whole.len() / 2;
    let damages: [&Damage<'_>; 6] = [
        &|bytes| bytes[middle] ^= 0x80,
        &|bytes| bytes[middle] = b'\n',
        &|bytes| bytes[middle..middle + 700].fill(0),
        &|bytes| bytes.extend_from_slice(&[0; 4096]),
        &|bytes| bytes.extend_from_slice(b"{\"event\":\"step\",\"step\":\n[]\n7\n\"x\"\n"),
        &|bytes| bytes.splice(0..0, *b"\xff\xfe\n").for_each(drop),
    ];
    for (number, damage) in damages.iter().enumerate() {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let found = log::read_all(&path).unwrap();
        assert!(found.events.len() + 12 >= all, "{number}");
        // A tail without a newline was torn, and is no line.
        assert_eq!(found.unreadable.is_empty(), number == 3, "{number}: {found:?}");
        assert_eq!(train(&resolved).unwrap().step, 8, "{number}");
        let again = log::read_all(&path).unwrap();
        let kept = again.unreadable.len();
        assert!(kept <= 4 && (number == 4 || kept == 0), "{number}: {:?}", again.unreadable);
        assert_eq!(anomalies(folder.path(), "unreadable_log").is_empty(), number == 3, "{number}");
    }
    let aside = fs::read(folder.path().join("run.jsonl.unreadable")).unwrap();
    assert!(aside.windows(4).any(|bytes| bytes == [0; 4]), "what could not be read is kept");
}

#[test]
fn a_log_whose_checkpoints_are_gone_is_kept_and_the_new_beginning_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let resolved = tiny(folder.path(), &["stop.steps=6"]);
    run(&resolved, 1);
    let before = fs::read(folder.path().join("run.jsonl")).unwrap();
    for number in 1..3 {
        fs::remove_dir_all(folder.path().join("checkpoints")).unwrap();
        assert_eq!(run(&resolved, 1).step, 6);
        let [reason] = &anomalies(folder.path(), "no_checkpoint")[..] else { panic!("it is not said") };
        assert!(reason.contains("a checkpoint of step 6") && reason.contains("begins anew"), "{reason}");
        assert!(folder.path().join(format!("run.jsonl.{number}")).is_file());
    }
    assert_eq!(fs::read(folder.path().join("run.jsonl.1")).unwrap(), before);
    // A log that is gone beside its checkpoints is said as well.
    fs::remove_file(folder.path().join("run.jsonl")).unwrap();
    run(&tiny(folder.path(), &["stop.steps=7"]), 1);
    assert!(anomalies(folder.path(), "unreadable_log")[0].contains("is missing"));
}

#[test]
fn another_text_is_refused_by_a_run_that_was_trained_even_if_its_data_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let resolved = tiny(folder.path(), &["stop.steps=6"]);
    run(&resolved, 1);
    let more = tiny(folder.path(), &["stop.steps=8"]);
    let text = folder.path().join("text/0.rs");
    let original = fs::read_to_string(&text).unwrap();
    fs::write(&text, original.replace("the", "THE QUICK")).unwrap();
    let changed = train(&more).unwrap_err();
    assert!(changed.problem.contains("the corpus changed"), "{changed}");
    assert!(changed.hint.contains("another `folder`") && !changed.hint.contains("delete"), "{changed}");
    fs::remove_dir_all(folder.path().join("data")).unwrap();
    let exchanged = train(&more).unwrap_err();
    assert!(exchanged.problem.contains("was trained with another tokenizer"), "{exchanged}");
    assert_eq!((exchanged.kind, &exchanged.hint), (ProblemKind::Input, &changed.hint));
    // Both hints work.
    let anew = format!("folder={}", folder.path().join("anew").display());
    assert_eq!(train(&tiny_with_text(folder.path(), &["stop.steps=2", &anew])).unwrap().step, 2);
    fs::write(&text, original).unwrap();
    fs::remove_dir_all(folder.path().join("data")).unwrap();
    assert_eq!(train(&more).unwrap().step, 8);
}

/// As `tiny`, without writing the texts again.
fn tiny_with_text(folder: &Path, more: &[&str]) -> Resolved {
    let text = fs::read_to_string(folder.join("text/0.rs")).unwrap();
    let resolved = tiny(folder, more);
    fs::write(folder.join("text/0.rs"), text).unwrap();
    resolved
}

#[test]
fn a_run_that_diverges_keeps_its_last_sound_checkpoint_and_goes_on_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let often = ["checkpoint.every=1", "checkpoint.keep=2", "evaluation.every=0"];
    run(&tiny(folder.path(), &[&often[..], &["stop.steps=10"]].concat()), 1);
    let wild = [&often[..], &["stop.steps=40", "optimizer.rate=1e30", "optimizer.clip=0"]].concat();
    let error = train(&tiny(folder.path(), &wild)).unwrap_err();
    assert_eq!(error.kind, ProblemKind::Diverged, "{error}");
    assert!(steps(folder.path()).contains(&10), "{:?}", names(&folder.path().join("checkpoints")));
    assert!(steps(folder.path()).iter().all(|&step| step <= 10), "nothing goes on from weights of 1e29");
    let rolled_back = anomalies(folder.path(), "rolled_back");
    assert!(rolled_back.last().is_some_and(|reason| reason.contains("to step 10")), "{rolled_back:?}");
    assert!(names(&folder.path().join("checkpoints")).iter().any(|name| name.ends_with(".diverged")));
    // The hint: a lower rate and the same command.
    assert!(error.hint.contains("lower optimizer.rate"), "{error}");
    let calm = [&often[..], &["stop.steps=20"]].concat();
    let summary = run(&tiny(folder.path(), &calm), 1);
    assert!(summary.step == 20 && summary.held_out_loss.unwrap() < 10.0, "{summary:?}");
}

#[test]
fn a_run_that_was_left_with_diverged_checkpoints_goes_on_from_an_older_one() {
    let folder = tempfile::tempdir().unwrap();
    let off = ["checkpoint.every=1", "checkpoint.keep=0", "evaluation.every=0", "guard.fall_back=false"];
    run(&tiny(folder.path(), &[&off[..], &["stop.steps=10"]].concat()), 1);
    let wild = [&off[..], &["stop.steps=14", "optimizer.rate=1e30", "optimizer.clip=0"]].concat();
    let summary = run(&tiny(folder.path(), &wild), 1);
    assert_eq!(summary.step, 14, "too few steps to give up");
    // As an older program left it: the newest checkpoints hold weights of 1e29.
    let calm = ["checkpoint.every=1", "checkpoint.keep=0", "evaluation.every=0", "stop.steps=40"];
    let summary = run(&tiny(folder.path(), &calm), 1);
    assert!(summary.step == 40 && summary.held_out_loss.unwrap() < 10.0, "{summary:?}");
    assert!(!anomalies(folder.path(), "rolled_back").is_empty());
}

#[test]
fn damaged_data_stops_a_run_before_it_learns_from_it() {
    let folder = tempfile::tempdir().unwrap();
    run(&tiny(folder.path(), &["stop.steps=6"]), 1);
    let shard = folder.path().join("data/0-text-training.bin");
    let whole = fs::read(&shard).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    fs::write(&shard, damaged).unwrap();
    let error = train(&tiny(folder.path(), &["stop.steps=8"])).unwrap_err();
    assert!(error.problem.contains("0-text-training.bin was changed after it was prepared"), "{error}");
    assert_eq!(error.kind, ProblemKind::Damaged);
    fs::write(&shard, whole).unwrap();
    assert_eq!(train(&tiny(folder.path(), &["stop.steps=8"])).unwrap().step, 8);
}

/// A processor whose gradients are never finite.
fn broken() -> Device {
    let inner = Device::new(Cpu::new(1));
    let behind = inner.clone();
    Device::new(Intercepted::new(inner, move |op| match op {
        Op::SumOfSquares(sum) => sum.out_1.write_floats(&[f32::NAN]),
        op => Backend::run(&behind, op),
    }))
}

#[test]
fn a_device_that_is_broken_for_good_costs_no_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let often = ["checkpoint.every=2", "evaluation.every=0"];
    run(&tiny(folder.path(), &[&often[..], &["stop.steps=8"]].concat()), 1);
    let more = tiny(folder.path(), &[&often[..], &["stop.steps=40"]].concat());
    let dataset = data::prepare_data(&more.run, &|_| ()).unwrap();
    let error = step::train(&more, &dataset, &broken(), &mut |_| (), &AtomicBool::new(false)).unwrap_err();
    assert_eq!(error.kind, ProblemKind::Diverged, "{error}");
    assert!(steps(folder.path()).contains(&8), "{:?}", names(&folder.path().join("checkpoints")));
    assert_eq!(train(&more).unwrap().step, 40);
}
