//! Writes a plan as a RUN.toml: what a run can do of it as keys, the rest as comments and notes.

use super::html::time;
use crate::output::escaped;
use crate::terminal::amount;
use lingot_plan::answer::{Plan, Policy};
use lingot_plan::{ModelChoice, Request};
use lingot_spec::run::Strategy;
use std::collections::BTreeMap;

pub fn text(request: &Request, best: &Plan, policy: Policy) -> String {
    let steps = request.tokens / (f64::from(request.batch_sequences) * f64::from(request.sequence));
    let cards: u64 = best.fleet.iter().map(|chips| chips.count).sum();
    let every = request.assume.local_steps;
    let apart = "# One device trains alone; for several workers, uncomment these lines.\n# [sync]";
    let sync = match policy.strategy {
        Strategy::EveryStep => "[sync]\nstrategy = \"every_step\"".to_owned(),
        Strategy::Edit => format!("{apart}\n# strategy = \"edit\"\n# every = {every}"),
        Strategy::AEdit => {
            let period_s = best.seconds / steps * f64::from(every);
            format!("{apart}\n# strategy = \"a_edit\"\n# period_s = {period_s:.3e}")
        }
    };
    let per_hour = best.cost.amount / (best.seconds / 3600.0) / cards.max(1) as f64;
    format!(
        "# {fleet}: {amount} {currency}, {duration}.\n# {layout}.\n#\n\
         # Give `devices` the cards of this machine, and name your corpora:\n\
         #     lingot train plan.toml --set data.corpora.0.path=corpus.txt\n\n\
         notes = {notes}\n\n{model}\n\
         [data]\ncorpora = [{{ path = \"corpus.txt\" }}]\nsequence = {sequence}\n\n\
         [batch]\nsequences = {sequences}\nmicro = {micro}\n\n\
         [stop]\nsteps = {steps:.0}\n\n[device]\nrecompute = \"{recompute}\"\n\n{sync}\n\n\
         # The fleet's mean card.\n[price]\nper_hour = {per_hour:.6}\ncurrency = {quoted}\n",
        fleet = comment(&best.fleet_words()),
        amount = amount(best.cost.amount),
        currency = comment(&best.cost.currency),
        quoted = toml::Value::from(best.cost.currency.as_str()),
        duration = time(best.seconds),
        notes = toml::Value::from(notes(best, policy)),
        layout = comment(&best.layout),
        model = model(&request.model),
        sequence = request.sequence,
        sequences = request.batch_sequences,
        micro = request.micro_sequences,
        steps = steps.max(1.0).ceil(),
        recompute = policy.recompute.name(),
    )
}

/// Text in a comment, which ends with its line.
fn comment(text: &str) -> String {
    escaped(text).replace(['\n', '\r'], " ")
}

/// Notes about what a run leaves out of this plan; `lingot train` prints them when it starts.
fn notes(best: &Plan, policy: Policy) -> Vec<String> {
    let mut notes = vec![format!(
        "planned for {}; this run trains on the devices it is given, with the whole model on each: it does \
         not spread a replica over several cards or machines",
        best.fleet_words()
    )];
    if policy.strategy != Strategy::EveryStep {
        notes.push(
            "planned with workers that train apart; this run is in step unless [sync] is filled in"
                .to_owned(),
        );
    }
    notes
}

fn model(choice: &ModelChoice) -> String {
    match choice {
        ModelChoice::Preset(name) => format!("[model]\npreset = \"{name}\"\n"),
        ModelChoice::Spec(model) => toml::to_string(&BTreeMap::from([("model", model)])).unwrap_or_default(),
    }
}
