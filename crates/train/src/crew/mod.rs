//! Who the workers are. An engine commands them and listens to their reports; it does not know where they
//! run.
//!
//! A worker holds a working copy of the model on its device, and executes commands in their order (`member`).
//! In `threads` every worker has a device and a thread of its own, and the clock is the real one. In
//! `emulated` all workers take turns on one device, and each has a virtual clock. To add a crew, such as
//! processes on several machines, implement `Crew`: carry each command to a `Member` and each of its reports
//! back. Nothing else knows what a crew is made of.

mod arriving;
mod emulated;
mod member;
mod threads;

pub(crate) use emulated::Emulated;
pub use emulated::Tamper;
pub(crate) use threads::Threads;

use crate::compute::Outcome;
use crate::data::StepBatch;
use crate::optimizer::At;
use lingot_model::{Counts, Model, Totals};
use lingot_spec::problem::{Problem, Result};
use lingot_spec::tensors::Layer;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// Workers that execute commands and report.
pub(crate) trait Crew {
    /// Opens a worker's device as a new incarnation of the worker, and returns the incarnation's number. Its
    /// first report is `Ready`, or says why it cannot work. Reports of earlier incarnations are ignored from
    /// then on.
    fn open(&mut self, worker: usize, entry: &str) -> u64;

    /// Gives a worker a command. Commands of one worker are executed in their order. A command to a worker
    /// that has failed is dropped: its failure is among the reports.
    fn command(&mut self, worker: usize, command: Command);

    /// Returns the next report, or `None` if none arrives within `patience`.
    fn report(&mut self, patience: Duration) -> Option<Report>;

    /// Sets every worker's clock to zero: a step or a round begins.
    fn restart_clock(&mut self);

    /// Time since the clock was restarted, by the clock that is furthest ahead.
    fn elapsed_s(&self) -> f64;

    /// How long a worker that owes a report has been silent; zero where it owes none.
    fn silent_s(&self, worker: usize) -> f64;

    /// Resets the measurement of silence, after the host kept the workers waiting.
    fn restart_silence(&mut self);

    /// Seconds that a worker's next step of its own will probably take; zero where that is unknown.
    fn next_step_s(&self, worker: usize) -> f64;

    /// Whether reports come in the same order in every run. If not, the engine must fix in advance who reads
    /// what, for equal bits.
    fn is_reproducible(&self) -> bool;
}

/// What a worker is to do.
pub(crate) enum Command {
    /// Compute the gradients of a range of a step's micro-batches.
    Differentiate(Part),
    /// Take what was agreed: layer by layer, as the next forward pass reaches them.
    Adopt(Adoption),
    /// Take a step of its own.
    Step { at: At, batch: StepBatch },
    /// Do nothing but report `Waited`, when the period of A-EDiT is extended: at that report the engine
    /// decides what the worker does next. In `threads` the reports come at once, in `emulated` in the order
    /// of the virtual clocks, which do not advance.
    Wait,
    /// Bring its weights to a meeting, each layer in a buffer reused from an earlier meeting.
    BringWeights(Vec<Vec<f32>>),
    /// Bring its moments for a checkpoint.
    BringMoments,
}

/// The numbers that devices compute with in step, on the host.
pub(crate) struct Weights {
    /// Version of the weights.
    pub(crate) number: u64,
    pub(crate) parameters: Vec<f32>,
    /// The routers' state, by buffer.
    pub(crate) state: Vec<Vec<f32>>,
}

impl Weights {
    /// Bytes that a device takes.
    pub(crate) fn bytes(&self) -> u64 {
        bytes_of(std::iter::once(&self.parameters).chain(&self.state))
    }
}

/// AdamW's running means of the gradient and of its square, on the host.
pub(crate) type Moments = [Vec<f32>; 2];

/// Micro-batches whose gradients are wanted.
pub(crate) struct Part {
    pub(crate) weights: Arc<Weights>,
    /// Steps taken before this one.
    pub(crate) step: u64,
    pub(crate) batch: Arc<StepBatch>,
    /// Which of its micro-batches.
    pub(crate) range: Range<usize>,
    /// Where the gradients may be put: a buffer reused from an earlier report.
    pub(crate) memory: Vec<f32>,
}

/// What was agreed at a meeting, and for a newcomer the moments to begin with.
pub(crate) struct Adoption {
    /// The routers' state, by buffer.
    pub(crate) state: Arc<Vec<Vec<f32>>>,
    pub(crate) moments: Option<Arc<Moments>>,
    /// The weights of each layer in the order of the forward pass, once the host has summed them.
    pub(crate) layers: Receiver<Arc<Vec<f32>>>,
}

/// What a worker says.
pub(crate) struct Report {
    pub(crate) worker: usize,
    pub(crate) incarnation: u64,
    /// By the worker's clock, since it was restarted.
    pub(crate) at_s: f64,
    pub(crate) content: Content,
}

/// What a report says.
pub(crate) enum Content {
    /// Its device is open and has room for the model.
    Ready,
    /// Its device does not exist.
    Absent(Problem),
    /// It failed, and executes no more commands.
    Failed(Problem),
    /// A micro-batch is done; it took this long to compute.
    Micro(Duration),
    /// The gradients of a range of micro-batches are ready.
    Piece(Computed),
    /// A step of its own is taken.
    Stepped(Stepped),
    /// It did nothing, as `Wait` asks.
    Waited,
    /// Its weights of the next layer, copied while the host processes those of the layer before.
    Layer(Vec<f32>),
    /// All layers were brought; with its routers' state.
    Brought { state: Vec<Vec<f32>>, moved: Moved },
    /// Its moments.
    Moments(Moments),
}

impl Content {
    /// Whether it is the last report of a command.
    fn is_last(&self) -> bool {
        !matches!(self, Content::Ready | Content::Micro(_) | Content::Layer(_))
    }
}

/// Gradients of some micro-batches.
pub(crate) struct Computed {
    /// The version of the weights that they were computed with.
    pub(crate) weights: u64,
    pub(crate) range: Range<usize>,
    pub(crate) gradients: Vec<f32>,
    pub(crate) is_finite: bool,
    pub(crate) counts: Counts,
    /// From taking the command to the report.
    pub(crate) whole: Duration,
    /// What was moved between host and device.
    pub(crate) moved: Moved,
    pub(crate) peak_memory_bytes: u64,
}

/// A step of a worker's own.
pub(crate) struct Stepped {
    pub(crate) outcome: Outcome,
    pub(crate) totals: Totals,
    /// Excludes receiving and waiting for weights.
    pub(crate) compute: Duration,
    pub(crate) moved: Moved,
    pub(crate) peak_memory_bytes: u64,
}

/// Traffic between host and device.
#[derive(Clone, Copy, Default)]
pub(crate) struct Moved {
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
}

impl Moved {
    pub(crate) fn add(&mut self, more: Moved) {
        self.bytes += more.bytes;
        self.time += more.time;
    }
}

/// Bytes of f32 numbers.
pub(crate) fn bytes_of<'a>(lists: impl IntoIterator<Item = &'a Vec<f32>>) -> u64 {
    4 * lists.into_iter().map(Vec::len).sum::<usize>() as u64
}

/// Reads a model's weights of a layer into `memory`, a buffer reused from an earlier meeting or empty.
pub(crate) fn read_layer(model: &Model, layer: &Layer, mut memory: Vec<f32>) -> Result<Vec<f32>> {
    model.parameters.flat.rows(layer.numbers.start, layer.numbers.len()).read_floats(&mut memory)?;
    Ok(memory)
}
