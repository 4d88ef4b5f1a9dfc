//! Text to tokens and back: a byte-level BPE trained here, or any `tokenizer.json`.

use crate::progress::{Progress, Stage};
use lingot_spec::problem::{Problem, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

/// Ends every document of a tokenizer trained here.
pub const END_OF_DOCUMENT: &str = "<|endoftext|>";

/// What ends a document in tokenizers of others, when no `tokenizer_config.json` says.
const KNOWN_ENDS: [&str; 6] =
    [END_OF_DOCUMENT, "</s>", "<|end_of_text|>", "<eos>", "<｜end▁of▁sentence｜>", "[EOS]"];

/// All bytes and the end of a document.
const FEWEST: u32 = 257;

/// Where words part before merging, one choice per line below: contractions, letters with one sign before them,
/// single digits, other signs with the line ends after them, line ends, blanks before a word, other blanks.
const WORDS: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"|[^\r\n\p{L}\p{N}]?\p{L}+",
    r"|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+",
    r"|\s+(?!\S)",
    r"|\s+",
);

/// A vocabulary and how text is cut into it.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The file as it was given; None when trained here.
    given: Option<PathBuf>,
    vocabulary: u32,
    end_of_document: u32,
}

impl Tokenizer {
    /// A byte-level BPE of at most `vocabulary` tokens; fewer when the text has no more pairs that repeat. The
    /// result does not depend on the number of threads.
    pub fn train<I, S>(documents: I, vocabulary: u32, progress: Progress) -> Result<Tokenizer>
    where
        I: Iterator<Item = S>,
        S: AsRef<str> + Send,
    {
        if vocabulary < FEWEST {
            return Err(Problem::new(
                format!(
                    "a vocabulary of {vocabulary} is too small: 256 bytes and `{END_OF_DOCUMENT}` need {FEWEST}"
                ),
                "raise `model.vocabulary`; 4096 suits a few megabytes of text",
            ));
        }
        let documents: Vec<S> = documents.collect();
        let total = documents.iter().map(|text| text.as_ref().len() as u64).sum();
        progress(Stage { name: "tokenizer", done: 0, total });
        let mut inner = untrained()?;
        let mut trainer: TrainerWrapper = BpeTrainer::builder()
            .vocab_size(vocabulary as usize)
            .min_frequency(2)
            .show_progress(false)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(vec![AddedToken::from(END_OF_DOCUMENT, true)])
            .build()
            .into();
        inner.train(&mut trainer, documents.into_iter()).map_err(|e| {
            Problem::new(format!("the tokenizer cannot be trained: {e}"), "give one with `data.tokenizer`")
        })?;
        progress(Stage { name: "tokenizer", done: total, total });
        Tokenizer::new(inner, None, Some(END_OF_DOCUMENT.into()), Path::new("the trained tokenizer"))
    }

    /// Reads a `tokenizer.json`, and what ends a document from the `tokenizer_config.json` beside it.
    pub fn load(path: &Path) -> Result<Tokenizer> {
        let bytes = fs::read(path).map_err(|e| Problem::io("read the tokenizer", path, &e))?;
        let beside = |name| fs::read(path.with_file_name(name)).ok();
        let end = beside("tokenizer_config.json").and_then(|config| named_end(&config));
        let mut tokenizer = Tokenizer::parse(&bytes, end, path)?;
        tokenizer.given = Some(path.into());
        Ok(tokenizer)
    }

    /// Writes `tokenizer.json`, and beside it the two files by which `transformers` knows the special tokens. A
    /// tokenizer that was given is copied byte for byte.
    pub fn save(&self, path: &Path) -> Result<()> {
        let write = |path: &Path, bytes: &[u8]| {
            fs::write(path, bytes).map_err(|e| Problem::io("write the tokenizer", path, &e))
        };
        let end = self.inner.id_to_token(self.end_of_document).unwrap_or_default();
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": end,
            "pad_token": end,
            "clean_up_tokenization_spaces": false,
            "model_max_length": 1_000_000_000,
        });
        let map = json!({ "eos_token": end, "pad_token": end });
        let read = |path: &Path| fs::read(path).map_err(|e| Problem::io("read the tokenizer", path, &e));
        let body = match &self.given {
            Some(given) => read(given)?,
            None => self.to_json()?.into_bytes(),
        };
        for (name, made) in [("tokenizer_config.json", config), ("special_tokens_map.json", map)] {
            let beside =
                self.given.as_ref().map(|given| given.with_file_name(name)).filter(|file| file.exists());
            let bytes = match beside {
                Some(file) => read(&file)?,
                None => format!("{made:#}\n").into_bytes(),
            };
            write(&path.with_file_name(name), &bytes)?;
        }
        write(path, &body)
    }

    /// The tokens of a text. Nothing is added; special tokens written out in the text are recognised.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        // `parse` has tried characters that no vocabulary holds, so what remains is lack of memory.
        self.inner
            .encode_fast(text, false)
            .expect("a tokenizer that was tried encodes any text")
            .get_ids()
            .into()
    }

    /// The text of tokens, without the special ones. Broken characters become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        self.inner.decode(tokens, true).unwrap_or_default()
    }

    /// One more than the largest token.
    pub fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// The token that ends a document.
    pub fn end_of_document(&self) -> u32 {
        self.end_of_document
    }

    /// How a token is written in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The token that is written so in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether the tokens of a text are those of its pieces. Tokenizers that put a blank before every text say no.
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

    /// A tokenizer from the bytes of a `tokenizer.json`; `path` is only named in errors.
    pub fn parse(bytes: &[u8], end: Option<String>, path: &Path) -> Result<Tokenizer> {
        // The library trusts its files in a few places; a bad file is the user's mistake, not ours to die of.
        let parsed = std::panic::catch_unwind(|| {
            let inner = tokenizers::Tokenizer::from_bytes(bytes)?;
            inner.encode_fast("a b\n\u{0}\u{2603}\u{10ffff} 1", false)?;
            Ok::<_, tokenizers::Error>(inner)
        });
        let broken = |why: String| {
            Problem::new(
                format!("{} is not a tokenizer that can be used: {why}", path.display()),
                "it must be a `tokenizer.json` of Hugging Face tokenizers; without `data.tokenizer` one is trained",
            )
        };
        let inner = parsed.map_err(|_| broken("its parts contradict each other".into()))?;
        Tokenizer::new(inner.map_err(|e| broken(e.to_string()))?, None, end, path)
    }

    fn new(
        mut inner: tokenizers::Tokenizer,
        given: Option<PathBuf>,
        end: Option<String>,
        path: &Path,
    ) -> Result<Tokenizer> {
        // A whole document is encoded; limits meant for inference do not apply.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| Problem::new(e.to_string(), "write the tokenizer again"))?;
        let largest = inner.get_vocab(true).into_values().max();
        let ends = end.iter().map(String::as_str).chain(KNOWN_ENDS);
        let end_of_document = ends.filter_map(|token| inner.token_to_id(token)).next();
        match (largest, end_of_document) {
            (Some(largest), Some(end_of_document)) if largest < u32::MAX => {
                Ok(Tokenizer { inner, given, vocabulary: largest + 1, end_of_document })
            }
            _ => Err(Problem::new(
                format!("{} has no token that ends a document", path.display()),
                "name it as `eos_token` in the tokenizer_config.json beside it",
            )),
        }
    }
}

fn untrained() -> Result<tokenizers::Tokenizer> {
    let words = Split::new(SplitPattern::Regex(WORDS.into()), SplitDelimiterBehavior::Isolated, false)
        .map_err(|e| {
            Problem::new(format!("the word pattern is not accepted: {e}"), "report this as a bug")
        })?;
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

/// `eos_token` of a `tokenizer_config.json`: a string, or an object with `content`.
fn named_end(config: &[u8]) -> Option<String> {
    let config: Value = serde_json::from_slice(config).ok()?;
    let end = config.get("eos_token")?;
    end.as_str().or_else(|| end.get("content")?.as_str()).map(str::to_owned)
}
