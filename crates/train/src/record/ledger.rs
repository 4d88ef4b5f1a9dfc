//! The ledger: every second of every device has one name and one price.
//!
//! The loop tells the ledger when something ends; the time since the last such moment goes to one part. So
//! the parts of a device sum to the wall clock by construction, in whole nanoseconds. After a kill, the
//! seconds between the checkpoint and the last line of the old log are `lost`.

pub use crate::engine::Busy;
use crate::engine::PaidDevice;
use lingot_spec::event::{self, DeviceSeconds, Event, Target};
use std::time::{Duration, Instant};

/// What a device does with a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It waits: for data, for the log, for other devices.
    Idle,
    /// It computes a step.
    Compute,
    /// It takes or brings numbers.
    Exchange,
    /// It waits for a checkpoint.
    Checkpoint,
    /// It scores held-out text.
    Evaluation,
    /// What was done before a kill, and is done again after it.
    Lost,
}

/// A held-out loss and what had been spent when it was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mark {
    /// In nats per token.
    pub loss: f64,
    /// Tokens trained on.
    pub tokens: f64,
    /// Wall clock, all processes together.
    pub seconds: f64,
    /// None where some device has no price.
    pub money: Option<f64>,
}

/// One device's seconds and price.
#[derive(Clone, Debug)]
struct Account {
    device: String,
    parts: [Duration; 6],
    per_hour: Option<f64>,
    /// What earlier processes spent, at the prices of their time, and the seconds that it paid for.
    before: (Option<f64>, Duration),
    /// Its number in this process; none for a device that only an earlier process had.
    number: Option<usize>,
    /// Whether it takes part now, and is paid for.
    is_here: bool,
    tokens: u64,
    peak_memory_bytes: u64,
}

/// The accounts of a run.
#[derive(Clone, Debug)]
pub struct Ledger {
    accounts: Vec<Account>,
    /// Wall clock of earlier processes.
    before: Duration,
    begin: Instant,
    /// The end of the last lap.
    last: Instant,
    marks: Vec<Mark>,
}

impl Ledger {
    /// For the devices of this process, each with its price per hour where it has one. Time counts from
    /// `begin`.
    pub fn new(devices: &[(String, Option<f64>)], begin: Instant) -> Ledger {
        let accounts = devices
            .iter()
            .enumerate()
            .map(|(number, (device, per_hour))| Account::new(device, *per_hour, number))
            .collect();
        Ledger { accounts, before: Duration::ZERO, begin, last: begin, marks: Vec::new() }
    }

    /// Goes on from the log of earlier processes, at the step of the checkpoint that was restored. A
    /// checkpoint whose log has no ledger brings `saved_s` seconds of computing.
    pub fn resume(&mut self, events: &[Event], step: u64, saved_s: f64) {
        let kept = events.iter().rev().find_map(|event| match event {
            Event::Ledger(ledger) if ledger.step <= step => Some(ledger.clone()),
            _ => None,
        });
        let kept = kept.unwrap_or_else(|| self.unwritten(saved_s));
        let latest_s = events.iter().filter_map(seconds_of).fold(kept.seconds, f64::max);
        let lost = duration(latest_s).saturating_sub(duration(kept.seconds));
        self.before = duration(kept.seconds) + lost;
        for found in &kept.devices {
            self.take_over(found, lost);
        }
        self.marks = marks(events, step);
    }

    /// Opens the ledger of a run that goes on at `step`, with `before_s` seconds in its checkpoint. `history`
    /// is its log before it is cut back to that step.
    pub(crate) fn open(
        devices: &[PaidDevice],
        begin: Instant,
        history: &[Event],
        step: u64,
        before_s: f64,
    ) -> Ledger {
        let is_saved = |event: &Event| matches!(event, Event::Checkpoint(_) | Event::End(_));
        // Not killed before its first checkpoint: the user began another run in the same folder.
        let is_another = step == 0 && history.iter().any(is_saved);
        let history = if is_another { &[] } else { history };
        let devices: Vec<_> = devices.iter().map(|device| (device.name.clone(), device.per_hour)).collect();
        let mut ledger = Ledger::new(&devices, begin);
        ledger.resume(history, step, before_s);
        ledger
    }

    /// Notes a device of this process, by number: new ones get an account, those that left are paid no more.
    pub fn note_device(&mut self, number: usize, device: &str, per_hour: Option<f64>, is_here: bool) {
        match self.accounts.iter_mut().find(|account| account.number == Some(number)) {
            Some(account) => account.is_here = is_here,
            None => self.accounts.push(Account { is_here, ..Account::new(device, per_hour, number) }),
        }
    }

    /// Attributes the time since the last lap to one part, on every device.
    pub fn lap(&mut self, part: Part, now: Instant) {
        let lap = now.saturating_duration_since(self.last);
        self.last += lap;
        for account in self.accounts.iter_mut().filter(|account| account.is_here) {
            account.parts[part as usize] += lap;
        }
    }

    /// Attributes the time since the last lap to a fleet's step. `busy` is by device number; what a device
    /// did not compute or exchange it was idle. A device that claims more than the lap is cut to it, exchange
    /// first.
    pub fn lap_fleet(&mut self, busy: &[Busy], now: Instant) {
        let lap = now.saturating_duration_since(self.last);
        self.last += lap;
        for account in self.accounts.iter_mut().filter(|account| account.is_here) {
            let busy = account.number.and_then(|number| busy.get(number)).copied().unwrap_or_default();
            account.tokens += busy.tokens;
            let compute = busy.compute.min(lap);
            let exchange = busy.exchange.min(lap - compute);
            account.parts[Part::Compute as usize] += compute;
            account.parts[Part::Exchange as usize] += exchange;
            account.parts[Part::Idle as usize] += lap - compute - exchange;
        }
    }

    /// Returns the wall clock up to the last lap, all processes together.
    pub fn wall(&self) -> Duration {
        self.before + (self.last - self.begin)
    }

    /// Returns the wall clock of earlier processes.
    pub fn before(&self) -> Duration {
        self.before
    }

    /// Returns a device's time, part by part, in the order of `Part`.
    pub fn parts(&self, device: usize) -> Option<[Duration; 6]> {
        self.accounts.get(device).map(|account| account.parts)
    }

    /// Notes the largest sum of tensors on a device of this process.
    pub fn peak_memory(&mut self, number: usize, bytes: u64) {
        if let Some(account) = self.accounts.iter_mut().find(|account| account.number == Some(number)) {
            account.peak_memory_bytes = account.peak_memory_bytes.max(bytes);
        }
    }

    /// Returns what was spent so far; none where some device has no price.
    pub fn money(&self) -> Option<f64> {
        self.accounts.iter().map(Account::money).sum()
    }

    /// Notes a held-out loss.
    pub fn mark(&mut self, loss: f64, tokens: u64) {
        let (seconds, money) = (self.wall().as_secs_f64(), self.money());
        self.marks.push(Mark { loss, tokens: tokens as f64, seconds, money });
    }

    /// Returns the line of `run.jsonl`.
    pub fn line(&self, step: u64, tokens: u64, target_loss: Option<f64>) -> event::Ledger {
        let money = self.money();
        let millions = tokens as f64 / 1e6;
        let now = Mark {
            loss: f64::NAN,
            tokens: tokens as f64,
            seconds: self.wall().as_secs_f64(),
            money: self.money(),
        };
        event::Ledger {
            step,
            seconds: now.seconds,
            tokens,
            devices: self.accounts.iter().map(Account::line).collect(),
            money,
            money_per_million_tokens: money.filter(|_| tokens > 0).map(|money| money / millions),
            target: target_loss.and_then(|loss| to_target(&self.marks, now, loss)),
        }
    }

    /// The state at a checkpoint whose log has no ledger.
    fn unwritten(&self, saved_s: f64) -> event::Ledger {
        let line = |account: &Account| DeviceSeconds {
            device: account.device.clone(),
            compute_s: saved_s,
            per_hour: account.per_hour,
            money: account.per_hour.map(|per_hour| per_hour * saved_s / 3600.0),
            ..DeviceSeconds::default()
        };
        let devices = self.accounts.iter().map(line).collect();
        event::Ledger { seconds: saved_s, devices, ..event::Ledger::default() }
    }

    /// Takes over the account of a device of an earlier process, whose last `lost` seconds were lost. It goes
    /// on where the device is here again, and otherwise stays as it was.
    fn take_over(&mut self, found: &DeviceSeconds, lost: Duration) {
        let spent = [
            found.idle_s,
            found.compute_s,
            found.exchange_s,
            found.checkpoint_s,
            found.evaluation_s,
            found.lost_s,
        ];
        let mut parts = spent.map(duration);
        parts[Part::Lost as usize] += lost;
        let lost_money = found.per_hour.map(|per_hour| price(per_hour, lost));
        let money = found.money.zip(lost_money).map(|(before, lost)| before + lost);
        let before = (money, parts.iter().sum());
        let same = |account: &&mut Account| {
            account.is_here && account.device == found.device && account.before.1.is_zero()
        };
        match self.accounts.iter_mut().find(same) {
            Some(account) => {
                account.parts = parts;
                account.before = if money.is_none() && account.per_hour.is_some() {
                    (Some(0.0), Duration::ZERO) // A price that came later counts from the first second.
                } else {
                    before
                };
                account.tokens = found.tokens;
                account.peak_memory_bytes = found.peak_memory_bytes;
            }
            None => self.accounts.push(Account {
                device: found.device.clone(),
                parts,
                per_hour: found.per_hour,
                before,
                number: None,
                is_here: false,
                tokens: found.tokens,
                peak_memory_bytes: found.peak_memory_bytes,
            }),
        }
    }
}

impl Account {
    fn new(device: &str, per_hour: Option<f64>, number: usize) -> Account {
        Account {
            device: device.into(),
            parts: [Duration::ZERO; 6],
            per_hour,
            before: (Some(0.0), Duration::ZERO),
            number: Some(number),
            is_here: true,
            tokens: 0,
            peak_memory_bytes: 0,
        }
    }

    fn money(&self) -> Option<f64> {
        let (before, paid) = self.before;
        let rest = self.parts.iter().sum::<Duration>().saturating_sub(paid);
        self.per_hour.zip(before).map(|(per_hour, before)| before + price(per_hour, rest))
    }

    fn line(&self) -> DeviceSeconds {
        let [idle_s, compute_s, exchange_s, checkpoint_s, evaluation_s, lost_s] =
            self.parts.map(|part| part.as_secs_f64());
        DeviceSeconds {
            device: self.device.clone(),
            tokens: self.tokens,
            idle_s,
            compute_s,
            exchange_s,
            checkpoint_s,
            evaluation_s,
            lost_s,
            peak_memory_bytes: self.peak_memory_bytes,
            per_hour: self.per_hour,
            money: self.money(),
        }
    }
}

/// Returns what a fleet's money per million tokens would be without one of its devices: the others also train
/// on its tokens, at the speed that each had while it computed; time in which no device computes stays as it
/// is. None where there is no price, or no other device.
pub fn money_without(ledger: &event::Ledger, device: usize) -> Option<f64> {
    let speed = |found: &DeviceSeconds| {
        if found.compute_s > 0.0 { found.tokens as f64 / found.compute_s } else { 0.0 }
    };
    let tokens: u64 = ledger.devices.iter().map(|found| found.tokens).sum();
    let others = || ledger.devices.iter().enumerate().filter(|(index, _)| *index != device).map(|(_, it)| it);
    let (whole, left) = (ledger.devices.iter().map(speed).sum::<f64>(), others().map(speed).sum::<f64>());
    let per_hour: f64 = others().map(|found| found.per_hour).sum::<Option<f64>>()?;
    let not_computing_s = (ledger.seconds - tokens as f64 / whole).max(0.0);
    let seconds = not_computing_s + tokens as f64 / left;
    (tokens > 0 && left > 0.0).then(|| per_hour * seconds / 3600.0 / (tokens as f64 / 1e6))
}

/// Returns what a target loss took, or will take: the later half of the held-out losses as a line over the
/// logarithm of the tokens, and money and time in proportion to tokens. None while the loss does not fall.
pub fn to_target(marks: &[Mark], now: Mark, loss: f64) -> Option<Target> {
    if let Some(mark) = marks.iter().find(|mark| mark.loss <= loss) {
        let Mark { tokens, seconds, money, .. } = *mark;
        return Some(Target { loss, is_reached: true, tokens, seconds, money });
    }
    let usable: Vec<&Mark> = marks.iter().filter(|mark| mark.tokens > 0.0 && mark.loss.is_finite()).collect();
    let recent = &usable[usable.len() / 2..];
    let recent = if recent.len() < 2 { &usable[..] } else { recent };
    let count = recent.len() as f64;
    let mean = |of: &dyn Fn(&Mark) -> f64| recent.iter().map(|mark| of(mark)).sum::<f64>() / count;
    let (x, y) = (mean(&|mark| mark.tokens.ln()), mean(&|mark| mark.loss));
    let across = mean(&|mark| (mark.tokens.ln() - x) * (mark.loss - y));
    let along = mean(&|mark| (mark.tokens.ln() - x).powi(2));
    let slope = across / along;
    if recent.len() < 2 || slope >= 0.0 || !slope.is_finite() {
        return None;
    }
    let tokens = (x + (loss - y) / slope).exp().max(now.tokens);
    let times = tokens / now.tokens;
    let money = now.money.map(|money| money * times);
    times.is_finite().then_some(Target {
        loss,
        is_reached: false,
        tokens,
        seconds: now.seconds * times,
        money,
    })
}

/// Returns the held-out losses of a log up to a step, each with the ledger line that follows it or, in older
/// logs, the step line before it.
pub fn marks(events: &[Event], step: u64) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::new();
    let (mut tokens, mut seconds, mut money, mut open) = (0, 0.0, None, false);
    for event in events.iter().filter(|event| event.step() <= step) {
        match event {
            Event::Step(step) => {
                (tokens, seconds, money, open) = (step.tokens, step.seconds, step.money, false)
            }
            Event::Evaluation(scored) => {
                marks.push(Mark { loss: scored.loss, tokens: tokens as f64, seconds, money });
                open = true;
            }
            Event::Ledger(ledger) => {
                if let Some(mark) = marks.last_mut().filter(|_| open) {
                    (mark.seconds, mark.money) = (ledger.seconds, ledger.money);
                }
                open = false;
            }
            _ => {}
        }
    }
    marks
}

/// The wall clock in a line, where it has one.
fn seconds_of(event: &Event) -> Option<f64> {
    match event {
        Event::Step(step) => Some(step.seconds),
        Event::Ledger(ledger) => Some(ledger.seconds),
        Event::End(end) => Some(end.seconds),
        _ => None,
    }
}

fn price(per_hour: f64, time: Duration) -> f64 {
    per_hour * time.as_secs_f64() / 3600.0
}

/// Seconds read from a file, which may hold any number.
fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO)
}
