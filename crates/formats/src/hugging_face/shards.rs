//! The weights of a folder: one safetensors file, or several with an index, in any of the element types.

use super::elements::ElementType;
use super::tokenizer::{read_object, write_json};
use crate::tensor_file::TensorFile;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use safetensors::Dtype;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const DAMAGED: &str = "the file is damaged or incomplete; fetch or export it again";

/// The place of a tensor in the files of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located {
    pub(super) file: usize,
    pub(super) element: ElementType,
    pub(super) shape: Vec<usize>,
    /// First byte, counted from the beginning of the file.
    start: u64,
    bytes: usize,
}

/// The tensors of a folder, before their numbers are read.
#[derive(Debug)]
pub(super) struct Shards {
    files: Vec<(PathBuf, File)>,
    pub(super) tensors: BTreeMap<String, Located>,
    /// Tensors of element types that are not read.
    pub(super) others: BTreeMap<String, Dtype>,
}

impl Shards {
    /// Opens the files that the index names, or the only file. Where a tensor lies in several files, the
    /// index decides.
    pub(super) fn open(folder: &Path) -> Result<Shards> {
        let weight_map = indexed(folder)?;
        let mut names: Vec<&str> = match &weight_map {
            Some(map) => map.values().map(String::as_str).collect(),
            None => vec![SINGLE],
        };
        names.sort_unstable();
        names.dedup();
        let mut shards = Shards { files: Vec::new(), tensors: BTreeMap::new(), others: BTreeMap::new() };
        for name in names {
            let is_wanted = |tensor: &str| {
                weight_map.as_ref().is_none_or(|map| map.get(tensor).is_some_and(|file| file == name))
            };
            shards.add(folder.join(name), weight_map.is_some(), &is_wanted)?;
        }
        for (tensor, file) in weight_map.iter().flatten() {
            if !shards.tensors.contains_key(tensor) && !shards.others.contains_key(tensor) {
                return Err(Problem::new(
                    format!("{INDEX} places {tensor} in {file}, which does not hold it"),
                    DAMAGED,
                )
                .of(ProblemKind::Damaged));
            }
        }
        Ok(shards)
    }

    fn add(&mut self, path: PathBuf, is_indexed: bool, is_wanted: &dyn Fn(&str) -> bool) -> Result<()> {
        if !path.is_file() {
            let problem = if is_indexed {
                format!("{INDEX} names {}, which is absent", path.display())
            } else {
                format!("neither {} nor {INDEX} is there", path.display())
            };
            return Err(Problem::new(problem, "fetch all files of the model; only safetensors are read")
                .of(ProblemKind::Input));
        }
        let opened = TensorFile::open(&path).map_err(|error| Problem { hint: DAMAGED.into(), ..error })?;
        for entry in opened.entries.into_iter().filter(|entry| is_wanted(&entry.name)) {
            let Some(element) = element_of(entry.dtype) else {
                self.others.insert(entry.name, entry.dtype);
                continue;
            };
            let (file, bytes) = (self.files.len(), (entry.end - entry.begin) as usize);
            let located = Located { file, element, shape: entry.shape, start: entry.begin, bytes };
            self.tensors.insert(entry.name, located);
        }
        let file = File::open(&path).map_err(|error| Problem::io("open", &path, &error))?;
        self.files.push((path, file));
        Ok(())
    }

    /// Reads the bytes of a tensor.
    pub(super) fn read(&mut self, located: &Located, bytes: &mut Vec<u8>) -> Result<()> {
        let (path, file) = &mut self.files[located.file];
        bytes.resize(located.bytes, 0);
        file.seek(SeekFrom::Start(located.start))
            .and_then(|_| file.read_exact(bytes))
            .map_err(|error| Problem::io("read", path, &error))
    }
}

/// The file of each tensor, where the folder has an index. An index whose files are all absent is passed over
/// where the weights lie in one file.
fn indexed(folder: &Path) -> Result<Option<BTreeMap<String, String>>> {
    let index = folder.join(INDEX);
    if !index.is_file() {
        return Ok(None);
    }
    let map = parse_weight_map(&read_object(&index)?).map_err(|problem| {
        Problem::new(format!("{}: {problem}", index.display()), DAMAGED).of(ProblemKind::Damaged)
    })?;
    let is_stale = folder.join(SINGLE).is_file() && !map.values().any(|file| folder.join(file).is_file());
    Ok((!is_stale).then_some(map))
}

fn parse_weight_map(index: &Map<String, Value>) -> std::result::Result<BTreeMap<String, String>, String> {
    let map = index.get("weight_map").and_then(Value::as_object).ok_or("no weight_map")?;
    if map.is_empty() {
        return Err("the weight_map is empty".into());
    }
    map.iter()
        .map(|(tensor, file)| match file.as_str() {
            Some(file) if is_plain_name(file) => Ok((tensor.clone(), file.to_owned())),
            _ => Err(format!("the file of {tensor} is {file}, not the name of a file of this folder")),
        })
        .collect()
}

fn is_plain_name(file: &str) -> bool {
    !file.is_empty() && file != "." && file != ".." && !file.contains(['/', '\\', '\0'])
}

fn element_of(dtype: Dtype) -> Option<ElementType> {
    match dtype {
        Dtype::F32 => Some(ElementType::F32),
        Dtype::BF16 => Some(ElementType::Bf16),
        Dtype::F16 => Some(ElementType::F16),
        _ => None,
    }
}

/// A tensor to be written.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) element: ElementType,
    /// The index of its entry in the layout.
    pub(super) entry: usize,
}

impl Planned {
    fn bytes(&self) -> u64 {
        self.element.bytes() * self.shape.iter().product::<usize>() as u64
    }
}

/// The written files.
pub(super) struct Written {
    pub(super) files: Vec<String>,
    pub(super) bytes: u64,
}

/// Writes all tensors in files of at most `max_bytes` of numbers each, and the index if there is more than
/// one file. A larger tensor gets a file of its own.
pub(super) fn write(
    folder: &Path,
    planned: Vec<Planned>,
    max_bytes: u64,
    mut fill: impl FnMut(&Planned, &mut Vec<u8>) -> Result<()>,
) -> Result<Written> {
    let bytes = planned.iter().map(Planned::bytes).sum();
    let parameters: usize = planned.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
    let groups = divide(planned, max_bytes);
    let count = groups.len();
    let mut files = Vec::new();
    let mut weight_map = Map::new();
    for (number, group) in groups.into_iter().enumerate() {
        let name = match count {
            1 => SINGLE.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        };
        weight_map.extend(group.iter().map(|tensor| (tensor.name.clone(), Value::from(name.clone()))));
        write_file(&folder.join(&name), group, &mut fill)?;
        files.push(name);
    }
    if count > 1 {
        let metadata = json!({ "total_size": bytes, "total_parameters": parameters });
        write_json(&folder.join(INDEX), &json!({ "metadata": metadata, "weight_map": weight_map }))?;
    }
    Ok(Written { files, bytes })
}

fn divide(planned: Vec<Planned>, max_bytes: u64) -> Vec<Vec<Planned>> {
    let mut groups = vec![Vec::new()];
    let mut used = 0;
    for tensor in planned {
        let bytes = tensor.bytes();
        if used > 0 && used + bytes > max_bytes {
            groups.push(Vec::new());
            used = 0;
        }
        used += bytes;
        if let Some(group) = groups.last_mut() {
            group.push(tensor);
        }
    }
    groups
}

fn write_file(
    path: &Path,
    mut group: Vec<Planned>,
    fill: &mut impl FnMut(&Planned, &mut Vec<u8>) -> Result<()>,
) -> Result<()> {
    let failed = |error: std::io::Error| Problem::io("write", path, &error);
    // The wider type first, so that every tensor starts at a multiple of its element.
    group.sort_by_key(|tensor| std::cmp::Reverse(tensor.element.bytes()));
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    let header = header_text(&group);
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
    file.write_all(header.as_bytes()).map_err(failed)?;
    let mut bytes = Vec::new();
    for tensor in &group {
        bytes.clear();
        fill(tensor, &mut bytes)?;
        file.write_all(&bytes).map_err(failed)?;
    }
    file.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)
}

/// The header of a file, padded to a multiple of 8 bytes so that the numbers are aligned.
fn header_text(group: &[Planned]) -> String {
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!({ "format": "pt" }))]);
    let mut start = 0;
    for tensor in group {
        let end = start + tensor.bytes();
        header.insert(
            tensor.name.clone(),
            json!({
                "dtype": tensor.element.header_name(),
                "shape": tensor.shape,
                "data_offsets": [start, end],
            }),
        );
        start = end;
    }
    let mut text = Value::Object(header).to_string();
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hugging_face::mutation::mutate;
    use crate::hugging_face::tokenizer::parse_object;

    #[test]
    fn a_written_file_is_placed_as_planned_and_aligned() {
        let planned = |name: &str, element, shape: &[usize]| Planned {
            name: name.into(),
            shape: shape.into(),
            element,
            entry: 0,
        };
        let home = tempfile::tempdir().unwrap();
        let plan = vec![planned("b", ElementType::Bf16, &[3]), planned("a", ElementType::F32, &[2, 3])];
        let zeros = |tensor: &Planned, bytes: &mut Vec<u8>| {
            bytes.resize(tensor.bytes() as usize, 0);
            Ok(())
        };
        assert_eq!(write(home.path(), plan, u64::MAX, zeros).unwrap().bytes, 30);
        let tensors = Shards::open(home.path()).unwrap().tensors;
        assert_eq!((tensors["a"].shape.as_slice(), tensors["a"].bytes), ([2, 3].as_slice(), 24));
        assert_eq!((tensors["b"].element, tensors["b"].bytes), (ElementType::Bf16, 6));
        assert!(tensors["a"].start.is_multiple_of(8));
    }

    #[test]
    fn mutated_indices_never_panic() {
        for seed in 0..4000 {
            let index = br#"{"metadata":{"total_size":32},
            "weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#;
            if let Ok(object) = parse_object(&mutate(index, seed)) {
                for file in parse_weight_map(&object).into_iter().flat_map(BTreeMap::into_values) {
                    assert!(is_plain_name(&file), "{file}");
                }
            }
        }
    }

    #[test]
    fn an_index_cannot_name_a_file_outside_its_folder() {
        for file in ["../model.safetensors", "/etc/passwd", "..", "", "a/b.safetensors", "a\\b"] {
            let index = json!({ "weight_map": { "a": file } });
            assert!(parse_weight_map(index.as_object().unwrap()).is_err(), "{file}");
        }
    }
}
