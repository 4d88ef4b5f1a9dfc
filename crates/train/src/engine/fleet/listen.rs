//! Listening to workers: which reports count, and how long silence is allowed.

use super::Fleet;
use crate::crew::{Content, Report};
use lingot_spec::problem::Result;
use lingot_sync::membership::{Leave, Standing, deadline_s, overdue};
use std::time::Duration;

/// How many times longer than its work should take a worker may be silent.
pub(super) const PATIENCE: f64 = 10.0;

/// What came of listening for a while.
pub(crate) enum Heard {
    /// A report of a worker that takes part.
    Report(Report),
    /// A worker was silent for too long.
    Silent { worker: usize, leave: Leave },
    /// Nothing that concerns the step.
    Nothing,
}

/// A worker that owes a report.
pub(crate) struct Awaited {
    pub(crate) worker: usize,
    /// How long its work takes, where that is known.
    pub(crate) expected_s: Option<f64>,
}

impl Fleet {
    /// Waits for a report of one of `awaited`, or until one of them has been silent for too long.
    pub(crate) fn listen(&mut self, awaited: &[Awaited], step: u64) -> Result<Heard> {
        // A report that is there counts, however long the host took to look.
        if let Some(report) = self.crew.report(Duration::ZERO) {
            return self.sort(report, step);
        }
        let mut least_left_s = f64::INFINITY;
        for &Awaited { worker, expected_s } in awaited {
            let (silent_s, allowed_s) = (self.crew.silent_s(worker), self.allowed_s(expected_s));
            if let Some(leave) = overdue(step, silent_s, allowed_s) {
                return Ok(Heard::Silent { worker, leave });
            }
            least_left_s = least_left_s.min(allowed_s - silent_s);
        }
        let patience = Duration::from_secs_f64(least_left_s.clamp(1e-3, 3600.0));
        self.crew.report(patience).map_or(Ok(Heard::Nothing), |report| self.sort(report, step))
    }

    /// Passes on the reports of those who take part.
    fn sort(&mut self, report: Report, step: u64) -> Result<Heard> {
        let is_active = self.membership.standing(report.worker) == Some(&Standing::Active);
        if is_active && self.workers[report.worker].incarnation == report.incarnation {
            return Ok(Heard::Report(report));
        }
        self.hear_between(report, step)?;
        Ok(Heard::Nothing)
    }

    /// How long a worker may be silent. One that was not measured yet may take longer: its first work warms
    /// everything up. The last one is given up later, since no other could do its work.
    fn allowed_s(&self, expected_s: Option<f64>) -> f64 {
        let is_last = self.membership.active().len() == 1;
        let least_s = self.least_s * if is_last { PATIENCE } else { 1.0 };
        expected_s.map_or(PATIENCE * least_s, |expected_s| deadline_s(expected_s, PATIENCE, least_s))
    }

    /// Takes a report that no step waits for: a device that was gone is ready again, or one fails on its way
    /// in.
    pub(crate) fn hear_between(&mut self, report: Report, step: u64) -> Result<()> {
        let Report { worker, incarnation, content, .. } = report;
        if self.workers[worker].incarnation != incarnation {
            return Ok(());
        }
        let is_gone = matches!(self.membership.standing(worker), Some(Standing::Gone(_)));
        match content {
            Content::Failed(problem) | Content::Absent(problem) if !is_gone => {
                self.leave(worker, Leave::Failed { step, problem }, None)
            }
            Content::Failed(_) | Content::Absent(_) | Content::Micro(_) | Content::Layer(_) => Ok(()),
            // It is ready, or has woken up and done what it was asked for.
            _ if !self.is_removed(worker) => {
                self.membership.announce(worker);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
