//! `lingot plan`: what a search for the cheapest fleet found, as a table with reasons and as a report to look at.

mod html;
mod svg;
mod text;

use crate::failure::{Code, Failure, Result};
use crate::json;
use lingot_plan::answer::{Answer, Plan};
use std::fs;
use std::path::{Path, PathBuf};

/// Show a plan's answer: the best fleet, why each other one lost, and a report
///
/// ANSWER.json holds the keys that docs/json.md lists under `plan`.
/// That no fleet fits is an answer too: it exits with 0 and names what binds.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  lingot plan answer.json
  lingot plan answer.json --out plans/mine
  lingot plan answer.json --json"
)]
pub struct Args {
    /// The answer of a search
    #[arg(value_name = "ANSWER.json")]
    answer: PathBuf,
    /// Write report.html there
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let answer = read(&args.answer)?;
    let report = args.out.as_ref().map(|folder| write_report(folder, &answer)).transpose()?;
    if args.json {
        return json::print(&answer);
    }
    json::write(&text::text(&answer));
    if let Some(report) = report {
        json::write(&format!("\nreport         {}\n", report.display()));
    }
    Ok(())
}

fn read(path: &Path) -> Result<Answer> {
    let text =
        fs::read_to_string(path).map_err(|error| Failure::io("read", path, &error).with(Code::Input))?;
    let hint = "docs/json.md lists the keys, under `plan`";
    let answer: Answer = serde_json::from_str(&text).map_err(|error| {
        Failure::input(format!("{} is no answer of a plan: {error}", path.display()), hint)
    })?;
    check(&answer).map_err(|problem| Failure::input(format!("{}: {problem}", path.display()), hint))?;
    Ok(answer)
}

/// What would make a table or a plot lie.
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

fn write_report(folder: &Path, answer: &Answer) -> Result<PathBuf> {
    let path = folder.join("report.html");
    let partial = folder.join("report.html.partial");
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&partial, html::page(answer)))
        .and_then(|()| fs::rename(&partial, &path))
        .map_err(|error| Failure::io("write", &path, &error))?;
    Ok(path)
}
