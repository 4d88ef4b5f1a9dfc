//! `lingot bench plan`: how the time of a whole plan grows with types of chips and numbers of cards.

use crate::failure::{Failure, Result};
use crate::output;
use crate::terminal::{Progress, Terminal};
use lingot_measure::Spread;
use lingot_plan::answer::Answer;
use lingot_plan::{Catalogue, Objective, Request};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Instant;

/// Time whole plans over one to five types of chips and up to 10,000 cards of each
///
/// Each plan is the cheapest that takes at most twice as long as the fastest.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  lingot bench plan
  lingot bench plan --model ling-plus --json
  lingot bench plan --plot growth.svg"
)]
pub struct Args {
    /// Plan for this preset; `lingot model` lists them
    #[arg(long, default_value = "ling-lite")]
    model: String,
    /// Time N plans of each size
    #[arg(long, value_name = "N", default_value = "3", value_parser = crate::counts())]
    rounds: u64,
    /// Draw the times into this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The types in the order in which they are added; all have a price in one currency.
const TYPES: [&str; 5] = ["H800", "H100", "A100", "MI300X", "MI250X"];
/// Cards of each type.
const CARDS: [u32; 4] = [10, 100, 1_000, 10_000];

/// The object of `--json`.
#[derive(Serialize)]
struct Growth {
    model: String,
    plans: Vec<Timed>,
}

/// Plans of one size.
#[derive(Serialize)]
struct Timed {
    types: usize,
    cards_per_type: u32,
    feasible: bool,
    seconds: Spread,
}

pub fn run(args: &Args) -> Result<()> {
    let progress = Progress::new(&Terminal::detect());
    let sizes: Vec<(usize, u32)> =
        (1..=TYPES.len()).flat_map(|types| CARDS.map(|cards| (types, cards))).collect();
    let mut plans = Vec::new();
    for (done, &(types, cards)) in sizes.iter().enumerate() {
        progress
            .update("plans", done as u64, sizes.len() as u64, || format!("{types} types x {cards} cards"));
        plans.push(timed(&args.model, types, cards, args.rounds)?);
    }
    let growth = Growth { model: args.model.clone(), plans };
    if let Some(path) = &args.plot {
        std::fs::write(path, growth.plot()).map_err(|error| Failure::io("write", path, &error))?;
    }
    if args.json {
        return output::json(&growth);
    }
    output::result(&growth.text())
}

fn timed(model: &str, types: usize, cards: u32, rounds: u64) -> Result<Timed> {
    let catalogue = Catalogue::built_in().map_err(Failure::of_input)?;
    let answer = |request: &Request| -> Result<Answer> {
        lingot_plan::plan(request, &catalogue, &BTreeMap::new()).map_err(Failure::of_input)
    };
    let chip = |name: &&str| format!("[[chips]]\nname = \"{name}\"\navailable = {cards}\n");
    let chips: String = TYPES[..types].iter().map(chip).collect();
    let text = format!("model = {model:?}\ntokens = 1e12\ncurrency = \"USD\"\n{chips}");
    let mut request = Request::parse(&text).map_err(Failure::of_input)?;
    let fastest = answer(&Request { objective: Objective::Time, ..request.clone() })?;
    request.constraints.deadline_hours = fastest.best.map(|best| 2.0 * best.seconds / 3600.0);
    let mut seconds = Vec::new();
    let mut feasible = false;
    for _ in 0..rounds {
        let start = Instant::now();
        feasible = answer(&request)?.feasible;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(Timed { types, cards_per_type: cards, feasible, seconds: Spread::of(seconds) })
}

impl Growth {
    fn text(&self) -> String {
        let mut text =
            format!("{}: seconds of a whole plan\n\ntypes  cards of each  seconds (range)\n", self.model);
        text.extend(self.plans.iter().map(|plan| {
            let Spread { median, least, most } = &plan.seconds;
            let note = if plan.feasible { "" } else { ", infeasible" };
            let (types, cards) = (plan.types, plan.cards_per_type);
            format!("{types:>5}  {cards:>13}  {median:.3} ({least:.3} to {most:.3}){note}\n")
        }));
        text
    }

    /// Seconds over cards, both axes logarithmic, with a line for each number of types.
    fn plot(&self) -> String {
        const COLOURS: [&str; 5] = ["#000000", "#1f77b4", "#2ca02c", "#ff7f0e", "#d62728"];
        let x = |cards: u32| 60.0 + 150.0 * (f64::from(cards).log10() - 1.0);
        let y = |seconds: f64| 30.0 + 90.0 * (0.5 - seconds.max(1e-3).log10());
        let mut svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 640 390\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"640\" height=\"390\" fill=\"white\"/>\n"
            .to_owned();
        for (seconds, colour) in [(0.001, "#ddd"), (0.01, "#ddd"), (0.1, "#ddd"), (1.0, "#c40")] {
            let at = y(seconds);
            let _ = writeln!(
                svg,
                "<path d=\"M60 {at:.1}H510\" stroke=\"{colour}\"/>\
                 <text x=\"54\" y=\"{:.1}\" text-anchor=\"end\">{seconds} s</text>",
                at + 4.0
            );
        }
        for cards in CARDS {
            let _ = writeln!(svg, "<text x=\"{}\" y=\"364\" text-anchor=\"middle\">{cards}</text>", x(cards));
        }
        for (types, colour) in (1..=TYPES.len()).zip(COLOURS) {
            let own: Vec<&Timed> = self.plans.iter().filter(|plan| plan.types == types).collect();
            let point =
                |plan: &&Timed| format!("{:.1},{:.1}", x(plan.cards_per_type), y(plan.seconds.median));
            let points: Vec<String> = own.iter().map(point).collect();
            let plural = if types == 1 { "" } else { "s" };
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\
                 <text x=\"530\" y=\"{}\" fill=\"{colour}\">{types} type{plural}</text>",
                points.join(" "),
                60 + 18 * (TYPES.len() - types)
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"285\" y=\"382\" text-anchor=\"middle\">\
             cards of each type; upwards: seconds of a whole plan, {}</text>\n</svg>",
            self.model
        );
        svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plot_has_a_line_for_each_number_of_types_and_stays_in_its_frame() {
        let sizes = (1..=TYPES.len()).flat_map(|types| CARDS.map(|cards| (types, cards)));
        let plan = |(types, cards_per_type): (usize, u32)| Timed {
            types,
            cards_per_type,
            feasible: true,
            seconds: Spread::of(vec![1e-5 * f64::from(cards_per_type) * types as f64]),
        };
        let plot = Growth { model: "toy".into(), plans: sizes.map(plan).collect() }.plot();
        let lines = plot.lines().filter_map(|line| line.strip_prefix("<polyline points=\""));
        let lines: Vec<&str> = lines.filter_map(|line| line.split('"').next()).collect();
        assert_eq!(lines.len(), TYPES.len());
        for point in lines.iter().flat_map(|line| line.split(' ')) {
            let (x, y) = point.split_once(',').unwrap();
            let [x, y] = [x, y].map(|number| number.parse::<f64>().unwrap());
            assert!((60.0..=511.0).contains(&x) && (0.0..=350.0).contains(&y), "{point}");
        }
    }
}
