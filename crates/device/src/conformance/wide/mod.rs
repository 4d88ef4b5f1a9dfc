//! The suite at the sizes of real models, where the small shapes would not notice a wrong tile, a sum that
//! is cut in pieces, or a kernel that only large products reach.
//!
//! The definition of a whole product of such a size would take hours, so it is evaluated at random elements:
//! one in every 16 by 16 cell of an output (larger cells where even that is too much work), and the corners.
//! A wrong region that holds a whole cell is found for certain: every region of 31 by 31 elements does. A
//! region that covers the share p of the output hides with probability at most `(1 - p)^n` among n checked
//! elements. Ops whose work grows no faster than their operands are compared whole.
//!
//! Errors are counted as in the small suite. Products of bf16 have a second measure, because one rounding
//! may be as large as a fault: how much larger the output is on the whole, by least squares. Roundings
//! cancel in it and faults do not.

mod attention;
mod boundaries;
mod head;
mod largest;
mod products;
mod sampled;
mod shapes;

pub use largest::Largest;
pub use shapes::{AttentionShape, ExpertsShape, HeadShape, ProductShape, RoutingShape, RowsShape, Shapes};

use super::bench::{Case, Drawn, Numbers};
use super::{Sort, Verdict, whole};
use crate::device::Device;
use crate::error::Result;
use crate::precision::Precision;
use crate::tensor::Tensor;
use sampled::Elements;
use std::sync::OnceLock;

/// Verdicts on every op of `device` at the sizes in `shapes`.
///
/// The definitions are computed at the first check and kept: to check another device costs its own time
/// alone.
pub struct Wide {
    precision: Precision,
    sampled: Vec<SampledCase>,
    whole: Vec<Case>,
}

type Run = Box<dyn Fn(&Device) -> Result<Vec<Tensor>>>;
type Define = Box<dyn Fn() -> Vec<Vec<f64>>>;

/// One op at one size, checked at some elements of each output.
struct SampledCase {
    op: &'static str,
    label: String,
    outputs: Vec<SampledOutput>,
    /// Runs the op and returns its outputs.
    run: Run,
    /// Returns the checked elements of each output by the definition.
    define: Define,
    wanted: OnceLock<Vec<Vec<f64>>>,
    inputs_hash: u64,
}

/// An output, where it is checked, and the error that a backend may make.
struct SampledOutput {
    name: &'static str,
    elements: Elements,
    /// The longest sum behind an element.
    terms: usize,
    condition: f64,
    /// The size of an element if nothing cancels.
    size: f64,
}

impl SampledOutput {
    fn new(name: &'static str, elements: &Elements, terms: usize, size: f64) -> SampledOutput {
        SampledOutput { name, elements: elements.clone(), terms, condition: 0.0, size }
    }

    fn condition(self, condition: f64) -> SampledOutput {
        SampledOutput { condition, ..self }
    }

    fn bound_units(&self, sort: Sort) -> f64 {
        let terms = if sort == Sort::OfProducts { 0.0 } else { (self.terms as f64).sqrt() };
        4.0 + terms + self.condition
    }
}

impl Wide {
    /// The suite at the sizes of `shapes`, on tensors of the kind of `precision`.
    pub fn new(shapes: &Shapes, precision: Precision) -> Wide {
        Wide { precision, sampled: shapes.sampled(precision.into()), whole: shapes.whole() }
    }

    /// Holds every op of `device` against its definition. Calls `progress` before each case with the number
    /// of cases done and of all.
    pub fn check(&self, device: &Device, progress: &mut dyn FnMut(usize, usize)) -> Result<Vec<Verdict>> {
        let all = self.sampled.len() + self.whole.len();
        let mut verdicts = vec![];
        for (done, case) in self.sampled.iter().enumerate() {
            progress(done, all);
            case.check(device, self.precision, &mut verdicts)?;
        }
        for (done, case) in self.whole.iter().enumerate() {
            progress(self.sampled.len() + done, all);
            verdicts.extend(self.whole(case, device)?);
        }
        Ok(verdicts)
    }

    /// Returns the first verdict that is a failure, and goes no further.
    pub fn first_failure(&self, device: &Device) -> Result<Option<Verdict>> {
        for case in &self.sampled {
            let mut verdicts = vec![];
            case.check(device, self.precision, &mut verdicts)?;
            if let Some(failure) = verdicts.into_iter().find(|verdict| !verdict.passed) {
                return Ok(Some(failure));
            }
        }
        for case in &self.whole {
            if let Some(failure) = self.whole(case, device)?.into_iter().find(|verdict| !verdict.passed) {
                return Ok(Some(failure));
            }
        }
        Ok(None)
    }

    fn whole(&self, case: &Case, device: &Device) -> Result<Vec<Verdict>> {
        whole(case, device, Drawn::of(self.precision.into()), self.precision)
    }
}

impl SampledCase {
    fn check(&self, device: &Device, precision: Precision, verdicts: &mut Vec<Verdict>) -> Result<()> {
        let tensors = (self.run)(device)?;
        let wanted = self.wanted.get_or_init(|| (self.define)());
        for ((output, tensor), wanted) in self.outputs.iter().zip(tensors).zip(wanted) {
            let all = tensor.to_floats()?;
            let found: Vec<f64> = output.elements.indices.iter().map(|&i| f64::from(all[i])).collect();
            let sort = Sort::of(self.op, tensor.kind(), precision);
            verdicts.push(self.verdict(output, found, wanted, sort, all.len()));
        }
        Ok(())
    }

    fn verdict(
        &self,
        output: &SampledOutput,
        found: Vec<f64>,
        wanted: &[f64],
        sort: Sort,
        elements: usize,
    ) -> Verdict {
        let bound_units = output.bound_units(sort);
        let gain = gain(&found, wanted);
        let checked = found.len();
        let [found, wanted] = [found, wanted.to_vec()].map(Numbers::Floats);
        let worst = sort.worst(&found, &wanted, output.size, bound_units);
        // A few roundings' share of the root of the number of elements that they cancel over.
        let most_gain = sort.unit() * (8.0 / (checked.max(1) as f64).sqrt() + 1.0 / 16.0);
        let is_shifted = sort == Sort::OfProducts && output.condition == 0.0 && gain.abs() > most_gain;
        let what = if is_shifted { format!(" larger by {gain:.1e} on the whole") } else { String::new() };
        Verdict {
            op: self.op,
            case: format!("{} {}{what}", self.label, output.name),
            error_units: worst.units,
            bound_units,
            passed: worst.units <= bound_units && !is_shifted,
            inputs_hash: self.inputs_hash,
            values: worst.values,
            elements,
            checked,
            cell: output.elements.cell,
        }
    }
}

/// How much larger `found` is than `wanted`, by least squares: g in `found = (1 + g) wanted`.
fn gain(found: &[f64], wanted: &[f64]) -> f64 {
    let (mut product, mut square) = (0.0, 0.0);
    for (found, wanted) in found.iter().zip(wanted) {
        product += (found - wanted) * wanted;
        square += wanted * wanted;
    }
    if square > 0.0 { product / square } else { 0.0 }
}
