//! Several devices train one model in step: each computes a share of every batch, and the host brings it together.
//!
//! The agreed weights, the optimizer and its moments live on the host, in the main loop's `Worker`; so no device is
//! needed to go on, and all devices hold the same bits whatever they are made by. In every step each device takes the
//! weights, differentiates its share of the micro-batches, and gives the gradients back; the host adds them up in the
//! order of the batch. Or each trains alone between meetings (`apart`). Reading order: here, `gather`, `apart`, `member`,
//! `entry`.

mod apart;
mod gather;
mod member;
mod roster;

pub(crate) use apart::Apart;
pub(crate) use gather::Gathered;
pub use lingot_device::entry::Opener;
pub(crate) use roster::Roster;

use lingot_spec::RunSpec;
use lingot_spec::event::{Event, Piece};
use lingot_spec::problem::{Problem, ProblemKind, Result};
use lingot_spec::run::PriceSpec;
use lingot_sync::membership::{AllLost, Change, Leave, Membership, Standing};
use lingot_sync::shares::{Shares, Speed};
use member::{Answer, News, Order, Weights};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// A device that failed is tried again after so many steps, then after twice as many, and so on.
const RETRY_STEPS: u64 = 10;

/// A device whose share is nothing computes one micro-batch after so many steps: it may have become faster.
const PROBE_STEPS: u64 = 50;

/// How many times longer than a micro-batch should take a device may be silent.
const PATIENCE: f64 = 10.0;

/// The devices of a run. Worker `i` is the `i`-th entry of `devices`; those added later follow.
pub struct Fleet {
    run: Arc<RunSpec>,
    open: Opener,
    /// As the run's file has them now.
    price: Option<PriceSpec>,
    seats: Vec<Seat>,
    membership: Membership,
    answers: Receiver<Answer>,
    teller: Sender<Answer>,
    /// Threads begun, and sets of weights given out: so that late answers are known as such.
    lives: u64,
    weights: u64,
    /// Memory that is used again: large vectors are dear to make.
    weights_before: Option<Arc<Weights>>,
    spare: Vec<Vec<f32>>,
    /// The division now, and among whom.
    shares: Option<(Vec<usize>, Shares)>,
    /// How steps were divided that a killed process took: they are divided so again.
    recorded: BTreeMap<u64, Vec<Piece>>,
    changes: Vec<Happening>,
}

/// A device came or went: one word for machines, and a sentence.
pub(crate) struct Happening {
    pub(crate) kind: &'static str,
    pub(crate) reason: String,
}

/// A device as the ledger sees it.
pub(crate) struct Attendance {
    pub(crate) name: String,
    pub(crate) per_hour: Option<f64>,
    /// Nobody took it out of the run. One that is lost is paid for all the same.
    pub(crate) is_here: bool,
}

/// One device's place.
struct Seat {
    entry: String,
    /// The entry, with a number where it stands in the list several times.
    name: String,
    orders: Sender<Order>,
    life: u64,
    speed: Speed,
    /// Since it computed anything.
    unmeasured_steps: u64,
    /// When it last said something.
    heard: Instant,
    /// The micro-batches that it owes, piece by piece.
    owes: Vec<Range<usize>>,
    lap: Lap,
    retry_step: u64,
    retries: u32,
    peak_memory_bytes: u64,
}

/// What a device did in a step.
#[derive(Clone, Copy, Default)]
struct Lap {
    compute: Duration,
    exchange: Duration,
    /// From orders to answers.
    whole: Duration,
    micros: u64,
}

impl Fleet {
    /// Opens the devices of the run, which has taken `step` steps; `history` is its log so far. A device that does not
    /// exist is an error, one without room for the model is left out, if any has.
    pub fn open(run: &RunSpec, open: Opener, history: &[Event], step: u64) -> Result<Fleet> {
        let (teller, answers) = channel();
        let mut fleet = Fleet {
            run: Arc::new(run.clone()),
            open,
            price: run.price.clone(),
            seats: Vec::new(),
            membership: Membership::default(),
            answers,
            teller,
            lives: 0,
            weights: 0,
            weights_before: None,
            spare: Vec::new(),
            shares: None,
            recorded: recorded(history, step),
            changes: Vec::new(),
        };
        for entry in &run.devices {
            fleet.seat(entry);
        }
        fleet.wait_for_all(step)?;
        let _ = fleet.membership.boundary(step); // Who is there from the beginning is no news.
        Ok(fleet)
    }

    /// All devices there were, by worker.
    pub(crate) fn attendance(&self) -> Vec<Attendance> {
        let is_removed =
            |worker| matches!(self.membership.standing(worker), Some(Standing::Gone(Leave::Removed { .. })));
        let attendance = |(worker, seat): (usize, &Seat)| Attendance {
            name: seat.name.clone(),
            per_hour: price(self.price.as_ref(), &seat.entry),
            is_here: !is_removed(worker),
        };
        self.seats.iter().enumerate().map(attendance).collect()
    }

    /// The run's file lists other devices now: new ones are opened and join once they are ready, others leave at once.
    pub(crate) fn revise(&mut self, now: &RunSpec, step: u64) -> Result<()> {
        let mut missing = now.devices.clone();
        self.price.clone_from(&now.price);
        let mut removed = Vec::new();
        for worker in 0..self.seats.len() {
            let is_removed =
                matches!(self.membership.standing(worker), Some(Standing::Gone(Leave::Removed { .. })));
            match missing.iter().position(|entry| *entry == self.seats[worker].entry) {
                Some(index) if !is_removed => drop(missing.remove(index)),
                None if !is_removed => removed.push(worker),
                _ => {}
            }
        }
        // First those who come, so that somebody is left.
        missing.iter().for_each(|entry| self.seat(entry));
        for worker in removed {
            self.leave(worker, Leave::Removed { step })?;
        }
        Ok(())
    }

    /// A change of the run's file that cannot be followed.
    pub(crate) fn refuse(&mut self, error: &Problem) {
        let reason = format!("the devices stay as they are: {}", error.problem);
        self.changes.push(Happening { kind: "devices_refused", reason });
    }

    /// Micro-batches a second, by worker, where they were measured.
    pub fn speeds(&self) -> Vec<Option<f64>> {
        self.seats.iter().map(|seat| seat.speed.per_s()).collect()
    }

    /// Who came and went since the last call.
    pub(crate) fn take_changes(&mut self) -> Vec<Happening> {
        std::mem::take(&mut self.changes)
    }

    pub(crate) fn peaks(&self) -> impl Iterator<Item = u64> {
        self.seats.iter().map(|seat| seat.peak_memory_bytes)
    }

    /// A new worker, or one that was taken out of the run before; it joins once it is ready.
    fn seat(&mut self, entry: &str) {
        let was_here = |worker: &usize| {
            self.seats[*worker].entry == entry
                && matches!(self.membership.standing(*worker), Some(Standing::Gone(Leave::Removed { .. })))
        };
        if let Some(worker) = (0..self.seats.len()).find(was_here) {
            self.membership.expect(worker);
            self.seats[worker].orders = self.begin(worker, entry);
            self.seats[worker].life = self.lives;
            return;
        }
        let worker = self.membership.expect_new();
        let before = self.seats.iter().filter(|seat| seat.entry == entry).count();
        let name = if before == 0 { entry.to_owned() } else { format!("{entry}#{}", before + 1) };
        let orders = self.begin(worker, entry);
        self.seats.push(Seat {
            entry: entry.to_owned(),
            name,
            orders,
            life: self.lives,
            speed: Speed::default(),
            unmeasured_steps: 0,
            heard: Instant::now(),
            owes: Vec::new(),
            lap: Lap::default(),
            retry_step: 0,
            retries: 0,
            peak_memory_bytes: 0,
        });
    }

    /// A thread for a worker's device.
    fn begin(&mut self, worker: usize, entry: &str) -> Sender<Order> {
        self.lives += 1;
        let who = (worker, self.lives);
        member::begin(entry.to_owned(), self.open.clone(), self.run.clone(), who, self.teller.clone())
    }

    /// At the beginning all have to answer; who does not in time joins later.
    fn wait_for_all(&mut self, step: u64) -> Result<()> {
        let begin = Instant::now();
        for _ in 0..self.seats.len() {
            let Some(answer) = self.next_answer(begin) else { break };
            if let News::Absent(error) = answer.news {
                return Err(error.of(ProblemKind::Device));
            }
            self.hear_between(answer, step)?;
        }
        Ok(())
    }

    /// The next answer of a device that is being opened since `begin`; none once that takes too long.
    fn next_answer(&self, begin: Instant) -> Option<Answer> {
        let left_s = PATIENCE * self.run.sync.deadline_s - begin.elapsed().as_secs_f64();
        self.answers.recv_timeout(Duration::from_secs_f64(left_s.max(0.0))).ok()
    }

    /// Where nobody takes part, somebody may be on the way.
    fn wait_for_one(&mut self, step: u64) -> Result<()> {
        let begin = Instant::now();
        let is_joining = |membership: &Membership, worker| {
            matches!(membership.standing(worker), Some(Standing::Active | Standing::Joining))
        };
        while !(0..self.seats.len()).any(|worker| is_joining(&self.membership, worker)) {
            let Some(answer) = self.next_answer(begin) else {
                let problem = format!("no device was ready after {:.1} s", begin.elapsed().as_secs_f64());
                let hint = "see `lingot devices`; sync.deadline_s is a tenth of what opening may take";
                return Err(Problem::new(problem, hint).of(ProblemKind::Device));
            };
            self.hear_between(answer, step)?;
        }
        Ok(())
    }

    /// A step is over: devices that failed are tried again, and those that are ready join.
    fn boundary(&mut self, step: u64) -> Result<()> {
        while let Ok(answer) = self.answers.try_recv() {
            self.hear_between(answer, step)?;
        }
        for worker in 0..self.seats.len() {
            let failed =
                matches!(self.membership.standing(worker), Some(Standing::Gone(Leave::Failed { .. })));
            if failed && self.seats[worker].retry_step <= step {
                let entry = self.seats[worker].entry.clone();
                self.seats[worker].orders = self.begin(worker, &entry);
                self.seats[worker].life = self.lives;
                self.seats[worker].retries += 1;
                self.seats[worker].retry_step = step + (RETRY_STEPS << self.seats[worker].retries.min(20));
            }
        }
        self.wait_for_one(step)?;
        for change in self.membership.boundary(step) {
            if let Change::Joined { worker, step } = change {
                let reason = format!("{} joins after step {step}", self.seats[worker].name);
                self.changes.push(Happening { kind: "device_joined", reason });
                self.seats[worker].speed = Speed::default();
            }
        }
        Ok(())
    }

    /// News while nobody owes anything: a device that was gone is ready again, or one fails on its way in.
    fn hear_between(&mut self, answer: Answer, step: u64) -> Result<()> {
        let seat = &self.seats[answer.worker];
        if seat.life != answer.life {
            return Ok(());
        }
        let standing = self.membership.standing(answer.worker);
        let is_gone = matches!(standing, Some(Standing::Gone(_)));
        let is_removed = matches!(standing, Some(Standing::Gone(Leave::Removed { .. })));
        match answer.news {
            News::Failed(error) | News::Absent(error) if !is_gone => {
                self.leave(answer.worker, Leave::Failed { step, reason: error.problem })?;
            }
            News::Failed(_) | News::Absent(_) | News::Micro(_) | News::Layer(_) => {}
            // It is ready, or has woken up and done what it was asked for.
            _ if !is_removed => drop(self.membership.announce(answer.worker)),
            _ => {}
        }
        Ok(())
    }

    /// A device takes part no more. Returns what it owed.
    fn leave(&mut self, worker: usize, leave: Leave) -> Result<Vec<Range<usize>>> {
        let (step, seat) = (step_of(&leave), &mut self.seats[worker]);
        let owed: usize = seat.owes.iter().map(Range::len).sum();
        let mut reason = format!("{} {leave}", seat.name);
        if owed > 0 {
            reason += &format!("; others compute the {owed} micro-batches that it owes");
        }
        let kind = if matches!(leave, Leave::Removed { .. }) { "device_left" } else { "device_lost" };
        let left = self.membership.leave(worker, leave).map_err(|lost| all_lost(&lost, &self.seats, step));
        if !matches!(left, Ok(None)) {
            self.changes.push(Happening { kind, reason });
        }
        left?;
        let seat = &mut self.seats[worker];
        seat.retry_step = seat.retry_step.max(step + RETRY_STEPS);
        Ok(std::mem::take(&mut seat.owes))
    }
}

impl Seat {
    /// Its speed is not known well enough to leave it out.
    fn is_unsure(&self) -> bool {
        !self.speed.is_sure() || self.unmeasured_steps >= PROBE_STEPS
    }
}

/// The divisions that a log knows of steps after `step`.
fn recorded(history: &[Event], step: u64) -> BTreeMap<u64, Vec<Piece>> {
    let divided = history.iter().filter_map(|event| match event {
        Event::Exchange(exchange) if exchange.step > step && !exchange.pieces.is_empty() => {
            Some((exchange.step - 1, exchange.pieces.clone()))
        }
        _ => None,
    });
    divided.collect()
}

fn price(price: Option<&PriceSpec>, entry: &str) -> Option<f64> {
    let price = price?;
    Some(price.devices.get(entry).copied().unwrap_or(price.per_hour))
}

fn step_of(leave: &Leave) -> u64 {
    match leave {
        Leave::Failed { step, .. } | Leave::Hung { step, .. } | Leave::Removed { step } => *step,
    }
}

fn all_lost(lost: &AllLost, seats: &[Seat], step: u64) -> Problem {
    let reasons: Vec<String> = seats
        .iter()
        .zip(&lost.reasons)
        .map(|(seat, reason)| {
            format!("{}: {}", seat.name, reason.split_once(' ').map_or("", |(_, rest)| rest))
        })
        .collect();
    let problem = format!("all devices are lost after step {step}: {}", reasons.join("; "));
    let hint = "run the same command again: it goes on from the checkpoint, on the devices that then answer";
    Problem::new(problem, hint).of(ProblemKind::Device)
}
