//! The answer of a plan as text: the best plan, why each other one lost, and what independence costs.

use super::html::time;
use crate::table::{column, table};
use crate::terminal::{amount, bytes, count};
use lingot_plan::answer::{Answer, Plan, Range, Why};

pub fn text(answer: &Answer) -> String {
    let mut text = format!(
        "{}: {} parameters, {} tokens; {}\n\n",
        answer.model,
        count(answer.parameters as f64),
        count(answer.tokens),
        answer.objective
    );
    if let Some(binding) = &answer.binding {
        text +=
            &format!("no fleet does this: {}\nsmallest change: {}\n\n", binding.constraint, binding.change);
    }
    if let Some(best) = &answer.best {
        text += &best_plan(best);
        text += &answer.why.as_ref().map_or_else(String::new, |why| because(why, best));
        text += &others(answer, best);
        text += &independence(answer, best);
        text += &sensitivity(answer, best);
    }
    if !answer.rejected.is_empty() {
        text += "\nruled out\n";
        for row in &answer.rejected {
            text += &format!("  {}: {} ({} against {})\n", row.family, row.reason, row.found, row.limit);
        }
    }
    if !answer.assumptions.is_empty() {
        text += "\nassumptions\n";
        text.extend(answer.assumptions.iter().map(|sentence| format!("  {sentence}\n")));
    }
    text
}

fn best_plan(best: &Plan) -> String {
    let mut text = format!(
        "best           {}\ncost           {}{}\ntime           {}{}, {} tokens/s\nlayout         {}\n",
        best.fleet_words(),
        money(best),
        best.range.map_or_else(String::new, |Range { cost: [least, most], .. }| {
            format!(" ({} to {})", amount(least), amount(most))
        }),
        time(best.seconds),
        best.range.map_or_else(String::new, |Range { seconds: [least, most], .. }| {
            format!(" ({} to {})", time(least), time(most))
        }),
        count(best.tokens_per_s),
        best.layout
    );
    for memory in &best.memory {
        let full: f64 = memory.parts.iter().map(|share| share.amount).sum();
        text += &format!(
            "memory         {} of {} on {}\n",
            bytes(full as u64),
            bytes(memory.has_bytes as u64),
            memory.chip
        );
    }
    text
}

/// Where the time goes, what would save most of it, and what is not in it.
fn because(why: &Why, best: &Plan) -> String {
    let all: f64 = best.time.iter().map(|share| share.amount).sum();
    let parts = best.time.iter().filter(|share| share.amount >= 0.01 * all);
    let parts = parts.map(|share| format!("{} {:.0} %", share.part, 100.0 * share.amount / all));
    let mut text = format!("step           {}\n", parts.collect::<Vec<_>>().join(", "));
    if let Some(change) = &why.change {
        text += &format!("most to gain   {}: {:.0} % of a step\n", change.change, 100.0 * change.saves);
    }
    if !why.unmodelled.is_empty() {
        text += "\nnot modelled\n";
    }
    text.extend(why.unmodelled.iter().map(|sentence| format!("  {sentence}\n")));
    text
}

fn others(answer: &Answer, best: &Plan) -> String {
    let single = answer.single_chip.values().filter(|plan| plan.name != best.name);
    let plans: Vec<&Plan> = single.chain(&answer.next_best).collect();
    if plans.is_empty() {
        return String::new();
    }
    let rows = || plans.iter().copied();
    let columns = [
        column("plan", rows(), |plan| plan.name.clone()),
        column("fleet", rows(), Plan::fleet_words),
        column("cost", rows(), money),
        column("against best", rows(), |plan| {
            format!("{:+.1} %", (plan.cost.amount / best.cost.amount - 1.0) * 100.0)
        }),
        column("time", rows(), |plan| time(plan.seconds)),
    ];
    let why = plans.iter().map(|plan| format!("  {}: {}\n", plan.name, plan.why));
    format!("\n{}\nwhy they lost\n{}", table(&columns), why.collect::<String>())
}

fn independence(answer: &Answer, best: &Plan) -> String {
    if answer.independence.is_empty() {
        return String::new();
    }
    let mut text = "\nthe price of independence\n".to_owned();
    for row in &answer.independence {
        let price = match row.with.zip(row.without) {
            Some((with, without)) => format!(
                "{} {} instead of {} ({:+.1} %)",
                amount(without),
                best.cost.currency,
                amount(with),
                (without / with - 1.0) * 100.0
            ),
            None => "no plan does without it".into(),
        };
        text += &format!("  without {}: {price}\n", row.vendor);
    }
    text
}

fn sensitivity(answer: &Answer, best: &Plan) -> String {
    if answer.sensitivity.is_empty() {
        return String::new();
    }
    let row = |row: &lingot_plan::answer::Sensitivity| match row.then {
        Some(then) => format!(
            "  {}: {} {} ({:+.1} %)\n",
            row.change,
            amount(then),
            best.cost.currency,
            (then / row.with - 1.0) * 100.0
        ),
        None => format!("  {}: no plan is left\n", row.change),
    };
    format!("\nif prices change\n{}", answer.sensitivity.iter().map(row).collect::<String>())
}

fn money(plan: &Plan) -> String {
    format!("{} {}", amount(plan.cost.amount), plan.cost.currency)
}
