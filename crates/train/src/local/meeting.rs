//! A meeting: layer by layer the workers' changes are weighed, summed, clipped, and taken as one outer step.

use super::{Local, Rank};
use crate::error::Result;
use crate::worker::Worker;
use lingot_model::Model;
use lingot_spec::run::{PenaltySpec, SyncSpec};
use lingot_spec::tensors::{TensorSpec, buffers, tensors};
use lingot_sync::exchange::Exchange;
use lingot_sync::penalty::{Detector, Verdict, Weighing, clip_factor, leave_out, weigh};
use lingot_sync::{outer, sum, traffic};
use std::ops::Range;

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
    pub(super) name: String,
    weights: Range<usize>,
    /// Its buffers.
    state: Vec<usize>,
    /// By worker.
    pub(super) detectors: Vec<Detector>,
}

/// What a worker brings: its weights, and its routers' state by buffer.
pub(crate) type Own = (Vec<f32>, Vec<Vec<f32>>);

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
        let groups = groups(model, workers);
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
}

impl Agreed {
    /// What `workers` bring is weighed, summed and agreed on. All figures are by their order.
    pub(crate) fn meet(
        &mut self,
        workers: &[usize],
        own: &[Own],
        spec: &SyncSpec,
        exchange: &mut Exchange,
    ) -> Minutes {
        let count = self.groups.len() as u64;
        let mut minutes = Minutes { weights: vec![0.0; own.len()], ..Minutes::default() };
        let mut applied = [0_u64; 2];
        let weighings = self.weigh_all(workers, own, &spec.penalty, exchange, &mut minutes);
        let Agreed { weights, state, velocity, groups } = self;
        for (group, weighing) in groups.iter().zip(&weighings) {
            let range = group.weights.clone();
            if weighing.all_anomalous {
                continue;
            }
            let shares = &weighing.weights;
            minutes
                .weights
                .iter_mut()
                .zip(shares)
                .for_each(|(sum, &share)| *sum += f64::from(share) / count as f64);
            let deltas: Vec<Vec<f32>> =
                own.iter().map(|(theta, _)| minus(&weights[range.clone()], &theta[range.clone()])).collect();
            let parts: Vec<&[f32]> = deltas.iter().map(Vec::as_slice).collect();
            let mut mean = exchange.sum(&parts, shares);
            apply(&mut weights[range.clone()], &mut velocity[range.clone()], &mut mean, spec);
            applied[0] += mean.len() as u64;
            for &buffer in &group.state {
                let parts: Vec<&[f32]> = own.iter().map(|(_, buffers)| buffers[buffer].as_slice()).collect();
                state[buffer] = exchange.sum(&parts, shares);
                applied[1] += state[buffer].len() as u64;
            }
        }
        minutes.bytes = exchange.take_bytes();
        minutes.predicted_bytes = traffic::meeting_bytes(own.len() as u64, applied[0], applied[1], count);
        minutes
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
        let Agreed { weights, groups, .. } = self;
        let mut weighings = Vec::new();
        for group in groups.iter_mut() {
            let range = group.weights.clone();
            let norm =
                |(theta, _): &Own| sum::norm(&minus(&weights[range.clone()], &theta[range.clone()])) as f32;
            let norms: Vec<f32> = own.iter().map(norm).collect();
            let norms: Vec<f64> = exchange.gather(&norms).into_iter().map(f64::from).collect();
            weighings.push(group.weigh(workers, &norms, spec));
            minutes.norms.push((group.name.clone(), norms));
        }
        if spec.enabled {
            let norms: Vec<Vec<f64>> = minutes.norms.iter().map(|(_, norms)| norms.clone()).collect();
            leave_out(&mut weighings, &norms, spec);
        }
        for (group, weighing) in groups.iter().zip(&weighings) {
            let anomalies = weighing.verdicts.iter().enumerate().filter(|(_, verdict)| verdict.is_anomaly());
            minutes
                .anomalies
                .extend(anomalies.map(|(at, verdict)| (group.name.clone(), workers[at], *verdict)));
        }
        weighings
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
        let minutes = self.agreed.meet(&workers, &own, &lead.run.sync, &mut self.exchange);
        self.part(lead)?;
        Ok(minutes)
    }

    /// Every worker's weights and routers' state, by rank.
    fn everyones(&self, lead: &Worker<'_>) -> Result<Vec<Own>> {
        let models = std::iter::once(&lead.model).chain(self.others.iter().map(|rank| &rank.model));
        let read = |model: &Model| Ok((model.parameters.flat.to_floats()?, model.buffer_values()?));
        models.map(read).collect()
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

fn minus(agreed: &[f32], own: &[f32]) -> Vec<f32> {
    agreed.iter().zip(own).map(|(agreed, own)| agreed - own).collect()
}

/// The groups of a model, in the order of its tensors: layers, and each tensor outside of them.
fn groups(model: &Model, workers: usize) -> Vec<Group> {
    let state = buffers(&model.spec);
    let mut groups: Vec<Group> = Vec::new();
    let mut from = 0;
    for TensorSpec { name, shape, .. } in tensors(&model.spec) {
        let (layer, to) = (layer_of(&name), from + shape.iter().product::<usize>());
        match groups.last_mut().filter(|group| group.name == layer) {
            Some(group) => group.weights.end = to,
            None => {
                let is_its = |&index: &usize| layer_of(&state[index].name) == layer;
                let state = (0..state.len()).filter(is_its).collect();
                let detectors = vec![Detector::default(); workers];
                groups.push(Group { name: layer.to_owned(), weights: from..to, state, detectors });
            }
        }
        from = to;
    }
    groups
}

/// `layers.3.query` lies in `layers.3`; what lies in no layer stands for itself.
fn layer_of(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(layer, _)| layer)
}
