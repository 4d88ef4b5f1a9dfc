//! Text to tokens and back: a byte-level BPE trained here, or any `tokenizer.json`.

use crate::ends::{self, Files};
use crate::growth;
use crate::progress::{Progress, Stage};
use lingot_spec::problem::{Problem, ProblemKind, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

/// Ends every document of a tokenizer trained here.
pub const END_OF_DOCUMENT: &str = "<|endoftext|>";

/// The smallest vocabulary: all bytes and the end of a document.
const FEWEST: u32 = 257;

/// How text is split into words before merging, one alternative per line below: contractions, letters with
/// one sign before them, single digits, other signs with the line ends after them, line ends, blanks before a
/// word, other blanks.
const WORDS: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"|[^\r\n\p{L}\p{N}]?\p{L}+",
    r"|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+",
    r"|\s+(?!\S)",
    r"|\s+",
);

/// A vocabulary, and how text is split into its tokens.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The files as they were given; none where it was trained here.
    given: Option<Arc<Files>>,
    vocabulary: u32,
    end_of_document: u32,
    /// The special tokens, by id.
    special: Arc<BTreeMap<u32, String>>,
    /// The tokens that stand for single bytes of characters outside the vocabulary (`<0xE6>`), by id.
    bytes: Arc<BTreeMap<u32, u8>>,
}

impl Tokenizer {
    /// Trains a byte-level BPE of at most `vocabulary` tokens; it has fewer where the text has no more pairs
    /// that repeat. The result does not depend on the number of threads.
    pub fn train<I, S>(documents: I, vocabulary: u32, progress: Progress) -> Result<Tokenizer>
    where
        I: Iterator<Item = S>,
        S: AsRef<str> + Send + Sync,
    {
        if vocabulary < FEWEST {
            return Err(Problem::new(
                format!(
                    "a vocabulary of {vocabulary} is too small: 256 bytes and {END_OF_DOCUMENT} need {FEWEST}"
                ),
                "raise `model.vocabulary`; 4096 suits a few megabytes of text",
            )
            .of(ProblemKind::Input));
        }
        let documents: Vec<S> = documents.collect();
        let total: u64 = documents.iter().map(|text| text.as_ref().len() as u64).sum();
        progress(Stage { name: "tokenizer", done: 0, total });
        let mut inner = untrained()?;
        let mut trainer: TrainerWrapper = BpeTrainer::builder()
            // Room for the whole vocabulary is allocated at once, and no text has more tokens than bytes.
            .vocab_size((vocabulary as usize).min(FEWEST as usize + total as usize))
            .min_frequency(2)
            .show_progress(false)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(vec![AddedToken::from(END_OF_DOCUMENT, true)])
            .build()
            .into();
        let pieces = documents.iter().flat_map(|text| pieces(text.as_ref()));
        inner.train(&mut trainer, pieces).map_err(|e| {
            Problem::new(format!("the tokenizer cannot be trained: {e}"), "give one with `data.tokenizer`")
        })?;
        progress(Stage { name: "tokenizer", done: total, total });
        Tokenizer::new(inner, None, END_OF_DOCUMENT)
    }

    /// Reads a `tokenizer.json`, and from the files beside it which token ends a document.
    pub fn load(path: &Path) -> Result<Tokenizer> {
        let files = Files::read(path)?;
        let mut inner = parse_inner(&files.tokenizer, path)?;
        files.add_missing(&mut inner)?;
        let end = files.end(&inner)?;
        Tokenizer::new(inner, Some(Arc::new(files)), &end)
    }

    /// Writes `tokenizer.json`, and beside it the files from which `transformers` takes the special tokens.
    /// The files of a tokenizer that was given are copied byte for byte where they name the end of a
    /// document.
    pub fn save(&self, path: &Path) -> Result<()> {
        let end = self.inner.id_to_token(self.end_of_document).unwrap_or_default();
        let files = match &self.given {
            Some(given) => given.copies(&end),
            None => [vec![("tokenizer.json", self.to_json()?.into_bytes())], ends::made(&end)].concat(),
        };
        for (name, bytes) in files {
            let path = if name == "tokenizer.json" { path.into() } else { path.with_file_name(name) };
            fs::write(&path, bytes).map_err(|e| Problem::io("write the tokenizer", &path, &e))?;
        }
        Ok(())
    }

    /// The same tokenizer, which reads text that spells a special token, such as `</s>`, as that token, or as
    /// text.
    pub fn reading_special_tokens(&self, special: bool) -> Tokenizer {
        let mut other = self.clone();
        other.inner.set_encode_special_tokens(!special);
        other
    }

    /// The first special token that a text spells.
    pub fn special_token_in(&self, text: &str) -> Option<&str> {
        let spelled = self.special.values().filter_map(|token| Some((text.find(token.as_str())?, token)));
        spelled.min().map(|(_, token)| token.as_str())
    }

    /// The tokens of a text. No token is added, and a special token that the text spells is text like any
    /// other, unless `reading_special_tokens` says otherwise.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let tokens = self.encode_whole(text);
        let reads_special = !self.inner.get_added_vocabulary().get_encode_special_tokens();
        if reads_special || !tokens.iter().any(|token| self.special.contains_key(token)) {
            return tokens;
        }
        // The model knows the spelling as a word of its own. Without its first character it is another word.
        match self.special_token_in(text).and_then(|token| Some((text.find(token)?, token.chars().next()?))) {
            None => tokens,
            Some((place, first)) => {
                let (before, after) = text.split_at(place + first.len_utf8());
                [self.encode_whole(before), self.encode(after)].concat()
            }
        }
    }

    fn encode_whole(&self, text: &str) -> Vec<u32> {
        // `parse` has tried characters that no vocabulary holds, so what remains is lack of memory.
        let encoded =
            self.inner.encode_fast(text, false).expect("a tokenizer that was tried encodes any text");
        encoded.get_ids().into()
    }

    /// The text of tokens, without the special ones. Broken characters become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        self.inner.decode(tokens, true).unwrap_or_default()
    }

    /// The byte that a token stands for, where it stands for one.
    pub(crate) fn byte(&self, token: u32) -> Option<u8> {
        self.bytes.get(&token).copied()
    }

    /// One more than the largest token.
    pub fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// The token that ends a document.
    pub fn end_of_document(&self) -> u32 {
        self.end_of_document
    }

    /// The spelling of a token in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The token with this spelling in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether the tokens of a text are those of its pieces. Not so for tokenizers that put a blank before
    /// every text.
    pub(crate) fn joins_pieces(&self) -> bool {
        ["a word\nAnd another", "x = 1;\n} else", "end. \n (see", "a\n\n 1"].iter().all(|text| {
            let (before, after) = text.split_at(text.rfind('\n').map_or(0, |at| at + 1));
            [self.encode(before), self.encode(after)].concat() == self.encode(text)
        })
    }

    pub(crate) fn to_json(&self) -> Result<String> {
        self.inner.to_string(true).map_err(|e| {
            Problem::new(format!("the tokenizer cannot be written: {e}"), "give one with `data.tokenizer`")
        })
    }

    /// A tokenizer from the bytes of a `tokenizer.json`, whose documents end with the token `end`, or with
    /// one that is known to end texts. `path` is only named in errors.
    pub fn parse(bytes: &[u8], end: Option<String>, path: &Path) -> Result<Tokenizer> {
        let inner = parse_inner(bytes, path)?;
        let end = match end {
            Some(end) => end,
            None => ends::known(&inner, path)?,
        };
        Tokenizer::new(inner, None, &end)
    }

    fn new(mut inner: tokenizers::Tokenizer, given: Option<Arc<Files>>, end: &str) -> Result<Tokenizer> {
        // A whole document is encoded; limits meant for inference do not apply.
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|e| Problem::bug(format!("the tokenizer cannot do without truncation: {e}")))?;
        inner.set_encode_special_tokens(true);
        let added = inner.get_added_tokens_decoder().into_iter();
        let special =
            added.filter(|(_, token)| token.special).map(|(id, token)| (id, token.content)).collect();
        let bytes = byte_tokens(&inner);
        let largest = inner.get_vocab(true).into_values().max();
        match (largest, inner.token_to_id(end)) {
            (Some(largest), Some(end_of_document)) if largest < u32::MAX => Ok(Tokenizer {
                inner,
                given,
                vocabulary: largest + 1,
                end_of_document,
                special: Arc::new(special),
                bytes: Arc::new(bytes),
            }),
            _ => Err(Problem::new(
                format!("the tokenizer has no token `{end}`, which should end a document"),
                "name one that it has as `eos_token` in the tokenizer_config.json beside it",
            )
            .of(ProblemKind::Input)),
        }
    }
}

fn parse_inner(bytes: &[u8], path: &Path) -> Result<tokenizers::Tokenizer> {
    let bytes = ends::spare_special_words(bytes);
    let broken = |why: String| {
        Problem::new(
            format!("{} is not a tokenizer that can be used: {why}", path.display()),
            "give a `tokenizer.json` of Hugging Face tokenizers; without `data.tokenizer` one is trained",
        )
        .of(ProblemKind::Input)
    };
    growth::check(&bytes).map_err(broken)?;
    // The library trusts its files in a few places; a bad file must be an error, not a panic.
    let parsed = std::panic::catch_unwind(|| {
        let inner = tokenizers::Tokenizer::from_bytes(&bytes)?;
        inner.encode_fast("a b\n\u{0}\u{2603}\u{10ffff} 1", false)?;
        Ok::<_, tokenizers::Error>(inner)
    });
    let inner = parsed.map_err(|_| broken("its parts contradict each other".into()))?;
    inner.map_err(|e| broken(e.to_string()))
}

/// The tokens that the decoder takes for single bytes; none where it takes them for text.
fn byte_tokens(inner: &tokenizers::Tokenizer) -> BTreeMap<u32, u8> {
    let id = |byte: u8| inner.token_to_id(&format!("<0x{byte:02X}>"));
    if id(b'A').and_then(|id| inner.decode(&[id], true).ok()).as_deref() != Some("A") {
        return BTreeMap::new();
    }
    (0..=u8::MAX).filter_map(|byte| Some((id(byte)?, byte))).collect()
}

/// The longest run of letters, or of other characters of one class, that a tokenizer is trained on, in
/// characters. Counting the pairs of a word takes time that grows with its square.
const LONGEST_RUN: usize = 256;

/// Cuts a text where a run of characters of one class grows too long, as in DNA or in Chinese without
/// punctuation. Texts of usual words stay whole.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let class = |letter: char| (letter.is_whitespace(), letter.is_alphabetic(), letter.is_numeric());
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut run = (0, None);
        let mut letters = rest.char_indices();
        let end = letters.find(|&(_, letter)| {
            let now = Some(class(letter));
            run = if now == run.1 { (run.0 + 1, now) } else { (1, now) };
            run.0 > LONGEST_RUN
        });
        let (piece, left) = rest.split_at(end.map_or(rest.len(), |(at, _)| at));
        rest = left;
        (!piece.is_empty()).then_some(piece)
    })
}

fn untrained() -> Result<tokenizers::Tokenizer> {
    let words = Split::new(SplitPattern::Regex(WORDS.into()), SplitDelimiterBehavior::Isolated, false)
        .map_err(|e| Problem::bug(format!("the word pattern is not accepted: {e}")))?;
    let bytes = ByteLevel::default().add_prefix_space(false).use_regex(false);
    let mut inner = tokenizers::Tokenizer::new(BPE::default());
    inner
        .with_pre_tokenizer(Some(Sequence::new(vec![
            PreTokenizerWrapper::Split(words),
            PreTokenizerWrapper::ByteLevel(bytes),
        ])))
        .with_decoder(Some(ByteLevel::default()));
    Ok(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_runs_that_are_too_long_are_cut_and_nothing_is_lost() {
        let usual = "A line of words, 12345 and ---- signs.\n".repeat(50);
        assert_eq!(pieces(&usual).collect::<Vec<_>>(), [usual.as_str()]);
        assert_eq!(pieces("").count(), 0);
        for unit in ["x", "\u{6c49}", " ", "-", "\u{1f600}"] {
            for length in [LONGEST_RUN, LONGEST_RUN + 1, 3 * LONGEST_RUN + 7] {
                let text = format!("a. {}", unit.repeat(length));
                let cut: Vec<&str> = pieces(&text).collect();
                assert_eq!(cut.concat(), text);
                let longest = cut.iter().map(|piece| piece.matches(unit).count()).max();
                assert!(longest <= Some(LONGEST_RUN + 1), "{unit}: {longest:?}");
            }
        }
    }

    /// Would take hours if time grew with the square of a word's length.
    #[test]
    fn a_text_that_is_one_word_trains_a_tokenizer_and_is_read_back() {
        let mut state = 1_u32;
        let letters = (0..1 << 20).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ['A', 'C', 'G', 'T'][(state >> 30) as usize]
        });
        let text: String = letters.collect();
        let tokenizer = Tokenizer::train(std::iter::once(&text), 300, &|_| ()).unwrap();
        let tokens = tokenizer.encode(&text);
        assert!(tokens.len() < text.len() / 2, "{} tokens", tokens.len());
        assert_eq!(tokenizer.decode(&tokens), text);
    }
}
