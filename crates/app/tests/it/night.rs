//! The program at night: signals, exhausted memory, a disk that fails, and text that commands terminals.

use super::program::{Place, text};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A run that would take long, once it has taken a step.
fn begun(place: &Place, wrapper: &[&str]) -> Child {
    let train = ["train", "run.toml", "--set", "stop.steps=1000000", "--set", "checkpoint.every=0"];
    let mut command = match wrapper {
        [] => place.command(&train),
        [program, rest @ ..] => {
            let mut command = Command::new(program);
            command.args(rest).arg(env!("CARGO_BIN_EXE_lingot")).args(train);
            command.current_dir(place.path("")).stdin(Stdio::null());
            command
        }
    };
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let log = place.path("out/run/run.jsonl");
    while !fs::read_to_string(&log).is_ok_and(|text| text.contains("\"event\":\"step\"")) {
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

fn send(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

fn saved(place: &Place) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(place.path("out/run/checkpoints")) else { return vec![] };
    let step = |name: String| name.strip_prefix("step-")?.parse().ok();
    entries.filter_map(|entry| step(entry.unwrap().file_name().into_string().unwrap())).collect()
}

/// Whether whoever runs the tests ignores a signal, as a shell does with SIGQUIT in the background. What is
/// ignored is ignored in children too.
fn is_ignored(signal: &str) -> bool {
    let signal: nix::sys::signal::Signal = format!("SIG{signal}").parse().unwrap();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| (mask >> (signal as u64 - 1)) & 1 == 1)
}

/// Waits for a run that was told to end.
#[track_caller]
fn ended(mut child: Child) -> std::process::ExitStatus {
    for _ in 0..6000 {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    panic!("it went on for a minute");
}

#[test]
fn every_signal_that_ends_a_program_saves_the_step_first() {
    for signal in ["INT", "TERM", "HUP", "QUIT", "USR1", "XCPU"] {
        if ["HUP", "QUIT", "USR1", "XCPU"].contains(&signal) && is_ignored(signal) {
            eprintln!("skipped: whoever runs the tests ignores SIG{signal}");
            continue;
        }
        let place = Place::new();
        let child = begun(&place, &[]);
        send(&child, signal);
        let status = ended(child);
        assert_eq!((status.code(), status.signal()), (Some(130), None), "{signal}");
        let [step] = saved(&place)[..] else { panic!("{signal}: the step is not saved") };
        let more = format!("stop.steps={}", step + 1);
        let ended = place.run(&["train", "run.toml", "--set", &more]);
        assert!(ended.code == 0 && ended.err.contains(&format!("resuming at step {step} ")), "{}", ended.err);
    }
}

#[test]
fn signals_that_come_in_swarms_do_not_end_the_save() {
    for swarm in [
        &["XCPU", "XCPU", "XCPU"][..],
        &["TERM", "TERM"],
        &["INT", "INT", "INT"],
        &["TERM", "HUP", "USR1"],
        &["HUP", "HUP", "INT"],
    ] {
        let place = Place::new();
        let child = begun(&place, &[]);
        swarm.iter().for_each(|signal| send(&child, signal));
        assert_eq!(ended(child).code(), Some(130), "{swarm:?}");
        assert_eq!(saved(&place).len(), 1, "{swarm:?}");
    }
}

#[test]
fn a_run_that_nohup_started_outlives_its_terminal() {
    let place = Place::new();
    let mut child = begun(&place, &["nohup"]);
    send(&child, "HUP");
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "SIGHUP ended it");
    send(&child, "TERM");
    assert_eq!(ended(child).code(), Some(130));
    assert_eq!(saved(&place).len(), 1);
}

/// Text that sets the title, clears the screen, fills the clipboard, reorders and overwrites.
const EVIL: &str =
    "\u{1b}]0;OWNED\u{7}\u{1b}[2J\u{1b}]52;c;cm0=\u{7}\u{1b}[31mred\u{1b}[0m \u{9b}31m \u{8}\u{202e} \rover";

/// Errors if a line could command a terminal.
#[track_caller]
fn commands_no_terminal(what: &str, shown: &str) {
    let commands =
        |letter: char| letter.is_control() && !['\n', '\t', '\r'].contains(&letter) || letter == '\u{202e}';
    assert!(!shown.contains(commands), "{what}: {shown:?}");
    assert!(!shown.replace("\r\n", "").contains('\r'), "{what}: {shown:?}");
}

#[test]
fn text_names_and_keys_that_command_a_terminal_are_escaped_wherever_they_are_shown() {
    let place = Place::new();
    place.write("text.txt", &format!("{}\n{}", format!("{EVIL}\n").repeat(60), text(20)));
    let shown = |args: &[&str]| {
        let ended = place.run(args);
        commands_no_terminal(&format!("{args:?}"), &(ended.out + &ended.err));
        ended.code
    };
    let named = format!("name=\"{}\"", toml_escaped(EVIL));
    let steps = ["--set", "stop.steps=60", "--set", "folder=out/run", "--set", &named];
    assert_eq!(shown(&[&["train", "run.toml", "--verbose"], &steps[..]].concat()), 0);
    for more in [&[][..], &["--greedy"], &["--temperature", "2"]] {
        let generate = [&["generate", "out/run", "--prompt", EVIL, "--tokens", "60"], more].concat();
        assert_eq!(shown(&generate), 0);
        let report = place.json(&generate);
        assert_eq!(report["prompt"], EVIL, "--json has the text itself");
    }
    assert_eq!(shown(&["eval", "out/run"]), 0);
    assert_eq!(shown(&["ledger", "out/run"]), 0);
    assert_eq!(shown(&["train", &format!("{EVIL}.toml")]), 2);
    assert_eq!(shown(&["train", "run.toml", "--set", &format!("{EVIL}=1")]), 2);
    let path = format!("data.corpora.0.path={EVIL}");
    assert_eq!(shown(&["train", "run.toml", "--set", "folder=other", "--set", &path]), 2);
    assert_eq!(shown(&["model", EVIL]), 2);
    assert_eq!(shown(&["data", "text.txt", "--out", &format!("out/{}", EVIL.replace('/', ""))]), 0);
    assert_eq!(shown(&[EVIL]), 2);
    place.write("records.jsonl", &format!("{{\"a\": 1, \"{}\": 2}}\n", json_escaped(EVIL)));
    assert_eq!(shown(&["data", "records.jsonl", "--out", "records"]), 2);
    let raw = fs::read_to_string(place.path("out/run/run.jsonl")).unwrap();
    let start: serde_json::Value = serde_json::from_str(raw.lines().next().unwrap()).unwrap();
    assert_eq!(start["run"], EVIL, "files have the name itself");
}

/// Names in a request and in a catalogue end up in a table, a page and a RUN.toml.
#[test]
fn names_of_chips_that_command_a_terminal_are_escaped_in_every_file_of_a_plan() {
    let place = Place::new();
    let name = toml_escaped(&format!("A<script>{EVIL}\nx = 1"));
    place.write(
        "chips.toml",
        &format!(
            "[[chip]]\nname = \"{name}\"\nvendor = \"{name}\"\nroute = \"none\"\n\
             peak_flops = {{ bf16 = 3.7e14 }}\nmemory_bytes = 64e9\nbandwidth_bytes_s = 1600e9\n\
             link_bytes_s = 200e9\nnetwork_bytes_s = 50e9\ncards_per_machine = 8\navailable = 10000\n\
             source = \"{name}\"\n\
             price = {{ per_hour = 7.0, currency = \"{name}\", source = \"s\", date = \"2026-01\" }}\n"
        ),
    );
    place.write(
        "request.toml",
        &format!(
            "model = \"ling-lite\"\ntokens = 1e12\ncurrency = \"{name}\"\nobjective = \"money\"\n\
             strategies = [\"every_step\"]\n[[chips]]\nname = \"{name}\"\nutilisation = 0.179\n"
        ),
    );
    let ended = place.run(&["plan", "request.toml", "--chips", "chips.toml", "--out", "planned"]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    commands_no_terminal("the table", &(ended.out + &ended.err));
    let page = fs::read_to_string(place.path("planned/report.html")).unwrap();
    commands_no_terminal("report.html", &page);
    assert!(!page.contains("<script"), "{page}");
    let run = fs::read_to_string(place.path("planned/plan.toml")).unwrap();
    // Its values are the names themselves, as TOML writes them.
    let comments: String = run.lines().filter(|line| line.starts_with('#')).collect();
    commands_no_terminal("plan.toml", &comments);
    assert!(!run.contains('\u{1b}'), "{run}");
    let ended = place.run(&["train", "planned/plan.toml", "--set", "data.corpora.0.path=absent.txt"]);
    assert!([2, 3].contains(&ended.code) && !ended.err.contains("plan.toml:"), "{}", ended.err);
}

fn json_escaped(text: &str) -> String {
    serde_json::to_string(text).unwrap().trim_matches('"').to_owned()
}

fn toml_escaped(text: &str) -> String {
    let escaped = |letter: char| {
        if letter.is_control() { format!("\\u{:04x}", letter as u32) } else { letter.to_string() }
    };
    text.chars().map(escaped).collect()
}

#[test]
fn ten_thousand_devices_in_a_list_are_refused_by_name_before_and_while_a_run_trains() {
    let place = Place::new();
    let list = format!("devices=[{}]", "\"cpu\",".repeat(10_000));
    for list in [list.clone(), format!("sync.virtual_speeds=[{}]", "1,".repeat(10_000))] {
        let said = place.fail(2, &["train", "run.toml", "--set", &list]);
        assert!(said.contains("has 10000 entries; one run has at most 256"), "{said}");
    }
    let run = fs::read_to_string(place.path("run.toml")).unwrap();
    place.write("run.toml", &format!("devices = [\"cpu\"]\n{run}"));
    let child = begun(&place, &[]);
    place.write("run.toml", &format!("{}\n{run}", list.replace('=', " = ")));
    let log = place.path("out/run/run.jsonl");
    while !fs::read_to_string(&log).unwrap().contains("devices_refused") {
        std::thread::sleep(Duration::from_millis(5));
    }
    send(&child, "TERM");
    assert_eq!(ended(child).code(), Some(130));
    assert!(fs::read_to_string(&log).unwrap().contains("has 10000 entries"));
}

#[test]
fn a_tokenizer_whose_regular_expression_explodes_is_refused_by_name() {
    let place = Place::new();
    place.succeed(&["data", "text.txt", "--out", "shards", "--vocabulary", "280"]);
    let path = place.path("shards/tokenizer.json");
    let mut tokenizer: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let split = &mut tokenizer["pre_tokenizer"]["pretokenizers"][0];
    assert_eq!(split["type"], "Split");
    split["pattern"] = serde_json::json!({ "Regex": "(?=(a+)+$)a" });
    place.write("explodes.json", &tokenizer.to_string());
    place.write("many.txt", &"a".repeat(400_000));
    let said = place.fail(2, &["data", "many.txt", "--tokenizer", "explodes.json", "--out", "many"]);
    assert!(said.contains("many.txt") && said.contains("regular expression"), "{said}");
    assert!(!place.path("many").exists());
}

/// Whatever runs out, the program says so: it is never ended by a signal, and what was saved is sound.
#[cfg(target_os = "linux")]
#[test]
fn a_run_whose_memory_is_exhausted_ends_with_an_error_and_goes_on_later() {
    let place = Place::new();
    let run = "exec \"$0\" train run.toml --set checkpoint.every=2 --set device.threads=1";
    let limited = |kilobytes: u64| {
        let output = Command::new("sh")
            .args(["-c", &format!("ulimit -v {kilobytes}; {run}"), env!("CARGO_BIN_EXE_lingot")])
            .current_dir(place.path(""))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let mut codes = Vec::new();
    for kilobytes in (60_000..400_000).step_by(20_000) {
        let _ = fs::remove_dir_all(place.path("out"));
        let (status, said) = limited(kilobytes);
        if status.code() == Some(127) {
            continue; // The program cannot even be loaded.
        }
        assert_eq!(status.signal(), None, "{kilobytes} kB: {said}");
        assert!(
            [Some(0), Some(1), Some(2), Some(3)].contains(&status.code()),
            "{status} {kilobytes} kB: {said}"
        );
        assert!(status.success() || said.contains("error: "), "{kilobytes} kB: {said}");
        codes.push(status.code());
    }
    assert!(codes.contains(&Some(0)), "{codes:?}");
    place.succeed(&["train", "run.toml"]);
}

/// Makes one system call of the program fail, where `strace` can be had.
#[cfg(target_os = "linux")]
fn traced(place: &Place, inject: &str, args: &[&str]) -> Option<super::program::Ended> {
    let trace = inject.split(':').next().unwrap();
    let output = Command::new("strace")
        .args([
            "-f",
            "-qqq",
            "-o",
            "/dev/null",
            "-e",
            &format!("trace={trace}"),
            "-e",
            &format!("inject={inject}"),
        ])
        .arg(env!("CARGO_BIN_EXE_lingot"))
        .args(args)
        .current_dir(place.path(""))
        .stdin(Stdio::null())
        .output();
    let Ok(output) = output else {
        println!("skipped: strace is not installed");
        return None;
    };
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    if err.contains("PTRACE") || err.contains("ptrace") {
        println!("skipped: strace may not trace here");
        return None;
    }
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(super::program::Ended { code: output.status.code().unwrap_or(-1), out, err })
}

#[cfg(target_os = "linux")]
#[test]
fn a_system_call_that_fails_once_costs_nothing() {
    for inject in ["fsync:error=EIO:when=3", "rename:error=EIO:when=2", "fdatasync:error=EIO:when=1"] {
        let place = Place::new();
        place.succeed(&["data", "run.toml"]);
        let Some(ended) = traced(&place, inject, &["train", "run.toml", "--set", "device.threads=1"]) else {
            return;
        };
        assert_eq!(ended.code, 0, "{inject}: {}", ended.err);
        assert!(saved(&place).contains(&12), "{inject}");
    }
}

#[test]
fn a_finished_run_whose_closing_sample_fails_is_a_success_with_a_warning() {
    let place = Place::new();
    place.succeed(&["data", "run.toml"]);
    // Removed while the run trains: only the sample at its end reads it.
    let run = place.command(&["train", "run.toml", "--set", "stop.steps=300"]).stderr(Stdio::piped()).spawn();
    let log = place.path("out/run/run.jsonl");
    while !fs::read_to_string(&log).is_ok_and(|text| text.contains("\"event\":\"step\"")) {
        std::thread::sleep(Duration::from_millis(1));
    }
    fs::remove_file(place.path("out/run/data/tokenizer.json")).unwrap();
    let output = run.unwrap().wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("warning: there is no closing sample"), "{said}");
    assert!(Path::new(&place.path("out/run/checkpoints/step-00000300")).is_dir());
}
