//! What a certificate vouches for, and what it does not, in plain words.

use crate::certificate::OpReport;
use crate::step::{STEPS, StepReport};
use lingot_device::conformance::wide::{Largest, Shapes};
use lingot_device::{Device, Precision};
use serde::{Deserialize, Serialize};

/// What was compared and what was not, a sentence each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scope {
    /// What the verdict is about.
    pub covers: Vec<String>,
    /// What it says nothing about.
    pub leaves_out: Vec<String>,
}

/// The levels of a comparison, as far as they were gone through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Levels<'a> {
    /// The outputs compared on the level *ops*; empty if it was left out.
    pub ops: &'a [OpReport],
    /// The sizes of its large shapes.
    pub shapes: Option<&'a Shapes>,
    /// The model or run whose sizes these are.
    pub like: Option<&'a str>,
    /// Whether a step was compared op by op.
    pub has_modules: bool,
    /// The steps compared with f64.
    pub step: &'a [StepReport],
    /// Steps of the curve, and of the move.
    pub curve_steps: [u64; 2],
}

impl Scope {
    /// Says what these levels vouch for on `device`.
    pub fn of(device: &Device, precision: Precision, levels: Levels<'_>) -> Scope {
        let mut scope = Scope::default();
        scope.ops(device, levels);
        scope.levels(precision, levels);
        if precision == Precision::Bf16 {
            scope.hidden_by_rounding(levels);
        }
        scope.covers.extend(device.routes().into_iter().map(|route| format!("route: {route}")));
        let other = match precision {
            Precision::F32 => "bf16",
            Precision::Bf16 => "f32",
        };
        scope.leaves_out.extend([
            format!("tensors in {other}, and any type but {}", precision.name()),
            "another version of the driver, of the libraries or of Lingot, and another chip of the same type"
                .to_owned(),
            "several devices at once, and what travels between them".to_owned(),
            "faults that come and go, with heat, load or memory that fills up".to_owned(),
            "speed and memory".to_owned(),
        ]);
        scope
    }

    fn ops(&mut self, device: &Device, levels: Levels<'_>) {
        if levels.ops.is_empty() {
            self.leaves_out.push("single ops on odd and on large shapes (level ops was left out)".into());
            return;
        }
        let sum = |count: fn(&OpReport) -> u64| levels.ops.iter().map(count).sum::<u64>();
        let [outputs, elements, checked] =
            [sum(|op| op.outputs), sum(|op| op.elements), sum(|op| op.checked)];
        self.covers.push(format!(
            "{outputs} outputs of ops, forward and backward, against their definition in f64: {checked} of \
             {elements} elements"
        ));
        if let Some(shapes) = levels.shapes {
            self.sizes(device, shapes, levels.like);
        }
        let side = levels.ops.iter().map(|op| op.cell).max().unwrap_or(1);
        if side > 1 {
            let certain = 2 * side - 1;
            self.covers.push(format!(
                "of large outputs one random element in every cell of at most {side} x {side}: any wrong \
                 region of {certain} x {certain} is found for certain, one that covers a share p of an \
                 output is missed with probability (1 - p)^n among n elements"
            ));
            self.leaves_out.push(format!(
                "a single wrong element of a large output, which is missed {} times in {}",
                side * side - 1,
                side * side
            ));
        }
    }

    fn sizes(&mut self, device: &Device, shapes: &Shapes, like: Option<&str>) {
        let Largest { inner, rows, experts, tokens, vocabulary } = shapes.largest();
        let whose = like.map_or_else(String::new, |like| format!(", those of {like}"));
        self.covers.push(format!(
            "sizes up to sums of {inner} products, {rows} rows, {experts} experts, attention over {tokens} \
             tokens, a vocabulary of {vocabulary}{whose}"
        ));
        if like.is_none() {
            self.covers.push(format!(
                "both sides of the {} sizes at which the device changes how it computes an op",
                device.boundaries().len()
            ));
            self.leaves_out.push(
                "sizes beyond these, and these together: `--like RUN.toml` or `--like PRESET` takes a \
                 model's own"
                    .into(),
            );
        }
    }

    /// Says which faults are too small to be told from a rounding to bf16.
    fn hidden_by_rounding(&mut self, levels: Levels<'_>) {
        if !levels.ops.is_empty() {
            self.leaves_out.push(
                "errors smaller than a rounding to bf16: half a unit in the last place of an element; where \
                 an op has products inside, up to four units (3 %) of the output's size in single elements; \
                 of a large product on the whole 0.05 % and its roundings' share"
                    .into(),
            );
        }
        if !levels.step.is_empty() {
            self.leaves_out.push(
                "errors of a step that its roundings to bf16 would hide: 0.5 % of a loss, 1 % of the \
                 gradient norm, 11 % of a tensor's gradient; f32 is held to 2e-6 and 1e-4"
                    .into(),
            );
        }
    }

    fn levels(&mut self, precision: Precision, levels: Levels<'_>) {
        let rounded = match precision {
            Precision::F32 => "",
            Precision::Bf16 => ", each op's results rounded to bf16 once",
        };
        match levels.has_modules {
            true => self.covers.push("every op of a training step, fed with the reference's inputs".into()),
            false => self.leaves_out.push("how ops are put together (level modules was left out)".into()),
        }
        match levels.step.iter().map(|report| report.clipped_to).fold(f64::NAN, f64::max) {
            clipped if !clipped.is_nan() => self.covers.push(format!(
                "{STEPS} whole steps against f64{rounded}: losses, gradients, their norm, a clip to \
                 {clipped:.2} of it or less, AdamW, loads, selection bias, a checkpoint in between"
            )),
            _ => self.leaves_out.push(
                "losses, gradient norm, clip, optimizer and selection bias of whole steps (level step was \
                 left out)"
                    .into(),
            ),
        }
        let longest = levels.curve_steps.into_iter().max().unwrap_or(0);
        match levels.curve_steps {
            [0, 0] => self.leaves_out.push("the loss over many steps (curve and move were left out)".into()),
            _ => {
                self.covers.push(format!("the loss of {longest} steps of small models, from the same seed"));
                self.leaves_out.push(format!("training beyond {longest} steps, and data other than its own"));
                if levels.curve_steps[1] == 0 {
                    self.leaves_out.push("a run that moves to this device (level move was left out)".into());
                }
            }
        }
    }
}
