//! A training step as a list of ops and a sum of bytes, from shapes alone.
//!
//! [`step`] simulates a step without a device: the same ops in the same order as the trainer's, each result
//! allocated for as long as the trainer's is. A test holds it against what a counting device sees of a real
//! step, op by op and byte by byte; a change of order or lifetimes there needs the same change here.
//!
//! Routing decides which rows an expert gets, not how many rows there are, so no cost here depends on it; how
//! unequal loads change the time is up to the pricing of the list. Documents reduce the work of attention;
//! `Cost` is the bound without documents, and `sizes` has the length of the sequences.

mod layer;
mod tape;

use crate::cost::{Cost, Widths};
use crate::model::ModelSpec;
use crate::run::{Recompute, RunSpec};
use crate::tensors::{spans, tensors};
use tape::{Allocation, Record, Tape};

/// The sizes of a step's batch.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Sequences of a micro-batch.
    pub micro: usize,
    /// Micro-batches of the step.
    pub micros: usize,
    /// Tokens of one sequence.
    pub sequence: usize,
    /// Recompute policies, one per layer; the last one serves all that follow.
    pub recompute: &'a [Recompute],
    /// Whether the step is within the routing warmup.
    pub warming: bool,
    /// Bytes of the numbers it computes with.
    pub widths: Widths,
}

/// One op of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepOp {
    /// Name, as the device has it.
    pub name: &'static str,
    /// Which operand is stored transposed: `a` or `b` of a product, `flip` of a grouped one; else empty.
    pub form: &'static str,
    /// `matmul` m n k; `grouped_matmul*` rows e n k; `attention*` t sequence h g c; `cross_entropy*` t v d;
    /// `route*` t e k; `sort_by_expert` rows e; `combine` t k d; all others rows and width.
    pub sizes: [usize; 5],
    /// FLOPs and least bytes.
    pub cost: Cost,
}

/// A whole step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// All ops in order.
    pub ops: Vec<StepOp>,
    /// Bytes on the device.
    pub memory: StepMemory,
}

/// Bytes of tensors on the device, by part. The first five are allocated throughout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepMemory {
    /// Parameters, as the step computes with them.
    pub weights_bytes: u64,
    /// Master weights, where the step computes with a copy of them; else 0.
    pub masters_bytes: u64,
    /// Gradients of the parameters.
    pub gradients_bytes: u64,
    /// AdamW's two moments of each parameter.
    pub moments_bytes: u64,
    /// Selection biases, and sums of losses, loads and squares.
    pub state_bytes: u64,
    /// Saved between forward and backward: the inputs, and what blocks save.
    pub kept_bytes: u64,
    /// Allocated on top of that at the peak.
    pub scratch_bytes: u64,
    /// Largest number of bytes allocated at once: the sum of the parts above.
    pub peak_bytes: u64,
    /// Bytes held by a device that rounds sizes up and reuses released blocks only for tensors of the same
    /// rounded size, as the CPU does: at least the peak.
    pub pooled_bytes: u64,
}

impl Step {
    /// Returns the FLOPs and bytes of the whole step.
    pub fn cost(&self) -> Cost {
        self.ops.iter().map(|op| op.cost).sum()
    }
}

/// Returns the ops and the memory of one training step, AdamW included.
pub fn step(model: &ModelSpec, batch: &Batch<'_>) -> Step {
    let mut memory = standing(model, batch.widths);
    let bundles = [memory.weights_bytes, memory.masters_bytes, memory.gradients_bytes];
    let standing_bytes = bundles.iter().sum::<u64>() + memory.moments_bytes + memory.state_bytes;
    let tape = Tape::new(standing_bytes, batch.widths);
    clear(&tape, model);
    for micro in 0..batch.micros {
        tape.adds.set(micro > 0);
        let kept_bytes = differentiate(&tape, model, batch) - standing_bytes;
        memory.kept_bytes = kept_bytes;
    }
    update(&tape, model);
    let Record { ops, peak_bytes, blocks_bytes } = tape.finish();
    memory.peak_bytes = peak_bytes;
    let block = |&bytes: &u64| if bytes == 0 { 0 } else { tape::block_bytes(bytes) };
    let blocks = bundles.iter().map(block).sum::<u64>() + 2 * block(&(memory.moments_bytes / 2));
    let standing_blocks = blocks + memory.state_bytes;
    memory.pooled_bytes = standing_blocks + blocks_bytes;
    memory.scratch_bytes = peak_bytes - standing_bytes - memory.kept_bytes;
    Step { ops, memory }
}

/// Bytes on the device in a step of a run that is one micro-batch of `micro` sequences, by the shapes alone.
pub fn micro_batch_memory(run: &RunSpec, micro: u32) -> StepMemory {
    let batch = Batch {
        micro: micro as usize,
        micros: 1,
        sequence: run.data.sequence as usize,
        recompute: &run.device.recompute.policies(),
        warming: run.model.router.warmup_steps > 0,
        widths: run.device.precision.into(),
    };
    step(&run.model, &batch).memory
}

fn standing(model: &ModelSpec, widths: Widths) -> StepMemory {
    let numbers = model.parameters() + model.mtp_parameters();
    let [values, sums_width] = [widths.values, widths.sums].map(|width| width as u64);
    let (routed, experts) = (routed_layers(model), u64::from(model.experts));
    let biases = if model.router.selection_bias { routed * experts } else { 0 };
    StepMemory {
        weights_bytes: values * numbers,
        masters_bytes: if values == sums_width { 0 } else { sums_width * numbers },
        gradients_bytes: sums_width * numbers,
        moments_bytes: 2 * sums_width * numbers,
        state_bytes: sums_width * (biases + sums(model)),
        ..StepMemory::default()
    }
}

fn routed_layers(model: &ModelSpec) -> u64 {
    u64::from(model.moe_layers() + model.mtp_layers)
}

/// Sets to zero what is only ever added to: the gradients of norms and of an embedding that is not the head
/// too, and all sums. The first micro-batch writes all other gradients.
fn clear(tape: &Tape, model: &ModelSpec) {
    for span in spans(&tensors(model), |tensor| tensor.is_only_added_to(model)) {
        tape.fill(span.len());
    }
    tape.fill(sums(model) as usize);
}

/// Sums of a step beside its gradients: per routed layer the loads, two losses, two moments; two sums of
/// each of two losses; the sum of squares.
fn sums(model: &ModelSpec) -> u64 {
    routed_layers(model) * (u64::from(model.experts) + 4) + 4 + 1
}

/// One micro-batch; returns the bytes in use between forward and backward.
fn differentiate(tape: &Tape, model: &ModelSpec, batch: &Batch<'_>) -> u64 {
    let pass = layer::Pass::new(tape, model, batch);
    let [t, d, v] = [pass.t, pass.d, model.vocabulary as usize];
    let rows = if model.mtp_layers > 0 { 6 } else { 4 };
    let _inputs = tape.allocate_sums(rows * t);
    let mut x = tape.rows_out("embedding", [t, d], 2);
    let mut saved = Vec::new();
    for index in 0..model.layers as usize {
        let (out, kept) = layer::forward(&pass, index, x);
        saved.push(kept);
        x = out;
    }
    let kept_bytes = tape.in_use();
    let d_td = head(tape, model, t, false);
    if model.mtp_layers > 0 {
        mtp(&pass);
    }
    drop(x);
    for kept in saved.into_iter().rev() {
        layer::backward(&pass, kept);
    }
    drop(d_td);
    tape.table("embedding_grad", [t, d], v);
    kept_bytes
}

/// The last norm, the head, the loss and their gradients; returns the gradient by the head's input.
fn head(tape: &Tape, model: &ModelSpec, t: usize, is_second: bool) -> Allocation {
    let [d, v] = [model.width, model.vocabulary].map(|n| n as usize);
    let normed = tape.rows_out("rms_norm", [t, d], 2);
    let (features, scales) = if model.norm_head {
        let scales = tape.column_scales([v, d]);
        let scaled = tape.rows_out("scale_columns", [t, d], 2);
        drop(normed);
        (scaled, Some(scales))
    } else {
        (normed, None)
    };
    let (losses, d_features) = tape.cross_entropy_grad([t, v, d], is_second);
    tape.moves_sums("moments", [1, t], 1);
    let d_normed =
        if model.norm_head { tape.rows_out("scale_columns", [t, d], 2) } else { d_features.clone() };
    drop((scales, d_features, losses, features));
    let d_x = tape.rows_out("rms_norm_grad", [t, d], 3);
    drop(d_normed);
    d_x
}

/// The multi-token-prediction layer, forward and backward.
fn mtp(pass: &layer::Pass<'_>) {
    let (tape, model) = (pass.tape, pass.model);
    let [t, d, v] = [pass.t, pass.d, model.vocabulary as usize];
    let _tokens = tape.rows_out("embedding", [t, d], 2);
    let _token = tape.rows_out("rms_norm", [t, d], 2);
    let _final = tape.rows_out("rms_norm", [t, d], 2);
    let _normed = tape.rows_out("rms_norm", [t, d], 2);
    let joined = tape.matmul([t, d, d], "b");
    tape.matmul_onto([t, d, d], "b");
    let (out, saved) = layer::forward(pass, model.layers as usize, joined);
    let _d_joined = head(tape, model, t, true);
    drop(out);
    layer::backward(pass, saved);
    tape.matmul_weights([d, d, t]);
    tape.matmul_weights([d, d, t]);
    let _d_token = tape.matmul([t, d, d], "");
    let _d_normed = tape.matmul([t, d, d], "");
    let _d_tokens = tape.rows_out("rms_norm_grad", [t, d], 3);
    let _d_final = tape.rows_out("rms_norm_grad", [t, d], 3);
    tape.table("embedding_grad", [t, d], v);
    tape.moves("rms_norm_grad", [t, d], 4);
}

/// The gradient's norm, AdamW, selection biases.
fn update(tape: &Tape, model: &ModelSpec) {
    let numbers = (model.parameters() + model.mtp_parameters()) as usize;
    tape.fill(1);
    tape.moves_sums("sum_of_squares", [1, numbers], 1);
    tape.adamw(numbers);
    if model.router.selection_bias {
        for _ in 0..routed_layers(model) {
            tape.moves_sums("balance_bias", [1, model.experts as usize], 3);
        }
    }
}
