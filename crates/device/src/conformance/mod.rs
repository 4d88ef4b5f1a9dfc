//! The one suite that every backend passes: each op, forward and backward, in f32 and in bf16, against its
//! definition in f64.
//!
//! Both get the same numbers: random ones, rounded to f32 first, and to bf16 where an operand holds bf16.
//! Whole numbers must come out equal. Of floats, the error is counted in units of `f32::EPSILON` times the
//! output's size: its largest element, or the size that its elements would have if nothing cancelled,
//! whichever is larger. The bound in those units is
//!
//! > 4 + sqrt(terms) + condition
//!
//! where 4 is for a handful of roundings and a library's exponential, `terms` is the length of the longest
//! sum behind an element (rounding errors of a sum in any order grow like the root of its length), and
//! `condition` is how much the op itself magnifies a relative error of one unit: 0 but for exponentials of
//! large numbers, where an error of one unit in x is one of |x| units in exp(x). No bound was fitted to a
//! backend; a failure is a bug or a new op.
//!
//! What an op writes as bf16 is counted in units of bf16, and so is what an op with products inside writes:
//! it may round what lies between its products. All other results of bf16 operands (sums, statistics,
//! gradients by weights) are f32, and are counted as such.
//!
//! A device of f32 whose products take bf16 is compared with the same f64 definition: errors of ops with
//! products inside are counted in units of bf16 then, those of all other ops in units of f32 as ever.
//! Operands' roundings are independent of each other, so a product's error does not grow against its size
//! with the length of the sum: the bound is 4 + condition.

mod attention;
mod bench;
mod optimizer;
mod products;
mod random;
mod routing;
mod rows;
pub mod wide;

pub use random::Random;

use crate::device::Device;
use crate::error::Result;
use crate::precision::{Precision, epsilon, is_of_products};
use crate::reference::Reference;
use crate::tensor::Kind;
use bench::{Case, Drawn, Numbers};
use std::collections::BTreeSet;

/// The verdict on one output of one op on one shape.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The op's name.
    pub op: &'static str,
    /// The shape, and the output.
    pub case: String,
    /// The largest error, in units of `f32::EPSILON` times the output's size.
    pub error_units: f64,
    /// The largest error that passes, in the same units.
    pub bound_units: f64,
    /// Whether the error is within the bound.
    pub passed: bool,
    /// A fingerprint of the operands, the same on every device.
    pub inputs_hash: u64,
    /// The device's and the definition's value where the error is largest.
    pub values: [f64; 2],
    /// Elements of the output.
    pub elements: usize,
    /// Elements that were compared.
    pub checked: usize,
    /// Rows and columns of the cells of which one element each was compared.
    pub cell: [usize; 2],
}

/// Holds every op of `device`, which computes in f32, against its definition.
pub fn check(device: &Device) -> Result<Vec<Verdict>> {
    check_in(device, Precision::F32, &mut |_, _| ())
}

/// Holds every op of `device`, whose products are of `precision`, against its definition. Calls `progress`
/// before each case with the number of cases done and the number of all.
pub fn check_in(
    device: &Device,
    precision: Precision,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Verdict>> {
    compare(device, Drawn::of(Kind::F32), precision, progress)
}

/// Holds every op of `device` on bf16 tensors against its definition. Calls `progress` as [`check_in`] does.
pub fn check_bf16(device: &Device, progress: &mut dyn FnMut(usize, usize)) -> Result<Vec<Verdict>> {
    compare(device, Drawn::of(Kind::Bf16), Precision::Bf16, progress)
}

fn compare(
    device: &Device,
    numbers: Drawn,
    precision: Precision,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Verdict>> {
    let mut verdicts = vec![];
    let cases = cases();
    for (done, case) in cases.iter().enumerate() {
        progress(done, cases.len());
        verdicts.extend(whole(case, device, numbers, precision)?);
    }
    Ok(verdicts)
}

/// Compares every element of a case's outputs with the definition.
fn whole(case: &Case, device: &Device, numbers: Drawn, precision: Precision) -> Result<Vec<Verdict>> {
    let (found, _) = case.run(device, numbers)?;
    let (wanted, inputs_hash) = case.run(&Device::new(Reference::new()), numbers.exact())?;
    let mut verdicts = vec![];
    for (found, wanted) in found.iter().zip(&wanted) {
        let is_rounded = is_of_products(case.op) || found.kind() == Kind::Bf16;
        let precision = if is_rounded { precision } else { Precision::F32 };
        let (found, numbers) = (found.numbers()?, wanted.numbers()?);
        let worst = worst(&found, &numbers, wanted.size, epsilon(precision));
        let bound_units = wanted.bound_units(precision);
        verdicts.push(Verdict {
            op: case.op,
            case: format!("{} {}", case.label, wanted.name),
            error_units: worst.units,
            bound_units,
            // Not `<=` negated: an error that is not a number does not pass.
            passed: worst.units <= bound_units,
            inputs_hash,
            values: worst.values,
            elements: numbers.len(),
            checked: numbers.len(),
            cell: [1, 1],
        });
    }
    Ok(verdicts)
}

/// Holds `op` and its family against their definitions on the first, the middle and the last of their cases;
/// says where they differ. Values are of `kind`, products of `precision`.
///
/// # Errors
/// If the device fails.
pub(crate) fn trial(device: &Device, op: &str, kind: Kind, precision: Precision) -> Result<Option<String>> {
    let cases: Vec<Case> = cases().into_iter().filter(|case| case.op == op).collect();
    let tried: BTreeSet<usize> = [0, cases.len() / 2, cases.len().saturating_sub(1)].into();
    for case in tried.into_iter().filter_map(|index| cases.get(index)) {
        let verdicts = whole(case, device, Drawn::of(kind), precision)?;
        if let Some(verdict) = verdicts.iter().find(|verdict| !verdict.passed) {
            let Verdict { case, error_units, bound_units, .. } = verdict;
            let kind = kind.name();
            return Ok(Some(format!(
                "{kind}, {case}: off by {error_units:.1} units, {bound_units:.1} at most"
            )));
        }
    }
    Ok(None)
}

/// Every output of the suite, by op, shape and name, bit for bit: to compare a device with itself.
pub fn outputs(device: &Device) -> Result<Vec<(String, Vec<u8>)>> {
    outputs_of(device, Kind::F32)
}

/// As [`outputs`], of values of `kind`.
pub fn outputs_of(device: &Device, kind: Kind) -> Result<Vec<(String, Vec<u8>)>> {
    let mut outputs = vec![];
    for case in cases() {
        for output in case.run(device, Drawn::of(kind))?.0 {
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

/// The largest error and where it is.
struct Worst {
    units: f64,
    values: [f64; 2],
}

/// Infinite where whole numbers differ, or where one side is not finite and the other is something else.
fn worst(found: &Numbers, wanted: &Numbers, size: f64, unit: f64) -> Worst {
    let none = Worst { units: 0.0, values: [0.0; 2] };
    match (found, wanted) {
        (Numbers::Integers(found), Numbers::Integers(wanted)) if found.len() == wanted.len() => {
            let pair = found.iter().zip(wanted).find(|(found, wanted)| found != wanted);
            let values = |(&found, &wanted): (&i32, &i32)| [found, wanted].map(f64::from);
            pair.map_or(none, |pair| Worst { units: f64::INFINITY, values: values(pair) })
        }
        (Numbers::Floats(found), Numbers::Floats(wanted)) if found.len() == wanted.len() => {
            let size = wanted.iter().fold(size, |size, x| size.max(x.abs()));
            found.iter().zip(wanted).fold(none, |worst, (&found, &wanted)| {
                let error = (found - wanted).abs() / (unit * size);
                let units = match error {
                    _ if found == wanted => 0.0,
                    error if error.is_finite() => error,
                    _ => f64::INFINITY,
                };
                if units > worst.units { Worst { units, values: [found, wanted] } } else { worst }
            })
        }
        _ => Worst { units: f64::INFINITY, values: [f64::NAN; 2] },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_one_unit_is_one_unit_of_the_largest_element() {
        let wanted = Numbers::Floats(vec![1.0, -4.0]);
        let found = Numbers::Floats(vec![1.0 + 4.0 * f64::from(f32::EPSILON), -4.0]);
        let unit = f64::from(f32::EPSILON);
        assert!((worst(&found, &wanted, 0.0, unit).units - 1.0).abs() < 1e-6);
        assert!((worst(&found, &wanted, 8.0, unit).units - 0.5).abs() < 1e-6);
    }

    #[test]
    fn what_is_not_a_number_never_passes() {
        let wanted = Numbers::Floats(vec![1.0, 0.0]);
        assert_eq!(worst(&Numbers::Floats(vec![1.0, f64::NAN]), &wanted, 0.0, 1.0).units, f64::INFINITY);
        assert_eq!(worst(&Numbers::Floats(vec![1.0]), &wanted, 0.0, 1.0).units, f64::INFINITY);
    }
}
