//! `lingot plan`: the cheapest fleet for a request, as a table with reasons, an HTML report and a RUN.toml.

mod html;
mod run_toml;
mod svg;
mod text;

use crate::failure::{Code, Failure, Result};
use crate::output;
use lingot_plan::answer::{Answer, Plan};
use lingot_plan::profile::Profile;
use lingot_plan::{Assumptions, Catalogue, Money, Objective, Request};
use lingot_train::record::log;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Find the cheapest or fastest fleet, and explain why each other one lost
///
/// REQUEST.toml names a model, a number of tokens, chips and constraints; docs/planner.md
/// documents its keys and how costs are computed. An ANSWER.json of an earlier plan is shown again.
/// If no fleet meets the constraints, the answer names the binding one, and the exit code is 0.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  lingot plan plans/ling-paper.toml
  lingot plan plans/ling-paper.toml --without ling-a --deadline-hours 200
  lingot plan plans/ling-paper.toml --out plans/mine        (report.html, answer.json, plan.toml)
  lingot plan plans/five-types.toml --skew-of out/quickstart --profile A100=profile.toml
  lingot plan plans/ling-paper.toml --json
  lingot plan plans/mine/answer.json"
)]
pub struct Args {
    /// The request, or the answer of an earlier plan
    #[arg(value_name = "REQUEST.toml|ANSWER.json")]
    request: PathBuf,
    /// Add chips, prices and availability to the built-in catalogue, or replace them
    #[arg(long, value_name = "CHIPS.toml")]
    chips: Option<PathBuf>,
    /// Use the measured profile of a chip, made by `lingot bench ops`; may be repeated
    #[arg(long, value_name = "CHIP=PROFILE.toml")]
    profile: Vec<String>,
    /// Take the load of the busiest expert from a run: its folder or its run.jsonl
    #[arg(long, value_name = "RUN")]
    skew_of: Option<PathBuf>,
    /// Exclude the chips of a vendor; may be repeated
    #[arg(long, value_name = "VENDOR")]
    without: Vec<String>,
    /// Limit a vendor's share of the fleet, such as nvidia=0.5; may be repeated
    #[arg(long, value_name = "VENDOR=SHARE")]
    max_share: Vec<String>,
    /// Minimise money or time
    #[arg(long, value_name = "money|time")]
    objective: Option<String>,
    /// Stop planning fleets that take longer than HOURS
    #[arg(long, value_name = "HOURS")]
    deadline_hours: Option<f64>,
    /// Stop planning fleets that cost more than AMOUNT, in the request's currency
    #[arg(long, value_name = "AMOUNT")]
    budget: Option<f64>,
    /// Write report.html, answer.json and plan.toml into this folder
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let is_answer = args.request.extension().is_some_and(|extension| extension == "json");
    let (answer, request) = match args.search_flag().filter(|_| is_answer) {
        Some(flag) => {
            return Err(Failure::input(
                format!("{flag} changes a search, and {} is the result of one", args.request.display()),
                "name the REQUEST.toml in its place",
            ));
        }
        None if is_answer => (read(&args.request)?, None),
        None => search(args).map(|(answer, request)| (answer, Some(request)))?,
    };
    let mut written = Vec::new();
    if let Some(folder) = &args.out {
        written.push(write(folder, "report.html", &html::page(&answer))?);
        written.push(write(folder, "answer.json", &output::to_json(&answer)?)?);
        let best = answer.best.as_ref().and_then(|best| Some((best, best.policy?)));
        if let Some((request, (best, policy))) = request.as_ref().zip(best) {
            written.push(write(folder, "plan.toml", &run_toml::text(request, best, policy))?);
        }
    }
    if args.json {
        return output::json(&answer);
    }
    let mut text = text::text(&answer);
    text.extend(written.iter().map(|path| format!("\nwritten        {}", path.display())));
    if args.out.is_some() {
        text.push('\n');
    }
    output::result(&text)
}

/// Reads the request and answers it.
fn search(args: &Args) -> Result<(Answer, Request)> {
    let mut request = Request::parse(&read_text(&args.request)?).map_err(Failure::of_input)?;
    args.apply(&mut request)?;
    let mut catalogue = Catalogue::built_in().map_err(Failure::of_input)?;
    if let Some(path) = &args.chips {
        catalogue = catalogue.with_user_rows(&read_text(path)?).map_err(Failure::of_input)?;
    }
    let mut profiles = BTreeMap::new();
    for pair in &args.profile {
        let (chip, path) = split(pair, "--profile")?;
        let used =
            request.chips.iter().find(|used| used.name.eq_ignore_ascii_case(chip)).ok_or_else(|| {
                Failure::input(
                    format!("--profile names the chip `{chip}`, which the request does not"),
                    "add the chip to [[chips]] in the request",
                )
            })?;
        let profile = Profile::parse(&read_text(Path::new(path))?)
            .map_err(|error| Failure::input(format!("{path}: {}", error.problem), error.hint))?;
        profiles.insert(used.name.clone(), profile);
    }
    let answer = lingot_plan::plan(&request, &catalogue, &profiles).map_err(Failure::of_input)?;
    Ok((answer, request))
}

impl Args {
    /// A flag that was given and that only a search can follow.
    fn search_flag(&self) -> Option<&'static str> {
        let given = [
            ("--chips", self.chips.is_some()),
            ("--profile", !self.profile.is_empty()),
            ("--skew-of", self.skew_of.is_some()),
            ("--without", !self.without.is_empty()),
            ("--max-share", !self.max_share.is_empty()),
            ("--objective", self.objective.is_some()),
            ("--deadline-hours", self.deadline_hours.is_some()),
            ("--budget", self.budget.is_some()),
        ];
        given.into_iter().find_map(|(flag, is_given)| is_given.then_some(flag))
    }

    /// Applies the flags to the request.
    fn apply(&self, request: &mut Request) -> Result<()> {
        if let Some(path) = &self.skew_of {
            request.assume.skew = skew_of(path)?;
        }
        let limits = &mut request.constraints;
        limits.without.extend(self.without.iter().cloned());
        for pair in &self.max_share {
            let (vendor, share) = split(pair, "--max-share")?;
            let share = share.parse().map_err(|_| {
                Failure::input(
                    format!("the share in --max-share {pair} is not a number"),
                    "write it as nvidia=0.5",
                )
            })?;
            limits.max_share.insert(vendor.to_owned(), share);
        }
        limits.deadline_hours = self.deadline_hours.or(limits.deadline_hours);
        if let Some(amount) = self.budget {
            limits.budget = Some(Money { amount, currency: request.currency.clone() });
        }
        request.objective = match self.objective.as_deref() {
            None => request.objective,
            Some("money") => Objective::Money,
            Some("time") => Objective::Time,
            Some(other) => {
                return Err(Failure::input(format!("unknown objective `{other}`"), "choose money or time"));
            }
        };
        Ok(())
    }
}

fn skew_of(path: &Path) -> Result<f64> {
    let events = log::read(path).map_err(Failure::of_input)?;
    Assumptions::skew_of(&events).ok_or_else(|| {
        let lines = events.len();
        Failure::input(
            format!("none of the {lines} events of {} has the loads of experts", path.display()),
            "name a run of a model with experts, or set `assume.skew` in the request",
        )
    })
}

fn split<'a>(pair: &'a str, flag: &str) -> Result<(&'a str, &'a str)> {
    pair.split_once('=')
        .ok_or_else(|| Failure::input(format!("{flag} {pair} has no `=`"), "write it as NAME=VALUE"))
}

fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| Failure::io("read", path, &error).with(Code::Input))
}

fn read(path: &Path) -> Result<Answer> {
    let text = read_text(path)?;
    let hint = "make a new one by `lingot plan REQUEST.toml --out FOLDER`";
    let answer: Answer = serde_json::from_str(&text).map_err(|error| {
        Failure::input(format!("{} is not the answer of a plan: {error}", path.display()), hint)
    })?;
    check(&answer).map_err(|problem| Failure::input(format!("{}: {problem}", path.display()), hint))?;
    Ok(answer)
}

/// Describes what would make a table or a plot misleading.
fn check(answer: &Answer) -> std::result::Result<(), String> {
    let plans = || {
        let singles = answer.single_chip.values();
        answer.best.iter().chain(singles).chain(&answer.pareto).chain(&answer.next_best)
    };
    for plan in plans() {
        let figures =
            [("cost", plan.cost.amount), ("seconds", plan.seconds), ("tokens_per_s", plan.tokens_per_s)];
        let parts = plan.time.iter().chain(plan.memory.iter().flat_map(|memory| &memory.parts));
        let parts = parts.map(|share| (share.part.as_str(), share.amount));
        if let Some((name, value)) = figures.into_iter().chain(parts).find(|(_, value)| *value < 0.0) {
            return Err(format!("{name} of the plan `{}` is {value}; it is 0 or more", plan.name));
        }
    }
    let currency = |plan: &Plan| plan.cost.currency.clone();
    let mut currencies: Vec<String> = plans().map(currency).collect();
    currencies.sort();
    currencies.dedup();
    if currencies.len() > 1 {
        return Err(format!("costs are in {}; they compare in one currency only", currencies.join(" and ")));
    }
    if answer.feasible != answer.best.is_some() {
        let best = if answer.best.is_some() { "there is a best plan" } else { "there is no best plan" };
        return Err(format!("feasible is {}, and {best}", answer.feasible));
    }
    Ok(())
}

/// Writes a file completely or not at all.
fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    let partial = folder.join(format!("{name}.partial"));
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&partial, text))
        .and_then(|()| fs::rename(&partial, &path))
        .map_err(|error| Failure::io("write", &path, &error))?;
    Ok(path)
}
