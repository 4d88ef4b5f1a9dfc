//! Which models a format can express, and the reasons against the others.

use super::format::Format;
use lingot_spec::model::ModelSpec;

/// The formats that can express the model.
pub fn fitting(model: &ModelSpec) -> Vec<Format> {
    Format::ALL.into_iter().filter(|&format| refusals(model, format).is_empty()).collect()
}

/// The reasons why a format cannot express a model; none when it can. Each is a clause with its numbers.
pub fn refusals(model: &ModelSpec, format: Format) -> Vec<String> {
    format.abilities().reasons(model)
}
