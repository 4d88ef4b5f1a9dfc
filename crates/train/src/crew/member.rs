//! A worker's side of the commands: a working copy of the model on one device, and what is done with it.

use super::arriving::{Arrival, Arriving};
use super::{Adoption, Command, Computed, Content, Moved, Part, Stepped, Weights, bytes_of, read_layer};
use crate::compute::{self, Micro};
use crate::data::StepBatch;
use crate::optimizer::{At, Optimizer};
use lingot_device::Device;
use lingot_model::{Counts, Gradients, Model};
use lingot_spec::RunSpec;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use lingot_spec::run::Strategy;
use lingot_spec::step::micro_batch_memory;
use lingot_spec::tensors::{Layer, layers};
use lingot_sync::sum;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// One worker on its device.
pub(super) struct Member {
    run: Arc<RunSpec>,
    model: Model,
    /// Cleared between commands, so that members of one device may share it.
    gradients: Rc<Gradients>,
    /// There where workers train alone for a part of the run.
    optimizer: Option<Optimizer>,
    layers: Vec<Layer>,
    /// The number of the weights on the device, of those that are given out in step.
    holds: Option<u64>,
    arriving: Option<Arriving>,
    /// Since the last report that said so.
    moved: Moved,
}

/// Takes a member's reports.
pub(super) type Tell<'a> = &'a mut dyn FnMut(Content);

impl Member {
    /// Makes a member on a device that is open. `gradients` is memory that members of the same device share.
    pub(super) fn open(
        run: Arc<RunSpec>,
        device: &Device,
        gradients: Option<Rc<Gradients>>,
    ) -> Result<Member> {
        let model = Model::blank(&run.model, device, run.device.precision.into())?;
        let trains_alone = run.sync.strategy != Strategy::EveryStep;
        Ok(Member {
            optimizer: trains_alone.then(|| Optimizer::new(&model)).transpose()?,
            gradients: gradients.map_or_else(|| model.gradients().map(Rc::new), Ok)?,
            layers: layers(&run.model),
            holds: None,
            arriving: None,
            moved: Moved::default(),
            model,
            run,
        })
    }

    pub(super) fn gradients(&self) -> &Rc<Gradients> {
        &self.gradients
    }

    /// Executes a command. After an error the member is of no use any more.
    pub(super) fn execute(&mut self, command: Command, tell: Tell<'_>) -> Result<()> {
        match command {
            Command::Differentiate(part) => {
                let computed = self.compute(part, tell)?;
                tell(Content::Piece(computed));
                self.gradients.clear()?; // While the host takes the step.
            }
            Command::Adopt(adoption) => self.adopt(adoption)?,
            Command::Step { at, batch } => {
                tell(Content::Stepped(self.step(at, &batch)?));
                self.gradients.clear()?;
            }
            Command::Wait => tell(Content::Waited),
            Command::BringWeights(memory) => self.bring(memory, tell)?,
            Command::BringMoments => {
                let [first, second] = self.optimizer()?.flats();
                tell(Content::Moments([first.to_floats()?, second.to_floats()?]));
            }
        }
        Ok(())
    }

    /// Computes the gradients of some micro-batches, and reads them off the device.
    fn compute(&mut self, part: Part, tell: Tell<'_>) -> Result<Computed> {
        let whole = Instant::now();
        let Part { weights, step, batch, range, memory: mut gradients } = part;
        let mut moved = self.take(&weights)?;
        let before = batch.micros[..range.start].iter();
        let mut first_sequence: u64 = before.map(|micro| micro.sequences as u64).sum();
        for micro in &batch.micros[range.clone()] {
            let begin = Instant::now();
            let within = Micro { step, first_sequence, batch: micro, totals: batch.totals };
            let inputs = compute::upload(&self.model, micro)?;
            compute::differentiate(&self.run, &self.model, &self.gradients, &within, &inputs)?;
            self.model.device.finish()?;
            tell(Content::Micro(begin.elapsed()));
            first_sequence += micro.sequences as u64;
        }
        let begin = Instant::now();
        self.gradients.bundle.flat.read_floats(&mut gradients)?;
        let counts: Counts = self.gradients.tally.counts()?;
        let is_finite = sum::is_finite(&gradients) && counts.is_sound();
        let bytes = bytes_of([&gradients]) + 4 * counts.len() as u64;
        moved.add(Moved { bytes, time: begin.elapsed() });
        Ok(Computed {
            weights: weights.number,
            range,
            gradients,
            is_finite,
            counts,
            whole: whole.elapsed(),
            moved,
            peak_memory_bytes: self.take_peak_memory_bytes(),
        })
    }

    /// Takes the weights, unless the device holds them. Returns what was moved.
    fn take(&mut self, weights: &Weights) -> Result<Moved> {
        let begin = Instant::now();
        let holds_them = self.holds == Some(weights.number);
        if !holds_them {
            self.holds = None;
            self.model.overwrite(0, &weights.parameters)?;
            self.model.set_buffers(&weights.state)?;
            self.model.device.finish()?;
            self.holds = Some(weights.number);
        }
        Ok(Moved { bytes: if holds_them { 0 } else { weights.bytes() }, time: begin.elapsed() })
    }

    /// Takes state and moments; the weights are taken as the next forward pass reaches them.
    fn adopt(&mut self, Adoption { state, moments, layers }: Adoption) -> Result<()> {
        let begin = Instant::now();
        self.holds = None;
        self.model.set_buffers(&state)?;
        let mut bytes = bytes_of(&*state);
        if let Some(moments) = moments {
            for (flat, numbers) in self.optimizer()?.flats().into_iter().zip(&*moments) {
                flat.write_floats(numbers)?;
            }
            bytes += bytes_of(&*moments);
        }
        self.moved.add(Moved { bytes, time: begin.elapsed() });
        self.arriving = Some(Arriving::new(layers));
        Ok(())
    }

    /// Takes one step of its own.
    fn step(&mut self, at: At, batch: &StepBatch) -> Result<Stepped> {
        let begin = Instant::now();
        let arriving = RefCell::new(self.arriving.take());
        let seam = Arrival { arriving: &arriving, layers: &self.layers, model: &self.model };
        let (optimizer, gradients) = (self.optimizer()?, &self.gradients);
        let outcome = compute::step_alone(&self.run, at, &self.model, optimizer, gradients, batch, &seam)?;
        self.model.device.finish()?;
        let mut compute = begin.elapsed();
        if let Some(arriving) = arriving.into_inner() {
            compute = compute.saturating_sub(arriving.moved.time + arriving.waited);
            self.moved.add(arriving.moved);
        }
        Ok(Stepped {
            outcome,
            totals: batch.totals,
            compute,
            moved: std::mem::take(&mut self.moved),
            peak_memory_bytes: self.take_peak_memory_bytes(),
        })
    }

    /// Brings the weights layer by layer, so that the host can look at one while the next is copied.
    fn bring(&mut self, memory: Vec<Vec<f32>>, tell: Tell<'_>) -> Result<()> {
        if let (Some(mut arriving), Some(last)) = (self.arriving.take(), self.layers.last()) {
            arriving.reach(&last.name, &self.layers, &self.model)?; // It took no step.
            self.moved.add(arriving.moved);
        }
        let memory = memory.into_iter().chain(std::iter::repeat_with(Vec::new));
        for (layer, memory) in self.layers.iter().zip(memory) {
            let begin = Instant::now();
            let weights = read_layer(&self.model, layer, memory)?;
            self.moved.add(Moved { bytes: bytes_of([&weights]), time: begin.elapsed() });
            tell(Content::Layer(weights));
        }
        let begin = Instant::now();
        let state = self.model.buffer_values()?;
        self.moved.add(Moved { bytes: bytes_of(&state), time: begin.elapsed() });
        tell(Content::Brought { state, moved: std::mem::take(&mut self.moved) });
        Ok(())
    }

    fn optimizer(&self) -> Result<&Optimizer> {
        self.optimizer.as_ref().ok_or_else(|| Problem::bug("a worker in step has no moments"))
    }

    /// The largest sum of tensors since the last call.
    fn take_peak_memory_bytes(&self) -> u64 {
        let peak_bytes = self.model.device.memory_in_use().peak_bytes;
        self.model.device.restart_peak();
        peak_bytes
    }
}

/// Says why a device has no room for one micro-batch: its weights, gradients and activations. In step,
/// moments stay on the host.
pub(super) fn room_problem(run: &RunSpec, device: &Device) -> Option<Problem> {
    let memory = micro_batch_memory(run, run.batch.micro);
    let in_step = run.sync.strategy == Strategy::EveryStep;
    let needs = memory.peak_bytes - if in_step { memory.moments_bytes } else { 0 };
    let has = device.info().memory_bytes;
    if has == 0 || needs <= has {
        return None;
    }
    let problem = format!(
        "a micro-batch of {} sequences takes {needs} bytes on {}, which has {has}: {} too few",
        run.batch.micro,
        device.info().name,
        needs - has
    );
    let hint = "use a smaller batch.micro, device.recompute = \"block\", or a smaller model";
    Some(Problem::new(problem, hint).of(ProblemKind::Device))
}
