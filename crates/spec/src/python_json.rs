//! JSON as Python writes it, made into JSON that every parser reads.
//!
//! Python's `json` writes NaN and Infinity as numbers and escapes halves of surrogate pairs; editors put a
//! byte-order mark in front. RFC 8259 allows none of it.

use std::borrow::Cow;

/// What stands in place of NaN, Infinity and -Infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotFinite {
    /// `null`: a missing value, as pandas means it.
    Null,
    /// `{"__float__":"NaN"}`, as newer releases of `transformers` write such numbers, and read them.
    Tagged,
}

/// A repaired text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired<'a> {
    /// JSON if the text was JSON otherwise; borrowed where nothing was repaired.
    pub json: Cow<'a, str>,
    /// Escapes of one half of a surrogate pair, each of which became U+FFFD.
    pub lone_surrogates: u64,
}

/// Leaves out a byte-order mark, replaces numbers that are not finite, and replaces halves of surrogate
/// pairs.
pub fn repair(text: &str, not_finite: NotFinite) -> Repaired<'_> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !["NaN", "Infinity", "\\ud", "\\uD"].iter().any(|word| text.contains(word)) {
        return Repaired { json: text.into(), lone_surrogates: 0 };
    }
    let (mut json, mut lone_surrogates) = (String::with_capacity(text.len()), 0);
    let (mut rest, mut in_string) = (text, false);
    while let Some(first) = rest.chars().next() {
        let (taken, replacement) = if in_string {
            in_string = first != '"';
            escape(rest)
        } else {
            in_string = first == '"';
            number(rest, not_finite)
        };
        let taken = if taken == 0 { first.len_utf8() } else { taken };
        match replacement {
            Some(replacement) => {
                lone_surrogates += u64::from(in_string);
                json.push_str(replacement);
            }
            None => json.push_str(&rest[..taken]),
        }
        rest = &rest[taken..];
    }
    Repaired { json: json.into(), lone_surrogates }
}

/// The bytes of the escape that a text begins with, 0 where it begins with none, and what stands in its
/// place.
fn escape(text: &str) -> (usize, Option<&'static str>) {
    match (unit(text), text.get(6..).and_then(unit)) {
        (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => (12, None),
        (Some(0xd800..=0xdfff), _) => (6, Some("\\ufffd")),
        _ if text.starts_with('\\') => (1 + text[1..].chars().next().map_or(0, char::len_utf8), None),
        _ => (0, None),
    }
}

/// The UTF-16 unit of the `\uXXXX` that a text begins with.
fn unit(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    u32::from_str_radix(digits, 16).ok()
}

/// The bytes of the number that a text begins with and that is not finite, and what stands in its place.
fn number(text: &str, not_finite: NotFinite) -> (usize, Option<&'static str>) {
    let words = [
        ("NaN", r#"{"__float__":"NaN"}"#),
        ("Infinity", r#"{"__float__":"Infinity"}"#),
        ("-Infinity", r#"{"__float__":"-Infinity"}"#),
    ];
    match words.into_iter().find(|(word, _)| text.starts_with(word)) {
        None => (0, None),
        Some((word, tagged)) => {
            (word.len(), Some(if not_finite == NotFinite::Null { "null" } else { tagged }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repaired(text: &str) -> (String, u64) {
        let repaired = repair(text, NotFinite::Null);
        (repaired.json.into_owned(), repaired.lone_surrogates)
    }

    #[test]
    fn numbers_are_replaced_outside_strings_only() {
        let text = r#"{"NaN": NaN, "a\"Infinity": [Infinity,-Infinity, -1], "\\": NaN}"#;
        let json = r#"{"NaN": null, "a\"Infinity": [null,null, -1], "\\": null}"#;
        assert_eq!(repaired(text), (json.into(), 0));
        let tagged = repair("[-Infinity]", NotFinite::Tagged);
        assert_eq!(tagged.json, r#"[{"__float__":"-Infinity"}]"#);
    }

    #[test]
    fn halves_of_pairs_are_replaced_and_pairs_are_not() {
        assert_eq!(repaired(r#""\ud83d\ude00""#), (r#""\ud83d\ude00""#.into(), 0));
        assert_eq!(repaired(r#""\ud83d x\uDE00 \ud83d\ud83d\ude00""#).1, 3);
        assert_eq!(repaired(r#""a\ud800""#), (r#""a\ufffd""#.into(), 1));
        assert_eq!(repaired(r#""\\ud800""#), (r#""\\ud800""#.into(), 0));
        assert_eq!(repaired("\"é\\ud800é\""), ("\"é\\ufffdé\"".into(), 1));
        assert_eq!(repaired("\"\\ud8"), ("\"\\ud8".into(), 0));
    }

    #[test]
    fn a_byte_order_mark_is_left_out_and_other_text_is_borrowed() {
        assert_eq!(repaired("\u{feff}{}"), ("{}".into(), 0));
        assert!(matches!(repair("{\"a\": 1}", NotFinite::Null).json, Cow::Borrowed(_)));
    }
}
