//! Tokens to text as they come: a character that takes several tokens appears with the last of them.

use crate::tokenizer::Tokenizer;

/// Decodes tokens one by one; a character that needs several tokens appears with the last of them.
pub struct Decoding<'a> {
    tokenizer: &'a Tokenizer,
    /// Tokens since the last that ended on a whole character, and that one's text as context.
    tokens: Vec<u32>,
    shown_bytes: usize,
}

impl<'a> Decoding<'a> {
    /// Begins a text.
    pub fn new(tokenizer: &'a Tokenizer) -> Decoding<'a> {
        Decoding { tokenizer, tokens: Vec::new(), shown_bytes: 0 }
    }

    /// The text that this token completes, often one word; empty while a character is incomplete.
    pub fn push(&mut self, token: u32) -> String {
        /// More than any character needs: then it is not a character to come but broken text.
        const PATIENCE: usize = 8;
        self.tokens.push(token);
        let text = self.tokenizer.decode(&self.tokens);
        let waiting = text.ends_with('\u{fffd}') && self.tokens.len() < PATIENCE;
        if waiting {
            return String::new();
        }
        let new = text.get(self.shown_bytes..).unwrap_or_default().to_owned();
        // The last token stays as context, for tokenizers that treat the first one differently.
        self.tokens = vec![token];
        self.shown_bytes = self.tokenizer.decode(&self.tokens).len();
        new
    }

    /// What is left when no more tokens come.
    pub fn finish(self) -> String {
        let text = self.tokenizer.decode(&self.tokens);
        text.get(self.shown_bytes..).unwrap_or_default().to_owned()
    }
}
