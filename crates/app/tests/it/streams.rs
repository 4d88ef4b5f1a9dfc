//! Standard output and standard error that cannot be written: a full disk, or a pipe whose reader is gone.

use super::program::Place;
use std::fs::{self, File};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const PLANNED: &str = include_str!("../plans/example.json");

/// A stream that takes nothing.
#[derive(Clone, Copy, Debug)]
enum Broken {
    /// Every write finds the disk full.
    Full,
    /// The reader of the pipe is gone.
    Closed,
}

const BROKEN: [Broken; 2] = [Broken::Full, Broken::Closed];

impl Broken {
    fn open(self) -> Stdio {
        match self {
            Broken::Full => File::options().write(true).open("/dev/full").unwrap().into(),
            Broken::Closed => std::io::pipe().unwrap().1.into(),
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Broken::Full => "No space left on device",
            Broken::Closed => "Broken pipe",
        }
    }
}

/// A trained run, and the inputs of every other command.
fn furnished() -> Place {
    let place = Place::new();
    place.succeed(&["train", "run.toml", "--set", "checkpoint.keep=0"]);
    place.succeed(&["export", "out/run", "--format", "bailing_moe_v2", "--out", "exported"]);
    place.write("answer.json", PLANNED);
    place
        .write("questions.jsonl", "{\"question\": \"the\", \"choices\": [\"cat\", \"@@\"], \"answer\": 0}\n");
    place
}

/// Runs a command, and removes what it has written, so that it may run again.
fn end(place: &Place, args: &[&str], out: Stdio, err: Stdio) -> Output {
    let output = place.command(args).stdout(out).stderr(err).spawn().unwrap().wait_with_output().unwrap();
    for written in ["new", "profile.toml"] {
        let _ = fs::remove_dir_all(place.path(written)).or_else(|_| fs::remove_file(place.path(written)));
    }
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Commands that end within a moment. `new` is what they write.
const QUICK: &[&[&str]] = &[
    &["--help"],
    &["--version"],
    &["train", "--help"],
    &["model"],
    &["model", "ling-lite", "--json"],
    &["train", "run.toml"],
    &["train", "run.toml", "--json"],
    &["train", "run.toml", "--set", "folder=new"],
    &["train", "run.toml", "--set", "folder=new", "--json", "--verbose"],
    &["train", "run.toml", "--set", "folder=new", "--device", "cpu,cpu@0.5", "--set", "batch.micro=1"],
    &["data", "run.toml"],
    &["data", "text.txt", "--out", "new", "--vocabulary", "280", "--json"],
    &["generate", "out/run", "--prompt", "the cat"],
    &["generate", "out/run", "--prompt", "the cat", "--json"],
    &["eval", "out/run"],
    &["eval", "out/run", "--choices", "questions.jsonl", "--json"],
    &["export", "out/run", "--out", "new"],
    &["import", "exported", "--out", "new"],
    &["merge", "out/run/checkpoints/step-00000004", "out/run/checkpoints/step-00000008", "--out", "new"],
    &["devices", "-v"],
    &["devices", "--json"],
    &["ledger", "out/run"],
    &["ledger", "out/run", "--json"],
    &["plan", "answer.json", "--out", "new"],
    &["plan", "answer.json", "--json"],
];

#[test]
fn a_result_that_cannot_be_written_is_a_failure_of_every_command() {
    let place = furnished();
    for args in QUICK {
        for broken in BROKEN {
            let ended = end(&place, args, broken.open(), Stdio::piped());
            let said = text(&ended.stderr);
            assert_eq!(ended.status.code(), Some(1), "{args:?} {broken:?}: {said}");
            let wanted = format!("error: cannot write the result to standard output: {}", broken.reason());
            assert!(said.contains(&wanted) && said.contains("\n\nhint: "), "{args:?} {broken:?}: {said}");
        }
    }
}

#[test]
fn messages_that_cannot_be_written_change_no_result() {
    let place = furnished();
    // Figures of the clock differ from run to run.
    let is_timed = |args: &[&str]| args[0] == "train" || args.contains(&"--json");
    for args in QUICK {
        let whole = end(&place, args, Stdio::piped(), Stdio::piped());
        assert!(whole.status.success(), "{args:?}");
        for broken in BROKEN {
            let ended = end(&place, args, Stdio::piped(), broken.open());
            assert_eq!(ended.status.code(), Some(0), "{args:?} {broken:?}");
            assert!(!ended.stdout.is_empty(), "{args:?} {broken:?}");
            assert!(is_timed(args) || ended.stdout == whole.stdout, "{args:?} {broken:?}");
        }
    }
}

#[test]
fn an_error_that_cannot_be_printed_keeps_its_exit_code() {
    let place = Place::new();
    for (code, args) in [
        (2, &["trian"][..]),
        (2, &["train", "absent.toml"]),
        (2, &["model", "ling-light"]),
        (1, &["generate", "text.txt", "--prompt", "a"]),
        (3, &["train", "run.toml", "--set", "device.name=abacus"]),
    ] {
        for broken in BROKEN {
            assert_eq!(end(&place, args, broken.open(), broken.open()).status.code(), Some(code), "{args:?}");
        }
    }
}

#[test]
fn a_run_whose_streams_are_broken_trains_to_its_end_and_saves() {
    for broken in BROKEN {
        let place = Place::new();
        let ended = end(&place, &["train", "run.toml"], broken.open(), broken.open());
        assert_eq!(ended.status.code(), Some(1), "the report is lost");
        assert!(place.succeed(&["train", "run.toml"]).contains("nothing left to do"), "{broken:?}");
    }
}

/// Slower commands, whose result is written once, at the end.
#[test]
fn a_measurement_that_cannot_be_written_is_a_failure_too() {
    let place = Place::new();
    for args in [
        &["align", "--level", "modules", "--json"][..],
        &["align", "--level", "modules", "--out", "new"],
        &["bench", "train", "--steps", "1"],
        &["bench", "fleet", "--device", "cpu", "--rounds", "1", "--steps", "1", "--micros", "1"],
        &["bench", "plan", "--model", "toy", "--rounds", "1"],
    ] {
        let ended = end(&place, args, Broken::Full.open(), Stdio::piped());
        let said = text(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("cannot write the result to standard output"), "{args:?}: {said}");
    }
}

/// A run that would take long, once it has taken a step; both of its streams go into the pipe that is
/// returned.
fn begun(place: &Place) -> (Child, std::io::PipeReader) {
    let (reader, writer) = std::io::pipe().unwrap();
    let args = ["train", "run.toml", "--set", "stop.steps=1000000", "--set", "evaluation.every=2"];
    let mut command = place.command(&args);
    command.args(["--set", "checkpoint.every=0"]).stdout(writer.try_clone().unwrap()).stderr(writer);
    let child = command.spawn().unwrap();
    let log = place.path("out/run/run.jsonl");
    while !fs::read_to_string(&log).is_ok_and(|text| text.contains("\"event\":\"step\"")) {
        std::thread::sleep(Duration::from_millis(1));
    }
    (child, reader)
}

fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

/// As a terminal does it to `lingot train 2>&1 | tee log`: the signal reaches the reader as well, which ends
/// first.
#[test]
fn ctrl_c_through_a_pipe_saves_the_step() {
    for _ in 0..3 {
        let place = Place::new();
        let (mut child, reader) = begun(&place);
        drop(reader);
        std::thread::sleep(Duration::from_millis(30));
        interrupt(&child);
        assert_eq!(child.wait().unwrap().code(), Some(130));
        let saved = fs::read_dir(place.path("out/run/checkpoints")).unwrap().count();
        assert_eq!(saved, 1, "the interrupted step was not saved");
        let newest = fs::read_dir(place.path("out/run/checkpoints")).unwrap().next().unwrap().unwrap();
        let step: u64 = newest.file_name().to_str().unwrap().trim_start_matches("step-").parse().unwrap();
        let shown = place.run(&["train", "run.toml", "--set", &format!("stop.steps={}", step + 2)]);
        assert!(shown.err.contains(&format!("resuming at step {step} ")), "{}{}", shown.out, shown.err);
    }
}

#[test]
fn the_exit_code_of_an_interrupted_run_stays_when_its_report_is_lost() {
    let place = Place::new();
    let args = ["train", "run.toml", "--json", "--set", "stop.steps=1000000", "--set", "checkpoint.every=0"];
    let mut child = place.command(&args).stdout(Broken::Full.open()).stderr(Stdio::null()).spawn().unwrap();
    let log = place.path("out/run/run.jsonl");
    while !fs::read_to_string(&log).is_ok_and(|text| text.contains("\"event\":\"step\"")) {
        std::thread::sleep(Duration::from_millis(1));
    }
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
