//! Multiple-choice questions in the layouts in which data sets come, as lm-evaluation-harness asks them.
//!
//! The keys of a record say which data set it is from. Prompts follow the task files of lm-evaluation-harness
//! (EleutherAI, version 0.4), so that accuracies can be compared.

use crate::score::Question;
use serde_json::{Map, Value};

/// A record's keys and values.
type Record = Map<String, Value>;

/// The question of a record. Errors with what is wrong, a clause.
pub fn question(record: &Record) -> Result<Question, String> {
    let has = |keys: &[&str]| keys.iter().all(|key| record.contains_key(*key));
    let question = if has(&["goal", "sol1", "sol2"]) {
        piqa(record)?
    } else if has(&["endings"]) {
        hellaswag(record)?
    } else if has(&["correct_answer", "distractor1"]) {
        sciq(record)?
    } else if has(&["premise", "choice1", "choice2"]) {
        copa(record)?
    } else if has(&["passage", "question"]) {
        boolq(record)?
    } else if record.get("choices").is_some_and(Value::is_object) {
        arc(record)?
    } else if has(&["question", "choices", "subject"]) {
        mmlu(record)?
    } else {
        plain(record)?
    };
    check(&question).map(|()| question)
}

/// Lingot's own layout: a question, its choices, and the index of the right one.
fn plain(record: &Record) -> Result<Question, String> {
    let question = text(record, &["question", "context", "query"])?;
    let choices = texts(record.get("choices").ok_or("it has no choices")?, "choices")?;
    let answer = index(record, &["answer", "gold", "label"], &[], choices.len())?;
    Ok(Question { question, choices, answer })
}

/// ARC (Clark et al., arXiv 1803.05457) and OpenBookQA: choices with labels of their own.
fn arc(record: &Record) -> Result<Question, String> {
    let of = |key: &str| record["choices"].get(key).ok_or_else(|| format!("choices have no {key}"));
    let (choices, labels) = (texts(of("text")?, "choices.text")?, texts(of("label")?, "choices.label")?);
    let question = match text(record, &["question_stem"]) {
        Ok(stem) => stem,
        Err(_) => format!("Question: {}\nAnswer:", text(record, &["question"])?),
    };
    let answer = index(record, &["answerKey", "answer"], &labels, choices.len())?;
    Ok(Question { question, choices, answer })
}

/// MMLU (Hendrycks et al., arXiv 2009.03300): the choices are listed, and their letters are scored.
fn mmlu(record: &Record) -> Result<Question, String> {
    let listed = texts(&record["choices"], "choices")?;
    let letters: Vec<String> = ('A'..='Z').take(listed.len()).map(String::from).collect();
    let lines: Vec<String> =
        letters.iter().zip(&listed).map(|(letter, choice)| format!("{letter}. {choice}\n")).collect();
    let question = format!("{}\n{}Answer:", text(record, &["question"])?.trim(), lines.concat());
    let answer = index(record, &["answer"], &letters, listed.len())?;
    Ok(Question { question, choices: letters, answer })
}

/// HellaSwag (Zellers et al., arXiv 1905.07830): which ending follows.
fn hellaswag(record: &Record) -> Result<Question, String> {
    let told = match (text(record, &["ctx_a"]), text(record, &["ctx_b"])) {
        (Ok(first), Ok(second)) => format!("{first} {}", capitalised(&second)),
        _ => text(record, &["ctx", "context", "query"])?,
    };
    let told = match text(record, &["activity_label"]) {
        Ok(activity) => format!("{activity}: {told}"),
        Err(_) => told,
    };
    let endings = texts(&record["endings"], "endings")?;
    let answer = index(record, &["label", "answer", "gold"], &[], endings.len())?;
    let choices = endings.iter().map(|ending| without_marks(ending)).collect();
    Ok(Question { question: without_marks(&told), choices, answer })
}

/// PIQA (Bisk et al., arXiv 1911.11641): which of two solutions reaches a goal.
fn piqa(record: &Record) -> Result<Question, String> {
    let choices = ["sol1", "sol2"].map(|key| text(record, &[key]));
    let choices = choices.into_iter().collect::<Result<Vec<String>, String>>()?;
    let question = format!("Question: {}\nAnswer:", text(record, &["goal"])?);
    Ok(Question { question, choices, answer: index(record, &["label", "answer"], &[], 2)? })
}

/// SciQ (Welbl et al., arXiv 1707.06209): the right answer stands last.
fn sciq(record: &Record) -> Result<Question, String> {
    let keys = ["distractor1", "distractor2", "distractor3", "correct_answer"];
    let choices = keys.map(|key| text(record, &[key])).into_iter().collect::<Result<Vec<_>, String>>()?;
    let support = text(record, &["support"]).unwrap_or_default();
    let asked = text(record, &["question"])?;
    let question = format!("{}\nQuestion: {asked}\nAnswer:", support.trim_start());
    Ok(Question { question, choices, answer: 3 })
}

/// BoolQ (Clark et al., arXiv 1905.10044): yes or no.
fn boolq(record: &Record) -> Result<Question, String> {
    let [passage, asked] = [text(record, &["passage"])?, text(record, &["question"])?];
    let answer = match record.get("answer").or_else(|| record.get("label")) {
        Some(Value::Bool(is_so)) => usize::from(*is_so),
        _ => index(record, &["label", "answer"], &[], 2)?,
    };
    let question = format!("{passage}\nQuestion: {}?\nAnswer:", asked.trim_end_matches('?'));
    Ok(Question { question, choices: vec!["no".into(), "yes".into()], answer })
}

/// COPA (Roemmele et al., 2011): what the cause was, or what the effect is.
fn copa(record: &Record) -> Result<Question, String> {
    let joint = match text(record, &["question"])?.as_str() {
        "cause" => "because",
        "effect" => "therefore",
        other => return Err(format!("its question is {other:?}, neither cause nor effect")),
    };
    let premise = text(record, &["premise"])?;
    let premise = premise.trim().trim_end_matches('.');
    let choices = ["choice1", "choice2"].map(|key| text(record, &[key]).map(|choice| lowered(&choice)));
    let choices = choices.into_iter().collect::<Result<Vec<String>, String>>()?;
    let answer = index(record, &["label", "answer"], &[], 2)?;
    Ok(Question { question: format!("{premise} {joint}"), choices, answer })
}

/// The text under the first of the keys that is there.
fn text(record: &Record, keys: &[&str]) -> Result<String, String> {
    let found = keys.iter().find_map(|key| record.get(*key).map(|value| (key, value)));
    match found {
        Some((_, Value::String(text))) => Ok(text.clone()),
        Some((key, other)) => Err(format!("{key} is {other}, not a text")),
        None => Err(format!("it has no {}", keys.join(", no "))),
    }
}

fn texts(value: &Value, name: &str) -> Result<Vec<String>, String> {
    let list = value.as_array().ok_or_else(|| format!("{name} is not a list"))?;
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(format!("{name} holds {other}, not a text")),
    };
    list.iter().map(text).collect()
}

/// The index of the right choice: one of `labels`, or a number from 0, as a number or as a text, or else a
/// letter from A.
fn index(record: &Record, keys: &[&str], labels: &[String], count: usize) -> Result<usize, String> {
    let found = keys.iter().find_map(|key| record.get(*key).map(|value| (key, value)));
    let (key, value) = found.ok_or_else(|| format!("it has no {}", keys.join(", no ")))?;
    let said = value.as_str().map_or(value.to_string(), |text| text.trim().to_owned());
    let letter = || match said.as_bytes() {
        [letter @ b'A'..=b'Z'] => Some(usize::from(letter - b'A')),
        _ => None,
    };
    let labelled = value.is_string().then(|| labels.iter().position(|label| *label == said)).flatten();
    let index = labelled.or_else(|| said.parse().ok()).or_else(letter);
    match index {
        Some(index) if index < count => Ok(index),
        Some(index) => Err(format!("{key} is {index}, there are {count} choices, counted from 0")),
        None => Err(format!("{key} is {value}, which names none of the {count} choices")),
    }
}

fn check(question: &Question) -> Result<(), String> {
    if question.question.trim().is_empty() {
        return Err("the question is empty".into());
    }
    match question.choices.iter().position(|choice| choice.trim().is_empty()) {
        None => Ok(()),
        Some(index) => Err(format!("choice {index} is empty")),
    }
}

/// The first letter in upper case and the rest in lower case, as Python's `capitalize`.
fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(letters.flat_map(char::to_lowercase)).collect()
}

/// The first letter in lower case.
fn lowered(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().into_iter().flat_map(char::to_lowercase);
    first.chain(letters).collect()
}

/// Without the marks of WikiHow: a title becomes the end of a sentence, everything else in brackets goes.
fn without_marks(text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('[') {
        plain += before;
        match after.split_once(']') {
            Some((_, after)) => rest = after,
            None => {
                plain.push('[');
                rest = after;
            }
        }
    }
    (plain + rest).replace("  ", " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(record: &Value) -> Result<(String, Vec<String>, usize), String> {
        let Question { question, choices, answer } = question(record.as_object().unwrap())?;
        Ok((question, choices, answer))
    }

    #[test]
    fn every_layout_is_asked_as_the_harness_asks_it() {
        for (record, asked, choices, answer) in [
            (json!({ "question": "Q", "choices": ["x", "y"], "answer": 1 }), "Q", vec!["x", "y"], 1),
            (json!({ "query": "Q", "choices": ["x", "y"], "gold": 0, "id": null }), "Q", vec!["x", "y"], 0),
            (
                json!({
                    "question": "Q?", "answerKey": "2",
                    "choices": { "text": ["x", "y"], "label": ["1", "2"] },
                }),
                "Question: Q?\nAnswer:",
                vec!["x", "y"],
                1,
            ),
            (
                json!({
                    "question_stem": "S", "answerKey": "A",
                    "choices": { "text": ["x", "y"], "label": ["A", "B"] },
                }),
                "S",
                vec!["x", "y"],
                0,
            ),
            (
                json!({ "question": " Q?", "choices": ["x", "y"], "answer": "B", "subject": "law" }),
                "Q?\nA. x\nB. y\nAnswer:",
                vec!["A", "B"],
                1,
            ),
            (
                json!({
                    "ctx_a": "He [step] sits.", "ctx_b": "then He", "activity_label": "Roof",
                    "endings": ["falls [title] Up.", "waits"], "label": "1",
                }),
                "Roof: He sits. Then he",
                vec!["falls. Up.", "waits"],
                1,
            ),
            (
                json!({ "goal": "G", "sol1": "x", "sol2": "y", "label": 0 }),
                "Question: G\nAnswer:",
                vec!["x", "y"],
                0,
            ),
            (
                json!({
                    "support": " S.", "question": "Q?", "correct_answer": "c",
                    "distractor1": "x", "distractor2": "y", "distractor3": "z",
                }),
                "S.\nQuestion: Q?\nAnswer:",
                vec!["x", "y", "z", "c"],
                3,
            ),
            (
                json!({ "passage": "P.", "question": "is it", "answer": true }),
                "P.\nQuestion: is it?\nAnswer:",
                vec!["no", "yes"],
                1,
            ),
            (
                json!({
                    "premise": "It rained.", "question": "effect",
                    "choice1": "It", "choice2": "He", "label": 1,
                }),
                "It rained therefore",
                vec!["it", "he"],
                1,
            ),
        ] {
            let choices: Vec<String> = choices.into_iter().map(str::to_owned).collect();
            assert_eq!(read(&record), Ok((asked.to_owned(), choices, answer)), "{record}");
        }
    }

    #[test]
    fn what_is_no_question_is_told_by_its_key() {
        for (record, word) in [
            (json!({ "question": "Q" }), "no choices"),
            (json!({ "question": 3, "choices": ["x"], "answer": 0 }), "question is 3"),
            (json!({ "question": "Q", "choices": ["x"], "answer": 1 }), "answer is 1, there are 1 choices"),
            (json!({ "question": "Q", "choices": ["x"], "answer": "z" }), "names none of the 1"),
            (json!({ "question": "Q", "choices": ["x"], "answer": -1 }), "names none"),
            (json!({ "question": "Q", "choices": [null], "answer": 0 }), "choices holds null"),
            (json!({ "question": "Q", "choices": { "text": ["x"] }, "answerKey": "A" }), "no label"),
            (json!({ "question": "Q", "choices": ["x"] }), "no answer, no gold, no label"),
            (json!({ "premise": "P", "choice1": "x", "choice2": "y", "question": "why", "label": 0 }), "why"),
            (json!({ "goal": "G", "sol1": "x", "sol2": "y" }), "no label"),
        ] {
            let problem = read(&record).unwrap_err();
            assert!(problem.contains(word), "{problem}: {record}");
        }
    }
}
