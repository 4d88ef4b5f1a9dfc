//! SIGKILL at any moment, saving included, loses nothing and changes no bit; neither does the number of
//! threads.

use super::program::write_small_run;
use lingot_model::random::Stream;
use lingot_train::checkpoint;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const KILLS: u32 = 50;

/// A run of about a hundred short steps that spends much of its time saving.
fn write_run(folder: &Path, threads: u32) -> PathBuf {
    let schedule = format!(
        "
[stop]
steps = 120
[evaluation]
every = 40
sequences = 4
[checkpoint]
every = 3
keep = 2
[device]
threads = {threads}
[model.router]
warmup_steps = 20
"
    );
    write_small_run(folder, &format!("out-{threads}"), &schedule)
}

fn start(run: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_lingot"))
        .arg("train")
        .arg(run)
        .stdout(Stdio::null())
        .stderr(fs::File::create(run.with_extension("err")).unwrap())
        .spawn()
        .unwrap()
}

/// Waits for the end. Returns true if the run finished, false if a signal ended it; it must not fail by
/// itself.
fn is_done(mut child: Child, run: &Path) -> bool {
    let status = child.wait().unwrap();
    let said = || fs::read_to_string(run.with_extension("err")).unwrap();
    assert!(status.success() || status.code().is_none(), "{status}: {}", said());
    status.success()
}

/// The hashes of all tensors of the last checkpoint.
fn hashes(folder: &Path, threads: u32) -> Vec<(String, String)> {
    let last = folder.join(format!("out-{threads}/checkpoints/step-00000120"));
    let manifest = checkpoint::verify(&last).unwrap();
    manifest
        .tensors
        .into_iter()
        .map(|entry| (format!("{}/{}", entry.file, entry.name), entry.blake3))
        .collect()
}

/// Whether a save was under way.
fn has_partial(checkpoints: &Path) -> bool {
    let Ok(entries) = fs::read_dir(checkpoints) else { return false };
    entries.flatten().any(|entry| entry.path().extension().is_some_and(|extension| extension == "partial"))
}

/// Waits for the moment to kill: soon after the start, when a save has just started, or when the log has
/// grown by some bytes.
fn wait_for_moment(child: &mut Child, folder: &Path, random: u64) {
    let length = || fs::metadata(folder.join("run.jsonl")).map_or(0, |data| data.len());
    let (begin, grown) = (Instant::now(), length() + random / 3 % 6000);
    while child.try_wait().unwrap().is_none() && begin.elapsed() < Duration::from_secs(20) {
        let is_now = match random % 3 {
            0 => begin.elapsed() > Duration::from_millis(random / 3 % 40),
            1 => has_partial(&folder.join("checkpoints")),
            _ => length() > grown,
        };
        if is_now {
            std::thread::sleep(Duration::from_micros(random / 7 % 2000));
            return;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

#[test]
fn fifty_kills_change_no_bit() {
    let undisturbed = tempfile::tempdir().unwrap();
    let disturbed = tempfile::tempdir().unwrap();
    for threads in [1, 2] {
        let run = write_run(undisturbed.path(), threads);
        assert!(is_done(start(&run), &run));
    }
    let wanted = hashes(undisturbed.path(), 1);
    assert_eq!(wanted, hashes(undisturbed.path(), 2), "one thread and two differ");

    let run = write_run(disturbed.path(), 1);
    let folder = disturbed.path().join("out-1");
    let mut random = Stream::new(&[17]);
    let (mut kills, mut finished, mut saving) = (0, 0, 0);
    while kills < KILLS {
        let mut child = start(&run);
        wait_for_moment(&mut child, &folder, random.bits());
        child.kill().unwrap();
        if is_done(child, &run) {
            // It finished before the signal came: check it, and start again.
            assert_eq!(wanted, hashes(disturbed.path(), 1), "after {kills} kills");
            fs::remove_dir_all(&folder).unwrap();
            finished += 1;
        } else {
            kills += 1;
            saving += u32::from(has_partial(&folder.join("checkpoints")));
        }
    }
    assert!(is_done(start(&run), &run));
    assert_eq!(wanted, hashes(disturbed.path(), 1), "after {kills} kills");
    println!("{kills} kills, {saving} of them while saving; {finished} runs were finished on the way");
    assert!(saving > 0, "no kill fell into a save");
}
