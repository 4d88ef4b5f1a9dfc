//! Corpora become a folder of shards, once; after that the folder is checked and reused.

use crate::aside::Aside;
use crate::batch::Dataset;
use crate::encode::encode;
use crate::files::{FileRecord, HashedFile};
use crate::manifest::{self, Manifest, Prepared, Settings};
use crate::progress::Progress;
use crate::record::TokenizerRecord;
use crate::survey::{Sample, Surveyor};
use crate::tokenizer::Tokenizer;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use lingot_spec::run::DataSpec;
use std::path::Path;
use std::sync::OnceLock;

/// Makes tokenizer and shards in `folder`, or checks that those in it were made of the same corpora and
/// settings. The folder appears complete or not at all.
pub fn prepare(
    spec: &DataSpec,
    vocabulary: u32,
    seed: u64,
    folder: &Path,
    progress: Progress,
) -> Result<Prepared> {
    prepare_checked(spec, vocabulary, seed, folder, progress, &|_| Ok(()))
}

/// Does what `prepare` does, and opens the shards. Data that cannot be trained or evaluated on is refused
/// before the folder appears, so that the same command works once there is more text.
pub fn prepare_to_train(
    spec: &DataSpec,
    vocabulary: u32,
    seed: u64,
    folder: &Path,
    progress: Progress,
) -> Result<Dataset> {
    let check = |manifest: &Manifest| {
        manifest.corpora.iter().try_for_each(|corpus| corpus.check_length(u64::from(spec.sequence)))?;
        manifest.check_held_out()
    };
    prepare_checked(spec, vocabulary, seed, folder, progress, &check)?;
    Dataset::open(spec, folder, seed)
}

fn prepare_checked(
    spec: &DataSpec,
    vocabulary: u32,
    seed: u64,
    folder: &Path,
    progress: Progress,
    check: &dyn Fn(&Manifest) -> Result<()>,
) -> Result<Prepared> {
    check_spec(spec)?;
    check_threads()?;
    let settings = Settings::of(spec, vocabulary, seed);
    if let Some(manifest) = Manifest::read(folder)? {
        manifest.check(spec, &settings, folder, progress)?;
        check_vocabulary(manifest.tokenizer.vocabulary, vocabulary)?;
        return Ok(manifest.prepared(folder, true));
    }
    let given = spec.tokenizer.as_ref().map(|path| Tokenizer::load(Path::new(path))).transpose()?;
    if let Some(given) = &given {
        check_vocabulary(given.vocabulary(), vocabulary)?;
    }
    let aside = Aside::begin(folder, manifest::NAME)?;
    let sample = given.is_none().then(Sample::default);
    let mut surveyor = Surveyor { seed, folder, copies: aside.path(), sample };
    let surveys = surveyor.survey(spec, progress)?;
    let tokenizer = match (given, surveyor.sample) {
        (Some(given), _) => given,
        (None, sample) => Tokenizer::train(sample.unwrap_or_default().texts(), vocabulary, progress)?,
    };
    tokenizer.save(&aside.path().join("tokenizer.json"))?;
    let corpora = encode(spec, seed, surveys, &tokenizer, aside.path(), progress)?;
    let manifest = Manifest::new(settings, record(&tokenizer, aside.path())?, corpora);
    check(&manifest)?;
    let mut file = HashedFile::create(&aside.path().join(manifest::NAME))?;
    let text = serde_json::to_vec_pretty(&manifest);
    file.write(&text.map_err(|e| Problem::bug(format!("data.json cannot be written: {e}")))?)?;
    file.finish()?;
    aside.commit()?;
    Ok(manifest.prepared(folder, false))
}

fn check_spec(spec: &DataSpec) -> Result<()> {
    if spec.corpora.is_empty() {
        return Err(Problem::new("the run has no corpora", "name at least one text file in `data.corpora`")
            .of(ProblemKind::Input));
    }
    if !(0.0..1.0).contains(&spec.validation) {
        return Err(Problem::new(
            format!("`data.validation` is {}", spec.validation),
            "give the share of documents to hold out: at least 0, less than 1",
        )
        .of(ProblemKind::Input));
    }
    Ok(())
}

/// Errors if the system gives no threads to encode with. Left to itself, their pool would panic.
fn check_threads() -> Result<()> {
    static BEGUN: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    let begin = || rayon::ThreadPoolBuilder::new().build_global().map_err(|error| error.to_string());
    match BEGUN.get_or_init(begin) {
        Err(error) if !error.contains("already") => Err(Problem::new(
            format!("there are no threads to encode text with: {error}"),
            "raise the limits on processes and memory (`ulimit -u`, `ulimit -v`)",
        )),
        _ => Ok(()),
    }
}

fn check_vocabulary(tokenizer: u32, model: u32) -> Result<()> {
    if tokenizer <= model {
        return Ok(());
    }
    Err(Problem::new(
        format!("the tokenizer has {tokenizer} tokens, but the model's vocabulary is {model}"),
        format!("set `model.vocabulary` to at least {tokenizer}, or give a smaller tokenizer"),
    )
    .of(ProblemKind::Input))
}

fn record(tokenizer: &Tokenizer, folder: &Path) -> Result<TokenizerRecord> {
    let mut file = FileRecord::of(&folder.join("tokenizer.json"), &mut |_| ())?;
    (file.path, file.modified_ns) = ("tokenizer.json".into(), 0);
    Ok(TokenizerRecord {
        file,
        vocabulary: tokenizer.vocabulary(),
        end_of_document: tokenizer.end_of_document(),
    })
}
