//! A meeting: layer by layer the workers' changes are weighed, summed, clipped, and taken as one outer step.

use crate::engine::Outlier;
use lingot_model::Model;
use lingot_spec::Result;
use lingot_spec::run::{PenaltySpec, SyncSpec};
use lingot_spec::tensors::{Layer, layers};
use lingot_sync::exchange::Exchange;
use lingot_sync::penalty::{Detector, Weighing, clip_factor, leave_out, weigh};
use lingot_sync::{outer, sum, traffic};

/// What all workers hold after a meeting, and what the next meeting needs of this one.
pub(super) struct Agreed {
    pub(super) weights: Vec<f32>,
    /// The routers' state, by buffer.
    pub(super) state: Vec<Vec<f32>>,
    pub(super) velocity: Vec<f32>,
    pub(super) groups: Vec<Group>,
    /// Where the workers' numbers are summed.
    exchange: Exchange,
}

/// What is weighed together: a layer, or one of the tensors outside of layers.
pub(super) struct Group {
    pub(super) layer: Layer,
    /// By worker.
    pub(super) detectors: Vec<Detector>,
}

/// What a worker brings.
#[derive(Default)]
pub(super) struct Own {
    /// Its weights, by group.
    pub(super) weights: Vec<Vec<f32>>,
    /// The norms of its changes, by group.
    pub(super) norms: Vec<f32>,
    /// Its routers' state, by buffer.
    pub(super) state: Vec<Vec<f32>>,
}

/// What a meeting has decided: the weight of each worker's change. The changes are summed later, group by
/// group.
pub(super) struct Decided {
    own: Vec<Own>,
    weighings: Vec<Weighing>,
    /// How many of the first groups are summed.
    summed: usize,
}

/// What is to be said of a meeting.
#[derive(Default)]
pub(super) struct Verdicts {
    /// The weight of each worker's change, in the order of the workers: the mean over the groups.
    pub(super) weights: Vec<f64>,
    /// Changes that do not count.
    pub(super) outliers: Vec<Outlier>,
}

/// Bytes that a meeting moves.
pub(super) struct Bytes {
    pub(super) counted: u64,
    /// By the cost model.
    pub(super) predicted: u64,
}

impl Agreed {
    /// Begins with what the model holds.
    pub(super) fn new(model: &Model, workers: usize) -> Result<Agreed> {
        let group = |layer| Group { layer, detectors: vec![Detector::default(); workers] };
        let groups = layers(&model.spec).into_iter().map(group).collect();
        let length = model.parameters.flat.len();
        let mut agreed = Agreed {
            weights: vec![],
            state: vec![],
            velocity: vec![0.0; length],
            groups,
            exchange: Exchange::default(),
        };
        agreed.take(model)?;
        Ok(agreed)
    }

    /// Agrees on what the model holds.
    pub(super) fn take(&mut self, model: &Model) -> Result<()> {
        self.weights = model.parameters.flat.to_floats()?;
        self.state = model.buffer_values()?;
        Ok(())
    }

    /// How many groups there are.
    pub(super) fn groups(&self) -> usize {
        self.groups.len()
    }

    /// The agreed weights of a group.
    pub(super) fn group(&self, group: usize) -> &[f32] {
        &self.weights[self.groups[group].layer.numbers.clone()]
    }

    /// The norm of a worker's change of a group, from its weights.
    pub(super) fn change_norm(&self, group: usize, own: &[f32]) -> f32 {
        sum::distance(self.group(group), own) as f32
    }

    /// Decides the weights of the changes that `workers` bring, and the routers' state that follows from
    /// them. `own` is in the order of the workers. No change is summed yet.
    pub(super) fn decide(
        &mut self,
        workers: &[usize],
        own: Vec<Own>,
        spec: &PenaltySpec,
    ) -> (Decided, Verdicts) {
        let mut verdicts = Verdicts { weights: vec![0.0; own.len()], outliers: Vec::new() };
        let weighings = self.weigh_all(workers, &own, spec, &mut verdicts.outliers);
        for (group, weighing) in self.groups.iter().zip(&weighings) {
            if weighing.all_anomalous {
                continue;
            }
            for (sum, &share) in verdicts.weights.iter_mut().zip(&weighing.weights) {
                *sum += f64::from(share) / self.groups.len() as f64;
            }
            for &buffer in &group.layer.buffers {
                let parts: Vec<&[f32]> = own.iter().map(|own| own.state[buffer].as_slice()).collect();
                self.state[buffer] = self.exchange.sum(&parts, &weighing.weights);
            }
        }
        (Decided { own, weighings, summed: 0 }, verdicts)
    }

    /// Sums the changes of the next group that is not summed yet, and takes the outer step with it.
    pub(super) fn sum_next(&mut self, decided: &mut Decided, spec: &SyncSpec) {
        let index = decided.summed;
        decided.summed += 1;
        let weighing = &decided.weighings[index];
        if weighing.all_anomalous {
            return;
        }
        let group = self.group(index);
        // In the same memory, which is expensive to allocate for a large model.
        decided.own.iter_mut().for_each(|own| take_from(group, &mut own.weights[index]));
        let parts: Vec<&[f32]> = decided.own.iter().map(|own| own.weights[index].as_slice()).collect();
        let mut mean = self.exchange.sum(&parts, &weighing.weights);
        let range = self.groups[index].layer.numbers.clone();
        apply(&mut self.weights[range.clone()], &mut self.velocity[range], &mut mean, spec);
    }

    /// Bytes of a meeting of workers that hand each other numbers: counted since the last call, once all
    /// groups are summed, and by the cost model.
    pub(super) fn take_bytes(&mut self, decided: &Decided) -> Bytes {
        let applied =
            self.groups.iter().zip(&decided.weighings).filter(|(_, weighing)| !weighing.all_anomalous);
        let (mut parameters, mut state) = (0, 0);
        for (group, _) in applied {
            parameters += group.layer.numbers.len();
            state += group.layer.buffers.iter().map(|&buffer| self.state[buffer].len()).sum::<usize>();
        }
        let [workers, groups] = [decided.own.len(), self.groups.len()].map(|count| count as u64);
        Bytes {
            counted: self.exchange.take_bytes(),
            predicted: traffic::meeting_bytes(workers, parameters as u64, state as u64, groups),
        }
    }

    /// Weighs the changes of all groups, and notes those that do not count.
    fn weigh_all(
        &mut self,
        workers: &[usize],
        own: &[Own],
        spec: &PenaltySpec,
        outliers: &mut Vec<Outlier>,
    ) -> Vec<Weighing> {
        let (mut weighings, mut all_norms) = (Vec::new(), Vec::new());
        for (index, group) in self.groups.iter_mut().enumerate() {
            let norms: Vec<f32> = own.iter().map(|own| own.norms[index]).collect();
            let norms: Vec<f64> = self.exchange.gather(&norms).into_iter().map(f64::from).collect();
            weighings.push(group.weigh(workers, &norms, spec));
            all_norms.push(norms);
        }
        if spec.enabled {
            leave_out(&mut weighings, &all_norms, spec);
        }
        for (group, weighing) in self.groups.iter().zip(&weighings) {
            let anomalies = weighing.verdicts.iter().zip(workers).filter(|(verdict, _)| verdict.is_anomaly());
            let layer = &group.layer.name;
            outliers.extend(anomalies.map(|(&verdict, &worker)| Outlier {
                layer: layer.clone(),
                worker,
                verdict,
            }));
        }
        weighings
    }
}

impl Decided {
    /// How many of the first groups are summed.
    pub(super) fn summed(&self) -> usize {
        self.summed
    }

    /// Gives up the memory of what the workers brought, by worker and group.
    pub(super) fn into_memory(self) -> Vec<Vec<Vec<f32>>> {
        self.own.into_iter().map(|own| own.weights).collect()
    }
}

impl Group {
    /// Weighs the changes of the workers that are there, each by its own detector.
    fn weigh(&mut self, workers: &[usize], norms: &[f64], spec: &PenaltySpec) -> Weighing {
        let most = workers.iter().max().map_or(0, |last| last + 1);
        self.detectors.resize(self.detectors.len().max(most), Detector::default());
        let mut present: Vec<Detector> =
            workers.iter().map(|&worker| std::mem::take(&mut self.detectors[worker])).collect();
        let weighing = weigh(norms, &mut present, spec);
        workers.iter().zip(present).for_each(|(&worker, detector)| self.detectors[worker] = detector);
        weighing
    }
}

/// Clips the mean change and takes it as an outer step.
fn apply(agreed: &mut [f32], velocity: &mut [f32], mean: &mut [f32], spec: &SyncSpec) {
    let factor = clip_factor(sum::norm(mean), spec.outer.clip);
    if factor < 1.0 {
        mean.iter_mut().for_each(|x| *x *= factor);
    }
    outer::step(agreed, velocity, mean, &spec.outer);
}

/// A worker's weights become its change.
fn take_from(agreed: &[f32], own: &mut [f32]) {
    agreed.iter().zip(own).for_each(|(agreed, own)| *own = agreed - *own);
}
