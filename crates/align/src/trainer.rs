//! The training step that is compared: workers with micro-batches of their own, whose gradients are summed;
//! then AdamW.

use crate::faults::Wiring;
use crate::task::{self, MICROS, SEQUENCE, WORKERS};
use lingot_device::{Device, Kind, Tensor, ops};
use lingot_model::{Gradients, Inputs, Losses, Model, Totals};
use lingot_spec::ModelSpec;
use lingot_spec::Result;
use lingot_spec::run::{OptimizerSpec, Recompute};
use lingot_train::optimizer::Optimizer;

/// The optimizer's settings. Sooner or later any rounding error changes some token's choice of experts, and
/// from there on two sound devices have two models. The difference of their losses grows with the rate;
/// docs/alignment.md has figures.
const RULE: OptimizerSpec =
    OptimizerSpec { rate: 1e-4, beta1: 0.9, beta2: 0.95, epsilon: 1e-5, decay: 0.1, clip: 1.0 };
const WARMUP_STEPS: u64 = 50;

/// A model in training on one device.
pub struct Trainer {
    /// The model, with its weights on the device.
    pub model: Model,
    workers: Vec<Gradients>,
    optimizer: Optimizer,
    data_seed: u64,
    wiring: Wiring,
    step: u64,
}

impl Trainer {
    /// Makes initial weights from `seed`; the text will come from `data_seed`.
    pub fn new(
        spec: &ModelSpec,
        device: &Device,
        seed: u64,
        data_seed: u64,
        wiring: Wiring,
    ) -> Result<Trainer> {
        let spec = wiring.rewire(spec);
        let model = Model::new(&spec, device, Kind::F32, seed)?;
        Ok(Trainer {
            workers: (0..WORKERS).map(|_| model.gradients()).collect::<lingot_device::Result<_>>()?,
            optimizer: Optimizer::new(&model)?,
            model,
            data_seed,
            wiring,
            step: 0,
        })
    }

    /// Computes the step's loss, and its gradients in the first worker's bundle.
    pub fn differentiate(&self) -> Result<(Losses, &Gradients)> {
        let micros: Vec<_> = (0..(WORKERS * MICROS) as u64)
            .map(|index| task::micro(self.data_seed, self.step, index))
            .collect();
        let mut totals = Totals::default();
        micros.iter().for_each(|micro| totals.add(&micro.rows(), false));
        let mut loss = Losses::default();
        for (worker, micros) in self.workers.iter().zip(micros.chunks(MICROS)) {
            worker.clear()?;
            for micro in micros {
                let inputs = Inputs::new(&self.model.device, micro.rows(), false)?;
                let totals = self.wiring.totals(totals, &micro.rows());
                self.model.differentiate(&inputs, totals, None, &[Recompute::Nothing], worker)?;
            }
            let losses = worker.losses(&self.model.spec, totals, SEQUENCE)?;
            loss.main += losses.main;
            loss.total += losses.total;
        }
        let sum = &self.workers[0];
        for worker in &self.workers[1..self.wiring.workers_heard(WORKERS)] {
            ops::add(&sum.bundle.flat, &worker.bundle.flat)?;
        }
        Ok((loss, sum))
    }

    /// Takes one step and returns its loss, which is that before the update.
    pub fn step(&mut self) -> Result<f64> {
        let (losses, gradients) = self.differentiate()?;
        self.optimizer.gradient_norm(gradients)?;
        let step = self.step + 1;
        let warm = (step as f64 / WARMUP_STEPS as f64).min(1.0);
        self.optimizer.update(&self.model, gradients, &RULE, RULE.rate * warm, step)?;
        self.workers.iter().try_for_each(|worker| self.model.balance(&worker.tally))?;
        self.step = step;
        Ok(losses.main)
    }

    /// Copies another trainer's weights, moments, router state and place in the data.
    pub fn take_over(&mut self, other: &Trainer) -> Result<()> {
        self.model.overwrite(0, &other.model.parameters.flat.to_floats()?)?;
        for (to, from) in self.optimizer.flats().iter().zip(other.optimizer.flats()) {
            to.write_floats(&from.to_floats()?)?;
        }
        self.model.set_buffers(&other.model.buffer_values()?)?;
        self.step = other.step;
        Ok(())
    }

    /// Reads the gradients of the step, each with its name.
    pub fn gradients(&self) -> Result<Vec<(String, Vec<f32>)>> {
        let bundle = &self.workers[0].bundle;
        bundle
            .specs
            .iter()
            .zip(&bundle.tensors)
            .map(|(spec, t)| Ok((spec.name.clone(), t.to_floats()?)))
            .collect()
    }

    /// Returns every named tensor, its gradient in each worker included.
    pub(crate) fn named(&self) -> Vec<(String, Tensor)> {
        let bundles = std::iter::once((&self.model.parameters, ""));
        let gradients = self.workers.iter().map(|worker| (&worker.bundle, "gradient of "));
        bundles
            .chain(gradients)
            .flat_map(|(bundle, what)| {
                let named = bundle.specs.iter().zip(&bundle.tensors);
                named.map(move |(spec, tensor)| (format!("{what}{}", spec.name), tensor.clone()))
            })
            .collect()
    }
}
