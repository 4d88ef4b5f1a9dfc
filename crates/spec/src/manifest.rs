//! The manifest of a checkpoint: `manifest.json` as a value.

use crate::model::ModelSpec;
use serde::{Deserialize, Serialize};

/// The version of the checkpoint format. A program reads its own and every older version.
pub const FORMAT: u32 = 1;

/// A complete manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`] of the program that wrote it.
    pub format: u32,
    /// Where the checkpoint comes from.
    #[serde(flatten)]
    pub head: ManifestHead,
    /// The other files of the folder.
    pub files: Vec<FileEntry>,
    /// Every tensor of every file, in the order of the files.
    pub tensors: Vec<TensorEntry>,
    /// BLAKE3 of the manifest's text with these 64 digits replaced by zeros.
    pub seal: String,
}

/// What the trainer knows and the other files do not say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManifestHead {
    /// Version of Lingot that wrote the checkpoint.
    pub lingot: String,
    /// Optimizer steps taken.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Samples of the training text that were taken: where the next one lies. Checkpoints of older versions
    /// lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<u64>,
    /// Seconds of training, all resumptions together.
    pub seconds: f64,
    /// Money spent, in the currency of the run's price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<f64>,
    /// Seed of the run.
    pub seed: u64,
    /// Architecture of the model.
    pub model: ModelSpec,
    /// Text of `RUN.toml` with every default filled in.
    pub run: String,
    /// The tokenizer and the data that it was trained with. Checkpoints of older versions lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataHashes>,
    /// What the guard of the run remembers; none where it has seen nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<GuardState>,
    /// The checkpoints this one was merged from, oldest first; none for a checkpoint of training.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub merged: Vec<MergeSource>,
}

/// What a run was trained on, by the hashes of its prepared files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataHashes {
    /// BLAKE3 of `tokenizer.json`, in hexadecimal.
    pub tokenizer: String,
    /// The corpora, in the order of the run.
    pub corpora: Vec<CorpusHashes>,
}

/// One prepared corpus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorpusHashes {
    /// Its path when it was prepared.
    pub path: String,
    /// BLAKE3 of the `.idx` and the `.bin` of its training text; none where it has none.
    pub training: Option<[String; 2]>,
    /// The same of its held-out text.
    pub validation: Option<[String; 2]>,
}

/// What the guard remembers between two steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GuardState {
    /// Losses of the newest sound steps, the oldest first.
    pub losses: Vec<f64>,
    /// Gradient norms of the same steps.
    pub norms: Vec<f64>,
    /// Steps in a row that were spikes.
    pub spikes_in_a_row: u32,
    /// Batches that are to be tried again.
    pub retries: Vec<Retry>,
}

/// A batch that was skipped and is to be tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Its first sample.
    pub first_sample: u64,
    /// Its sequences.
    pub sequences: u32,
    /// It is tried in the first step after this many steps.
    pub after_step: u64,
}

/// One checkpoint that went into a merged one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MergeSource {
    /// Path of its folder.
    pub path: String,
    /// Optimizer steps it had taken.
    pub step: u64,
    /// Share in the merged weights; the shares sum to one.
    pub coefficient: f64,
}

/// One file next to the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Name within the folder.
    pub name: String,
    /// Size.
    pub bytes: u64,
}

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorEntry {
    /// Name of the file that holds it.
    pub file: String,
    /// Name of the tensor, as in `tensors`.
    pub name: String,
    /// Element type as safetensors spells it; `F32` throughout this format.
    pub dtype: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// BLAKE3 of the tensor's bytes, in hexadecimal.
    pub blake3: String,
}
