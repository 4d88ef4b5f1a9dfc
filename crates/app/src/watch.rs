//! What is shown while a run trains: a moving bar, or a plain line every few seconds.

use crate::terminal::{Progress, Terminal, amount, count, duration};
use lingot_spec::RunSpec;
use lingot_spec::event::{Event, Ledger, Step};

/// Weight of the newest step in the shown loss and speed.
const SMOOTHING: f64 = 0.1;

/// Shows the events of a run.
pub struct Watch<'a> {
    run: &'a RunSpec,
    terminal: &'a Terminal,
    progress: Progress,
    loss: Option<f64>,
    step_s: Option<f64>,
    held_out: Option<f64>,
    before: Option<(u64, f64)>,
    ledger: Option<Ledger>,
}

impl<'a> Watch<'a> {
    pub fn new(run: &'a RunSpec, terminal: &'a Terminal) -> Watch<'a> {
        let progress = Progress::new(terminal);
        Watch {
            run,
            terminal,
            progress,
            loss: None,
            step_s: None,
            held_out: None,
            before: None,
            ledger: None,
        }
    }

    /// Shows one event.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Step(step) => self.step(step),
            Event::Evaluation(scored) => {
                self.held_out = Some(scored.loss);
                // The next step's time includes the evaluation, which says nothing about the speed.
                self.before = None;
                if !self.terminal.is_terminal {
                    self.progress.line(&format!("step {}: held-out loss {:.4}", scored.step, scored.loss));
                }
            }
            Event::Resume(resume) => {
                self.progress.line(&format!("resuming at step {} from {}", resume.step, resume.from));
            }
            Event::Anomaly(anomaly) => {
                let text = format!("step {}: {}", anomaly.step, anomaly.reason);
                self.progress.labelled(&self.terminal.yellow("warning:"), &text);
            }
            Event::Ledger(ledger) => self.ledger = Some(ledger.clone()),
            Event::Start(_)
            | Event::Experts(_)
            | Event::Checkpoint(_)
            | Event::Prediction(_)
            | Event::Exchange(_)
            | Event::End(_)
            | Event::Unknown => {}
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.progress.finish();
    }

    fn step(&mut self, step: &Step) {
        self.loss = Some(smooth(self.loss, step.main_loss));
        if let Some((tokens, seconds)) = self.before.replace((step.tokens, step.seconds))
            && step.tokens > tokens
        {
            self.step_s = Some(smooth(self.step_s, step.seconds - seconds));
        }
        let message = || self.message(step);
        self.progress.update("step", step.step, self.run.stop.steps, message);
    }

    fn message(&self, step: &Step) -> String {
        let mut parts = Vec::new();
        if self.terminal.is_terminal {
            parts.push(format!("{}/{}", step.step, self.run.stop.steps));
        }
        parts.push(format!("loss {:.3}", self.loss.unwrap_or(step.main_loss)));
        parts.extend(self.held_out.map(|loss| format!("held out {loss:.3}")));
        parts.push(format!("{} tokens/s", count(step.tokens_per_s)));
        let left = self.run.stop.steps.saturating_sub(step.step) as f64;
        parts.extend(self.step_s.map(|step_s| format!("{} left", duration(left * step_s))));
        parts.extend(
            self.run.price.as_ref().and_then(|price| money(step, self.ledger.as_ref(), &price.currency)),
        );
        parts.join("  ")
    }
}

/// Money so far, per million tokens, and to the target loss.
fn money(step: &Step, ledger: Option<&Ledger>, currency: &str) -> Option<String> {
    let money = step.money?;
    let mut text = format!("{} {currency}", amount(money));
    text += &format!(", {} per M tokens", amount(money / (step.tokens as f64 / 1e6)));
    if let Some(target) = ledger.and_then(|ledger| ledger.target)
        && let Some(money) = target.money
    {
        let about = if target.is_reached { "" } else { "about " };
        text += &format!(", {about}{} to loss {}", amount(money), target.loss);
    }
    Some(text)
}

fn smooth(before: Option<f64>, now: f64) -> f64 {
    before.filter(|before| before.is_finite()).map_or(now, |before| before + SMOOTHING * (now - before))
}
