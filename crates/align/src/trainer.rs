//! The training step that is compared: workers with micro-batches of their own, whose gradients and loads are
//! summed; then AdamW and the selection bias.

use crate::faults::Wiring;
use crate::faults::wiring::{Past, after_update, alters_updates};
use crate::task::{MICROS, Pace, Task, WORKERS};
use lingot_device::{Device, Kind, Tensor, ops};
use lingot_model::{Bundle, Counts, Gradients, Inputs, Losses, Model, Totals};
use lingot_spec::Result;
use lingot_spec::run::{OptimizerSpec, Recompute};
use lingot_train::optimizer::Optimizer;

/// A model in training on one device.
pub struct Trainer<'a> {
    /// The model, with its weights on the device.
    pub model: Model,
    pub(crate) task: &'a Task,
    workers: Vec<Gradients>,
    optimizer: Optimizer,
    pace: Pace,
    data_seed: u64,
    wiring: Wiring,
    past: Past,
    step: u64,
}

/// What a step says about itself.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The losses before the update.
    pub losses: Losses,
    /// The gradient's norm before clipping.
    pub norm: f64,
    /// How often each expert was chosen, by router and expert; empty where no bias follows it.
    pub loads: Vec<Vec<i32>>,
}

impl<'a> Trainer<'a> {
    /// Makes initial weights from `seed`; the text will come from `data_seed`. `kind` is f32 or bf16, or f64
    /// on the definitions.
    pub fn new(
        task: &'a Task,
        device: &Device,
        kind: Kind,
        [seed, data_seed]: [u64; 2],
        wiring: Wiring,
    ) -> Result<Trainer<'a>> {
        let model = Model::new(&wiring.rewire(task), device, kind, seed)?;
        Ok(Trainer {
            workers: (0..WORKERS).map(|_| model.gradients()).collect::<lingot_device::Result<_>>()?,
            optimizer: Optimizer::new(&model)?,
            model,
            task,
            pace: task.pace.clone(),
            data_seed,
            wiring,
            past: Past::default(),
            step: 0,
        })
    }

    /// The same with other settings of the optimizer, and its full rate from the first step on.
    pub(crate) fn with_rule(self, rule: OptimizerSpec) -> Trainer<'a> {
        Trainer { pace: Pace { rule, warmup_steps: 1, sums_loads: true }, ..self }
    }

    /// Computes the step's loss, and its gradients in the first worker's bundle.
    pub fn differentiate(&self) -> Result<(Losses, &Gradients)> {
        let count = WORKERS * MICROS;
        let micros: Vec<_> =
            (0..count as u64).map(|index| self.task.micro(self.data_seed, self.step, index)).collect();
        let mut totals = Totals::default();
        micros.iter().for_each(|micro| totals.add(&micro.rows(), false));
        let micros = &micros[..self.wiring.micros(count)];
        let mut loss = Losses::default();
        for (worker, micros) in self.workers.iter().zip(micros.chunks(MICROS)) {
            if self.wiring.clears() {
                worker.clear()?;
            }
            for micro in micros {
                let inputs = Inputs::new(&self.model.device, micro.rows(), false)?;
                let totals = self.wiring.totals(totals, &micro.rows());
                self.model.differentiate(&inputs, totals, None, &[Recompute::Nothing], worker)?;
            }
            let losses = worker.losses(&self.model.spec, totals, self.task.sequence)?;
            loss.main += losses.main;
            loss.balance += losses.balance;
            loss.z += losses.z;
            loss.total += losses.total;
        }
        let sum = &self.workers[0];
        for worker in &self.workers[1..self.wiring.workers_heard(WORKERS)] {
            ops::add(&sum.bundle.flat, &worker.bundle.flat)?;
        }
        Ok((loss, sum))
    }

    /// Takes one step and returns what is known of it before the update.
    pub fn step(&mut self) -> Result<Taken> {
        let fresh = self.past.stale_weights(self.wiring, &self.model)?;
        let (losses, _) = self.differentiate()?;
        if let Some(fresh) = fresh {
            self.model.overwrite(0, &fresh)?;
        }
        let gradients = &self.workers[0];
        let norm = self.wiring.norm(&self.optimizer, gradients)?;
        let fresh = self.past.late_gradient(self.wiring, gradients)?;
        let step = self.step + 1;
        let rate = self.pace.rule.rate * (step as f64 / self.pace.warmup_steps as f64).min(1.0);
        let parameters = &self.model.parameters.flat;
        let before = if alters_updates(self.wiring) { parameters.to_doubles()? } else { vec![] };
        self.optimizer.update(
            &self.model,
            gradients,
            &self.wiring.rule(self.pace.rule.clone()),
            rate,
            step,
        )?;
        if let Some(fresh) = fresh {
            gradients.bundle.flat.write_doubles(&fresh)?;
        }
        if !before.is_empty() {
            after_update(self.wiring, &self.model, &before, rate * self.pace.rule.decay)?;
        }
        let loads = self.balance()?;
        self.step = step;
        Ok(Taken { losses, norm, loads })
    }

    /// Moves the selection biases by the loads of all workers, which are returned.
    fn balance(&mut self) -> Result<Vec<Vec<i32>>> {
        if self.model.biases.is_empty() {
            return Ok(vec![]);
        }
        if !self.pace.sums_loads {
            self.workers.iter().try_for_each(|worker| self.model.balance(&worker.tally))?;
            return Ok(vec![]);
        }
        let first = self.workers[0].tally.counts()?;
        let mut all = first.clone();
        for worker in &self.workers[1..] {
            all.add(&worker.tally.counts()?);
        }
        let followed = Counts { loads: self.past.loads(self.wiring, &all, &first), sums: all.sums };
        self.workers[0].tally.set_counts(&followed)?;
        self.model.balance(&self.workers[0].tally)?;
        Ok(all.loads)
    }

    /// Copies another trainer's weights, moments, router state and place in the data, as a checkpoint does.
    pub fn take_over(&mut self, other: &Trainer<'_>) -> Result<()> {
        let moments = self.optimizer.flats().into_iter().zip(other.optimizer.flats());
        let weights = (&self.model.parameters.flat, &other.model.parameters.flat);
        for (index, (to, from)) in std::iter::once(weights).chain(moments).enumerate() {
            let mut values = from.to_floats()?;
            self.wiring.saved(&self.model.parameters, index, &mut values);
            if index == 0 {
                self.model.overwrite(0, &values)?;
            } else {
                to.write_floats(&values)?;
            }
        }
        self.model.set_buffers(&other.model.buffer_values()?)?;
        self.step = other.step;
        Ok(())
    }

    /// Reads the gradients of the step, each with its name.
    pub fn gradients(&self) -> Result<Vec<(String, Vec<f32>)>> {
        let bundle = self.gradient();
        bundle
            .specs
            .iter()
            .zip(&bundle.tensors)
            .map(|(spec, t)| Ok((spec.name.clone(), t.to_floats()?)))
            .collect()
    }

    /// The sum of the step's gradients, all in one.
    pub(crate) fn gradient(&self) -> &Bundle {
        &self.workers[0].bundle
    }

    /// Both moments, each as one flat tensor.
    pub(crate) fn moments(&self) -> [&Tensor; 2] {
        self.optimizer.flats()
    }

    /// Returns every named tensor, its gradient in each worker included.
    pub(crate) fn named(&self) -> Vec<(String, Tensor)> {
        let weights = std::iter::once(&self.model.parameters).chain(&self.model.working);
        let gradients = self.workers.iter().map(|worker| (&worker.bundle, "gradient of "));
        weights
            .map(|bundle| (bundle, ""))
            .chain(gradients)
            .flat_map(|(bundle, what)| {
                let named = bundle.specs.iter().zip(&bundle.tensors);
                named.map(move |(spec, tensor)| (format!("{what}{}", spec.name), tensor.clone()))
            })
            .collect()
    }
}
