//! Workers that train alone and meet now and then (EDiT, A-EDiT): emulated ones that take turns on one device.
//!
//! Each worker has a model, moments and a virtual clock of its own, so a run of any fleet is reproducible to the bit on
//! any machine. The lead, worker 0, is the `Worker` of the main loop: after a meeting it holds what was agreed, and is
//! what is scored and saved.

mod meeting;
mod round;
mod state;

pub(crate) use meeting::{Agreed, Decided, Own, read};
pub use round::Round;
pub(crate) use round::Sums;
pub(crate) use state::{Kept, number, tensor};

use crate::optimizer::Optimizer;
use crate::schedule;
use crate::worker::Worker;
use lingot_data::Batch;
use lingot_device::Kind;
use lingot_model::Model;
use lingot_spec::problem::{Problem, Result};
use lingot_spec::run::RunSpec;
use lingot_sync::exchange::Exchange;

/// Changes what a worker (by rank) reads in a step: bad data on purpose, for experiments.
pub type Tamper<'a> = &'a dyn Fn(usize, u64, &mut Batch);

/// The workers of a run besides the lead, and what they agreed on last.
pub struct Local {
    /// Sequences a second, by rank.
    speeds: Vec<f64>,
    /// Ranks from 1 on.
    others: Vec<Rank>,
    agreed: Agreed,
    exchange: Exchange,
    /// Sequences that were trained on: where the next sample lies.
    samples: u64,
    /// The others still have to take the lead's weights: the run is young, or in step.
    are_apart: bool,
}

/// One worker's own.
struct Rank {
    model: Model,
    optimizer: Optimizer,
}

/// Whether the run's workers are emulated ones.
pub fn is_emulated(run: &RunSpec) -> bool {
    !run.sync.virtual_speeds.is_empty()
}

impl Local {
    /// The workers that `sync.virtual_speeds` names, as the lead's checkpoint left them.
    pub fn open(lead: &mut Worker<'_>) -> Result<Local> {
        let run = lead.run;
        let speeds = run.sync.virtual_speeds.clone();
        let others = (1..speeds.len())
            .map(|_| {
                let model = Model::blank(&run.model, &lead.model.device, Kind::F32)?;
                Ok(Rank { optimizer: Optimizer::new(&model)?, model })
            })
            .collect::<Result<Vec<Rank>>>()?;
        let agreed = Agreed::new(&lead.model, speeds.len())?;
        let samples = schedule::first_sample(&run.batch, lead.step);
        let exchange = Exchange::default();
        let mut local = Local { speeds, others, agreed, exchange, samples, are_apart: false };
        local.restore(lead)?;
        Ok(local)
    }

    /// Sequences of a worker's step.
    fn share(&self, run: &RunSpec) -> u32 {
        run.batch.sequences / self.speeds.len() as u32
    }

    /// The others become what the lead is: weights, routers' state and moments.
    fn follow(&mut self, lead: &Worker<'_>) -> Result<()> {
        let weights = lead.model.parameters.flat.to_floats()?;
        let buffers = lead.model.buffer_values()?;
        let [first, second] = lead.optimizer.flats();
        let (first, second) = (first.to_floats()?, second.to_floats()?);
        for rank in &mut self.others {
            rank.model.parameters.flat.write_floats(&weights)?;
            rank.model.set_buffers(&buffers)?;
            let [own_first, own_second] = rank.optimizer.flats();
            own_first.write_floats(&first)?;
            own_second.write_floats(&second)?;
        }
        self.agreed.take(&lead.model)?;
        self.are_apart = true;
        Ok(())
    }
}

/// No worker took a step that could be applied.
pub(crate) fn nothing_finite(step: u64, rate: f64) -> Problem {
    Problem::new(
        format!("no worker had a finite loss and gradient in the round that began after step {step}"),
        format!(
            "lower optimizer.rate ({rate}) and run the same command again: it goes on from the newest checkpoint"
        ),
    )
}
