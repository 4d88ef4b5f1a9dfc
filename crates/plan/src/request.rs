//! A question to the planner, as in `REQUEST.toml`: model, tokens, chips, objective and constraints.

use crate::money::{Money, Rate, check_rates};
use crate::validate::{nearest, positive};
use lingot_spec::event::{Event, ExpertLoad};
use lingot_spec::problem::{Problem, Result};
use lingot_spec::run::Strategy;
use lingot_spec::{ModelSpec, presets};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A question to the planner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The model to train.
    pub model: ModelChoice,
    /// Tokens to train it on.
    pub tokens: f64,
    /// Tokens of one sequence.
    #[serde(default = "default_sequence")]
    pub sequence: u32,
    /// Sequences of one optimizer step, over the whole fleet.
    #[serde(default = "default_batch")]
    pub batch_sequences: u32,
    /// Sequences of one micro-batch.
    #[serde(default = "one")]
    pub micro_sequences: u32,
    /// The currency of all costs.
    pub currency: String,
    /// Exchange rates for prices in other currencies.
    #[serde(default)]
    pub rates: Vec<Rate>,
    /// The chips that may be used.
    pub chips: Vec<ChipUse>,
    /// What to minimise.
    #[serde(default)]
    pub objective: Objective,
    /// Limits of the plan.
    #[serde(default)]
    pub constraints: Constraints,
    /// What was not measured.
    #[serde(default)]
    pub assume: Assumptions,
    /// The ways to agree that are considered.
    #[serde(default = "all_strategies")]
    pub strategies: Vec<Strategy>,
}

/// A preset's name, or a whole model.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ModelChoice {
    /// The name of a preset.
    Preset(String),
    /// A whole model.
    Spec(Box<ModelSpec>),
}

/// Written by hand, since the derived reader of an untagged choice does not name the unknown key of a model.
impl<'de> Deserialize<'de> for ModelChoice {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<ModelChoice, D::Error> {
        struct Choice;
        impl<'de> Visitor<'de> for Choice {
            type Value = ModelChoice;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the name of a preset, or a table with a whole model")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> std::result::Result<ModelChoice, E> {
                Ok(ModelChoice::Preset(name.to_owned()))
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> std::result::Result<ModelChoice, M::Error> {
                let model = ModelSpec::deserialize(MapAccessDeserializer::new(map))?;
                Ok(ModelChoice::Spec(Box::new(model)))
            }
        }
        from.deserialize_any(Choice)
    }
}

/// A chip that may be used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChipUse {
    /// The chip's name in the catalogue.
    pub name: String,
    /// Cards that may be used; as many as the catalogue says where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<u32>,
    /// The share of its peak that whole runs were measured to reach, at 6 FLOPs per activated parameter and
    /// token; it replaces the model of time for this chip, failures and exchange included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilisation: Option<f64>,
}

/// What a plan minimises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// Least money, under a deadline where one is set.
    #[default]
    Money,
    /// Least time, under a budget where one is set.
    Time,
}

/// The limits that a plan must keep.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Constraints {
    /// The longest time of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_hours: Option<f64>,
    /// The highest cost of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Money>,
    /// Vendors whose chips may not be used.
    pub without: Vec<String>,
    /// The greatest share of the fleet's tokens per second, by vendor.
    pub max_share: BTreeMap<String, f64>,
}

/// Numbers that were not measured for this run: defaults to replace where better ones are known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Assumptions {
    /// Share of the peak that matrix products reach; where it is not given, a chip without a profile is as
    /// far from it, op by op, as the chip that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute_efficiency: Option<f64>,
    /// Share of their bandwidth that memory and links reach; likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth_efficiency: Option<f64>,
    /// Load of the busiest expert over the mean; [`Assumptions::skew_of`] measures it.
    pub skew: f64,
    /// Failures of one card in one hour.
    pub failures_per_device_hour: f64,
    /// Seconds that a checkpoint takes.
    pub checkpoint_s: f64,
    /// Seconds that a restart after a failure takes.
    pub restart_s: f64,
    /// Steps between exchanges of EDiT and A-EDiT.
    pub local_steps: u32,
}

impl Default for Assumptions {
    fn default() -> Assumptions {
        Assumptions {
            compute_efficiency: None,
            bandwidth_efficiency: None,
            skew: 1.4,
            failures_per_device_hour: 2e-5,
            checkpoint_s: 60.0,
            restart_s: 600.0,
            local_steps: 128,
        }
    }
}

impl Assumptions {
    /// Returns the skew that a run's log shows: the mean over layers of the later half of its `experts`
    /// events, since routing settles at the beginning. None without such events.
    pub fn skew_of(events: &[Event]) -> Option<f64> {
        let loads: Vec<&Vec<ExpertLoad>> = (events.iter())
            .filter_map(
                |event| if let Event::Experts(experts) = event { Some(&experts.layers) } else { None },
            )
            .collect();
        let later: Vec<f64> =
            loads[loads.len() / 2..].iter().copied().flatten().map(|load| load.max_over_mean).collect();
        (!later.is_empty()).then(|| later.iter().sum::<f64>() / later.len() as f64)
    }
}

impl Request {
    /// Reads `REQUEST.toml`.
    ///
    /// Errors if it is no request, or if its numbers are impossible.
    pub fn parse(text: &str) -> Result<Request> {
        let request: Request = toml::from_str(text).map_err(|error| {
            Problem::new(
                format!("the request cannot be read: {error}"),
                "plans/ling-paper.toml is an example",
            )
        })?;
        request.check()?;
        Ok(request)
    }

    /// Returns the model asked for.
    ///
    /// Errors if there is no such preset, or if the model is impossible.
    pub fn model(&self) -> Result<ModelSpec> {
        let model = match &self.model {
            ModelChoice::Spec(model) => (**model).clone(),
            ModelChoice::Preset(name) => presets::preset(name).ok_or_else(|| {
                let hint = nearest(name, presets::NAMES.iter().copied());
                Problem::new(format!("unknown preset `{name}`"), hint)
            })?,
        };
        model.check().map_err(|error| Problem::new(error.problem, error.hint))?;
        Ok(model)
    }

    /// Errors if a number of the request is impossible. The search checks again, since flags change requests.
    pub fn check(&self) -> Result<()> {
        let assume = &self.assume;
        for (key, value) in [
            ("tokens", self.tokens),
            ("sequence", f64::from(self.sequence)),
            ("batch_sequences", f64::from(self.batch_sequences)),
            ("micro_sequences", f64::from(self.micro_sequences)),
            ("constraints.deadline_hours", self.constraints.deadline_hours.unwrap_or(1.0)),
            (
                "constraints.budget.amount",
                self.constraints.budget.as_ref().map_or(1.0, |budget| budget.amount),
            ),
            ("assume.local_steps", f64::from(assume.local_steps)),
        ] {
            positive(key, value)?;
        }
        for (key, value) in [
            ("assume.failures_per_device_hour", assume.failures_per_device_hour),
            ("assume.checkpoint_s", assume.checkpoint_s),
            ("assume.restart_s", assume.restart_s),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Problem::new(format!("{key} is {value}"), "give it 0 or a finite number above"));
            }
        }
        if !(assume.skew.is_finite() && assume.skew >= 1.0) {
            let problem = format!("assume.skew is {}", assume.skew);
            let hint = "give 1 or more: the busiest expert has at least the mean load";
            return Err(Problem::new(problem, hint));
        }
        let shares = self.constraints.max_share.iter().map(|(vendor, share)| (vendor.as_str(), *share));
        let uses = self.chips.iter().filter_map(|chip| Some((chip.name.as_str(), chip.utilisation?)));
        let efficiencies = [
            ("assume.compute_efficiency", assume.compute_efficiency),
            ("assume.bandwidth_efficiency", assume.bandwidth_efficiency),
        ];
        let given = efficiencies.into_iter().filter_map(|(key, share)| Some((key, share?)));
        for (key, share) in shares.chain(uses).chain(given) {
            positive(key, share)?;
            if share > 1.0 {
                return Err(Problem::new(format!("the share of {key} is {share}"), "give at most 1"));
            }
        }
        self.check_lists()
    }

    fn check_lists(&self) -> Result<()> {
        let (batch, micro) = (self.batch_sequences, self.micro_sequences);
        if !batch.is_multiple_of(micro) {
            return Err(Problem::new(
                format!("batch_sequences ({batch}) is not a multiple of micro_sequences ({micro})"),
                "set micro_sequences to 1 or another divisor: every step is made of whole micro-batches",
            ));
        }
        check_rates(&self.rates)?;
        if self.chips.is_empty() || self.chips.len() > 5 {
            let problem = format!("the request names {} chip types", self.chips.len());
            return Err(Problem::new(problem, "name 1 to 5 in [[chips]]"));
        }
        if self.strategies.is_empty() {
            return Err(Problem::new("strategies is empty", "allow at least `every_step`"));
        }
        for (at, chip) in self.chips.iter().enumerate() {
            if self.chips[..at].iter().any(|other| other.name.eq_ignore_ascii_case(&chip.name)) {
                return Err(Problem::new(
                    format!("chip `{}` is in the request twice", chip.name),
                    "name it once",
                ));
            }
        }
        Ok(())
    }
}

fn default_sequence() -> u32 {
    4096
}

fn default_batch() -> u32 {
    4096
}

fn one() -> u32 {
    1
}

fn all_strategies() -> Vec<Strategy> {
    vec![Strategy::EveryStep, Strategy::Edit, Strategy::AEdit]
}
