//! One device of a fleet in a thread of its own: it takes orders, and answers with gradients or with why it cannot.

use crate::local;
use crate::optimizer::Optimizer;
use crate::worker::{self, Outcome, StepBatch};
use lingot_device::entry::Opener;
use lingot_device::{Device, Kind};
use lingot_model::{Counts, Gradients, Model, Pass, Seam, Totals};
use lingot_spec::RunSpec;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use lingot_spec::run::Strategy;
use lingot_spec::step;
use lingot_spec::tensors::{Layer, layers};
use lingot_sync::sum;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// What the devices compute with: the agreed numbers, on the host.
pub(super) struct Weights {
    /// Tells one set of numbers from the next.
    pub(super) number: u64,
    pub(super) parameters: Vec<f32>,
    /// The routers' state.
    pub(super) state: Vec<Vec<f32>>,
}

/// What a device is asked for.
pub(super) enum Order {
    Differentiate(Part),
    /// To take what was agreed: layer by layer, as its next forward pass reaches them.
    Adopt(Agreement),
    /// A step of its own, at this learning rate.
    Step {
        step: u64,
        rate: f64,
        batch: StepBatch,
    },
    /// To bring its weights to a meeting, each layer in memory that an earlier one has left.
    Meet(Vec<Vec<f32>>),
    /// To bring its moments for a checkpoint.
    Keep,
}

/// AdamW's running means of the gradient and of its square, on the host.
pub(super) type Moments = [Vec<f32>; 2];

/// What was agreed, and for a newcomer the moments of another.
pub(super) struct Agreement {
    pub(super) state: Arc<Vec<Vec<f32>>>,
    pub(super) moments: Option<Arc<Moments>>,
    /// The weights of each layer in the order of the forward pass, once the host has summed them.
    pub(super) layers: Receiver<Arc<Vec<f32>>>,
}

/// The gradients of some micro-batches of a step.
pub(super) struct Part {
    pub(super) weights: Arc<Weights>,
    pub(super) step: u64,
    pub(super) batch: Arc<StepBatch>,
    pub(super) range: Range<usize>,
    /// Where the gradients may be put: memory that an earlier answer has left.
    pub(super) room: Vec<f32>,
}

/// What a device says.
pub(super) enum News {
    /// It is open and has room for the model.
    Ready,
    /// There is no such device.
    Absent(Problem),
    /// A micro-batch is done, after so long.
    Micro(Duration),
    /// Gradients are there.
    Piece(Computed),
    /// A step of its own is taken.
    Stepped {
        outcome: Outcome,
        totals: Totals,
        /// Without taking numbers and waiting for them.
        compute: Duration,
        moved: Moved,
        peak_memory_bytes: u64,
    },
    /// Its weights of the next layer. Copied while the host looks at those of the layer before.
    Layer(Vec<f32>),
    /// All layers were brought; its routers' state.
    Brought {
        state: Vec<Vec<f32>>,
        moved: Moved,
    },
    Kept(Moments),
    /// It is of no use any more.
    Failed(Problem),
}

/// Numbers that a device took and brought since it last said so.
#[derive(Clone, Copy, Default)]
pub(super) struct Moved {
    pub(super) bytes: u64,
    pub(super) time: Duration,
}

/// An order's result.
pub(super) struct Computed {
    /// The `Weights` it was computed with.
    pub(super) number: u64,
    pub(super) range: Range<usize>,
    pub(super) gradients: Vec<f32>,
    pub(super) is_finite: bool,
    pub(super) counts: Counts,
    /// From the order to the answer.
    pub(super) whole: Duration,
    /// Moving numbers between host and device, and how many bytes.
    pub(super) exchange: Duration,
    pub(super) bytes: u64,
    pub(super) peak_memory_bytes: u64,
}

/// News, and from whom. A worker that was given up and opened again has another life.
pub(super) struct Answer {
    pub(super) worker: usize,
    pub(super) life: u64,
    pub(super) news: News,
}

/// Begins a thread that opens the device and works until its orders end.
pub(super) fn begin(
    entry: String,
    open: Opener,
    run: Arc<RunSpec>,
    who: (usize, u64),
    answers: Sender<Answer>,
) -> Sender<Order> {
    let (orders, to_do) = channel();
    let (worker, life) = who;
    // Not joined: a thread whose device hangs never ends.
    std::thread::spawn(move || {
        // The receiver is gone once the run is over; then nobody wants to know.
        let tell = |news| drop(answers.send(Answer { worker, life, news }));
        let work = || live(&entry, &open, &run, &to_do, &tell);
        // A panic of a vendor's library is that device's failure, not the run's.
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tell(News::Failed(error)),
            Err(_) => tell(News::Failed(Problem::new("its thread panicked", "this is a bug; report it"))),
        }
    });
    orders
}

fn live(
    entry: &str,
    open: &Opener,
    run: &RunSpec,
    orders: &Receiver<Order>,
    tell: &dyn Fn(News),
) -> Result<()> {
    let device = match open(entry) {
        Ok(device) => device,
        Err(error) => {
            tell(News::Absent(error));
            return Ok(());
        }
    };
    check_room(run, &device)?;
    let model = Model::blank(&run.model, &device, Kind::F32)?;
    let optimizer = is_apart(run).then(|| Optimizer::new(&model)).transpose()?;
    let gradients = model.gradients()?;
    let layers = layers(&run.model);
    let mut member = Member {
        run,
        gradients,
        model,
        optimizer,
        layers,
        holds: None,
        coming: None,
        moved: Moved::default(),
    };
    tell(News::Ready);
    while let Ok(order) = orders.recv() {
        member.obey(order, tell)?;
    }
    Ok(())
}

/// Whether devices train alone for a part of the run: then each has moments of its own.
fn is_apart(run: &RunSpec) -> bool {
    run.sync.strategy != Strategy::EveryStep
}

/// One micro-batch has to fit: its weights, gradients and activations. In step, moments stay on the host.
fn check_room(run: &RunSpec, device: &Device) -> Result<()> {
    let batch = step::Batch {
        micro: run.batch.micro as usize,
        micros: 1,
        sequence: run.data.sequence as usize,
        recompute: &worker::recompute(run),
        warming: run.model.router.warmup_steps > 0,
    };
    let memory = step::step(&run.model, &batch).memory;
    let needs = memory.peak_bytes - if is_apart(run) { 0 } else { memory.moments_bytes };
    let has = device.info().memory_bytes;
    if has == 0 || needs <= has {
        return Ok(());
    }
    let problem = format!(
        "a micro-batch of {} sequences takes {needs} bytes on {}, which has {has}: {} too few",
        run.batch.micro,
        device.info().name,
        needs - has
    );
    let hint = "use a smaller batch.micro, device.recompute = \"block\", or a smaller model";
    Err(Problem::new(problem, hint).of(ProblemKind::Device))
}

struct Member<'a> {
    run: &'a RunSpec,
    model: Model,
    /// Always zero between orders.
    gradients: Gradients,
    /// Where devices train alone.
    optimizer: Option<Optimizer>,
    layers: Vec<Layer>,
    /// The weights on the device.
    holds: Option<u64>,
    coming: Option<Coming>,
    moved: Moved,
}

/// Weights that are on their way.
struct Coming {
    from_host: Receiver<Arc<Vec<f32>>>,
    /// Layers that are here: the first so many.
    arrived: usize,
    moved: Moved,
    waited: Duration,
}

impl Member<'_> {
    fn obey(&mut self, order: Order, tell: &dyn Fn(News)) -> Result<()> {
        match order {
            Order::Differentiate(part) => {
                let computed = self.compute(part, tell)?;
                tell(News::Piece(computed));
                self.gradients.clear()?; // While the host takes the step.
            }
            Order::Adopt(agreement) => self.adopt(agreement)?,
            Order::Step { step, rate, batch } => {
                tell(self.step((step, rate), &batch)?);
                self.gradients.clear()?;
            }
            Order::Meet(room) => self.bring(room, tell)?,
            Order::Keep => {
                let [first, second] = self.optimizer()?.flats();
                tell(News::Kept([first.to_floats()?, second.to_floats()?]));
            }
        }
        Ok(())
    }

    /// Weights follow: they are taken as the next forward pass reaches them.
    fn adopt(&mut self, Agreement { state, moments, layers }: Agreement) -> Result<()> {
        let begin = Instant::now();
        self.holds = None;
        self.model.set_buffers(&state)?;
        self.moved.bytes += 4 * state.iter().map(Vec::len).sum::<usize>() as u64;
        if let Some(moments) = moments {
            let flats = self.optimizer()?.flats();
            flats
                .into_iter()
                .zip(moments.iter())
                .try_for_each(|(flat, numbers)| flat.write_floats(numbers))?;
            self.moved.bytes += 4 * moments.iter().map(Vec::len).sum::<usize>() as u64;
        }
        self.moved.time += begin.elapsed();
        let moved = Moved::default();
        self.coming = Some(Coming { from_host: layers, arrived: 0, moved, waited: Duration::ZERO });
        Ok(())
    }

    /// One step of its own.
    fn step(&mut self, at: (u64, f64), batch: &StepBatch) -> Result<News> {
        let begin = Instant::now();
        let coming = RefCell::new(self.coming.take());
        let seam = Arriving { coming: &coming, layers: &self.layers, model: &self.model };
        let optimizer = self.optimizer()?;
        let outcome =
            worker::step_alone(self.run, at, &self.model, optimizer, &self.gradients, batch, &seam)?;
        self.model.device.finish()?;
        let mut compute = begin.elapsed();
        if let Some(coming) = coming.into_inner() {
            compute = compute.saturating_sub(coming.moved.time + coming.waited);
            self.moved.add(coming.moved);
        }
        let peak_memory_bytes = self.model.device.memory_in_use().peak_bytes;
        self.model.device.restart_peak();
        Ok(News::Stepped {
            outcome,
            totals: batch.totals,
            compute,
            moved: std::mem::take(&mut self.moved),
            peak_memory_bytes,
        })
    }

    /// Layer by layer, so that the host can look at one while the next is copied.
    fn bring(&mut self, room: Vec<Vec<f32>>, tell: &dyn Fn(News)) -> Result<()> {
        if let (Some(mut coming), Some(last)) = (self.coming.take(), self.layers.last()) {
            coming.reach(&last.name, &self.layers, &self.model)?; // It took no step.
            self.moved.add(coming.moved);
        }
        for (layer, room) in self.layers.iter().zip(room.into_iter().chain(std::iter::repeat_with(Vec::new)))
        {
            let begin = Instant::now();
            let weights = local::read(&self.model, layer, room)?;
            self.moved.add(Moved { bytes: 4 * weights.len() as u64, time: begin.elapsed() });
            tell(News::Layer(weights));
        }
        let begin = Instant::now();
        let state = self.model.buffer_values()?;
        let bytes = 4 * state.iter().map(Vec::len).sum::<usize>() as u64;
        self.moved.add(Moved { bytes, time: begin.elapsed() });
        tell(News::Brought { state, moved: std::mem::take(&mut self.moved) });
        Ok(())
    }

    fn optimizer(&self) -> Result<&Optimizer> {
        self.optimizer
            .as_ref()
            .ok_or_else(|| Problem::new("a device has no moments", "this is a bug; report it"))
    }

    fn compute(&mut self, part: Part, tell: &dyn Fn(News)) -> Result<Computed> {
        let whole = Instant::now();
        let Part { weights, step, batch, range, room } = part;
        let mut computed = self.take(&weights, range.clone(), room)?;
        let mut sample: u64 = batch.micros[..range.start].iter().map(|micro| micro.sequences as u64).sum();
        for micro in &batch.micros[range] {
            let begin = Instant::now();
            worker::differentiate(self.run, step, &self.model, &self.gradients, micro, sample, batch.totals)?;
            self.model.device.finish()?;
            tell(News::Micro(begin.elapsed()));
            sample += micro.sequences as u64;
        }
        let begin = Instant::now();
        self.gradients.bundle.flat.read_floats(&mut computed.gradients)?;
        computed.counts = self.gradients.tally.counts()?;
        computed.is_finite = sum::is_finite(&computed.gradients) && computed.counts.is_sound();
        computed.bytes += 4 * (computed.gradients.len() + computed.counts.len()) as u64;
        computed.exchange += begin.elapsed();
        computed.peak_memory_bytes = self.model.device.memory_in_use().peak_bytes;
        self.model.device.restart_peak();
        computed.whole = whole.elapsed();
        Ok(computed)
    }

    fn load(&mut self, weights: &Weights) -> Result<()> {
        self.holds = None;
        self.model.parameters.flat.write_floats(&weights.parameters)?;
        self.model.set_buffers(&weights.state)?;
        self.model.device.finish()?;
        self.holds = Some(weights.number);
        Ok(())
    }

    /// The device takes the weights, unless it holds them.
    fn take(&mut self, weights: &Weights, range: Range<usize>, room: Vec<f32>) -> Result<Computed> {
        let begin = Instant::now();
        let mut bytes = 0;
        if self.holds != Some(weights.number) {
            self.load(weights)?;
            bytes = weights.bytes();
        }
        Ok(Computed {
            number: weights.number,
            range,
            gradients: room,
            is_finite: true,
            counts: Counts::default(),
            whole: Duration::ZERO,
            exchange: begin.elapsed(),
            bytes,
            peak_memory_bytes: 0,
        })
    }
}

/// The seam through which agreed weights arrive, layer by layer; gradients stay on the device.
struct Arriving<'a> {
    coming: &'a RefCell<Option<Coming>>,
    layers: &'a [Layer],
    model: &'a Model,
}

impl Seam for Arriving<'_> {
    fn arrive(&self, layer: &Layer, _pass: Pass) -> lingot_device::Result<()> {
        match &mut *self.coming.borrow_mut() {
            Some(coming) => coming.reach(&layer.name, self.layers, self.model),
            None => Ok(()),
        }
    }

    fn leave(&self, _layer: &Layer) -> lingot_device::Result<()> {
        Ok(())
    }
}

impl Coming {
    /// Takes layers until the one of that name is here.
    fn reach(&mut self, layer: &str, layers: &[Layer], model: &Model) -> lingot_device::Result<()> {
        while self.arrived < layers.len() && !layers[..self.arrived].iter().any(|here| here.name == layer) {
            let begin = Instant::now();
            let gone = |_| lingot_device::Error::Lost {
                device: "the host".into(),
                reason: "it gave the exchange up".into(),
            };
            let weights = self.from_host.recv().map_err(gone)?;
            let taken = Instant::now();
            let Layer { numbers, .. } = &layers[self.arrived];
            model.parameters.flat.rows(numbers.start, numbers.len()).write_floats(&weights)?;
            self.arrived += 1;
            self.waited += taken - begin;
            self.moved.add(Moved { bytes: 4 * weights.len() as u64, time: taken.elapsed() });
        }
        Ok(())
    }
}

impl Moved {
    fn add(&mut self, more: Moved) {
        self.bytes += more.bytes;
        self.time += more.time;
    }
}

impl Weights {
    /// What a device takes.
    pub(super) fn bytes(&self) -> u64 {
        4 * (self.parameters.len() + self.state.iter().map(Vec::len).sum::<usize>()) as u64
    }
}
