//! `run.jsonl` and the TensorBoard files.

use super::random::Random;
use lingot_spec::event::{
    Anomaly, Checkpoint, End, Evaluation, Event, ExpertLoad, Experts, Resume, SCHEMA, Start, Step,
};
use lingot_train::record::log::{Log, history, read};
use std::fs;
use std::path::Path;

fn start() -> Event {
    Event::Start(Start {
        schema: SCHEMA,
        lingot: "0.1.0".into(),
        run: "plays".into(),
        config_hash: "ab".into(),
        device: "cpu".into(),
        parameters: 10,
        activated_parameters: 5,
        steps: 100,
        unix_time_s: 1e9,
        currency: None,
    })
}

fn step(step: u64) -> Event {
    Event::Step(Step {
        step,
        loss: 0.1 + step as f64,
        main_loss: 0.1,
        mtp_loss: (step == 2).then_some(0.3),
        balance_loss: 0.0,
        z_loss: 0.0,
        rate: 1e-3,
        gradient_norm: 1.0,
        tokens: step * 100,
        tokens_per_s: 1234.5,
        seconds: 0.25,
        money: None,
        epoch: 0.5,
    })
}

fn end(step: u64) -> Event {
    Event::End(End {
        step,
        reason: "all 4 steps are done".into(),
        held_out_loss: Some(3.0),
        tokens: 400,
        seconds: 1.0,
        money: Some(0.5),
    })
}

fn write(folder: &Path, resume_step: u64, events: &[Event]) {
    let mut log = Log::open(folder, resume_step).unwrap();
    for event in events {
        log.write(event).unwrap();
    }
    log.sync().unwrap();
}

#[test]
fn every_event_reads_back_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let events = [
        start(),
        step(1),
        step(2),
        Event::Experts(Experts { step: 2, layers: vec![ExpertLoad::from_counts(1, &[3, 0, 1])] }),
        Event::Evaluation(Evaluation { step: 2, loss: 3.3, perplexity: 27.1, bits_per_byte: Some(1.9) }),
        Event::Checkpoint(Checkpoint { step: 2, path: "checkpoints/step-00000002".into(), seconds: 0.1 }),
        Event::Anomaly(Anomaly { step: 2, kind: "spike".into(), reason: "a \"jump\"\nof lines".into() }),
        Event::Resume(Resume { step: 2, from: "checkpoints/step-00000002".into() }),
        end(4),
    ];
    write(folder.path(), 0, &events);
    assert_eq!(read(folder.path()).unwrap(), events);
    let text = fs::read_to_string(folder.path().join("run.jsonl")).unwrap();
    assert_eq!(text.lines().count(), events.len());
    assert!(text.starts_with("{\"event\":\"start\",\"schema\":1,"), "{text}");
}

#[test]
fn a_loss_that_is_not_a_number_is_a_null_and_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let evaluation = Evaluation { step: 1, loss: f64::NAN, perplexity: f64::INFINITY, bits_per_byte: None };
    write(folder.path(), 0, &[Event::Evaluation(evaluation)]);
    let events = read(&folder.path().join("run.jsonl")).unwrap();
    let [Event::Evaluation(read)] = &events[..] else { panic!("{events:?}") };
    assert!(read.loss.is_nan() && read.perplexity.is_nan());
}

#[test]
fn a_resumed_log_reads_as_one_uninterrupted_run() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 0, &[start(), step(1), step(2), step(3)]);
    // Killed while writing a line.
    let path = folder.path().join("run.jsonl");
    let mut text = fs::read_to_string(&path).unwrap();
    text.push_str("{\"event\":\"step\",\"ste");
    fs::write(&path, &text).unwrap();
    assert_eq!(read(&path).unwrap().len(), 4);
    write(folder.path(), 2, &[step(3), step(4), end(4)]);
    assert_eq!(read(&path).unwrap(), [start(), step(1), step(2), step(3), step(4), end(4)]);
    // Asked for more steps: the earlier end is no end any more.
    write(folder.path(), 4, &[step(5)]);
    assert_eq!(read(&path).unwrap(), [start(), step(1), step(2), step(3), step(4), step(5)]);
    write(folder.path(), 0, &[start()]);
    assert_eq!(read(&path).unwrap(), [start()]);
}

#[test]
fn a_log_of_a_newer_schema_or_of_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    write(folder.path(), 0, &[start()]);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"schema\":1", "\"schema\":9")).unwrap();
    let problem = read(&path).unwrap_err().problem;
    assert!(problem.contains("schema 9") && problem.contains("schema 1"), "{problem}");
    fs::write(&path, "nonsense\n".repeat(9)).unwrap();
    let problem = read(&path).unwrap_err().problem;
    assert!(problem.contains("line 1 of") && problem.contains("no other line"), "{problem}");
    assert!(read(&folder.path().join("other")).unwrap_err().problem.contains("cannot read"));
}

#[test]
fn an_event_of_tomorrow_survives_a_resume() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    let text = "{\"event\":\"weather\",\"step\":1,\"sun\":true}\n{\"event\":\"weather\",\"step\":3}\n";
    fs::write(&path, text).unwrap();
    Log::open(folder.path(), 2).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), text.lines().next().unwrap().to_owned() + "\n");
}

#[test]
fn no_log_makes_the_reader_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    write(folder.path(), 0, &[start(), step(1), step(2), end(2)]);
    let original = fs::read(&path).unwrap();
    let mut random = Random(5);
    for _ in 0..3_000 {
        fs::write(&path, random.mutate(&original)).unwrap();
        let _ = read(&path);
        let _ = Log::open(folder.path(), 1);
    }
}

#[test]
fn events_and_keys_of_a_newer_program_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let line = |event: &Event| serde_json::to_string(event).unwrap();
    let (first, last) = (start(), step(1));
    let newer = [
        r#"{"event":"eclipse","step":1,"cover":[0.5]}"#,
        r#"{"event":"resume","step":0,"from":"x","mood":"calm"}"#,
    ];
    let text = format!("{}\n{}\n{}\n{}\n", line(&first), newer[0], newer[1], line(&last));
    fs::write(folder.path().join("run.jsonl"), text).unwrap();
    let resume = Event::Resume(Resume { step: 0, from: "x".into() });
    assert_eq!(read(folder.path()).unwrap(), [first, resume, last]);
    fs::write(folder.path().join("run.jsonl"), "{\"step\":1}\n").unwrap();
    assert!(read(folder.path()).unwrap_err().problem.contains("line 1"));
}

#[test]
fn a_line_that_is_no_event_is_set_aside_and_named_and_the_rest_is_history() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 0, &[start(), step(1), step(2)]);
    let path = folder.path().join("run.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let damaged = text.replacen("\"loss\":1.1,", "", 1);
    assert_ne!(text, damaged);
    fs::write(&path, damaged).unwrap();
    assert_eq!(read(&path).unwrap(), [start(), step(2)]);
    let found = history(folder.path(), true).unwrap();
    assert_eq!(found.events, [start(), step(2)]);
    let [reason] = &found.unreadable[..] else { panic!("{found:?}") };
    assert!(reason.contains("line 2 of") && reason.contains("`loss`"), "{reason}");
    // What is not even JSON is moved away when the run goes on.
    fs::write(&path, format!("{text}{}", "nonsense\n".repeat(9))).unwrap();
    let found = history(folder.path(), true).unwrap();
    assert_eq!((found.events.len(), found.unreadable.len()), (3, 4));
    assert!(found.unreadable[0].contains("line 4 of"), "{found:?}");
    assert!(found.unreadable[3].contains("6 more lines"), "{found:?}");
    Log::open(folder.path(), 2).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert_eq!(fs::read_to_string(folder.path().join("run.jsonl.unreadable")).unwrap().lines().count(), 9);
}

#[test]
fn a_log_that_is_missing_beside_a_checkpoint_is_said() {
    let folder = tempfile::tempdir().unwrap();
    assert!(history(folder.path(), false).unwrap().unreadable.is_empty());
    let found = history(folder.path(), true).unwrap();
    assert!(found.events.is_empty() && found.unreadable[0].contains("is missing"), "{found:?}");
}

#[test]
fn a_null_where_a_number_is_expected_is_read_as_not_a_number_whichever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.jsonl");
    let loads = vec![ExpertLoad::from_counts(1, &[3, 0, 1])];
    for event in [start(), step(2), end(4), Event::Experts(Experts { step: 2, layers: loads })] {
        let whole = serde_json::to_value(&event).unwrap();
        let mut numbers = 0;
        for at in 0..40 {
            let mut damaged = whole.clone();
            let inner = damaged.pointer_mut("/layers/0").is_some();
            let object = damaged.pointer_mut(if inner { "/layers/0" } else { "" }).unwrap();
            let Some(value) = object.as_object_mut().unwrap().values_mut().nth(at) else { break };
            if value.is_f64() {
                *value = serde_json::Value::Null;
                fs::write(&path, format!("{damaged}\n")).unwrap();
                let Ok(events) = read(&path) else { panic!("{damaged}") };
                assert_eq!(events.len(), 1, "{damaged}");
                numbers += 1;
            }
        }
        assert!(numbers > 0, "{whole}");
    }
}
