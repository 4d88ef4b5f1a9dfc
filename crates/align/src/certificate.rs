//! The certificate: every figure of an alignment as JSON, and as a page for people.

use crate::curve::CurveReport;
use crate::modules::ModulesReport;
use crate::picture;
use lingot_device::conformance::Verdict;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

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
    /// The version of this format: 1.
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
    /// Level *curve*, by model.
    pub curve: Vec<CurveReport>,
    /// Level *move*, by model.
    pub moved: Vec<CurveReport>,
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
                let worse = share(report.error_units, report.bound_units)
                    > share(known.error_units, known.bound_units);
                if known.passed && (!report.passed || worse) {
                    *known = report;
                }
                known.outputs = outputs;
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
        self.fault = op.or(module).or(curve);
        self.passed = self.fault.is_none();
        self
    }

    /// The precision of the candidate, and of the reference where it has another, in words.
    pub fn precisions(&self) -> String {
        let reference = self.reference_precision.as_ref().filter(|other| **other != self.precision);
        reference.map_or(self.precision.clone(), |other| format!("{} (reference {other})", self.precision))
    }

    /// Returns the certificate as a page in Markdown, after the SVG plots that it shows.
    pub fn page(&self) -> Vec<PageFile> {
        let mut text = format!(
            "# Alignment of `{}` with `{}`\n\n**{}** in {}, seed {}, Lingot {}.\n\n",
            self.candidate.device,
            self.reference.device,
            if self.passed { "Passed" } else { "Failed" },
            self.precisions(),
            self.seed,
            self.lingot
        );
        if let Some(fault) = &self.fault {
            let _ = writeln!(text, "First at fault: {fault}\n");
        }
        let _ = writeln!(text, "* reference: `{}`, {}", self.reference.device, self.reference.description);
        let _ = writeln!(text, "* candidate: `{}`, {}\n", self.candidate.device, self.candidate.description);
        text += &self.tables("##");
        let mut files = vec![];
        for (label, curves) in [("curve", &self.curve), ("move", &self.moved)] {
            for curve in curves {
                let name = format!("{label}-{}.svg", curve.model);
                let _ = writeln!(text, "![{label} of {}]({name})\n", curve.model);
                files.push(PageFile { name, content: picture::svg(curve) });
            }
        }
        files.push(PageFile { name: "certificate.md".into(), content: text });
        files
    }

    /// Returns the figures as Markdown tables, which read well in a terminal too.
    pub fn tables(&self, heading: &str) -> String {
        let mut text = String::new();
        if !self.ops.is_empty() {
            let _ = writeln!(text, "{heading} Ops against their definition in f64\n");
            text += "The worst output of each op, in units of the precision's rounding.\n\n";
            let _ = writeln!(text, "| {:<16} | outputs | error, units | bound | verdict |", "op");
            text += "|------------------|---------|--------------|-------|---------|\n";
            for op in &self.ops {
                let _ = writeln!(
                    text,
                    "| {:<16} | {:>7} | {:>12.2} | {:>5.1} | {:<7} |",
                    op.op,
                    op.outputs,
                    op.error_units,
                    op.bound_units,
                    verdict(op.passed)
                );
            }
            text += "\n";
        }
        if !self.modules.is_empty() {
            let _ = writeln!(text, "{heading} Modules: worst error as a share of its bound\n");
            text += "Every op of a whole step, each fed with what the reference fed it; 1 would be at the \
                     bound.\n\n";
            let _ = writeln!(text, "| model | {:<10} | ops | forward  | backward |", "module");
            text += "|-------|------------|-----|----------|----------|\n";
            for report in &self.modules {
                for module in &report.modules {
                    let _ = writeln!(
                        text,
                        "| {:<5} | {:<10} | {:>3} | {:>8.1e} | {:>8.1e} |",
                        report.model, module.module, module.ops, module.forward, module.backward
                    );
                }
            }
            let worst = self.modules.iter().flat_map(|report| &report.gradients);
            if let Some((name, error)) = worst.max_by(|a, b| a.1.total_cmp(&b.1)) {
                let _ = writeln!(
                    text,
                    "\nThe same step with nothing fed anew, so that errors add up: worst gradient `{name}`, \
                     off by {error:.1e} of its largest element.\n"
                );
            }
        }
        for (label, curves) in [("Curve", &self.curve), ("Move", &self.moved)] {
            if !curves.is_empty() {
                curve_table(&mut text, &format!("{heading} {label}"), curves);
            }
        }
        text
    }
}

fn curve_table(text: &mut String, heading: &str, curves: &[CurveReport]) {
    let _ = writeln!(text, "{heading}: relative difference of losses\n");
    let _ = writeln!(
        text,
        "Of each step: its mean size, which the bound is for, its mean with sign, and the largest; beside it \
         the mean size between each two of {} seeds on the reference.\n",
        curves.iter().map(|curve| seeds_of(curve.seed_noises.len())).max().unwrap_or(1)
    );
    *text += "| model | steps | mean     | signed    | max      | bound    | between seeds | verdict |\n";
    *text += "|-------|-------|----------|-----------|----------|----------|---------------|---------|\n";
    for curve in curves {
        let _ = writeln!(
            text,
            "| {:<5} | {:>5} | {:>8.2e} | {:>9.2e} | {:>8.2e} | {:>8.0e} | {:>13.2e} | {:<7} |",
            curve.model,
            curve.steps,
            curve.mean,
            curve.signed_mean,
            curve.max,
            curve.bound,
            curve.seed_noise,
            verdict(curve.passed)
        );
    }
    for held_out in curves.iter().filter_map(|curve| curve.held_out.as_ref()) {
        let _ = writeln!(
            text,
            "\nHeld-out losses {}, on the reference {}: they differ by {:.2e} in the mean, other seeds by \
             {:.2e}.",
            listed(&held_out.candidate),
            listed(&held_out.reference),
            held_out.difference,
            held_out.seed_noise
        );
    }
    *text += "\n";
}

/// The number of seeds that make `pairs` pairs.
fn seeds_of(pairs: usize) -> usize {
    (1..).find(|seeds| seeds * (seeds - 1) / 2 >= pairs).unwrap_or(1)
}

fn listed(losses: &[f64]) -> String {
    losses.iter().map(|loss| format!("{loss:.4}")).collect::<Vec<_>>().join(" ")
}

fn verdict(passed: bool) -> &'static str {
    if passed { "passed" } else { "FAILED" }
}
