//! The numbers of a model to export: checked against its shape, with NormHead folded into the head.

use crate::hugging_face::{ElementType, Source};
use crate::tensor_file::Tensor;
use lingot_spec::model::ModelSpec;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use lingot_spec::tensors::{buffers, tensors};
use std::borrow::Cow;
use std::collections::HashMap;

/// Numbers by Lingot's names.
pub(crate) type Values<'a> = HashMap<&'a str, Cow<'a, [f32]>>;

/// `length` numbers from `start` of one of Lingot's tensors or buffers.
pub(crate) struct Piece {
    pub(crate) tensor: String,
    pub(crate) start: usize,
    pub(crate) length: usize,
}

/// The piece of a tensor.
pub(crate) fn piece(tensor: &str, start: usize, length: usize) -> Piece {
    Piece { tensor: tensor.into(), start, length }
}

/// The model as it is exported: without NormHead, which is folded into a head of its own.
pub(crate) fn folded(model: &ModelSpec) -> ModelSpec {
    ModelSpec { norm_head: false, tied: model.tied && !model.norm_head, ..model.clone() }
}

/// All weights and selection biases. Errors if one is missing, or has another shape than the model's.
pub(crate) fn gather<'a>(source: &Source<'a>) -> Result<Values<'a>> {
    let mut given: HashMap<&str, &Tensor> = HashMap::new();
    for tensor in source.tensors.iter().chain(source.buffers) {
        given.insert(&tensor.0, tensor);
    }
    let mut values = Values::new();
    for spec in tensors(source.model) {
        let tensor = take(&given, &spec.name, &spec.shape)?;
        values.insert(&tensor.0, Cow::Borrowed(&tensor.2));
    }
    if source.model.norm_head {
        let name = if source.model.tied { "embedding" } else { "head" };
        let folded = fold(&values[name], source.model.width as usize);
        values.insert("head", Cow::Owned(folded));
    }
    let biases = buffers(source.model).into_iter();
    for spec in biases.filter(|buffer| buffer.name.ends_with(".selection_bias")) {
        let tensor = take(&given, &spec.name, &spec.shape)?;
        values.insert(&tensor.0, Cow::Borrowed(&tensor.2));
    }
    Ok(values)
}

fn take<'a>(given: &HashMap<&str, &'a Tensor>, name: &str, shape: &[usize]) -> Result<&'a Tensor> {
    let hint =
        "the weights belong to another model; export the checkpoint with the model it was written with";
    let Some(tensor) = given.get(name) else {
        return Err(Problem::new(format!("the tensor {name} is missing"), hint));
    };
    if tensor.1 != shape || tensor.2.len() != shape.iter().product::<usize>() {
        return Err(Problem::new(
            format!(
                "{name} has shape {:?} and {} numbers, but the model needs {shape:?}",
                tensor.1,
                tensor.2.len()
            ),
            hint,
        ));
    }
    Ok(tensor)
}

/// NormHead: each column over its norm along the vocabulary.
fn fold(head: &[f32], width: usize) -> Vec<f32> {
    let mut squares = vec![0.0f64; width];
    for row in head.chunks_exact(width) {
        for (square, &value) in squares.iter_mut().zip(row) {
            *square += f64::from(value) * f64::from(value);
        }
    }
    let divisors: Vec<f64> = squares.into_iter().map(|square| square.sqrt() + 1e-7).collect();
    head.iter()
        .zip(divisors.iter().cycle())
        .map(|(&value, divisor)| (f64::from(value) / divisor) as f32)
        .collect()
}

/// Appends the pieces of a tensor called `name`, rounded to the element type. A tensor that the model does
/// not have, which is the selection bias, counts as zeros. Errors if a number is out of the type's reach.
pub(crate) fn encode(
    name: &str,
    pieces: &[Piece],
    element: ElementType,
    values: &Values,
    bytes: &mut Vec<u8>,
) -> Result<()> {
    for piece in pieces {
        let encoded = match values.get(piece.tensor.as_str()) {
            Some(numbers) => element.encode(&numbers[piece.start..piece.start + piece.length], bytes),
            None => element.encode(&vec![0.0; piece.length], bytes),
        };
        encoded.map_err(|value| {
            Problem::new(
                format!("{name} holds {value}, more than {element} can"),
                "export as f32 or bf16, which have the range of training",
            )
            .of(ProblemKind::Input)
        })?;
    }
    Ok(())
}
