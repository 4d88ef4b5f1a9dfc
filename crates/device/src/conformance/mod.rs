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
//! Of bf16 operands, an op's results are of three sorts (`Sort`). What it writes as bf16 without products
//! inside is rounded once, so each element x may be off by
//!
//! > |x| / 256 + (4 + sqrt(terms) + condition) x f32::EPSILON x size
//!
//! half a unit of bf16, which the element itself decides, beside the bound in f32. An op with products inside
//! may round what lies between them, or the pieces of a long sum: everything it writes is counted in units of
//! bf16, by the bound 4 + condition. All other results (sums, statistics) are f32, and are counted as such.
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
    /// The largest error, in units of the output's size, or of bf16 of the element where it is rounded to
    /// that once.
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

/// Holds every op of `device` on tensors of the kind of `precision` against its definition. Calls `progress`
/// as [`check_in`] does.
pub fn check_on(
    device: &Device,
    precision: Precision,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Verdict>> {
    compare(device, Drawn::of(precision.into()), precision, progress)
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

/// Returns the first verdict of [`check_on`] that is a failure, and goes no further.
pub fn first_failure(device: &Device, precision: Precision) -> Result<Option<Verdict>> {
    for case in cases() {
        let verdicts = whole(&case, device, Drawn::of(precision.into()), precision)?;
        if let Some(failure) = verdicts.into_iter().find(|verdict| !verdict.passed) {
            return Ok(Some(failure));
        }
    }
    Ok(None)
}

/// Compares every element of a case's outputs with the definition.
fn whole(case: &Case, device: &Device, numbers: Drawn, precision: Precision) -> Result<Vec<Verdict>> {
    let (found, _) = case.run(device, numbers)?;
    let (wanted, inputs_hash) = case.run(&Device::new(Reference::new()), numbers.exact())?;
    let mut verdicts = vec![];
    for (found, wanted) in found.iter().zip(&wanted) {
        let sort = Sort::of(case.op, found.kind(), precision);
        let (found, numbers) = (found.numbers()?, wanted.numbers()?);
        let bound_units = wanted.bound_units(sort);
        let worst = sort.worst(&found, &numbers, wanted.size, bound_units);
        let bound_units = sort.shown(bound_units);
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

/// How an output is rounded, and so how its error is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    /// Computed and held in f32: units of f32.
    Sums,
    /// Computed in f32, and rounded to bf16 once.
    RoundedOnce,
    /// Written by an op that multiplies bf16 operands: units of bf16.
    OfProducts,
}

impl Sort {
    /// The sort of what `op` writes into a tensor of `kind`, on a device whose products are of `precision`.
    fn of(op: &str, kind: Kind, precision: Precision) -> Sort {
        match precision {
            Precision::Bf16 if is_of_products(op) => Sort::OfProducts,
            _ if kind == Kind::Bf16 => Sort::RoundedOnce,
            _ => Sort::Sums,
        }
    }

    fn unit(self) -> f64 {
        epsilon(if self == Sort::OfProducts { Precision::Bf16 } else { Precision::F32 })
    }

    /// The worst element. Of what is rounded once, its error is in units of bf16 of the element itself, as
    /// far as `bound_units` of f32 do not explain it; nothing explains an error where nothing may be rounded.
    fn worst(self, found: &Numbers, wanted: &Numbers, size: f64, bound_units: f64) -> Worst {
        match (found, wanted) {
            (Numbers::Floats(found), Numbers::Floats(wanted))
                if self == Sort::RoundedOnce && bound_units > 0.0 && found.len() == wanted.len() =>
            {
                worst_rounded(found, wanted, size, bound_units)
            }
            _ => worst(found, wanted, size, self.unit()),
        }
    }

    /// The bound in the units that `worst` counts in.
    fn shown(self, bound_units: f64) -> f64 {
        if self == Sort::RoundedOnce && bound_units > 0.0 { HALF } else { bound_units }
    }
}

/// The error of one rounding to the nearest, in units.
const HALF: f64 = 0.5;

/// Half a unit of bf16 where an element has the largest error that passes.
fn worst_rounded(found: &[f64], wanted: &[f64], size: f64, bound_units: f64) -> Worst {
    let size = wanted.iter().fold(size, |size, x| size.max(x.abs()));
    let slack = bound_units * epsilon(Precision::F32) * size;
    let none = Worst { units: 0.0, values: [0.0; 2] };
    found.iter().zip(wanted).fold(none, |worst, (&found, &wanted)| {
        let error = (found - wanted).abs();
        let units = match HALF * error / (HALF * epsilon(Precision::Bf16) * wanted.abs() + slack) {
            _ if found == wanted => 0.0,
            units if units.is_finite() => units,
            _ => f64::INFINITY,
        };
        if units > worst.units { Worst { units, values: [found, wanted] } } else { worst }
    })
}

/// Holds `op` and its family against their definitions on up to six of their cases, evenly spaced; says where
/// they differ. Values are of `kind`, products of `precision`.
///
/// # Errors
/// If the device fails.
pub(crate) fn trial(device: &Device, op: &str, kind: Kind, precision: Precision) -> Result<Option<String>> {
    let cases: Vec<Case> = cases().into_iter().filter(|case| case.op == op).collect();
    let last = cases.len().saturating_sub(1);
    let tried: BTreeSet<usize> = (0..=5).map(|fifth| last * fifth / 5).collect();
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
