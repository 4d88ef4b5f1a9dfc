//! Where data comes from and goes to: pipes, mounts, links, folders that are there, attempts that failed
//! before.

use crate::prepared::{bench, texts};
use crate::{Bench, corpus, json_lines, says, stories};
use lingot_data::{Tokenizer, prepare, prepare_to_train};
use std::fs;
use std::path::Path;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_folder_is_prepared_wherever_it_may_lie_with_the_same_files() {
    let bench = bench(30);
    bench.prepare().unwrap();
    let expected = names(&bench.shards());
    let at = |name: &str| bench.path("places").join(name);
    fs::create_dir_all(at("empty")).unwrap();
    // A new file system.
    fs::create_dir_all(at("mount/lost+found")).unwrap();
    // A process was killed while it wrote, and another while it moved its files up.
    fs::create_dir_all(at("killed/.partial")).unwrap();
    fs::write(at("killed/.partial/data.json"), "half").unwrap();
    fs::create_dir_all(at("moving/.partial")).unwrap();
    fs::write(at("moving/.partial/.moving"), "tokenizer.json\ndata.json").unwrap();
    fs::write(at("moving/tokenizer.json"), "old").unwrap();
    let mut places =
        vec!["absent", "deep/down", "slash/", "dot/.", "empty", "empty-dot/.", "mount", "killed", "moving"];
    fs::create_dir_all(at("empty-dot")).unwrap();
    #[cfg(unix)]
    {
        fs::create_dir_all(at("target")).unwrap();
        std::os::unix::fs::symlink("target", at("link")).unwrap();
        std::os::unix::fs::symlink("later", at("link-to-nothing")).unwrap();
        places.extend(["link", "link-to-nothing"]);
    }
    for place in places {
        prepare(&bench.spec, 400, 1, &at(place), &|_| ()).unwrap_or_else(|error| panic!("{place}: {error}"));
        let found: Vec<String> = names(&at(place)).into_iter().filter(|name| name != "lost+found").collect();
        assert_eq!(found, expected, "{place}");
        assert!(prepare(&bench.spec, 400, 1, &at(place), &|_| ()).unwrap().reused, "{place}");
    }
    fs::write(at("file"), "").unwrap();
    says(&prepare(&bench.spec, 400, 1, &at("file"), &|_| ()).unwrap_err(), &["file", "is a file"]);
}

/// A pipe that gives these bytes to the first who reads it.
#[cfg(unix)]
fn pipe(bench: &Bench, name: &str, bytes: Vec<u8>) -> std::path::PathBuf {
    let path = bench.path(name);
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let writer = path.clone();
    std::thread::spawn(move || fs::write(writer, bytes));
    path
}

#[cfg(unix)]
#[test]
fn what_can_be_read_only_once_is_a_corpus_too() {
    let stories = stories(60);
    let packed = zstd::encode_all(json_lines(&stories).as_bytes(), 3).unwrap();
    let rows: Vec<_> = stories.iter().cloned().map(Some).collect();
    let columns = crate::corpora::parquet(&rows, parquet::basic::Compression::SNAPPY);
    let tokenizer = Tokenizer::train(stories.clone().into_iter(), 300, &|_| ()).unwrap();
    for (number, bytes) in [json_lines(&stories).into_bytes(), packed, columns].into_iter().enumerate() {
        for is_given in [false, true] {
            let mut bench = Bench::new();
            bench.spec.corpora.push(corpus(&pipe(&bench, "63", bytes.clone())));
            if is_given {
                fs::create_dir(bench.path("t")).unwrap();
                tokenizer.save(&bench.path("t/tokenizer.json")).unwrap();
                let bytes = fs::read(bench.path("t/tokenizer.json")).unwrap();
                fs::remove_file(bench.path("t/tokenizer.json")).unwrap();
                let path = pipe(&bench, "t/tokenizer.json", bytes);
                bench.spec.tokenizer = Some(path.to_str().unwrap().into());
            }
            let prepared = bench.prepare().unwrap();
            assert_eq!(prepared.documents, 60, "{number}");
            assert!(names(&bench.shards()).iter().all(|name| !name.starts_with("copy-")));
            let tokenizer = Tokenizer::load(&prepared.tokenizer_path).unwrap();
            let mut all = texts(&tokenizer, &bench.shards().join("0-63-training"));
            all.extend(texts(&tokenizer, &bench.shards().join("0-63-validation")));
            assert_eq!(all.len(), 60);
            assert!(all.iter().all(|text| stories.contains(text)), "{number}");
            // The pipe is empty now, and nothing waits for it.
            bench.spec.tokenizer.take_if(|_| is_given);
            if !is_given {
                assert!(bench.prepare().unwrap().reused);
            }
        }
    }
}

#[test]
fn data_too_short_to_train_on_leaves_nothing_in_the_way_of_more() {
    let mut bench = Bench::new();
    bench.write("one.txt", "Hello world, this is one line.\n");
    bench.corpus("one.txt");
    bench.spec.sequence = 64;
    let train = |bench: &Bench| prepare_to_train(&bench.spec, bench.vocabulary, 1, &bench.shards(), &|_| ());
    says(&train(&bench).err().unwrap(), &["one.txt", "64"]);
    assert!(!bench.shards().exists() && !bench.path("out/data.partial").exists());
    // The hint: add text.
    bench.write("one.txt", stories(100).concat());
    train(&bench).unwrap();
    // The other hint: a shorter sequence.
    let mut bench = Bench::new();
    bench.write("one.txt", "Hello world, this is one line.\n");
    bench.corpus("one.txt");
    bench.spec.sequence = 64;
    assert!(train(&bench).is_err());
    bench.spec.sequence = 8;
    train(&bench).unwrap();
    // Nothing to evaluate on: held out, and then more of it.
    let mut bench = crate::prepared::bench(40);
    bench.spec.validation = 0.0;
    says(&train(&bench).err().unwrap(), &["no held-out text"]);
    assert!(!bench.shards().exists());
    bench.spec.validation = 0.2;
    train(&bench).unwrap();
    // `lingot data` needs neither.
    let mut bench = crate::prepared::bench(40);
    (bench.spec.validation, bench.spec.sequence) = (0.0, 1 << 20);
    bench.prepare().unwrap();
}

#[test]
fn shards_that_are_used_in_place_are_found_from_anywhere() {
    let made = bench(60);
    let first = made.prepare().unwrap();
    let prefix = made.shards().join("0-stories-training");
    let mut bench = Bench::new();
    bench.spec.corpora.push(corpus(&prefix));
    bench.spec.tokenizer = Some(first.tokenizer_path.to_str().unwrap().into());
    bench.prepare().unwrap();
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(bench.shards().join("data.json")).unwrap()).unwrap();
    let bin = manifest["corpora"][0]["training"]["bin"]["path"].as_str().unwrap();
    assert!(Path::new(bin).is_absolute(), "{bin}");
}
