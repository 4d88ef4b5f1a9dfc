//! SIGKILL at any moment, saving included, loses nothing and changes no bit; neither does the number of threads.

use lingot_train::checkpoint;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const KILLS: u32 = 50;

/// A run of about a hundred short steps that spends much of its time saving.
fn write_run(folder: &Path, threads: u32) -> PathBuf {
    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let text = format!(
        r#"
folder = "{0}/out-{threads}"
seed = 5
[model]
preset = "toy"
vocabulary = 400
width = 32
layers = 2
heads = 2
kv_heads = 1
head_width = 16
rotary_width = 8
dense_width = 48
experts = 4
expert_width = 16
router.warmup_steps = 20
[data]
corpora = [{{ path = "{sources}" }}]
sequence = 32
cache = "{0}/data"
[batch]
sequences = 4
micro = 2
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
"#,
        folder.display()
    );
    let path = folder.join(format!("run-{threads}.toml"));
    fs::write(&path, text).unwrap();
    path
}

fn start(run: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_lingot"))
        .arg("train")
        .arg(run)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Hashes of everything in the last checkpoint, by tensor.
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

#[test]
fn fifty_kills_change_no_bit() {
    let undisturbed = tempfile::tempdir().unwrap();
    let disturbed = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    for threads in [1, 2] {
        assert!(start(&write_run(undisturbed.path(), threads)).wait().unwrap().success());
    }
    let whole_ms = begin.elapsed().as_millis() as u64 / 2;
    let wanted = hashes(undisturbed.path(), 1);
    assert_eq!(wanted, hashes(undisturbed.path(), 2), "one thread and two differ");

    let run = write_run(disturbed.path(), 1);
    let mut random = 0x9e37_79b9_u64;
    let (mut kills, mut finished, mut saving) = (0, 0, 0);
    while kills < KILLS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut child = start(&run);
        // Often soon after the start, so that fifty kills fit into one run; sometimes past its end.
        std::thread::sleep(Duration::from_millis((random >> 33) % (whole_ms / 4).max(20)));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            // It was done before the signal came: check it, and begin anew.
            assert_eq!(wanted, hashes(disturbed.path(), 1), "after {kills} kills");
            fs::remove_dir_all(disturbed.path().join("out-1")).unwrap();
            finished += 1;
            assert!(finished < 50, "the run is too short to be killed");
        } else {
            kills += 1;
            let checkpoints = disturbed.path().join("out-1/checkpoints");
            saving += u32::from(has_partial(&checkpoints));
        }
    }
    assert!(start(&run).wait().unwrap().success());
    assert_eq!(wanted, hashes(disturbed.path(), 1), "after {kills} kills");
    println!("{kills} kills, {saving} of them while saving; {finished} runs were finished on the way");
    assert!(saving > 0, "no kill fell into a save");
}
