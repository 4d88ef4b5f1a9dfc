//! The training step that is compared: workers, each with micro-batches, whose gradients are added up; then AdamW.

use crate::faults::Wiring;
use crate::task::{self, MICROS, SEQUENCE, WORKERS};
use lingot_device::op::AdamRule;
use lingot_device::{Device, Kind, Result, Tensor, ops};
use lingot_model::{Bundle, Gradients, Inputs, Losses, Model, Totals};
use lingot_spec::ModelSpec;
use lingot_spec::run::Recompute;
use lingot_spec::tensors::Role;

/// The optimizer's numbers. The rate is small enough that a rounding error does not grow into another model.
const RULE: AdamRule =
    AdamRule { rate: 1e-3, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, decay: 0.1, step: 0, clip: 1.0 };
const WARMUP_STEPS: u64 = 50;

/// A model in training on one device.
pub struct Trainer {
    pub model: Model,
    workers: Vec<Gradients>,
    first: Bundle,
    second: Bundle,
    squares_1: Tensor,
    data_seed: u64,
    wiring: Wiring,
    step: u64,
}

impl Trainer {
    /// Initial weights from `seed`, text from `data_seed`.
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
            workers: (0..WORKERS).map(|_| model.gradients()).collect::<Result<_>>()?,
            first: Bundle::zeros(&spec, device, Kind::F32)?,
            second: Bundle::zeros(&spec, device, Kind::F32)?,
            squares_1: device.zeros(&[1], Kind::F32)?,
            model,
            data_seed,
            wiring,
            step: 0,
        })
    }

    /// The whole step's gradients, in the first worker's bundle, and its loss.
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

    /// One step; its loss before the update.
    pub fn step(&mut self) -> Result<f64> {
        let (losses, gradients) = self.differentiate()?;
        ops::fill(&self.squares_1, 0.0)?;
        ops::sum_of_squares(&gradients.bundle.flat, &self.squares_1)?;
        let step = self.step + 1;
        let warm = (step as f64 / WARMUP_STEPS as f64).min(1.0);
        for (index, tensor) in gradients.bundle.specs.iter().enumerate() {
            let decay = if tensor.role == Role::Matrix { RULE.decay } else { 0.0 };
            let rule = AdamRule { rate: RULE.rate * warm, decay, step, ..RULE };
            let moments = [&self.first.tensors[index], &self.second.tensors[index]];
            let parameter = &self.model.parameters.tensors[index];
            ops::adamw(parameter, &gradients.bundle.tensors[index], moments, &self.squares_1, rule)?;
        }
        self.workers.iter().try_for_each(|worker| self.model.balance(&worker.tally))?;
        self.step = step;
        Ok(losses.main)
    }

    /// Takes over another trainer's weights, moments, router state and place in the data.
    pub fn take_over(&mut self, other: &Trainer) -> Result<()> {
        let flats = |trainer: &Trainer| {
            [&trainer.model.parameters.flat, &trainer.first.flat, &trainer.second.flat].map(Tensor::clone)
        };
        for (to, from) in flats(self).iter().zip(flats(other)) {
            to.write_floats(&from.to_floats()?)?;
        }
        let buffers: Vec<Vec<f32>> = other.model.buffers()?.into_iter().map(|(_, values)| values).collect();
        self.model.set_buffers(&buffers)?;
        self.step = other.step;
        Ok(())
    }

    /// The names of all gradients of the step and their values.
    pub fn gradients(&self) -> Result<Vec<(String, Vec<f32>)>> {
        let bundle = &self.workers[0].bundle;
        bundle
            .specs
            .iter()
            .zip(&bundle.tensors)
            .map(|(spec, t)| Ok((spec.name.clone(), t.to_floats()?)))
            .collect()
    }

    /// Every tensor with a name, its gradient in each worker included.
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
