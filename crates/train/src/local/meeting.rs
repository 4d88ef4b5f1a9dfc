//! A meeting: layer by layer the workers' changes are weighed, summed, clipped, and taken as one outer step.

use super::{Local, Rank};
use crate::worker::Worker;
use lingot_model::Model;
use lingot_spec::Result;
use lingot_spec::run::{PenaltySpec, SyncSpec};
use lingot_spec::tensors::{Layer, layers};
use lingot_sync::exchange::Exchange;
use lingot_sync::penalty::{Detector, Verdict, Weighing, clip_factor, leave_out, weigh};
use lingot_sync::{outer, sum, traffic};

/// What all workers hold after a meeting, and what they keep for the next.
pub(crate) struct Agreed {
    pub(crate) weights: Vec<f32>,
    /// The routers' state, by buffer.
    pub(crate) state: Vec<Vec<f32>>,
    pub(super) velocity: Vec<f32>,
    pub(super) groups: Vec<Group>,
}

/// What is weighed together: a layer, or one of the tensors outside of layers.
pub(crate) struct Group {
    pub(super) layer: Layer,
    /// By worker.
    pub(super) detectors: Vec<Detector>,
}

/// What a worker brings.
#[derive(Default)]
pub(crate) struct Own {
    /// Its weights, by group.
    pub(crate) weights: Vec<Vec<f32>>,
    /// The norms of its changes, by group.
    pub(crate) norms: Vec<f32>,
    /// Its routers' state, by buffer.
    pub(crate) state: Vec<Vec<f32>>,
}

/// What a meeting has decided: what each worker's changes count. The changes are summed group by group, by and by.
pub(crate) struct Decided {
    own: Vec<Own>,
    weighings: Vec<Weighing>,
    /// The first groups, which are summed.
    summed: usize,
}

/// What a meeting did.
#[derive(Default)]
pub(crate) struct Minutes {
    pub(crate) bytes: u64,
    pub(crate) predicted_bytes: u64,
    /// Group and worker of what did not count, and why.
    pub(crate) anomalies: Vec<(String, usize, Verdict)>,
    /// By rank, the mean over the groups.
    pub(crate) weights: Vec<f64>,
    /// By group, the norm of each rank's change.
    pub(crate) norms: Vec<(String, Vec<f64>)>,
}

impl Agreed {
    pub(crate) fn new(model: &Model, workers: usize) -> Result<Agreed> {
        let group = |layer| Group { layer, detectors: vec![Detector::default(); workers] };
        let groups = layers(&model.spec).into_iter().map(group).collect();
        let length = model.parameters.flat.len();
        let mut agreed = Agreed { weights: vec![], state: vec![], velocity: vec![0.0; length], groups };
        agreed.take(model)?;
        Ok(agreed)
    }

    /// What the model holds is agreed on.
    pub(crate) fn take(&mut self, model: &Model) -> Result<()> {
        self.weights = model.parameters.flat.to_floats()?;
        self.state = model.buffer_values()?;
        Ok(())
    }

    pub(crate) fn groups(&self) -> usize {
        self.groups.len()
    }

    /// The agreed weights of a group.
    pub(crate) fn group(&self, group: usize) -> &[f32] {
        &self.weights[self.groups[group].layer.numbers.clone()]
    }

    /// The norm of a worker's change of a group, from its weights.
    pub(crate) fn change_norm(&self, group: usize, own: &[f32]) -> f32 {
        sum::distance(self.group(group), own) as f32
    }

    /// What the changes that `workers` bring count, and the routers' state that follows. All figures are by the order
    /// of the workers. No change is summed yet.
    pub(crate) fn decide(
        &mut self,
        workers: &[usize],
        own: Vec<Own>,
        spec: &PenaltySpec,
        exchange: &mut Exchange,
    ) -> (Decided, Minutes) {
        let mut minutes = Minutes { weights: vec![0.0; own.len()], ..Minutes::default() };
        let weighings = self.weigh_all(workers, &own, spec, exchange, &mut minutes);
        for (group, weighing) in self.groups.iter().zip(&weighings) {
            if weighing.all_anomalous {
                continue;
            }
            for (sum, &share) in minutes.weights.iter_mut().zip(&weighing.weights) {
                *sum += f64::from(share) / self.groups.len() as f64;
            }
            for &buffer in &group.layer.buffers {
                let parts: Vec<&[f32]> = own.iter().map(|own| own.state[buffer].as_slice()).collect();
                self.state[buffer] = exchange.sum(&parts, &weighing.weights);
            }
        }
        (Decided { own, weighings, summed: 0 }, minutes)
    }

    /// Sums the changes of the next group that is not summed yet, and takes the outer step with it.
    pub(crate) fn sum_next(&mut self, decided: &mut Decided, spec: &SyncSpec, exchange: &mut Exchange) {
        let index = decided.summed;
        decided.summed += 1;
        let weighing = &decided.weighings[index];
        if weighing.all_anomalous {
            return;
        }
        let group = self.group(index);
        // In the same memory: for a large model it is dear to make.
        decided.own.iter_mut().for_each(|own| take_from(group, &mut own.weights[index]));
        let parts: Vec<&[f32]> = decided.own.iter().map(|own| own.weights[index].as_slice()).collect();
        let mut mean = exchange.sum(&parts, &weighing.weights);
        let range = self.groups[index].layer.numbers.clone();
        apply(&mut self.weights[range.clone()], &mut self.velocity[range], &mut mean, spec);
    }

    /// Bytes of a meeting of workers that hand each other numbers, by the cost model.
    fn predicted_bytes(&self, decided: &Decided) -> u64 {
        let applied =
            self.groups.iter().zip(&decided.weighings).filter(|(_, weighing)| !weighing.all_anomalous);
        let (mut parameters, mut state) = (0, 0);
        for (group, _) in applied {
            parameters += group.layer.numbers.len();
            state += group.layer.buffers.iter().map(|&buffer| self.state[buffer].len()).sum::<usize>();
        }
        let workers = decided.own.len() as u64;
        traffic::meeting_bytes(workers, parameters as u64, state as u64, self.groups.len() as u64)
    }

    /// How much each worker's change of each group counts, and what is to be said of it.
    fn weigh_all(
        &mut self,
        workers: &[usize],
        own: &[Own],
        spec: &PenaltySpec,
        exchange: &mut Exchange,
        minutes: &mut Minutes,
    ) -> Vec<Weighing> {
        let mut weighings = Vec::new();
        for (index, group) in self.groups.iter_mut().enumerate() {
            let norms: Vec<f32> = own.iter().map(|own| own.norms[index]).collect();
            let norms: Vec<f64> = exchange.gather(&norms).into_iter().map(f64::from).collect();
            weighings.push(group.weigh(workers, &norms, spec));
            minutes.norms.push((group.layer.name.clone(), norms));
        }
        if spec.enabled {
            let norms: Vec<Vec<f64>> = minutes.norms.iter().map(|(_, norms)| norms.clone()).collect();
            leave_out(&mut weighings, &norms, spec);
        }
        for (group, weighing) in self.groups.iter().zip(&weighings) {
            let anomalies = weighing.verdicts.iter().enumerate().filter(|(_, verdict)| verdict.is_anomaly());
            let name = &group.layer.name;
            minutes.anomalies.extend(anomalies.map(|(at, verdict)| (name.clone(), workers[at], *verdict)));
        }
        weighings
    }
}

impl Decided {
    /// How many of the first groups are summed.
    pub(crate) fn summed(&self) -> usize {
        self.summed
    }

    /// Memory that can be used again, by worker and group.
    pub(crate) fn into_room(self) -> Vec<Vec<Vec<f32>>> {
        self.own.into_iter().map(|own| own.weights).collect()
    }
}

impl Group {
    /// By the detectors of those who are there.
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

impl Local {
    /// All workers meet and part with the same weights.
    pub(super) fn meet(&mut self, lead: &mut Worker<'_>) -> Result<Minutes> {
        let own = self.everyones(lead)?;
        let workers: Vec<usize> = (0..own.len()).collect();
        let Local { agreed, exchange, .. } = self;
        let sync = &lead.run.sync;
        let (mut decided, mut minutes) = agreed.decide(&workers, own, &sync.penalty, exchange);
        for _ in 0..agreed.groups() {
            agreed.sum_next(&mut decided, sync, exchange);
        }
        minutes.bytes = exchange.take_bytes();
        minutes.predicted_bytes = agreed.predicted_bytes(&decided);
        self.part(lead)?;
        Ok(minutes)
    }

    /// What every worker brings, by rank.
    fn everyones(&self, lead: &Worker<'_>) -> Result<Vec<Own>> {
        let models = std::iter::once(&lead.model).chain(self.others.iter().map(|rank| &rank.model));
        models.map(|model| self.own(model)).collect()
    }

    fn own(&self, model: &Model) -> Result<Own> {
        let mut own = Own { state: model.buffer_values()?, ..Own::default() };
        for (index, group) in self.agreed.groups.iter().enumerate() {
            let weights = read(model, &group.layer, Vec::new())?;
            own.norms.push(self.agreed.change_norm(index, &weights));
            own.weights.push(weights);
        }
        Ok(own)
    }

    /// Every worker takes what was agreed.
    pub(super) fn part(&mut self, lead: &mut Worker<'_>) -> Result<()> {
        let others = self.others.iter_mut().map(|Rank { model, .. }| model);
        for model in std::iter::once(&mut lead.model).chain(others) {
            model.parameters.flat.write_floats(&self.agreed.weights)?;
            model.set_buffers(&self.agreed.state)?;
        }
        Ok(())
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

/// A model's weights of a layer, in memory that is there already.
pub(crate) fn read(model: &Model, layer: &Layer, mut room: Vec<f32>) -> Result<Vec<f32>> {
    model.parameters.flat.rows(layer.numbers.start, layer.numbers.len()).read_floats(&mut room)?;
    Ok(room)
}
