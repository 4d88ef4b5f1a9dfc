//! Workers with a device and a thread each, by the real clock.

use super::member::{Member, room_problem};
use super::{Command, Content, Crew, Report};
use lingot_device::entry::Opener;
use lingot_spec::RunSpec;
use lingot_spec::problem::{Problem, Result};
use lingot_sync::shares::Speed;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// One thread per worker, and one channel for all reports.
pub(crate) struct Threads {
    run: Arc<RunSpec>,
    open: Opener,
    workers: Vec<Worker>,
    /// Threads begun so far.
    incarnations: u64,
    reports: Receiver<Report>,
    sender: Sender<Report>,
    begin: Instant,
}

/// The host's side of one thread.
struct Worker {
    commands: Sender<Command>,
    incarnation: u64,
    /// Commands whose last report has not come yet.
    owes: u64,
    /// When it last reported, or began to owe a report.
    heard: Instant,
    /// Of its own steps.
    speed: Speed,
}

impl Threads {
    /// A crew without workers. `open` opens the device that an entry of `devices` names.
    pub(crate) fn new(run: &RunSpec, open: Opener) -> Threads {
        let (sender, reports) = channel();
        Threads {
            run: Arc::new(run.clone()),
            open,
            workers: Vec::new(),
            incarnations: 0,
            reports,
            sender,
            begin: Instant::now(),
        }
    }

    /// Notes what a report means for its worker; those of earlier incarnations mean nothing for the present
    /// one.
    fn note(&mut self, report: &Report) {
        let Some(worker) = self.workers.get_mut(report.worker) else { return };
        if worker.incarnation != report.incarnation {
            return;
        }
        worker.heard = Instant::now();
        if report.content.is_last() {
            worker.owes = worker.owes.saturating_sub(1);
        }
        if let Content::Stepped(step) = &report.content {
            worker.speed.observe(1, step.compute.as_secs_f64());
        }
    }
}

impl Crew for Threads {
    fn open(&mut self, worker: usize, entry: &str) -> u64 {
        self.incarnations += 1;
        let (commands, to_do) = channel();
        let begun = Worker {
            commands,
            incarnation: self.incarnations,
            owes: 0,
            heard: Instant::now(),
            speed: self.workers.get(worker).map_or_else(Speed::default, |before| before.speed),
        };
        match self.workers.get_mut(worker) {
            Some(before) => *before = begun,
            None => self.workers.push(begun),
        }
        let place = Place { worker, incarnation: self.incarnations, reports: self.sender.clone() };
        let (entry, open, run) = (entry.to_owned(), self.open.clone(), self.run.clone());
        // Not joined: a thread whose device hangs never ends.
        std::thread::spawn(move || place.work(&entry, &open, run, &to_do));
        self.incarnations
    }

    fn command(&mut self, worker: usize, command: Command) {
        let worker = &mut self.workers[worker];
        if !matches!(command, Command::Adopt(_)) {
            if worker.owes == 0 {
                worker.heard = Instant::now();
            }
            worker.owes += 1;
        }
        // Where the thread has ended, its failure is among the reports.
        let _ = worker.commands.send(command);
    }

    fn report(&mut self, patience: Duration) -> Option<Report> {
        let mut report = self.reports.recv_timeout(patience).ok()?;
        report.at_s = self.begin.elapsed().as_secs_f64();
        self.note(&report);
        Some(report)
    }

    fn restart_clock(&mut self) {
        self.begin = Instant::now();
    }

    fn elapsed_s(&self) -> f64 {
        self.begin.elapsed().as_secs_f64()
    }

    fn silent_s(&self, worker: usize) -> f64 {
        let worker = &self.workers[worker];
        if worker.owes > 0 { worker.heard.elapsed().as_secs_f64() } else { 0.0 }
    }

    fn restart_silence(&mut self) {
        self.workers.iter_mut().for_each(|worker| worker.heard = Instant::now());
    }

    fn next_step_s(&self, worker: usize) -> f64 {
        self.workers[worker].speed.per_s().map_or(0.0, |speed| 1.0 / speed)
    }

    fn is_reproducible(&self) -> bool {
        false
    }
}

/// Whose thread it is, and where its reports go.
struct Place {
    worker: usize,
    incarnation: u64,
    reports: Sender<Report>,
}

impl Place {
    fn tell(&self, content: Content) {
        let Place { worker, incarnation, reports } = self;
        // Once the run is over, reports are no longer received.
        let _ = reports.send(Report { worker: *worker, incarnation: *incarnation, at_s: 0.0, content });
    }

    /// Opens the device and executes commands until there are no more.
    fn work(&self, entry: &str, open: &Opener, run: Arc<RunSpec>, commands: &Receiver<Command>) {
        let work = || self.execute(entry, open, run, commands);
        // A panic of a vendor's library is that device's failure, not the run's.
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.tell(Content::Failed(error)),
            Err(_) => self.tell(Content::Failed(Problem::bug("its thread panicked"))),
        }
    }

    fn execute(
        &self,
        entry: &str,
        open: &Opener,
        run: Arc<RunSpec>,
        commands: &Receiver<Command>,
    ) -> Result<()> {
        let device = match open(entry) {
            Ok(device) => device,
            Err(error) => {
                self.tell(Content::Absent(error));
                return Ok(());
            }
        };
        if let Some(problem) = room_problem(&run, &device) {
            return Err(problem);
        }
        let mut member = Member::open(run, &device, None)?;
        self.tell(Content::Ready);
        while let Ok(command) = commands.recv() {
            member.execute(command, &mut |content| self.tell(content))?;
        }
        Ok(())
    }
}
