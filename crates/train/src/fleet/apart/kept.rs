//! What devices that train alone have between meetings, and which samples come next: begun, kept in checkpoints, restored.

use super::Apart;
use crate::fleet::Fleet;
use crate::fleet::member::Moments;
use crate::local::{Agreed, Kept, number, tensor};
use crate::schedule;
use crate::worker::Worker;
use lingot_spec::Result;
use lingot_spec::run::{RunSpec, Strategy, SyncSpec};
use lingot_sync::exchange::Exchange;
use lingot_sync::strategy::{self, Decision, Progress};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::Sender;

/// Which samples come next, in portions of one step of one device.
pub(super) struct Samples {
    next: u64,
    /// Portions that were given to devices that were lost.
    holes: VecDeque<u64>,
    share: u64,
    /// Of the whole run.
    end: u64,
}

impl Apart {
    /// For a run whose devices train alone for a part of it, as its checkpoint left them.
    pub(crate) fn open(lead: &mut Worker<'_>) -> Result<Option<Apart>> {
        let run = lead.run;
        if run.sync.strategy == Strategy::EveryStep {
            return Ok(None);
        }
        let workers = run.devices.len();
        let share = run.batch.sequences / workers as u32;
        let mut apart = Apart {
            agreed: Agreed::new(&lead.model, workers)?,
            decided: None,
            room: Vec::new(),
            exchange: Exchange::default(),
            samples: Samples {
                next: 0,
                holes: VecDeque::new(),
                share: share.into(),
                end: run.stop.steps * u64::from(run.batch.sequences),
            },
            share,
            is_begun: false,
            holders: BTreeMap::new(),
            moments: BTreeMap::new(),
            speeds: BTreeMap::new(),
        };
        apart.restore(lead)?;
        Ok(Some(apart))
    }

    /// Whether the step after so many is taken alone.
    pub(crate) fn is_due(&self, run: &RunSpec, step: u64) -> bool {
        !matches!(strategy::next(&run.sync, &Progress { step, ..Progress::default() }), Decision::InStep(_))
    }

    /// The steps in step are over: all begin from what the host has.
    pub(super) fn begin(&mut self, lead: &Worker<'_>) -> Result<()> {
        self.samples.next = schedule::first_sample(&lead.run.batch, lead.step);
        self.agreed.take(&lead.model)?;
        let [first, second] = lead.optimizer.flats();
        self.moments = BTreeMap::from([(0, Arc::new([first.to_floats()?, second.to_floats()?]))]);
        self.is_begun = true;
        Ok(())
    }

    /// A worker's moments as they were seen last; those of the first that is known for one that is new.
    pub(super) fn moments_for(&self, worker: usize) -> Option<Arc<Moments>> {
        self.moments.get(&worker).or_else(|| self.moments.values().next()).cloned()
    }

    /// The layers in the order of the forward pass, each as soon as it is summed.
    pub(super) fn hand_over(&mut self, lead: &Worker<'_>, takers: &[Sender<Arc<Vec<f32>>>]) -> Result<()> {
        for group in 0..self.agreed.groups() {
            self.sum_until(group + 1, &lead.run.sync);
            let weights = Arc::new(self.agreed.group(group).to_vec());
            // Where a device's thread has ended, why is among the answers.
            takers.iter().for_each(|taker| drop(taker.send(weights.clone())));
        }
        self.settle(lead)
    }

    /// The lead gets what was agreed, which is summed for it if it was not yet: it is to be scored or saved.
    pub(crate) fn settle(&mut self, lead: &Worker<'_>) -> Result<()> {
        self.sum_until(self.agreed.groups(), &lead.run.sync);
        if let Some(decided) = self.decided.take() {
            self.room = decided.into_room();
            lead.model.parameters.flat.write_floats(&self.agreed.weights)?;
        }
        Ok(())
    }

    /// The first so many groups of what was decided are summed.
    fn sum_until(&mut self, groups: usize, sync: &SyncSpec) {
        let Apart { agreed, decided: Some(decided), exchange, .. } = self else { return };
        while decided.summed() < groups {
            agreed.sum_next(decided, sync, exchange);
        }
    }

    /// What belongs into a checkpoint.
    pub(crate) fn keep(&mut self, fleet: &mut Fleet, lead: &mut Worker<'_>) -> Result<()> {
        lead.sync_state.clear();
        if !self.is_begun {
            return Ok(());
        }
        self.settle(lead)?;
        let collected = fleet.collect_moments(self, lead.step);
        self.store(lead)?;
        collected
    }

    /// As `keep`, with the moments that were seen last: nobody can be asked any more.
    pub(crate) fn store(&mut self, lead: &mut Worker<'_>) -> Result<()> {
        if !self.is_begun {
            return Ok(());
        }
        self.settle(lead)?;
        let state = &mut lead.sync_state;
        state.clear();
        state.push(number("sync/samples", &[self.samples.next]));
        if !self.samples.holes.is_empty() {
            state.push(number("sync/holes", &self.samples.holes.iter().copied().collect::<Vec<u64>>()));
        }
        for (worker, moments) in &self.moments {
            for (name, values) in ["first", "second"].iter().zip(moments.iter()) {
                state.push(tensor(format!("sync/{worker}/{name}"), values.clone()));
            }
        }
        self.agreed.keep(state);
        Ok(())
    }

    fn restore(&mut self, lead: &mut Worker<'_>) -> Result<()> {
        let kept = Kept(std::mem::take(&mut lead.sync_state));
        let [next] = kept.numbers("sync/samples")[..] else { return Ok(()) };
        self.begin(lead)?;
        (self.samples.next, self.samples.holes) = (next, kept.numbers("sync/holes").into());
        self.agreed.restore(&kept)?;
        let length = self.agreed.weights.len();
        for worker in 0..lead.run.devices.len() {
            if let Some(moments) = kept.moments(worker, length)? {
                self.moments.insert(worker, Arc::new(moments));
            }
        }
        Ok(())
    }
}

impl Samples {
    /// The first sample of the next portion; none when the run has no more.
    pub(super) fn take(&mut self) -> Option<u64> {
        if let Some(hole) = self.holes.pop_front() {
            return Some(hole);
        }
        let first = self.next;
        (first + self.share <= self.end).then(|| {
            self.next += self.share;
            first
        })
    }

    pub(super) fn give_back(&mut self, portions: impl IntoIterator<Item = u64>) {
        self.holes.extend(portions);
        self.holes.make_contiguous().sort_unstable();
    }

    /// Whether there is another portion.
    pub(super) fn has_more(&self) -> bool {
        !self.holes.is_empty() || self.next + self.share <= self.end
    }

    /// Sequences that were trained on.
    pub(super) fn trained(&self) -> u64 {
        self.next - self.holes.len() as u64 * self.share
    }
}
