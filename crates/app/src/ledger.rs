//! `lingot ledger`: the time and cost of finished and running runs, side by side.

use crate::comparison::{Comparison, comparison, newest_ledger};
use crate::contribution::{self, Contribution, contributions};
use crate::failure::{Failure, Result};
use crate::output;
use crate::table::table;
use crate::terminal::{Terminal, amount, count, duration};
use lingot_spec::event::{Event, Ledger, Target};
use lingot_train::record::ledger::{Mark, marks};
use lingot_train::record::log;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Compare the time and cost of runs, in all and up to a loss that each of them reached
///
/// Every second of every device is idle, compute, exchange, checkpoint, evaluation, or lost
/// (computed before a kill and again after it). Seconds are counted without a price too.
/// For a fleet, each device is listed with its tokens, its waiting time, and whether its
/// tokens are worth its price.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  lingot ledger out/quickstart
  lingot ledger out/a out/b --loss 3.5
  lingot ledger out/* --json"
)]
pub struct Args {
    /// The folders of runs, or their run.jsonl
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// Compare at this held-out loss, in nats [default: the lowest that every run reached]
    #[arg(long, value_name = "LOSS")]
    loss: Option<f64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The object of `--json`.
#[derive(Serialize)]
struct Report {
    /// The loss that `to_common_loss` was measured at.
    common_loss: Option<f64>,
    runs: Vec<Row>,
}

/// One run.
#[derive(Serialize)]
struct Row {
    run: String,
    path: String,
    devices: u64,
    tokens: u64,
    /// Wall-clock time.
    seconds: f64,
    /// Time of all devices together, by part.
    device_seconds: Parts,
    held_out_loss: Option<f64>,
    money: Option<f64>,
    currency: Option<String>,
    money_per_million_tokens: Option<f64>,
    to_common_loss: Option<Target>,
    prediction: Option<Comparison>,
    /// One entry for each device; empty unless the run had several.
    fleet: Vec<Contribution>,
}

/// Seconds by what they were spent on.
#[derive(Default, Serialize)]
struct Parts {
    compute: f64,
    exchange: f64,
    checkpoint: f64,
    evaluation: f64,
    idle: f64,
    lost: f64,
}

pub fn run(args: &Args) -> Result<()> {
    if let Some(loss) = args.loss.filter(|loss| !(loss.is_finite() && *loss > 0.0)) {
        return Err(Failure::input(
            format!("--loss is {loss}"),
            "give a positive number of nats, such as 3.5",
        ));
    }
    let mut logs = Vec::new();
    for path in &args.runs {
        let history = log::read_all(path).map_err(Failure::of_input)?;
        for line in &history.unreadable {
            output::labelled(&Terminal::detect().yellow("warning:"), line);
        }
        logs.push(history.events);
    }
    let reached: Vec<Vec<Mark>> = logs.iter().map(|events| marks(events, u64::MAX)).collect();
    let common_loss = args.loss.or_else(|| common_loss(&reached));
    let rows = args.runs.iter().zip(&logs).zip(&reached);
    let runs = rows.map(|((path, events), marks)| Row::new(path, events, marks, common_loss)).collect();
    let report = Report { common_loss, runs };
    if args.json {
        return output::json(&report);
    }
    output::result(&report.text())
}

/// The lowest loss that every run reached.
fn common_loss(runs: &[Vec<Mark>]) -> Option<f64> {
    let best = |marks: &Vec<Mark>| {
        marks.iter().map(|mark| mark.loss).filter(|loss| loss.is_finite()).reduce(f64::min)
    };
    runs.iter().map(best).try_fold(f64::NEG_INFINITY, |worst, best| Some(worst.max(best?)))
}

impl Row {
    fn new(path: &Path, events: &[Event], marks: &[Mark], common_loss: Option<f64>) -> Row {
        let start =
            events.iter().find_map(|event| if let Event::Start(start) = event { Some(start) } else { None });
        let ledger = newest_ledger(events).cloned().unwrap_or_else(|| from_steps(events));
        let mut parts = Parts::default();
        for device in &ledger.devices {
            parts.compute += device.compute_s;
            parts.exchange += device.exchange_s;
            parts.checkpoint += device.checkpoint_s;
            parts.evaluation += device.evaluation_s;
            parts.idle += device.idle_s;
            parts.lost += device.lost_s;
        }
        let target = |loss: f64| {
            let mark = marks.iter().find(|mark| mark.loss <= loss)?;
            let Mark { tokens, seconds, money, .. } = *mark;
            Some(Target { loss: mark.loss, is_reached: true, tokens, seconds, money })
        };
        Row {
            run: start.map_or_else(|| path.display().to_string(), |start| start.run.clone()),
            path: path.display().to_string(),
            devices: ledger.devices.len() as u64,
            tokens: ledger.tokens,
            seconds: ledger.seconds,
            device_seconds: parts,
            held_out_loss: log::last_held_out(events, u64::MAX).map(|(loss, _)| loss),
            money: ledger.money,
            currency: start.and_then(|start| start.currency.clone()),
            money_per_million_tokens: ledger.money_per_million_tokens,
            to_common_loss: common_loss.and_then(target),
            prediction: comparison(events),
            fleet: contributions(&ledger),
        }
    }

    /// The run's column of the table, in the order of its titles.
    fn cells(&self, has_common_loss: bool) -> Vec<String> {
        let parts = &self.device_seconds;
        let mut cells = vec![
            self.run.clone(),
            count(self.tokens as f64),
            self.held_out_loss.map_or_else(|| "-".into(), |loss| format!("{loss:.4}")),
            duration(self.seconds),
            self.devices.to_string(),
            self.share(parts.compute),
            self.share(parts.exchange),
            self.share(parts.checkpoint),
            self.share(parts.evaluation),
            self.share(parts.idle),
            self.share(parts.lost),
            self.price(self.money),
            self.price(self.money_per_million_tokens),
        ];
        if has_common_loss {
            let reached = |at: Target| format!("{} tokens, {}", count(at.tokens), self.price(at.money));
            cells.push(self.to_common_loss.map_or_else(|| "not reached".into(), reached));
        }
        cells
    }

    fn price(&self, money: Option<f64>) -> String {
        money.map_or_else(
            || "no price".into(),
            |money| format!("{} {}", amount(money), self.currency.as_deref().unwrap_or_default()),
        )
    }

    /// A part of the devices' time, and its share of all of it.
    fn share(&self, seconds: f64) -> String {
        let parts = &self.device_seconds;
        let all =
            parts.compute + parts.exchange + parts.checkpoint + parts.evaluation + parts.idle + parts.lost;
        format!("{} {:>5.1} %", duration(seconds), 100.0 * seconds / all.max(1e-12))
    }
}

/// The ledger of a log that has none yet: the totals of its last step, without devices.
fn from_steps(events: &[Event]) -> Ledger {
    let last =
        events.iter().rev().find_map(|event| if let Event::Step(step) = event { Some(step) } else { None });
    let Some(step) = last else { return Ledger::default() };
    let money_per_million_tokens = step.money.map(|money| money / (step.tokens as f64 / 1e6));
    let (seconds, tokens, money) = (step.seconds, step.tokens, step.money);
    Ledger { step: step.step, seconds, tokens, money, money_per_million_tokens, ..Ledger::default() }
}

impl Report {
    fn text(&self) -> String {
        let titles =
            ["", "tokens", "held-out loss", "wall clock", "devices", "compute", "exchange", "checkpoint"];
        let more = ["evaluation", "idle", "lost", "money", "per M tokens"];
        let mut titles: Vec<String> = titles.into_iter().chain(more).map(str::to_owned).collect();
        titles.extend(self.common_loss.map(|loss| format!("to loss {loss:.4}")));
        let runs = self.runs.iter().map(|row| row.cells(self.common_loss.is_some()));
        let mut text = table(&std::iter::once(titles).chain(runs).collect::<Vec<_>>());
        for row in self.runs.iter().filter(|row| !row.fleet.is_empty()) {
            text += &format!("\n{}\n{}", row.run, contribution::text(&row.fleet, row.currency.as_deref()));
        }
        for row in &self.runs {
            let compared = row.prediction.as_ref().map(|compared| compared.text(row.currency.as_deref()));
            text.extend(compared.map(|compared| format!("\n{}: {compared}", row.run)));
        }
        text
    }
}
