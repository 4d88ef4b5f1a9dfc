//! Tokens to text as they come: a character that takes several tokens appears with the last of them.

use crate::tokenizer::Tokenizer;

/// Tokens after which a character that is still incomplete is shown as broken. No character needs as many.
const LONGEST_CHARACTER: usize = 8;

/// Decodes tokens one by one.
pub struct Decoding<'a> {
    tokenizer: &'a Tokenizer,
    /// Tokens whose text is not shown yet, after the last whose text is. The latter is context, for
    /// tokenizers that treat the first token of a text differently.
    tokens: Vec<u32>,
    /// Bytes of the text of `tokens` that are shown.
    shown_bytes: usize,
    /// Bytes of a character that tokens of single bytes have begun.
    begun: Vec<u8>,
}

impl<'a> Decoding<'a> {
    /// Begins a text.
    pub fn new(tokenizer: &'a Tokenizer) -> Decoding<'a> {
        Decoding { tokenizer, tokens: Vec::new(), shown_bytes: 0, begun: Vec::new() }
    }

    /// The text that this token completes, often one word; empty while a character is incomplete.
    pub fn push(&mut self, token: u32) -> String {
        if let Some(byte) = self.tokenizer.byte(token) {
            let before = self.rest();
            self.begun.push(byte);
            self.set_context(token);
            return before + &complete(&mut self.begun);
        }
        let broken = self.broken();
        self.tokens.push(token);
        let text = self.tokenizer.decode(&self.tokens);
        if text.ends_with('\u{fffd}') && self.tokens.len() < LONGEST_CHARACTER {
            return broken;
        }
        let new = text.get(self.shown_bytes..).unwrap_or_default().to_owned();
        self.shown_bytes = text.len();
        self.set_context(token);
        broken + &new
    }

    /// The text that is left when no more tokens come.
    pub fn finish(mut self) -> String {
        self.broken() + &self.rest()
    }

    /// Makes the last token the context of the next. A token without text, such as a special one, is no
    /// context.
    fn set_context(&mut self, token: u32) {
        let bytes = self.tokenizer.decode(&[token]).len();
        if bytes > 0 || self.tokens.len() >= LONGEST_CHARACTER {
            (self.tokens, self.shown_bytes) = (vec![token], bytes);
        }
    }

    /// The text of tokens that were waiting for others.
    fn rest(&mut self) -> String {
        let text = self.tokenizer.decode(&self.tokens);
        let rest = text.get(self.shown_bytes..).unwrap_or_default().to_owned();
        self.shown_bytes = text.len();
        rest
    }

    /// U+FFFD for each byte of a character that was begun and is not continued.
    fn broken(&mut self) -> String {
        "\u{fffd}".repeat(std::mem::take(&mut self.begun).len())
    }
}

/// Takes the complete characters out of `bytes`, and U+FFFD for each byte that can be part of none.
fn complete(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    loop {
        let (valid, broken) = match std::str::from_utf8(bytes) {
            Ok(_) => (bytes.len(), 0),
            Err(error) => (error.valid_up_to(), error.error_len().unwrap_or(0)),
        };
        text += &String::from_utf8_lossy(&bytes[..valid]);
        text += &"\u{fffd}".repeat(broken);
        bytes.drain(..valid + broken);
        if broken == 0 {
            return text;
        }
    }
}
