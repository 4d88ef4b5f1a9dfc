//! The page of a certificate: tables for people, which read well in a terminal too.

use crate::certificate::{Certificate, PageFile};
use crate::curve::{CurveReport, FirstSteps, JudgedBy};
use crate::picture;
use std::fmt::Write;

impl Certificate {
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

    /// Returns the figures as Markdown tables, which read well in a terminal too, and what they vouch for.
    pub fn tables(&self, heading: &str) -> String {
        let mut text = String::new();
        if !self.ops.is_empty() {
            self.ops_table(&mut text, heading);
        }
        if !self.modules.is_empty() {
            self.modules_table(&mut text, heading);
        }
        if !self.step.is_empty() {
            self.step_table(&mut text, heading);
        }
        for (label, curves) in [("Curve", &self.curve), ("Move", &self.moved)] {
            if !curves.is_empty() {
                curve_table(&mut text, &format!("{heading} {label}"), curves);
            }
        }
        self.scope_lists(&mut text, heading);
        text
    }

    fn ops_table(&self, text: &mut String, heading: &str) {
        let _ = writeln!(text, "{heading} Ops against their definition in f64\n");
        // Certificates of the first format checked every element, and counted none.
        if self.ops.iter().all(|op| op.checked == 0) {
            return self.first_ops_table(text);
        }
        *text += "The worst output of each op, in units of the precision's rounding; of large outputs random \
                  elements.\n\n";
        *text += "| op               | outputs | elements  | checked   | error, units | bound | verdict |\n";
        *text += "|------------------|---------|-----------|-----------|--------------|-------|---------|\n";
        for op in &self.ops {
            let _ = writeln!(
                text,
                "| {:<16} | {:>7} | {:>9} | {:>9} | {:>12.2} | {:>5.1} | {:<7} |",
                op.op,
                op.outputs,
                op.elements,
                op.checked,
                op.error_units,
                op.bound_units,
                verdict(op.passed)
            );
        }
        *text += "\n";
    }

    fn first_ops_table(&self, text: &mut String) {
        *text += "The worst output of each op, in units of the precision's rounding.\n\n";
        *text += "| op               | outputs | error, units | bound | verdict |\n";
        *text += "|------------------|---------|--------------|-------|---------|\n";
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
        *text += "\n";
    }

    fn modules_table(&self, text: &mut String, heading: &str) {
        let _ = writeln!(text, "{heading} Modules: worst error as a share of its bound\n");
        *text += "Every op of a whole step, each fed with what the reference fed it; 1 would be at the \
                  bound.\n\n";
        let _ = writeln!(text, "| model | {:<10} | ops | forward  | backward |", "module");
        *text += "|-------|------------|-----|----------|----------|\n";
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

    fn step_table(&self, text: &mut String, heading: &str) {
        let _ = writeln!(text, "{heading} Steps against f64: worst relative difference of each quantity\n");
        let least = self.step.iter().map(|report| report.clipped_to).fold(0.0, f64::max);
        let steps = self.step.iter().map(|report| report.steps).max().unwrap_or(0);
        let _ = writeln!(
            text,
            "{steps} steps with several workers and micro-batches; the clip leaves at most {least:.2} of the \
             gradient. Both devices are given the same router logits.\n"
        );
        *text += "| model | quantity            | difference | bound   | step | tensor\n";
        *text += "|-------|---------------------|------------|---------|------|-------\n";
        for report in &self.step {
            for worst in &report.worst {
                let _ = writeln!(
                    text,
                    "| {:<5} | {:<19} | {:>10.1e} | {:>7.0e} | {:>4} | {}",
                    report.model,
                    worst.quantity,
                    worst.error,
                    worst.bound,
                    worst.step,
                    worst.tensor.as_deref().unwrap_or("")
                );
            }
        }
        *text += "\n";
    }

    fn scope_lists(&self, text: &mut String, heading: &str) {
        for (title, lines) in [
            ("What this vouches for", &self.scope.covers),
            ("What it says nothing about", &self.scope.leaves_out),
        ] {
            if !lines.is_empty() {
                let _ = writeln!(text, "{heading} {title}\n");
                lines.iter().for_each(|line| *text += &format!("* {line}\n"));
                *text += "\n";
            }
        }
    }
}

fn curve_table(text: &mut String, heading: &str, curves: &[CurveReport]) {
    let _ = writeln!(text, "{heading}: relative difference of losses\n");
    let seeds = curves.iter().map(|curve| seeds_of(curve.seed_noises.len())).max().unwrap_or(1);
    let beside = match seeds {
        1 => "one seed was trained, so there is no difference between seeds beside it".to_owned(),
        _ => format!("beside it the mean size between each two of {seeds} seeds on the reference"),
    };
    let _ = writeln!(
        text,
        "Of each step: its mean size, which the bound is for, its mean with sign, and the largest; \
         {beside}.\n"
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
    for curve in curves {
        if let Some(first) = &curve.first {
            first_line(text, first, curve);
        }
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

/// When a run parted from its log, by how much, and what decided.
fn first_line(text: &mut String, first: &FirstSteps, curve: &CurveReport) {
    let FirstSteps { steps, difference, step, quantity, by_definition, bound, .. } = first;
    let definitions = by_definition.map_or_else(
        || "the definitions would have taken too long".to_owned(),
        |difference| format!("the definitions differ by {difference:.1e}"),
    );
    let parted = curve.parted_at.map_or_else(
        || "The curves stay together".to_owned(),
        |step| format!("The curves part at step {}", step + 1),
    );
    let judged = match curve.judged_by {
        Some(JudgedBy::FirstSteps) => "the first steps",
        Some(JudgedBy::HeldOut) => "the held-out losses",
        _ => "the curve",
    };
    let _ = writeln!(
        text,
        "\nThe first {steps} steps differ by {difference:.1e} at most ({quantity} of step {step}), bound \
         {bound:.1e}; {definitions}. {parted}. Judged by {judged}."
    );
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
