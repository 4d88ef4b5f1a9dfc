//! Special tokens by name: which file of a tokenizer names them, and what they are usually called.

/// Names of the token that ends a text, for tokenizers that do not say which it is; the first that exists
/// counts.
pub const KNOWN_ENDS: [&str; 6] =
    ["<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<｜end▁of▁sentence｜>", "[EOS]"];

/// The two files of a tokenizer that name its special tokens, the one that counts first. `transformers` lets
/// special_tokens_map.json override tokenizer_config.json, unless the latter lists its tokens under
/// `added_tokens_decoder`, as newer releases write it.
pub fn naming_files(config_lists_tokens: bool) -> [&'static str; 2] {
    let files = ["tokenizer_config.json", "special_tokens_map.json"];
    if config_lists_tokens { files } else { [files[1], files[0]] }
}
