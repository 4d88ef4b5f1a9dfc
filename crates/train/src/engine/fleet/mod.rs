//! The workers of a run: which take part, how long each is waited for, when it is tried again, its name and
//! its price.
//!
//! Worker `i` is the `i`-th entry of `devices`; those added later follow. The agreed weights live on the
//! host, so no worker is needed to go on, and one that leaves takes nothing along.

mod listen;

pub(crate) use listen::{Awaited, Heard};

use crate::config::Roster;
use crate::crew::{Command, Content, Crew, Report};
use lingot_spec::RunSpec;
use lingot_spec::problem::{Problem, ProblemKind, Result};
use lingot_spec::run::PriceSpec;
use lingot_sync::membership::{AllLost, Change, Leave, Lost, Membership, Standing};
use std::time::{Duration, Instant};

/// A device that failed is tried again after this many steps, then after twice as many, and so on.
const RETRY_STEPS: u64 = 10;

/// The workers of a run, whatever carries them.
pub(crate) struct Fleet {
    crew: Box<dyn Crew>,
    workers: Vec<Worker>,
    membership: Membership,
    changes: Vec<DeviceChange>,
    /// As the run's file has it now.
    price: Option<PriceSpec>,
    /// The least time that a worker may be silent (`sync.deadline_s`).
    least_s: f64,
    /// The name of the one device that emulated workers share, which is paid for instead of them.
    shared_device: Option<String>,
}

/// What is known of a worker besides its standing.
struct Worker {
    /// Its entry in `devices`.
    entry: String,
    /// The entry, with a number where it stands in the list several times.
    name: String,
    incarnation: u64,
    /// When it is tried again, if it has failed.
    retry_step: u64,
    retries: u32,
    peak_memory_bytes: u64,
}

/// A device came or went.
pub(crate) struct DeviceChange {
    /// One word for machines, such as `device_lost`.
    pub(crate) kind: &'static str,
    /// A sentence for people.
    pub(crate) reason: String,
}

/// A device as the ledger sees it.
pub(crate) struct PaidDevice {
    pub(crate) name: String,
    /// None where the run has no price.
    pub(crate) per_hour: Option<f64>,
    /// False once it was taken out of the run's file. A device that is lost is paid for all the same.
    pub(crate) is_here: bool,
}

impl Fleet {
    /// Opens the devices of a run that has taken `step` steps. Errors if a device does not exist; one without
    /// room for the model is left out, if any has room.
    pub(crate) fn open(run: &RunSpec, crew: impl Crew + 'static, step: u64) -> Result<Fleet> {
        Fleet::begin(run, Box::new(crew), &run.devices, None, step)
    }

    /// Makes the emulated workers of a run (`sync.virtual_speeds`), which share one device.
    pub(crate) fn emulated(
        run: &RunSpec,
        crew: impl Crew + 'static,
        device: &str,
        step: u64,
    ) -> Result<Fleet> {
        let entries: Vec<String> =
            (0..run.sync.virtual_speeds.len()).map(|worker| format!("worker {worker}")).collect();
        Fleet::begin(run, Box::new(crew), &entries, Some(device.to_owned()), step)
    }

    fn begin(
        run: &RunSpec,
        crew: Box<dyn Crew>,
        entries: &[String],
        shared_device: Option<String>,
        step: u64,
    ) -> Result<Fleet> {
        let mut fleet = Fleet {
            crew,
            workers: Vec::new(),
            membership: Membership::default(),
            changes: Vec::new(),
            price: run.price.clone(),
            least_s: run.sync.deadline_s,
            shared_device,
        };
        entries.iter().for_each(|entry| fleet.add(entry));
        fleet.wait_for_all(step)?;
        let _ = fleet.membership.boundary(step); // Those that are there from the beginning are not a change.
        Ok(fleet)
    }

    /// The workers that take part, in the order of their numbers.
    pub(crate) fn active(&self) -> Vec<usize> {
        self.membership.active()
    }

    /// How many workers there were, those that are gone included.
    pub(crate) fn len(&self) -> usize {
        self.workers.len()
    }

    pub(crate) fn name(&self, worker: usize) -> &str {
        &self.workers[worker].name
    }

    /// The number of a worker's present incarnation.
    pub(crate) fn incarnation(&self, worker: usize) -> u64 {
        self.workers[worker].incarnation
    }

    /// The crew's clocks: see `Crew`.
    pub(crate) fn crew(&self) -> &dyn Crew {
        &*self.crew
    }

    pub(crate) fn command(&mut self, worker: usize, command: Command) {
        self.crew.command(worker, command);
    }

    pub(crate) fn restart_clock(&mut self) {
        self.crew.restart_clock();
    }

    pub(crate) fn restart_silence(&mut self) {
        self.crew.restart_silence();
    }

    /// Whether emulated workers share one device.
    pub(crate) fn is_emulated(&self) -> bool {
        self.shared_device.is_some()
    }

    /// All devices there were, by worker; the one device of emulated workers.
    pub(crate) fn devices(&self) -> Vec<PaidDevice> {
        if let Some(name) = &self.shared_device {
            let per_hour = self.price.as_ref().map(|price| price.per_hour);
            return vec![PaidDevice { name: name.clone(), per_hour, is_here: true }];
        }
        let device = |(index, worker): (usize, &Worker)| PaidDevice {
            name: worker.name.clone(),
            per_hour: price(self.price.as_ref(), &worker.entry),
            is_here: !self.is_removed(index),
        };
        self.workers.iter().enumerate().map(device).collect()
    }

    /// Returns what changed since the last call.
    pub(crate) fn take_changes(&mut self) -> Vec<DeviceChange> {
        std::mem::take(&mut self.changes)
    }

    /// Notes a worker's largest sum of tensors.
    pub(crate) fn note_peak_memory(&mut self, worker: usize, bytes: u64) {
        let peak = &mut self.workers[worker].peak_memory_bytes;
        *peak = (*peak).max(bytes);
    }

    /// The largest sum of tensors so far, by worker.
    pub(crate) fn peak_memory_bytes(&self) -> Vec<u64> {
        self.workers.iter().map(|worker| worker.peak_memory_bytes).collect()
    }

    /// Follows the list of devices in the run's file, if it was edited: new ones are opened and join once
    /// they are ready, others leave at once. `step` steps were taken.
    pub(crate) fn follow(&mut self, roster: &mut Roster, step: u64) -> Result<()> {
        match roster.changed() {
            None => Ok(()),
            Some(Ok(now)) => self.revise(&now, step),
            Some(Err(error)) => {
                let reason = format!("the devices stay as they are: {}", error.problem);
                self.changes.push(DeviceChange { kind: "devices_refused", reason });
                Ok(())
            }
        }
    }

    fn revise(&mut self, now: &RunSpec, step: u64) -> Result<()> {
        let mut missing = now.devices.clone();
        self.price.clone_from(&now.price);
        let mut removed = Vec::new();
        for worker in (0..self.workers.len()).filter(|&worker| !self.is_removed(worker)) {
            match missing.iter().position(|entry| *entry == self.workers[worker].entry) {
                Some(index) => drop(missing.remove(index)),
                None => removed.push(worker),
            }
        }
        // New ones first, so that a fleet whose devices are all exchanged is never empty.
        missing.iter().for_each(|entry| self.add(entry));
        for worker in removed {
            self.leave(worker, Leave::Removed { step }, None)?;
        }
        Ok(())
    }

    fn is_removed(&self, worker: usize) -> bool {
        matches!(self.membership.standing(worker), Some(Standing::Gone(Leave::Removed { .. })))
    }

    /// Adds a new worker, or one that was taken out of the run before; it joins once it is ready.
    fn add(&mut self, entry: &str) {
        let was_here = |worker: &usize| self.workers[*worker].entry == entry && self.is_removed(*worker);
        if let Some(worker) = (0..self.workers.len()).find(was_here) {
            self.membership.expect(worker);
            self.workers[worker].incarnation = self.crew.open(worker, entry);
            return;
        }
        let before = self.workers.iter().filter(|worker| worker.entry == entry).count();
        let worker = self.membership.expect_new();
        self.workers.push(Worker {
            entry: entry.to_owned(),
            name: if before == 0 { entry.to_owned() } else { format!("{entry}#{}", before + 1) },
            incarnation: self.crew.open(worker, entry),
            retry_step: 0,
            retries: 0,
            peak_memory_bytes: 0,
        });
    }

    /// Waits at the beginning until all have reported; those that do not in time join later.
    fn wait_for_all(&mut self, step: u64) -> Result<()> {
        let begin = Instant::now();
        for _ in 0..self.workers.len() {
            let Some(report) = self.next_while_opening(begin) else { break };
            if let Content::Absent(error) = report.content {
                return Err(if error.kind.is_device() { error } else { error.of(ProblemKind::Device) });
            }
            self.hear_between(report, step)?;
        }
        Ok(())
    }

    /// The next report while devices are being opened since `begin`; none once that takes too long.
    fn next_while_opening(&mut self, begin: Instant) -> Option<Report> {
        let left_s = listen::PATIENCE * self.least_s - begin.elapsed().as_secs_f64();
        // A deadline beyond what a clock can count is none.
        self.crew.report(Duration::try_from_secs_f64(left_s.max(0.0)).unwrap_or(Duration::MAX))
    }

    /// Waits for a worker that is on the way, where no worker takes part.
    fn wait_for_one(&mut self, step: u64) -> Result<()> {
        let begin = Instant::now();
        let is_coming = |membership: &Membership, worker| {
            matches!(membership.standing(worker), Some(Standing::Active | Standing::Joining))
        };
        while !(0..self.workers.len()).any(|worker| is_coming(&self.membership, worker)) {
            let Some(report) = self.next_while_opening(begin) else {
                let problem = format!("no device was ready after {:.1} s", begin.elapsed().as_secs_f64());
                let hint = "see `lingot devices`; sync.deadline_s is a tenth of what opening may take";
                return Err(Problem::new(problem, hint).of(ProblemKind::Device));
            };
            self.hear_between(report, step)?;
        }
        Ok(())
    }

    /// Begins a step: devices that failed are tried again, and those that are ready join. Returns who joined.
    pub(crate) fn boundary(&mut self, step: u64) -> Result<Vec<usize>> {
        while let Some(report) = self.crew.report(Duration::ZERO) {
            self.hear_between(report, step)?;
        }
        for index in 0..self.workers.len() {
            let standing = self.membership.standing(index);
            let has_failed = matches!(standing, Some(Standing::Gone(Leave::Failed { .. })));
            let worker = &mut self.workers[index];
            if has_failed && worker.retry_step <= step {
                worker.incarnation = self.crew.open(index, &worker.entry);
                worker.retries += 1;
                worker.retry_step = step + (RETRY_STEPS << worker.retries.min(20));
            }
        }
        self.wait_for_one(step)?;
        let mut joined = Vec::new();
        for change in self.membership.boundary(step) {
            if let Change::Joined { worker, step } = change {
                let reason = format!("{} joins after step {step}", self.workers[worker].name);
                self.changes.push(DeviceChange { kind: "device_joined", reason });
                joined.push(worker);
            }
        }
        Ok(joined)
    }

    /// Lets a worker leave; `consequence` says what becomes of its work. Errors if no worker is left.
    pub(crate) fn leave(&mut self, worker: usize, leave: Leave, consequence: Option<String>) -> Result<()> {
        let step = leave.step();
        let kind = if matches!(leave, Leave::Removed { .. }) { "device_left" } else { "device_lost" };
        let mut reason = format!("{} {leave}", self.workers[worker].name);
        if let Some(consequence) = consequence {
            reason = format!("{reason}; {consequence}");
        }
        let left = self.membership.leave(worker, leave);
        if !matches!(left, Ok(None)) {
            self.changes.push(DeviceChange { kind, reason });
        }
        left.map_err(|lost| self.all_lost(&lost, step))?;
        let worker = &mut self.workers[worker];
        worker.retry_step = worker.retry_step.max(step + RETRY_STEPS);
        Ok(())
    }

    /// All workers by name with their reasons. Where every one of them is full, so is the fleet.
    fn all_lost(&self, all: &AllLost, step: u64) -> Problem {
        let said = |Lost { worker, leave }: &Lost| format!("{} {leave}", self.workers[*worker].name);
        let reasons: Vec<String> = all.lost.iter().map(said).collect();
        let problem = format!("all devices are lost after step {step}: {}", reasons.join("; "));
        let hint =
            "run the same command again: it goes on from the checkpoint, on the devices that then answer";
        let full = |lost: &Lost| match &lost.leave {
            Leave::Failed { problem, .. } if matches!(problem.kind, ProblemKind::DeviceFull { .. }) => {
                Some(problem.kind)
            }
            _ => None,
        };
        let kinds: Option<Vec<ProblemKind>> = all.lost.iter().map(full).collect();
        let kind = kinds.and_then(|kinds| kinds.first().copied()).unwrap_or(ProblemKind::Device);
        Problem::new(problem, hint).of(kind)
    }
}

fn price(price: Option<&PriceSpec>, entry: &str) -> Option<f64> {
    let price = price?;
    Some(price.devices.get(entry).copied().unwrap_or(price.per_hour))
}
