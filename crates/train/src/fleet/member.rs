//! One device of a fleet in a thread of its own: it takes orders, and answers with gradients or with why it cannot.

use super::entry::Opener;
use crate::error::{Error, Result};
use crate::local::Own;
use crate::optimizer::Optimizer;
use crate::worker::{self, Outcome, StepBatch};
use lingot_device::{Device, Kind};
use lingot_model::{Counts, Gradients, Model, Totals};
use lingot_spec::RunSpec;
use lingot_spec::run::Strategy;
use lingot_spec::step;
use lingot_sync::sum;
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
    /// To take what was agreed, and for a newcomer the moments of another.
    Adopt(Arc<Weights>, Option<Arc<Moments>>),
    /// A step of its own, at this learning rate.
    Step {
        step: u64,
        rate: f64,
        batch: StepBatch,
    },
    /// To bring its weights to a meeting.
    Meet,
    /// To bring its moments for a checkpoint.
    Keep,
}

/// AdamW's running means of the gradient and of its square, on the host.
pub(super) type Moments = [Vec<f32>; 2];

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
    Absent(Error),
    /// A micro-batch is done, after so long.
    Micro(Duration),
    /// Gradients are there.
    Piece(Computed),
    /// A step of its own is taken, after so long, of which it took numbers for so long.
    Stepped {
        outcome: Outcome,
        totals: Totals,
        whole: Duration,
        exchange: Duration,
        peak_memory_bytes: u64,
    },
    /// Its weights and its routers' state, brought in so long.
    Brought {
        own: Own,
        exchange: Duration,
    },
    Kept(Moments),
    /// It is of no use any more.
    Failed(Error),
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
            Err(_) => tell(News::Failed(Error::new("its thread panicked", "this is a bug; report it"))),
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
    let mut member = Member { run, gradients, model, optimizer, holds: None, taking: Duration::ZERO };
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
    Err(Error { is_device: true, ..Error::new(problem, hint) })
}

struct Member<'a> {
    run: &'a RunSpec,
    model: Model,
    /// Always zero between orders.
    gradients: Gradients,
    /// Where devices train alone.
    optimizer: Option<Optimizer>,
    /// The weights on the device.
    holds: Option<u64>,
    /// Taking what was agreed since the step before.
    taking: Duration,
}

impl Member<'_> {
    fn obey(&mut self, order: Order, tell: &dyn Fn(News)) -> Result<()> {
        match order {
            Order::Differentiate(part) => {
                let computed = self.compute(part, tell)?;
                tell(News::Piece(computed));
                self.gradients.clear()?; // While the host takes the step.
            }
            Order::Adopt(weights, moments) => self.adopt(&weights, moments.as_deref())?,
            Order::Step { step, rate, batch } => {
                tell(self.step((step, rate), &batch)?);
                self.gradients.clear()?;
            }
            Order::Meet => tell(self.bring()?),
            Order::Keep => {
                let [first, second] = self.optimizer()?.flats();
                tell(News::Kept([first.to_floats()?, second.to_floats()?]));
            }
        }
        Ok(())
    }

    fn adopt(&mut self, weights: &Weights, moments: Option<&Moments>) -> Result<()> {
        let begin = Instant::now();
        self.load(weights)?;
        if let Some(moments) = moments {
            let flats = self.optimizer()?.flats();
            flats.into_iter().zip(moments).try_for_each(|(flat, numbers)| flat.write_floats(numbers))?;
        }
        self.taking += begin.elapsed();
        Ok(())
    }

    /// One step of its own.
    fn step(&mut self, at: (u64, f64), batch: &StepBatch) -> Result<News> {
        let begin = Instant::now();
        self.holds = None;
        let optimizer = self.optimizer()?;
        let outcome = worker::step_alone(self.run, at, &self.model, optimizer, &self.gradients, batch)?;
        self.model.device.finish()?;
        Ok(News::Stepped {
            outcome,
            totals: batch.totals,
            whole: begin.elapsed(),
            exchange: std::mem::take(&mut self.taking),
            peak_memory_bytes: self.model.device.memory_in_use().peak_bytes,
        })
    }

    fn bring(&self) -> Result<News> {
        let begin = Instant::now();
        let own = (self.model.parameters.flat.to_floats()?, self.model.buffer_values()?);
        Ok(News::Brought { own, exchange: begin.elapsed() })
    }

    fn optimizer(&self) -> Result<&Optimizer> {
        self.optimizer
            .as_ref()
            .ok_or_else(|| Error::new("a device has no moments", "this is a bug; report it"))
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

impl Weights {
    /// What a device takes.
    pub(super) fn bytes(&self) -> u64 {
        4 * (self.parameters.len() + self.state.iter().map(Vec::len).sum::<usize>()) as u64
    }
}
