//! Faults in how a step is put together outside the ops, and how it is put together without one.

use super::Planted;
use crate::task::Task;
use lingot_device::Result;
use lingot_model::{Bundle, Counts, Gradients, Model, Rows, Totals};
use lingot_spec::ModelSpec;
use lingot_spec::run::OptimizerSpec;
use lingot_spec::tensors::Role;
use lingot_train::optimizer::Optimizer;

/// How the step is put together: as it should be, or with a fault.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wiring(pub(crate) Option<Planted>);

impl Wiring {
    fn has(self, planted: Planted) -> bool {
        self.0 == Some(planted)
    }

    pub(crate) fn rewire(self, task: &Task) -> ModelSpec {
        let mut spec = task.model.clone();
        match self.0 {
            Some(Planted::NormHeadMissing) => spec.norm_head = false,
            Some(Planted::BalanceScopeFollowsMicroBatch) => {
                spec.router.balance_sequences = task.micro as u32;
            }
            _ => {}
        }
        spec
    }

    pub(crate) fn totals(self, step: Totals, rows: &Rows<'_>) -> Totals {
        if !self.has(Planted::MicroBatchScale) {
            return step;
        }
        let mut own = Totals::default();
        own.add(rows, false);
        own
    }

    pub(crate) fn workers_heard(self, workers: usize) -> usize {
        workers - usize::from(self.has(Planted::ReductionLosesWorker))
    }

    /// How many of a step's micro-batches are computed.
    pub(crate) fn micros(self, micros: usize) -> usize {
        micros - usize::from(self.has(Planted::LastMicroBatchLost))
    }

    pub(crate) fn clears(self) -> bool {
        !self.has(Planted::GradientsKept)
    }

    pub(crate) fn rule(self, rule: OptimizerSpec) -> OptimizerSpec {
        match self.0 {
            Some(Planted::ClipIgnored) => OptimizerSpec { clip: 0.0, ..rule },
            Some(Planted::DecaysExchanged) => OptimizerSpec { beta1: rule.beta2, beta2: rule.beta1, ..rule },
            _ => rule,
        }
    }

    /// The gradient norm, as the optimizer takes it.
    pub(crate) fn norm(self, optimizer: &Optimizer, gradients: &Gradients) -> lingot_spec::Result<f64> {
        let omitted = gradients.bundle.get("embedding").filter(|_| self.has(Planted::NormOmitsEmbedding));
        let Some(omitted) = omitted else { return optimizer.gradient_norm(gradients) };
        let values = omitted.to_doubles()?;
        omitted.write_floats(&vec![0.0; values.len()])?;
        let norm = optimizer.gradient_norm(gradients);
        omitted.write_doubles(&values)?;
        norm
    }

    /// Changes what a checkpoint holds: bundle 0 has the weights, 1 and 2 the moments.
    pub(crate) fn saved(self, bundle: &Bundle, index: usize, values: &mut [f32]) {
        if index == 2 && self.has(Planted::MomentNotSaved) {
            values.fill(0.0);
        }
        if index > 0 || !self.has(Planted::ExpertSavedForAnother) {
            return;
        }
        let mut from = 0;
        for spec in &bundle.specs {
            let count: usize = spec.shape.iter().product();
            if spec.name.ends_with("experts_down") {
                let expert = count / spec.shape[0];
                let (first, second) = values[from..from + 2 * expert].split_at_mut(expert);
                first.swap_with_slice(second);
            }
            from += count;
        }
    }
}

/// What a faulty step remembers of the steps before it.
#[derive(Default)]
pub(crate) struct Past {
    weights: Option<Vec<f32>>,
    gradient: Option<Vec<f64>>,
    loads: Option<Vec<Vec<i32>>>,
}

impl Past {
    /// Puts the weights of the step before in place of the present ones, which it returns.
    pub(crate) fn stale_weights(&mut self, wiring: Wiring, model: &Model) -> Result<Option<Vec<f32>>> {
        if !wiring.has(Planted::StaleWorkingCopy) {
            return Ok(None);
        }
        let present = model.parameters.flat.to_floats()?;
        if let Some(before) = self.weights.replace(present.clone()) {
            model.overwrite(0, &before)?;
        }
        Ok(Some(present))
    }

    /// Puts the gradient of the step before in place of the present one, which it returns.
    pub(crate) fn late_gradient(
        &mut self,
        wiring: Wiring,
        gradients: &Gradients,
    ) -> Result<Option<Vec<f64>>> {
        if !wiring.has(Planted::LateGradient) {
            return Ok(None);
        }
        let present = gradients.bundle.flat.to_doubles()?;
        let before = self.gradient.replace(present.clone()).unwrap_or_else(|| vec![0.0; present.len()]);
        gradients.bundle.flat.write_doubles(&before)?;
        Ok(Some(present))
    }

    /// The loads that the selection bias follows, of all those of a step and of the first worker's.
    pub(crate) fn loads(&mut self, wiring: Wiring, all: &Counts, first: &Counts) -> Vec<Vec<i32>> {
        match wiring.0 {
            Some(Planted::BiasOfOneWorker) => first.loads.clone(),
            Some(Planted::BiasOneStepStale) => {
                let even = || all.loads.iter().map(|loads| vec![0; loads.len()]).collect();
                self.loads.replace(all.loads.clone()).unwrap_or_else(even)
            }
            _ => all.loads.clone(),
        }
    }
}

/// Changes weights after an update as a faulty optimizer would have: `before` are those before it.
pub(crate) fn after_update(wiring: Wiring, model: &Model, before: &[f64], decayed: f64) -> Result<()> {
    let parameters = &model.parameters;
    let mut from = 0;
    for (spec, tensor) in parameters.specs.iter().zip(&parameters.tensors) {
        if wiring.has(Planted::TensorLeftOut) && spec.name.ends_with("router") {
            tensor.write_doubles(&before[from..from + tensor.len()])?;
        }
        if wiring.has(Planted::NormsDecay) && spec.role == Role::Norm {
            let smaller: Vec<f64> = tensor.to_doubles()?.iter().map(|x| x * (1.0 - decayed)).collect();
            tensor.write_doubles(&smaller)?;
        }
        from += tensor.len();
    }
    model.renew(0..parameters.flat.len())
}

/// Whether `after_update` changes anything.
pub(crate) fn alters_updates(wiring: Wiring) -> bool {
    wiring.has(Planted::TensorLeftOut) || wiring.has(Planted::NormsDecay)
}
