//! The certificate: every figure of an alignment as JSON, and as a page for people.

use crate::curve::CurveReport;
use crate::modules::ModulesReport;
use crate::scope::Scope;
use crate::step::StepReport;
use lingot_device::conformance::Verdict;
use serde::{Deserialize, Serialize};

/// One of the two devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// The name, as in `device.name` of a run.
    pub device: String,
    /// The device's own description.
    pub description: String,
}

/// The worst output of one op over all shapes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpReport {
    /// The op's name.
    pub op: String,
    /// Outputs compared.
    pub outputs: u64,
    /// Elements of these outputs.
    #[serde(default)]
    pub elements: u64,
    /// Elements that were compared.
    #[serde(default)]
    pub checked: u64,
    /// The longest side of the cells of which one element each was compared.
    #[serde(default)]
    pub cell: u64,
    /// The error in units of the precision's epsilon.
    pub error_units: f64,
    /// The largest error that passes.
    pub bound_units: f64,
    /// The shape and operand of the worst output.
    pub case: String,
    /// The verdict over all shapes.
    pub passed: bool,
    /// A hash of the inputs of the worst output.
    pub inputs_hash: String,
    /// The worst element on the device, and by the definition in f64.
    pub values: [f64; 2],
}

/// Two devices, how they compare, and the verdict. The object of `lingot align --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// The version of this format: 2.
    pub format: u32,
    /// The version of Lingot.
    pub lingot: String,
    /// The device that is trusted.
    pub reference: Side,
    /// The device that is compared with it.
    pub candidate: Side,
    /// The candidate's precision.
    pub precision: String,
    /// The reference's precision, where it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference_precision: Option<String>,
    /// Seeds the weights and the text.
    pub seed: u64,
    /// Level *ops*, by op.
    pub ops: Vec<OpReport>,
    /// Level *modules*, by model.
    pub modules: Vec<ModulesReport>,
    /// Level *step*, by model.
    #[serde(default)]
    pub step: Vec<StepReport>,
    /// Level *curve*, by model.
    pub curve: Vec<CurveReport>,
    /// Level *move*, by model.
    pub moved: Vec<CurveReport>,
    /// What the verdict is about, and what it is not.
    #[serde(default)]
    pub scope: Scope,
    /// The verdict over all levels.
    pub passed: bool,
    /// The first fault, in words.
    pub fault: Option<String>,
}

/// A file of a certificate's page.
#[derive(Clone, Debug, PartialEq)]
pub struct PageFile {
    /// Its name in the certificate's folder.
    pub name: String,
    /// Its text.
    pub content: String,
}

/// Returns the worst output of each op: the one nearest to its bound, or furthest beyond it.
pub fn by_op(verdicts: &[Verdict]) -> Vec<OpReport> {
    let mut reports: Vec<OpReport> = vec![];
    for verdict in verdicts {
        let share = |error: f64, bound: f64| if bound > 0.0 { error / bound } else { error };
        let report = OpReport {
            op: verdict.op.into(),
            outputs: 1,
            elements: verdict.elements as u64,
            checked: verdict.checked as u64,
            cell: verdict.cell.into_iter().max().unwrap_or(1) as u64,
            // JSON has no infinity.
            error_units: verdict.error_units.min(f64::MAX),
            bound_units: verdict.bound_units,
            case: verdict.case.clone(),
            passed: verdict.passed,
            inputs_hash: format!("{:016x}", verdict.inputs_hash),
            values: verdict.values,
        };
        match reports.iter_mut().find(|known| known.op == report.op) {
            None => reports.push(report),
            Some(known) => {
                let outputs = known.outputs + 1;
                let [elements, checked] = [known.elements + report.elements, known.checked + report.checked];
                let cell = known.cell.max(report.cell);
                let worse = share(report.error_units, report.bound_units)
                    > share(known.error_units, known.bound_units);
                if known.passed && (!report.passed || worse) {
                    *known = report;
                }
                (known.outputs, known.elements, known.checked, known.cell) =
                    (outputs, elements, checked, cell);
            }
        }
    }
    reports
}

impl Certificate {
    /// Returns the certificate with its verdict and, where it failed, the first fault.
    pub fn judge(mut self) -> Certificate {
        let op = self.ops.iter().find(|op| !op.passed).map(|op| {
            let [found, wanted] = op.values;
            let (name, case, hash) = (&op.op, &op.case, &op.inputs_hash);
            format!("op {name}, {case}: {found:e} where the definition has {wanted:e} (inputs {hash})")
        });
        let module = self.modules.iter().find_map(|report| {
            let fault = report.fault.as_ref()?;
            let (model, module, op, what) = (&report.model, &fault.module, &fault.op, &fault.what);
            let (a, b, hash) = (&fault.reference, &fault.candidate, &fault.inputs_hash);
            Some(format!(
                "model {model}, {module}: {op}, {what}: {a} on the reference, {b} here (inputs {hash})"
            ))
        });
        let curve = self.curve.iter().chain(&self.moved).find(|curve| !curve.passed).map(|curve| {
            let at = curve.parted_at.map_or(String::new(), |step| format!(", from step {step} on"));
            if let Some(first) = curve.first.as_ref().filter(|first| !first.passed) {
                return format!(
                    "run {}: the {} of step {} differs by {:.1e} among the first {}, bound {:.1e}",
                    curve.model, first.quantity, first.step, first.difference, first.steps, first.bound
                );
            }
            if let Some(held_out) = &curve.held_out {
                return format!(
                    "run {}: held-out losses differ by {:.2e} in the mean, bound {:e}, other seeds by {:.2e}",
                    curve.model, held_out.difference, curve.bound, held_out.seed_noise
                );
            }
            format!(
                "model {}: losses differ by {:.2e} in the mean, bound {:e}{at}",
                curve.model, curve.mean, curve.bound
            )
        });
        let step = self.step.iter().find_map(|report| Some(report.fault.as_ref()?.words(&report.model)));
        self.fault = op.or(module).or(step).or(curve);
        self.passed = self.fault.is_none();
        self
    }

    /// The precision of the candidate, and of the reference where it has another, in words.
    pub fn precisions(&self) -> String {
        let reference = self.reference_precision.as_ref().filter(|other| **other != self.precision);
        reference.map_or(self.precision.clone(), |other| format!("{} (reference {other})", self.precision))
    }
}
