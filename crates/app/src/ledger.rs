//! `lingot ledger`: where the seconds and the money of finished and running runs went, side by side.

use crate::failure::{Code, Failure, Result};
use crate::json;
use crate::keep::{self, Keep};
use crate::terminal::{amount, bytes, count, duration};
use lingot_spec::event::{Event, Ledger, Prediction, Target};
use lingot_train::record::ledger::{Mark, marks};
use lingot_train::record::log;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Compare what runs cost: time by part, money, and money to a common loss
///
/// Every second of every device is idle, compute, exchange, checkpoint, evaluation, or
/// lost: done before a kill and done again after it. Seconds are kept without a price too.
/// Of a fleet, each device is shown with its tokens, its waiting, and whether it earns its keep.
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
    /// Folders of runs, or their run.jsonl
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// The loss to compare at [default: the lowest that every run reached]
    #[arg(long, value_name = "LOSS")]
    loss: Option<f64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The object of `--json`.
#[derive(Serialize)]
struct Report {
    /// What `to_common_loss` is for.
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
    /// Wall clock.
    seconds: f64,
    /// Of all devices together, part by part.
    device_seconds: Parts,
    held_out_loss: Option<f64>,
    money: Option<f64>,
    currency: Option<String>,
    money_per_million_tokens: Option<f64>,
    to_common_loss: Option<Target>,
    prediction: Option<Versus>,
    /// Device by device, of a fleet.
    fleet: Vec<Keep>,
}

#[derive(Default, Serialize)]
struct Parts {
    compute: f64,
    exchange: f64,
    checkpoint: f64,
    evaluation: f64,
    idle: f64,
    lost: f64,
}

/// Predicted against actual.
#[derive(Serialize)]
pub struct Versus {
    pub from: String,
    pub step_s: Pair,
    pub seconds: Pair,
    pub memory_bytes: Pair,
    pub money: Pair,
    pub missing: Vec<String>,
}

#[derive(Clone, Copy, Serialize)]
pub struct Pair {
    pub predicted: Option<f64>,
    pub actual: Option<f64>,
}

pub fn run(args: &Args) -> Result<()> {
    if let Some(loss) = args.loss.filter(|loss| !(loss.is_finite() && *loss > 0.0)) {
        return Err(Failure::input(
            format!("--loss is {loss}"),
            "give it a positive number of nats, such as 3.5",
        ));
    }
    let mut logs = Vec::new();
    for path in &args.runs {
        logs.push(log::read(path).map_err(|error| Failure::from(error).with(Code::Input))?);
    }
    let reached: Vec<Vec<Mark>> = logs.iter().map(|events| marks(events, u64::MAX)).collect();
    let common_loss = args.loss.or_else(|| common_loss(&reached));
    let rows = args.runs.iter().zip(&logs).zip(&reached);
    let runs = rows.map(|((path, events), marks)| Row::new(path, events, marks, common_loss)).collect();
    let report = Report { common_loss, runs };
    if args.json {
        return json::print(&report);
    }
    json::write(&report.text());
    Ok(())
}

/// The lowest loss that every run reached.
fn common_loss(runs: &[Vec<Mark>]) -> Option<f64> {
    let best = |marks: &Vec<Mark>| {
        marks.iter().map(|mark| mark.loss).filter(|loss| loss.is_finite()).reduce(f64::min)
    };
    runs.iter().map(best).try_fold(f64::NEG_INFINITY, |worst, best| Some(worst.max(best?)))
}

/// The newest ledger of a log.
pub fn newest(events: &[Event]) -> Option<&Ledger> {
    events.iter().rev().find_map(|event| if let Event::Ledger(ledger) = event { Some(ledger) } else { None })
}

/// The newest prediction of a log, held against what came.
pub fn versus(events: &[Event]) -> Option<Versus> {
    let prediction: &Prediction = events.iter().rev().find_map(|event| match event {
        Event::Prediction(prediction) => Some(prediction),
        _ => None,
    })?;
    let ledger = newest(events)?;
    let most = |of: fn(&lingot_spec::event::DeviceSeconds) -> f64| {
        ledger.devices.iter().map(of).reduce(f64::max).filter(|&most| most > 0.0)
    };
    let steps = ledger.step as f64;
    let pair = |predicted: Option<f64>, actual: Option<f64>| Pair { predicted, actual };
    Some(Versus {
        from: prediction.from.clone(),
        step_s: pair(
            prediction.step_s,
            most(|device| device.compute_s + device.exchange_s).map(|all| all / steps),
        ),
        seconds: pair(prediction.seconds, Some(ledger.seconds)),
        memory_bytes: pair(
            prediction.memory_bytes.map(|bytes| bytes as f64),
            most(|device| device.peak_memory_bytes as f64),
        ),
        money: pair(prediction.money, ledger.money),
        missing: prediction.missing.clone(),
    })
}

/// How a figure is put into words.
type Show<'a> = &'a dyn Fn(f64) -> String;

impl Versus {
    /// One line for each figure that was promised, and one for each that could not be.
    pub fn text(&self, currency: Option<&str>) -> String {
        let currency = currency.unwrap_or_default();
        let mut text = format!("predicted by {}, and what came\n", self.from);
        let time = |seconds: f64| if seconds < 10.0 { format!("{seconds:.4} s") } else { duration(seconds) };
        let rows: [(&str, Pair, Show<'_>); 4] = [
            ("one step", self.step_s, &time),
            ("whole run", self.seconds, &time),
            ("memory", self.memory_bytes, &|size| bytes(size as u64)),
            ("money", self.money, &|money| format!("{} {currency}", amount(money))),
        ];
        for (name, pair, show) in rows {
            if let (Some(predicted), Some(actual)) = (pair.predicted, pair.actual) {
                let error = (predicted / actual - 1.0) * 100.0;
                text +=
                    &format!("  {name:<12} {:>14} {:>14}  {error:+.1} %\n", show(predicted), show(actual));
            }
        }
        text.extend(self.missing.iter().map(|missing| format!("  {missing}\n")));
        text
    }
}

impl Row {
    fn new(path: &Path, events: &[Event], marks: &[Mark], common_loss: Option<f64>) -> Row {
        let start =
            events.iter().find_map(|event| if let Event::Start(start) = event { Some(start) } else { None });
        let ledger = newest(events).cloned().unwrap_or_else(|| unwritten(events));
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
            prediction: versus(events),
            fleet: keep::keeps(&ledger),
        }
    }

    fn price(&self, money: Option<f64>) -> String {
        money.map_or_else(
            || "no price".into(),
            |money| format!("{} {}", amount(money), self.currency.as_deref().unwrap_or_default()),
        )
    }

    /// The share of a part in all device time.
    fn share(&self, seconds: f64) -> String {
        let parts = &self.device_seconds;
        let all =
            parts.compute + parts.exchange + parts.checkpoint + parts.evaluation + parts.idle + parts.lost;
        format!("{} {:>5.1} %", duration(seconds), 100.0 * seconds / all.max(1e-12))
    }
}

/// Of a log older than the ledger: the last step's totals, no device.
fn unwritten(events: &[Event]) -> Ledger {
    let last =
        events.iter().rev().find_map(|event| if let Event::Step(step) = event { Some(step) } else { None });
    let Some(step) = last else { return Ledger::default() };
    let money_per_million_tokens = step.money.map(|money| money / (step.tokens as f64 / 1e6));
    let (seconds, tokens, money) = (step.seconds, step.tokens, step.money);
    Ledger { step: step.step, seconds, tokens, money, money_per_million_tokens, ..Ledger::default() }
}

impl Report {
    fn text(&self) -> String {
        type Cell = Box<dyn Fn(&Row) -> String>;
        let none = || "-".to_owned();
        let part =
            |of: fn(&Parts) -> f64| -> Cell { Box::new(move |row| row.share(of(&row.device_seconds))) };
        let mut lines: Vec<(String, Cell)> = vec![
            ("tokens".into(), Box::new(|row| count(row.tokens as f64))),
            (
                "held-out loss".into(),
                Box::new(move |row| row.held_out_loss.map_or_else(none, |loss| format!("{loss:.4}"))),
            ),
            ("wall clock".into(), Box::new(|row| duration(row.seconds))),
            ("devices".into(), Box::new(|row| row.devices.to_string())),
            ("compute".into(), part(|parts| parts.compute)),
            ("exchange".into(), part(|parts| parts.exchange)),
            ("checkpoint".into(), part(|parts| parts.checkpoint)),
            ("evaluation".into(), part(|parts| parts.evaluation)),
            ("idle".into(), part(|parts| parts.idle)),
            ("lost".into(), part(|parts| parts.lost)),
            ("money".into(), Box::new(|row| row.price(row.money))),
            ("per M tokens".into(), Box::new(|row| row.price(row.money_per_million_tokens))),
        ];
        if let Some(loss) = self.common_loss {
            lines.push((
                format!("to loss {loss:.4}"),
                Box::new(move |row| {
                    let reached =
                        |at: Target| format!("{} tokens, {}", count(at.tokens), row.price(at.money));
                    row.to_common_loss.map_or_else(|| "not reached".into(), reached)
                }),
            ));
        }
        let mut columns =
            vec![std::iter::once(String::new()).chain(lines.iter().map(|line| line.0.clone())).collect()];
        for row in &self.runs {
            let cells = lines.iter().map(|(_, cell)| cell(row));
            columns.push(std::iter::once(row.run.clone()).chain(cells).collect());
        }
        let mut text = table(&columns);
        for row in self.runs.iter().filter(|row| !row.fleet.is_empty()) {
            text += &format!("\n{}\n{}", row.run, keep::text(&row.fleet, row.currency.as_deref()));
        }
        for row in &self.runs {
            let versus = row.prediction.as_ref().map(|versus| versus.text(row.currency.as_deref()));
            text.extend(versus.map(|versus| format!("\n{}: {versus}", row.run)));
        }
        text
    }
}

/// Columns of text side by side, as wide as they need to be; the first to the left, the others to the right.
pub fn table(columns: &[Vec<String>]) -> String {
    let width = |column: &Vec<String>| column.iter().map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = columns.iter().map(width).collect();
    let rows = columns.first().map_or(0, Vec::len);
    let line = |row: usize| {
        let cells = columns.iter().zip(&widths).enumerate().map(|(index, (column, &width))| {
            if index == 0 { format!("{:<width$}", column[row]) } else { format!("  {:>width$}", column[row]) }
        });
        format!("{}\n", cells.collect::<String>().trim_end())
    };
    (0..rows).map(line).collect()
}
