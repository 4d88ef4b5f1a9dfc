//! Commands that are printed to be pasted.

/// A word as a POSIX shell reads it back, in quotes only where it needs them.
pub fn word(text: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "_./=:@%+,-".contains(letter);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.into();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// How this program was called.
pub fn program() -> String {
    word(&std::env::args().next().unwrap_or_else(|| "lingot".into()))
}

#[cfg(all(test, unix))]
mod tests {
    use super::word;
    use std::process::Command;

    #[test]
    fn a_shell_reads_back_what_was_meant() {
        for text in [
            "out/run-1",
            "my dir/a b",
            "it's",
            "$HOME",
            "a\"b\\c",
            "",
            "`x`",
            "*",
            "\u{e9}t\u{e9}",
            "a;b",
            "~",
            "#",
        ] {
            let command = format!("printf %s {}", word(text));
            let output = Command::new("sh").args(["-c", &command]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text, "{command}");
        }
        assert_eq!(word("out/run-1"), "out/run-1");
    }
}
