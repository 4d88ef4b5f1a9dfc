//! Tokenizers: trained, given, saved, streamed.

use crate::{Bench, Noise, json_lines, says, stories};
use lingot_data::{Decoding, END_OF_DOCUMENT, Tokenizer};
use serde_json::{Value, json};
use std::path::Path;

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

/// Tokenizers of every make: their special tokens are `</s>` and `<|x|>`.
fn foreign() -> Vec<(&'static str, Tokenizer)> {
    let special = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    };
    let added = json!([special(0, "</s>"), special(1, "<|x|>")]);
    let mut words: Vec<String> = vec!["</s>".into(), "<|x|>".into(), "<unk>".into()];
    words.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    words.extend("▁ abcdefghijklmnopqrstuvwxyz0123456789<>/|.,é".chars().map(String::from));
    words.extend(["▁t", "▁th", "▁the", "he"].map(String::from));
    let ids = |words: &[String]| -> Value {
        words
            .iter()
            .enumerate()
            .map(|(id, word)| (word.clone(), json!(id)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let scored: Vec<Value> = words
        .iter()
        .enumerate()
        .map(|(id, word)| json!([word, if id < 2 { 0.0 } else { -(id as f64) / 10.0 }]))
        .collect();
    let decoder = json!({ "type": "Sequence", "decoders": [
        { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" },
        { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 } ] });
    let normalizer = json!({ "type": "Sequence", "normalizers": [
        { "type": "Prepend", "prepend": "▁" },
        { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
    ] });
    let merges = [["▁", "t"], ["▁t", "h"], ["▁th", "e"], ["h", "e"]];
    let whole: Vec<String> = ["</s>", "<|x|>", "[UNK]", "the", "500", "<", "/"].map(String::from).into();
    let make = |model: Value, normalizer: Value, pre_tokenizer: Value, decoder: Value| {
        let text = json!({
            "version": "1.0", "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
            "post_processor": null, "decoder": decoder, "model": model, "truncation": null, "padding": null,
        });
        Tokenizer::parse(text.to_string().as_bytes(), Some("</s>".into()), Path::new("x")).unwrap()
    };
    let bpe = json!({
        "type": "BPE", "vocab": ids(&words), "merges": merges, "unk_token": "<unk>", "byte_fallback": true,
        "fuse_unk": true,
    });
    let unigram = json!({ "type": "Unigram", "unk_id": 2, "vocab": scored, "byte_fallback": true });
    let level = json!({ "type": "WordLevel", "vocab": ids(&whole), "unk_token": "[UNK]" });
    let metaspace =
        json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": false });
    let to_text = json!({ "type": "Sequence", "decoders": [{ "type": "ByteFallback" }, metaspace] });
    vec![
        ("bpe", make(bpe, normalizer.clone(), Value::Null, decoder.clone())),
        ("unigram", make(unigram.clone(), normalizer, Value::Null, decoder)),
        ("metaspace", make(unigram, Value::Null, metaspace, to_text)),
        ("words", make(level, Value::Null, json!({ "type": "WhitespaceSplit" }), Value::Null)),
    ]
}

/// A text of letters, blanks, and characters of two to four bytes next to each other.
fn noise(noise: &mut Noise) -> String {
    let letters = ["a", "the", " ", "é", "ü", "日", "本", "語", "🎉", "🎊", "5", "<", "\n"];
    (0..noise.below(30)).map(|_| letters[noise.below(letters.len())]).collect()
}

#[test]
fn neighbouring_characters_made_of_bytes_appear_whole() {
    let mut random = Noise(4);
    for (name, tokenizer) in foreign().into_iter().filter(|(name, _)| *name != "words") {
        for _ in 0..2000 {
            let text = noise(&mut random);
            let tokens = tokenizer.encode(&text);
            let mut decoding = Decoding::new(&tokenizer);
            let mut shown: String = tokens.iter().map(|&token| decoding.push(token)).collect();
            shown += &decoding.finish();
            let whole = tokenizer.decode(&tokens);
            assert_eq!(shown.trim_start(), whole.trim_start(), "{name}: {text:?}");
            assert_eq!(whole.trim_start(), text.trim_start_matches(' ').trim_start(), "{name}");
        }
    }
}

#[test]
fn bytes_that_are_no_character_do_not_break_those_around_them() {
    let (_, tokenizer) = foreign().swap_remove(0);
    let byte = |byte: u8| tokenizer.id(&format!("<0x{byte:02X}>")).unwrap();
    let a = tokenizer.id("a").unwrap();
    for (tokens, expected) in [
        ("日本".bytes().map(byte).collect::<Vec<u32>>(), "日本"),
        ([0xe6, 0x97, 0xa5, 0xe6].map(byte).into_iter().chain([a]).collect(), "日\u{fffd}a"),
        ([0xff, 0xe6, 0x97, 0xa5].map(byte).into(), "\u{fffd}日"),
        ([0xe6, 0x97].map(byte).into(), "\u{fffd}\u{fffd}"),
        (vec![a, 0, 0, a, byte(0xc3), 1, byte(0xa9)], "aa\u{fffd}\u{fffd}"),
    ] {
        let mut decoding = Decoding::new(&tokenizer);
        let shown: String = tokens.iter().map(|&token| decoding.push(token)).collect();
        assert_eq!(shown + &decoding.finish(), expected);
    }
    // Whatever comes, it is shown without a panic.
    let mut random = Noise(5);
    for (_, tokenizer) in foreign() {
        for _ in 0..300 {
            let mut decoding = Decoding::new(&tokenizer);
            for _ in 0..random.below(20) {
                decoding.push(random.below(tokenizer.vocabulary() as usize) as u32);
            }
            decoding.finish();
        }
    }
}

#[test]
fn text_that_spells_a_special_token_is_text_unless_asked_otherwise() {
    let mut all = foreign();
    all.push(("trained", trained(300)));
    let mut random = Noise(6);
    for (name, tokenizer) in all {
        let spelled = if name == "trained" { END_OF_DOCUMENT } else { "</s>" };
        for _ in 0..200 {
            let text = format!("{}{spelled}500{spelled} {}", noise(&mut random), noise(&mut random));
            let ends = |tokens: Vec<u32>| {
                tokens.iter().filter(|&&token| token == tokenizer.end_of_document()).count()
            };
            let tokens = tokenizer.encode(&text);
            if name != "words" {
                assert_eq!(
                    tokenizer.decode(&tokens).trim_start(),
                    text.trim_start_matches(' ').trim_start(),
                    "{name}"
                );
            }
            assert_eq!(ends(tokens), 0, "{name}: {text:?}");
            assert_eq!(ends(tokenizer.reading_special_tokens(true).encode(&text)), 2, "{name}: {text:?}");
            assert_eq!(
                ends(tokenizer.reading_special_tokens(true).reading_special_tokens(false).encode(&text)),
                0
            );
            assert_eq!(tokenizer.special_token_in(&text), Some(spelled));
        }
    }
}

#[test]
fn documents_that_spell_their_end_stay_whole_unless_asked_otherwise() {
    let mut bench = Bench::new();
    let texts: Vec<String> =
        stories(40).iter().map(|story| format!("{story}{END_OF_DOCUMENT}{story}")).collect();
    bench.write("a.jsonl", json_lines(&texts));
    bench.corpus("a.jsonl");
    let prepared = bench.prepare().unwrap();
    let tokenizer = Tokenizer::load(&prepared.tokenizer_path).unwrap();
    let all = crate::prepared::texts(&tokenizer, &bench.shards().join("0-a-training"));
    assert!(all.iter().all(|text| texts.contains(text)));
    bench.spec.corpora[0].special_tokens = true;
    says(&bench.prepare().unwrap_err(), &["data.corpora", "special tokens"]);
    std::fs::remove_dir_all(bench.shards()).unwrap();
    bench.prepare().unwrap();
    let all = crate::prepared::texts(&tokenizer, &bench.shards().join("0-a-training"));
    assert!(all.iter().all(|text| !text.contains(END_OF_DOCUMENT)));
    // Shards of older releases, which do not say, are used as they are.
    let path = bench.shards().join("data.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest["settings"]["corpora"][0].as_object_mut().unwrap().remove("special_tokens");
    std::fs::write(&path, manifest.to_string()).unwrap();
    bench.spec.corpora[0].special_tokens = false;
    assert!(bench.prepare().unwrap().reused);
}

/// A tokenizer whose vocabulary has several usual ends.
fn several_ends(bench: &Bench) -> std::path::PathBuf {
    let (_, tokenizer) = foreign().swap_remove(0);
    std::fs::create_dir_all(bench.path("tok")).unwrap();
    let path = bench.path("tok/tokenizer.json");
    tokenizer.save(&path).unwrap();
    for name in ["tokenizer_config.json", "special_tokens_map.json"] {
        std::fs::remove_file(path.with_file_name(name)).unwrap();
    }
    path
}

#[test]
fn the_end_of_a_document_is_the_token_that_transformers_takes() {
    let listed = json!({ "1": { "content": "<|x|>", "special": true } });
    let none = Value::Null;
    for (map, config, generation, model, expected) in [
        (none.clone(), none.clone(), none.clone(), none.clone(), "</s>"),
        (json!({ "eos_token": "<|x|>" }), none.clone(), none.clone(), none.clone(), "<|x|>"),
        (
            json!({ "eos_token": "<|x|>" }),
            json!({ "eos_token": "</s>" }),
            none.clone(),
            none.clone(),
            "<|x|>",
        ),
        (
            json!({ "eos_token": "<|x|>" }),
            json!({ "eos_token": "</s>", "added_tokens_decoder": listed }),
            none.clone(),
            none.clone(),
            "</s>",
        ),
        (none.clone(), json!({ "eos_token": { "content": "<|x|>" } }), json!([0]), none.clone(), "<|x|>"),
        (json!({}), json!({ "eos_token": null }), json!([1, 0]), json!(0), "<|x|>"),
        (none.clone(), none.clone(), none.clone(), json!(1), "<|x|>"),
    ] {
        let bench = Bench::new();
        let path = several_ends(&bench);
        for (name, object) in [("special_tokens_map.json", &map), ("tokenizer_config.json", &config)] {
            if !object.is_null() {
                bench.write(&format!("tok/{name}"), format!("\u{feff}{object}"));
            }
        }
        for (name, ids) in [("generation_config.json", &generation), ("config.json", &model)] {
            if !ids.is_null() {
                bench.write(&format!("tok/{name}"), json!({ "eos_token_id": ids }).to_string());
            }
        }
        let loaded = Tokenizer::load(&path).unwrap();
        assert_eq!(loaded.token(loaded.end_of_document()).as_deref(), Some(expected), "{map} {config}");
        // A copy elsewhere, without the model's files, ends its documents alike.
        std::fs::create_dir(bench.path("copy")).unwrap();
        loaded.save(&bench.path("copy/tokenizer.json")).unwrap();
        let copy = Tokenizer::load(&bench.path("copy/tokenizer.json")).unwrap();
        assert_eq!(copy.end_of_document(), loaded.end_of_document(), "{map} {config}");
    }
}

#[test]
fn files_beside_a_tokenizer_are_read_or_an_error() {
    for (name, text, word) in [
        ("tokenizer_config.json", "{\"eos_token\": ", "tokenizer_config.json"),
        ("special_tokens_map.json", "[]", "not a JSON object"),
        ("generation_config.json", "{", "generation_config.json"),
        ("tokenizer_config.json", "{\"eos_token\": \"<none>\"}", "<none>"),
        ("special_tokens_map.json", "{\"eos_token\": {\"content\": \"<none>\"}}", "<none>"),
        ("added_tokens.json", "{\"<new>\": 9000}", "<new>"),
    ] {
        let bench = Bench::new();
        let path = several_ends(&bench);
        bench.write(&format!("tok/{name}"), text);
        says(&Tokenizer::load(&path).err().unwrap(), &[word]);
    }
    let bench = Bench::new();
    let path = several_ends(&bench);
    std::fs::create_dir(bench.path("tok/tokenizer_config.json")).unwrap();
    says(&Tokenizer::load(&path).err().unwrap(), &["tokenizer_config.json"]);
}

#[test]
fn tokens_that_only_the_files_beside_it_list_belong_to_a_tokenizer() {
    for name in ["added_tokens.json", "tokenizer_config.json"] {
        let bench = Bench::new();
        let path = several_ends(&bench);
        let next = Tokenizer::load(&path).unwrap().vocabulary();
        let listed = json!({ next.to_string(): { "content": "<end>", "special": true } });
        let object = match name {
            "added_tokens.json" => json!({ "<end>": next }),
            _ => json!({ "added_tokens_decoder": listed, "eos_token": "<end>" }),
        };
        bench.write(&format!("tok/{name}"), object.to_string());
        bench.write("tok/special_tokens_map.json", "{\"eos_token\": \"<end>\"}");
        let loaded = Tokenizer::load(&path).unwrap();
        assert_eq!((loaded.vocabulary(), loaded.end_of_document()), (next + 1, next));
        std::fs::create_dir(bench.path("copy")).unwrap();
        loaded.save(&bench.path("copy/tokenizer.json")).unwrap();
        assert_eq!(Tokenizer::load(&bench.path("copy/tokenizer.json")).unwrap().end_of_document(), next);
    }
}

#[test]
fn a_vocabulary_far_larger_than_the_text_costs_nothing() {
    let bench = crate::prepared::bench(40);
    let tokenizer = Tokenizer::train(stories(40).into_iter(), u32::MAX, &|_| ()).unwrap();
    assert!(tokenizer.vocabulary() < 2000);
    let prepared = lingot_data::prepare(&bench.spec, u32::MAX, 1, &bench.shards(), &|_| ()).unwrap();
    assert!(prepared.vocabulary < 2000);
}

/// The variants and what `transformers` makes of them come from scripts/reference/make_tokenizer_variants.py.
#[test]
fn every_folder_of_a_tokenizer_is_read_as_transformers_reads_it_or_refused() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/hf_tokenizer_variants.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let variants = golden["variants"].as_array().unwrap();
    assert!(variants.len() >= 50);
    for variant in variants {
        let bench = Bench::new();
        let path = bench.write("tokenizer.json", golden["tokenizer"].to_string());
        for (name, content) in variant["files"].as_object().unwrap() {
            bench.write(name, content.to_string());
        }
        match (variant["end"].as_u64(), Tokenizer::load(&path)) {
            (Some(end), Ok(loaded)) => assert_eq!(u64::from(loaded.end_of_document()), end, "{variant}"),
            // `transformers` adds a token that no text contains.
            (Some(5), Err(error)) => says(&error, &["<none>"]),
            (Some(_), Err(error)) => panic!("{error}: {variant}"),
            // Nothing is named, so a token that is known to end texts is taken.
            (None, loaded) => assert!(loaded.unwrap().end_of_document() < 5, "{variant}"),
        }
    }
}
