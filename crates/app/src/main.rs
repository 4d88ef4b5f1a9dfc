//! The program `lingot`: one file per command. Errors become hints and exit codes here; the crates below do
//! the work.

// A program exports nothing, so `pub` only says what other files may use.
#![allow(unreachable_pub)]

mod align;
mod bench;
mod case;
mod checkpoint;
mod comparison;
mod contribution;
mod data;
mod devices;
mod eval;
mod export;
mod failure;
mod generate;
mod growth;
mod import;
mod interrupt;
mod ledger;
mod merge;
mod model;
mod output;
mod plan;
mod plot;
mod predicted;
mod prediction;
mod probe;
mod profile;
mod prompts;
mod records;
mod report;
mod room;
mod shell;
mod speed;
mod table;
mod target;
mod terminal;
mod train;
mod watch;

use clap::builder::TypedValueParser;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use failure::{Code, Result};
use lingot_device::reserve::{self, Reserve};
use lingot_spec::run::{DeviceSpec, Precision};
use std::process::ExitCode;
use std::time::Instant;
use terminal::Terminal;

/// Where memory runs out, the program saves what it has instead of being ended.
#[global_allocator]
static ALLOCATOR: Reserve = Reserve;

/// Train Mixture-of-Experts language models on whatever mix of accelerators is at hand
#[derive(Parser)]
#[command(name = "lingot", version, disable_help_subcommand = true, max_term_width = 100)]
#[command(after_help = EXAMPLES)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  lingot train runs/quickstart.toml
  lingot generate out/quickstart --prompt \"The model\"
  lingot train --help

Exit codes: 0 done, 1 failed, 2 wrong input, 3 no device or no memory, 130 interrupted.";

#[derive(Subcommand)]
enum Command {
    Train(train::Args),
    Data(data::Args),
    Model(model::Args),
    Generate(generate::Args),
    Eval(eval::Args),
    Export(export::Args),
    Import(import::Args),
    Merge(merge::Args),
    Devices(devices::Args),
    Bench(bench::Args),
    Align(align::Args),
    Plan(plan::Args),
    Ledger(ledger::Args),
}

/// Parses a count of at least one.
fn counts() -> clap::builder::RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(1..)
}

/// Parses a number of threads; 0 is for all.
fn threads() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(0..=i64::from(DeviceSpec::MOST_THREADS))
}

/// Parses the word for a precision, as `RUN.toml` has it.
fn precisions() -> impl TypedValueParser<Value = Precision> {
    let all = [Precision::F32, Precision::Bf16];
    let words = clap::builder::PossibleValuesParser::new(all.map(Precision::name));
    words.map(move |word| all.into_iter().find(|precision| precision.name() == word).unwrap_or_default())
}

/// Lets every option take a negative number, so that what is wrong with it is told by its own check.
fn negatives(command: clap::Command) -> clap::Command {
    let takes_values = |option: &clap::Arg| option.get_action().takes_values() && !option.is_positional();
    command
        .mut_args(|option| if takes_values(&option) { option.allow_negative_numbers(true) } else { option })
        .mut_subcommands(negatives)
}

fn main() -> ExitCode {
    let start = Instant::now();
    reserve::set_aside(failure::out_of_memory);
    let terminal = Terminal::detect();
    let line = negatives(Line::command()).try_get_matches().and_then(|said| Line::from_arg_matches(&said));
    let done = match line {
        Ok(line) => run(line.command, &terminal, start),
        Err(answer) => output::usage(&answer),
    };
    done.unwrap_or_else(|failure| {
        failure.print(&terminal);
        failure.code.into()
    })
}

fn run(command: Command, terminal: &Terminal, start: Instant) -> Result<ExitCode> {
    match command {
        Command::Train(args) => {
            let is_interrupted = train::run(&args, terminal)?;
            return Ok(if is_interrupted { Code::Interrupted.into() } else { ExitCode::SUCCESS });
        }
        Command::Data(args) => data::run(&args, terminal)?,
        Command::Model(args) => model::run(&args)?,
        Command::Generate(args) => generate::run(&args)?,
        Command::Eval(args) => eval::run(&args, terminal)?,
        Command::Export(args) => export::run(&args)?,
        Command::Import(args) => import::run(&args)?,
        Command::Merge(args) => merge::run(&args)?,
        Command::Plan(args) => plan::run(&args)?,
        Command::Ledger(args) => ledger::run(&args)?,
        Command::Devices(args) => devices::run(&args)?,
        Command::Bench(args) => bench::run(&args, start)?,
        Command::Align(args) => return align::run(&args, terminal),
    }
    Ok(ExitCode::SUCCESS)
}
