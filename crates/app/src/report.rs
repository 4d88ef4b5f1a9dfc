//! The report at the end of a run: losses, cost, a plot, a sample, and the commands to type next.

use crate::comparison::{comparison, newest_ledger};
use crate::failure::Result;
use crate::terminal::{amount, count, duration};
use crate::{output, plot, shell};
use lingot_formats::hugging_face;
use lingot_spec::RunSpec;
use lingot_spec::event::{Evaluation, Event};
use serde::Serialize;
use std::path::Path;

/// The object of `lingot train --json`. Every key is always present, null where it has no value.
#[derive(Serialize)]
pub struct Report {
    pub run: String,
    pub folder: String,
    /// Path of the newest checkpoint.
    pub checkpoint: String,
    pub reason: String,
    pub interrupted: bool,
    /// Whether an earlier process had finished the run, so that nothing was done.
    pub already_done: bool,
    pub step: u64,
    /// Steps of the whole run, as planned.
    pub steps: u64,
    pub tokens: u64,
    pub seconds: f64,
    pub tokens_per_s: f64,
    /// Held-out loss before the first step.
    pub first_held_out_loss: Option<f64>,
    pub held_out_loss: Option<f64>,
    pub perplexity: Option<f64>,
    pub bits_per_byte: Option<f64>,
    pub parameters: u64,
    pub activated_parameters: u64,
    pub money: Option<f64>,
    pub currency: Option<String>,
    pub sample: Option<Sample>,
}

/// Generated text.
#[derive(Serialize)]
pub struct Sample {
    pub prompt: String,
    pub text: String,
}

/// The state of a run, from its summary or from its last checkpoint.
pub struct State<'a> {
    pub reason: String,
    pub interrupted: bool,
    pub already_done: bool,
    pub checkpoint: &'a Path,
    pub step: u64,
    pub tokens: u64,
    pub seconds: f64,
    pub money: Option<f64>,
}

impl Report {
    /// Makes the report. `events` is the whole log, earlier processes included.
    pub fn new(run: &RunSpec, state: State<'_>, events: &[Event], sample: Option<Sample>) -> Report {
        let evaluations: Vec<&Evaluation> = evaluations(events).collect();
        let last = evaluations.last();
        Report {
            run: run.name.clone(),
            folder: run.folder.clone(),
            checkpoint: state.checkpoint.display().to_string(),
            reason: state.reason,
            interrupted: state.interrupted,
            already_done: state.already_done,
            step: state.step,
            steps: run.stop.steps,
            tokens: state.tokens,
            seconds: state.seconds,
            tokens_per_s: state.tokens as f64 / state.seconds.max(1e-9),
            first_held_out_loss: evaluations.first().map(|scored| scored.loss),
            held_out_loss: last.map(|scored| scored.loss),
            perplexity: last.map(|scored| scored.perplexity),
            bits_per_byte: last.and_then(|scored| scored.bits_per_byte),
            parameters: run.model.parameters() + run.model.mtp_parameters(),
            activated_parameters: run.model.activated_parameters(),
            money: state.money,
            currency: run.price.as_ref().map(|price| price.currency.clone()),
            sample,
        }
    }

    /// Prints the report for people on standard output.
    pub fn print(&self, run: &RunSpec, events: &[Event]) -> Result<()> {
        let mut text = format!("{}: {}\n\n", self.run, self.reason);
        if let (Some(first), Some(last), Some(perplexity)) =
            (self.first_held_out_loss, self.held_out_loss, self.perplexity)
        {
            let bits =
                self.bits_per_byte.map(|bits| format!(", {bits:.3} bits per byte")).unwrap_or_default();
            text += &format!("held-out loss  {first:.4} -> {last:.4}  (perplexity {perplexity:.2}{bits})\n");
        }
        let (tokens, time) = (count(self.tokens as f64), duration(self.seconds));
        text += &format!("tokens         {tokens} in {time}, {} per second\n", count(self.tokens_per_s));
        text += &self.bill(events);
        let plot = plot::losses(&training(events), &held_out(events));
        if !plot.is_empty() {
            text += &format!("\nloss: line in training, o held out\n{plot}");
        }
        if let Some(sample) = &self.sample {
            text += &format!("\nsample: what the model makes of the beginning `{}`\n\n", sample.prompt);
            let body = format!("{}{}", sample.prompt, sample.text);
            text.extend(body.lines().map(|line| format!("    {line}\n")));
        }
        text += &format!("\ncheckpoint     {}\n\nnext:\n", self.checkpoint);
        text.extend(self.next(run).iter().map(|command| format!("  {command}\n")));
        output::result(&text)
    }

    /// Where time and money went, and how that compares with the prediction.
    fn bill(&self, events: &[Event]) -> String {
        let Some(ledger) = newest_ledger(events) else { return String::new() };
        let mut text = String::new();
        let currency = self.currency.as_deref().unwrap_or_default();
        if let (Some(money), Some(million)) = (ledger.money, ledger.money_per_million_tokens) {
            text += &format!(
                "money          {} {currency}, {} per million tokens\n",
                amount(money),
                amount(million)
            );
        }
        if let Some(target) = ledger.target {
            let money =
                target.money.map(|money| format!(", {} {currency}", amount(money))).unwrap_or_default();
            let how = if target.is_reached { "took" } else { "would take about" };
            text += &format!(
                "target loss    {} {how} {} tokens, {}{money}\n",
                target.loss,
                count(target.tokens),
                duration(target.seconds)
            );
        }
        for device in &ledger.devices {
            let all_s = device.seconds().max(1e-12);
            let parts = device.parts().into_iter().filter(|(_, seconds)| *seconds > 0.0);
            let parts: Vec<String> =
                parts.map(|(name, seconds)| format!("{name} {:.1} %", 100.0 * seconds / all_s)).collect();
            text += &format!("{:<14} {}: {}\n", device.device, duration(all_s), parts.join(", "));
        }
        if let Some(compared) = comparison(events) {
            text += &format!("\n{}", compared.text(self.currency.as_deref()));
        }
        text
    }

    fn next(&self, run: &RunSpec) -> Vec<String> {
        let (program, folder) = (shell::program(), shell::word(&self.folder));
        let of_folder = |name: &str| shell::word(&format!("{}/{name}", self.folder));
        let mut commands =
            vec![format!("{program} generate {folder} --prompt \"The\""), format!("{program} eval {folder}")];
        if let Some(format) = hugging_face::fitting(&run.model).first() {
            commands.push(format!(
                "{program} export {folder} --format {format} --out {}",
                of_folder(&format.to_string())
            ));
        }
        commands.push(format!("tensorboard --logdir {}", of_folder("tensorboard")));
        commands
    }
}

fn evaluations(events: &[Event]) -> impl Iterator<Item = &Evaluation> {
    events.iter().filter_map(|event| match event {
        Event::Evaluation(scored) => Some(scored),
        _ => None,
    })
}

fn held_out(events: &[Event]) -> Vec<(u64, f64)> {
    evaluations(events).map(|scored| (scored.step, scored.loss)).collect()
}

fn training(events: &[Event]) -> Vec<(u64, f64)> {
    let step = |event: &Event| match event {
        Event::Step(step) => Some((step.step, step.main_loss)),
        _ => None,
    };
    events.iter().filter_map(step).collect()
}
