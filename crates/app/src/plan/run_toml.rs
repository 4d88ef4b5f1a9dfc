//! A plan as a RUN.toml: what a run can already do of it, and in comments what it cannot.

use lingot_plan::answer::{Plan, Policy};
use lingot_plan::{ModelChoice, Request};
use lingot_spec::run::Strategy;
use std::collections::BTreeMap;

pub fn text(request: &Request, best: &Plan, policy: Policy) -> String {
    let steps = request.tokens / (f64::from(request.batch_sequences) * f64::from(request.sequence));
    let cards: u64 = best.fleet.iter().map(|chips| chips.count).sum();
    let strategy = match policy.strategy {
        Strategy::EveryStep => "strategy = \"every_step\"".to_owned(),
        Strategy::Edit => format!("strategy = \"edit\"\nevery = {}", request.assume.local_steps),
        Strategy::AEdit => format!(
            "strategy = \"a_edit\"\nperiod_s = {:.1}",
            best.seconds / steps * f64::from(request.assume.local_steps)
        ),
    };
    let per_hour = best.cost.amount / (best.seconds / 3600.0) / cards.max(1) as f64;
    format!(
        "# {fleet}: {amount:.0} {currency}, {hours:.1} h.\n# {layout}.\n#\n\
         # A run does not spread one replica over several cards yet: pipelines and experts above are for reading.\n\
         # Give `devices` the cards of this machine, and name your corpora:\n\
         #     lingot train plan.toml --set data.corpora.0.path=corpus.txt\n\n\
         {model}\n[data]\ncorpora = [{{ path = \"corpus.txt\" }}]\nsequence = {sequence}\n\n\
         [batch]\nsequences = {sequences}\nmicro = {micro}\n\n\
         [stop]\nsteps = {steps:.0}\n\n[device]\nrecompute = \"{recompute}\"\n\n[sync]\n{strategy}\n\n\
         # The fleet's mean card.\n[price]\nper_hour = {per_hour}\ncurrency = \"{currency}\"\n",
        fleet = best.fleet_words(),
        amount = best.cost.amount,
        currency = best.cost.currency,
        hours = best.seconds / 3600.0,
        layout = best.layout,
        model = model(&request.model),
        sequence = request.sequence,
        sequences = request.batch_sequences,
        micro = request.micro_sequences,
        steps = steps.max(1.0).ceil(),
        recompute = policy.recompute.name(),
    )
}

fn model(choice: &ModelChoice) -> String {
    match choice {
        ModelChoice::Preset(name) => format!("[model]\npreset = \"{name}\"\n"),
        ModelChoice::Spec(model) => toml::to_string(&BTreeMap::from([("model", model)])).unwrap_or_default(),
    }
}
