//! The report of `lingot plan` as one HTML file that needs nothing else: no script, no font, no picture from
//! elsewhere.

use super::svg::{Axis, Point, bar, escape, plot};
use crate::terminal::{amount, bytes, count};
use lingot_plan::answer::{Answer, Memory, Plan, Share};

const STYLE: &str = include_str!("report.css");

/// Colours of the parts of a bar.
const COLOURS: usize = 7;

/// The whole page.
pub fn page(answer: &Answer) -> String {
    let title = format!("Plan for {}", answer.model);
    let body = [
        heading(answer, &title),
        answer.best.as_ref().map(tiles).unwrap_or_default(),
        pareto(answer),
        answer.best.as_ref().map(breakdown).unwrap_or_default(),
        others(answer),
        independence(answer),
        sensitivity(answer),
        rejected(answer),
        assumptions(answer),
    ];
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{0}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{1}</body>\n</html>\n",
        escape(&title),
        body.concat()
    )
}

/// A time in days, hours or minutes, whichever reads best.
pub fn time(seconds: f64) -> String {
    match seconds {
        _ if seconds >= 2.0 * 86_400.0 => format!("{:.1} days", seconds / 86_400.0),
        _ if seconds >= 7200.0 => format!("{:.1} h", seconds / 3600.0),
        _ if seconds >= 1.0 => crate::terminal::duration(seconds),
        _ => format!("{:.1} ms", seconds * 1e3),
    }
}

fn heading(answer: &Answer, title: &str) -> String {
    let mut html = format!(
        "<h1>{}</h1>\n<p class=\"soft\">{} parameters, {} tokens; {}</p>\n",
        escape(title),
        count(answer.parameters as f64),
        count(answer.tokens),
        escape(&answer.objective)
    );
    if let Some(binding) = &answer.binding {
        html += &format!(
            "<div class=\"card\"><b>No fleet does this.</b><p>{}</p><p>{}</p></div>\n",
            escape(&binding.constraint),
            escape(&binding.change)
        );
    }
    html
}

/// The name of a figure, with its range.
fn ranged(name: &str, range: Option<[String; 2]>) -> String {
    range.map_or(name.to_owned(), |[least, most]| format!("{name}, {least} to {most}"))
}

fn tiles(best: &Plan) -> String {
    let tile = |value: String, name: &str| {
        format!("<div class=\"tile\"><b>{}</b><span>{name}</span></div>\n", escape(&value))
    };
    let tiles = [
        tile(money(best), &ranged("cost", best.range.map(|range| range.cost.map(amount)))),
        tile(time(best.seconds), &ranged("time", best.range.map(|range| range.seconds.map(time)))),
        tile(best.fleet_words(), "fleet"),
        tile(format!("{}/s", count(best.tokens_per_s)), "tokens"),
    ];
    let layout: String = best.layout.split("; ").map(|part| format!("<li>{}</li>\n", escape(part))).collect();
    format!("<div class=\"tiles\">\n{}</div>\n<ul>\n{layout}</ul>\n", tiles.concat())
}

fn pareto(answer: &Answer) -> String {
    let Some(first) = answer.pareto.first() else { return String::new() };
    let best = answer.best.as_ref().map(|best| best.name.as_str());
    let point = |plan: &Plan, class: &'static str| Point {
        x: plan.seconds / 86_400.0,
        y: plan.cost.amount,
        label: plan.name.clone(),
        class: if Some(plan.name.as_str()) == best { "best" } else { class },
    };
    let on_front = |name: &str| answer.pareto.iter().any(|plan| plan.name == name);
    let mut points: Vec<Point> = answer.pareto.iter().map(|plan| point(plan, "front")).collect();
    let others = answer.single_chip.values().chain(&answer.next_best).filter(|plan| !on_front(&plan.name));
    for plan in others {
        if !points.iter().any(|point| point.label == plan.name) {
            points.push(point(plan, "other"));
        }
    }
    let cost = format!("cost, {}", first.cost.currency);
    let x = Axis { title: "time, days", show: &|days| number(days) };
    let y = Axis { title: &cost, show: &|money| if money == 0.0 { "0".into() } else { amount(money) } };
    format!(
        "<h2>Cost against time</h2>\n<div class=\"card\">\n{}</div>\n\
         <p class=\"soft\">Filled: no other plan is both cheaper and faster. \
         Hollow: the best of its kind, and yet beaten. \
         Orange: the answer.</p>\n",
        plot(&points, &x, &y, "Cost against time of the best plans")
    )
}

fn breakdown(best: &Plan) -> String {
    let whole: f64 = best.time.iter().map(|share| share.amount).sum();
    let mut html = format!(
        "<h2>Where a step's time goes</h2>\n<div class=\"card\">\n{}</div>\n",
        stack(&with_few_parts(&best.time, whole), whole, "Time of a step by part", &time)
    );
    html += "<h2>What fills the memory</h2>\n<div class=\"card\">\n";
    for Memory { chip, has_bytes, parts } in &best.memory {
        let full: f64 = parts.iter().map(|share| share.amount).sum();
        let show = |amount: f64| bytes(amount as u64);
        html += &format!(
            "<div>{}: {} of {}</div>\n{}",
            escape(chip),
            show(full),
            show(*has_bytes),
            stack(parts, *has_bytes, &format!("Memory of {chip} by part"), &show)
        );
    }
    html + "</div>\n"
}

/// A bar of parts with its key.
fn stack(parts: &[Share], whole: f64, title: &str, show: &dyn Fn(f64) -> String) -> String {
    let coloured: Vec<(usize, f64)> =
        parts.iter().enumerate().map(|(index, share)| (index % COLOURS, share.amount)).collect();
    let key: String = parts
        .iter()
        .enumerate()
        .map(|(index, share)| {
            format!(
                "<li><i class=\"c{}\"></i>{} {} ({:.0} %)</li>\n",
                index % COLOURS,
                escape(&share.part),
                show(share.amount),
                100.0 * share.amount / whole.max(f64::MIN_POSITIVE)
            )
        })
        .collect();
    format!("{}<ul class=\"key\">\n{key}</ul>\n", bar(&coloured, whole, title))
}

/// Joins the parts below a hundredth of the whole, because a key of many tiny parts hides the large ones.
fn with_few_parts(parts: &[Share], whole: f64) -> Vec<Share> {
    let (mut kept, tiny): (Vec<Share>, Vec<Share>) =
        parts.iter().cloned().partition(|share| share.amount >= 0.01 * whole);
    let amount: f64 = tiny.iter().map(|share| share.amount).sum();
    if amount > 0.0 {
        kept.push(Share { part: "all else".into(), amount });
    }
    kept
}

fn others(answer: &Answer) -> String {
    let Some(best) = &answer.best else { return String::new() };
    let row = |plan: &Plan| {
        vec![
            plan.name.clone(),
            plan.fleet_words(),
            money(plan),
            format!("{:+.1} %", (plan.cost.amount / best.cost.amount - 1.0) * 100.0),
            time(plan.seconds),
            plan.why.clone(),
        ]
    };
    let single = answer.single_chip.values().filter(|plan| plan.name != best.name);
    let rows: Vec<Vec<String>> = single.chain(&answer.next_best).map(row).collect();
    let names = ["plan", "fleet", "#cost", "#against the best", "#time", "why it lost"];
    section("Why not the others", &names, &rows)
}

fn independence(answer: &Answer) -> String {
    let currency = answer.best.as_ref().map(|best| best.cost.currency.clone()).unwrap_or_default();
    let show = |money: Option<f64>| {
        money.map_or_else(|| "no plan".into(), |money| format!("{} {currency}", amount(money)))
    };
    let rows: Vec<Vec<String>> = answer
        .independence
        .iter()
        .map(|row| {
            let price = row.with.zip(row.without).map(|(with, without)| (without / with - 1.0) * 100.0);
            let price = price.map_or_else(|| "cannot do without".into(), |price| format!("{price:+.1} %"));
            vec![row.vendor.clone(), show(row.with), show(row.without), price]
        })
        .collect();
    section("The price of independence", &["vendor", "#with", "#without", "#price"], &rows)
}

fn sensitivity(answer: &Answer) -> String {
    let currency = answer.best.as_ref().map(|best| best.cost.currency.clone()).unwrap_or_default();
    let row = |row: &lingot_plan::answer::Sensitivity| {
        let then = row.then.map_or_else(|| "no plan".into(), |then| format!("{} {currency}", amount(then)));
        let change = row.then.map(|then| format!("{:+.1} %", (then / row.with - 1.0) * 100.0));
        vec![row.change.clone(), then, change.unwrap_or_default()]
    };
    let rows: Vec<Vec<String>> = answer.sensitivity.iter().map(row).collect();
    section("If prices change", &["change", "#best plan then", "#against now"], &rows)
}

fn rejected(answer: &Answer) -> String {
    let row = |row: &lingot_plan::answer::Rejected| {
        vec![row.family.clone(), row.reason.clone(), row.found.clone(), row.limit.clone()]
    };
    let rows: Vec<Vec<String>> = answer.rejected.iter().map(row).collect();
    section("Ruled out", &["family", "reason", "#found", "#limit"], &rows)
}

fn assumptions(answer: &Answer) -> String {
    let items: String =
        answer.assumptions.iter().map(|sentence| format!("<li>{}</li>\n", escape(sentence))).collect();
    if items.is_empty() { items } else { format!("<h2>Assumptions</h2>\n<ul>\n{items}</ul>\n") }
}

/// A heading and a table, or nothing if there are no rows. A title that begins with `#` marks a column of
/// numbers.
fn section(title: &str, names: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let class = |name: &str| if name.starts_with('#') { " class=\"n\"" } else { "" };
    let plain = |name: &str| escape(name.trim_start_matches('#'));
    let head: String = names.iter().map(|name| format!("<th{}>{}</th>", class(name), plain(name))).collect();
    let line = |row: &Vec<String>| {
        let cells = names.iter().zip(row).map(|(name, cell)| {
            format!("<td{} data-name=\"{}\"><span>{}</span></td>", class(name), plain(name), escape(cell))
        });
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    };
    let body: String = rows.iter().map(line).collect();
    format!(
        "<h2>{}</h2>\n<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n",
        escape(title)
    )
}

fn money(plan: &Plan) -> String {
    format!("{} {}", amount(plan.cost.amount), plan.cost.currency)
}

/// A number without trailing zeros.
fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
