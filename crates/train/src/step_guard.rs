//! What is done with each step that was computed: applied, skipped, taken at a lower rate; and what becomes
//! of a batch that was skipped. The verdicts are pure (`guard`); here is what they act on.

use crate::compute::Outcome;
use crate::guard::finite;
use crate::guard::spikes::{self, Spike, Verdict};
use lingot_data::Dataset;
use lingot_spec::RunSpec;
use lingot_spec::manifest::{GuardState, Retry};
use lingot_spec::problem::{Problem, ProblemKind, Result};

/// A skipped batch is tried again this many steps later at the earliest.
const FIRST_RETRY: u64 = 8;
/// The steps after that among which one is drawn.
const RETRY_RANGE: u64 = 56;
/// Batches that wait for their retry; more would be another text than the run's.
const MOST_WAITING: usize = 16;
/// What the rate is multiplied by for a batch that leaps again.
const LOWERED: f64 = 0.1;
/// Documents that a sentence names one by one.
const MOST_NAMED: usize = 5;

/// Judges steps, and remembers what has to be known for the next.
#[derive(Default)]
pub(crate) struct StepGuard {
    state: GuardState,
    /// Steps without a finite loss or gradient since the last one that was applied.
    skipped: u32,
    notes: Vec<Note>,
}

/// What is done with a step.
pub(crate) struct Decision {
    pub(crate) is_applied: bool,
    /// What its rate is multiplied by.
    pub(crate) rate_factor: f64,
    /// Whether it shows that the weights it was computed with are sound.
    pub(crate) is_sound: bool,
}

/// Something to be recorded.
pub(crate) struct Note {
    /// One word for machines.
    pub(crate) kind: &'static str,
    /// A sentence for people.
    pub(crate) reason: String,
    /// Documents that are set aside.
    pub(crate) quarantined: Option<Quarantined>,
}

/// A batch that leapt again when it was tried again.
#[derive(serde::Serialize)]
pub(crate) struct Quarantined {
    /// Steps taken before.
    pub(crate) step: u64,
    pub(crate) first_sample: u64,
    pub(crate) sequences: u32,
    pub(crate) reason: String,
    pub(crate) documents: Vec<String>,
}

const APPLIED: Decision = Decision { is_applied: true, rate_factor: 1.0, is_sound: true };
const SKIPPED: Decision = Decision { is_applied: false, rate_factor: 1.0, is_sound: false };

impl StepGuard {
    /// Goes on from what a checkpoint remembers.
    pub(crate) fn new(state: Option<GuardState>) -> StepGuard {
        StepGuard { state: state.unwrap_or_default(), ..StepGuard::default() }
    }

    /// What a checkpoint remembers; none where nothing was seen.
    pub(crate) fn state(&self) -> Option<GuardState> {
        Some(self.state.clone()).filter(|state| *state != GuardState::default())
    }

    /// Returns what is to be recorded since the last call.
    pub(crate) fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// Whether the last step was applied. If not, weights are as they were, or damaged: no reason to save
    /// them.
    pub(crate) fn is_calm(&self) -> bool {
        self.skipped == 0 && self.state.spikes_in_a_row == 0
    }

    /// The batch that is tried again in the step after `step` steps. While steps are skipped, none is: it
    /// would be judged by weights that may be damaged.
    pub(crate) fn due(&self, step: u64) -> Option<&Retry> {
        self.state.retries.iter().find(|retry| self.is_calm() && retry.after_step <= step)
    }

    /// The batch that will be tried again in the step after the one after `step` steps, if that one is
    /// applied.
    pub(crate) fn expected(&self, step: u64) -> Option<&Retry> {
        let present = self.due(step);
        self.state.retries.iter().find(|retry| Some(*retry) != present && retry.after_step <= step + 1)
    }

    /// Decides about the step after `step` steps, whose batch is `(first_sample, sequences)` unless one is
    /// tried again. Errors if the run has diverged; where only its losses leap, it may go back only if
    /// `can_roll_back`.
    pub(crate) fn decide(
        &mut self,
        dataset: &Dataset,
        run: &RunSpec,
        step: u64,
        batch: (u64, u32),
        outcome: &Outcome,
        can_roll_back: &dyn Fn() -> bool,
    ) -> Result<Decision> {
        if let Some(retry) = self.due(step).cloned() {
            self.state.retries.retain(|other| *other != retry);
            return self.decide_again(dataset, run, step, &retry, outcome);
        }
        let (loss, norm) = (outcome.losses.main, outcome.gradient_norm);
        if !outcome.is_finite() {
            self.skipped += 1;
            let reason =
                format!("skipped: loss {}, gradient norm {norm} are not both finite", outcome.losses.total);
            self.skip(run, step, batch, "not_finite", reason);
            finite::check_skipped(self.skipped, step, run.optimizer.rate)?;
            return Ok(SKIPPED);
        }
        self.skipped = 0;
        if !run.guard.spikes {
            return Ok(APPLIED);
        }
        match spikes::judge(&mut self.state, &run.guard, loss, norm) {
            Verdict::Sound => Ok(APPLIED),
            Verdict::Wide(spike) if run.guard.fall_back && can_roll_back() => Err(wide(run, step, &spike)),
            Verdict::Narrow(spike) | Verdict::Wide(spike) => {
                self.skip(run, step, batch, "spike", format!("skipped: {spike}"));
                Ok(SKIPPED)
            }
            Verdict::NewLevel(spike) => {
                self.note("new_level", format!("applied, as it has lasted for ten steps: {spike}"), None);
                Ok(APPLIED)
            }
        }
    }

    /// Decides about a batch that was skipped before: one that leaps again is taken once at a lower rate, if
    /// at all, and its documents are set aside.
    fn decide_again(
        &mut self,
        dataset: &Dataset,
        run: &RunSpec,
        step: u64,
        retry: &Retry,
        outcome: &Outcome,
    ) -> Result<Decision> {
        let (loss, norm) = (outcome.losses.main, outcome.gradient_norm);
        let (decision, reason) = if !outcome.is_finite() {
            (SKIPPED, format!("skipped again: loss {loss}, gradient norm {norm} are not both finite"))
        } else if !run.guard.spikes {
            (APPLIED, String::new())
        } else {
            match spikes::judge_again(&mut self.state, &run.guard, loss, norm) {
                None => (APPLIED, String::new()),
                Some(spike) => (
                    Decision { rate_factor: LOWERED, is_sound: false, ..APPLIED },
                    format!("taken at {LOWERED} of the rate: again {spike}"),
                ),
            }
        };
        if decision.is_sound {
            let reason = format!("applied: {} are like others now, loss {loss:.4}", samples(retry));
            self.note("retried", reason, None);
            return Ok(decision);
        }
        let documents = dataset.documents_of(retry.first_sample, retry.sequences)?;
        let more = documents.len().saturating_sub(MOST_NAMED);
        let mut names = documents[..documents.len().min(MOST_NAMED)].join(", ");
        if more > 0 {
            names += &format!(" and {more} more");
        }
        let sentence = format!("{reason}; {} are set aside: {names}", samples(retry));
        let Retry { first_sample, sequences, .. } = *retry;
        let quarantined = Quarantined { step, first_sample, sequences, reason, documents };
        self.note("quarantined", sentence, Some(quarantined));
        Ok(decision)
    }

    /// Skips a batch, to be tried again at a step that is drawn by the run's seed.
    fn skip(&mut self, run: &RunSpec, step: u64, batch: (u64, u32), kind: &'static str, reason: String) {
        let (first_sample, sequences) = batch;
        if !run.guard.retry || self.state.retries.len() >= MOST_WAITING {
            return self.note(kind, reason, None);
        }
        let after_step = step + FIRST_RETRY + draw(&[run.seed, first_sample]) % RETRY_RANGE;
        self.state.retries.push(Retry { first_sample, sequences, after_step });
        let reason = format!("{reason}; its batch is tried again after step {after_step}");
        self.note(kind, reason, None);
    }

    fn note(&mut self, kind: &'static str, reason: String, quarantined: Option<Quarantined>) {
        self.notes.push(Note { kind, reason, quarantined });
    }
}

fn samples(retry: &Retry) -> String {
    let last = retry.first_sample + u64::from(retry.sequences) - 1;
    format!("samples {} to {last}", retry.first_sample)
}

fn wide(run: &RunSpec, step: u64, spike: &Spike) -> Problem {
    let problem = format!("spikes do not end; the last is step {}: {spike}", step + 1);
    Problem::new(problem, finite::lower_the_rate(run.optimizer.rate)).of(ProblemKind::Diverged)
}

/// A number that looks random and depends on `words` alone (the finalizer of SplitMix64).
fn draw(words: &[u64]) -> u64 {
    words.iter().fold(0x6a09_e667_f3bc_c908, |state: u64, &word| {
        let mut z = (state ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}
