//! How heads are rotated (RoPE): the spellings that releases of `transformers` have had for it.
//!
//! Older files have `rope_theta` and `partial_rotary_factor` beside `rope_scaling`; newer ones have all of it
//! in `rope_parameters`. `transformers` reads `rope_scaling` in place of `rope_parameters` where both are
//! there, and what lies inside before what lies beside.

use super::habits::habits;
use super::keys::Keys;
use crate::hugging_face::format::Format;
use lingot_spec::model::ModelSpec;
use lingot_spec::problem::Result;
use serde_json::{Map, Value, json};

/// Reads `rope_theta` and `rotary_width`.
pub(super) fn rotation(format: Format, keys: &Keys, model: &mut ModelSpec) -> Result<()> {
    let empty = Map::new();
    let nested = nested(keys, &empty)?;
    keys.mark(&["rope_scaling", "rope_parameters"]);
    let theta = keys.number("rope_theta", Some(habits(format).theta))?;
    model.rope_theta = nested.number("rope_theta", Some(theta))?;
    // The published classes of Ling look at the outer key alone, `transformers` at the inner one first.
    if format.is_bailing() && keys.has("rope_theta") && model.rope_theta != theta {
        return Err(nested.unsupported("rope_theta", &format!("rope_theta = {theta} names the same thing")));
    }
    let usual = if format.abilities().rotates_part { 0.5 } else { 1.0 };
    let factor = keys.number("partial_rotary_factor", Some(usual))?;
    let factor = nested.number("partial_rotary_factor", Some(factor))?;
    let shown = if nested.has("partial_rotary_factor") { &nested } else { keys };
    if !format.abilities().rotates_part && factor != 1.0 {
        return Err(shown.unsupported("partial_rotary_factor", &format!("{format} rotates whole heads")));
    }
    if !(0.0..=1.0).contains(&factor) {
        return Err(shown.unsupported("partial_rotary_factor", "expected a number from 0 to 1"));
    }
    model.rotary_width = (f64::from(model.head_width) * factor).trunc() as u32;
    if format.is_bailing() && keys.size(&["rotary_dim"], Some(model.rotary_width))? != model.rotary_width {
        let why = format!("head_dim and partial_rotary_factor give {}", model.rotary_width);
        return Err(keys.unsupported("rotary_dim", &why));
    }
    Ok(())
}

/// The keys of `rope_scaling`, or of `rope_parameters` where the first is absent or empty.
fn nested<'a>(keys: &Keys<'a>, empty: &'a Map<String, Value>) -> Result<Keys<'a>> {
    for (key, place) in [("rope_scaling", "rope_scaling."), ("rope_parameters", "rope_parameters.")] {
        let object = match keys.get(key) {
            Value::Null => continue,
            Value::Object(object) if object.is_empty() => continue,
            Value::Object(object) => object,
            _ => return Err(keys.unsupported(key, "expected an object")),
        };
        let nested = Keys::nested(object, place);
        for kind in ["rope_type", "type"] {
            if object.get(kind).is_some_and(|kind| kind != "default") {
                return Err(keys.unsupported(key, "only the rope_type \"default\" is supported"));
            }
        }
        nested.mark(&["rope_type", "type", "rope_theta", "partial_rotary_factor"]);
        // A key that scales, or the parameters of each kind of layer by its name.
        if let Some((unknown, _)) = nested.unused().iter().find(|(_, value)| !value.is_null()) {
            return Err(keys.unsupported(key, &format!("{unknown} has no place in a plain rotation")));
        }
        return Ok(nested);
    }
    Ok(Keys::nested(empty, ""))
}

/// The rotation in the spelling of newer releases of `transformers`.
pub(super) fn parameters(model: &ModelSpec, format: Format) -> Value {
    let mut parameters = json!({ "rope_type": "default", "rope_theta": model.rope_theta });
    if format.abilities().rotates_part {
        parameters["partial_rotary_factor"] = rotary_factor(model).into();
    }
    parameters
}

/// The share of a head that is rotated. Readers take the whole part of `head_dim * factor`, so a quotient
/// that falls short is raised by one rounding.
pub(super) fn rotary_factor(model: &ModelSpec) -> f64 {
    let [rotary, head] = [model.rotary_width, model.head_width].map(f64::from);
    let factor = rotary / head;
    if (head * factor).trunc() < rotary { factor.next_up() } else { factor }
}
