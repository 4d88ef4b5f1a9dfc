//! Workers that take turns on one device, each with a virtual clock: a fleet that is not there, reproducible
//! to the bit on any machine.
//!
//! A command waits until a report is asked for. Then the command that is done first by its worker's clock is
//! executed, the lower worker first among equals, and its report carries that clock. A worker's step takes
//! its share of the batch over its speed (`sync.virtual_speeds`); moving numbers takes no time.

use super::member::Member;
use super::{Command, Computed, Content, Crew, Report};
use crate::data::StepBatch;
use lingot_data::Batch;
use lingot_device::Device;
use lingot_model::{Counts, Gradients};
use lingot_spec::RunSpec;
use lingot_spec::problem::Result;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Changes what a worker reads in a step of its own, given the worker and the steps before it: bad data on
/// purpose, for experiments.
pub type Tamper = Box<dyn Fn(usize, u64, &mut Batch)>;

/// All workers of one device.
pub(crate) struct Emulated {
    run: Arc<RunSpec>,
    device: Device,
    tamper: Tamper,
    workers: Vec<Worker>,
    incarnations: u64,
    /// One for all: it is cleared between commands.
    gradients: Option<Rc<Gradients>>,
    reports: VecDeque<Report>,
    counted: Counted,
}

/// One emulated worker.
struct Worker {
    incarnation: u64,
    member: Option<Member>,
    to_do: VecDeque<Task>,
    clock_s: f64,
    /// What a step of its own takes, and one micro-batch.
    step_s: f64,
    micro_s: f64,
}

/// What a worker executes.
enum Task {
    Open,
    Command(Command),
}

/// What the workers have counted together in the step of some weights.
#[derive(Default)]
struct Counted {
    weights: u64,
    counts: Counts,
}

impl Emulated {
    /// A crew without workers, on a device that is open.
    pub(crate) fn new(run: &RunSpec, device: &Device, tamper: Tamper) -> Emulated {
        Emulated {
            run: Arc::new(run.clone()),
            device: device.clone(),
            tamper,
            workers: Vec::new(),
            incarnations: 0,
            gradients: None,
            reports: VecDeque::new(),
            counted: Counted::default(),
        }
    }

    /// The worker whose next task is done first. Gradients in step are computed in the order of the batch,
    /// whatever the speeds, so that counts are added up in one order.
    fn next(&self) -> Option<usize> {
        let due_s = |worker: &Worker| match worker.to_do.front()? {
            Task::Command(Command::Step { .. }) => Some(worker.clock_s + worker.step_s),
            _ => Some(worker.clock_s),
        };
        let waiting = self.workers.iter().enumerate().filter_map(|(index, it)| Some((index, due_s(it)?)));
        waiting.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(index, _)| index)
    }

    /// Executes a worker's next task, and puts its reports in the queue.
    fn execute(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        let Some(task) = worker.to_do.pop_front() else { return };
        worker.clock_s += match &task {
            Task::Command(Command::Step { .. }) => worker.step_s,
            Task::Command(Command::Differentiate(part)) => worker.micro_s * part.range.len() as f64,
            _ => 0.0,
        };
        let mut contents = Vec::new();
        let failed = match task {
            Task::Open => self.open_member(index, &mut contents),
            Task::Command(command) => self.carry_out(index, command, &mut contents),
        };
        let worker = &mut self.workers[index];
        if let Err(problem) = failed {
            worker.member = None;
            worker.to_do.clear();
            contents.push(Content::Failed(problem));
        }
        let (incarnation, at_s) = (worker.incarnation, worker.clock_s);
        let report = |content| Report { worker: index, incarnation, at_s, content };
        self.reports.extend(contents.into_iter().map(report));
    }

    /// What cannot be opened does not exist: a fleet of fewer workers would be another experiment.
    fn open_member(&mut self, index: usize, contents: &mut Vec<Content>) -> Result<()> {
        match Member::open(self.run.clone(), &self.device, self.gradients.clone()) {
            Ok(member) => {
                self.gradients.get_or_insert_with(|| member.gradients().clone());
                self.workers[index].member = Some(member);
                contents.push(Content::Ready);
            }
            Err(problem) => contents.push(Content::Absent(problem)),
        }
        Ok(())
    }

    fn carry_out(&mut self, index: usize, command: Command, contents: &mut Vec<Content>) -> Result<()> {
        let Emulated { workers, counted, gradients, .. } = self;
        let Worker { member: Some(member), step_s, micro_s, .. } = &mut workers[index] else { return Ok(()) };
        if let (Command::Differentiate(part), Some(gradients)) = (&command, gradients) {
            counted.put_back(part.weights.number, gradients)?;
        }
        let [step, micro] = [*step_s, *micro_s].map(Duration::from_secs_f64);
        member.execute(command, &mut |mut content| {
            match &mut content {
                Content::Micro(time) => *time = micro,
                Content::Piece(computed) => {
                    counted.take_out(computed);
                    computed.whole = micro * computed.range.len() as u32;
                    computed.moved.time = Duration::ZERO;
                }
                Content::Stepped(stepped) => {
                    stepped.compute = step;
                    stepped.moved.time = Duration::ZERO;
                }
                Content::Brought { moved, .. } => moved.time = Duration::ZERO,
                _ => {}
            }
            contents.push(content);
        })
    }
}

impl Crew for Emulated {
    fn open(&mut self, worker: usize, _entry: &str) -> u64 {
        self.incarnations += 1;
        let (batch, speeds) = (&self.run.batch, &self.run.sync.virtual_speeds);
        let share = batch.sequences / speeds.len() as u32;
        let begun = Worker {
            incarnation: self.incarnations,
            member: None,
            to_do: VecDeque::from([Task::Open]),
            clock_s: 0.0,
            step_s: f64::from(share) / speeds[worker],
            micro_s: f64::from(batch.micro) / speeds[worker],
        };
        match self.workers.get_mut(worker) {
            Some(before) => *before = begun,
            None => self.workers.push(begun),
        }
        self.incarnations
    }

    fn command(&mut self, worker: usize, mut command: Command) {
        if let Command::Step { at, batch: StepBatch { micros, .. } } = &mut command {
            micros.iter_mut().for_each(|micro| (self.tamper)(worker, at.step, micro));
        }
        self.workers[worker].to_do.push_back(Task::Command(command));
    }

    fn report(&mut self, _patience: Duration) -> Option<Report> {
        while self.reports.is_empty() {
            self.execute(self.next()?);
        }
        self.reports.pop_front()
    }

    fn restart_clock(&mut self) {
        self.workers.iter_mut().for_each(|worker| worker.clock_s = 0.0);
    }

    fn elapsed_s(&self) -> f64 {
        self.workers.iter().map(|worker| worker.clock_s).fold(0.0, f64::max)
    }

    fn silent_s(&self, _worker: usize) -> f64 {
        0.0
    }

    fn restart_silence(&mut self) {}

    fn next_step_s(&self, worker: usize) -> f64 {
        self.workers[worker].step_s
    }

    fn is_reproducible(&self) -> bool {
        true
    }
}

impl Counted {
    /// Before a worker counts, the device holds what the workers before it counted in the same step.
    fn put_back(&mut self, weights: u64, gradients: &Gradients) -> Result<()> {
        if self.weights == weights {
            gradients.tally.set_counts(&self.counts)?;
        }
        Ok(())
    }

    /// Leaves a worker's own counts in its report. The device adds in f32, and the difference of two of its
    /// sums is exact in f64: the sum of all reports is what one device would have counted, to the bit.
    fn take_out(&mut self, computed: &mut Computed) {
        let sum = computed.counts.clone();
        if self.weights == computed.weights {
            computed.counts.sums.iter_mut().zip(&self.counts.sums).for_each(|(own, before)| *own -= before);
            for (own, before) in computed.counts.loads.iter_mut().zip(&self.counts.loads) {
                own.iter_mut().zip(before).for_each(|(own, before)| *own -= before);
            }
        }
        *self = Counted { weights: computed.weights, counts: sum };
    }
}
