//! The one suite that every backend passes: each op, forward and backward, in f32, against its definition in f64.
//!
//! Both get the same numbers: random ones, rounded to f32 first. Whole numbers must come out equal. Of floats, the
//! error is counted in units of `f32::EPSILON` times the output's size: its largest element, or the size that its
//! elements would have if nothing cancelled, whichever is larger. The bound in those units is
//!
//! > 4 + sqrt(terms) + condition
//!
//! where 4 is for a handful of roundings and a library's exponential, `terms` is the length of the longest sum behind
//! an element (rounding errors of a sum in any order grow like the root of its length), and `condition` is how much
//! the op itself magnifies a relative error of one unit: 0 but for exponentials of large numbers, where an error of
//! one unit in x is one of |x| units in exp(x). No bound was fitted to a backend; a failure is a bug or a new op.

mod attention;
mod bench;
mod optimizer;
mod products;
mod random;
mod routing;
mod rows;

pub use random::Random;

use crate::error::Result;
use crate::reference::Reference;
use crate::tensor::{Device, Kind};
use bench::{Case, Numbers};

/// How one output of one op fared on one shape.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub op: &'static str,
    /// The shape, and the output.
    pub case: String,
    /// The largest error, in units of `f32::EPSILON` times the output's size.
    pub error_units: f64,
    pub bound_units: f64,
    pub passed: bool,
}

/// Holds every op of `device` against its definition.
pub fn check(device: &Device) -> Result<Vec<Verdict>> {
    let reference = Device::new(Reference::new());
    let mut verdicts = vec![];
    for case in cases() {
        let found = case.run(device, Kind::F32)?;
        let wanted = case.run(&reference, Kind::F64)?;
        for (found, wanted) in found.iter().zip(&wanted) {
            let error_units = error_units(&found.numbers()?, &wanted.numbers()?, wanted.size);
            let bound_units = wanted.bound_units();
            // Not `<=` negated: an error that is not a number does not pass.
            let passed = error_units <= bound_units;
            let label = format!("{} {}", case.label, wanted.name);
            verdicts.push(Verdict { op: case.op, case: label, error_units, bound_units, passed });
        }
    }
    Ok(verdicts)
}

/// Every output of the suite, by op, shape and name, bit for bit: to compare a device with itself.
pub fn outputs(device: &Device) -> Result<Vec<(String, Vec<u8>)>> {
    let mut outputs = vec![];
    for case in cases() {
        for output in case.run(device, Kind::F32)? {
            outputs.push((format!("{} {} {}", case.op, case.label, output.name), output.bytes()?));
        }
    }
    Ok(outputs)
}

fn cases() -> Vec<Case> {
    [products::cases(), rows::cases(), attention::cases(), routing::cases(), optimizer::cases()]
        .into_iter()
        .flatten()
        .collect()
}

/// Infinite where whole numbers differ, or where one side is not finite and the other is something else.
fn error_units(found: &Numbers, wanted: &Numbers, size: f64) -> f64 {
    match (found, wanted) {
        (Numbers::Integers(found), Numbers::Integers(wanted)) if found == wanted => 0.0,
        (Numbers::Floats(found), Numbers::Floats(wanted)) if found.len() == wanted.len() => {
            let size = wanted.iter().fold(size, |size, x| size.max(x.abs()));
            let unit = f64::from(f32::EPSILON) * size;
            found.iter().zip(wanted).fold(0.0, |worst: f64, (found, wanted)| {
                let error = (found - wanted).abs();
                if found == wanted {
                    worst
                } else if error.is_finite() {
                    worst.max(error / unit)
                } else {
                    f64::INFINITY
                }
            })
        }
        _ => f64::INFINITY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_one_unit_is_one_unit_of_the_largest_element() {
        let wanted = Numbers::Floats(vec![1.0, -4.0]);
        let found = Numbers::Floats(vec![1.0 + 4.0 * f64::from(f32::EPSILON), -4.0]);
        assert!((error_units(&found, &wanted, 0.0) - 1.0).abs() < 1e-6);
        assert!((error_units(&found, &wanted, 8.0) - 0.5).abs() < 1e-6);
    }

    #[test]
    fn what_is_not_a_number_never_passes() {
        let wanted = Numbers::Floats(vec![1.0, 0.0]);
        assert_eq!(error_units(&Numbers::Floats(vec![1.0, f64::NAN]), &wanted, 0.0), f64::INFINITY);
        assert_eq!(error_units(&Numbers::Floats(vec![1.0]), &wanted, 0.0), f64::INFINITY);
    }
}
