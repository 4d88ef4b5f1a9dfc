//! How much longer a tokenizer can make a text before it splits it: replacements that double, one after the
//! other, fill any memory.

use serde::Deserialize;
use serde_json::Value;

/// Text may grow this many times. Usual tokenizers write three bytes for a blank.
const LARGEST: f64 = 64.0;
/// Text that is put before each piece has at most this many bytes.
const LONGEST_PREFIX: usize = 256;

/// The parts of a tokenizer that change texts.
#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    decoder: Value,
}

/// Errors with a clause that follows the name of the file, if a part of a `tokenizer.json` makes texts grow
/// without bounds.
pub(crate) fn check(tokenizer: &[u8]) -> Result<(), String> {
    // What is no JSON is refused by the tokenizer itself.
    let Ok(Parts { normalizer, decoder }) = serde_json::from_slice(tokenizer) else { return Ok(()) };
    for (name, part) in [("normalizer", normalizer), ("decoder", decoder)] {
        let growth = of(&part);
        if growth > LARGEST {
            return Err(format!("its {name} makes texts up to {growth:.0} times as long"));
        }
    }
    Ok(())
}

/// The growth by a part and all parts in it.
fn of(part: &Value) -> f64 {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map_or(0, str::len);
    let own = match part.get("type").and_then(Value::as_str) {
        Some("Replace") => {
            let pattern = part.get("pattern");
            // A regular expression may match nothing, before every byte.
            let matched = text(pattern.and_then(|pattern| pattern.get("String")));
            let added = text(part.get("content")) as f64;
            if matched > 0 { added / matched as f64 } else { 1.0 + added }
        }
        Some("Prepend") if text(part.get("prepend")) > LONGEST_PREFIX => text(part.get("prepend")) as f64,
        _ => 1.0,
    };
    let parts =
        ["normalizers", "decoders"].into_iter().filter_map(|name| part.get(name)?.as_array()).flatten();
    parts.map(of).fold(own.max(1.0), |all, one| all * one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with(normalizer: &Value) -> Result<(), String> {
        check(json!({ "normalizer": normalizer, "decoder": null }).to_string().as_bytes())
    }

    #[test]
    fn replacements_that_multiply_are_refused_and_usual_ones_are_not() {
        let replace =
            |from: &str, to: &str| json!({ "type": "Replace", "pattern": { "String": from }, "content": to });
        let sequence = |parts: Vec<Value>| json!({ "type": "Sequence", "normalizers": parts });
        let doubling = replace("a", "aa");
        with(&Value::Null).unwrap();
        with(&sequence(vec![json!({ "type": "Prepend", "prepend": "▁" }), replace(" ", "▁")])).unwrap();
        with(&sequence(vec![doubling.clone(); 6])).unwrap();
        for bomb in [
            sequence(vec![doubling; 40]),
            replace("a", &"b".repeat(1000)),
            sequence(vec![sequence(vec![replace("a", &"b".repeat(60))]), replace("b", "cc")]),
            json!({ "type": "Replace", "pattern": { "Regex": "" }, "content": "x".repeat(100) }),
            json!({ "type": "Prepend", "prepend": "x".repeat(1 << 20) }),
        ] {
            assert!(with(&bomb).unwrap_err().contains("normalizer makes texts up to"), "{bomb}");
        }
        check(b"nonsense").unwrap();
    }
}
