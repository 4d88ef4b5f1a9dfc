//! Tokenizers: trained, given, saved, streamed.

use crate::{Bench, says, stories};
use lingot_data::{Decoding, END_OF_DOCUMENT, Tokenizer};

fn trained(vocabulary: u32) -> Tokenizer {
    Tokenizer::train(stories(300).into_iter(), vocabulary, &|_| ()).unwrap()
}

const TEXTS: [&str; 6] = [
    "",
    "The river ran.",
    "  two\n\n\tlines\r\n",
    "née ☃ 你好 👩‍🚀 \u{0}\u{10ffff}",
    "1234 it's x=3;",
    "a\u{fffd}b",
];

#[test]
fn any_text_comes_back_and_a_saved_tokenizer_is_the_same() {
    let bench = Bench::new();
    let tokenizer = trained(400);
    let path = bench.path("tokenizer.json");
    tokenizer.save(&path).unwrap();
    let loaded = Tokenizer::load(&path).unwrap();
    assert_eq!(loaded.vocabulary(), tokenizer.vocabulary());
    assert_eq!(loaded.end_of_document(), tokenizer.end_of_document());
    assert_eq!(loaded.id(END_OF_DOCUMENT), Some(loaded.end_of_document()));
    for text in TEXTS {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text)), text);
        assert_eq!(loaded.encode(text), tokenizer.encode(text));
    }
    let config = std::fs::read_to_string(bench.path("tokenizer_config.json")).unwrap();
    assert!(config.contains(END_OF_DOCUMENT) && bench.path("special_tokens_map.json").exists());
}

#[test]
fn a_given_tokenizer_is_saved_byte_for_byte_with_the_files_beside_it() {
    let bench = Bench::new();
    trained(300).save(&bench.path("tokenizer.json")).unwrap();
    let config = "{\"eos_token\": {\"content\": \"river\"}}";
    bench.write("tokenizer_config.json", config);
    let given =
        bench.write("tokenizer.json", std::fs::read_to_string(bench.path("tokenizer.json")).unwrap() + "\n");
    let tokenizer = Tokenizer::load(&given).unwrap();
    std::fs::create_dir(bench.path("copy")).unwrap();
    tokenizer.save(&bench.path("copy/tokenizer.json")).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let read = |name: String| std::fs::read(bench.path(&name)).unwrap();
        assert_eq!(read(format!("copy/{name}")), read(name.into()));
    }
    // `river` is no token of so small a vocabulary, so the usual name counts.
    assert_eq!(tokenizer.id(END_OF_DOCUMENT), Some(tokenizer.end_of_document()));
}

#[test]
fn training_gives_the_same_tokenizer_each_time_and_no_more_tokens_than_asked() {
    let bench = Bench::new();
    let saved = |name: &str| {
        trained(290).save(&bench.path(name)).unwrap();
        std::fs::read(bench.path(name)).unwrap()
    };
    assert_eq!(saved("a.json"), saved("b.json"));
    assert_eq!(trained(290).vocabulary(), 290);
    assert_eq!(trained(257).vocabulary(), 257);
    assert!(trained(100_000).vocabulary() < 1000, "a small text has few pairs that repeat");
    says(&Tokenizer::train(stories(3).into_iter(), 256, &|_| ()).err().unwrap(), &["256", "257"]);
}

#[test]
fn streaming_gives_the_text_of_decoding_and_no_half_characters() {
    for tokenizer in [trained(257), trained(400)] {
        for text in TEXTS {
            let mut decoding = Decoding::new(&tokenizer);
            let mut shown = String::new();
            for token in tokenizer.encode(text) {
                let more = decoding.push(token);
                assert!(text[shown.len()..].starts_with(&more), "{more:?} after {shown:?}");
                shown.push_str(&more);
            }
            shown.push_str(&decoding.finish());
            assert_eq!(shown, text);
        }
    }
}

#[test]
fn bytes_that_never_become_a_character_are_shown_at_last() {
    let tokenizer = trained(257);
    let broken = tokenizer.encode("☃")[0];
    let letter = tokenizer.encode("a")[0];
    let mut decoding = Decoding::new(&tokenizer);
    let shown: String = [broken, broken, letter].map(|token| decoding.push(token)).concat();
    assert_eq!(shown + &decoding.finish(), "\u{fffd}\u{fffd}a");
}

#[test]
fn the_end_of_a_document_written_out_is_the_token() {
    let tokenizer = trained(300);
    let tokens = tokenizer.encode(&format!("a{END_OF_DOCUMENT}b"));
    assert_eq!(tokens.iter().filter(|&&token| token == tokenizer.end_of_document()).count(), 1);
    assert_eq!(tokenizer.decode(&tokens), "ab");
}
