//! What is asked of the planner: model, tokens, chips, objective and constraints. `REQUEST.toml`.

use crate::money::{Money, Rate};
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
    pub model: ModelChoice,
    pub tokens: f64,
    #[serde(default = "default_sequence")]
    pub sequence: u32,
    /// Sequences of one optimizer step, over the whole fleet.
    #[serde(default = "default_batch")]
    pub batch_sequences: u32,
    /// Sequences of one micro-batch.
    #[serde(default = "one")]
    pub micro_sequences: u32,
    pub currency: String,
    #[serde(default)]
    pub rates: Vec<Rate>,
    pub chips: Vec<ChipUse>,
    #[serde(default)]
    pub objective: Objective,
    #[serde(default)]
    pub constraints: Constraints,
    #[serde(default)]
    pub assume: Assumptions,
    #[serde(default = "all_strategies")]
    pub strategies: Vec<Strategy>,
}

/// A preset's name, or a whole model.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ModelChoice {
    Preset(String),
    Spec(Box<ModelSpec>),
}

/// By hand, since serde's own reader of such a choice forgets which key of the model it did not know.
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
    pub name: String,
    /// At most so many cards; the catalogue's availability where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<u32>,
    /// Measured share of the peak of whole runs, 6 FLOPs per activated parameter and token: replaces the model of time
    /// for this chip, failures and exchange included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilisation: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// Least money, under a deadline where one is set.
    #[default]
    Money,
    /// Least time, under a budget where one is set.
    Time,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Constraints {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_hours: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Money>,
    /// Vendors not to depend on at all.
    pub without: Vec<String>,
    /// Of each vendor, the greatest share of the fleet's tokens per second.
    pub max_share: BTreeMap<String, f64>,
}

/// Numbers that nobody measured for this run; starting values, to be given where they are known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Assumptions {
    /// Share of the peak that products reach.
    pub compute_efficiency: f64,
    /// Share of the memory's and the links' bandwidth that is reached.
    pub bandwidth_efficiency: f64,
    /// Load of the busiest expert over the mean; `skew_of` measures it.
    pub skew: f64,
    pub failures_per_device_hour: f64,
    pub checkpoint_s: f64,
    pub restart_s: f64,
    /// Steps between exchanges of EDiT and A-EDiT.
    pub local_steps: u32,
}

impl Default for Assumptions {
    fn default() -> Assumptions {
        Assumptions {
            compute_efficiency: 0.5,
            bandwidth_efficiency: 0.7,
            skew: 1.4,
            failures_per_device_hour: 2e-5,
            checkpoint_s: 60.0,
            restart_s: 600.0,
            local_steps: 128,
        }
    }
}

impl Assumptions {
    /// The skew that a run's log shows: the mean over layers of the later half of its `experts` lines, since routing
    /// settles in the beginning. None without such lines.
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

    /// The model asked for.
    pub fn model(&self) -> Result<ModelSpec> {
        let model = match &self.model {
            ModelChoice::Spec(model) => (**model).clone(),
            ModelChoice::Preset(name) => presets::preset(name).ok_or_else(|| {
                let hint = nearest(name, presets::NAMES.iter().copied());
                Problem::new(format!("there is no preset `{name}`"), hint)
            })?,
        };
        model.check().map_err(|error| Problem::new(error.problem, error.hint))?;
        Ok(model)
    }

    /// Whether the numbers make sense; the search calls it too.
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
            return Err(Problem::new(problem, "the busiest is at least as busy as the mean: give 1 or more"));
        }
        let shares = self.constraints.max_share.iter().map(|(vendor, share)| (vendor.as_str(), *share));
        let uses = self.chips.iter().filter_map(|chip| Some((chip.name.as_str(), chip.utilisation?)));
        let efficiencies = [
            ("assume.compute_efficiency", assume.compute_efficiency),
            ("assume.bandwidth_efficiency", assume.bandwidth_efficiency),
        ];
        for (key, share) in shares.chain(uses).chain(efficiencies) {
            positive(key, share)?;
            if share > 1.0 {
                return Err(Problem::new(format!("the share of {key} is {share}"), "shares are at most 1"));
            }
        }
        self.check_lists()
    }

    fn check_lists(&self) -> Result<()> {
        if self.chips.is_empty() || self.chips.len() > 5 {
            let problem = format!("the request names {} types of chips", self.chips.len());
            return Err(Problem::new(problem, "name 1 to 5 in [[chips]]"));
        }
        if self.strategies.is_empty() {
            return Err(Problem::new("strategies is empty", "allow at least `every_step`"));
        }
        for (at, chip) in self.chips.iter().enumerate() {
            if self.chips[..at].iter().any(|other| other.name.eq_ignore_ascii_case(&chip.name)) {
                return Err(Problem::new(format!("chip `{}` is asked for twice", chip.name), "name it once"));
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
